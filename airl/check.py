"""What this machine can do, and whether it does it right: run it first on new hardware, paste it when something is odd.

    python -m airl.check                # half a minute; nothing is downloaded
    python -m airl.check --download     # and the released models (CLIPSeg 0.6 GB, SAM 2.6 GB) on a portrait

A line a check, with its verdict; "WRONG" means that results made here cannot be trusted, or that something is missing.
In a notebook: `from airl import check; check.main()`.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import platform
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from airl import runtime
from airl.runtime import Runtime

PACKAGES = ("torch", "torchvision", "transformers", "segment-anything", "numpy", "opencv-python", "matplotlib")

# Largest difference from the CPU in fp32, as a share of the largest logit. fp32 may be TF32 on CUDA, whose mantissa has
# 10 bits, as fp16's; bf16's has 7, so a rounding is up to 0.4%, and tens of layers add theirs.
LOGITS = {"fp32": 0.01, "fp16": 0.02, "bf16": 0.08}
MASKS = {"fp32": 0.95, "fp16": 0.9, "bf16": 0.85}  # least IoU with the CPU's masks in fp32

Answer = tuple[bool | None, str]  # the verdict, None where there is nothing to judge, and what is to be said


def main(download: bool = False, device: str = "auto") -> int:
    """Print a line for each check; 0 if nothing is wrong, else 1, which is the command's exit status.

    download: also get the released models and try them on a portrait. device: see `runtime.choose`.
    """
    here = runtime.choose(device)
    checks: dict[str, Callable[[], Answer]] = {"versions": versions, "device": lambda: hardware(here)}
    from airl import vit

    for name in vit.RECIPES:
        checks[f"training, recipe {name}"] = lambda name=name: training(here, name)
    for precision in dict.fromkeys(("fp32", here.precision)):
        there = Runtime(here.device, precision)
        checks[f"a ViT's logits, {precision}"] = lambda there=there: logits(there)
        checks[f"text to mask, {precision}"] = lambda there=there: segmentation(there)
        checks[f"tracking, {precision}"] = lambda there=there: tracking(there)
    checks["released models"] = released
    if download:
        checks["released models on a portrait"] = lambda: portrait(here)

    wrong = 0
    for name, check in checks.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
                good, text = check()
        except Exception as error:
            good, text = False, f"{type(error).__name__}: {' '.join(str(error).split())}"
        verdict = "--" if good is None else "ok" if good else "WRONG"
        wrong += verdict == "WRONG"
        print(f"{verdict:6}{name}: {text}", flush=True)
    print(f"{wrong} of {len(checks)} checks are WRONG" if wrong else "nothing is wrong")
    return 1 if wrong else 0


def versions() -> Answer:
    from airl import __version__

    found, missing = {}, []
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    text = ", ".join(f"{name} {number}" for name, number in {"airl": __version__, **found}.items())
    if "opencv-python" in missing and importlib.util.find_spec("cv2"):  # opencv-python-headless holds it too
        missing.remove("opencv-python")
    lack = f"; not installed: {', '.join(missing)}" if missing else ""
    return not missing, f"Python {platform.python_version()}, {text}{lack}"


def hardware(here: Runtime) -> Answer:
    if here.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(here.device)
        why = "from compute capability 8.0 up" if here.precision == "bf16" else "bf16 needs compute capability 8.0"
        return True, f"{here} ({why}), CUDA {torch.version.cuda}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    why = "the CPU has instructions for it" if here.precision == "bf16" else "the CPU has no instructions for bf16"
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        return False, f"{here}, though nvidia-smi is here: torch {torch.__version__} sees no GPU; install one for CUDA"
    return True, f"{here} ({why}); no CUDA GPU"


def training(here: Runtime, name: str) -> Answer:
    """A few steps on one batch, again and again: the loss has to fall."""
    from airl import vit
    from airl.distributed import Group
    from airl.scenes import shapes
    from airl.vit.run import Run

    cuda = here.device.type == "cuda"
    batch, steps, warm_up = (vit.RECIPES[name].batch_size, 40, 10) if cuda else (16, 6, 2)
    changes = dict(batch_size=batch, epochs=1000, warmup=0.0)  # at the peak learning rate, far from the end
    config = replace(vit.RECIPES[name], compile=False, precision=here.precision, **changes)
    images, labels = shapes.classification(batch)
    split = vit.Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))
    run = Run(
        vit.ViT(vit.MODELS[name]), vit.Dataset("shapes", split, split, list(shapes.CLASSES)), config, here, Group()
    )
    run.network.train()
    if cuda:
        torch.cuda.reset_peak_memory_stats(here.device)
    ((_, ((x, y, count),)),) = run.chunks(mixed=False)
    losses = []
    for step in range(steps):
        if step == warm_up:
            losses[-1].item()  # waits for the device
            start = time.perf_counter()
        losses.append(run.step(x, y, count)[0])
    first, last = losses[0].item() / count, losses[-1].item() / count
    rate = (steps - warm_up) * count / (time.perf_counter() - start)
    memory = f", peak {torch.cuda.max_memory_allocated(here.device) / 2**20:,.0f} MiB" if cuda else ""
    return last < first, (
        f"{rate:,.0f} images/s in {here.precision}, batch {count}{memory}; loss {first:.2f} to {last:.2f} in {steps}"
    )


def logits(there: Runtime) -> Answer:
    """Random models of both kinds of stem, on the device and on the CPU in fp32."""
    from airl import vit
    from airl.scenes import shapes
    from airl.vit.evaluation import predict_logits

    images = torch.from_numpy(shapes.classification(16)[0]).permute(0, 3, 1, 2)
    worst = 0.0
    for name in ("assignment", "best"):
        torch.manual_seed(0)
        model = vit.ViT(vit.MODELS[name])
        expected = predict_logits(model, images, precision="fp32")
        given = predict_logits(model.to(there.device), images, precision=there.precision)
        difference = ((given - expected).abs().max() / expected.abs().max()).item()
        worst = max(worst, difference) if np.isfinite(difference) else float("inf")
    bound = LOGITS[there.precision]
    return worst <= bound, f"off the CPU's in fp32 by {worst:.2%} of the largest; the bound is {bound:.0%}"


def segmentation(there: Runtime) -> Answer:
    """The embedded models on a few scenes, on the device and on the CPU in fp32."""
    from airl import seg
    from airl.scenes import shapes
    from airl.seg.metrics import iou

    device, cpu = (
        seg.TextSegmenter.tiny("best", device=str(where.device), precision=where.precision)
        for where in (there, Runtime(torch.device("cpu"), "fp32"))
    )
    scenes = [shapes.scene(number, (96, 96), kind) for number, kind in enumerate(("convex", "several", "absent"))]
    pairs = [(device(scene.image, scene.prompt), cpu(scene.image, scene.prompt)) for scene in scenes]
    least = min(iou(one.mask, other.mask) if other.found else 1.0 for one, other in pairs)
    presence = all(one.found == other.found for one, other in pairs)
    bound = MASKS[there.precision]
    return presence and least >= bound, (
        f"IoU of at least {least:.3f} with the CPU's masks in fp32; the bound is {bound}; presence "
        f"{'the same' if presence else 'NOT the same'} in {len(pairs)} scenes"
    )


def tracking(there: Runtime) -> Answer:
    """The embedded models on a short clip, on the device and on the CPU in fp32."""
    from airl.scenes import clips
    from airl.seg.metrics import iou
    from airl.seg.video import VideoTracker

    clip = clips.clip(3, 6, (64, 72), "moving")
    one, other = (
        VideoTracker.tiny(str(where.device), where.precision).track(clip.render()[0], clip.prompt, progress=False)
        for where in (there, Runtime(torch.device("cpu"), "fp32"))
    )
    least = min(iou(one.mask(t), other.mask(t)) if other.mask(t).any() else 1.0 for t in range(len(other)))
    bound = MASKS[there.precision]
    return len(one.tracks) == len(other.tracks) and least >= bound, (
        f"IoU of at least {least:.3f} with the CPU's masks in fp32 in {len(other)} frames; the bound is {bound}; "
        f"{len(one.tracks)} tracks, the CPU {len(other.tracks)}"
    )


def released() -> Answer:
    """Whether the assignment's models are on this machine, or could be downloaded. Their absence is no fault."""
    from huggingface_hub import try_to_load_from_cache

    from airl.seg import weights

    sam = weights.SAM["vit_h"]
    folders = (Path.cwd(), Path(torch.hub.get_dir()) / "checkpoints")
    files = [folder / sam.file for folder in folders if (folder / sam.file).is_file()]
    said = []
    for name, is_here, address in (
        (f"CLIPSeg {weights.CLIPSEG}", bool(try_to_load_from_cache(weights.CLIPSEG, "config.json")),
         f"https://huggingface.co/{weights.CLIPSEG}/resolve/main/config.json"),
        (f"SAM {sam.file}", any(file.stat().st_size == sam.size for file in files), sam.urls[0]),
    ):  # fmt: skip
        host = address.split("/")[2]
        where = "is here" if is_here else f"can be had from {host}" if _answers(address) else f"{host} does not answer"
        said.append(f"{name}: {where}")
    return None, "; ".join(said)


