"""Masks in the forms that other tools read: COCO's run lengths and polygons."""

import numpy as np

from airl.seg.result import run_lengths


def compressed_run_lengths(mask: np.ndarray) -> str:
    """COCO's compressed run lengths of a bool mask (H, W), as pycocotools writes them.

    From the third run on, the difference from the run before the last stands for its length; a number is written five
    bits at a time, the lowest first, as characters from "0" (48) on, of which 32 says that more bits follow.
    """
    lengths = run_lengths(mask)
    characters = bytearray()
    for i, length in enumerate(lengths):
        left = length - lengths[i - 2] if i > 2 else length
        more = True
        while more:
            bits, left = left & 31, left >> 5
            more = left != (-1 if bits & 16 else 0)
            characters.append(48 + bits + 32 * more)
    return characters.decode()


def polygons(mask: np.ndarray) -> list[list[int]]:
    """The outlines of a bool mask (H, W) as COCO's polygons: [x, y, x, y, ...] for each part that hangs together.

    Coordinates are those of the pixels' corners: (0, 0) is the picture's upper left corner, (W, H) its lower right
    one, so that pycocotools fills exactly the mask. A part with holes is one polygon that leads to each hole and back
    on the same line.
    """
    import cv2

    twice = mask.astype(np.uint8).repeat(2, 0).repeat(2, 1)  # so that a pixel has a border on each of its sides
    outlines, tree = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parts: dict[int, list[np.ndarray]] = {}  # the outline of each part and those of its holes, each (N, 2) XY
    for i, outline in enumerate(outlines):
        corners = (outline[:, 0] + 1) // 2
        corners = corners[(corners != np.roll(corners, 1, 0)).any(1)]
        parent = tree[0, i, 3]
        parts.setdefault(i if parent < 0 else parent, []).append(corners)
    rings = [
        np.concatenate([outer, *(part for hole in holes for part in (outer[:1], hole, hole[:1])), outer[: bool(holes)]])
        for outer, *holes in parts.values()
    ]
    return [ring.ravel().tolist() for ring in rings]
