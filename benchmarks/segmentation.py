"""Seconds and peak memory of text to mask with full-size models: several prompts on a photo, several photos.

    python -m benchmarks.segmentation [--sam vit_b] [--device cuda] [--repeats 3] [--cases 1x1 1x5]

Three ways, CLIPSeg rd64 and a SAM of the same shapes in all:
- AIRL: `TextSegmenter`, at the precision it chooses for the hardware;
- one look per photo: what a careful user writes with `SamPredictor`: its `set_image` once for all prompts, both vision
  towers at the same precision as AIRL; transformers' CLIPSeg takes a picture and a prompt together;
- one run per prompt: as tutorials have it, in fp32: for each prompt CLIPSeg's forward pass, threshold, center of mass,
  then `set_image` and `predict`.
The weights are random, so the masks mean nothing; the work is that of the released weights. The threshold is 0, so that
SAM is asked for every prompt. Every measurement has a process of its own, in which the models are loaded and run once
before the clock starts; the ways take turns. A case is so many photos x so many prompts. One photo with 1 or 5 prompts
is measured `--repeats` times, of which the table has the medians; 20 of either take minutes and are measured once.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from functools import partial

import numpy as np
import torch

from airl import runtime
from airl.scenes import shapes
from airl.seg import Recipe, TextSegmenter
from airl.seg.clipseg import ClipSeg
from airl.seg.sam import CONFIGS, SegmentAnything, build_sam
from benchmarks.report import publish

CASES = ["1x1", "1x5", "1x20", "20x1"]  # photos x prompts
PREPROCESSING = {"size": 352, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 2}


def tokenize(prompts: list[str], **_) -> dict[str, torch.Tensor]:
    """Stands in for CLIP's tokenizer, whose vocabulary is a download: start, two words, end."""
    ids = torch.tensor([[49406, 320, 1000 + i, 49407] for i in range(len(prompts))])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def airl(clipseg, sam, where: runtime.Runtime):
    recipe = Recipe(threshold=0.0, floor=0.0)
    segmenter = TextSegmenter(ClipSeg(clipseg, tokenize, PREPROCESSING, where), SegmentAnything(sam, where), recipe)
    return lambda photo, prompts: [one.mask for one in segmenter(photo, prompts)]


def straightforward(clipseg, sam, where: runtime.Runtime, look_once: bool = False):
    from segment_anything import SamPredictor
    from transformers import ViTImageProcessor

    device = where.device
    processor = ViTImageProcessor(size={"height": 352, "width": 352}, resample=2)
    clipseg, predictor = clipseg.to(device).eval(), SamPredictor(sam.to(device).eval())

    def look(photo):
        with where.autocast():
            predictor.set_image(photo)
        predictor.features = predictor.features.float()  # what follows is small, and its results are NumPy's

    @torch.no_grad()
    def run(photo, prompts):
        H, W = photo.shape[:2]
        masks = []
        for prompt in prompts:
            pixels = processor(photo, return_tensors="pt")["pixel_values"].to(device)
            text = {name: value.to(device) for name, value in tokenize([prompt]).items()}
            with where.autocast():
                logits = clipseg(pixel_values=pixels, **text).logits.reshape(1, 1, 352, 352).float()
            heatmap = torch.nn.functional.interpolate(logits.sigmoid(), (H, W), mode="bilinear")[0, 0].cpu().numpy()
            y, x = np.argwhere(heatmap > 0).mean(0)
            if not (masks and look_once):
                look(photo)
            found, scores, _ = predictor.predict(np.array([[x, y]]), np.array([1]))
            masks.append(found[scores.argmax()])
        return masks

    return run


WAYS = {  # name: how it is built, its precision
    "AIRL": (airl, "auto"),
    "one look per photo": (partial(straightforward, look_once=True), "auto"),
    "one run per prompt": (straightforward, "fp32"),
}


def build(way: str, sam: str, device: str):
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    torch.manual_seed(0)
    make, precision = WAYS[way]
    where = runtime.choose(device, precision)
    config = CLIPSegConfig(vision_config={"patch_size": 16}, reduce_dim=64, use_complex_transposed_convolution=True)
    clipseg = CLIPSegForImageSegmentation(config)
    return make(clipseg, build_sam(CONFIGS[sam]).eval(), where), where


def seconds_of(run, photos: int, prompts: int) -> float:
    pictures = [shapes.scene(seed, (800, 1200)).image for seed in range(photos)]
    words = [f"prompt {i}" for i in range(prompts)]
    start = time.perf_counter()
    for picture in pictures:
        assert len(run(picture, words)) == prompts  # the masks are on the CPU by then
    return time.perf_counter() - start


def measure(way: str, sam: str, device: str, photos: int, prompts: int) -> tuple[float, float]:
    """Seconds, and peak memory in MiB (of the process on a CPU, of the tensors on a GPU)."""
    run, where = build(way, sam, device)
    seconds_of(run, 1, 1)
    on_gpu = where.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(run, photos, prompts)
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return seconds, peak / 2**20


def five_over_one(sam: str, device: str, repeats: int) -> float:
    """What five prompts cost, in the cost of one: the two take turns in one process."""
    run, _ = build("AIRL", sam, device)
    seconds_of(run, 1, 1)
    turns = [(seconds_of(run, 1, 1), seconds_of(run, 1, 5)) for _ in range(repeats)]
    one, five = (statistics.median(times) for times in zip(*turns, strict=True))
    return five / one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sam", choices=CONFIGS, default="vit_b")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="PHOTOSxPROMPTS", help=f"of {' '.join(CASES)}")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, help="beside AIRL")
    args = parser.parse_args()
    where = runtime.choose(args.device)
    ways = dict.fromkeys(["AIRL", *args.ways])
    data = f"photos of 1200x800; full-size CLIPSeg rd64 and SAM {args.sam} with random weights"
    note = f"{where.precision}, one run per prompt in fp32; medians of {args.repeats}, the cases of 20 ran once."
    spawn = multiprocessing.get_context("spawn")
    rows = []
    for case in args.cases:
        photos, prompts = map(int, case.split("x"))
        measured = {way: [] for way in ways}
        for _ in range(args.repeats if photos * prompts < 20 else 1):
            for way, results in measured.items():
                with spawn.Pool(1) as pool:
                    results.append(pool.apply(measure, (way, args.sam, args.device, photos, prompts)))
        row = {"photos": photos, "prompts": prompts}
        row |= {f"{way}, s": round(statistics.median(s for s, _ in measured[way]), 1) for way in ways}
        for way in list(ways)[1:]:
            turns = zip(measured["AIRL"], measured[way], strict=True)
            row[f"AIRL is faster than {way} by"] = round(statistics.median(b[0] / a[0] for a, b in turns), 2)
        row |= {f"{way}, peak MiB": round(statistics.median(p for _, p in measured[way])) for way in ways}
        rows.append(row)
        publish("segmentation", rows, data=data, note=note, device=args.device)
    with spawn.Pool(1) as pool:
        ratio = pool.apply(five_over_one, (args.sam, args.device, args.repeats))
    note += f" In turns in one process, five prompts cost AIRL {ratio:.2f} times one."
    publish("segmentation", rows, data=data, note=note, device=args.device)


if __name__ == "__main__":
    main()
