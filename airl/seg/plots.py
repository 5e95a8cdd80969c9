"""What a person looks at: how a prompt became a mask, step by step. Each function but `explore` returns a Figure."""

import html
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from airl.figures import Figure
from airl.seg.draw import colour_of
from airl.seg.metrics import iou
from airl.seg.pipeline import TextSegmenter
from airl.seg.result import Segmentation, label_map
from airl.seg.seeds import STRATEGIES, furthest_inside
from airl.seg.video.frames import open_clip
from airl.seg.video.result import Tracking

SEED, NEGATIVE = "#ff3b30", "#1e90ff"
MASK, OTHER = (0.0, 1.0, 0.5), (0.2, 0.5, 1.0)
LONGEST = 1000  # pixels: what is drawn of a larger picture
AGREEMENT = 0.5  # the least IoU of SAM's mask and the coarse mask that leaves no doubt


def picture(image: np.ndarray) -> Figure:
    """A picture, uint8 (H, W, 3) RGB, with its size."""
    H, W = image.shape[:2]
    figure, axis = _one(image)
    _show(axis, image, f"The picture, {W} x {H} pixels")
    return figure


def steps(one: Segmentation) -> Figure:
    """Every step of one segmentation, a row each for CLIPSeg, for SAM and for what came out; if nothing was found, the
    first alone; SAM 3 has no second."""
    rows = 1 + one.found + bool(one.seeds)
    size = (11, 0.6 + rows * (0.2 + _height(one.image, 11 / 3)))
    figure = Figure(figsize=size)
    axes = figure.subplots(rows, 3, squeeze=False)
    _show(axes[0, 0], one.image, "picture")
    _heatmap(axes[0, 1], one, "CLIPSeg's heat-map")
    _seeds(axes[0, 2], one, "coarse mask and seed")
    if one.found:
        _result(axes[-1], one)
    if one.seeds:
        _candidates(axes[1], one)
    figure.suptitle(verdict(one))
    return figure


def heatmap(one: Segmentation) -> Figure:
    """CLIPSeg's probabilities laid over the picture, with their scale."""
    figure, axis = _one(one.image, wider=0.8)
    drawn = _heatmap(axis, one, f"CLIPSeg's heat-map of {_quoted(one.prompt)}")
    figure.colorbar(drawn, ax=axis, label="probability", fraction=0.046)
    return figure


def seeds(one: Segmentation) -> Figure:
    """The coarse mask over the picture, and on it what SAM is told: points and boxes."""
    figure, axis = _one(one.image)
    _seeds(axis, one, "Coarse mask (white) and seed (red star)")
    return figure


def candidates(one: Segmentation) -> Figure:
    """SAM's masks for the first seed, with the IoU it expects of each; the one taken is framed."""
    figure = Figure(figsize=(12, 0.9 + _height(one.image, 4)))
    _candidates(figure.subplots(1, 3), one)
    if one.seeds:
        figure.suptitle("SAM's three masks for the seed, with the IoU that it expects of each")
    return figure


def result(one: Segmentation) -> Figure:
    """The mask, the picture with the mask over it, and the object cut out."""
    figure = Figure(figsize=(12, 1.1 + _height(one.image, 4)))
    _result(figure.subplots(1, 3), one)
    figure.suptitle(verdict(one))
    return figure


def overlay(one: Segmentation) -> Figure:
    """The picture with the mask over it, and the verdict."""
    figure, axis = _one(one.image)
    _mask(axis, one, "\n".join(textwrap.fill(line, 70) for line in verdict(one).splitlines()))
    for seed in one.seeds:
        _points(axis, seed)
    return figure


