"""Moving scenes whose truth is known exactly: the video half of `airl.scenes.shapes`.

    one = clips.clip(seed=3, frames=32, kind="returning")
    images, ids = one.render()          # uint8 (T, H, W, 3), uint8 (T, H, W)
    one.prompt, one.asked()             # "a red star", (2,)

The objects of `shapes` move from waypoint to waypoint before a still background, hide each other, leave and return.
Everything is a function of the seed. A frame is drawn when it is asked for, so that a clip of any length is small.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from airl.scenes import drawing, shapes

KINDS = ("moving", "occluded", "returning", "late", "lookalikes", "absent")
CYCLE = 40  # frames: in longer clips what happens to the object happens again


@dataclass(frozen=True, eq=False)
class Mover:
    """One object of a clip. Its center goes from waypoint to waypoint at even speed; it sways about its upright."""

    shape: str  # one of shapes.SCENE_SHAPES
    colour: str  # one of shapes.COLOURS
    radius: float  # of the circle around it, in pixels
    times: np.ndarray  # (K,) frames, increasing
    waypoints: np.ndarray  # (K, 2) XY in pixels, perhaps outside the picture
    sway: tuple[float, float, float]  # radians, radians a frame, phase
    fill: np.ndarray = field(repr=False)  # float32 (S, S, 3): its surface, which moves along

    def center(self, t: int) -> np.ndarray:
        """XY in pixels at frame t: float64 (2,)."""
        return np.array([np.interp(t, self.times, line) for line in self.waypoints.T])

    def turn(self, t: int) -> float:
        """Radians, counter-clockwise, at frame t."""
        amplitude, speed, phase = self.sway
        return amplitude * np.sin(speed * t + phase)

    def matches(self, prompt: str) -> bool:
        """Whether `prompt` (see `shapes.parse`) is about this object."""
        colour, shape = shapes.parse(prompt)
        return colour in (None, self.colour) and shape in (None, self.shape)


@dataclass(frozen=True, eq=False)
class Clip:
    """A moving scene, and one prompt that makes it a test of its kind. The object with id i is `objects[i - 1]`."""

    objects: tuple[Mover, ...]  # from back to front
    kind: str  # one of KINDS
    prompt: str  # true of the clip, except when kind is "absent"
    size: tuple[int, int]  # H, W
    frames: int
    seed: int
    background: np.ndarray = field(repr=False)  # float32 (H, W, 3)
    pillar: tuple[int, int] | None  # the columns, from and to, that stand before everything

    def __len__(self) -> int:
        return self.frames

    def asked(self, prompt: str | None = None) -> tuple[int, ...]:
        """The ids of the objects that a prompt, by default the clip's own, is about."""
        return tuple(i for i, thing in enumerate(self.objects, 1) if thing.matches(prompt or self.prompt))

    def draw(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame t: the picture, uint8 (H, W, 3) RGB, and the id of the object seen at each pixel, uint8 (H, W); 0 is
        none. Raises IndexError for a frame that the clip does not have."""
        if not 0 <= t < self.frames:
            raise IndexError(f"the clip has the frames 0 to {self.frames - 1}; there is no frame {t}")
        picture, ids = self.background.copy(), np.zeros(self.size, np.uint8)
        for number, thing in enumerate(self.objects, 1):
            center, side = thing.center(t), len(thing.fill)
            left, top = np.floor(center - side / 2 + 1).astype(int)
            x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, self.size[1]), min(top + side, self.size[0])
            if x0 >= x1 or y0 >= y1:
                continue
            distance = drawing.distance(
                thing.shape, (y1 - y0, x1 - x0), [center - (x0, y0)], [thing.radius], [thing.turn(t)]
            )[0]
            alpha = np.clip(0.5 - distance, 0, 1)[..., None]
            window = picture[y0:y1, x0:x1]
            window += (thing.fill[y0 - top : y1 - top, x0 - left : x1 - left] - window) * alpha
            ids[y0:y1, x0:x1][distance <= 0] = number
        if self.pillar:
            columns = slice(*self.pillar)
            picture[:, columns] = 0.6 * self.background[:, columns][::-1]
            ids[:, columns] = 0
        noise = np.random.default_rng([self.seed, t]).standard_normal(picture.shape, np.float32)
        return drawing.to_uint8(picture + 0.015 * noise), ids

    def render(self) -> tuple[np.ndarray, np.ndarray]:
        """All frames: uint8 (T, H, W, 3) RGB and their ids, uint8 (T, H, W)."""
        images, ids = zip(*map(self.draw, range(self.frames)), strict=True)
        return np.stack(images), np.stack(ids)


def clip(seed: int, frames: int = 32, size: tuple[int, int] = (128, 128), kind: str | None = None) -> Clip:
    """Make a clip of several coloured shapes that move before a textured background.

    seed: not negative; the same arguments give the same clip. frames: at least 2. size: (H, W), each at least 32.
    kind: what happens to the object that `Clip.prompt` asks for; drawn at random if None:

    - "moving": it moves among others, which may pass before or behind it
    - "occluded": it goes behind a pillar, wholly hidden for some frames, and comes out on the other side
    - "returning": it leaves the picture and comes back
    - "late": it is not there at first and enters later
    - "lookalikes": two or three that look the same, whose ways cross
    - "absent": it is never there, though its colour and its shape may be, in different objects

    Raises ValueError for an unknown kind, fewer than 2 frames or a size that is too small.
    """
    if kind not in (None, *KINDS):
        raise ValueError(f"unknown kind of clip {kind!r}; choose one of {', '.join(KINDS)}")
    if frames < 2 or min(size) < 32:
        raise ValueError(f"a clip has at least 2 frames of (H, W) at least 32 pixels; got {frames} of {size}")
    rng = np.random.default_rng(seed)
    kind = kind or str(rng.choice(KINDS))
    colour, shape = str(rng.choice(list(shapes.COLOURS))), str(rng.choice(shapes.SCENE_SHAPES))
    asked = [(colour, shape), (colour, None), (None, shape)][rng.choice(3, p=[0.6, 0.2, 0.2])]

    def another() -> tuple[str, str]:
        """A random look that does not fit what is asked for, though often its colour or its shape does."""
        while True:
            near = rng.random()
            c = colour if near < 0.3 else str(rng.choice(list(shapes.COLOURS)))
            s = shape if near > 0.7 else str(rng.choice(shapes.SCENE_SHAPES))
            if asked[0] not in (None, c) or asked[1] not in (None, s):
                return s, c

    background = drawing.background(rng, rng.uniform(0.1, 0.5) + rng.uniform(-0.12, 0.12, (1, 3)), size)[0]
    looks = [(shape, colour)] * {"absent": 0, "lookalikes": int(rng.integers(2, 4))}.get(kind, 1)
    wanted = len(looks)
    looks += [another() for _ in range(rng.integers(1, 4))]
    starts: list[tuple[np.ndarray, float]] = []  # apart from each other
    for number in range(len(looks)):
        starts.append(_start(rng, starts, size, (0.12, 0.17) if number < wanted else (0.1, 0.17)))
    pillar = None
    if kind == "occluded":
        width = round(starts[0][1] * 2.3)
        left = int(rng.uniform(0.5, 0.6) * (size[1] - width))
        pillar = (left, left + width)
    movers = []
    for number, ((start, radius), look) in enumerate(zip(starts, looks, strict=True)):
        script = kind if number < wanted else "moving"
        times, waypoints = _way(rng, script, start, radius, frames, size, pillar)
        sway = (rng.uniform(0, shapes.TURN), rng.uniform(0.05, 0.25), rng.uniform(0, 2 * np.pi))
        movers.append(Mover(*look, radius, times, waypoints, sway, _fill(rng, look[1], radius)))
    order = rng.permutation(len(movers))
    objects = tuple(movers[i] for i in order)
    return Clip(objects, kind, shapes.phrase(*asked), size, frames, seed, background, pillar)


def _start(rng, starts, size, radii: tuple[float, float]) -> tuple[np.ndarray, float]:
    """A center and a radius apart from those before; smaller where there is no room."""
    radius = rng.uniform(*radii) * min(size)
    while True:
        for center in rng.uniform(radius + 1, np.subtract(size[::-1], radius + 2), (40, 2)):
            if all(np.hypot(*(center - c)) > radius + r + 2 for c, r in starts):
                return center, radius
        radius *= 0.9


def _fill(rng, colour: str, radius: float) -> np.ndarray:
    """A surface large enough for the object, however it turns: float32 (S, S, 3)."""
    side = 2 * int(np.ceil(radius)) + 4
    fill = shapes.COLOURS[colour] + rng.uniform(-0.06, 0.06, 3) + 0.06 * drawing.blotches(rng, 1, (side, side), 3)[0]
    return (fill + 0.03 * rng.standard_normal((side, side, 3))).astype(np.float32)


def _way(rng, script: str, start, radius: float, frames: int, size, pillar) -> tuple[np.ndarray, np.ndarray]:
    """Where an object is when: times (K,) and waypoints (K, 2), XY."""
    high = np.subtract(size[::-1], radius + 2)

    def roam(origin: np.ndarray) -> np.ndarray:
        """A place inside, not far away."""
        way = rng.uniform(-0.35, 0.35, 2) * min(size)
        return np.clip(origin + way, radius + 1, high)

    if script in ("moving", "lookalikes"):
        times = np.concatenate([[0], np.cumsum(rng.integers(8, 17, frames // 8 + 1))])
        points = [start]
        for _ in times[1:]:
            points.append(roam(points[-1]))
        return times, np.array(points)

    cycle = min(frames, CYCLE)
    beyond = radius + 3  # how far from the border nothing of it is seen
    if script == "occluded":  # from one side of the pillar to the other, and back
        left, right = pillar[0] - beyond, pillar[1] + beyond
        sides = [max(left - 0.1 * size[1], min(left, radius)), min(right + 0.1 * size[1], max(right, high[0]))]
        sides = sides[:: rng.choice([-1, 1])]
        times = np.arange(0, frames + cycle, cycle)
        points = [np.array([sides[i % 2], start[1]]) for i in range(len(times))]
        return times, np.array(points)

    side = int(rng.integers(4))  # left, right, top, bottom
    axis = side // 2
    outside = start.copy()
    outside[axis] = -beyond if side % 2 == 0 else size[1 - axis] - 1 + beyond
    inside = start.copy()  # near the side it leaves by
    inside[axis] = outside[axis] + (beyond + radius + rng.uniform(0.05, 0.2) * size[1 - axis]) * (-1) ** (side % 2)
    shares = {"returning": (0.15, 0.4, 0.6, 0.85), "late": (0.0, 0.0, 0.3, 0.6)}[script]
    times, points = [], []
    for begin in range(0, frames, cycle):
        visits = [inside, outside, outside, roam(inside)] if not begin or script == "returning" else [roam(inside)] * 4
        times += [begin + share * cycle for share in shares]
        points += visits
    return np.array(times), np.array(points)


def pan(image: np.ndarray, frames: int = 48, side: int = 480) -> np.ndarray:
    """A clip where there is none: a window that sweeps over a picture, from left to right and back.

    image: uint8 (H, W, 3) RGB. Gives uint8 (frames, h, w, 3), 0.6 of the width and all of the height, scaled down to at
    most `side` pixels.
    """
    H, W = image.shape[:2]
    width = max(1, round(0.6 * W))
    scale = min(1, side / max(H, width))
    size = max(1, round(width * scale)), max(1, round(H * scale))
    lefts = (0.5 - 0.5 * np.cos(np.linspace(0, 2 * np.pi, frames))) * (W - width)
    windows = (Image.fromarray(image[:, left : left + width]) for left in lefts.round().astype(int))
    return np.stack([np.asarray(window.resize(size, Image.Resampling.BOX)) for window in windows])
