"""A training run: all that it consists of, one step, one epoch, and the state from which it goes on bit for bit."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from airl.distributed import Group
from airl.runtime import Runtime, to_device
from airl.vit.autoaugment import augment
from airl.vit.data import Dataset
from airl.vit.evaluation import evaluate
from airl.vit.mixing import mix, normalize, random_erasing
from airl.vit.model import ViT
from airl.vit.optim import make_optimizer
from airl.vit.recipes import TrainConfig

CHUNK_BYTES = 48 * 2**20  # of float32 images made ready at once: enough to hide the many small kernels of augmentation


class TrainingDiverged(FloatingPointError):
    """The loss or a weight is no longer a finite number."""


class Run:
    """`epoch` until `done`; `state_dict` before an epoch is all that a later process needs to go on."""

    def __init__(self, model: ViT, data: Dataset, config: TrainConfig, runtime: Runtime, group: Group):
        self.config, self.runtime, self.group = config, runtime, group
        model.config.mean, model.config.std = data.mean_std()
        model.config.classes = tuple(data.classes)
        self.model = model.to(runtime.device)
        self.data = data.to(runtime.device)
        self.optimizer = make_optimizer(model, config, runtime.dtype)
        self.scaler = runtime.grad_scaler()
        torch.manual_seed(config.seed + group.rank)  # of dropout, drop path and patch dropping
        self.generator = torch.Generator().manual_seed(config.seed + group.rank)  # of the order and augmentation
        self.epochs_done = self.steps_done = self.saved_epoch = 0
        self.history: list[dict[str, float]] = []
        self.clock = time.perf_counter()

        # A last batch too small to give each process an image joins the one before it.
        self.steps_per_epoch = len(data.train) // config.batch_size
        self.steps_per_epoch += len(data.train) % config.batch_size >= group.size
        compiling = config.compile
        if compiling == "auto":
            compiling = runtime.compiling_pays(config.epochs * self.steps_per_epoch)
        self.network = DistributedDataParallel(model) if group.size > 1 else model
        self.compiled = runtime.compile(self.network) if compiling else self.network
        self.settings = {
            "recipe": {k: v for k, v in asdict(config).items() if k not in ("name", "about", "compile")},
            "model": asdict(model.config),
            "data": {"train images": len(data.train), "test images": len(data.test)},
            "torchrun": {"processes": group.size},
        }

    @property
    def done(self) -> bool:
        return self.epochs_done >= self.config.epochs

    def step(self, images: Tensor, targets: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        """One step of the optimizer on this process's share of a batch; returns the loss's sum and the logits."""
        config = self.config
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate(config, self.steps_done, self.steps_per_epoch)
        usual = len(range(self.group.rank, config.batch_size, self.group.size))
        network = self.compiled if len(images) == usual else self.network  # a last batch is not worth compiling for

        with self.runtime.autocast():
            logits = network(images)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=config.label_smoothing, reduction="sum")
        # Gradients are averaged over processes, whose shares of a batch can differ by an image.
        self.scaler.scale(loss * (self.group.size / batch_size)).backward()
        self.scaler.unscale_(self.optimizer)
        if config.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_done += 1
        return loss.detach(), logits.detach()

    def epoch(self, bar: tqdm) -> None:
        """Train on every image once, evaluate, and append a row to the history. Raises TrainingDiverged."""
        start = time.perf_counter()
        bar.set_description(f"epoch {self.epochs_done + 1}/{self.config.epochs}", refresh=False)
        unmixed = self.epochs_done >= self.config.mix_until * self.config.epochs
        self.model.patch_drop.probability = 0.0 if unmixed else self.config.patch_drop
        self.network.train()
        tally = Tally(self.runtime.device)
        for labels, batches in self.chunks(mixed=not unmixed):
            tally.begin(labels)
            for images, targets, batch_size in batches:
                tally.add(*self.step(images, targets, batch_size))
                if bar.update(batch_size):  # true once a second, when the bar is drawn: asking the device is slow
                    loss, accuracy = tally.means()
                    self.show(bar, loss, accuracy)
                    if self.group.size == 1:  # several processes must stop together, at the end of the epoch
                        self.require_finite(loss)
            tally.end()

        loss, accuracy = tally.means(self.group)
        self.require_finite(loss)
        train_seconds = time.perf_counter() - start
        test = evaluate(self.model, self.data.test, precision=self.runtime.precision)
        self.require_finite(sum(parameter.detach().sum() for parameter in self.model.parameters()).item())
        self.epochs_done += 1
        now = time.perf_counter()
        self.history.append(
            {
                "epoch": self.epochs_done,
                "lr": self.optimizer.param_groups[0]["lr"],
                "train_loss": loss,
                "train_accuracy": accuracy,
                "test_loss": test.loss,
                "test_accuracy": test.accuracy,
                "images_per_second": len(self.data.train) / train_seconds,
                "seconds": now - self.clock,
            }
        )
        self.clock = now
        self.show(bar, loss, accuracy)

    def chunks(self, mixed: bool) -> Iterator[tuple[Tensor, Iterable[tuple[Tensor, Tensor, int]]]]:
        """This process's share of the training images in a new order, made ready for many steps at once.

        Gives the labels, int64 (n,), of some batches, and of each of these batches its images, float32 (B, 3, H, W),
        augmented and normalised; its targets, labels or float32 (B, num_classes); and its size over all processes.
        """
        config, generator, data = self.config, self.generator, self.data
        images, labels = data.train.images, data.train.labels
        order = torch.randperm(len(labels), generator=generator)
        order = self.group.broadcast(to_device(order, self.runtime.device))
        batches = order.tensor_split([i * config.batch_size for i in range(1, self.steps_per_epoch)])
        steps = max(1, CHUNK_BYTES // (4 * images[0].numel() * config.batch_size))
        for start in range(0, len(batches), steps):
            chunk = batches[start : start + steps]
            shares = [batch[self.group.rank :: self.group.size] for batch in chunk]
            index = torch.cat(shares)
            y = targets = labels[index]
            x = augment(
                images[index],
                generator,
                crop_padding=config.crop_padding,
                flip=config.flip,
                auto_augment=config.auto_augment,
            )
            x = normalize(x, self.model.config.mean, self.model.config.std)
            if config.random_erasing:
                x = random_erasing(x, generator, config.random_erasing)
            if mixed and (config.mixup_alpha or config.cutmix_alpha):
                x, targets = mix(
                    x,
                    y,
                    generator,
                    num_classes=data.num_classes,
                    mixup_alpha=config.mixup_alpha,
                    cutmix_alpha=config.cutmix_alpha,
                    probability=config.mix_probability,
                )
            x = x.contiguous(memory_format=torch.channels_last)
            sizes = [len(share) for share in shares]
            yield y, zip(x.split(sizes), targets.split(sizes), map(len, chunk), strict=True)

    def state_dict(self) -> dict:
        """What `load_state_dict` takes up, on the CPU or the device. Every process must call it."""
        random = {"generator": self.generator.get_state(), "torch": self.runtime.random_state()}
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epochs_done,
            "step": self.steps_done,
            "random": self.group.gather(random),
            "settings": self.settings,
            "history": self.history,
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from where `state_dict` was called, in a run of the same settings."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if value.shape == parameter.shape:  # the fused step needs both in one memory format
                    moments[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.epochs_done = self.saved_epoch = state["epoch"]
        self.steps_done, self.history = state["step"], state["history"]
        random = state["random"][self.group.rank]
        self.generator.set_state(random["generator"])
        self.runtime.set_random_state(random["torch"])

    def require_finite(self, value: float) -> None:
        if not math.isfinite(value):
            kept = f"the checkpoint of epoch {self.saved_epoch} is kept" if self.saved_epoch else "nothing was saved"
            raise TrainingDiverged(
                f"the loss or a weight became {value} in epoch {self.epochs_done + 1}; {kept}. "
                "Try a lower lr, a grad_clip of 1.0, or precision 'fp32'."
            )

    def show(self, bar: tqdm, loss: float, accuracy: float) -> None:
        test = f"{self.history[-1]['test_accuracy']:.1%}" if self.history else "-"
        bar.set_postfix(loss=f"{loss:.3f}", train=f"{accuracy:.1%}", test=test, refresh=False)


class Tally:
    """Loss and accuracy over an epoch, added up when somebody asks or a chunk ends: steps launch nothing for it."""

    def __init__(self, device: torch.device):
        self.totals = torch.zeros(3, device=device)  # loss, right answers, images

    def begin(self, labels: Tensor) -> None:
        """A chunk with these labels begins."""
        self.labels, self.losses, self.logits = labels, [], []

    def add(self, loss: Tensor, logits: Tensor) -> None:
        """A step's summed loss and its logits."""
        self.losses.append(loss)
        self.logits.append(logits)

    def so_far(self) -> Tensor:
        if not self.losses:
            return self.totals
        logits = torch.cat(self.logits)
        right = (logits.argmax(dim=1) == self.labels[: len(logits)]).sum()
        count = torch.full_like(right, len(logits))
        return self.totals + torch.stack([torch.stack(self.losses).sum(), right, count])

    def end(self) -> None:
        """The chunk ends."""
        self.totals, self.losses, self.logits = self.so_far(), [], []

    def means(self, group: Group | None = None) -> tuple[float, float]:
        """Loss and accuracy in [0, 1] of all images so far, over all processes of the group; waits for the device."""
        totals = self.so_far()
        loss, right, count = (group.sum(totals) if group else totals).tolist()
        return loss / count, right / count


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
