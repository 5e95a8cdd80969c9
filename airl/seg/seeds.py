"""From a heat-map to seeds: where to point SAM, and whether there is anything to point at.

Arrays in, arrays out. A coordinate is XY in pixels of the heat-map, which is as large as the picture; (0, 0) is the
middle of the upper left pixel, so that (x, y) rounded is heatmap[y, x].
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class PackedMask:
    """A mask in an eighth of its memory."""

    bits: np.ndarray  # uint8, 8 pixels each, row by row
    size: tuple[int, int]  # (H, W)

    @classmethod
    def pack(cls, mask: np.ndarray) -> "PackedMask":
        """Pack a bool mask (H, W)."""
        return cls(np.packbits(mask), mask.shape)

    def unpack(self) -> np.ndarray:
        """The mask: a new bool (H, W)."""
        H, W = self.size
        return np.unpackbits(self.bits, count=H * W).view(bool).reshape(H, W)


@dataclass(frozen=True, eq=False)
class Seed:
    """What SAM is told to get one mask."""

    point: np.ndarray  # (2,) float64 XY, on the object; or, for a hollow one, where its center of mass is
    packed_region: PackedMask
    negatives: np.ndarray  # (K, 2) float64 XY, off the object; K may be 0
    box: np.ndarray | None  # (4,) float64 XYXY, the outermost pixels of the region
    added: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))  # (A, 2) float64 XY, also on the object

    @property
    def region(self) -> np.ndarray:
        """The part of the coarse mask that this seed stands for: a new bool (H, W)."""
        return self.packed_region.unpack()

    @property
    def points(self) -> np.ndarray:
        """All points, (1 + A + K, 2) float64 XY: the positive ones first."""
        return np.concatenate([self.point[None], self.added, self.negatives])

    @property
    def labels(self) -> np.ndarray:
        """(1 + A + K,) int64: 1 for the positive points, 0 for the negatives."""
        return np.array([1] * (1 + len(self.added)) + [0] * len(self.negatives))


@dataclass(frozen=True, eq=False)
class Seeding:
    """The seeds of one heat-map, and the decision whether what was asked for is present."""

    coarse: np.ndarray  # bool (H, W): heatmap > threshold
    seeds: tuple[Seed, ...]  # one SAM mask each, to be united; empty when nothing was found
    peak: float  # the heat-map's highest probability
    floor: float  # what the peak has to reach

    @property
    def found(self) -> bool:
        """Presence: the peak reaches the floor and the coarse mask is not empty."""
        return bool(self.seeds)


def make_seeds(
    heatmap: np.ndarray,
    strategy: str = "center_of_mass",
    *,
    threshold: float = 0.5,
    floor: float = 0.5,
    box: bool = False,
    negatives: int = 0,
    min_area: float = 0.0005,
) -> Seeding:
    """Threshold a heat-map into a coarse mask and place seeds on it.

    heatmap: probabilities, float (H, W) in [0, 1]. strategy: one of STRATEGIES.

    - "center_of_mass": one seed at the coarse mask's center of mass, which for a ring, a crescent or several
      objects may lie beside them
    - "interior": one seed at the pixel of the coarse mask that is furthest from its border
    - "components": a seed of the "interior" kind for each connected component (diagonal neighbours connect) of at
      least `min_area`, as a share of the picture; the largest component counts whatever its size

    box: whether each seed gets a box around its region. negatives: up to how many negative points it gets: in the
    box widened by a tenth, each as far as possible from the coarse mask and the points before it.

    Raises ValueError for an unknown strategy and for a heat-map that is not as described.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown seeding {strategy!r}; choose one of {', '.join(STRATEGIES)}")
    heatmap = np.asarray(heatmap)
    if heatmap.ndim != 2 or not heatmap.size or not np.issubdtype(heatmap.dtype, np.floating):
        raise ValueError(f"a heat-map is float (H, W); got {heatmap.dtype} {heatmap.shape}")
    low, peak = float(heatmap.min()), float(heatmap.max())
    if not (low >= 0 and peak <= 1):  # false for NaN too
        raise ValueError(f"a heat-map holds probabilities in [0, 1]; got [{low}, {peak}]: apply a sigmoid to logits")

    coarse = heatmap > threshold
    if peak < floor or not coarse.any():
        return Seeding(coarse, (), peak, floor)
    seeds = []
    for point, region in STRATEGIES[strategy](coarse, min_area):
        edges = box_of(region)
        seeds.append(
            Seed(
                point=point,
                packed_region=PackedMask.pack(region),
                negatives=_negatives(coarse, edges, negatives),
                box=np.array(edges, float) if box else None,
            )
        )
    return Seeding(coarse, tuple(seeds), peak, floor)


