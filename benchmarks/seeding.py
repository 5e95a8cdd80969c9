"""How well each way to seed SAM finds what a prompt asks for: on drawn scenes, with the embedded models.

    python -m benchmarks.seeding [--scenes 500] [--figure docs/figures/seeding.png]
    python -m benchmarks.seeding --presence 1000

The scenes' truth is known exactly and their seeds are none that the models were trained on; there are as many of each
kind, from "convex" (one circle, square or triangle) to "absent" (nothing that fits the prompt). Every way starts from
the same heat-map; ways differ in where the seeds are, in what else SAM is given, and in which of SAM's three masks is
taken: the one it expects most of, the one that agrees best with the coarse mask, or the best product of both. The
numbers are the mean IoU for each kind of scene with the object in it, then over all of these the mean IoU and the mean
boundary F-score, then how many absent objects are refused and how many present ones missed. The 100 absent objects of
500 scenes tell that share to 2% or so; --presence asks CLIPSeg alone, about as many scenes after those as it says, and
about as many in a drawing style that nothing was trained on (second_style.py).
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from airl.files import atomic_write
from airl.scenes import shapes
from airl.seg import RECIPES, STRATEGIES, TextSegmenter
from airl.seg.metrics import boundary_f, iou
from airl.seg.pipeline import TINY_FLOOR, TINY_THRESHOLD
from airl.seg.sam import CHOICES
from benchmarks import second_style
from benchmarks.record import record
from benchmarks.report import publish, table
from training.train_tiny import TEST_SEED

MEASURED = {"threshold": TINY_THRESHOLD, "floor": TINY_FLOOR}  # of the embedded models, whatever the recipe
PRESENT = [kind for kind in shapes.KINDS if kind != "absent"]
GIVEN = {
    "point": {},
    "point, box": {"box": True},
    "point, box, 2 negatives": {"box": True, "negatives": 2},
    "point, heat-map": {"mask_prompt": True},
    "point, box, heat-map": {"box": True, "mask_prompt": True},
}
SHOWN = {  # in the figure
    "the assignment: center of mass": ("center_of_mass", "point", "score"),
    "interior": ("interior", "point", "score"),
    "components": ("components", "point", "score"),
    'recipe "best"': ("recipe best", "", ""),
}
NOTE = (
    "fp32. Mean IoU by kind of scene, then mean IoU and boundary F-score of these four kinds together, and the latter "
    "of convex objects; then the shares of absent objects refused and of present ones missed. The command prints every "
    "combination."
)
EXAMPLES = {"convex": 1, "concave": 15, "several": 0, "touching": 3}  # seeds, from TEST_SEED, picked to tell ways apart


class Score(NamedTuple):
    iou: float
    boundary: float
    found: bool


Scores = dict[tuple[str, str, str], dict[str, list[Score]]]  # by way (seeding, given, taken by), by kind of scene


def measure(segmenter: TextSegmenter, count: int) -> Scores:
    from tqdm.auto import tqdm

    scores = defaultdict(lambda: defaultdict(list))
    for number in tqdm(range(count), unit="scene", disable=None):
        kind = shapes.KINDS[number % len(shapes.KINDS)]
        scene = shapes.scene(TEST_SEED + number, kind=kind)
        truth = scene.truth(scene.prompt)

        def note(way, mask, found, kind=kind, truth=truth):
            scores[way][kind].append(Score(iou(mask, truth), boundary_f(mask, truth), found))

        segmenter.set_image(scene.image)
        for seeding in STRATEGIES:
            for given, changes in GIVEN.items():
                (one,) = segmenter.segment([scene.prompt], seeding=seeding, **changes)
                if (seeding, given) == ("center_of_mass", "point"):
                    note(("CLIPSeg's coarse mask, no SAM", "", ""), one.coarse, one.found)
                for choice in CHOICES:
                    mask = np.zeros_like(one.mask)
                    for seed, candidates in zip(one.seeds, one.candidates, strict=True):
                        mask |= candidates.mask(candidates.choose(seed.region, choice))
                    note((seeding, given, choice), mask, one.found)
        for name, recipe in RECIPES.items():
            (one,) = segmenter.segment([scene.prompt], **(vars(recipe) | MEASURED))
            note((f"recipe {name}", "", ""), one.mask, one.found)
    return scores


def rows_of(scores: Scores) -> list[dict]:
    rows = []
    for (seeding, given, choice), by_kind in scores.items():
        there = [score for kind in PRESENT for score in by_kind[kind]]
        row = {"seeding": seeding, "SAM is given": given, "taken by": choice}
        row |= {kind: np.mean([score.iou for score in by_kind[kind]]).round(3) for kind in PRESENT}
        row |= {
            "these four": np.mean([score.iou for score in there]).round(3),
            "boundary F": np.mean([score.boundary for score in there]).round(3),
            "of convex ones": np.mean([score.boundary for score in by_kind["convex"]]).round(3),
            "absent refused, %": (100 * np.mean([not score.found for score in by_kind["absent"]])).round(1),
            "present missed, %": (100 * np.mean([not score.found for score in there])).round(1),
        }
        rows.append(row)
    return rows


def presence(segmenter: TextSegmenter, first: int, count: int) -> list[dict]:
    """How the decision whether the object is there goes on scenes from number `first` on, in both drawing styles."""
    from tqdm.auto import tqdm

    styles = {
        "as in training": lambda n: shapes.scene(TEST_SEED + n, kind=shapes.KINDS[n % len(shapes.KINDS)]),
        "in another style": lambda n: second_style.scene(TEST_SEED + n, present=n % 3 > 0),
    }
    rows = []
    for style, scene_of in styles.items():
        found = {True: [], False: []}  # by whether the object is there
        for number in tqdm(range(first, first + count), unit="scene", disable=None):
            scene = scene_of(number)
            segmenter.clipseg.set_image(scene.image)
            peak = segmenter.clipseg.predict([scene.prompt])[0].max()
            found[scene.kind != "absent"].append(peak >= segmenter.recipe.floor)
        row = {"scenes drawn": style, "objects absent": len(found[False]), "objects present": len(found[True])}
        refused, missed = (100 * (1 - np.mean(found[there])) for there in (False, True))
        rows.append(row | {"absent refused, %": refused.round(1), "present missed, %": missed.round(1)})
    return rows


def draw(scores: Scores, segmenter: TextSegmenter, path: Path) -> None:
    """Above, a scene of each kind as some ways cut it; below, bars of their mean IoU."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12, 14), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[3, 1])
    axes = above.subplots(len(SHOWN), len(EXAMPLES))
    for column, (kind, seed) in enumerate(EXAMPLES.items()):
        scene = shapes.scene(TEST_SEED + seed, kind=kind)
        segmenter.set_image(scene.image)
        for axis, (title, way) in zip(axes[:, column], SHOWN.items(), strict=True):
            changes = vars(RECIPES["best"]) | MEASURED if way[0] == "recipe best" else {"seeding": way[0]}
            (one,) = segmenter.segment([scene.prompt], **changes)
            axis.imshow(one.image)
            axis.contourf(one.mask, levels=[0.5, 1], colors=["black"], alpha=0.35)
            axis.contour(one.mask, levels=[0.5], colors=["white"], linewidths=2)
            for one_seed in one.seeds:
                axis.plot(*one_seed.point, "*", color="white", markeredgecolor="black", markersize=15)
            axis.set(xticks=[], yticks=[], xlabel=f"IoU {iou(one.mask, scene.truth(scene.prompt)):.2f}")
            axis.set_ylabel(title if not column else "")
        axes[0, column].set_title(f"{kind}\n“{scene.prompt}”")
    axis = below.subplots()
    for i, (title, way) in enumerate(SHOWN.items()):
        means = [np.mean([score.iou for score in scores[way][kind]]) for kind in PRESENT]
        bars = axis.bar(np.arange(len(PRESENT)) + (i - 1.5) * 0.2, means, 0.19, label=title)
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    axis.set(xticks=range(len(PRESENT)), xticklabels=PRESENT, ylabel="mean IoU", ylim=(0, 1.05))
    axis.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--presence", type=int, metavar="SCENES", help="ask for nothing but presence, on other scenes")
    parser.add_argument("--figure", type=Path, help="draw examples and bars into this file")
    args = parser.parse_args()
    segmenter = TextSegmenter.tiny()
    if args.presence:
        rows = presence(segmenter, args.scenes, args.presence)
        publish("presence", rows, data=f"{args.presence:,} drawn scenes in each style, none trained on")
        return
    scores = measure(segmenter, args.scenes)
    rows, data = rows_of(scores), f"{args.scenes} drawn scenes, as many of each kind, that nothing was trained on"
    print(table(rows))
    told = [
        row
        for row in rows
        if (row["SAM is given"], row["taken by"]) in (("point", "score"), ("", ""))
        or row["seeding"] == "components"
        and (row["taken by"] == "score" or row["SAM is given"] == "point, box")
    ]
    record("seeding", told, data=data, note=NOTE)
    if args.figure:
        draw(scores, segmenter, args.figure)


if __name__ == "__main__":
    main()
