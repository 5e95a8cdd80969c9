"""Where checkpoints come from: their names, addresses and digests, and where on this machine they may lie already."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")

# Folders that serve the released files of SAM: Meta's own, and a copy on the Hugging Face Hub.
SOURCES = (
    "https://dl.fbaipublicfiles.com/segment_anything/",
    "https://huggingface.co/ybelkada/segment-anything/resolve/main/checkpoints/",
)


@dataclass(frozen=True)
class Checkpoint:
    """One released file of the original SAM."""

    file: str  # its name; the six digits at the end begin its md5
    size: int  # bytes
    md5: str

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(folder + self.file for folder in SOURCES)


# https://github.com/facebookresearch/segment-anything#model-checkpoints
SAM: dict[str, Checkpoint] = {
    "vit_h": Checkpoint("sam_vit_h_4b8939.pth", 2_564_550_879, "4b8939a88964f0f4ff5f5b2642c598a6"),
    "vit_l": Checkpoint("sam_vit_l_0b3195.pth", 1_249_524_607, "0b3195507c641ddb6910d2bb5adee89c"),
    "vit_b": Checkpoint("sam_vit_b_01ec64.pth", 375_042_383, "01ec64d29a2fca3f0661936605ae66f8"),
}

# SAM 2 is another family of models than SAM, not its second edition: transformers holds its code, the Hub its weights.
SAM2: dict[str, str] = {
    "sam2.1-hiera-tiny": "facebook/sam2.1-hiera-tiny",
    "sam2.1-hiera-small": "facebook/sam2.1-hiera-small",
    "sam2.1-hiera-base-plus": "facebook/sam2.1-hiera-base-plus",
    "sam2.1-hiera-large": "facebook/sam2.1-hiera-large",
}

# SAM 3 is a third family: from a text it finds instances by itself. Its weights are gated.
SAM3: dict[str, str] = {"sam3": "facebook/sam3"}

CLIPSEG = "CIDAS/clipseg-rd64-refined"


def sam_file(name: str, cache: str | Path | None = None) -> Path:
    """Find the file of SAM checkpoint `name`, one of `SAM`; download it if it is nowhere.

    It is looked for in the working folder, then in `cache` (torch hub's folder of checkpoints if None), then
    downloaded into `cache`, with a progress bar, and its md5 verified. A file of another size than the released
    one, such as half an upload, is left alone and a line says so. Raises ValueError for an unknown name,
    ConnectionError where no source serves the file: it names the file, its address and where to put it.
    """
    if name not in SAM:
        raise ValueError(f"unknown SAM checkpoint {name!r}; choose one of {', '.join(SAM)}, or give a file's path")
    checkpoint = SAM[name]
    cache = Path(cache) if cache else Path(torch.hub.get_dir()) / "checkpoints"
    for folder in (Path.cwd(), cache):
        path = folder / checkpoint.file
        if path.is_file():
            if path.stat().st_size == checkpoint.size:
                return path
            print(f"left {path}: it has {path.stat().st_size:,} of {checkpoint.size:,} bytes")
    path = cache / checkpoint.file
    print(f"downloading {checkpoint.file} ({checkpoint.size / 1e9:.1f} GB) to {cache}")
    try:
        from airl.download import download

        download(checkpoint.urls, path, checkpoint.size, checkpoint.md5)
    except ConnectionError as error:
        raise ConnectionError(
            f"{error}\n{checkpoint.file} is at {checkpoint.urls[0]}; put it in the working folder, {Path.cwd()}, "
            f"or in {cache}"
        ) from error
    return path


def from_hub(load: Callable[[str], T], name: str) -> T:
    """`load(name)`, a transformers `from_pretrained`, with an error that says what to do when it cannot.

    name: a model's name on the Hub, or a folder. Raises ConnectionError, which names the model, its address and
    what to do without a network.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if Path(name).is_dir():  # nothing is downloaded, and a bar that lasts a moment is noise
        logging.disable_progress_bar()
    try:
        return load(name)
    except OSError as error:  # what transformers raises when the files are neither in its cache nor to be had
        raise ConnectionError(
            f"cannot get {name}: it is neither a folder here nor in the Hub's cache, and "
            f"https://huggingface.co/{name} did not serve it. Where there is a network, run "
            f"`hf download {name} --local-dir FOLDER`; then copy the folder here and give its path as the name."
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()


def label(name: str | Path) -> str:
    """How a line names a model: a folder or file of this package by its path within it, any other as it is."""
    return str(name).replace(f"{Path(__file__).parents[1]}{os.sep}", "airl/")
