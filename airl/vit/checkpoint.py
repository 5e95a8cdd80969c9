"""Everything a run needs to go on as if it had never stopped, in one file."""

from pathlib import Path

import torch

from airl.files import atomic_write

KEYS = {"model", "ema", "optimizers", "scaler", "epoch", "step", "random", "settings", "history"}


def save_checkpoint(path: Path, state: dict) -> None:
    """Write the state (exactly KEYS) at once. Raises OSError if it cannot; what was at `path` is then still there."""
    assert state.keys() == KEYS
    try:
        with atomic_write(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError for a full disk
        kept = "the checkpoint already there is untouched" if path.exists() else "nothing was written"
        raise OSError(f"cannot save {path} ({error}); {kept}. Free some space and resume.") from error


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint to the CPU. Raises ValueError, which names the file, if it is not a whole one of ours."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have errors of their own
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}). It was left as it is: "
            "move it away or choose another out_dir to start anew."
        ) from error
    if not isinstance(state, dict) or state.keys() != KEYS:
        raise ValueError(f"{path} is not a checkpoint that airl.vit.train wrote. It was left as it is.")
    return state


def require_same_settings(path: Path, saved: dict[str, dict], now: dict[str, dict]) -> None:
    """Raise ValueError, naming each field that differs, unless the run is the one that the checkpoint was made by."""
    different = [
        f"{group}.{field}: {saved[group].get(field)!r} in the checkpoint, {value!r} now"
        for group, fields in now.items()
        for field, value in fields.items()
        if saved[group].get(field) != value
    ]
    if different:
        raise ValueError(
            f"{path} was made with other settings:\n  " + "\n  ".join(different) + "\n"
            "Resume with the same ones, or choose another out_dir."
        )
