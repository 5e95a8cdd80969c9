"""Scenes in a drawing style of its own, which nothing is ever trained on: how far do the embedded models come where
somebody else drew?

The colours and the shapes have the same names as in `airl.scenes.shapes`. All else is another's: OpenCV draws them, at
other sizes and proportions, in pictures of other formats, in other tints, plain or shaded, some with an outline or a
shadow, on paper with lines, wood, clouds or a slope of colours; then the picture is blurred, gets noise and goes
through JPEG.
"""

import colorsys

import cv2
import numpy as np

from airl.scenes import shapes

FINE = 4  # everything is drawn this much larger
FORMATS = ((240, 320), (320, 240), (256, 256), (200, 360), (360, 360))  # (H, W) in pixels
TINTS = {  # hue in degrees, saturation, value: from, to
    "red": ((-9, 9), (0.7, 1.0), (0.6, 0.95)),
    "green": ((95, 150), (0.55, 1.0), (0.4, 0.85)),
    "blue": ((208, 240), (0.6, 1.0), (0.55, 1.0)),
    "yellow": ((47, 60), (0.7, 1.0), (0.85, 1.0)),
    "purple": ((270, 298), (0.45, 0.95), (0.45, 0.85)),
    "white": ((0, 360), (0.0, 0.05), (0.9, 1.0)),
}


def scene(seed: int, present: bool) -> shapes.Scene:
    """Draw a scene of one to five objects that do not touch, the first of which the prompt asks for; with `present`
    False there is nothing that fits it, but, half of the time, its colour and its shape in different objects."""
    rng = np.random.default_rng(seed)
    size = FORMATS[rng.integers(len(FORMATS))]
    colours, kinds = list(shapes.COLOURS), list(shapes.SCENE_SHAPES)
    colour, shape = str(rng.choice(colours)), str(rng.choice(kinds))
    asked = [(colour, shape), (colour, None), (None, shape)][rng.choice(3, p=[0.5, 0.25, 0.25])]
    looks = [(colour, shape)] if present else []
    if not present and rng.random() < 0.5:
        asked = (colour, shape)
        looks = [
            (colour, str(rng.choice([k for k in kinds if k != shape]))),
            (str(rng.choice([c for c in colours if c != colour])), shape),
        ]
    for _ in range(rng.integers(0 if looks else 1, 4)):
        while True:
            look = (str(rng.choice(colours)), str(rng.choice(kinds)))
            if not (asked[0] in (None, look[0]) and asked[1] in (None, look[1])):
                break
        looks.append(look)
    picture, placed = _ground(rng, size), []
    for look in looks:
        spot = _spot(rng, size, [(p.center, p.radius) for p in placed], needed=look in looks[:2])
        if spot is None:
            continue
        center, radius = spot
        cover = _cover(rng, look[1], size, center, radius)
        picture = _paint(rng, picture, cover, look[0], radius)
        placed.append(shapes.Object(look[1], look[0], cover >= 0.5, center, radius))
    kind = "absent" if not present else "convex" if shape in shapes.CONVEX else "concave"
    return shapes.Scene(_print(rng, picture), tuple(placed), kind, shapes.phrase(*asked))


def _spot(rng, size, taken, needed: bool) -> tuple[tuple[float, float], float] | None:
    """A free center (XY) and a radius, from a twelfth to a third of the shorter side."""
    radius = float(np.exp(rng.uniform(np.log(0.08), np.log(0.34)))) * min(size)
    while True:
        for _ in range(30):
            x, y = rng.uniform(radius + 2, np.subtract(size[::-1], radius + 2))
            if all(np.hypot(x - a, y - b) > radius + other + 3 for (a, b), other in taken):
                return (float(x), float(y)), radius
        if not needed:
            return None
        radius *= 0.8


def _cover(rng, shape: str, size, center, radius: float) -> np.ndarray:
    """How much of each pixel the shape covers: float32 (H, W) in [0, 1]."""
    canvas = np.zeros((size[0] * FINE, size[1] * FINE), np.uint8)
    turn = rng.uniform(-28, 28)

    def at(points) -> np.ndarray:  # points: (N, 2) in the unit circle, y downwards, to pixels of the canvas
        a = np.radians(turn)
        turned = np.asarray(points, float) @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
        return ((np.add(turned * radius, center) + 0.5) * FINE).round().astype(np.int32)

    def fill(points, value=255) -> None:
        cv2.fillPoly(canvas, [at(points)], value)

    def round_(middle, r: float, value=255) -> None:
        cv2.circle(canvas, at([middle])[0].tolist(), round(r * radius * FINE), value, -1)

    if shape == "circle":
        round_((0, 0), 0.95)
    elif shape == "square":
        fill(np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.69)
    elif shape == "triangle":
        height, half = rng.uniform(1.25, 1.6), rng.uniform(0.7, 0.86)
        fill([(0, -0.9), (half, height - 0.9), (-half, height - 0.9)])
    elif shape == "star":
        radii = np.where(np.arange(10) % 2, rng.uniform(0.36, 0.5), 1.0)
        angles = np.arange(10) * np.pi / 5
        fill(np.stack([radii * np.sin(angles), -radii * np.cos(angles)], 1))
    elif shape == "ring":
        round_((0, 0), 0.97)
        round_((0, 0), rng.uniform(0.5, 0.7), 0)
    elif shape == "cross":
        arm = rng.uniform(0.2, 0.36)
        fill([(-0.93, -arm), (0.93, -arm), (0.93, arm), (-0.93, arm)])
        fill([(-arm, -0.93), (-arm, 0.93), (arm, 0.93), (arm, -0.93)])
    else:  # a crescent
        round_((0, 0), 0.95)
        round_((rng.uniform(0.38, 0.52), 0), rng.uniform(0.68, 0.8), 0)
    return cv2.resize(canvas, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _tint(rng, colour: str) -> np.ndarray:
    hue, saturation, value = (rng.uniform(*bounds) for bounds in TINTS[colour])
    return np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value), np.float32)


