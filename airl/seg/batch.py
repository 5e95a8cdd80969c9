"""Many pictures, one prompt: a folder of results for each, as far as it goes, and further when run again."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from airl.files import atomic_write, slug
from airl.seg.pipeline import TextSegmenter


def segment_files(
    segmenter: TextSegmenter, files: Sequence[str | Path], prompt: str, out: str | Path, overwrite: bool = False
) -> dict[Path, Exception]:
    """Segment picture files by a prompt; write OUT/PICTURE/PROMPT/ with what `Segmentation.save` writes, and steps.png.

    A progress bar shows how far it is. A picture that cannot be read or saved is reported by name and the rest go
    on; one whose result is there already is skipped, unless `overwrite`. Returns the errors, by file. Raises
    ValueError, before any work, for two pictures of the same name (their results would be one folder) and for an
    empty prompt.
    """
    import matplotlib.pyplot as plt
    from tqdm.auto import tqdm

    from airl.seg import plots

    name = slug(prompt)
    if not name:
        raise ValueError(f"the prompt is {prompt!r}; say what to look for, such as 'a person'")
    folders: dict[Path, Path] = {}
    for file in dict.fromkeys(map(Path, [files] if isinstance(files, str | Path) else files)):
        folder = Path(out) / file.stem / name
        if folder in folders:
            raise ValueError(f"{folders[folder]} and {file} have the same name; segment them into two folders")
        folders[folder] = file
    errors: dict[Path, Exception] = {}
    bar = tqdm(folders.items(), desc=prompt, unit="picture", disable=None)
    for folder, file in bar:
        try:
            if not overwrite and (folder / "result.json").exists():
                there = json.loads((folder / "result.json").read_text())["prompt"]
                if there != prompt:
                    raise FileExistsError(f"{folder} holds the result of {there!r}; choose another folder")
                bar.write(f"{file}: skipped, {folder} is there already")
                continue
            one = segmenter(file, prompt)
            figure = plots.steps(one)
            with atomic_write(folder / "steps.png") as temporary:
                figure.savefig(temporary)
            plt.close(figure)
            one.save(folder, overwrite=True)  # result.json comes last; without it, what is there is a part
        except (ValueError, OSError) as error:
            errors[file] = error
            bar.write(f"error: {file}: {error}", file=sys.stderr)
            continue
        verdict = f"found, score {one.score:.2f}" if one.found else f"not there (peak {one.peak:.2f})"
        bar.write(f"{file}: {verdict} -> {folder}")
    return errors
