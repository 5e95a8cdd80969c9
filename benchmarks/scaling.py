"""Images per second of training by batch size, by the model's width and by processes under torchrun, as a plot.

    python -m benchmarks.scaling [--device cpu] [--figure docs/figures/scaling.png]

Batch size and width: a full step of the assignment's model, the mean over two seconds after a first one.
Processes: one epoch of recipe "assignment" on the drawn shapes under torchrun. They share the batch of 128 and, on a
CPU, its cores: more processes mean fewer threads each.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure

from airl import runtime
from airl.files import atomic_write
from airl.vit import ViT, ViTConfig
from benchmarks.report import publish
from benchmarks.train_step import seconds_of, step_of

BATCHES = (32, 64, 128, 256, 512, 1024)
WIDTHS = (64, 128, 256, 512)


def rate(config: ViTConfig, batch: int, here: runtime.Runtime) -> float:
    """Images per second of one full step."""
    return batch / seconds_of(step_of(ViT(config), here, batch, compiled=False), here, at_least=2.0)


def torchrun_rate(processes: int, device: str) -> float:
    """Images per second of an epoch on the drawn shapes, by all processes together."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command += ["-m", "airl.vit", "train", "--data", "shapes", "--recipe", "assignment", "--epochs", "1"]
        subprocess.run(
            [*command, "--device", device, "--out", folder],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with open(Path(folder) / "history.csv", newline="") as file:
            return float(next(csv.DictReader(file))["images_per_second"])


def plot(curves: dict[str, dict[int, float]], here: runtime.Runtime, path: Path) -> None:
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    figure.suptitle(f"Training the assignment's ViT on {here}", fontsize=10)
    for axes, (name, curve) in zip(figure.subplots(1, 3), curves.items(), strict=True):
        axes.plot(list(curve), list(curve.values()), "o-")
        for value, images in curve.items():
            axes.annotate(f"{images:,.0f}", (value, images), xytext=(0, 6), textcoords="offset points", ha="center")
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(curve), [f"{value:,}" for value in curve])
        axes.margins(x=0.12)
        axes.set_ylim(0, 1.2 * max(curve.values()))
        axes.set_xlabel(name)
        axes.set_ylabel("images/s")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    here = runtime.choose(args.device)
    most = torch.cuda.device_count() if here.device.type == "cuda" else os.cpu_count() or 1
    model = ViTConfig()
    curves = {
        "batch size": {batch: rate(model, batch, here) for batch in BATCHES},
        "width, at batch 128": {width: rate(replace(model, dim=width), 128, here) for width in WIDTHS},
        "processes, batch 128 shared": {
            n: torchrun_rate(n, here.device.type) for n in (1, 2, 4, 8) if n <= most
        },
    }  # fmt: skip
    rows = [
        {"by": name, "at": value, "images/s": round(images)}
        for name, curve in curves.items()
        for value, images in curve.items()
    ]
    publish("scaling", rows, data="random images; processes: drawn shapes", device=args.device)
    if args.figure:
        plot(curves, here, args.figure)


if __name__ == "__main__":
    main()
