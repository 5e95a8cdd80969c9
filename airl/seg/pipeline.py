"""From a picture and a text prompt to a mask: CLIPSeg, a threshold, seeds, SAM.

    segmenter = TextSegmenter.from_pretrained(sam="vit_h")
    one = segmenter("photo.jpg", "a person")
    one.found, one.score, one.mask
    one.save("out/")
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from airl import images, runtime
from airl.files import atomic_folder
from airl.seg import weights
from airl.seg.clipseg import ClipSeg
from airl.seg.sam import Candidates, Segmenter, load_sam
from airl.seg.seeds import Seed, make_seeds

CHOICES = ("score", "agreement", "both")


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

    def __post_init__(self):
        if self.choice not in CHOICES:
            raise ValueError(f"unknown choice {self.choice!r}; choose one of {', '.join(CHOICES)}")


RECIPES: dict[str, Recipe] = {
    "assignment": Recipe(),
    "best": Recipe(seeding="components", box=True, choice="both"),
}

TINY_FLOOR = 0.88  # of the embedded models: measured to refuse 96% of absent objects and to miss 4% of present ones


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What was found in a picture for one prompt, step by step. H, W are the picture's."""

    image: np.ndarray  # uint8 (H, W, 3) RGB
    prompt: str
    heatmap: np.ndarray  # float32 (H, W): CLIPSeg's probabilities
    coarse: np.ndarray  # bool (H, W): heatmap > threshold
    seeds: tuple[Seed, ...]  # none if the prompt's object is not there
    candidates: tuple[Candidates, ...]  # SAM's masks, for each seed
    chosen: tuple[int, ...]  # which of them, for each seed
    mask: np.ndarray  # bool (H, W): the chosen ones united
    peak: float  # the heat-map's highest probability
    floor: float  # what the peak has to reach for the object to count as present

    @property
    def found(self) -> bool:
        """Presence: whether what the prompt asks for is there at all; if not, the mask is empty."""
        return bool(self.seeds)

    @property
    def score(self) -> float:
        """The IoU that SAM predicts for its mask, about [0, 1]; the mean over several; 0 if nothing was found."""
        scores = [float(c.scores[i]) for c, i in zip(self.candidates, self.chosen, strict=True)]
        return sum(scores) / len(scores) if scores else 0.0

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """XYXY of the mask's outermost pixels; None for an empty mask."""
        x, y = np.flatnonzero(self.mask.any(0)), np.flatnonzero(self.mask.any(1))
        return (int(x[0]), int(y[0]), int(x[-1]), int(y[-1])) if len(x) else None

    @property
    def overlay(self) -> np.ndarray:
        """The picture with the mask tinted: uint8 (H, W, 3)."""
        overlay = self.image.copy()
        overlay[self.mask] = overlay[self.mask] // 2 + np.array([0, 127, 64], np.uint8)
        return overlay

    @property
    def cutout(self) -> np.ndarray:
        """The picture with all but the mask transparent: uint8 (H, W, 4) RGBA."""
        return np.concatenate([self.image, self.mask[..., None] * np.uint8(255)], axis=2)

    def to_json(self) -> dict:
        """Everything but the pictures; coordinates in pixels, the mask as COCO's uncompressed run lengths."""
        return {
            "prompt": self.prompt,
            "found": self.found,
            "peak": self.peak,
            "floor": self.floor,
            "score": self.score,
            "size": list(self.mask.shape),  # H, W
            "area": int(self.mask.sum()),
            "box": self.box,
            "seeds": [
                {
                    "point": seed.point.tolist(),
                    "negatives": seed.negatives.tolist(),
                    "box": None if seed.box is None else seed.box.tolist(),
                    "scores": candidates.scores.tolist(),
                    "chosen": int(chosen),
                }
                for seed, candidates, chosen in zip(self.seeds, self.candidates, self.chosen, strict=True)
            ],
            "segmentation": {"size": list(self.mask.shape), "counts": run_lengths(self.mask)},
        }

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write mask.png, overlay.png, cutout.png and result.json into a folder, which is made if needed.

        Raises FileExistsError, and writes nothing, if one of them is there already, unless `overwrite`.
        """
        folder = Path(folder)
        names = ("mask.png", "overlay.png", "cutout.png", "result.json")
        there = [name for name in names if (folder / name).exists()]
        if there and not overwrite:
            raise FileExistsError(f"{folder} holds {', '.join(there)} already; pass overwrite=True to replace them")
        with atomic_folder(folder) as temporary:
            images.save(self.mask, temporary / "mask.png")
            images.save(self.overlay, temporary / "overlay.png")
            images.save(self.cutout, temporary / "cutout.png")
            (temporary / "result.json").write_text(json.dumps(self.to_json()))
        return folder


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of a bool mask (H, W): down the columns, the first run being of zeros."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], changes, [flat.size]]))
    return ([0] if flat[0] else []) + lengths.tolist()


def label_map(segmentations: Sequence[Segmentation]) -> tuple[np.ndarray, dict[int, str]]:
    """Several prompts of one picture in one map: int64 (H, W), and a legend from number to prompt.

    0 is none of them. Where masks overlap, the prompt that CLIPSeg finds more probable at that pixel wins. Raises
    ValueError for no segmentations and for ones of different sizes.
    """
    sizes = {s.mask.shape for s in segmentations}
    if len(sizes) != 1:
        raise ValueError(f"a label map is made of segmentations of one picture; these are of sizes {sorted(sizes)}")
    labels = np.zeros(*sizes, np.int64)
    best = np.full(*sizes, -1, np.float32)
    for number, one in enumerate(segmentations, 1):
        wins = one.mask & (one.heatmap > best)
        labels[wins] = number
        best[wins] = one.heatmap[wins]
    return labels, {number: one.prompt for number, one in enumerate(segmentations, 1)}


class TextSegmenter:
    """CLIPSeg and a SAM, joined by a recipe.

    Call it with a picture and a prompt, or call `set_image` once and `segment` many times: both models look at a
    picture once, however many prompts and recipes are tried on it.
    """

    def __init__(self, clipseg: ClipSeg, sam: Segmenter, recipe: str | Recipe = "assignment"):
        self.clipseg = clipseg
        self.sam = sam
        self.recipe = _recipe(recipe)
        self.image: np.ndarray | None = None  # uint8 (H, W, 3) RGB
        self._sam_has_image = False

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

        sam: see `sam.load_sam`. clipseg: a folder, or a name on the Hub. recipe: one of RECIPES, or a Recipe.
        device, precision: see `runtime.choose`.
        """
        recipe = _recipe(recipe)
        where = runtime.choose(device, precision)
        print(f"text to mask: CLIPSeg {clipseg}, SAM {sam}, on {where}")
        loaded = load_sam(sam, where)  # first: a mistyped name or path is found before anything is downloaded
        return cls(ClipSeg.from_pretrained(clipseg, where), loaded, recipe)

    @classmethod
    def tiny(
        cls, recipe: str | Recipe = "assignment", device: str = "auto", precision: str = "fp32"
    ) -> "TextSegmenter":
        """The same pipeline with the small models that training/train_tiny.py makes for the scenes of `airl.scenes`.

        Their CLIPSeg is surer of itself than the released one, so presence takes a peak of TINY_FLOOR, whatever the
        recipe's name says. At their size fp32 is the fastest precision, and gives the same everywhere. Raises
        FileNotFoundError, which says how to make them, if this installation does not hold them.
        """
        folder = Path(__file__).parent / "tiny"
        if not (folder / "sam.safetensors").exists():
            raise FileNotFoundError(
                f"{folder} holds no small models; make them with: python -m training.train_tiny --out {folder}"
            )
        if isinstance(recipe, str):
            recipe = replace(_recipe(recipe), floor=TINY_FLOOR)
        return cls.from_pretrained(folder / "sam.safetensors", folder / "clipseg", recipe, device, precision)

    def __call__(
        self, picture: images.Picture, prompt: str | Sequence[str], **changes
    ) -> Segmentation | list[Segmentation]:
        """Segment a picture (see `images.load`) by one prompt, or by a list of them (then the answer is a list).

        changes: fields of `Recipe` that differ for this call.
        """
        self.set_image(picture)
        many = self.segment([prompt] if isinstance(prompt, str) else prompt, **changes)
        return many[0] if isinstance(prompt, str) else many

    def set_image(self, picture: images.Picture) -> None:
        """Look at a picture (see `images.load`), so that `segment` need not."""
        self.image = None  # should loading fail, no older picture is taken for this one
        image = images.load(picture)
        self.clipseg.set_image(image)
        self.image = image
        self._sam_has_image = False  # SAM's look is the dear one; it waits until there is something to segment

    def segment(self, prompts: Sequence[str], **changes) -> list[Segmentation]:
        """Segment the picture set by each prompt. Raises RuntimeError before `set_image`."""
        if self.image is None:
            raise RuntimeError("no picture to segment: call set_image before segment")
        recipe = replace(self.recipe, **changes)
        heatmaps = self.clipseg.predict(prompts, recipe.templates)
        return [self._segment(prompt, heatmap, recipe) for prompt, heatmap in zip(prompts, heatmaps, strict=True)]

    def _segment(self, prompt: str, heatmap: np.ndarray, recipe: Recipe) -> Segmentation:
        seeding = make_seeds(
            heatmap,
            recipe.seeding,
            threshold=recipe.threshold,
            floor=recipe.floor,
            box=recipe.box,
            negatives=recipe.negatives,
            min_area=recipe.min_area,
        )
        if seeding.found and not self._sam_has_image:
            self.sam.set_image(self.image)
            self._sam_has_image = True
        mask = np.zeros(heatmap.shape, bool)
        candidates, chosen = [], []
        for seed in seeding.seeds:
            guess = _logits(heatmap, seed.region) if recipe.mask_prompt else None
            candidates.append(self.sam.predict(seed, guess))
            chosen.append(choose(candidates[-1], seed.region, recipe.choice))
            mask |= candidates[-1].masks[chosen[-1]]
        return Segmentation(
            image=self.image,
            prompt=prompt,
            heatmap=heatmap,
            coarse=seeding.coarse,
            seeds=seeding.seeds,
            candidates=tuple(candidates),
            chosen=tuple(chosen),
            mask=mask,
            peak=seeding.peak,
            floor=seeding.floor,
        )


def choose(candidates: Candidates, region: np.ndarray, how: str) -> int:
    """Which of SAM's masks to take: by its predicted quality, by IoU with `region`, or by their product."""
    if how == "score":
        return int(candidates.scores.argmax())
    agreement = np.array([(m & region).sum() / (m | region).sum() for m in candidates.masks])
    return int((agreement if how == "agreement" else agreement * candidates.scores.clip(0)).argmax())


def _logits(heatmap: np.ndarray, region: np.ndarray) -> np.ndarray:
    """A heat-map as the mask prompt SAM takes: float32 (H, W) logits, low outside the region."""
    p = np.where(region, heatmap, 0).clip(1e-4, 1 - 1e-4)
    return np.log(p / (1 - p)).astype(np.float32)


def _recipe(recipe: str | Recipe) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}; choose one of {', '.join(RECIPES)}, or pass a Recipe")
    return RECIPES[recipe]
