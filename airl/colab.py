"""What the notebooks ask before they start: how large a run suits this machine, what to work on, where results go."""

import os
from pathlib import Path

import torch

from airl import runtime

PROFILES = ("full", "quick")


def choose_profile(wanted: str = "auto", check: bool = False) -> str:
    """Choose "full" where there is a CUDA GPU, "quick" elsewhere, unless `wanted` or AIRL_PROFILE (which wins) says it.

    Prints which and why in one line. "quick" computes on one thread: its models are too small for more, and where other
    programs keep the cores busy, threads that wait for each other can be 100 times slower than one. check: run
    `airl.check` too. Raises ValueError for another name.
    """
    override = os.environ.get("AIRL_PROFILE") or "auto"
    hardware = runtime.choose()
    for name, source in ((override, "AIRL_PROFILE says so"), (wanted, "PROFILE says so")):
        if name in PROFILES:
            why = source
            break
        if name != "auto":
            raise ValueError(f"the profile is {name!r} ({source}); expected 'auto', 'full' or 'quick'")
    else:
        has_gpu = hardware.device.type == "cuda"
        name, why = ("full", "there is a CUDA GPU") if has_gpu else ("quick", "there is no CUDA GPU")
    if name == "quick":
        torch.set_num_threads(1)
    print(f"profile {name}: {why}; running on {hardware}")
    if check:
        from airl.check import main

        main()
    return name


def out_folder(name: str, drive_folder: str = "") -> Path:
    """A folder for results, made if missing: out/NAME, or NAME in a folder of the user's Google Drive (in Colab).

    Raises RuntimeError if a Drive folder is asked for outside Colab.
    """
    root = Path("out")
    if drive_folder:
        try:
            from google.colab import drive
        except ImportError as error:
            raise RuntimeError(
                f"DRIVE_FOLDER is {drive_folder!r}, but Google Drive can be mounted in Colab only; leave it empty here"
            ) from error
        drive.mount("/content/drive")
        root = Path("/content/drive/MyDrive") / drive_folder
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    print(f"results go to {folder}")
    return folder


def find_picture(wanted: str = "", upload: bool = False, otherwise: Path | None = None) -> Path:
    """The picture to work on, in this order: one uploaded now (in Colab), `wanted`, sample_image.jpg in the working
    folder, `otherwise`, the portrait that matplotlib ships. Prints which.

    Raises RuntimeError for an upload outside Colab or a cancelled one, FileNotFoundError for a path that is not there.
    """
    if upload:
        try:
            from google.colab import files
        except ImportError as error:
            raise RuntimeError("UPLOAD works in Colab only; give the picture's path in PICTURE instead") from error
        uploaded = list(files.upload())
        if not uploaded:
            raise RuntimeError("nothing was uploaded; run this again and choose a picture, or switch UPLOAD off")
        path = Path(uploaded[0])
    elif wanted.strip():
        path = Path(wanted.strip()).expanduser()
    elif Path("sample_image.jpg").exists():
        path = Path("sample_image.jpg")
    elif otherwise:
        path = otherwise
    else:
        from matplotlib.cbook import get_sample_data

        path = Path(get_sample_data("grace_hopper.jpg", asfileobj=False))
    if not path.is_file():
        raise FileNotFoundError(f"there is no picture at {path} (the working folder is {Path.cwd()})")
    print(f"the picture is {path}")
    return path
