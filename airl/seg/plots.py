"""What a person looks at: how a prompt became a mask, step by step. Each function but `explore` returns a Figure."""

import html
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from airl.seg.pipeline import TextSegmenter
from airl.seg.result import Segmentation, label_map
from airl.seg.seeds import STRATEGIES

SEED, NEGATIVE = "#ff3b30", "#1e90ff"
MASK, OTHER = (0.0, 1.0, 0.5), (0.2, 0.5, 1.0)
LONGEST = 1000  # pixels: what is drawn of a larger picture


def picture(image: np.ndarray) -> Figure:
    """A picture, uint8 (H, W, 3) RGB, with its size."""
    H, W = image.shape[:2]
    figure, axis = plt.subplots(figsize=(6, 0.6 + _height(image, 5.5)), layout="constrained")
    _show(axis, image, f"{W} x {H} pixels")
    return figure


def steps(one: Segmentation) -> Figure:
    """Every step of one segmentation, a row each for CLIPSeg, for SAM and for what came out; if nothing was found, the
    first alone; SAM 3 has no second."""
    rows = 1 + one.found + bool(one.seeds)
    size = (11, 0.6 + rows * (0.2 + _height(one.image, 11 / 3)))
    figure, axes = plt.subplots(rows, 3, figsize=size, layout="constrained", squeeze=False)
    _show(axes[0, 0], one.image, "picture")
    _heatmap(axes[0, 1], one, "CLIPSeg's heat-map")
    _seeds(axes[0, 2], one, "coarse mask and seed")
    if one.found:
        _result(axes[-1], one)
    if one.seeds:
        _candidates(axes[1], one)
    figure.suptitle(_verdict(one), fontsize=13)
    return figure


def heatmap(one: Segmentation) -> Figure:
    """CLIPSeg's probabilities laid over the picture, with their scale."""
    figure, axis = plt.subplots(figsize=(6.5, 0.6 + _height(one.image, 5.5)), layout="constrained")
    drawn = _heatmap(axis, one, f"“{one.prompt}”: CLIPSeg's heat-map")
    figure.colorbar(drawn, ax=axis, label="probability", fraction=0.046)
    return figure


def seeds(one: Segmentation) -> Figure:
    """The coarse mask over the picture, and on it what SAM is told: points and boxes."""
    figure, axis = plt.subplots(figsize=(6, 0.6 + _height(one.image, 5.5)), layout="constrained")
    _seeds(axis, one, "Coarse mask and seed")
    return figure


def candidates(one: Segmentation) -> Figure:
    """SAM's masks for the first seed, with the IoU it expects of each; the one taken is framed."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 0.6 + _height(one.image, 4)), layout="constrained")
    _candidates(axes, one)
    return figure


def result(one: Segmentation) -> Figure:
    """The mask, the picture with the mask over it, and the object cut out."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 0.9 + _height(one.image, 4)), layout="constrained")
    _result(axes, one)
    figure.suptitle(_verdict(one))
    return figure


def overlay(one: Segmentation) -> Figure:
    """The picture with the mask over it, and the verdict."""
    figure, axis = plt.subplots(figsize=(6, 0.6 + _height(one.image, 5.5)), layout="constrained")
    _mask(axis, one, _verdict(one))
    for seed in one.seeds:
        _points(axis, seed)
    return figure


def explore(segmenter: TextSegmenter, prompt: str):
    """Widgets for a notebook: prompt, threshold and seeding, and below them the overlay that they give on the picture
    set. Returns an `ipywidgets.VBox`."""
    from ipywidgets import HTML, Dropdown, FloatSlider, Image, Text, VBox

    controls = {
        "prompt": Text(prompt, description="prompt", continuous_update=False),
        "threshold": FloatSlider(
            segmenter.recipe.threshold, min=0.05, max=0.95, step=0.05, description="threshold", continuous_update=False
        ),
        "seeding": Dropdown(options=list(STRATEGIES), value=segmenter.recipe.seeding, description="seeding"),
    }
    drawn, message = Image(format="png"), HTML()

    def show(_=None) -> None:
        changes = {name: control.value for name, control in controls.items()}
        try:
            (one,) = segmenter.segment([changes.pop("prompt")], floor=changes["threshold"], **changes)
        except ValueError as error:  # such as an empty prompt
            message.value = html.escape(str(error))
            return
        figure, file = overlay(one), io.BytesIO()
        figure.savefig(file, format="png")
        plt.close(figure)
        drawn.value, message.value = file.getvalue(), ""

    for control in controls.values():
        control.observe(show, "value")
    show()
    return VBox([*controls.values(), message, drawn])


def labels(many: Sequence[Segmentation]) -> Figure:
    """Several prompts of one picture in one map, with a legend; it says which of them are not there."""
    numbers, legend = label_map(many)
    colours = plt.get_cmap("tab10" if len(legend) <= 10 else "tab20")
    figure, axis = plt.subplots(figsize=(8.5, 0.6 + _height(many[0].image, 5.5)), layout="constrained")
    _show(axis, many[0].image, "")
    handles = []
    for (number, prompt), one in zip(legend.items(), many, strict=True):
        colour = colours((number - 1) % colours.N)[:3]
        if one.found:
            _tint(axis, numbers == number, colour)
            _outline(axis, numbers == number)
        label = prompt if one.found else f"{prompt}: not there"
        handles.append(Patch(color=colour if one.found else "none", label=label))
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    return figure


