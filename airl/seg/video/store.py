"""The folder of a run: its masks, what it is a run of, and where to go on after an interruption.

tracked/masks/0_a-person/000000.png ...     what it found
tracked/overlay.mp4, tracks.json
tracked/.airl/job.json, state.pt, lock      how it is known again, goes on, and has the folder for itself
"""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from airl.files import atomic_write, slug
from airl.seg.draw import colour_of

RESULTS = ("masks", "overlay.mp4", "tracks.json")
OWN = ".airl"  # the folder in the folder


class Masks:
    """000000.png ...: the ids of one prompt's tracks, with the scores of those that are there as text beside them."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, t: int) -> Path:
        return self.folder / f"{t:06d}.png"

    def write(self, t: int, ids: np.ndarray, scores: dict[int, float]) -> None:
        image = Image.fromarray(ids)
        image.putpalette([0, 0, 0, *colour_of(np.arange(1, 256)).ravel().tolist()])
        text = PngImagePlugin.PngInfo()
        text.add_text("scores", json.dumps(scores))
        with atomic_write(self.path(t), sync=False) as temporary:
            image.save(temporary, pnginfo=text)

    def read(self, t: int) -> tuple[np.ndarray, dict[int, float]]:
        """Raises ValueError, which says what to do, for a file that is missing or damaged."""
        try:
            with Image.open(self.path(t)) as image:
                ids, scores = np.array(image), json.loads(image.text["scores"])
        except (OSError, KeyError, ValueError, SyntaxError) as error:  # Pillow's kinds for a broken PNG
            raise ValueError(
                f"{self.path(t)} is missing or damaged ({error}); call track again with overwrite=True, or remove "
                f"{self.folder.parents[1]}"
            ) from error
        return ids, {int(number): score for number, score in scores.items()}

    def change(self, t: int, number: int, mask: np.ndarray | bool = False, score: float = 0.0) -> None:
        """Give `number` the part of a mask that no other has; an empty mask, or none, takes it out of the frame."""
        ids, scores = self.read(t)
        ids[ids == number] = 0
        scores.pop(number, None)
        mask = mask & (ids == 0)
        if mask.any():
            ids[mask] = number
            scores[number] = score
        self.write(t, ids, scores)

    def remove(self) -> None:
        """Take away what `write` wrote; what else is in the folder stays, and the folder with it."""
        for path in self.folder.glob("*.png"):
            if re.fullmatch(r"\d{6,}\.png|\.\d{6,}\..*\.png", path.name):
                path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def masks_of(folder: Path, prompts: Sequence[str]) -> dict[str, Masks]:
    """The masks in the folder of a run, for each prompt."""
    return {prompt: Masks(folder / "masks" / f"{i}_{slug(prompt, 40)}") for i, prompt in enumerate(prompts)}


@contextlib.contextmanager
def claim(folder: Path, job: dict, overwrite: bool) -> Iterator[None]:
    """Make a folder this run's, and have it alone while the block runs.

    job: what it is a run of, as JSON has it, with its "prompts". What an earlier run of another job wrote there is
    removed if `overwrite`, nothing else ever. Raises FileExistsError, and changes nothing, for the results of another
    job or of anything else; RuntimeError while another run has the folder; ValueError for a damaged job.json.
    """
    file = folder / OWN / "job.json"
    there = [name for name in RESULTS if (folder / name).exists()]
    if there and not file.exists():
        raise FileExistsError(
            f"{folder} holds {', '.join(there)}, which no tracking wrote there; choose another folder, since they "
            f"would be replaced"
        )
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose another folder")
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder / OWN / "lock", folder):
        old = read_json(file, f"{folder / OWN}, and the {', '.join(RESULTS)} beside it") if file.exists() else None
        if old is not None and (overwrite or old != job):
            changed = [name for name in job if old.get(name) != job[name]]
            if not overwrite:
                raise FileExistsError(
                    f"{folder} holds a tracking with another {' and '.join(changed) or 'version'}; choose another "
                    f"folder, or pass overwrite=True to replace it"
                )
            for masks in masks_of(folder, old["prompts"]).values():
                masks.remove()
            with contextlib.suppress(OSError):
                (folder / "masks").rmdir()
            for path in (folder / "overlay.mp4", folder / "tracks.json", folder / OWN / "state.pt"):
                path.unlink(missing_ok=True)
        if old != job:  # the last: until then the old one says whose the files are
            with atomic_write(file) as temporary:
                temporary.write_text(json.dumps(job))
        yield


@contextlib.contextmanager
def _locked(path: Path, folder: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, however that ends."""
    with open(path, "w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(
                f"another run is tracking into {folder}; wait for it, or choose another folder"
            ) from error
        except (ImportError, OSError):  # Windows, and some mounted drives, have no such locks
            print(f"{folder} cannot be locked: see that no other run uses it")
        yield


def read_json(path: Path, remedy: str) -> dict:
    """Raises ValueError, which names what to remove, for a damaged file."""
    try:
        said = json.loads(path.read_text())
        if not isinstance(said, dict) or not isinstance(said["prompts"], list):
            raise ValueError("it is of another kind")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove {remedy}, and track again") from error
    return said


def save_state(folder: Path, state: dict) -> None:
    with atomic_write(folder / OWN / "state.pt", sync=False) as temporary:
        torch.save(state, temporary)


def load_state(folder: Path, device: torch.device) -> dict | None:
    """What `save_state` saved, None if nothing was. Raises ValueError, which says what to do, for a damaged file."""
    path = folder / OWN / "state.pt"
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        return {"next": state["next"], "rules": state["rules"]}
    except Exception as error:  # torch.load raises many kinds for a broken file
        raise ValueError(f"{path} is damaged ({error}); remove it to track from the clip's start") from error


def drop_state(folder: Path) -> None:
    (folder / OWN / "state.pt").unlink(missing_ok=True)
