"""A result corrected by points: SAM asked again, with what it gave before (see `TextSegmenter.refine`)."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from airl.seg import tiles
from airl.seg.metrics import iou
from airl.seg.result import Segmentation
from airl.seg.sam import Candidates
from airl.seg.seeds import PackedMask, Seed, box_of, depth_of

# (seed, tile, mask_prompt=None) to what SAM offers, which sees a tile of the picture or, for None, all of it.
Ask = Callable[..., Candidates]


def refine(
    ask: Ask,
    one: Segmentation,
    add: Iterable[tuple[float, float]] = (),
    remove: Iterable[tuple[float, float]] = (),
) -> Segmentation:
    """As `TextSegmenter.refine`, which looks at the result's picture when it is asked."""
    added, removed = _points(add, one.size), _points(remove, one.size)
    if not len(added) + len(removed):
        raise ValueError("there is no point to refine by; give add=[(x, y)] or remove=[(x, y)]")
    if not one.seeds and not len(added):
        raise ValueError(f"{one.prompt!r} was not found, so there is nothing to remove from; add a point first")
    instances = [_Asked(*each) for each in zip(one.seeds, one.candidates, one.chosen, strict=True)]
    for point in added:
        if any(instance.is_near(point) for instance in instances):
            _nearest(instances, point).added.append(point)
        else:
            seed = Seed(point, PackedMask.pack(np.zeros(one.size, bool)), np.empty((0, 2)), None)
            candidates = ask(seed, None)
            instances.append(_Asked(seed, candidates, _heeding(candidates, seed)))
    for point in removed:
        _nearest(instances, point).removed.append(point)
    for instance in instances:
        if instance.added or instance.removed:
            instance.ask(ask)
    kept = [instance for instance in instances if not instance.is_removed()] or instances
    return replace(
        one,
        seeds=tuple(instance.seed for instance in kept),
        candidates=tuple(instance.candidates for instance in kept),
        chosen=tuple(instance.chosen for instance in kept),
    )


class _Asked:
    """An instance, with the points that are new to it."""

    def __init__(self, seed: Seed, candidates: Candidates, chosen: int):
        self.seed, self.candidates, self.chosen = seed, candidates, chosen
        self.logits = candidates.enlarge(candidates.logits[chosen])  # float32 (H, W)
        self.added: list[np.ndarray] = []
        self.removed: list[np.ndarray] = []

    def is_near(self, point: np.ndarray) -> bool:
        """Whether a point is in the mask's box, widened by a tenth."""
        if not (box := box_of(self.logits > 0)):
            return False
        low, high = np.array(box[:2]), np.array(box[2:])
        margin = 1 + (high - low).max() / 10
        return bool((point >= low - margin).all() and (point <= high + margin).all())

    def ask(self, ask: Ask) -> None:
        added, negatives = np.array([*self.seed.added, *self.added]), np.array([*self.seed.negatives, *self.removed])
        # No box: it may be what was wrong.
        self.seed = replace(self.seed, added=added.reshape(-1, 2), negatives=negatives.reshape(-1, 2), box=None)
        tile = self.candidates.tile  # a small thing stays as large as it was seen
        if tile and not tiles.holds(tile, self.seed.points):
            tile = None
        self.candidates = _join(ask(self.seed, tile, self.logits), ask(self.seed, tile))
        self.chosen = _heeding(self.candidates, self.seed, self.logits > 0)

    def is_removed(self) -> bool:
        """Whether a point removed was in the middle of the former mask, and SAM gives none without it."""
        mask, depth = self.candidates.mask(self.chosen), depth_of(self.logits > 0)
        places = [tuple(point.round().astype(int)[::-1]) for point in self.removed]
        return any(mask[place] and depth[place] > depth.max() / 2 for place in places)


def _points(points: Iterable[tuple[float, float]], size: tuple[int, int]) -> np.ndarray:
    """(N, 2) float64 XY. Raises ValueError for what is no point in a picture of this size."""
    points, (H, W) = np.array(list(points), float).reshape(-1, 2), size
    outside = ~((points >= 0) & (points <= (W - 1, H - 1))).all(1)  # true for NaN too
    if outside.any():
        raise ValueError(f"a point is (x, y) in the picture of {W} x {H} pixels; got {points[outside].tolist()}")
    return points


def _nearest(instances: list[_Asked], point: np.ndarray) -> _Asked:
    """The instance that a point is in or next to."""
    x, y = point.round().astype(int)
    return min(instances, key=lambda instance: depth_of(instance.logits <= 0)[y, x])


def _join(some: Candidates, more: Candidates) -> Candidates:
    logits, scores = np.concatenate([some.logits, more.logits]), np.concatenate([some.scores, more.scores])
    return replace(some, logits=logits, scores=scores)


def _heeding(candidates: Candidates, seed: Seed, former: np.ndarray | None = None) -> int:
    """The mask that heeds most of a seed's points; of those the highest product of score and IoU with the former."""
    x, y = seed.points.round().astype(int).T

    def rank(i: int) -> tuple[int, float]:
        mask = candidates.mask(i)
        agreement = 1.0 if former is None else iou(mask, former)
        return int((mask[y, x] == seed.labels).sum()), float(candidates.scores[i]) * agreement

    return max(range(len(candidates.scores)), key=rank)
