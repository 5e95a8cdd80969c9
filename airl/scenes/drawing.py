"""Drawing with exact truth: what `airl.scenes.shapes` is made of.

A shape is one function of local coordinates, (x, y) with y upwards and the shape inside the unit circle, that
returns a signed distance: negative inside, positive outside, true to scale near the border. Its sign is the
mask; its value, in pixels, is the anti-aliasing. So a picture and its mask cannot disagree.
"""

from collections.abc import Callable

import numpy as np

ShapeFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _polygon(x: np.ndarray, y: np.ndarray, corners: list) -> np.ndarray:
    """Signed distance to a closed polygon: that of the nearest edge, its sign by counting crossings."""
    nearest = np.full(np.shape(x), np.inf, np.float32)  # squared
    inside = np.zeros(np.shape(x), bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        px, py = x - ax, y - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (px - along * ex) ** 2 + (py - along * ey) ** 2)
        if ey:  # a ray to the right of the point crosses this edge
            inside ^= ((y >= ay) != (y >= by)) & (px < py * (ex / ey))
    return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(nearest)


def _circle(x, y):
    return np.hypot(x, y) - 0.92


def _square(x, y):
    return _polygon(x, y, [(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)])


def _triangle(x, y):
    return _polygon(x, y, [(0, 1), (-0.87, -0.5), (0.87, -0.5)])


def _star(x, y):
    turns = np.pi / 2 + np.pi / 5 * np.arange(10)
    radii = np.where(np.arange(10) % 2, 0.42, 1.0)
    return _polygon(x, y, np.stack([radii * np.cos(turns), radii * np.sin(turns)], axis=1).tolist())


def _ring(x, y):
    return np.abs(np.hypot(x, y) - 0.76) - 0.21


def _cross(x, y):
    a, b = 0.27, 0.95  # half the width and half the length of an arm
    return _polygon(np.abs(x), np.abs(y), [(-1, -1), (b, -1), (b, a), (a, a), (a, b), (-1, b)])


def _heart(x, y):
    """A square on its corner and, on its two upper sides, half discs: mirrored in the y axis."""
    a, middle = 0.55, -0.18  # half the square's side; its middle's height
    x, y = np.abs(x), y - middle
    square = (x + np.abs(y)) / 2**0.5 - a
    disc = np.hypot(x - a / 2**0.5, y - a / 2**0.5) - a
    return np.minimum(square, disc)


def _crescent(x, y):
    """A disc less a smaller one that bites into it from the right."""
    return np.maximum(np.hypot(x - 0.08, y) - 0.93, 0.73 - np.hypot(x - 0.5, y))


def _arrow(x, y):
    y = np.abs(y)
    return _polygon(x, y, [(-0.92, -1), (-0.92, 0.27), (0.15, 0.27), (0.15, 0.75), (0.98, 0), (0.98, -1)])


def _bolt(x, y):
    upper = [(0.25, 0.98), (-0.6, -0.12), (-0.08, -0.12)]
    return _polygon(x, y, upper + [(-a, -b) for a, b in upper])


SHAPES: dict[str, ShapeFunction] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
    "arrow": _arrow,
    "bolt": _bolt,
}


def distance(
    shape: str, size: tuple[int, int], center: np.ndarray, radius: np.ndarray, turn: np.ndarray
) -> np.ndarray:
    """Signed distance from every pixel's middle to the border of N placed shapes; negative inside.

    size: (H, W). center: (N, 2), XY in pixels, (0, 0) being the middle of the upper left pixel. radius: (N,),
    in pixels. turn: (N,), in radians, counter-clockwise as seen. Returns float32 (N, H, W), in pixels.
    """
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
    center, radius, turn = (np.asarray(a, np.float32) for a in (center, radius, turn))
    dx = (columns - center[:, 0, None, None]) / radius[:, None, None]  # (N, H, W)
    dy = (center[:, 1, None, None] - rows) / radius[:, None, None]  # upwards
    cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    return SHAPES[shape](cos * dx + sin * dy, cos * dy - sin * dx) * radius[:, None, None]


def blotches(rng: np.random.Generator, n: int, size: tuple[int, int], cells: int) -> np.ndarray:
    """`cells` by `cells` random values, enlarged bilinearly: float32 (n, H, W, 1) in [-1, 1]."""
    grid = rng.uniform(-1, 1, (n, cells, cells)).astype(np.float32)

    def tents(length: int) -> np.ndarray:  # (length, cells): the weight of every cell at every pixel
        at = np.linspace(0, cells - 1, length, dtype=np.float32)
        return np.clip(1 - np.abs(at[:, None] - np.arange(cells, dtype=np.float32)), 0, 1)

    return (tents(size[0]) @ grid @ tents(size[1]).T)[..., None]


def background(rng: np.random.Generator, colour: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """N textured surfaces around N colours: plain, blotches, stripes, a slope or checks, all with fine noise.

    colour: (N, 3) in [0, 1]. size: (H, W). Returns float32 (N, H, W, 3), about [0, 1], not clipped.
    """
    n = len(colour)
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32) / max(size)
    angle = rng.uniform(0, 2 * np.pi, (n, 1, 1)).astype(np.float32)
    along = np.cos(angle) * columns + np.sin(angle) * rows  # (N, H, W)
    across = np.cos(angle) * rows - np.sin(angle) * columns
    waves = rng.uniform(3, 9, (n, 1, 1)).astype(np.float32) * 2 * np.pi
    textures = np.stack(
        [
            np.zeros((n, *size), np.float32),
            blotches(rng, n, size, 5)[..., 0],
            np.sin(along * waves),
            (along - along.mean((1, 2), keepdims=True)) * 2.5,
            np.sign(np.sin(along * waves) * np.sin(across * waves)),
        ]
    )  # (5, N, H, W)
    texture = textures[rng.integers(0, len(textures), n), np.arange(n)][..., None]  # (N, H, W, 1)
    tint = rng.uniform(-0.22, 0.22, (n, 1, 1, 3)).astype(np.float32)
    grain = rng.uniform(0.01, 0.06, (n, 1, 1, 1)).astype(np.float32)
    noise = rng.standard_normal((n, *size, 3), np.float32)
    return (colour[:, None, None, :] + texture * tint + noise * grain).astype(np.float32)


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """Float [0, 1], clipped, to uint8 by rounding."""
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
