"""Seconds and memory of a 12-megapixel photo: `airl.seg` with the embedded models, whose own work is small beside it.

    python -m benchmarks.large

The photo is a drawn scene enlarged to 4000 x 3000 pixels, with a camera's noise, which is what makes files large; in
the second case an object nearly fills it, and so the cut-out is large. Everything is done four times, of which the
median counts. Memory is how much the process's peak grows from one prompt's result to a hundred's, all kept.
"""

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from airl import seg
from airl.scenes import shapes
from benchmarks.record import record

SIZE, NOISE = (4000, 3000), 4.0  # pixels, W x H; levels of 255
EDGE = 40  # pixels of the scene around an object that nearly fills the photo
REPEATS, PROMPTS = 4, 100


def photo(image: np.ndarray) -> np.ndarray:
    large = np.asarray(Image.fromarray(image).resize(SIZE, Image.Resampling.BICUBIC))
    noise = np.random.default_rng(0).normal(0, NOISE, large.shape)
    return (large + noise).clip(0, 255).astype(np.uint8)


def median_of(work: Callable[[int], object], repeats: int = REPEATS) -> float:
    """Seconds of a piece of work, which is given the number of its turn."""
    times = []
    for number in range(repeats):
        start = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - start)
    return round(statistics.median(times), 2)


def measure(segmenter: seg.TextSegmenter, name: str, image: np.ndarray, prompt: str, folder: Path) -> dict:
    one = segmenter(image, prompt)
    return {
        "photo": name,
        "the object's box, % of it": round(100 * one.cutout[..., 0].size / one.mask.size),
        "both models, s": median_of(lambda _: segmenter(image, prompt)),
        "saving, s": median_of(lambda number: one.save(folder / f"{name} {number}")),
        "files, MB": round(sum(file.stat().st_size for file in (folder / f"{name} 0").iterdir()) / 1e6, 1),
        "figure of all steps, s": median_of(lambda number: one.plot().savefig(folder / f"{number}.png")),
    }


def peak() -> float:
    """The most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    segmenter = seg.TextSegmenter.tiny("best", device="cpu")
    scene = shapes.scene(3, (768, 1024), "several")
    image = photo(scene.image)
    x0, y0, x1, y1 = segmenter(scene.image, scene.prompt).instances[0].box
    close = photo(scene.image[y0 - EDGE : y1 + EDGE, x0 - EDGE : x1 + EDGE])
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(segmenter, name, picture, scene.prompt, Path(folder))
            for name, picture in (("objects beside others", image), ("one that nearly fills it", close))
        ]
    segmenter.set_image(image)
    before, kept = peak(), segmenter.segment([scene.prompt] * PROMPTS)
    for row in rows:
        print(row)
    more = peak() - before
    note = f"fp32; {len(kept)} prompts' results, all kept, take {more:,.0f} MiB more than the peak until then"
    print(note)
    record("large", rows, data=f"drawn photos of {SIZE[0]} x {SIZE[1]} pixels", note=note, device="cpu")


if __name__ == "__main__":
    main()
