"""What is in a run's folder, and what must not be lost from it."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from airl.seg.video import store
from airl.seg.video.store import Masks, claim, masks_of

JOB = {"clip": {"file": "a.mp4"}, "prompts": ["a star", "a ring"], "recipe": {"every": 8}}


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def finished(folder, job=JOB):
    """What a run leaves."""
    with claim(folder, job, overwrite=False):
        for masks in masks_of(folder, job["prompts"]).values():
            for t in range(3):
                masks.write(t, np.zeros((2, 3), np.uint8), {})
        (folder / "overlay.mp4").write_bytes(b"film")
        (folder / "tracks.json").write_text(json.dumps(job))
        store.save_state(folder, {"next": 3, "rules": {}})


def test_masks_keep_ids_and_scores_and_change_one_alone(tmp_path):
    masks = Masks(tmp_path)
    ids = np.array([[1, 1, 0], [0, 2, 2]], np.uint8)
    masks.write(3, ids, {1: 0.75, 2: 0.5})
    masks.change(3, 3, np.array([[True, True, True], [False, False, False]]), 0.25)
    got, scores = masks.read(3)
    np.testing.assert_array_equal(got, [[1, 1, 3], [0, 2, 2]])
    assert scores == {1: 0.75, 2: 0.5, 3: 0.25}
    masks.change(3, 1, np.zeros((2, 3), bool), 0.0)
    got, scores = masks.read(3)
    np.testing.assert_array_equal(got, [[0, 0, 3], [0, 2, 2]])
    assert scores == {2: 0.5, 3: 0.25}


def test_a_damaged_mask_says_what_to_do(tmp_path):
    masks = masks_of(tmp_path, ["a star"])["a star"]
    masks.write(0, np.zeros((20, 30), np.uint8), {})
    whole = masks.path(0).read_bytes()
    for content in (whole[:50], b"junk", whole[: len(whole) - 30]):
        masks.path(0).write_bytes(content)
        with pytest.raises(ValueError, match=f"000000.png is missing or damaged.*overwrite=True.* remove {tmp_path}"):
            masks.read(0)
    with pytest.raises(ValueError, match="000001.png is missing"):
        masks.read(1)


@pytest.mark.parametrize("name", ["masks/mine.png", "overlay.mp4", "tracks.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_no_run_wrote_is_never_replaced(tmp_path, name, overwrite):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    (tmp_path / "job.json").write_text("somebody else's")
    before = files(tmp_path)
    with pytest.raises(FileExistsError, match="which no tracking wrote there; choose another folder"):
        finished(tmp_path) if not overwrite else claim(tmp_path, JOB, True).__enter__()
    assert files(tmp_path) == before and not (tmp_path / ".airl").exists()


def test_overwriting_takes_away_what_the_run_wrote_and_nothing_else(tmp_path):
    (tmp_path / "job.json").write_text("somebody else's")
    finished(tmp_path)
    mine = ["note.txt", "masks/note.txt", "masks/0_a-star/note.png", ".airl/note.txt"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    (tmp_path / "masks/1_a-ring/.000001.x3.png").write_bytes(b"left by a run that was killed")
    other = {**JOB, "recipe": {"every": 3}}
    before = files(tmp_path)
    with pytest.raises(FileExistsError, match="another recipe; choose another folder, or pass overwrite=True"):
        finished(tmp_path, other)
    assert files(tmp_path) == before
    with claim(tmp_path, other, overwrite=True):
        assert set(files(tmp_path)) == {*mine, "job.json", ".airl/job.json", ".airl/lock"}
        assert not (tmp_path / "masks/1_a-ring").exists()
    assert json.loads((tmp_path / ".airl/job.json").read_text()) == other
    assert (tmp_path / "job.json").read_text() == "somebody else's"


def test_the_same_job_is_found_again(tmp_path):
    finished(tmp_path)
    before = files(tmp_path)
    with claim(tmp_path, JOB, overwrite=False):
        pass
    assert files(tmp_path) == before
    for _ in range(2):  # anew, also where there is nothing yet
        with claim(tmp_path, JOB, overwrite=True):
            assert set(files(tmp_path)) == {".airl/job.json", ".airl/lock"}


def test_of_two_runs_at_once_the_second_is_refused_and_none_is_after_a_kill(tmp_path):
    with claim(tmp_path, JOB, overwrite=False):
        for overwrite in (False, True):
            with pytest.raises(RuntimeError, match=f"another run is tracking into {tmp_path}"):
                claim(tmp_path, JOB, overwrite).__enter__()
    script = (
        "import sys, time; from pathlib import Path; from airl.seg.video.store import claim\n"
        f"with claim(Path(sys.argv[1]), {JOB!r}, False): print('has it', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, cwd=os.getcwd())
    try:
        assert other.stdout.readline() == b"has it\n"
        with pytest.raises(RuntimeError, match="another run"):
            claim(tmp_path, JOB, False).__enter__()
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    with claim(tmp_path, JOB, overwrite=False):
        pass


def test_damaged_files_of_a_run_say_what_to_remove(tmp_path):
    finished(tmp_path)
    job, state = tmp_path / ".airl/job.json", tmp_path / ".airl/state.pt"
    whole = state.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"junk"):
        state.write_bytes(content)
        with pytest.raises(ValueError, match="state.pt is damaged .*remove it to track from the clip's start"):
            store.load_state(tmp_path, torch.device("cpu"))
    store.drop_state(tmp_path)
    assert store.load_state(tmp_path, torch.device("cpu")) is None
    for content in ("{", "[]", "{}"):
        job.write_text(content)
        before = files(tmp_path)
        for overwrite in (False, True):  # whose the files are is not known any more
            with pytest.raises(ValueError, match=r"job.json is damaged .*remove .*\.airl, and the masks, overlay.mp4"):
                claim(tmp_path, JOB, overwrite).__enter__()
        assert files(tmp_path) == before
    with pytest.raises(FileExistsError, match="is a file"):
        claim(state.parent / "job.json", JOB, False).__enter__()
