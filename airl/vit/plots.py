"""What a person looks at: figures of the data, of a run and of a trained model. Each function returns a Figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from airl.figures import Figure
from airl.images import Picture, central_square, load
from airl.vit.autoaugment import augment
from airl.vit.data import Dataset, Split
from airl.vit.evaluation import Evaluation, attention_rollout, predict
from airl.vit.mixing import normalize
from airl.vit.model import ViT
from airl.vit.recipes import TrainConfig

TRAIN, TEST, WRONG = "#4c78a8", "#e45756", "#c0392b"


def augmentation_preview(data: Dataset, config: TrainConfig, images: int = 6, versions: int = 7) -> Figure:
    """Training images of different classes (left) and what the recipe's augmentation makes of them."""
    labels = data.train.labels
    firsts = [(labels == c).nonzero()[:1] for c in range(data.num_classes)]
    chosen = torch.cat(firsts).flatten().tolist()[:images]
    originals = data.train.images[chosen].cpu()
    generator = torch.Generator().manual_seed(0)
    rows = augment(
        originals.repeat_interleave(versions, dim=0),  # (images * versions, 3, H, W)
        generator,
        crop_padding=config.crop_padding,
        flip=config.flip,
        auto_augment=config.auto_augment,
    ).unflatten(0, (-1, versions))
    figure = Figure(figsize=(versions + 1.6, len(chosen) + 0.7))
    axes = figure.subplots(len(chosen), versions + 1, squeeze=False)
    for row, (index, axis_row) in enumerate(zip(chosen, axes, strict=True)):
        for image, axis in zip([originals[row], *rows[row]], axis_row, strict=True):
            _show_image(axis, image)
        axis_row[0].set_ylabel(data.classes[labels[index]], rotation=0, ha="right", va="center")
    axes[0, 0].set_title("as it is", fontsize=9)
    axes[0, 1 + versions // 2].set_title("as the model may see it", fontsize=9)
    figure.suptitle("Augmentation: each time an image is used it is changed anew")
    return figure


def training_curves(history: Sequence[dict[str, float]]) -> Figure:
    """Loss and accuracy by epoch.

    The training curves are of augmented images, and the training loss counts label smoothing: the test curves may look
    better.
    """
    figure = Figure(figsize=(11, 4))
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) < 30 else None
    for axis, name in ((left, "loss"), (right, "accuracy")):
        for split, color in (("train", TRAIN), ("test", TEST)):
            values = [row[f"{split}_{name}"] for row in history]
            label = "training images, augmented, labels smoothed" if split == "train" else "test images"
            axis.plot(epochs, values, color=color, marker=marker, markersize=4, label=label)
        axis.set(xlabel="epoch", title=name.capitalize(), xlim=(0.5, epochs[-1] + 0.5))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
        axis.margins(y=0.12)
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    right.set_title(f"Accuracy: {history[-1]['test_accuracy']:.1%} of the test images after epoch {epochs[-1]}")
    left.legend()
    return figure


class LiveCurves:
    """An `on_epoch` for `vit.train` that redraws the training curves in place in a notebook, and in an image file."""

    def __init__(self, path: str | Path):
        self.path = path
        self.display = None

    def __call__(self, history: Sequence[dict[str, float]]) -> None:
        from IPython.display import Image, display

        training_curves(history).save(self.path)
        image = Image(self.path)
        if self.display is None:
            self.display = display(image, display_id=True)
        else:
            self.display.update(image)


