"""From a picture and a text prompt to a mask: CLIPSeg, a threshold, seeds, SAM.

    segmenter = TextSegmenter.from_pretrained(sam="vit_h")
    one = segmenter("photo.jpg", "a person")
    one.found, one.score, one.mask
    one.save("out/")
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from airl import images, runtime
from airl.seg import tiles, weights
from airl.seg.clipseg import ClipSeg, check_prompts, check_templates
from airl.seg.result import Segmentation, enlarge_heatmap
from airl.seg.sam import CHOICES, Candidates, Segmenter, load_sam
from airl.seg.seeds import STRATEGIES, Seed, make_seeds

Point = tuple[float, float]


@dataclass(frozen=True)
class Recipe:
    """How the steps between CLIPSeg and SAM are done; the defaults are the assignment's."""

    seeding: str = "center_of_mass"  # see `seeds.STRATEGIES`
    threshold: float = 0.5  # heat-map to coarse mask
    floor: float = 0.5  # the least peak probability at which something counts as present
    min_area: float = 0.0005  # of a component, as a share of the picture
    box: bool = False  # give SAM a box around each seed's region too
    negatives: int = 0  # give SAM up to this many points beside the object too
    mask_prompt: bool = False  # give SAM the heat-map too
    choice: str = "score"  # which of SAM's masks: by its predicted quality, its agreement (IoU) with the seed's
    #                        region of the coarse mask, or by both (their product)
    templates: tuple[str, ...] = ("{}",)  # phrasings over which CLIPSeg's embedding of the prompt is averaged
    tile: int = 0  # look at overlapping tiles of so many pixels, too, for small things in a large picture; 0: do not

    def __post_init__(self):
        """Raises ValueError, which names the field, for a value that is not as above."""
        for name, values in (("seeding", tuple(STRATEGIES)), ("choice", CHOICES)):
            if getattr(self, name) not in values:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(values)}")
        for name in ("threshold", "floor", "min_area"):
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0 <= value <= 1):  # false for NaN too
                raise ValueError(f"{name} is {value!r}; expected a number in [0, 1]")
        for name in ("box", "mask_prompt"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected True or False")
        for name, unit in (("negatives", "points"), ("tile", "pixels")):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < 0:
                raise ValueError(f"{name} is {value!r}; expected a whole number of {unit}, 0 or more")
        object.__setattr__(self, "templates", check_templates(self.templates))


RECIPES: dict[str, Recipe] = {
    "assignment": Recipe(),
    # CLIPSeg's authors report PhraseCut at 0.3, beside 0.5, and text with Pascal at 0.24 to 0.28:
    # https://github.com/timojl/clipseg, experiments/phrasecut.yaml and pascal_1shot.yaml
    "best": Recipe(seeding="components", threshold=0.3, box=True, choice="both"),
}

TINY_THRESHOLD = 0.5  # of the embedded models, which were measured at it
TINY_FLOOR = 0.8  # of the embedded models: chosen on scenes that are in no test, in two drawing styles


class TextSegmenter:
    """CLIPSeg and a SAM, joined by a recipe.

    Call it with a picture and a prompt, or call `set_image` once and `segment` many times: both models look at a
    picture once, however many prompts and recipes are tried on it. Threads may share one and call it, in turns; a
    picture set by one thread is every thread's.
    """

    def __init__(self, clipseg: ClipSeg, sam: Segmenter, recipe: str | Recipe = "assignment"):
        self.clipseg = clipseg
        self.sam = sam
        self.recipe = _recipe(recipe)
        self.image: np.ndarray | None = None  # uint8 (H, W, 3) RGB
        self._seen: tuple[np.ndarray, tiles.Tile | None] | None = None  # what SAM looked at last
        self._lock = threading.RLock()

    @classmethod
    def from_pretrained(
        cls,
        sam: str | Path = "vit_h",
        clipseg: str | Path = weights.CLIPSEG,
        recipe: str | Recipe = "assignment",
        device: str = "auto",
        precision: str = "auto",
    ) -> "TextSegmenter":
        """Load both models, downloading what is not on this machine yet, and print what was chosen.

        sam: see `sam.load_sam`; or "sam3", which needs no CLIPSeg: then this is a `sam3.Sam3Segmenter`. clipseg: a
        folder, or a name on the Hub. recipe: one of RECIPES, or a Recipe. device, precision: see `runtime.choose`.
        """
        from airl.seg import sam3

        if sam3.is_sam3(sam):
            return sam3.Sam3Segmenter.from_pretrained(sam, recipe, device, precision)
        recipe = _recipe(recipe)
        hardware = runtime.choose(device, precision)
        print(f"text to mask: CLIPSeg {weights.label(clipseg)}, SAM {weights.label(sam)}, on {hardware}")
        loaded = load_sam(sam, hardware)  # first: a mistyped name or path is found before anything is downloaded
        return cls(ClipSeg.from_pretrained(clipseg, hardware), loaded, recipe)

    @classmethod
    def tiny(
        cls, recipe: str | Recipe = "assignment", device: str = "auto", precision: str = "fp32"
    ) -> "TextSegmenter":
        """The same pipeline with the small models that training/train_tiny.py makes for the scenes of `airl.scenes`.

        Their CLIPSeg is surer of itself than the released one, so presence takes a peak of TINY_FLOOR, and
        the threshold is TINY_THRESHOLD, whatever the recipe's name says. At their size fp32 is the fastest precision,
        and gives the same everywhere. Raises FileNotFoundError, which says how to make them, if this installation does
        not hold them.
        """
        folder = Path(__file__).parent / "tiny"
        if not (folder / "sam.safetensors").exists():
            raise FileNotFoundError(
                f"{folder} holds no small models; make them with: python -m training.train_tiny --out {folder}"
            )
        if isinstance(recipe, str):
            recipe = replace(_recipe(recipe), threshold=TINY_THRESHOLD, floor=TINY_FLOOR)
        return cls.from_pretrained(folder / "sam.safetensors", folder / "clipseg", recipe, device, precision)

    def __call__(
        self, picture: images.Picture, prompt: str | Iterable[str], **changes
    ) -> Segmentation | list[Segmentation]:
        """`set_image` and `segment` in one."""
        with self._lock:
            self.set_image(picture)
            return self.segment(prompt, **changes)

    def set_image(self, picture: images.Picture) -> None:
        """Look at a picture (see `images.load`), so that `segment` need not."""
        with self._lock:
            self.image = None  # should loading fail, no older picture is taken for this one
            image = images.load(picture)
            self.clipseg.set_image(image)
            self.image = image  # SAM's look is the dear one; it waits until there is something to segment

    def segment(self, prompt: str | Iterable[str], **changes) -> Segmentation | list[Segmentation]:
        """Segment the picture set by a prompt, or by each of several (then the answer is a list).

        changes: fields of `Recipe` that differ for this call. Raises RuntimeError before `set_image`.
        """
        recipe = replace(self.recipe, **changes)
        prompts = check_prompts(prompt)
        with self._lock:
            if self.image is None:
                raise RuntimeError("no picture to segment: call set_image before segment")
            maps = self.clipseg.probabilities(prompts, recipe.templates)
            cover = tiles.cover(self.image.shape[:2], recipe.tile)
            if cover and prompts:
                maps = self._join(maps, cover, prompts, recipe)
            seedings = [self._seed(probabilities, recipe) for probabilities in maps]
            seeds = [seed for seeds, _ in seedings for seed in seeds]
            guesses = self._logits(maps, seedings) if recipe.mask_prompt else None
            offered, many = iter(self._ask(seeds, guesses, cover)), []
            for one, probabilities, (seeds, peak) in zip(prompts, maps, seedings, strict=True):
                candidates = tuple(next(offered) for _ in seeds)
                chosen = (each.choose(seed.region, recipe.choice) for each, seed in zip(candidates, seeds, strict=True))
                many.append(
                    Segmentation(
                        image=self.image,
                        prompt=one,
                        probabilities=probabilities,
                        threshold=recipe.threshold,
                        floor=recipe.floor,
                        peak=peak,
                        seeds=seeds,
                        candidates=candidates,
                        chosen=tuple(chosen),
                    )
                )
        return many[0] if isinstance(prompt, str) else many

    def _join(self, maps: np.ndarray, cover: list[tiles.Tile], prompts: list[str], recipe: Recipe) -> list[np.ndarray]:
        """Each prompt's heat-map, (h, w), joined with those of the tiles: float32 (H, W)."""
        sure: list[list[tuple[tiles.Tile, np.ndarray]]] = [[] for _ in prompts]  # only what counts is kept in memory
        seen = self.clipseg.probabilities_of((self.image[tile] for tile in cover), prompts, recipe.templates)
        for tile, heatmaps in zip(cover, seen, strict=True):
            for of_prompt, heatmap in zip(sure, heatmaps, strict=True):
                if heatmap.max() >= recipe.floor:
                    of_prompt.append((tile, heatmap.copy()))
        size = self.image.shape[:2]
        return [
            tiles.join(whole, parts, size, recipe.threshold, recipe.floor)
            for whole, parts in zip(maps, sure, strict=True)
        ]

    def _ask(
        self, seeds: list[Seed], guesses: Iterable[np.ndarray] | None, cover: list[tiles.Tile]
    ) -> list[Candidates]:
        """What SAM offers for each seed, on the whole picture or, of a small thing, on a tile."""
        by_tile: dict[int | None, list[int]] = {}
        for i, seed in enumerate(seeds):
            by_tile.setdefault(tiles.number_of(seed, cover), []).append(i)
        if list(by_tile) == [None]:
            return self._predict(self.image, None, seeds, guesses)
        guesses = None if guesses is None else list(guesses)
        found: dict[int, Candidates] = {}
        for number, some in by_tile.items():
            tile = None if number is None else cover[number]
            hints = guesses and [guesses[i] for i in some]
            found.update(zip(some, self._predict(self.image, tile, [seeds[i] for i in some], hints), strict=True))
        return [found[i] for i in range(len(seeds))]

    def _predict(
        self, image: np.ndarray, tile: tiles.Tile | None, seeds: list[Seed], guesses: Iterable[np.ndarray] | None
    ) -> list[Candidates]:
        """What SAM offers for seeds on a picture, of which it sees a tile or, for None, all."""
        if self._seen is None or self._seen[0] is not image or self._seen[1] != tile:
            self._seen = None  # should looking fail, nothing older is taken for this
            self.sam.set_image(image if tile is None else np.ascontiguousarray(image[tile]))
            self._seen = image, tile
        if tile is None:
            return self.sam.predict_many(seeds, guesses)
        cropped = [tiles.crop(seed, tile) for seed in seeds]
        offered = self.sam.predict_many(cropped, None if guesses is None else (guess[tile] for guess in guesses))
        return [tiles.paste(each, tile, image.shape[:2]) for each in offered]

    def _seed(self, probabilities: np.ndarray, recipe: Recipe) -> tuple[tuple[Seed, ...], float]:
        """The seeds and the peak of one prompt; its heat-map and coarse mask, as large as the picture, are not kept."""
        H, W = self.image.shape[:2]
        seeding = make_seeds(
            enlarge_heatmap(probabilities, (H, W)),
            recipe.seeding,
            threshold=recipe.threshold,
            floor=recipe.floor,
            box=recipe.box,
            negatives=recipe.negatives,
            min_area=recipe.min_area * (min(1, recipe.tile**2 / (H * W)) if recipe.tile else 1),  # of what was seen
        )
        return seeding.seeds, seeding.peak

    def _logits(self, maps: np.ndarray, seedings: list[tuple[tuple[Seed, ...], float]]) -> Iterator[np.ndarray]:
        """Each seed's part of the heat-map as the mask prompt SAM takes: float32 (H, W) logits, low outside of it."""
        for probabilities, (seeds, _) in zip(maps, seedings, strict=True):
            heatmap = enlarge_heatmap(probabilities, self.image.shape[:2]) if seeds else None
            for seed in seeds:
                p = np.where(seed.region, heatmap, 0).clip(1e-4, 1 - 1e-4)
                yield np.log(p / (1 - p)).astype(np.float32)

    def refine(self, one: Segmentation, add: Iterable[Point] = (), remove: Iterable[Point] = ()) -> Segmentation:
        """Correct a result by points, XY in pixels: `add`, which belong to the object, and `remove`, which do not.

        A point added outside every instance's box, widened by a tenth, is the seed of a new instance; every other goes
        to the nearest one. For that SAM is asked again, with all points it was given so far, once with its former mask
        as a prompt and once without; of its masks the one is taken that heeds most of the points, and of those the one
        with the highest product of score and IoU with the former mask. An instance, one of several, is dropped if a
        point removed is in its middle and SAM gives no mask without it. The result may be refined again.

        Raises ValueError for no points, for points outside the picture, and where there is nothing to remove from.
        """
        from airl.seg.refine import refine

        def ask(seed: Seed, tile: tiles.Tile | None, guess: np.ndarray | None = None) -> Candidates:
            return self._predict(one.image, tile, [seed], None if guess is None else [guess])[0]

        with self._lock:
            return refine(ask, one, add, remove)


def _recipe(recipe: str | Recipe) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}; choose one of {', '.join(RECIPES)}, or pass a Recipe")
    return RECIPES[recipe]
