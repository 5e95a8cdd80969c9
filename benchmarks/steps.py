"""What a training step of each recipe costs: the kernels it launches, and processor time.

    python -m benchmarks.steps [--recipes best fast] [--rounds 3] [--before OTHER_CLONE]

Every step is one of `vit.train`'s own, on one thread of the CPU in bf16, on random images that are not augmented, so
that a step is all there is; its time is the processor's, not the clock's, which a busy machine stretches. The host's
share is measured on a model of width 16 with batches of 2, whose kernels have next to nothing to compute. With
`--before` the recipes of another clone take turns with these.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[1]
FREE = ("view", "aten.t.", "transpose", "permute", "expand", "slice", "select", "squeeze", "detach", "alias", "unbind",
        "split", "as_strided", "_local_scalar", "lift_fresh", "empty", "profiler")  # fmt: skip


class Kernels(TorchDispatchMode):
    """Counts the operations that do something to numbers."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not any(name in str(func) for name in FREE)
        return func(*args, **(kwargs or {}))


def measure(recipe: str) -> dict[str, float]:
    """Of the airl that Python finds: kernels, the host's milliseconds and the full model's milliseconds of a step."""
    from airl import vit

    torch.set_num_threads(1)
    ends, step = [], torch.optim.AdamW.step

    def note_end(optimizer, *args, **kwargs):
        result = step(optimizer, *args, **kwargs)
        ends.append((time.process_time(), kernels.count if kernels else 0))
        return result

    torch.optim.AdamW.step = note_end
    found = {}
    for name, steps, batch, shape in (("host", 30, 2, dict(dim=16, heads=2)), ("full", 5, None, {})):
        for kernels in (Kernels(), None) if name == "host" else (None,):
            config = vit.RECIPES[recipe]
            config = replace(
                config, epochs=1, batch_size=batch or config.batch_size, mix_until=1.0, precision="bf16",
                crop_padding=0, flip=False, auto_augment=False,
            )  # fmt: skip
            count = steps * config.batch_size
            images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
            splits = (vit.Split(images[:n], torch.arange(n) % 10) for n in (count, 2))
            data = vit.Dataset("random", *splits, [str(i) for i in range(10)])
            model = vit.ViT(replace(vit.MODELS[recipe], image_size=32, **shape))
            ends.clear()
            quiet = io.StringIO()
            with contextlib.ExitStack() as stack:
                out = stack.enter_context(tempfile.TemporaryDirectory())
                stack.enter_context(contextlib.redirect_stdout(quiet))
                stack.enter_context(contextlib.redirect_stderr(quiet))
                stack.enter_context(kernels or contextlib.nullcontext())
                vit.train(model, data, config, out, device="cpu")
            steps_of = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(ends[1:], ends[2:], strict=False)]
            if kernels:
                found["kernels"] = statistics.median(n for _, n in steps_of)
            else:
                found[name] = 1e3 * min(seconds for seconds, _ in steps_of)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["assignment", "quick", "best", "fast"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path, help="another clone of this repository")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return print(json.dumps(measure(args.measure)))

    from benchmarks.report import publish

    clones = {"before": args.before, "now": ROOT} if args.before else {"now": ROOT}
    rows, note = [], "Processor time on one thread in bf16, of the fastest step."
    for recipe in args.recipes:
        found = {which: [] for which in clones}
        for _ in range(args.rounds):
            for which, clone in clones.items():
                command = [sys.executable, __file__, "--measure", recipe]
                env = os.environ | {"PYTHONPATH": str(clone.resolve()), "OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, cwd=clone, env=env, check=True, capture_output=True, text=True)
                found[which].append(json.loads(done.stdout))
        for which, measured in found.items():
            best = {name: min(one[name] for one in measured) for name in measured[0]}
            rows.append(
                {
                    "recipe": recipe,
                    "code": which,
                    "kernels a step": round(best["kernels"]),
                    "host, ms": round(best["host"], 1),
                    "step, ms": round(best["full"]),
                }
            )
    if args.before:
        git = ["git", "-C", str(args.before), "rev-parse", "--short=7", "HEAD"]
        note += f" Before: commit {subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()}."
    publish("steps", rows, data="random images", note=note, device="cpu")


if __name__ == "__main__":
    main()
