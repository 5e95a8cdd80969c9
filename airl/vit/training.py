"""Train a ViT: the data set lives on the device, every step is one loop body, a run resumes where it was killed.

One process uses one device. Under `torchrun` the same loop runs in every process, each on its share of the batch:

    python -m airl.vit train --data cifar10 --recipe assignment --out runs/q1
    torchrun --nproc_per_node 4 -m airl.vit train --data cifar10 --recipe assignment --out runs/q1
"""

import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from airl import distributed
from airl.distributed import Group
from airl.files import atomic_write
from airl.runtime import choose as choose_runtime
from airl.vit.autoaugment import augment
from airl.vit.checkpoint import load_checkpoint, require_same_settings, save_checkpoint
from airl.vit.data import Dataset
from airl.vit.evaluation import evaluate
from airl.vit.mixing import mix, normalize, random_erasing
from airl.vit.model import ViT
from airl.vit.recipes import TrainConfig

AUGMENTED_AT_ONCE = 4096  # images: enough to hide the cost of launching the augmentation's many small kernels


class TrainingDiverged(FloatingPointError):
    """The loss is no longer a finite number."""


@dataclass
class TrainResult:
    """A trained model, in eval mode, and how it got truntime.

    `history` has one row an epoch: epoch (from 1), lr, train_loss and train_accuracy (on the augmented images, as
    they were seen), test_loss, test_accuracy, images_per_second (training alone), seconds (with the evaluation).
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
        """Wall time of all epochs, evaluation included."""
        return sum(row["seconds"] for row in self.history)

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

    Writes to `out_dir`: checkpoint.pt after every epoch, history.csv beside it, and at the end model/, which
    `ViT.from_pretrained` reads. With `resume` a run that was stopped at any moment goes on from its last checkpoint
    to the weights it would have had (bit for bit on a CPU); without it, a checkpoint in `out_dir` is refused.
    `on_epoch` is called with the history after each epoch. Torch's global random numbers are seeded with the recipe's
    seed. Under torchrun every process must see the same `out_dir`.

    Raises ValueError for data that do not fit the model or the batch and for a checkpoint that is damaged or of other
    settings, FileExistsError for a checkpoint in the way, TrainingDiverged for a loss that is not finite, OSError
    when a checkpoint cannot be written; the last good checkpoint stays in every case.
    """
    runtime = choose_runtime(device, config.precision)
    group = distributed.join(runtime.device)
    _require_fit(model, data, config, group)
    checkpoint_path = Path(out_dir) / "checkpoint.pt"
    started_before = checkpoint_path.exists()
    if len(set(group.gather(started_before))) > 1:
        raise ValueError(
            f"only some processes see {checkpoint_path}; out_dir must be one folder that all machines share"
        )
    if started_before and not resume:
        raise FileExistsError(
            f"{checkpoint_path} holds another run; pass resume=True to go on with it, or another out_dir"
        )

    # Everything the run consists of; each piece's state is in the checkpoint.
    mean, std = data.mean_std()
    model.config.mean, model.config.std, model.config.classes = mean, std, tuple(data.classes)
    model.to(runtime.device)
    optimizers = _optimizers(model, config)
    scaler = runtime.grad_scaler()
    ema = None
    if config.ema_decay:
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
    scored = ema.module if ema else model
    torch.manual_seed(config.seed + group.rank)  # dropout and drop path
    generator = torch.Generator().manual_seed(config.seed + group.rank)  # the images' order and augmentation
    epochs_done, step, history = 0, 0, []
    settings = {
        "recipe": {k: v for k, v in asdict(config).items() if k not in ("name", "about", "compile")},
        "model": asdict(model.config),
        "data": {"train images": len(data.train), "test images": len(data.test)},
        "torchrun": {"processes": group.size},
    }

    if started_before:
        saved = load_checkpoint(checkpoint_path)
        require_same_settings(checkpoint_path, saved["settings"], settings)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        if saved["scaler"]:
            scaler.load_state_dict(saved["scaler"])
        if ema:
            ema.load_state_dict(saved["ema"])
        epochs_done, step, history = saved["epoch"], saved["step"], saved["history"]
        generator.set_state(saved["random"][group.rank]["generator"])
        runtime.set_random_state(saved["random"][group.rank]["torch"])
        if group.rank == 0:
            _write_history(checkpoint_path, history)  # the run may have been killed between the two
            for unfinished in checkpoint_path.parent.glob(f".{checkpoint_path.stem}.*"):
                unfinished.unlink()

    network = model
    if group.size > 1:
        network = DistributedDataParallel(model)
    if config.compile:
        network = torch.compile(network, dynamic=False)
    data = data.to(runtime.device)
    images, labels = data.train.images, data.train.labels
    # A last batch too small to give each process an image joins the one before it.
    steps_per_epoch = len(labels) // config.batch_size + (len(labels) % config.batch_size >= group.size)

    if group.rank == 0:
        print(
            f"{config.name}: {model.num_parameters / 1e6:.1f} million parameters, {len(labels):,} images of "
            f"{data.name}, {config.epochs} epochs ({epochs_done} done), on {group.size} x {runtime}"
        )
    bar = tqdm(
        desc=f"epoch {epochs_done}/{config.epochs}",
        total=config.epochs * len(labels),
        initial=epochs_done * len(labels),
        unit=" images",
        unit_scale=True,
        mininterval=1.0,
        disable=group.rank > 0,
    )
    for epoch in range(epochs_done, config.epochs):
        epoch_start = time.perf_counter()
        bar.set_description(f"epoch {epoch + 1}/{config.epochs}", refresh=False)
        network.train()
        whole = epoch >= config.mix_until * config.epochs
        mixing = (config.mixup_alpha or config.cutmix_alpha) and not whole
        model.patch_drop.probability = 0.0 if whole else config.patch_drop
        totals = torch.zeros(3, device=runtime.device)  # loss, right answers, images
        order = group.broadcast(torch.randperm(len(labels), generator=generator).to(runtime.device))
        batches = order.tensor_split([i * config.batch_size for i in range(1, steps_per_epoch)])

        for batch_size, x, y in _augmented(images, labels, batches, config, generator, group):
            x, target = normalize(x, mean, std), y
            if config.random_erasing:
                x = random_erasing(x, generator, config.random_erasing)
            if mixing:
                x, target = mix(
                    x,
                    y,
                    generator,
                    num_classes=data.num_classes,
                    mixup_alpha=config.mixup_alpha,
                    cutmix_alpha=config.cutmix_alpha,
                    probability=config.mix_probability,
                )
            lr = learning_rate(config, step, steps_per_epoch)
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = lr

            with runtime.autocast():
                logits = network(x)
            loss = F.cross_entropy(logits.float(), target, label_smoothing=config.label_smoothing, reduction="sum")
            # Gradients are averaged over processes, whose shares of a batch can differ by an image.
            scaler.scale(loss * group.size / batch_size).backward()
            if config.grad_clip:
                for optimizer in optimizers:
                    scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
            for optimizer in optimizers:
                scaler.step(optimizer)
                optimizer.zero_grad(set_to_none=True)
            scaler.update()
            if ema:
                ema.update_parameters(model)
            step += 1

            totals[0] += loss.detach()
            totals[1] += (logits.detach().argmax(dim=1) == y).sum()
            totals[2] += len(y)
            if bar.update(batch_size):  # true once a second, when the bar is drawn: asking the device is slow
                _show(bar, totals, history)
                if group.size == 1:  # several processes must stop together, at the end of the epoch
                    _require_finite(totals[0], epoch)

        train_loss, train_accuracy = (group.sum(totals)[:2] / totals[2]).tolist()
        _require_finite(totals[0], epoch)
        train_seconds = time.perf_counter() - epoch_start
        test = evaluate(scored, data.test, precision=runtime.precision)
        _require_finite(sum(parameter.detach().sum() for parameter in model.parameters()), epoch)
        history.append(
            {
                "epoch": epoch + 1,
                "lr": lr,
                "train_loss": train_loss,
                "train_accuracy": train_accuracy,
                "test_loss": test.loss,
                "test_accuracy": test.accuracy,
                "images_per_second": len(labels) / train_seconds,
                "seconds": time.perf_counter() - epoch_start,
            }
        )
        random = group.gather({"generator": generator.get_state(), "torch": runtime.random_state()})
        if group.rank == 0:
            state = {
                "model": model.state_dict(),
                "ema": ema.state_dict() if ema else None,
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "scaler": scaler.state_dict(),
                "epoch": epoch + 1,
                "step": step,
                "random": random,
                "settings": settings,
                "history": history,
            }
            save_checkpoint(checkpoint_path, state)
            _write_history(checkpoint_path, history)
            _show(bar, totals, history)
            if on_epoch:
                on_epoch(history)
    bar.close()

    scored.eval()
    if group.rank == 0:
        scored.save_pretrained(Path(out_dir) / "model")
    return TrainResult(scored, config, history, Path(out_dir), f"{group.size} x {runtime}", data.name)


