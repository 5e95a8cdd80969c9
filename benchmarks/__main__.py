"""Measure everything by one command, most important first, in the minutes there are.

    python -m benchmarks --device cuda --minutes 25
    python -m benchmarks --device cpu --minutes 25        # a shorter list: no training for 200 epochs

Each piece runs as a command of its own, which is printed, and writes its figures to benchmarks/results/ as it ends. A
piece that does not fit the minutes left is not started; training is, and goes on in the next call. What has ended is
noted in `--out` and not run again: call again until all is done. `--data` is cifar10 or an image folder.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from airl import runtime


class Piece(NamedTuple):
    name: str
    minutes: float  # roughly what it takes, of training what is worth a start: it is not started with fewer left
    commands: list[list[str]]  # what follows `python -m`, one after the other


def training(recipe: str, data: str, device: str, out: Path, *more: str) -> Piece:
    on, run = ["--data", data, "--device", device], str(out / recipe)
    train = ["airl.vit", "train", "--recipe", recipe, "--out", run, "--resume", *on, *more]
    return Piece(recipe, 2, [train, ["benchmarks.trained", run, *on]])


def pieces(device: str, data: str, out: Path, smoke: bool) -> list[Piece]:
    on = ["--device", device]
    if smoke:
        return [
            training("quick", data, device, out, "--epochs", "1"),
            Piece("input_pipeline", 0, [["benchmarks.input_pipeline", *on, "--images", "256", "--repeats", "1"]]),
        ]
    gpu = device != "cpu"
    fewer = [] if gpu else ["--cases", "1x1", "1x5", "--repeats", "1"]
    measured = [
        Piece("train_step", 5 if gpu else 8, [["benchmarks.train_step", *on]]),
        Piece("input_pipeline", 2, [["benchmarks.input_pipeline", *on]]),
        Piece("segmentation", 8, [["benchmarks.segmentation", *on, *fewer]]),
        Piece("scaling", 4 if gpu else 8, [["benchmarks.scaling", *on]]),
    ]
    return [*(training(recipe, data, device, out) for recipe in ("assignment", "best") if gpu), *measured]


def run(command: list[str], seconds: float) -> int | None:
    """Run `python -m COMMAND` -> its exit status, or None if it was interrupted for want of time."""
    print(f"\n$ python -m {' '.join(command)}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", *command], start_new_session=True)
    try:
        return process.wait(max(0, seconds))
    except subprocess.TimeoutExpired:
        return None
    finally:  # out of time, or Ctrl-C: with all processes that it started
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def measure(pieces: list[Piece], minutes: float, out: Path) -> dict[str, str]:
    """Run the pieces that are not done, in order, for so many minutes -> how each went."""
    out.mkdir(parents=True, exist_ok=True)
    deadline, outcome = time.monotonic() + 60 * minutes, {}
    for piece in pieces:
        done, left = out / f"{piece.name}.done", (deadline - time.monotonic()) / 60
        if done.exists():
            outcome[piece.name] = "done before"
        elif left < piece.minutes:
            outcome[piece.name] = f"not started: it takes about {piece.minutes:g} minutes"
        else:
            for command in piece.commands:
                status = run(command, deadline - time.monotonic())
                if status != 0:
                    break
            if status == 0:
                done.touch()
            outcome[piece.name] = {0: "done", None: "out of time"}.get(status, f"failed with status {status}")
    return outcome


def main(arguments: list[str] | None = None) -> int:
    """Return 0 when all is done, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--data", help="to train on: cifar10 (default), or an image folder")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="for the runs and what is done")
    parser.add_argument(
        "--smoke", action="store_true", help="small sizes, on drawn shapes by default, to see that it works"
    )
    args = parser.parse_args(arguments)
    device = runtime.choose(args.device).device.type
    data = args.data or ("shapes" if args.smoke else "cifar10")
    outcome = measure(pieces(device, data, args.out, args.smoke), args.minutes, args.out)
    print()
    for name, how in outcome.items():
        print(f"{name:16} {how}")
    return int(any(not how.startswith("done") for how in outcome.values()))


if __name__ == "__main__":
    sys.exit(main())