def prediction_grid(split: Split, report: Evaluation, count: int = 12) -> Figure:
    """Test images with the predicted class and its confidence: above, some at random; below, the surest mistakes."""
    confidence = report.probabilities.max(dim=1).values
    sample = torch.randperm(len(report.labels), generator=torch.Generator().manual_seed(0))[:count]
    wrong = (report.predictions != report.labels).nonzero()[:, 0]
    surest = wrong[confidence[wrong].argsort(descending=True)][:count]
    columns = min(count, 6)
    groups = [("At random", sample), ("The mistakes it is surest of", surest)]
    heights = [-(-len(chosen) // columns) for _, chosen in groups]
    figure = Figure(figsize=(columns * 1.8, sum(heights) * 2.2 + 0.6), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=[height + 0.2 for height in heights])
    for part, (title, chosen) in zip(parts, groups, strict=True):
        part.suptitle(title if len(chosen) else "No mistakes", fontweight="bold")
        if not len(chosen):
            continue
        axes = part.subplots(-(-len(chosen) // columns), columns, squeeze=False).flatten()
        for axis in axes:
            axis.set_axis_off()
        for axis, i in zip(axes, chosen.tolist(), strict=False):
            right = report.predictions[i] == report.labels[i]
            axis.imshow(split.images[i].permute(1, 2, 0).cpu())
            text = f"{report.classes[report.predictions[i]]} {confidence[i]:.0%}"
            if not right:
                text += f"\nis {report.classes[report.labels[i]]}"
            axis.set_title(text, fontsize=9, color="black" if right else WRONG)
    return figure


def confusion_matrix(report: Evaluation) -> Figure:
    """Row by true class: the share of its images that were given each class."""
    shares = (report.confusion / report.confusion.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    C = len(shares)
    side = max(4.5, 0.62 * C) if C <= 20 else 9
    figure = Figure(figsize=(side + 1, side))
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted class", ylabel="true class", title="Which classes it takes for which")
    if C <= 20:
        axis.set_xticks(range(C), report.classes, rotation=45, ha="right")
        axis.set_yticks(range(C), report.classes)
        for row, column in np.ndindex(C, C):
            if shares[row, column] >= 0.005:
                color = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, f"{shares[row, column]:.0%}", ha="center", va="center", fontsize=8, color=color)
    label = "share of the true class's images"
    figure.colorbar(image, format=PercentFormatter(1, decimals=0), fraction=0.046, label=label)
    return figure


def per_class_accuracy(report: Evaluation) -> Figure:
    """Accuracy by class, worst first, against the accuracy over all images."""
    ranked = sorted(report.per_class.items(), key=lambda item: item[1])
    names, values = zip(*ranked, strict=True)
    figure = Figure(figsize=(7, 0.32 * len(names) + 1.2))
    axis = figure.subplots()
    axis.barh([f"{name}  {value:.1%}" for name, value in ranked], values, color=TRAIN)
    axis.axvline(report.accuracy, color=TEST, linestyle="--")
    axis.set(xlim=(0, 1), title=f"Accuracy by class; dashed line, all test images: {report.accuracy:.1%}")
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def attention_overlay(model: ViT, images: Tensor, titles: Sequence[str] = ()) -> Figure:
    """Images, uint8 (B, 3, H, W), and attention rollout over each: brighter patches count more for the answer."""
    rollout = _rollout(model, images)
    figure = Figure(figsize=(1.5 * len(images), 3.8))
    axes = figure.subplots(2, len(images), squeeze=False)
    for column, (image, weights) in enumerate(zip(images, rollout, strict=True)):
        for axis in axes[:, column]:
            _show_image(axis, image)
        axes[0, column].set_title(titles[column] if len(titles) else "", fontsize=9)
        axes[1, column].images[0].set_alpha(0.5)
        _show_rollout(axes[1, column], weights)
    axes[0, 0].set_ylabel("image")
    axes[1, 0].set_ylabel("attention")
    figure.suptitle("Attention rollout: the brighter a patch, the more it counts for the answer")
    return figure


def what_it_is(model: ViT, picture: Picture) -> Figure:
    """A picture of any size, what the model sees of it, attention rollout over that, and the five likeliest classes."""
    pixels, size = load(picture), model.config.image_size
    square = central_square(pixels, size)
    weights = _rollout(model, torch.from_numpy(square).permute(2, 0, 1)[None])[0]
    names, values = zip(*reversed(list(predict(model, square).probabilities.items())[:5]), strict=True)
    figure = Figure(figsize=(12, 3), layout="constrained")
    *axes, bars = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.2))
    shown = {"central square": central_square(pixels, min(pixels.shape[:2])), f"as it sees it, {size}x{size}": square}
    for axis, (title, image) in zip(axes, (shown | {"attention rollout": square}).items(), strict=True):
        axis.imshow(image)
        axis.set_title(title)
        axis.set_axis_off()
    _show_rollout(axes[2], weights)
    bars.barh([f"{name}  {value:.0%}" for name, value in zip(names, values, strict=True)], values, color=TRAIN)
    bars.set(xlim=(0, 1), title="what it takes it for")
    bars.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bars.spines[["top", "right"]].set_visible(False)
    return figure


def position_similarity(model: ViT) -> Figure:
    """For each patch, the cosine similarity of its position embedding to every other patch's.

    Each small map belongs to the patch at its own place in the grid; what training has learned of the image's rows
    and columns shows as bright neighbourhoods.
    """
    position = model.position.detach().float().cpu()[0, -((model.config.image_size // model.config.patch_size) ** 2) :]
    side = model.config.image_size // model.config.patch_size
    unit = torch.nn.functional.normalize(position, dim=1)
    maps = (unit @ unit.T).view(side, side, side, side)
    figure = Figure(figsize=(6.4, 6.2))
    axes = figure.subplots(side, side, squeeze=False)
    for row, column in np.ndindex(side, side):
        image = axes[row, column].imshow(maps[row, column], cmap="viridis", vmin=-1, vmax=1)
        axes[row, column].set(xticks=[], yticks=[])
    figure.supxlabel("patch column")
    figure.supylabel("patch row")
    figure.colorbar(image, ax=axes, label="cosine similarity", fraction=0.046)
    figure.suptitle("How alike the position embeddings are: one map for each patch")
    return figure


def _rollout(model: ViT, images: Tensor) -> Tensor:
    """Attention rollout, float32 (B, rows, columns) on the CPU, of uint8 images (B, 3, H, W)."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    maps = model.attention_maps(normalize(images.to(device), model.config.mean, model.config.std))
    model.train(was_training)
    return attention_rollout(maps).cpu()


def _show_rollout(axis, weights: Tensor) -> None:
    """Over the image that an axis shows."""
    axis.imshow(weights, extent=axis.images[0].get_extent(), cmap="inferno", alpha=0.6, interpolation="bilinear")


def _show_image(axis, image: Tensor) -> None:
    axis.imshow(image.permute(1, 2, 0).cpu())
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
