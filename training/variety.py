"""Scenes for training alone, drawn with more variety than `airl.scenes.shapes` has, and with the same truth: objects of
any size, cut by the border, over each other, thicker, thinner or stretched, outlined, shaded, with a shadow, in more
tints of their colours, on more backgrounds, blurred and noisy. Everything is a function of its seed."""

import colorsys

import cv2
import numpy as np

from airl.scenes import drawing, shapes

HUES = {"red": 0.0, "green": 0.36, "blue": 0.62, "yellow": 0.145, "purple": 0.79}  # of HSV; white has none


def scene(seed: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
    """A picture, uint8 (H, W, 3); the number of the object at each pixel, from 1, 0 being the background, uint8 (H, W);
    colour and shape of every object. An object of which too little can be seen is left out."""
    rng = np.random.default_rng(seed)
    picture = ground(rng, size)
    owner = np.zeros(size, np.uint8)
    looks, areas = [], []
    crowd = rng.choice([0, 0.15, 0.4])  # how much of an object others may cover
    scale = 1 if rng.random() < 0.5 else rng.uniform(0.55, 1)  # of any size, or all small
    colours, kinds = list(shapes.COLOURS), list(shapes.SCENE_SHAPES)
    tries = rng.integers(2, 9)
    while tries > 0 or not looks:
        tries -= 1
        colour, shape = str(rng.choice(colours)), str(rng.choice(kinds))
        if looks and rng.random() < 0.4:  # what shares a colour or a shape is hardest to tell
            near = looks[rng.integers(len(looks))]
            colour, shape = (near[0], shape) if rng.random() < 0.6 else (colour, near[1])
        radius = scale * np.exp(rng.uniform(np.log(0.07), np.log(0.38))) * min(size)
        margin = radius * rng.choice([1, 1, 0.6])
        center = rng.uniform(margin, np.maximum(margin + 1, np.subtract(size[::-1], margin)))
        distance = place(rng, shape, size, center, radius)
        mask = distance <= 0
        area = np.count_nonzero(mask)
        covered = np.bincount(owner[mask], minlength=len(looks) + 1)[1:]
        left = np.bincount(owner.ravel(), minlength=len(looks) + 1)[1:] - covered
        if area < 12 or any(c and b < (1 - crowd) * a for c, a, b in zip(covered, areas, left, strict=True)):
            continue
        picture = paint(rng, picture, distance, colour)
        looks.append((colour, shape))
        areas.append(area)
        owner[mask] = len(looks)
    return develop(rng, picture), owner, looks


def place(rng: np.random.Generator, shape: str, size: tuple[int, int], center: np.ndarray, radius: float) -> np.ndarray:
    """About the signed distance to the border of a shape of random proportions: float32 (H, W), in pixels."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
    stretch = np.exp(rng.uniform(-0.12, 0.12))
    turn = rng.uniform(-1.3, 1.3) * shapes.TURN
    x, y = (columns - center[0]) / radius * stretch, (center[1] - rows) / radius / stretch
    x, y = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    bend = np.hypot(x, y).clip(1e-3) ** rng.uniform(-0.15, 0.15) if rng.random() < 0.5 else 1  # points inwards or out
    fat = rng.uniform(-0.06, 0.06)  # arms, rings and tips get thicker or thinner
    return ((drawing.SHAPES[shape](x * bend, y * bend) - fat) * radius).astype(np.float32)


def tint(rng: np.random.Generator, colour: str) -> np.ndarray:
    """A random colour that a person would call by that name: (3,) in [0, 1]."""
    if colour == "white":
        return rng.uniform(0.86, 1) - rng.uniform(0, 0.06, 3)
    if rng.random() < 0.4:
        return np.clip(shapes.COLOURS[colour] + rng.uniform(-0.08, 0.08, 3), 0, 1)
    hue = (HUES[colour] + rng.uniform(-1, 1) * (0.05 if colour in ("green", "blue") else 0.025)) % 1
    dark = 0.75 if colour == "yellow" else 0.5
    return np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.6, 1), rng.uniform(dark, 1)))


def paint(rng: np.random.Generator, picture: np.ndarray, distance: np.ndarray, colour: str) -> np.ndarray:
    """Lay an object over a picture, float32 (H, W, 3)."""
    size = distance.shape
    if rng.random() < 0.25:  # a shadow
        moved = np.roll(distance, rng.integers(-4, 5, 2), (0, 1))
        picture = picture * (1 - rng.uniform(0.2, 0.6) * np.clip(0.5 - moved / rng.uniform(1, 4), 0, 1)[..., None])
    fill = tint(rng, colour) + rng.uniform(0, 0.1) * drawing.blotches(rng, 1, size, int(rng.integers(2, 7)))[0]
    if rng.random() < 0.5:
        fill = fill * (1 + rng.uniform(0, 0.25) * slope(rng, size))
    if rng.random() < 0.5:
        fill = fill + rng.uniform(0, 0.06) * rng.standard_normal((*size, 3), np.float32)
    if rng.random() < 0.35:  # an outline, inside
        width = rng.uniform(0.8, 2.5)
        line = fill * rng.uniform(0.3, 0.8) if rng.random() < 0.6 else np.full(3, rng.choice([0.05, 0.2, 0.9]))
        within = np.clip(0.5 - (distance + width), 0, 1)[..., None]
        fill = line * (1 - within) + fill * within
    alpha = np.clip(0.5 - distance, 0, 1)[..., None]
    return picture * (1 - alpha) + fill * alpha


def slope(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A plane of random direction: float32 (H, W, 1), about [-1, 1]."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32) / max(size) - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    return (2 * (np.cos(angle) * columns + np.sin(angle) * rows))[..., None].astype(np.float32)


def ground(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A background, float32 (H, W, 3): of any brightness, none of the objects' colours."""
    base = rng.uniform(0.05, 0.75) + rng.uniform(-0.13, 0.13, (1, 3))
    picture = drawing.background(rng, base, size)[0]
    if rng.random() < 0.4:  # clouds, coarse and fine
        for cells in (3, 7, 15, 31)[: rng.integers(1, 5)]:
            picture = picture + rng.uniform(0, 0.12) * drawing.blotches(rng, 1, size, cells)[0] * rng.uniform(0.3, 1, 3)
    if rng.random() < 0.3:
        picture = picture + rng.uniform(0, 0.3) * slope(rng, size) * rng.uniform(0.5, 1, 3)
    if rng.random() < 0.2:  # scribbles
        canvas = np.ascontiguousarray(picture, np.float32)
        for _ in range(rng.integers(1, 8)):
            ends = rng.integers(0, size[::-1], (2, 2)).tolist()
            cv2.line(canvas, *ends, [float(c) for c in base[0] + rng.uniform(-0.3, 0.3)], int(rng.integers(1, 3)))
        picture = canvas
    return picture.astype(np.float32)


def develop(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """What a camera does to it: light, contrast, blur, noise; uint8 (H, W, 3)."""
    picture = picture.clip(0, 1.2).astype(np.float32)
    if rng.random() < 0.5:
        picture = picture.clip(0, 1) ** rng.uniform(0.8, 1.25) * rng.uniform(0.88, 1.08)
    if rng.random() < 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.0))
    if rng.random() < 0.5:
        picture = picture + rng.uniform(0, 0.07) * rng.standard_normal(picture.shape, np.float32)
    return drawing.to_uint8(picture)
