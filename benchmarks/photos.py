"""Photos with known masks: which seeding, which threshold, and how well presence is told, with any weights.

    python -m benchmarks.photos DIR --photos 500 [--sam vit_h] [--device cuda]
    python -m benchmarks.photos DIR --tiny                    # the embedded models

DIR is in COCO's format: pictures beside or below it, and one file annotations/instances_NAME.json (or `--annotations`
FILE); the pictures of instances_NAME.json are looked for in DIR/NAME, DIR/images and DIR. COCO's own val2017 is such a
folder. For each photo every class that is in it is asked for, "a dog", and its truth is all of its instances together;
as many classes that are not in it, drawn with `--seed`, are asked for too: a true absent prompt, as far as the
annotations are complete.

The first table has, by threshold (heat-map to coarse mask), the mean IoU of CLIPSeg's coarse mask alone and of SAM's
mask for each seeding with a point and for recipe "best", presence set aside: a present object that the heat-map never
marks counts 0. The second has, by floor (the least peak that counts as present), how many absent prompts are refused
and how many present ones missed.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from airl import images
from airl.seg import RECIPES, STRATEGIES, Recipe, TextSegmenter
from airl.seg.metrics import iou
from benchmarks.report import publish

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
FLOORS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
WAYS = {f"{name}, a point": Recipe(seeding=name) for name in STRATEGIES} | {"recipe best": RECIPES["best"]}


def prompt_of(name: str) -> str:
    """ "a dog", "an elephant"."""
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def read(folder: Path, annotations: Path | None, count: int, seed: int) -> Iterator[tuple[np.ndarray, dict, list[str]]]:
    """Photos, with a prompt and its truth, bool (H, W), for each class in them, and prompts for as many that are not.

    Raises FileNotFoundError for a folder without one file of annotations and for a picture that is nowhere.
    """
    from pycocotools.coco import COCO

    found = [annotations] if annotations else sorted(folder.glob("annotations/instances_*.json"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{folder} has {len(found)} files annotations/instances_*.json; name one: --annotations"
        )
    coco = COCO(found[0])
    names = {number: category["name"] for number, category in coco.cats.items()}
    places = [folder / found[0].stem.removeprefix("instances_"), folder / "images", folder]
    draw = random.Random(seed)
    for number in draw.sample(sorted(coco.imgs), min(count, len(coco.imgs))):
        file = coco.imgs[number]["file_name"]
        path = next((place / file for place in places if (place / file).is_file()), None)
        if path is None:
            raise FileNotFoundError(f"{file} is in none of {', '.join(map(str, places))}")
        photo, truths = images.load(path), {}
        for one in coco.imgToAnns[number]:
            mask = coco.annToMask(one).astype(bool)
            prompt = prompt_of(names[one["category_id"]])
            truths[prompt] = truths[prompt] | mask if prompt in truths else mask
        absent = [prompt_of(name) for name in names.values() if prompt_of(name) not in truths]
        yield photo, truths, draw.sample(absent, min(len(truths), len(absent)))


def measure(segmenter: TextSegmenter, photos, total: int, tile: int = 0) -> tuple[list[dict], list[dict], int]:
    """Rows of the two tables, and how many photos there were."""
    from tqdm.auto import tqdm

    scores = {threshold: defaultdict(list) for threshold in THRESHOLDS}
    peaks, count = {"present": [], "absent": []}, 0
    for photo, truths, absent in tqdm(photos, total=total, unit="photo", disable=None):
        count += 1
        segmenter.set_image(photo)
        if absent:  # at a floor of 1 SAM is not asked, and of tiles nothing counts
            asked = segmenter.segment(absent, threshold=THRESHOLDS[-1], floor=0.0 if tile else 1.0, tile=tile)
            peaks["absent"] += [float(one.peak) for one in asked]
        for threshold in THRESHOLDS if truths else ():
            for way, recipe in WAYS.items():
                asked = segmenter.segment(
                    list(truths), **vars(replace(recipe, threshold=threshold, floor=0.0, tile=tile))
                )
                for one in asked:
                    scores[threshold][way].append(iou(one.mask, truths[one.prompt]))
            # The coarse masks and the peaks are the same for all ways.
            scores[threshold]["coarse mask, no SAM"] += [iou(one.coarse, truths[one.prompt]) for one in asked]
        peaks["present"] += [float(one.peak) for one in asked] if truths else []
    columns = ["coarse mask, no SAM", *WAYS]
    masks = [
        {"threshold": threshold} | {way: round(float(np.mean(by_way[way])), 3) for way in columns}
        for threshold, by_way in scores.items()
        if by_way
    ]
    presence = [
        {
            "floor": floor,
            "absent refused, %": _percent(peak < floor for peak in peaks["absent"]),
            "present missed, %": _percent(peak < floor for peak in peaks["present"]),
            "absent prompts": len(peaks["absent"]),
            "present prompts": len(peaks["present"]),
        }
        for floor in FLOORS
    ]
    return masks, presence, count


def _percent(answers) -> float | None:
    answers = list(answers)
    return round(100 * float(np.mean(answers)), 1) if answers else None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--photos", type=int, default=500, help="at most so many, drawn with --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sam", default="vit_h")
    parser.add_argument("--tiny", action="store_true", help="the embedded models, which know drawn scenes alone")
    parser.add_argument("--tile", type=int, default=0, help="pixels: look at overlapping tiles, too (default: do not)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(arguments)
    segmenter = (
        TextSegmenter.tiny(device=args.device)
        if args.tiny
        else TextSegmenter.from_pretrained(args.sam, device=args.device)
    )
    photos = read(args.folder, args.annotations, args.photos, args.seed)
    masks, presence, count = measure(segmenter, photos, args.photos, args.tile)
    said = {
        "data": f"{count} photos of {args.folder.name}, drawn with seed {args.seed}",
        "note": "the embedded models" if args.tiny else f"CLIPSeg rd64-refined and SAM {args.sam}",
        "device": args.device,
    }
    if masks:
        publish("photos", masks, **said)
    publish("photos_presence", presence, **said)


if __name__ == "__main__":
    main()
