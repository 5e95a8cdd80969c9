"""Train a ViT: the data set lives on the device, a run resumes where it was killed (run.py holds its steps).

One process uses one device. Under `torchrun` the same loop runs in every process, each on its share of the batch:

    python -m airl.vit train --data cifar10 --recipe assignment --out runs/q1
    torchrun --nproc_per_node 4 -m airl.vit train --data cifar10 --recipe assignment --out runs/q1
"""

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from airl import distributed
from airl.distributed import Group
from airl.files import atomic_write
from airl.runtime import choose as choose_runtime
from airl.vit.checkpoint import load_checkpoint, require_same_settings, require_writable, save_checkpoint
from airl.vit.data import Dataset
from airl.vit.model import ViT
from airl.vit.recipes import TrainConfig
from airl.vit.run import Run

SECONDS_BETWEEN_CHECKPOINTS = 30.0  # each is three times the weights, and a mounted drive keeps every version


@dataclass(repr=False)
class TrainResult:
    """A trained model, in eval mode, and how it got there.

    `history` has one row an epoch: epoch (from 1), lr, train_loss and train_accuracy (on the augmented images, as
    they were seen), test_loss, test_accuracy, images_per_second (training alone), seconds (all that passed since the
    row before: with evaluation, saving and drawing, and in the first row with compilation).
    """

    model: ViT
    config: TrainConfig
    history: list[dict[str, float]]
    out_dir: Path
    hardware: str
    data: str

    @property
    def accuracy(self) -> float:
        """The last epoch's test accuracy in [0, 1]: the result. No choice was made by looking at the test images."""
        return self.history[-1]["test_accuracy"]

    @property
    def best_epoch_accuracy(self) -> float:
        """The best epoch's test accuracy in [0, 1]: picked on the test images, so it flatters."""
        return max(row["test_accuracy"] for row in self.history)

    @property
    def seconds(self) -> float:
        """Wall time from the start to the last epoch's evaluation."""
        return sum(row["seconds"] for row in self.history)

    def __repr__(self) -> str:
        epochs = f"{len(self.history)} epochs of {self.data} to {self.accuracy:.2%}"
        return f"TrainResult({self.config.name}: {epochs}, in {self.out_dir})"

    def table(self) -> str:
        """The run as the README's results table, in Markdown: its header and one row."""
        rate = sorted(row["images_per_second"] for row in self.history)[len(self.history) // 2]
        cells = {
            "recipe": self.config.name,
            "data": self.data,
            "parameters": f"{self.model.num_parameters / 1e6:.1f} M",
            "epochs": len(self.history),
            "test accuracy, last epoch": f"{self.accuracy:.2%}",
            "best epoch": f"{self.best_epoch_accuracy:.2%}",
            "time": f"{self.seconds / 60:.1f} min",
            "training images/s": f"{rate:,.0f}",
            "hardware": self.hardware,
            "date": time.strftime("%Y-%m-%d"),
        }
        rows = [cells.keys(), ["---"] * len(cells), map(str, cells.values())]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def train(
    model: ViT,
    data: Dataset,
    config: TrainConfig,
    out_dir: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    on_epoch: Callable[[list[dict[str, float]]], None] | None = None,
) -> TrainResult:
    """Train the model on all of `data.train`, scoring it on `data.test` after each epoch.

    Writes to `out_dir`: checkpoint.pt, and history.csv beside it, after the first epoch, after the last one, and
    between them when the last time is half a minute ago; and at the end model/, which `ViT.from_pretrained` reads.
    `on_epoch` is called with the history after each time. With `resume` a run that was stopped at any moment goes on
    from its last checkpoint to the weights it would have had (bit for bit on a CPU); without it, a checkpoint in
    `out_dir` is refused. Torch's global random numbers are seeded with the recipe's seed. Under torchrun every process
    must see the same `out_dir`.

    Raises ValueError for data that do not fit the model or the batch and for a checkpoint that is damaged or of other
    settings, FileExistsError for a checkpoint in the way, TrainingDiverged for a loss that is not finite, OSError
    when `out_dir` cannot be written to; the last good checkpoint stays in every case.
    """
    runtime = choose_runtime(device, config.precision)
    group = distributed.join(runtime.device)
    _require_fit(model, data, config, group)
    out_dir = Path(out_dir).expanduser()
    checkpoint = out_dir / "checkpoint.pt"
    started_before = checkpoint.exists()
    if len(set(group.gather(started_before))) > 1:
        raise ValueError(f"only some processes see {checkpoint}; out_dir must be one folder that all machines share")
    if started_before and not resume:
        raise FileExistsError(f"{checkpoint} holds another run; pass resume=True to go on with it, or another out_dir")
    if group.rank == 0:
        require_writable(out_dir)

    run = Run(model, data, config, runtime, group)
    if started_before:
        state = load_checkpoint(checkpoint)
        require_same_settings(checkpoint, state["settings"], run.settings)
        run.load_state_dict(state)
        if group.rank == 0:
            _write_history(out_dir, run.history)  # the run may have been killed between the two
            for unfinished in out_dir.glob(f".{checkpoint.stem}.*"):
                unfinished.unlink()

    count = len(data.train)
    if group.rank == 0:
        print(
            f"{config.name}: {model.num_parameters / 1e6:.1f} million parameters, {count:,} images of {data.name}, "
            f"{config.epochs} epochs ({run.epochs_done} done), on {group.size} x {runtime}"
        )
    bar = tqdm(
        total=config.epochs * count,
        initial=run.epochs_done * count,
        unit=" images",
        unit_scale=True,
        mininterval=1.0,
        disable=group.rank > 0,
    )
    saved_at = -SECONDS_BETWEEN_CHECKPOINTS
    with bar:
        while not run.done:
            run.epoch(bar)
            due = run.done or time.monotonic() - saved_at >= SECONDS_BETWEEN_CHECKPOINTS
            if not group.gather(due)[0]:
                continue
            state = run.state_dict()
            if group.rank == 0:
                save_checkpoint(checkpoint, state)
                _write_history(out_dir, run.history)
                if on_epoch:
                    on_epoch(run.history)
            run.saved_epoch, saved_at = run.epochs_done, time.monotonic()

    result = run.model.eval()
    if group.rank == 0:
        result.save_pretrained(out_dir / "model")
    return TrainResult(result, config, run.history, out_dir, f"{group.size} x {runtime}", data.name)


def _write_history(out_dir: Path, history: list[dict[str, float]]) -> None:
    with atomic_write(out_dir / "history.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)


def _require_fit(model: ViT, data: Dataset, config: TrainConfig, group: Group) -> None:
    size = tuple(data.train.images.shape[-2:])
    if size != (model.config.image_size, model.config.image_size):
        raise ValueError(f"{data.name} has images of {size}; the model's image_size is {model.config.image_size}")
    if len(data.classes) != model.config.num_classes:
        raise ValueError(
            f"{data.name} has {len(data.classes)} classes; the model's num_classes is {model.config.num_classes}"
        )
    if not group.size <= config.batch_size <= len(data.train):
        raise ValueError(
            f"batch_size is {config.batch_size}; expected at most the {len(data.train):,} training images "
            f"and at least the {group.size} processes"
        )
