"""Drawn pictures whose truth is known exactly: the data set that needs no download.

`classification` draws small pictures of one shape each, ten classes, for a classifier. `scene` draws several
coloured shapes with an exact mask for each, for segmentation by a prompt such as "a red circle", "the blue
object" or "a star". Everything is a function of its seed, drawn by NumPy alone.
"""

from dataclasses import dataclass

import numpy as np

from airl.scenes import drawing

CLASSES: tuple[str, ...] = tuple(drawing.SHAPES)  # what a label of `classification` indexes
TURN = np.radians(25)  # shapes turn by up to this much either way, so that none looks like another


def classification(n: int, size: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw `n` pictures of one shape each: images uint8 (n, size, size, 3) RGB, labels int64 (n,).

    The labels, indices into `CLASSES`, are balanced (counts differ by at most one) and shuffled. Colour,
    place, radius (a quarter to nearly half the picture), background and fill are random and independent of the
    class. The same arguments give the same pictures; train and test sets are two seeds. Raises ValueError for
    a negative `n` or a size below 8.
    """
    if n < 0 or size < 8:
        raise ValueError(f"classification needs n >= 0 and size >= 8 pixels, got n={n} and size={size}")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n, dtype=np.int64) % len(CLASSES))
    images = np.empty((n, size, size, 3), np.uint8)
    for start in range(0, n, 500):  # in parts, so that memory stays small
        images[start : start + 500] = _draw_classes(rng, labels[start : start + 500], size)
    return images, labels


def _draw_classes(rng: np.random.Generator, labels: np.ndarray, size: int) -> np.ndarray:
    n = len(labels)
    radius = rng.uniform(0.25, 0.46, n) * size
    center = (size - 1) / 2 + rng.uniform(-1, 1, (n, 2)) * (size / 2 - radius)[:, None]  # wholly inside
    turn = rng.uniform(-TURN, TURN, n)

    ground = rng.uniform(0.1, 0.9, (n, 3)).astype(np.float32)
    candidates = rng.uniform(0, 1, (6, n, 3)).astype(np.float32)
    contrast = np.linalg.norm(candidates - ground, axis=-1)  # (6, n)
    colour = candidates[contrast.argmax(0), np.arange(n)]  # (n, 3), the one that stands out most

    inside = np.empty((n, size, size), np.float32)
    for label in np.unique(labels):
        these = labels == label
        inside[these] = drawing.distance(
            CLASSES[label], (size, size), center[these], radius[these], turn[these]
        )
    alpha = np.clip(0.5 - inside, 0, 1)[..., None]  # (n, size, size, 1)

    fill = colour[:, None, None, :] + 0.15 * drawing.blotches(rng, n, (size, size), 3)
    return drawing.to_uint8(drawing.background(rng, ground, (size, size)) * (1 - alpha) + fill * alpha)


# ------------------------------------------------------------------------------------------------- scenes

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.12, 0.12),
    "green": (0.13, 0.62, 0.20),
    "blue": (0.13, 0.32, 0.90),
    "yellow": (0.96, 0.84, 0.12),
    "purple": (0.58, 0.18, 0.74),
    "white": (0.96, 0.96, 0.96),
}
CONVEX = ("circle", "square", "triangle")
CONCAVE = ("star", "ring", "cross", "crescent")
SCENE_SHAPES = CONVEX + CONCAVE
KINDS = ("convex", "concave", "several", "touching", "absent")


def phrase(colour: str | None, shape: str | None) -> str:
    """The prompt for a colour and a shape, either of which may be None but not both."""
    if colour and shape:
        return f"a {colour} {shape}"
    return f"a {shape}" if shape else f"the {colour} object"


PROMPTS: tuple[str, ...] = tuple(
    phrase(colour, shape)
    for colour in (*COLOURS, None)
    for shape in (*SCENE_SHAPES, None)
    if colour or shape
)


def parse(prompt: str) -> tuple[str | None, str | None]:
    """The colour and the shape that a prompt asks for; None where it does not say.

    Articles, case and the word "object" are ignored: "A red circle", "red circle". Raises ValueError for a
    word outside the vocabulary, and for a prompt that names neither a colour nor a shape.
    """
    colour = shape = None
    for word in prompt.lower().split():
        if word in COLOURS and colour is None:
            colour = word
        elif word in SCENE_SHAPES and shape is None:
            shape = word
        elif word not in ("a", "an", "the", "object"):
            raise ValueError(
                f"{word!r} in prompt {prompt!r} is not understood; scenes know one of {', '.join(COLOURS)} "
                f"and one of {', '.join(SCENE_SHAPES)}, as in 'a red circle', 'the blue object', 'a star'"
            )
    if colour is shape is None:
        raise ValueError(f"prompt {prompt!r} names neither a colour nor a shape; try 'a red circle'")
    return colour, shape


@dataclass(frozen=True)
class Object:
    """One shape of a scene."""

    shape: str  # one of SCENE_SHAPES
    colour: str  # one of COLOURS
    mask: np.ndarray  # bool (H, W): the pixels where it can be seen
    center: tuple[float, float]  # XY in pixels
    radius: float  # of the circle around it, in pixels

    def matches(self, prompt: str) -> bool:
        """Whether `prompt` (see `parse`) is about this object."""
        colour, shape = parse(prompt)
        return colour in (None, self.colour) and shape in (None, self.shape)


@dataclass(frozen=True)
class Scene:
    """A drawn picture, what is in it, and one prompt that makes it a test of its kind."""

    image: np.ndarray  # uint8 (H, W, 3) RGB
    objects: tuple[Object, ...]  # from back to front
    kind: str  # one of KINDS
    prompt: str  # true of the scene, except when kind is "absent"

    def truth(self, prompt: str) -> np.ndarray:
        """Where the objects that `prompt` is about can be seen: bool (H, W), all False if there are none."""
        truth = np.zeros(self.image.shape[:2], bool)
        for thing in self.objects:
            if thing.matches(prompt):
                truth |= thing.mask
        return truth

    def prompts(self) -> list[str]:
        """All of PROMPTS that are about at least one object here."""
        return [prompt for prompt in PROMPTS if any(thing.matches(prompt) for thing in self.objects)]


@dataclass
class _Placed:
    """An object before it is drawn."""

    colour: str
    shape: str
    center: np.ndarray  # (2,) XY in pixels
    radius: float
    turn: float

    def distance(self, size: tuple[int, int]) -> np.ndarray:
        """Signed distance to its border: float32 (H, W); infinite beyond the window around it."""
        distance = np.full(size, np.inf, np.float32)
        x0, y0 = np.maximum(np.floor(self.center - self.radius - 1).astype(int), 0)
        x1, y1 = np.ceil(self.center + self.radius + 2).astype(int)
        window = distance[y0:y1, x0:x1]
        window[:] = drawing.distance(
            self.shape, window.shape, [self.center - (x0, y0)], [self.radius], [self.turn]
        )[0]
        return distance


def scene(seed: int, size: tuple[int, int] = (256, 256), kind: str | None = None, scale: float = 1) -> Scene:
    """Draw a scene of several coloured shapes on a textured background.

    seed: not negative; the same arguments give the same scene. size: (H, W), each at least 32. kind: what
    `Scene.prompt` asks for; drawn at random if None:

    - "convex": one circle, square or triangle, apart from every other object
    - "concave": one star, ring, cross or crescent, likewise
    - "several": two to four objects, apart from each other
    - "touching": one object of any shape, which one or two others touch and may partly cover
    - "absent": nothing that is there; half of the time its colour is, and so is its shape, but not together

    scale: of the objects' radii, which else are a tenth to a quarter of the picture's shorter side.

    Other objects often share the prompt's colour or its shape. Raises ValueError for an unknown kind or a
    size that is too small.
    """
    if kind not in (None, *KINDS):
        raise ValueError(f"unknown kind of scene {kind!r}; choose one of {', '.join(KINDS)}")
    if min(size) < 32:
        raise ValueError(f"a scene is (H, W) pixels, each at least 32; got {size}")
    rng = np.random.default_rng(seed)
    kind = kind or str(rng.choice(KINDS))

    colour = str(rng.choice(list(COLOURS)))
    shape = str(rng.choice({"convex": CONVEX, "concave": CONCAVE}.get(kind, SCENE_SHAPES)))
    asked = [(colour, shape), (colour, None), (None, shape)][rng.choice(3, p=[0.5, 0.25, 0.25])]

    def another(fits: bool) -> tuple[str, str]:
        """A random colour and shape, often near the asked ones, that do or do not fit them."""
        while True:
            near = rng.random()
            c = colour if near < 0.3 else str(rng.choice(list(COLOURS)))
            s = shape if near > 0.7 else str(rng.choice(SCENE_SHAPES))
            if (asked[0] in (None, c) and asked[1] in (None, s)) == fits:
                return c, s

    placed: list[_Placed] = []
    if kind == "several":
        wanted = [(colour, shape)] + [another(fits=True) for _ in range(rng.integers(1, 4))]
    elif kind != "absent":
        wanted = [(colour, shape)]
    elif rng.random() < 0.5:  # the hard case: both halves of the prompt are there, in different objects
        asked = (colour, shape)
        wanted = [
            (colour, str(rng.choice([s for s in SCENE_SHAPES if s != shape]))),
            (str(rng.choice([c for c in COLOURS if c != colour])), shape),
        ]
    else:
        wanted = [another(fits=False)]
    for look in wanted:
        radii = (0.13, 0.26) if len(wanted) == 1 else (0.11, 0.18)
        _place(rng, placed, size, look, scale * np.array(radii), needed=True)
    if kind == "touching":
        target = placed[0]
        for _ in range(rng.integers(1, 3)):
            _place_touching(rng, placed, target, size, another(fits=False), scale * np.array((0.1, 0.2)))
    for _ in range(rng.integers(0, 4)):
        _place(rng, placed, size, another(fits=False), scale * np.array((0.09, 0.2)), needed=False)

    order = rng.permutation(len(placed))
    return _draw_scene(rng, [placed[i] for i in order], size, kind, phrase(*asked))


def _place(rng, placed: list[_Placed], size, look, radii: tuple[float, float], needed: bool) -> None:
    """Add an object apart from all others; without room, make it smaller if `needed`, else leave it out."""
    radius = rng.uniform(*radii) * min(size)
    while True:
        for center in rng.uniform(radius + 1, np.subtract(size[::-1], radius + 2), (40, 2)):
            if all(np.hypot(*(center - p.center)) > radius + p.radius + 2 for p in placed):
                placed.append(_Placed(*look, center, radius, rng.uniform(-TURN, TURN)))
                return
        if not needed:
            return
        radius *= 0.9


def _place_touching(rng, placed: list[_Placed], target: _Placed, size, look, radii) -> None:
    """Add an object that comes from a random side and stops as it meets, or slightly overlaps, `target`."""
    inside = target.distance(size) <= 0
    for angle in rng.uniform(0, 2 * np.pi, 40):
        radius = rng.uniform(*radii) * min(size)
        way = np.array([np.cos(angle), np.sin(angle)])
        other = _Placed(*look, target.center, radius, rng.uniform(-TURN, TURN))
        for gap in np.arange(target.radius + radius, 0, -1):
            other.center = target.center + gap * way
            if (inside & (other.distance(size) <= 0.5)).any():
                break
        other.center = other.center - rng.uniform(0, 0.15) * radius * way
        if ((other.center > radius + 1) & (other.center < np.subtract(size[::-1], radius + 2))).all():
            placed.append(other)
            return


def _draw_scene(rng, placed: list[_Placed], size, kind: str, prompt: str) -> Scene:
    ground = rng.uniform(0.1, 0.5) + rng.uniform(-0.12, 0.12, (1, 3))
    picture = drawing.background(rng, ground, size)[0]  # (H, W, 3)
    masks: list[np.ndarray] = []
    for item in placed:
        distance = item.distance(size)
        alpha = np.clip(0.5 - distance, 0, 1)[..., None]
        fill = COLOURS[item.colour] + rng.uniform(-0.06, 0.06, 3)
        fill = fill + 0.06 * drawing.blotches(rng, 1, size, 3)[0] + 0.03 * rng.standard_normal((*size, 3))
        picture = picture * (1 - alpha) + fill * alpha
        for mask in masks:  # what lies behind is hidden
            mask &= distance > 0
        masks.append(distance <= 0)
    objects = tuple(
        Object(p.shape, p.colour, mask, tuple(p.center.tolist()), float(p.radius))
        for p, mask in zip(placed, masks, strict=True)
    )
    return Scene(drawing.to_uint8(picture), objects, kind, prompt)
