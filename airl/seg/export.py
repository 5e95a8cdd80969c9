"""Masks in the forms that other tools read: COCO's run lengths and polygons, supervision's detections,
and labelled pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from airl.files import atomic_write
from airl.seg import draw
from airl.seg.seeds import box_of

if TYPE_CHECKING:
    from supervision import Detections

    from airl.seg.result import Segmentation
    from airl.seg.video import Tracking


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of a bool mask (H, W): down the columns, the first run being of zeros."""
    if not (box := box_of(mask)):
        return [mask.size]
    flat = np.pad(mask[:, box[0] : box[2] + 1].ravel(order="F"), 1)  # in the other columns there is nothing
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + box[0] * len(mask)
    lengths = np.diff(changes, prepend=0, append=mask.size).tolist()
    return lengths if lengths[-1] else lengths[:-1]


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


def to_supervision(many: "Segmentation | Sequence[Segmentation]") -> "Detections":
    """The instances of one segmentation, or of several prompts on one picture, as `supervision.Detections`.

    xyxy: the outermost pixels. confidence: the score. class_id: the prompt's number, from 0;
    data["class_name"]: the prompt. Raises ImportError, which says what to install, without supervision.
    """
    many = list(many) if isinstance(many, Sequence) else [many]
    found = [(one, number, instance) for number, one in enumerate(many) for instance in one.instances]
    return _detections(
        [instance.mask for _, _, instance in found],
        [instance.box for _, _, instance in found],
        [instance.score for _, _, instance in found],
        [number for _, number, _ in found],
        [one.prompt for one, _, _ in found],
    )


def frame_to_supervision(tracking: "Tracking", t: int) -> "Detections":
    """The objects in frame t of a tracking as `supervision.Detections`: as `to_supervision`, and tracker_id, the id.

    Raises IndexError for a frame not in the clip.
    """
    ids = {prompt: tracking.ids(t, prompt) for prompt in tracking.prompts}
    found = [(track, track.frames.index(t)) for track in tracking.tracks if t in track.frames]
    return _detections(
        [ids[track.prompt] == track.id for track, _ in found],
        [track.boxes[i] for track, i in found],
        [track.scores[i] for track, i in found],
        [tracking.prompts.index(track.prompt) for track, _ in found],
        [track.prompt for track, _ in found],
        [track.id for track, _ in found],
    )


def _detections(masks, boxes, scores, classes, names, ids=None) -> "Detections":
    try:
        import supervision
    except ImportError as error:
        raise ImportError("Detections are supervision's: pip install supervision") from error
    if not masks:
        return supervision.Detections.empty()
    return supervision.Detections(
        xyxy=np.array(boxes, np.float32),
        mask=np.stack(masks),
        confidence=np.array(scores, np.float32),
        class_id=np.array(classes),
        tracker_id=None if ids is None else np.array(ids),
        data={"class_name": np.array(names)},
    )


def save_label_map(segmentations: "Sequence[Segmentation]", path: str | Path) -> Path:
    """Several prompts of one picture as a labelled PNG: `result.label_map` in the colours of overlays.

    A pixel's value is the number of its prompt, 0 of none; PATH with the suffix .json holds the legend, {"1": "a dog"}.
    A legend that is there is replaced with the PNG. Raises ValueError as `label_map`, and for more than 255 prompts.
    """
    from airl.seg.result import label_map

    labels, legend = label_map(segmentations)
    if len(legend) > 255:
        raise ValueError(f"a labelled PNG holds 255 prompts at most; these are {len(legend)}")
    path = Path(path)
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette([0, 0, 0, *draw.colour_of(np.arange(1, 256)).ravel().tolist()])
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(legend, ensure_ascii=False), encoding="utf-8")
    with atomic_write(path) as temporary:
        picture.save(temporary, "PNG")
    return path
