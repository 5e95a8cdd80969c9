"""Small things in large pictures: with and without `Recipe.tile`, on drawn scenes, with the embedded models.

    python -m benchmarks.small_things [--scenes 60] [--tiles 0 128]

The scenes are 700, 1,000 and 1,500 pixels wide and high, their objects 1 to 3% of that. Nothing was trained on them.
"""

import argparse
import time

import numpy as np

from airl.scenes import shapes
from airl.seg import TextSegmenter
from airl.seg.metrics import iou
from benchmarks.report import publish
from training.train_tiny import TEST_SEED

SIDES, SCALE = (700, 1000, 1500), 0.06  # pixels; of the objects' usual size
NOTE = "fp32, one thread; IoU of the scenes with the object in them; of the others, false alarms."


def measure(segmenter: TextSegmenter, first: int, count: int, tiles: list[int]) -> list[dict]:
    """One row per size of tiles, over scenes of each of SIDES by turns."""
    from tqdm.auto import tqdm

    scores: dict[int, list[tuple[bool, bool, float, float, float]]] = {tile: [] for tile in tiles}
    for number in tqdm(range(first, first + count), unit="scene", disable=None):
        size = SIDES[number // len(shapes.KINDS) % len(SIDES)]
        kind = shapes.KINDS[number % len(shapes.KINDS)]
        scene = shapes.scene(number, (size, size), kind, SCALE)
        truth = scene.truth(scene.prompt)
        for tile in tiles:
            began = time.perf_counter()
            one = segmenter(scene.image, scene.prompt, tile=tile)
            seconds = time.perf_counter() - began
            scores[tile].append((kind != "absent", one.found, iou(one.mask, truth), iou(one.coarse, truth), seconds))
    rows = []
    for tile, of_tile in scores.items():
        present, found, fine, coarse, seconds = np.array(of_tile).T
        there = present > 0
        rows.append(
            {
                "tiles": f"{tile} pixels" if tile else "none",
                "mean IoU": fine[there].mean().round(3),
                "IoU of the coarse mask": coarse[there].mean().round(3),
                "present missed, %": (100 * (1 - found[there].mean())).round(1),
                "false alarms, %": (100 * found[~there].mean()).round(1),
                "s per picture": seconds.mean().round(2),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--tiles", type=int, nargs="+", default=[0, 128])
    args = parser.parse_args()
    rows = measure(TextSegmenter.tiny("best", device="cpu"), TEST_SEED, args.scenes, args.tiles)
    data = f"{args.scenes} drawn scenes of {', '.join(map(str, SIDES))} pixels, objects of 1 to 3% of that"
    publish("small_things", rows, data=data, note=NOTE)


if __name__ == "__main__":
    main()
