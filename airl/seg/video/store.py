"""The folder of a run: its masks, what it is a run of, and where to go on after an interruption."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from airl.files import atomic_write, slug
from airl.seg.draw import colour_of

NAMES = ("job.json", "state.pt", "masks", "overlay.mp4", "tracks.json")


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
        with atomic_write(self.path(t)) as temporary:
            image.save(temporary, pnginfo=text)

    def read(self, t: int) -> tuple[np.ndarray, dict[int, float]]:
        with Image.open(self.path(t)) as image:
            return np.array(image), {int(number): score for number, score in json.loads(image.text["scores"]).items()}

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


def masks_of(folder: Path, prompts: Sequence[str]) -> dict[str, Masks]:
    """The masks in the folder of a run, for each prompt."""
    return {prompt: Masks(folder / "masks" / f"{i}_{slug(prompt, 40)}") for i, prompt in enumerate(prompts)}


def claim(folder: Path, job: dict, overwrite: bool) -> None:
    """Make the folder this run's. Raises FileExistsError, and changes nothing, if it holds another one's results."""
    mine = folder / "job.json"
    if mine.exists() and json.loads(mine.read_text()) == job and not overwrite:
        return
    there = [name for name in NAMES if (folder / name).exists()]
    if set(there) - {"job.json"} and not overwrite:
        raise FileExistsError(
            f"{folder} holds {', '.join(there)} of another clip, prompts, models or settings; "
            f"choose another folder, or pass overwrite=True to replace them"
        )
    for name in reversed(there):  # job.json goes last: until then the folder is seen to be in use
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with atomic_write(mine) as temporary:
        temporary.write_text(json.dumps(job))


def save_state(folder: Path, state: dict) -> None:
    with atomic_write(folder / "state.pt") as temporary:
        torch.save(state, temporary)


def load_state(folder: Path, device: torch.device) -> dict | None:
    """What `save_state` saved, None if nothing was."""
    path = folder / "state.pt"
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None