def _center_of_mass(mask: np.ndarray, min_area: float) -> list[tuple[np.ndarray, np.ndarray]]:
    columns, rows = mask.sum(0), mask.sum(1)
    x = columns @ np.arange(len(columns)) / columns.sum()
    y = rows @ np.arange(len(rows)) / rows.sum()
    return [(np.array([x, y]), mask)]


def _interior(mask: np.ndarray, min_area: float) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(furthest_inside(mask), mask)]


def _components(mask: np.ndarray, min_area: float) -> list[tuple[np.ndarray, np.ndarray]]:
    import cv2

    x0, y0, x1, y1 = box_of(mask)
    inside = mask[y0 : y1 + 1, x0 : x1 + 1].astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]  # 0 is the background
    order = 1 + np.argsort(-areas, kind="stable")
    kept = [order[0]] + [i for i in order[1:] if areas[i - 1] >= min_area * mask.size]
    found = []
    for i in kept:
        x, y, w, h = stats[i, :4]
        part, region = labels[y : y + h, x : x + w] == i, np.zeros_like(mask)
        region[y0 + y : y0 + y + h, x0 + x : x0 + x + w] = part
        found.append((furthest_inside(part) + (x0 + x, y0 + y), region))
    return found


Strategy = Callable[[np.ndarray, float], list[tuple[np.ndarray, np.ndarray]]]
STRATEGIES: dict[str, Strategy] = {
    "center_of_mass": _center_of_mass,
    "interior": _interior,
    "components": _components,
}


def depth_of(mask: np.ndarray) -> np.ndarray:
    """Euclidean distance of each pixel to the nearest outside the mask; beyond the frame is outside."""
    import cv2

    framed = np.pad(mask.astype(np.uint8), 1)
    return cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def furthest_inside(mask: np.ndarray) -> np.ndarray:
    """XY of the pixel of a mask, not empty, that is furthest from its border: float64 (2,)."""
    x0, y0, x1, y1 = box_of(mask)
    depth = depth_of(mask[y0 : y1 + 1, x0 : x1 + 1])
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return np.array([x0 + x, y0 + y], float)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """XYXY of the outermost pixels of a bool mask (H, W); None for an empty one."""
    rows = np.flatnonzero(mask.any(1))
    if not rows.size:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _negatives(coarse: np.ndarray, box: tuple[int, int, int, int], count: int) -> np.ndarray:
    if not count:
        return np.empty((0, 2))
    H, W = coarse.shape
    x0, y0, x1, y1 = box
    margin = 1 + max(x1 - x0, y1 - y0) // 10
    x0, y0 = max(x0 - margin, 0), max(y0 - margin, 0)
    x1, y1 = min(x1 + margin, W - 1), min(y1 + margin, H - 1)
    free = ~coarse[y0 : y1 + 1, x0 : x1 + 1]  # a copy
    rows, columns = np.mgrid[: free.shape[0], : free.shape[1]]
    points = []
    while len(points) < count and free.any():
        depth = depth_of(free)
        y, x = np.unravel_index(depth.argmax(), free.shape)
        points.append((x0 + x, y0 + y))
        free &= np.hypot(columns - x, rows - y) > depth[y, x]
    return np.array(points, float).reshape(-1, 2)