# ------------------------------------------------------------------------------------------------- one axis each


def _verdict(one: Segmentation) -> str:
    if not one.found:
        return f"“{one.prompt}” is not there: the highest probability is {one.peak:.2f}, {one.floor:.2f} is needed"
    return f"“{one.prompt}”: found, peak probability {one.peak:.2f}; SAM expects an IoU of {one.score:.2f}"


def _show(axis: Axes, image: np.ndarray, title: str, **how):
    """Draw an array (H, W[, C]), thinned out when it is very large, in the picture's own coordinates."""
    H, W = image.shape[:2]
    axis.set_title(title, fontsize=10)
    axis.set(xticks=[], yticks=[])
    return axis.imshow(_thin(image), extent=(-0.5, W - 0.5, H - 0.5, -0.5), interpolation="nearest", **how)


def _thin(image: np.ndarray) -> np.ndarray:
    step = -(-max(image.shape[:2]) // LONGEST)
    return image[::step, ::step]


def _tint(axis: Axes, mask: np.ndarray, colour: tuple[float, ...], alpha: float = 0.5) -> None:
    """A mask in a colour, over what is drawn already."""
    H, W = mask.shape
    rgba = _thin(mask)[..., None] * np.array([*colour, alpha])
    axis.imshow(rgba, extent=(-0.5, W - 0.5, H - 0.5, -0.5), interpolation="nearest")


def _outline(axis: Axes, mask: np.ndarray) -> None:
    """A tint alone is lost on a picture of its colour."""
    framed = np.pad(_thin(mask), 1)  # so that the line closes at the picture's border
    if framed.any():
        columns, rows = (np.linspace(-1, side, n) for side, n in zip(mask.shape[::-1], framed.shape[::-1], strict=True))
        axis.contour(columns, rows, framed, levels=[0.5], colors=["white"], linewidths=1.2)


def _heatmap(axis: Axes, one: Segmentation, title: str):
    _show(axis, one.image.mean(2, dtype=np.float32), f"{title} (peak {one.peak:.2f})", cmap="gray", vmin=0, vmax=255)
    return _show(axis, one.heatmap, axis.get_title(), cmap="inferno", vmin=0, vmax=1, alpha=0.7)


def _seeds(axis: Axes, one: Segmentation, title: str) -> None:
    _show(axis, one.image // 3, title if one.found else f"{title}: none")
    _tint(axis, one.coarse, (1, 1, 1), 0.75)
    for seed in one.seeds:
        _points(axis, seed)


def _points(axis: Axes, seed) -> None:
    axis.plot(*seed.point, marker="*", color=SEED, markersize=15, markeredgecolor="white")
    axis.plot(*seed.negatives.T, "X", color=NEGATIVE, markersize=9, markeredgecolor="white")
    if seed.box is not None:
        x0, y0, x1, y1 = seed.box
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=SEED, linewidth=1.5))


def _candidates(axes: Sequence[Axes], one: Segmentation) -> None:
    if not one.seeds:
        for axis in axes:
            axis.set_axis_off()
        axes[1].text(0.5, 0.5, "nothing to ask SAM about", ha="center", va="center", transform=axes[1].transAxes)
        return
    offered, taken = one.candidates[0], one.chosen[0]
    which = f" for seed 1 of {len(one.seeds)}" if len(one.seeds) > 1 else ""
    for i, axis in enumerate(axes):
        title = f"SAM's mask {i + 1}{which}: {offered.scores[i]:.2f}"
        _show(axis, one.image, f"{title}, taken" if i == taken else title)
        _tint(axis, offered.masks[i], MASK if i == taken else OTHER)
        _outline(axis, offered.masks[i])
        _points(axis, one.seeds[0])
        axis.title.set_fontweight("bold" if i == taken else "normal")
        axis.spines[:].set(visible=i == taken, color=SEED, linewidth=3)


def _result(axes: Sequence[Axes], one: Segmentation) -> None:
    _show(axes[0], one.mask, "mask", cmap="gray", vmin=0, vmax=1)
    _mask(axes[1], one, "overlay")
    _cutout(axes[2], one, "cut-out")


def _mask(axis: Axes, one: Segmentation, title: str) -> None:
    _show(axis, one.image, title)
    _tint(axis, one.mask, MASK)
    _outline(axis, one.mask)


def _cutout(axis: Axes, one: Segmentation, title: str) -> None:
    H, W = one.size
    side = max(1, max(H, W) // 24)
    board = (np.arange(H)[:, None] // side + np.arange(W) // side) % 2
    board = (200 + 40 * board[..., None]).astype(np.uint8)
    _show(axis, np.where(one.mask[..., None], one.image, board), title)


def _height(image: np.ndarray, width: float) -> float:
    """Inches for a picture drawn this wide, within reason."""
    H, W = image.shape[:2]
    return float(np.clip(width * H / W, 0.25 * width, 1.5 * width))
