"""What a trained ViT says of images, and how well it does."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from airl.images import central_square, load
from airl.runtime import choose as choose_runtime
from airl.vit.data import Split
from airl.vit.mixing import normalize
from airl.vit.model import ViT


@torch.no_grad()
def predict_logits(model: ViT, images: Tensor, *, precision: str = "auto", batch_size: int = 500) -> Tensor:
    """Logits, float32 (N, C) on the CPU, of uint8 images (N, 3, H, W); on the model's device, in eval mode."""
    device = next(model.parameters()).device
    runtime = choose_runtime(device, precision)
    was_training = model.training
    model.eval()
    logits = []
    for batch in images.split(batch_size):
        with runtime.autocast():
            logits.append(model(normalize(batch.to(device), model.config.mean, model.config.std)).float())
    model.train(was_training)
    return torch.cat(logits).cpu()


@dataclass(frozen=True, repr=False)
class Evaluation:
    """How well logits, float32 (N, C), match labels, int64 (N,)."""

    logits: Tensor
    labels: Tensor
    classes: Sequence[str]

    @cached_property
    def probabilities(self) -> Tensor:
        """float32 (N, C), rows sum to 1."""
        return self.logits.softmax(dim=1)

    @cached_property
    def predictions(self) -> Tensor:
        """The likeliest class of each image, int64 (N,)."""
        return self.logits.argmax(dim=1)

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats, without label smoothing."""
        return F.cross_entropy(self.logits, self.labels).item()

    @property
    def accuracy(self) -> float:
        """The share of images whose likeliest class is right, in [0, 1]."""
        return (self.predictions == self.labels).float().mean().item()

    @property
    def top5(self) -> float:
        """The share of images whose class is among the five likeliest, in [0, 1]."""
        likeliest = self.logits.topk(min(5, self.logits.shape[1])).indices
        return (likeliest == self.labels[:, None]).any(dim=1).float().mean().item()

    @cached_property
    def confusion(self) -> Tensor:
        """Counts, int64 (C, C): row = true class, column = predicted class."""
        C = self.logits.shape[1]
        return torch.bincount(self.labels * C + self.predictions, minlength=C * C).view(C, C)

    @property
    def per_class(self) -> dict[str, float]:
        """The accuracy on the images of each class, in [0, 1]; nan for a class without images."""
        share = self.confusion.diag() / self.confusion.sum(dim=1)
        return dict(zip(self.classes, share.tolist(), strict=True))

    @property
    def ece(self) -> float:
        """Expected calibration error in [0, 1], over 15 bins of equal width: how far confidence is from accuracy.

        Guo et al. 2017, On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599
        """
        confidence, prediction = self.probabilities.max(dim=1)
        gap = (prediction == self.labels).double() - confidence.double()
        bins = (confidence * 15).ceil().long().clamp(1, 15) - 1
        return (torch.zeros(15, dtype=torch.double).index_add(0, bins, gap).abs().sum() / len(gap)).item()

    def __str__(self) -> str:
        return (
            f"accuracy {self.accuracy:.2%}, top-5 {self.top5:.2%}, loss {self.loss:.3f}, "
            f"calibration error {self.ece:.2%}, on {len(self.labels):,} images"
        )

    def __repr__(self) -> str:
        return f"Evaluation({self})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the figures, and a table of the classes."""
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{accuracy:.1%}</td></tr>" for name, accuracy in self.per_class.items()
        )
        return f"<p>{self}</p><table><tr><th>class</th><th>accuracy</th></tr>{rows}</table>"


def evaluate(model: ViT, split: Split, *, precision: str = "auto") -> Evaluation:
    """Score the model on a split of its classes; on the model's device.

    Raises ValueError if a label is not one of the model's classes, or the classes have other names.
    """
    C = model.config.num_classes
    if model.config.classes and split.classes and list(model.config.classes) != list(split.classes):
        raise ValueError(
            f"the model knows {', '.join(model.config.classes)}; the images are of {', '.join(split.classes)}"
        )
    if len(split.labels) and not 0 <= int(split.labels.min()) <= int(split.labels.max()) < C:
        low, high = int(split.labels.min()), int(split.labels.max())
        raise ValueError(f"labels run from {low} to {high}; this model has {C} classes, 0 to {C - 1}")
    logits = predict_logits(model, split.images, precision=precision)
    return Evaluation(logits, split.labels.cpu(), _classes(model))


@dataclass(frozen=True)
class Prediction:
    """The likeliest class of one image, its probability, and every class's probability, likeliest first."""

    label: str
    confidence: float
    probabilities: dict[str, float]


def predict(model: ViT, image, *, precision: str = "auto") -> Prediction | list[Prediction]:
    """Classify one picture, or a list of them (then the answer is a list).

    A picture is whatever `airl.images.load` reads (a path, bytes, a PIL image, an array (H, W, 3)) or a uint8 tensor
    (3, H, W), of any size: its central square is resized to the model's. Raises the errors of `airl.images.load`,
    which say what is wrong with which picture, and ValueError for a model that gives no finite numbers.
    """
    if not isinstance(image, list | tuple):
        return predict(model, [image], precision=precision)[0]
    size = model.config.image_size
    squares = []
    for one in image:
        if isinstance(one, Tensor):
            if one.dtype != torch.uint8 or one.dim() != 3 or one.shape[0] != 3:
                raise ValueError(f"a tensor is {one.dtype} {tuple(one.shape)}; expected uint8 (3, H, W)")
            one = one.permute(1, 2, 0).numpy(force=True)  # (H, W, 3)
        squares.append(torch.from_numpy(central_square(load(one), size)).permute(2, 0, 1))  # (3, size, size)
    if not squares:
        return []
    logits = predict_logits(model, torch.stack(squares), precision=precision)
    if not logits.isfinite().all():
        broken = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
        cause = f"{broken[0]} holds numbers that are not finite" if broken else "try precision='fp32'"
        raise ValueError(f"the model's answer is not a finite number: {cause}")
    predictions = []
    for row in logits.softmax(dim=1):
        ranked = {_classes(model)[i]: row[i].item() for i in row.argsort(descending=True).tolist()}
        label = next(iter(ranked))
        predictions.append(Prediction(label, ranked[label], ranked))
    return predictions


def _classes(model: ViT) -> tuple[str, ...]:
    return model.config.classes or tuple(map(str, range(model.config.num_classes)))


def attention_rollout(maps: Tensor) -> Tensor:
    """How much each patch reaches what is classified through all blocks, float (B, rows, columns), sums to 1.

    `maps`: attention weights (B, depth, heads, T, T) from `ViT.attention_maps`. What is classified is the class token
    where there is one (then T is one more than a square), else the mean of all tokens. Heads are averaged, and each
    block's residual connection counts as half.
    Abnar & Zuidema 2020, Quantifying Attention Flow in Transformers, https://arxiv.org/abs/2005.00928
    """
    B, depth, _, T, _ = maps.shape
    identity = torch.eye(T, device=maps.device)
    reach = identity.expand(B, T, T)
    for block in range(depth):
        reach = (maps[:, block].float().mean(dim=1) + identity) / 2 @ reach  # (B, T, T)
    side = int(T**0.5)
    if T not in (side * side, side * side + 1):
        raise ValueError(f"{T} tokens are no square of patches, with or without a class token")
    to_patches = reach.mean(dim=1) if side * side == T else reach[:, 0, 1:]  # (B, patches)
    return (to_patches / to_patches.sum(dim=1, keepdim=True)).view(B, side, side)
