"""Everything a run needs to go on as if it had never stopped, in one file."""

import errno
from dataclasses import asdict
from pathlib import Path

import torch

from airl.files import atomic_write
from airl.vit.model import ViTConfig
from airl.vit.recipes import TrainConfig

KEYS = {"model", "optimizer", "scaler", "epoch", "step", "random", "settings", "history"}


def require_writable(folder: Path) -> None:
    """Make the folder and write a byte to it. Raises OSError, which says what to do, if that fails."""
    try:
        with atomic_write(folder / "checkpoint.pt.test") as temporary:
            temporary.write_bytes(b"0")
        (folder / "checkpoint.pt.test").unlink()
    except OSError as error:
        raise OSError(f"cannot write to {folder} ({error}). {_advice(error)}") from error


def save_checkpoint(path: Path, state: dict) -> None:
    """Write the state (exactly KEYS) at once. Raises OSError if it cannot; what was at `path` is then still there."""
    assert state.keys() == KEYS
    try:
        with atomic_write(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError for a full disk
        kept = "the checkpoint already there is untouched" if path.exists() else "nothing was written"
        raise OSError(f"cannot save {path} ({error}); {kept}. {_advice(error)}") from error


def _advice(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "You may not write there: choose another out_dir, or change its permissions."
    if number in (errno.EEXIST, errno.ENOTDIR):
        return "A file is in the way: choose another out_dir."
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or isinstance(error, RuntimeError):
        return "Free some space and resume."
    return "Choose another out_dir, or resume when it can be written to."


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint to the CPU. Raises ValueError, which names the file, if it is not a whole one of ours."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have errors of their own
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}). It was left as it is: "
            "move it away or choose another out_dir to start anew."
        ) from error
    if isinstance(state, dict):  # version 0.1 kept AdamW in a list, and could average the weights
        if len(state.get("optimizers", ())) == 1:
            state["optimizer"] = state.pop("optimizers")[0]
        state.pop("ema", None)
    if not isinstance(state, dict) or state.keys() != KEYS:
        raise ValueError(f"{path} is not a checkpoint that this version's airl.vit.train wrote. It was left as it is.")
    return state


def require_same_settings(path: Path, saved: dict[str, dict], now: dict[str, dict]) -> None:
    """Raise ValueError, naming each field that differs, unless the run is the one that the checkpoint was made by.

    A field that the checkpoint does not know had its default.
    """
    defaults = {"recipe": asdict(TrainConfig()), "model": asdict(ViTConfig())}
    different = []
    for group, fields in now.items():
        before = defaults.get(group, {}) | saved[group]
        for field in dict.fromkeys([*fields, *saved[group]]):
            if before.get(field) != fields.get(field):
                different.append(f"{group}.{field}: {before.get(field)!r} in the checkpoint, {fields.get(field)!r} now")
    if different:
        raise ValueError(
            f"{path} was made with other settings:\n  " + "\n  ".join(different) + "\n"
            "Resume with the same ones, or choose another out_dir."
        )