def explore(segmenter: TextSegmenter, prompt: str, hint: str = ""):
    """Widgets for a notebook: prompt, threshold, floor and seeding, and beside them what they give on the picture set;
    below them a point to add or to remove there (see `TextSegmenter.refine`), and to take back.

    They start from the segmenter's recipe. hint: a sentence for below them. Returns an `ipywidgets.HBox`; without
    ipywidgets the overlay as it is, a Figure, and says so.
    """
    try:
        from ipywidgets import HTML, Button, Dropdown, FloatSlider, HBox, Image, IntSlider, Layout, Text, VBox
    except ImportError:
        print("a still picture, for want of ipywidgets; for the controls: pip install ipywidgets, then restart")
        return overlay(segmenter.segment(prompt))

    def slider(name: str) -> FloatSlider:
        value = getattr(segmenter.recipe, name)
        return FloatSlider(value, min=0.01, max=0.99, step=0.01, description=name, continuous_update=False)

    def place(name: str, side: int) -> IntSlider:
        return IntSlider(side // 2, min=0, max=side - 1, description=name, continuous_update=False)

    controls = {
        "prompt": Text(prompt, description="prompt", continuous_update=False),
        "threshold": slider("threshold"),
        "floor": slider("floor"),
        "seeding": Dropdown(options=list(STRATEGIES), value=segmenter.recipe.seeding, description="seeding"),
    }
    x, y = map(place, "xy", segmenter.image.shape[1::-1])
    buttons = {name: Button(description=name, layout=Layout(width="84px")) for name in ("add", "remove", "undo")}
    within = Layout(width="auto", max_width="560px", max_height="440px", object_fit="contain")
    drawn = Image(format="png", layout=within)
    message = HTML()
    results: list[Segmentation] = []  # the prompt's, and after it one for each point

    def segment() -> None:
        results.clear()
        changes = {name: control.value for name, control in controls.items()}
        results.append(segmenter.segment(changes.pop("prompt"), **changes))

    def correct(kind: str) -> None:
        if not results:
            segment()
        results.append(segmenter.refine(results[-1], **{kind: [(x.value, y.value)]}))

    def show(change: Callable[[], object] = lambda: None) -> None:
        try:
            change()
        except ValueError as error:  # such as an empty prompt
            message.value = f"<p>{html.escape(str(error))}</p>"
            return
        if not results:
            return
        figure = overlay(results[-1])
        figure.axes[0].set_title("")  # the message says it
        for line in (figure.axes[0].axvline(x.value), figure.axes[0].axhline(y.value)):
            line.set(color="white", linewidth=1, linestyle=":")
        drawn.value = figure._repr_png_()
        first, second = map(html.escape, verdict(results[-1]).split("\n"))
        message.value = f"<p><b>{first}</b><br>{second}</p><p>{html.escape(hint)}</p>"

    for control in controls.values():
        control.observe(lambda _: show(segment), "value")
    for control in (x, y):
        control.observe(lambda _: show(), "value")
    for kind in ("add", "remove"):
        buttons[kind].on_click(lambda _, kind=kind: show(lambda: correct(kind)))
    buttons["undo"].on_click(lambda _: show(lambda: results[1:] and results.pop()))
    show(segment)
    column = [*controls.values(), x, y, HBox(list(buttons.values())), message]
    return HBox([VBox(column, layout=Layout(width="340px", flex="0 0 auto")), drawn])


def labels(many: Sequence[Segmentation]) -> Figure:
    """Several prompts of one picture in one map, numbered, with a legend that says which of them are not there."""
    numbers, legend = label_map(many)
    figure, axis = _map(many[0].image, "Several prompts in one map")
    handles = []
    for (number, prompt), one in zip(legend.items(), many, strict=True):
        text = f"{number}  {textwrap.shorten(prompt, 40, placeholder=' …')}"
        handles.append(_numbered(axis, number, numbers == number, text if one.found else f"{text}: not there"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    return figure


def instances(one: Segmentation) -> Figure:
    """Each instance in its own colour and numbered, with a legend of scores and areas."""
    found = one.instances
    figure, axis = _map(one.image, f"{_quoted(one.prompt)}: {len(found)} instance{'s' * (len(found) != 1)}")
    handles = []
    for number, instance in enumerate(found, 1):
        text = f"{number}  score {_clipped(instance.score):.2f}, {instance.area:,} pixels"
        handles.append(_numbered(axis, number, instance.mask, text))
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    return figure


def filmstrip(tracking: Tracking, count: int = 6) -> Figure:
    """So many frames of a tracked clip, evenly spaced, each with its number and its masks tinted."""
    chosen = {round(t) for t in np.linspace(0, len(tracking) - 1, min(count, len(tracking)))}
    frames = {t: frame for t, frame in enumerate(open_clip(tracking.video).read()) if t in chosen}
    columns = min(3, len(frames))
    rows = -(-len(frames) // columns)
    figure = Figure(figsize=(12, 0.6 + rows * (0.3 + _height(frames[0], 12 / columns))))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (t, frame) in zip(axes, frames.items(), strict=False):
        _show(axis, frame, f"frame {t}")
    for axis in axes[len(frames) :]:
        axis.set_axis_off()
    figure.suptitle(f"{', '.join(map(_quoted, tracking.prompts))} in {len(frames)} of {len(tracking)} frames")
    return figure


def verdict(one: Segmentation) -> str:
    """Whether the prompt's object was found, and on the next line what speaks for that or against it.

    It is doubtful where SAM's mask is another thing than the coarse mask: on 212 drawn scenes that held for 47 of the
    48 masks with an IoU with the truth below 0.4, and for none of the 164 with one above 0.7.
    """
    quoted = _quoted(one.prompt)
    if not one.found:
        return f"{quoted} is not there\nthe highest probability is {one.peak:.2f}, at least {one.floor:.2f} is needed"
    coarse, warnings = one.coarse, []
    agreement = iou(one.mask, coarse)
    if not all(coarse[tuple(np.rint(seed.point[::-1]).astype(int))] for seed in one.seeds):
        warnings.append("a seed lies outside the coarse mask")
    if agreement < AGREEMENT:
        warnings.append(f"SAM's mask and the coarse mask have an IoU of only {agreement:.2f}")
        return f"{quoted}: doubtful\n{'; '.join(warnings)}"
    scores = [f"peak probability {one.peak:.2f}", f"SAM expects an IoU of {_clipped(one.score):.2f}"]
    return f"{quoted}: found\n{'; '.join(scores + warnings)}"


# ------------------------------------------------------------------------------------------------- one axis each


def _one(image: np.ndarray, wider: float = 0.0) -> tuple[Figure, Axes]:
    """A figure for one picture; `wider` inches for what stands beside it."""
    figure = Figure(figsize=(6 + wider, 0.7 + _height(image, 5.5)))
    return figure, figure.subplots()


def _map(image: np.ndarray, title: str) -> tuple[Figure, Axes]:
    """A figure for one picture, with room for a legend."""
    figure = Figure(figsize=(8.5, 0.6 + _height(image, 5.5)))
    axis = figure.subplots()
    _show(axis, image, title)
    return figure, axis


def _numbered(axis: Axes, number: int, mask: np.ndarray, text: str) -> Patch:
    """A mask in its number's colour, outlined and numbered. Returns its handle for a legend: no colour if empty."""
    colour = tuple(colour_of(number) / 255)
    if not mask.any():
        return Patch(color="none", label=text)
    _tint(axis, mask, colour, 0.7)
    _outline(axis, mask, colour)
    axis.text(
        *furthest_inside(mask), number, color="white", weight="bold", ha="center", va="center", bbox=dict(color=colour)
    )
    return Patch(color=colour, label=text)


def _quoted(prompt: str) -> str:
    return f"“{textwrap.shorten(prompt, 50, placeholder=' …')}”"


def _clipped(score: float) -> float:
    """SAM's estimate of an IoU may be beyond [0, 1], where no IoU is."""
    return min(max(score, 0.0), 1.0)


def _show(axis: Axes, image: np.ndarray, title: str, **how):
    """Draw an array (H, W[, C]), thinned out when it is very large, in the picture's own coordinates."""
    H, W = image.shape[:2]
    axis.set_title(title, fontsize=10)
    axis.set(xticks=[], yticks=[])
    drawn = axis.imshow(_thin(image), extent=(-0.5, W - 0.5, H - 0.5, -0.5), interpolation="nearest", **how)
    axis.autoscale(False)
    return drawn


def _thin(image: np.ndarray) -> np.ndarray:
    step = -(-max(image.shape[:2]) // LONGEST)
    return image[::step, ::step]


def _tint(axis: Axes, mask: np.ndarray, colour: tuple[float, ...], alpha: float = 0.5) -> None:
    """A mask in a colour, over what is drawn already."""
    H, W = mask.shape
    rgba = _thin(mask)[..., None] * np.array([*colour, alpha])
    axis.imshow(rgba, extent=(-0.5, W - 0.5, H - 0.5, -0.5), interpolation="nearest")


def _outline(axis: Axes, mask: np.ndarray, colour="white") -> None:
    """A tint alone is lost on a picture of its colour."""
    framed = np.pad(_thin(mask), 1)  # so that the line closes at the picture's border
    if framed.any():
        columns, rows = (np.linspace(-1, side, n) for side, n in zip(mask.shape[::-1], framed.shape[::-1], strict=True))
        for ink, width in (("black", 3), (colour, 1.6)):
            axis.contour(columns, rows, framed, levels=[0.5], colors=[ink], linewidths=width)


def _heatmap(axis: Axes, one: Segmentation, title: str):
    """The picture shines through where the probability is low."""
    _show(axis, one.image // 2 + 64, textwrap.fill(f"{title} (peak {one.peak:.2f})", 60))
    heatmap = one.heatmap
    alpha = 0.9 * _thin(heatmap) ** 0.5
    return _show(axis, heatmap, axis.get_title(), cmap="inferno", vmin=0, vmax=1, alpha=alpha)


def _seeds(axis: Axes, one: Segmentation, title: str) -> None:
    _show(axis, one.image // 2, title if one.found else "No seed: it is not there")
    _tint(axis, one.coarse, (1, 1, 1), 0.75)
    for seed in one.seeds:
        _points(axis, seed)


def _points(axis: Axes, seed) -> None:
    axis.plot(*seed.points[seed.labels == 1].T, "*", color=SEED, markersize=15, markeredgecolor="white")
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
        title = f"SAM's mask {i + 1}{which}: {_clipped(offered.scores[i]):.2f}"
        _show(axis, one.image, f"{title}, taken" if i == taken else title)
        mask = offered.mask(i)
        _tint(axis, mask, MASK if i == taken else OTHER)
        _outline(axis, mask)
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
