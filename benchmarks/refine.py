"""How far points correct a result: `TextSegmenter.refine` on drawn scenes, with the embedded models.

    python -m benchmarks.refine [--scenes 200] [--points 5]

A person is imitated, as in the evaluation of interactive segmentation (Xu et al. 2016, https://arxiv.org/abs/1603.04042):
the next point is the innermost pixel of whichever is deeper, what is missing or what is too much, until the mask's IoU
with the truth is 0.95. After a point that made it worse a person goes back, so a scene counts with the best it had so
far; "last" is without going back. The scenes, of every kind with the object in it, are none that were trained on.
"""

import argparse

import numpy as np
from tqdm.auto import tqdm

from airl.scenes import shapes
from airl.seg import TextSegmenter
from airl.seg.metrics import iou
from airl.seg.seeds import depth_of, furthest_inside
from benchmarks.record import record
from training.train_tiny import TEST_SEED

ENOUGH = 0.95  # IoU
KINDS = [kind for kind in shapes.KINDS if kind != "absent"]


def correct(segmenter: TextSegmenter, scene: shapes.Scene, points: int) -> list[float]:
    """IoU before any point and after each: 1 + points of them."""
    truth = scene.truth(scene.prompt)
    one = segmenter(scene.image, scene.prompt)
    scores = [iou(one.mask, truth)]
    while len(scores) <= points and max(scores) < ENOUGH:
        mask = one.mask
        missing, extra = truth & ~mask, mask & ~truth
        if depth_of(missing).max() >= depth_of(extra).max():
            one = segmenter.refine(one, add=[furthest_inside(missing)])
        else:
            one = segmenter.refine(one, remove=[furthest_inside(extra)])
        scores.append(iou(one.mask, truth))
    return scores + scores[-1:] * (1 + points - len(scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--points", type=int, default=5)
    args = parser.parse_args()
    segmenter = TextSegmenter.tiny("best", device="cpu")
    scenes = (shapes.scene(TEST_SEED + n, kind=KINDS[n % len(KINDS)]) for n in range(args.scenes))
    last = np.array([correct(segmenter, scene, args.points) for scene in tqdm(scenes, total=args.scenes, disable=None)])
    best = np.maximum.accumulate(last, axis=1)
    poor = best[:, 0] < 0.8
    rows = [
        {
            "points": n,
            "mean IoU": round(float(best[:, n].mean()), 3),
            "last": round(float(last[:, n].mean()), 3),
            "mean IoU of those cut badly": round(float(best[poor, n].mean()), 3),
            "IoU at least 0.9": round(float((best[:, n] >= 0.9).mean()), 3),
            "IoU at least 0.95": round(float((best[:, n] >= ENOUGH).mean()), 3),
        }
        for n in range(args.points + 1)
    ]
    for row in rows:
        print(row)
    note = f"the embedded models, recipe best; cut badly: IoU below 0.8 before any point, {int(poor.sum())} scenes"
    record("refine", rows, data=f"{args.scenes} drawn scenes", note=note, device="cpu")


if __name__ == "__main__":
    main()
