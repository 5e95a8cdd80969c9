"""What was found in a picture for one prompt: every step of it, drawn, and as files."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from airl import images
from airl.files import atomic_folder
from airl.seg import draw
from airl.seg.export import compressed_run_lengths, run_lengths, to_supervision
from airl.seg.sam import Candidates
from airl.seg.seeds import PackedMask, Seed, box_of, furthest_inside

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from supervision import Detections

THUMBNAIL = 480  # pixels: the longer side of what a notebook shows of a result
FILES = ("mask.png", "overlay.jpg", "cutout.png", "result.json")


def enlarge_heatmap(probabilities: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """CLIPSeg's probabilities at its own resolution as a heat-map of a picture's size: float32 (H, W) in [0, 1]."""
    heatmap = images.enlarge(probabilities, size)
    return heatmap.clip(0, 1, out=heatmap)  # rounding may leave the interval by an ulp


@dataclass(frozen=True, eq=False)
class Instance:
    """One object: the mask that SAM gave for one seed, or that SAM 3 found."""

    mask: np.ndarray  # bool (H, W), not empty
    box: tuple[int, int, int, int]  # XYXY, the mask's outermost pixels
    score: float  # the IoU that SAM predicts for the mask, about [0, 1]
    area: int  # pixels
    point: tuple[float, float]  # XY, where the seed is; without one, the pixel furthest from the mask's border

    def __repr__(self) -> str:
        return f"Instance(box={self.box}, score={self.score:.2f}, area={self.area:,})"

    def to_json(self) -> dict:
        """Everything, the mask as COCO's compressed run lengths."""
        return {
            "box": self.box,
            "score": self.score,
            "area": self.area,
            "point": self.point,
            "segmentation": {"size": list(self.mask.shape), "counts": compressed_run_lengths(self.mask)},
        }


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """What was found in a picture for one prompt, step by step. H, W are the picture's.

    What the models gave is kept at their own resolution, so that hundreds of results of a large picture fit into
    memory; `heatmap`, `coarse`, `mask`, `instances` and the candidates' masks are enlarged each time they are asked
    for, which takes some 20 ms each for 12 megapixels.
    """

    image: np.ndarray  # uint8 (H, W, 3) RGB
    prompt: str
    probabilities: np.ndarray  # float32 (h, w), what CLIPSeg gave; joined with what it saw in tiles, (H, W)
    threshold: float  # heat-map to coarse mask
    floor: float  # what the peak has to reach for the object to count as present
    peak: float  # the heat-map's highest probability; of SAM 3, its presence score
    seeds: tuple[Seed, ...]  # none if the prompt's object is not there, or the model takes none (SAM 3)
    candidates: tuple[Candidates, ...]  # SAM's masks, for each seed or instance
    chosen: tuple[int, ...]  # which of them, for each

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[:2]

    @property
    def found(self) -> bool:
        """Presence: whether what the prompt asks for is there at all; if not, the mask is empty."""
        return bool(self.candidates)

    @property
    def heatmap(self) -> np.ndarray:
        """CLIPSeg's probabilities, enlarged bilinearly: float32 (H, W) in [0, 1]."""
        return enlarge_heatmap(self.probabilities, self.size)

    @property
    def coarse(self) -> np.ndarray:
        """The coarse mask, heatmap > threshold: bool (H, W)."""
        return self.heatmap > self.threshold

    @property
    def mask(self) -> np.ndarray:
        """The chosen masks of all seeds united: bool (H, W)."""
        return self._mask.unpack()

    @cached_property
    def _mask(self) -> PackedMask:
        mask = np.zeros(self.size, bool)
        for candidates, i in zip(self.candidates, self.chosen, strict=True):
            mask |= candidates.mask(i)
        return PackedMask.pack(mask)

    @property
    def instances(self) -> list[Instance]:
        """The chosen mask of each seed by itself, the largest first; one that is empty is left out."""
        instances = []
        seeds = self.seeds or [None] * len(self.candidates)
        for seed, candidates, i in zip(seeds, self.candidates, self.chosen, strict=True):
            mask = candidates.mask(i)
            if box := box_of(mask):
                score, area = float(candidates.scores[i]), int(np.count_nonzero(mask))
                point = seed.point if seed else furthest_inside(mask)
                instances.append(Instance(mask, box, score, area, tuple(point.tolist())))
        return sorted(instances, key=lambda instance: -instance.area)

    @property
    def score(self) -> float:
        """The IoU that SAM predicts for its mask, about [0, 1]; the mean over several; 0 if nothing was found."""
        scores = [float(c.scores[i]) for c, i in zip(self.candidates, self.chosen, strict=True)]
        return sum(scores) / len(scores) if scores else 0.0

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """XYXY of the mask's outermost pixels; None for an empty mask."""
        return box_of(self.mask)

    @property
    def overlay(self) -> np.ndarray:
        """The picture with each instance tinted, outlined and numbered: uint8 (H, W, 3)."""
        return self._overlay(self.image, step=1)

    @property
    def cutout(self) -> np.ndarray:
        """The mask's box out of the picture, all but the mask transparent: uint8 (h, w, 4) RGBA; (0, 0, 4) for an
        empty mask. Its upper left pixel is at the box's first two numbers."""
        if not (box := self.box):
            return np.zeros((0, 0, 4), np.uint8)
        x0, y0, x1, y1 = box
        part = np.s_[y0 : y1 + 1, x0 : x1 + 1]
        return np.dstack([self.image[part], self.mask[part] * np.uint8(255)])

    def _overlay(self, image: np.ndarray, step: int) -> np.ndarray:
        masks = [instance.mask[::step, ::step] for instance in self.instances]
        labels = [f"{number} {self.prompt}" for number in range(1, len(masks) + 1)] if len(masks) > 1 else [self.prompt]
        return draw.overlay(image, zip(range(1, len(masks) + 1), masks, labels, strict=False))

    def __repr__(self) -> str:
        H, W = self.size
        score = f"score {self.score:.2f}, {len(self.candidates)} instance(s)"
        found, verdict = ("found", score) if self.found else ("not there", f"below {self.floor:.2f}")
        return f"<Segmentation {self.prompt!r}: {found}, peak {self.peak:.2f}, {verdict}, {W} x {H} pixels>"

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the overlay, small."""
        from PIL import Image

        step = -(-max(self.size) // THUMBNAIL)
        file = io.BytesIO()
        Image.fromarray(self._overlay(self.image[::step, ::step], step)).save(file, "PNG")
        return file.getvalue()

    def to_supervision(self) -> "Detections":
        """The instances as `supervision.Detections`: see `export.to_supervision`."""
        return to_supervision(self)

    def plot(self) -> "Figure":
        """Every step as a figure: `plots.steps`."""
        from airl.seg import plots

        return plots.steps(self)

    def to_json(self) -> dict:
        """Everything but the pictures; coordinates in pixels, masks as COCO's run lengths, those of instances
        compressed."""
        mask = self.mask
        box = box_of(mask)
        return {
            "prompt": self.prompt,
            "picture": hashlib.sha1(np.ascontiguousarray(self.image), usedforsecurity=False).hexdigest(),  # its pixels
            "found": self.found,
            "peak": self.peak,
            "floor": self.floor,
            "score": self.score,
            "size": list(self.size),  # H, W
            "area": int(np.count_nonzero(mask)),
            "box": box,
            "cutout": {"offset": list(box[:2])} if box else None,  # XY of its upper left pixel in the picture
            "instances": [instance.to_json() for instance in self.instances],
            "seeds": [
                {
                    "point": seed.point.tolist(),
                    "added": seed.added.tolist(),
                    "negatives": seed.negatives.tolist(),
                    "box": None if seed.box is None else seed.box.tolist(),
                    "scores": candidates.scores.tolist(),
                    "chosen": int(chosen),
                }
                for seed, candidates, chosen in zip(self.seeds, self.candidates, self.chosen, strict=False)
            ],
            "segmentation": {"size": list(self.size), "counts": run_lengths(mask)},
        }

    def save(self, folder: str | Path, overwrite: bool = False, **entries) -> Path:
        """Write mask.png, overlay.jpg, cutout.png (if there is a mask) and result.json into a folder, which is made if
        needed.

        The files that an earlier `save` wrote for the same prompt and picture are replaced. Raises FileExistsError,
        and writes nothing, if any of these files is there from elsewhere, unless `overwrite`. entries: what
        result.json is to hold besides `to_json`.
        """
        folder = Path(folder)
        result = {**self.to_json(), **entries}
        existing = [name for name in FILES if (folder / name).exists()]
        if existing and not overwrite and not _is_result_of(folder / "result.json", result):
            raise FileExistsError(
                f"{folder} holds {', '.join(existing)} of something else than {self.prompt!r} in this picture; choose "
                "another folder, or pass overwrite=True to replace them"
            )
        with atomic_folder(folder) as temporary:
            images.save(self.mask, temporary / "mask.png")
            images.save(self.overlay, temporary / "overlay.jpg")
            if result["box"]:
                images.save(self.cutout, temporary / "cutout.png")
            (temporary / "result.json").write_text(json.dumps(result, allow_nan=False))
        if not result["box"]:
            (folder / "cutout.png").unlink(missing_ok=True)  # an earlier result's
        return folder


def _is_result_of(path: Path, result: dict) -> bool:
    """Whether result.json was written for the same prompt and picture."""
    try:
        saved = json.loads(path.read_text())
        return (saved["prompt"], saved["picture"]) == (result["prompt"], result["picture"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def label_map(segmentations: Sequence[Segmentation]) -> tuple[np.ndarray, dict[int, str]]:
    """Several prompts of one picture in one map: int64 (H, W), and a legend from number to prompt.

    0 is none of them. Where masks overlap, the prompt that CLIPSeg finds more probable at that pixel wins, the first
    of two alike. Raises ValueError for no segmentations and for ones of different sizes.
    """
    sizes = {one.size for one in segmentations}
    if len(sizes) != 1:
        raise ValueError(f"a label map is made of segmentations of one picture; these are of sizes {sorted(sizes)}")
    labels = np.zeros(*sizes, np.int64)
    best = np.full(*sizes, -1, np.float32)
    for number, one in enumerate(segmentations, 1):
        heatmap = one.heatmap
        wins = one.mask & (heatmap > best)
        labels[wins] = number
        best[wins] = heatmap[wins]
    return labels, {number: one.prompt for number, one in enumerate(segmentations, 1)}