def _answers(address: str) -> bool:
    request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "airl"})
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except (OSError, ValueError):
        return False


def portrait(here: Runtime) -> Answer:
    """The assignment's pipeline, as released, on the portrait that matplotlib ships: a person fills much of it.

    The bounds are wide enough for SAM to take the coat for the person, and were set by looking at the picture.
    """
    from matplotlib.cbook import get_sample_data

    from airl import seg

    segmenter = seg.TextSegmenter.from_pretrained("vit_h", device=str(here.device), precision=here.precision)
    person, elephant = segmenter(
        Path(get_sample_data("grace_hopper.jpg", asfileobj=False)), ["a person", "an elephant"]
    )
    area = person.mask.mean()
    good = person.peak >= 0.7 and 0.1 <= area <= 0.9 and person.score >= 0.7 and not elephant.found
    return good, (
        f"a person: peak {person.peak:.2f} (at least 0.7), {area:.0%} of the picture (10 to 90%), SAM's score "
        f"{person.score:.2f} (at least 0.7); an elephant: peak {elephant.peak:.2f}, "
        f"{'found, though there is none' if elephant.found else 'refused'}"
    )


def _command_line() -> int:
    parser = argparse.ArgumentParser(prog="python -m airl.check", description=__doc__.splitlines()[0])
    parser.add_argument("--download", action="store_true", help="get the released models and try them on a portrait")
    parser.add_argument("--device", default="auto", help="'auto', 'cpu', 'cuda' or 'cuda:N'")
    arguments = parser.parse_args()
    try:
        return main(arguments.download, arguments.device)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(_command_line())