def _paint(rng, picture: np.ndarray, cover: np.ndarray, colour: str, radius: float) -> np.ndarray:
    h, w = cover.shape
    if rng.random() < 0.3:  # a soft shadow to the lower right
        reach = rng.uniform(2, 6)
        moved = cv2.warpAffine(cover, np.float32([[1, 0, reach], [0, 1, reach]]), (w, h))
        picture = picture * (1 - 0.45 * cv2.GaussianBlur(moved, (0, 0), 2.0)[..., None])
    fill = np.broadcast_to(_tint(rng, colour), (h, w, 3)).copy()
    style = rng.choice(["plain", "lit", "hatched"], p=[0.45, 0.35, 0.2])
    if style == "lit":  # brighter above
        rows = np.flatnonzero(cover.max(1) > 0)
        fill *= np.interp(np.arange(h), [rows[0], rows[-1]], [1.1, 0.75]).astype(np.float32)[:, None, None]
    elif style == "hatched":
        ys, xs = np.mgrid[:h, :w]
        fill *= np.where((xs + ys) // int(rng.integers(3, 7)) % 2, 1.0, 0.86).astype(np.float32)[..., None]
    if rng.random() < 0.4:  # an outline, drawn over the edge
        solid = (cover >= 0.5).astype(np.uint8)
        lines = np.zeros((h, w), np.float32)
        contours, _ = cv2.findContours(solid, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(lines, contours, -1, 1.0, min(int(rng.integers(1, 4)), max(1, int(radius / 12))), cv2.LINE_AA)
        lines = (lines.clip(0, 1) * cover)[..., None]
        fill = fill * (1 - lines) + lines * np.float32(rng.choice([0.08, 0.25]))
    return picture * (1 - cover[..., None]) + fill * cover[..., None]


def _ground(rng, size) -> np.ndarray:
    h, w = size
    ys, xs = np.mgrid[:h, :w].astype(np.float32)

    def dull() -> np.ndarray:  # too grey to be taken for an object's colour
        return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.3), rng.uniform(0.15, 0.78)), np.float32)

    one, two = dull(), dull()
    kind = rng.choice(["paper", "slope", "clouds", "wood"])
    if kind == "paper":
        picture = np.broadcast_to(one, (h, w, 3)).copy()
        step = int(rng.integers(10, 28))
        picture[::step] *= 0.8
        if rng.random() < 0.5:
            picture[:, ::step] *= 0.8
        return picture
    if kind == "slope":
        share = np.clip((xs / w * rng.uniform(-1, 1) + ys / h) / 1.5 + 0.2, 0, 1)
    elif kind == "clouds":
        share = np.zeros((h, w), np.float32)
        for octave in range(2, 7):
            noise = rng.random((2**octave, 2**octave), np.float32)
            share += cv2.resize(noise, (w, h), interpolation=cv2.INTER_CUBIC) / octave
        share = np.clip((share - share.mean()) / (4 * share.std()) + 0.5, 0, 1)
    else:
        grain = cv2.resize(rng.random((6, 3), np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
        share = 0.5 + 0.5 * np.sin(ys / rng.uniform(3, 9) + 6 * grain)
    return one + (two - one) * share[..., None]


def _print(rng, picture: np.ndarray) -> np.ndarray:
    """Blur, noise and JPEG: uint8 (H, W, 3)."""
    picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), rng.uniform(0.1, 1.4))
    picture += rng.uniform(0, 0.07) * rng.standard_normal(picture.shape, np.float32)
    picture += rng.uniform(0, 0.03) * rng.standard_normal((*picture.shape[:2], 1), np.float32)  # grey grain
    bgr = np.ascontiguousarray((picture.clip(0, 1) * 255).round().astype(np.uint8)[..., ::-1])
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 96))])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
