"""A folder of pictures and several prompts to a data set: COCO's annotations, and a page to look at them.

label_files(segmenter, ["photos"], ["a dog", "a cat"], "out")       # out/coco.json, out/index.html
"""

import hashlib
import html
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch

from airl import distributed, images
from airl.files import atomic_folder, atomic_write
from airl.seg import draw
from airl.seg.clipseg import check_prompts
from airl.seg.pipeline import TextSegmenter
from airl.seg.result import Instance, Segmentation

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic"}  # what is a picture in a folder
LONGEST = 1000  # pixels: the longer side of an overlay
Prompts = Iterable[str] | Mapping[str, dict]


def label_files(
    segmenter: TextSegmenter,
    files: str | Path | Iterable[str | Path],
    prompts: Prompts,
    out: str | Path,
    overwrite: bool = False,
) -> dict[Path, Exception]:
    """Label pictures by several prompts, at each of which both models look once.

    files: pictures, and folders, of which all pictures are taken, those of folders in them too. prompts: texts, or for
    each text the fields of `Recipe` that differ for it: {"a dog": {}, "a cat": {"threshold": 0.3, "floor": 0.4}}.

    Writes OUT/PICTURE/result.json, with every prompt's instances, and overlay.jpg for each picture (PICTURE is its
    place in the folder given, or the file's name), and at the end OUT/coco.json, a data set in COCO's format with a
    category for each prompt and an annotation for each instance, and OUT/index.html with every overlay. A picture that
    fails is reported by name and the rest go on; one that is done is skipped, unless `overwrite`, so that a run that
    was stopped goes on. Under torchrun the processes, which write into one folder, share the pictures out.

    Returns the errors, by file. Raises ValueError, before any work, for an empty prompt and where there is no picture.
    """
    from tqdm.auto import tqdm

    changes = {prompt: {} for prompt in check_prompts(prompts)}
    changes.update(prompts if isinstance(prompts, Mapping) else {})
    recipes = {prompt: replace(segmenter.recipe, **fields) for prompt, fields in changes.items()}
    if not recipes:
        raise ValueError("there is no prompt; say what to look for, such as ['a person']")
    out = Path(out)
    pictures = {
        name: file for name, file in find_pictures(files).items() if out.resolve() not in file.resolve().parents
    }
    asked = json.loads(json.dumps({prompt: asdict(recipe) for prompt, recipe in recipes.items()}))
    group = distributed.join(torch.device("cpu"))  # results go by files, and only errors between processes
    errors: dict[Path, Exception] = {}
    bar = tqdm(
        list(pictures.items())[group.rank :: group.size], desc=", ".join(recipes)[:40], unit="picture", disable=None
    )
    for name, file in bar:
        try:
            sha1 = hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()
            if not overwrite and _is_done(out / name, sha1, asked):
                bar.write(f"{file}: skipped, {out / name} is there already")
                continue
            many = [(one, one.instances) for one in _segment(segmenter, file, changes)]
            result = {"file": name, "sha1": sha1, "recipes": asked, **to_json(many)}
            with atomic_folder(out / name) as temporary:
                images.save(_overlay(many), temporary / "overlay.jpg")
                (temporary / "result.json").write_text(json.dumps(result, allow_nan=False))
        except Exception as error:  # whatever it is, an out of memory included, the other pictures are not to blame
            errors[file] = error
            bar.write(f"error: {file}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        bar.write(f"{file}: {', '.join(f'{one.prompt} {len(instances)}' for one, instances in many)} -> {out / name}")
    errors = {file: error for part in group.gather(errors) for file, error in part.items()}
    if group.rank == 0:
        results = [
            json.loads((out / name / "result.json").read_text()) for name in pictures if pictures[name] not in errors
        ]
        with atomic_write(out / "coco.json") as temporary:
            temporary.write_text(json.dumps(coco(results, list(recipes))))
        with atomic_write(out / "index.html") as temporary:
            temporary.write_text(page(results, {str(file): str(error) for file, error in errors.items()}))
    return errors


def find_pictures(files: str | Path | Iterable[str | Path]) -> dict[str, Path]:
    """The pictures among files and folders, by the names of their results.

    Raises ValueError where there is none, and for two whose names are one.
    """
    pictures: dict[str, Path] = {}
    for source in map(Path, [files] if isinstance(files, str | Path) else files):
        inside = sorted(file for file in source.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        for file in inside if source.is_dir() else [source]:
            name = file.relative_to(source).as_posix() if source.is_dir() else file.name
            if pictures.setdefault(name, file) != file:
                raise ValueError(f"{pictures[name]} and {file} would both be {name}; give the folder that holds both")
    if not pictures:
        raise ValueError(f"there is no picture in {files}; files with one of {', '.join(sorted(SUFFIXES))} are taken")
    return pictures


def coco(results: Iterable[dict], prompts: list[str]) -> dict:
    """A data set in COCO's format of what `label_files` wrote: images, a category for each prompt, and an annotation
    for each instance, with run lengths and a "score"; numbers are from 1 on."""
    pictures, annotations = [], []
    for number, result in enumerate(results, 1):
        H, W = result["size"]
        pictures.append({"id": number, "file_name": result["file"], "width": W, "height": H})
        for one in result["prompts"]:
            for instance in one["instances"]:
                x0, y0, x1, y1 = instance["box"]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": 1 + prompts.index(one["prompt"]),
                        "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1],
                        "area": instance["area"],
                        "segmentation": instance["segmentation"],
                        "iscrowd": 0,
                        "score": instance["score"],
                    }
                )
    categories = [{"id": number, "name": prompt} for number, prompt in enumerate(prompts, 1)]
    return {"info": {}, "images": pictures, "categories": categories, "annotations": annotations}


PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px sans-serif; margin: 1em }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1em }}
figure {{ margin: 0 }}
img {{ width: 100% }}
.error {{ color: #b00 }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
{errors}
<main>
{figures}
</main>
"""


def page(results: list[dict], errors: Mapping[str, str]) -> str:
    """A page, as HTML, with the overlay of every picture and what was found in it, and with the errors."""
    counts: dict[str, list[int]] = {}
    figures = []
    for result in results:
        for one in result["prompts"]:
            counts.setdefault(one["prompt"], []).append(len(one["instances"]))
        found = ", ".join(f"{one['prompt']}: {len(one['instances'])}" for one in result["prompts"] if one["found"])
        name, place = html.escape(result["file"]), quote(result["file"])
        figures.append(
            f'<figure><a href="{place}/overlay.jpg"><img loading="lazy" src="{place}/overlay.jpg" alt="{name}"></a>'
            f"<figcaption>{name}<br>{html.escape(found or 'nothing found')}</figcaption></figure>"
        )
    summary = "; ".join(
        f"{prompt}: {sum(found)} in {np.count_nonzero(found)} of {len(found)}" for prompt, found in counts.items()
    )
    return PAGE.format(
        title=f"{len(results)} pictures",
        summary=html.escape(summary),
        errors="\n".join(f'<p class="error">{html.escape(f"{f}: {error}")}</p>' for f, error in errors.items()),
        figures="\n".join(figures),
    )


def _segment(segmenter: TextSegmenter, file: Path, changes: Mapping[str, dict]) -> list[Segmentation]:
    """Every prompt's result, in their order; prompts of the same recipe are asked together."""
    segmenter.set_image(file)
    found: dict[str, Segmentation] = {}
    for fields in changes.values():
        together = [prompt for prompt in changes if changes[prompt] == fields and prompt not in found]
        if together:
            found.update(zip(together, segmenter.segment(together, **fields), strict=True))
    return [found[prompt] for prompt in changes]


def to_json(many: list[tuple[Segmentation, list[Instance]]]) -> dict:
    return {
        "size": list(many[0][0].size),  # H, W
        "prompts": [
            {
                "prompt": one.prompt,
                "found": one.found,
                "peak": one.peak,
                "score": one.score,
                "instances": [instance.to_json() for instance in instances],
            }
            for one, instances in many
        ],
    }


def _overlay(many: list[tuple[Segmentation, list[Instance]]]) -> np.ndarray:
    """All prompts' instances over the picture, numbered through, small: uint8 (h, w, 3)."""
    image = many[0][0].image
    step = -(-max(image.shape) // LONGEST)
    found = [(instance.mask[::step, ::step], one.prompt) for one, instances in many for instance in instances]
    objects = ((number, mask, f"{number} {prompt}") for number, (mask, prompt) in enumerate(found, 1))
    return draw.overlay(image[::step, ::step], objects)


def _is_done(folder: Path, sha1: str, asked: dict) -> bool:
    """Whether a folder holds the result. Raises FileExistsError for that of another picture or of other prompts."""
    path = folder / "result.json"
    if not path.exists():
        return False
    saved = json.loads(path.read_text())
    if (saved.get("sha1"), saved.get("recipes")) != (sha1, asked):
        raise FileExistsError(
            f"{folder} holds the result of another picture, or of other prompts or recipes: "
            f"{', '.join(saved.get('recipes', {}))}; choose another folder, or overwrite it"
        )
    return True
