"""Small things in large pictures: overlapping tiles, of which each is looked at as if it were a picture.

As in slicing aided hyper inference (Akyon et al. 2022, https://arxiv.org/abs/2202.06934). What a tile's own border cuts
is left to its neighbours and to the look at the whole picture, so that no thing is found in pieces.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from airl.seg.result import enlarge_heatmap
from airl.seg.sam import Candidates
from airl.seg.seeds import PackedMask, Seed, box_of

Tile = tuple[slice, slice]  # rows and columns of the picture


def cover(size: tuple[int, int], side: int) -> list[Tile]:
    """Tiles of `side` pixels that cover a picture of `size`, (H, W); neighbours overlap by at least half. None if
    `side` is 0 or the picture is no larger than one."""
    if not side or max(size) <= side:
        return []

    def along(length: int) -> list[slice]:
        extent = min(side, length)
        count = 1 + -(-(length - extent) // max(1, side // 2))
        return [slice(start, start + extent) for start in np.linspace(0, length - extent, count).astype(int).tolist()]

    return [(rows, columns) for rows in along(size[0]) for columns in along(size[1])]


def join(
    whole: np.ndarray, tiles: Iterable[tuple[Tile, np.ndarray]], size: tuple[int, int], threshold: float, floor: float
) -> np.ndarray:
    """One prompt's heat-map of a picture, (H, W), from what CLIPSeg gave for the whole of it, (h, w), and for tiles.

    Of a tile, the connected parts above the threshold are taken that reach the floor and are not cut by the tile's
    border, except where that is the picture's. The whole picture's map is taken if it reaches the floor, or if nothing
    else is there.
    """
    joined = np.zeros(size, np.float32)
    for tile, heatmap in tiles:
        part = joined[tile]
        np.maximum(part, enlarge_heatmap(_uncut(heatmap, tile, size, threshold, floor), part.shape), out=part)
    if whole.max() >= floor or not joined.any():
        np.maximum(joined, enlarge_heatmap(whole, size), out=joined)
    return joined


def _uncut(heatmap: np.ndarray, tile: Tile, size: tuple[int, int], threshold: float, floor: float) -> np.ndarray:
    """A tile's heat-map, (h, w), where `join` takes it; 0 elsewhere."""
    import cv2

    _, labels = cv2.connectedComponents((heatmap > threshold).astype(np.uint8), connectivity=8)
    ends = zip(tile, size, labels.shape, (labels, labels.T), strict=True)
    cut = {0}  # 0 is the background
    for along, length, last, lines in ends:
        cut.update(lines[0] if along.start else (), lines[last - 1] if along.stop < length else ())
    kept = np.zeros(heatmap.shape, np.uint8)
    for label in set(labels[heatmap >= floor]) - cut:
        kept[labels == label] = 1
    return heatmap * cv2.dilate(kept, np.ones((3, 3), np.uint8))  # with its slope, for the sake of enlarging


def number_of(seed: Seed, tiles: Sequence[Tile]) -> int | None:
    """Which tile has a seed's region most in its middle; None for a region longer than half of a tile."""
    if not tiles:
        return None
    x0, y0, x1, y1 = box_of(seed.region)
    if max(x1 - x0, y1 - y0) > max(s.stop - s.start for s in tiles[0]) / 2:
        return None

    def off_center(number: int) -> int:
        rows, columns = tiles[number]
        return max(abs(y0 + y1 - rows.start - rows.stop), abs(x0 + x1 - columns.start - columns.stop))

    return min(range(len(tiles)), key=off_center)


def crop(seed: Seed, tile: Tile) -> Seed:
    """A seed of a picture as a seed of a tile of it."""
    offset = np.array([tile[1].start, tile[0].start], float)
    return replace(
        seed,
        point=seed.point - offset,
        packed_region=PackedMask.pack(seed.region[tile]),
        negatives=seed.negatives - offset,
        box=None if seed.box is None else seed.box - np.tile(offset, 2),
        added=seed.added - offset,
    )


def holds(tile: Tile, points: np.ndarray) -> bool:
    """Whether all points, (N, 2) XY of the picture, are on a tile."""
    rows, columns = tile
    low, high = (columns.start, rows.start), (columns.stop - 1, rows.stop - 1)
    return bool(((points >= low) & (points <= high)).all())


def paste(candidates: Candidates, tile: Tile, size: tuple[int, int]) -> Candidates:
    """What SAM offers on a tile as what it offers on the picture, of `size`, (H, W)."""
    enlarge = partial(_paste, enlarge=candidates.enlarge, tile=tile, size=size)
    return replace(candidates, enlarge=enlarge, tile=tile)


def _paste(logits: np.ndarray, enlarge, tile: Tile, size: tuple[int, int]) -> np.ndarray:
    part = enlarge(logits)
    pasted = np.full(size, min(part.min(), -1), np.float32)
    pasted[tile] = part
    return pasted
