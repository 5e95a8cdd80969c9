"""Masks through a clip: the tracker against segmenting every frame anew and against the first frame's mask, J&F.

    python benchmarks/video.py [--clips 50] [--frames 32] [--seed 500]
    python benchmarks/video.py --memory 100 500 2000

The clips are drawn, of seeds the small models were not trained on, in equal parts of every kind whose object is
there; the ways differ in what they do with the same text:
- tracker: `VideoTracker.tiny`: CLIPSeg every 8 frames, SAM 2's memory in between;
- SAM 2 per frame: CLIPSeg's seeds in every frame and the same SAM 2 without its memory, ids by IoU from frame to frame;
- SAM per frame: `TextSegmenter.tiny("best")` in every frame, ids likewise;
- first frame: the latter's masks in the first frame where it finds something, in all frames.

J is region similarity, the masks' IoU; F the harmonic mean of precision and recall of their borders, to 0.008 of the
diagonal: Perazzi et al. 2016, A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation. "Objects"
judges each true object with the track that fits it best over the whole clip, one to one, as DAVIS 2019 does for
unsupervised tracking, so a changed id costs; "prompt" judges all ids together against all that the prompt is about, so
a false track costs. Every frame counts; where both masks are empty, J and F are 1. "False alarms" are the frames with
any mask in as many clips as there are of a kind in which the object never is.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from airl import runtime
from airl.scenes import clips
from airl.seg.metrics import boundary_f, iou
from airl.seg.pipeline import TextSegmenter
from airl.seg.video.frames import write_mp4
from airl.seg.video.rules import find_seeds
from airl.seg.video.tracker import VideoTracker

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
            found.append([tracker.sam2.start(view, seed)[1].mask for seed in find_seeds(heatmap, tracker.recipe)])
        return linked(found, size)

    return way


def by_sam_per_frame(segmenter: TextSegmenter, first_only: bool = False) -> Way:
    def way(images: np.ndarray, prompt: str) -> np.ndarray:
        found = []
        for image in images:
            one = segmenter(image, prompt)
            found.append([c.masks[i] for c, i in zip(one.candidates, one.chosen, strict=True)])
            if first_only and one.found:
                found = [found[-1]] * len(images)
                break
        return linked(found, images.shape[1:3])

    return way


def compare(count: int, frames: int, first_seed: int) -> None:
    where = runtime.choose("cpu", "fp32")
    tracker = VideoTracker.tiny("cpu")
    segmenter = TextSegmenter.tiny("best", "cpu")
    ways: dict[str, Way] = {
        "tracker": by_tracker(tracker),
        "SAM 2 per frame": by_sam2_per_frame(tracker),
        "SAM per frame": by_sam_per_frame(segmenter),
        "first frame": by_sam_per_frame(segmenter, first_only=True),
    }
    scores = {name: {kind: [] for kind in KINDS} for name in ways}
    alarms, seconds = {name: [] for name in ways}, {name: 0.0 for name in ways}
    for i in range(count + count // len(KINDS)):
        kind = KINDS[i % len(KINDS)] if i < count else "absent"
        one = clips.clip(first_seed + i, frames, (128, 128), kind)
        images, truth = one.render()
        for name, way in ways.items():
            began = time.perf_counter()
            ids = way(images, one.prompt)
            if kind == "absent":
                alarms[name].append((ids > 0).any((1, 2)).mean())
            else:
                seconds[name] += time.perf_counter() - began
                scores[name][kind].append(judge(ids, truth, one.asked()))

    print(f"\n{count} clips of {frames} frames, 128 x 128 pixels, from seed {first_seed}, on {where}")
    print(f"{'':16} {'objects':^20} {'prompt':^20} {'J&F by objects, by kind':^54} {'false':>7} {'ms a':>6}")
    print(f"{'':16} {'J':>6}{'F':>7}{'J&F':>7}{'J':>7}{'F':>7}{'J&F':>7}", end="")
    print("".join(f"{kind:>11}" for kind in KINDS), f"{'alarms':>7} {'frame':>6}")
    for name, by_kind in scores.items():
        every = np.mean(sum(by_kind.values(), []), axis=0)
        row = [every[0], every[1], every[:2].mean(), every[2], every[3], every[2:].mean()]
        print(f"{name:16}" + "".join(f"{value:7.3f}" for value in row), end="")
        print("".join(f"{np.mean(by_kind[kind], axis=0)[:2].mean():11.3f}" for kind in KINDS), end="")
        print(f"{np.mean(alarms[name]):8.3f}{1000 * seconds[name] / count / frames:7.0f}")


# ------------------------------------------------------------------------------------------------- memory


def track_long(frames: int) -> None:
    """Track a clip of so many frames, from a file; print this process's memory before and its peak."""
    tracker = VideoTracker.tiny("cpu")
    one = clips.clip(3, frames, (128, 128), "lookalikes")
    with tempfile.TemporaryDirectory() as folder:
        path = write_mp4((one.draw(t)[0] for t in range(frames)), Path(folder) / "clip.mp4", 25)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        began = time.perf_counter()
        result = tracker.track(path, one.prompt, Path(folder) / "out", progress=False)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        seconds = time.perf_counter() - began
    print(f"{frames:7} {len(result.tracks):7} {before:12.0f} {after:12.0f} {seconds:9.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--seed", type=int, default=500, help="of the first clip")
    parser.add_argument("--memory", type=int, nargs="+", metavar="FRAMES", help="measure peak memory instead")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        track_long(options.child)
    elif options.memory:
        print(f"{'frames':>7} {'tracks':>7} {'loaded, MiB':>12} {'peak, MiB':>12} {'seconds':>9}", flush=True)
        for frames in options.memory:  # each in a process of its own, since a peak is never taken back
            done = subprocess.run([sys.executable, __file__, "--child", str(frames)], check=True, capture_output=True)
            print(done.stdout.decode().splitlines()[-1], flush=True)
    else:
        compare(options.clips, options.frames, options.seed)


if __name__ == "__main__":
    main()
