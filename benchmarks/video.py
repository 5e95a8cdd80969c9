"""Masks through a clip: the tracker against segmenting every frame anew and against the first frame's mask, J&F.

    python -m benchmarks.video [--clips 50] [--frames 32] [--seed 500]
    python -m benchmarks.video --davis DIR --text DIR/davis_text_annotations/Davis17_annot1.txt [--device cuda]
    python -m benchmarks.video --memory 100 500 2000

The clips are drawn, of seeds the small models were not trained on, in equal parts of every kind whose object is there,
and given to the embedded models; or they are those of a folder laid out as DAVIS 2017 (JPEGImages/480p/NAME/*.jpg,
Annotations/480p/NAME/*.png, whose values are the objects, ImageSets/2017/val.txt), given to the released models. What
to ask for is in a file of lines `NAME OBJECT "expression"`, as Khoreva et al. 2018, Video Object Segmentation with
Language Referring Expressions, wrote it for DAVIS; objects with the same expression are asked for together.

The ways differ in what they do with the same text:
- seg.track: `VideoTracker`: CLIPSeg every 4 frames, SAM 2's memory in between;
- CLIPSeg's seeds in every frame and the same SAM 2 without its memory, ids by IoU from frame to frame;
- `TextSegmenter` with recipe "best" in every frame, ids likewise;
- the latter's masks in the first frame where it finds something, in all frames.

J is region similarity, the masks' IoU; F the harmonic mean of precision and recall of their borders, to 0.008 of the
diagonal: Perazzi et al. 2016, A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation. "Objects"
judges each true object with the track that fits it best over the whole clip, one to one, as DAVIS 2019 does for
unsupervised tracking, so a changed id costs; "prompt" judges all ids together against all that the prompt is about, so
a false track costs. Every frame counts; where both masks are empty, J and F are 1. "False alarms" are the frames with
any mask in as many clips as there are of a kind in which the object never is.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from airl import images
from airl.scenes import clips
from airl.seg.metrics import boundary_f, iou
from airl.seg.pipeline import TextSegmenter
from airl.seg.video.frames import write_mp4
from airl.seg.video.rules import find_seeds, is_sure
from airl.seg.video.tracker import VideoTracker
from benchmarks.report import publish

KINDS = [kind for kind in clips.KINDS if kind != "absent"]


# ------------------------------------------------------------------------------------------------- J and F


def judge(ids: np.ndarray, truth: np.ndarray, asked: tuple[int, ...]) -> np.ndarray:
    """(J, F by objects, J, F by prompt) of a clip: ids and truth uint8 (T, H, W)."""
    tracks = np.unique(ids[ids > 0])
    table = np.empty((len(asked), len(tracks) + 1, 2))  # the last column: no track at all
    for i, wanted in enumerate(asked):
        for j, number in enumerate([*tracks, -1]):
            pairs = [(a == number, b == wanted) for a, b in zip(ids, truth, strict=True)]
            table[i, j] = np.mean([[iou(*pair), boundary_f(*pair)] for pair in pairs], axis=0)
    # As many "no track" columns as there are objects, so that every object has one.
    choices = np.concatenate([table, table[:, -1:].repeat(len(asked) - 1, axis=1)], axis=1)
    rows, columns = linear_sum_assignment(-choices.mean(-1))
    united = [(a > 0, np.isin(b, asked)) for a, b in zip(ids, truth, strict=True)]
    return np.concatenate(
        [choices[rows, columns].mean(0), np.mean([[iou(*pair), boundary_f(*pair)] for pair in united], axis=0)]
    )


# ------------------------------------------------------------------------------------------------- ways

Way = Callable[[np.ndarray, str], np.ndarray]  # pictures (T, H, W, 3) and a prompt to ids (T, H, W)


def linked(masks: list[list[np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """Masks of every frame to ids (T, H, W): a mask has the id of the one before it overlaps most, by 0.1 or more."""
    ids, before, count = np.zeros((len(masks), *size), np.uint8), {}, 0
    for t, found in enumerate(masks):
        now = {}
        for mask in found:
            likely = {number: iou(mask, old) for number, old in before.items() if number not in now}
            number = max(likely, key=likely.get, default=0)
            if not number or likely[number] < 0.1:
                count += 1
                number = count
            now[number] = mask
            ids[t][mask & (ids[t] == 0)] = number
        before = now or before
    return ids


def by_tracker(tracker: VideoTracker) -> Way:
    def way(images: np.ndarray, prompt: str) -> np.ndarray:
        result = tracker.track(images, prompt, progress=False)
        return np.stack([result.ids(t) for t in range(len(images))])

    return way


def by_sam2_per_frame(tracker: VideoTracker) -> Way:
    def way(images: np.ndarray, prompt: str) -> np.ndarray:
        size, found = images.shape[1:3], []
        for image in images:
            tracker.clipseg.set_image(image)
            heatmap = tracker.clipseg.predict([prompt])[0]
            view = tracker.sam2.see(0, image)
            seeds = [s for s in find_seeds(heatmap, tracker.recipe) if is_sure(heatmap, s.region, tracker.recipe)]
            found.append([tracker.sam2.start(view, seed)[1].mask for seed in seeds])
        return linked(found, size)

    return way


def by_sam_per_frame(segmenter: TextSegmenter, first_only: bool = False) -> Way:
    def way(images: np.ndarray, prompt: str) -> np.ndarray:
        found = []
        for image in images:
            one = segmenter(image, prompt)
            found.append([c.mask(i) for c, i in zip(one.candidates, one.chosen, strict=True)])
            if first_only and one.found:
                found = [found[-1]] * len(images)
                break
        return linked(found, images.shape[1:3])

    return way


class Case(NamedTuple):
    """A clip and what is asked for."""

    kind: str
    images: np.ndarray  # uint8 (T, H, W, 3)
    prompt: str
    truth: np.ndarray  # uint8 (T, H, W): the object at each pixel
    asked: tuple[int, ...]  # the objects that the prompt is about; none in a clip of kind "absent"


def drawn(count: int, frames: int, first_seed: int) -> Iterator[Case]:
    for i in range(count + count // len(KINDS)):
        kind = KINDS[i % len(KINDS)] if i < count else "absent"
        one = clips.clip(first_seed + i, frames, (128, 128), kind)
        pictures, truth = one.render()
        yield Case(kind, pictures, one.prompt, truth, one.asked())


def davis(folder: Path, text: Path, split: str = "val") -> Iterator[Case]:
    """The clips of a split of DAVIS 2017 that `text` has expressions for.

    Raises ValueError for a line of `text` that is no `NAME OBJECT "expression"` and for a clip without one truth a
    frame.
    """
    asked = defaultdict(lambda: defaultdict(list))
    for line in text.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.strip():
            name, number, expression = (line.split(maxsplit=2) + ["", ""])[:3]
            if not number.isdigit() or not expression.strip('" '):
                raise ValueError(f'{text} has the line {line!r}; expected NAME OBJECT "expression"')
            asked[name][expression.strip('" ')].append(int(number))
    for name in (folder / "ImageSets" / "2017" / f"{split}.txt").read_text().split():
        if name not in asked:
            continue
        pictures = sorted((folder / "JPEGImages" / "480p" / name).glob("*.jpg"))
        truths = sorted((folder / "Annotations" / "480p" / name).glob("*.png"))
        if [path.stem for path in pictures] != [path.stem for path in truths] or not pictures:
            raise ValueError(f"{folder} has {len(pictures)} pictures and {len(truths)} truths of {name}")
        frames = np.stack([images.load(path) for path in pictures])
        truth = np.stack([np.asarray(Image.open(path)) for path in truths])  # the palette's indices
        for expression, numbers in asked[name].items():
            yield Case("davis", frames, expression, truth, tuple(numbers))


def compare(cases: Iterable[Case], tracker: VideoTracker, segmenter: TextSegmenter) -> list[dict]:
    """A row for each way: J and F over all cases that ask for an object, and J&F by their kind."""
    ways: dict[str, Way] = {
        f"seg.track: CLIPSeg every {tracker.recipe.every} frames, SAM 2's memory between": by_tracker(tracker),
        "CLIPSeg and the same SAM 2 in every frame": by_sam2_per_frame(tracker),
        "CLIPSeg and SAM in every frame": by_sam_per_frame(segmenter),
        "the first frame's mask in all": by_sam_per_frame(segmenter, first_only=True),
    }
    scores = {name: defaultdict(list) for name in ways}
    alarms, seconds, frames = defaultdict(list), defaultdict(float), 0
    for case in cases:
        frames += len(case.images) if case.asked else 0
        for name, way in ways.items():
            began = time.perf_counter()
            ids = way(case.images, case.prompt)
            if case.asked:
                seconds[name] += time.perf_counter() - began
                scores[name][case.kind].append(judge(ids, case.truth, case.asked))
            else:
                alarms[name].append((ids > 0).any((1, 2)).mean())
    rows = []
    for name, by_kind in scores.items():
        every = np.mean(sum(by_kind.values(), []), axis=0)
        row = {"way": name, "objects: J": every[0], "objects: F": every[1], "objects: J&F": every[:2].mean()}
        row["prompt: J&F"] = every[2:].mean()
        if len(by_kind) > 1:
            row |= {kind: np.mean(values, axis=0)[:2].mean() for kind, values in by_kind.items()}
        if alarms:
            row["false alarms"] = np.mean(alarms[name])
        row = {column: value if column == "way" else round(float(value), 3) for column, value in row.items()}
        rows.append(row | {"ms a frame": round(1000 * seconds[name] / frames)})
    return rows


# ------------------------------------------------------------------------------------------------- memory


def track_long(frames: int) -> dict[str, int]:
    """Track a clip of so many frames, from a file -> this process's memory before, its peak, and more."""
    tracker = VideoTracker.tiny("cpu")
    one = clips.clip(3, frames, (128, 128), "lookalikes")
    with tempfile.TemporaryDirectory() as folder:
        path = write_mp4((one.draw(t)[0] for t in range(frames)), Path(folder) / "clip.mp4", 25)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        began = time.perf_counter()
        result = tracker.track(path, one.prompt, Path(folder) / "out", progress=False)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {
            "frames": frames,
            "tracks": len(result.tracks),
            "once loaded, MiB": round(before),
            "peak memory of the process, MiB": round(after),
            "time, s": round(time.perf_counter() - began),
        }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--seed", type=int, default=500, help="of the first clip")
    parser.add_argument(
        "--davis", type=Path, metavar="DIR", help="the clips of a folder laid out as DAVIS 2017 instead"
    )
    parser.add_argument("--text", type=Path, help="what to ask for in them")
    parser.add_argument("--split", default="val", help="of DAVIS: val or train")
    parser.add_argument("--sam2", default="sam2.1-hiera-small", help="for --davis")
    parser.add_argument("--sam", default="vit_h", help="for --davis")
    parser.add_argument("--tiny", action="store_true", help="the embedded models for --davis too")
    parser.add_argument("--device", default="auto", help="for --davis without --tiny")
    parser.add_argument("--memory", type=int, nargs="+", metavar="FRAMES", help="measure peak memory instead")
    args = parser.parse_args(arguments)
    if args.davis and not args.text:
        parser.error("--davis needs --text, the file that says what to ask for")

    embedded = args.tiny or not args.davis
    if args.memory:
        rows = []
        for frames in args.memory:  # each in a process of its own, since a peak is never taken back
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(track_long, (frames,)))
        publish("video_memory", rows, data="drawn clips of 128x128 pixels", note="the embedded models", device="cpu")
        return
    if embedded:
        tracker, segmenter = VideoTracker.tiny("cpu"), TextSegmenter.tiny("best", "cpu")
        said = {"note": "fp32, the embedded models.", "device": "cpu"}
    else:
        tracker = VideoTracker.from_pretrained(args.sam2, device=args.device)
        segmenter = TextSegmenter.from_pretrained(args.sam, recipe="best", device=args.device)
        said = {"note": f"CLIPSeg rd64-refined, {args.sam2} and SAM {args.sam}.", "device": args.device}
    if args.davis:
        rows = compare(davis(args.davis, args.text, args.split), tracker, segmenter)
        publish("video_davis", rows, data=f"{args.split} of {args.davis.name}, {args.text.name}", **said)
    else:
        rows = compare(drawn(args.clips, args.frames, args.seed), tracker, segmenter)
        data = f"{args.clips} drawn clips of {args.frames} frames of 128x128 pixels, that nothing was trained on"
        publish("video", rows, data=data, **said)


if __name__ == "__main__":
    main()
