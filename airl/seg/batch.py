"""Many pictures: a folder of results for each, as far as it goes, and further when run again."""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from airl.files import atomic_write, slug
from airl.seg.dataset import Prompts, label_files
from airl.seg.pipeline import TextSegmenter


def segment_files(
    segmenter: TextSegmenter,
    files: Iterable[str | Path],
    prompt: str | Prompts,
    out: str | Path,
    overwrite: bool = False,
    steps: bool = False,
) -> dict[Path, Exception]:
    """Segment picture files by a prompt; write OUT/PICTURE/PROMPT/ with what `Segmentation.save` writes. Several
    prompts make a data set of files and folders: see `dataset.label_files`.

    PICTURE is a file's name with its suffix. steps: write steps.png too, a figure of every step. A progress bar shows
    how far it is. A picture that fails, for whatever reason, is reported by name and the rest go on; one whose result
    is there already is skipped, unless `overwrite`. Returns the errors, by file. Raises ValueError, before any work,
    for an empty prompt.
    """
    from tqdm.auto import tqdm

    if not isinstance(prompt, str):
        if steps:
            raise ValueError("a figure of every step is drawn of one prompt; pass it as a text, or leave steps out")
        return label_files(segmenter, files, prompt, out, overwrite)
    name = slug(prompt)
    if not name:
        raise ValueError(f"the prompt is {prompt!r}; say what to look for, such as 'a person'")
    files = list(dict.fromkeys(map(Path, [files] if isinstance(files, str | Path) else files)))
    errors: dict[Path, Exception] = {}
    sources: dict[Path, Path] = {}
    bar = tqdm(files, desc=prompt, unit="picture", disable=None)
    for file in bar:
        folder = Path(out) / file.name / name
        try:
            if folder in sources:
                raise FileExistsError(f"{folder} is for {sources[folder]}, which has the same name; use another folder")
            sources[folder] = file
            encoded = file.read_bytes()
            source = {"name": file.name, "sha1": hashlib.sha1(encoded, usedforsecurity=False).hexdigest()}
            if not overwrite and _is_done(folder, prompt, source):
                bar.write(f"{file}: skipped, {folder} is there already")
                continue
            one = segmenter(file, prompt)
            if steps:
                with atomic_write(folder / "steps.png") as temporary:
                    one.plot().savefig(temporary)
            # result.json comes last; without it, what is there is a part
            one.save(folder, overwrite=True, file=source)
        except Exception as error:  # whatever it is, an out of memory included, the other pictures are not to blame
            errors[file] = error
            bar.write(f"error: {file}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        verdict = f"found, score {one.score:.2f}" if one.found else f"not there (peak {one.peak:.2f})"
        bar.write(f"{file}: {verdict} -> {folder}")
    return errors


def _is_done(folder: Path, prompt: str, source: dict[str, str]) -> bool:
    """Whether a folder holds the result. Raises FileExistsError for that of another prompt or another picture."""
    path = folder / "result.json"
    if not path.exists():
        return False
    saved = json.loads(path.read_text())
    if (saved["prompt"], saved["file"]) != (prompt, source):
        raise FileExistsError(
            f"{folder} holds the result of {saved['prompt']!r} in {saved['file']}, not of {prompt!r} in {source}; "
            "choose another folder, or overwrite it"
        )
    return True
