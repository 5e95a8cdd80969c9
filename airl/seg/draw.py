"""Objects drawn over a picture: one palette and one look for stills and films."""

from collections.abc import Iterable
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from airl.seg.seeds import box_of

PALETTE = np.array(  # of numbers 1, 2, ...: Okabe & Ito's colours, which the colour-blind tell apart
    [[0, 158, 115], [230, 159, 0], [86, 180, 233], [213, 94, 0], [204, 121, 167], [240, 228, 66], [0, 114, 178]]
)


def colour_of(number: np.ndarray | int) -> np.ndarray:
    """The colour of an object's number, from 1: uint8 (..., 3) RGB."""
    return PALETTE[(np.asarray(number) - 1) % len(PALETTE)].astype(np.uint8)


def overlay(image: np.ndarray, objects: Iterable[tuple[int, np.ndarray, str]]) -> np.ndarray:
    """A copy of a picture with each object tinted, outlined and labelled: uint8 (H, W, 3) RGB.

    objects: number (its colour, see `colour_of`), mask (bool (H, W)) and label of each; empty masks are passed over.
    """
    import cv2

    drawn = image.copy()
    thick = max(2, round(min(image.shape[:2]) / 250))
    taken: list[tuple[int, int, int, int]] = []
    for number, mask, label in objects:
        if not (box := box_of(mask)):
            continue
        x0, y0, x1, y1 = box
        colour, part = colour_of(number), np.s_[y0 : y1 + 1, x0 : x1 + 1]
        inside = mask[part].astype(np.uint8)
        cv2.copyTo(drawn[part] // 2 + colour // 2, inside, drawn[part])  # in a sixth of NumPy's time
        outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(x0, y0))
        cv2.drawContours(drawn, outlines, -1, colour.tolist(), thick)
        taken.append(_write(drawn, label, x0, y0 - thick, 6 * thick, taken))
    return drawn


def _write(
    image: np.ndarray, text: str, x: int, y: int, size: int, taken: list[tuple[int, int, int, int]]
) -> tuple[int, int, int, int]:
    """Put a text into a picture, its lower left corner at (x, y) where there is room, else below what is there: white
    on a dark rim, which is always legible. taken: where texts are, each as what is returned, XYXY."""
    font, rim = _font(size), max(1, size // 8)
    left, top, right, bottom = font.getbbox(text, stroke_width=rim)
    H, W = image.shape[:2]
    x, y = max(0, min(x, W - (right - left))), max(0, y - (bottom - top))
    while any(x < x1 and x0 < x + right - left and y < y1 and y0 < y + bottom - top for x0, y0, x1, y1 in taken):
        y += 1
    y = min(y, max(0, H - (bottom - top)))
    part = image[y : y + bottom - top, x : x + right - left]
    patch = Image.fromarray(part)
    ImageDraw.Draw(patch).text((-left, -top), text, "white", font, stroke_width=rim, stroke_fill="black")
    part[:] = np.asarray(patch)
    return x, y, x + right - left, y + bottom - top


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