def _optimizers(model: ViT, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters, or Muon for the matrices of the blocks and AdamW for the rest."""
    settings = dict(lr=config.lr, weight_decay=config.weight_decay)
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2] if config.optimizer == "muon" else []
    rest = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    adamw = torch.optim.AdamW(rest, fused=rest[0].device.type in ("cuda", "cpu"), **settings)
    if not matrices:
        return [adamw]
    return [torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **settings), adamw]


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of a step (from 0): linear warm-up by step, then to 0 by the recipe's schedule.

    "cosine" without warm-up is torch's CosineAnnealingLR with T_max = epochs, stepped once an epoch.
    """
    steps = config.epochs * steps_per_epoch
    warmup_steps = round(config.warmup * steps)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    if config.schedule == "linear":
        return config.lr * (steps - step) / (steps - warmup_steps)
    warmup_epochs = warmup_steps / steps_per_epoch
    progress = max(0, step // steps_per_epoch - warmup_epochs) / (config.epochs - warmup_epochs)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def _augmented(
    images: Tensor,
    labels: Tensor,
    batches: Sequence[Tensor],
    config: TrainConfig,
    generator: torch.Generator,
    group: Group,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each batch of indices: its size, this process's share of its images, augmented (uint8), and their labels."""
    at_once = max(1, AUGMENTED_AT_ONCE // config.batch_size)
    for start in range(0, len(batches), at_once):
        chunk = batches[start : start + at_once]
        shares = [batch[group.rank :: group.size] for batch in chunk]
        index = torch.cat(shares)
        x = augment(
            images[index],
            generator,
            crop_padding=config.crop_padding,
            flip=config.flip,
            auto_augment=config.auto_augment,
        )
        sizes = [len(share) for share in shares]
        yield from zip(map(len, chunk), x.split(sizes), labels[index].split(sizes), strict=True)


def _require_finite(value: Tensor, epoch: int) -> None:
    if not value.isfinite():
        raise TrainingDiverged(
            f"the loss or a weight became {value.item()} in epoch {epoch + 1}; the checkpoint of the epoch before is "
            "kept. Try a lower lr, a grad_clip of 1.0, or precision 'fp32'."
        )


def _show(bar: tqdm, totals: Tensor, history: list[dict[str, float]]) -> None:
    loss, right, count = totals.tolist()
    test = f"{history[-1]['test_accuracy']:.1%}" if history else "-"
    bar.set_postfix(loss=f"{loss / count:.3f}", train=f"{right / count:.1%}", test=test, refresh=False)


def _write_history(checkpoint_path: Path, history: list[dict[str, float]]) -> None:
    with (
        atomic_write(checkpoint_path.with_name("history.csv")) as temporary,
        open(temporary, "w", newline="") as file,
    ):
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
