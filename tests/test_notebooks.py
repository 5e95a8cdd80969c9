"""The notebooks, run from the first cell to the last in a real kernel, in their quick profile."""

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from airl import images
from airl.scenes import shapes
from airl.seg.metrics import iou

ROOT = Path(__file__).parents[1]


def run(name: str, tmp_path: Path, monkeypatch, profile: str = "quick", **settings: str) -> tuple[str, list[dict]]:
    """Execute a notebook with some of its form fields filled in -> (all text printed, all outputs)."""
    monkeypatch.setenv("AIRL_PROFILE", profile)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / name, as_version=4)
    for field, value in settings.items():
        cell = next(cell for cell in notebook.cells if cell.source.startswith("# @title Settings"))
        lines = cell.source.splitlines()
        (index,) = [i for i, line in enumerate(lines) if line.startswith(f"{field} = ")]
        lines[index] = f"{field} = {value}"
        cell.source = "\n".join(lines)
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs), outputs


def test_q1_trains_shows_and_saves(tmp_path, monkeypatch):
    text, outputs = run("q1.ipynb", tmp_path, monkeypatch, EPOCHS="2")
    assert "profile quick: AIRL_PROFILE says so" in text
    assert "shapes: 4,000 training and 1,000 test images\ncircle, " in text
    assert "last epoch:" in text and "best epoch:" in text
    (out,) = (tmp_path / "out" / "q1").iterdir()
    names = {"augmentation", "curves", "predictions", "confusion", "per_class", "attention", "positions", "picture"}
    assert {path.stem for path in out.glob("*.png")} == names
    assert "it knows airplane, " in text and "the picture is " in text
    shown = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(shown) == len(set(shown)) == len(names)  # each figure once
    tables = [output["data"].get("text/markdown", "") for output in outputs if "data" in output]
    assert any("| quick | shapes |" in table for table in tables)
    assert any("calibration error" in output.get("data", {}).get("text/html", "") for output in outputs)
    assert {path.name for path in out.iterdir()} >= {"checkpoint.pt", "history.csv", "model", "result.md"}
    assert "| quick | shapes |" in (out / "result.md").read_text()

    before = (out / "checkpoint.pt").stat().st_mtime_ns
    again, outputs = run("q1.ipynb", tmp_path, monkeypatch, EPOCHS="2")  # Run all, once more: nothing is trained again
    assert sum("image/png" in output.get("data", {}) for output in outputs) == len(names)
    assert "2 epochs (2 done)" in again and (out / "checkpoint.pt").stat().st_mtime_ns == before


def test_q2_shows_every_step_and_saves(tmp_path, monkeypatch):
    text, outputs = run("q2.ipynb", tmp_path, monkeypatch)
    assert "profile quick: AIRL_PROFILE says so" in text
    assert ": found\npeak probability" in text and "found: False; pixels in the mask: 0" in text
    (out,) = (tmp_path / "out" / "q2").iterdir()
    names = {"picture", "heatmap", "seeds", "candidates", "result", "labels", "absent", "instances", "clip"}
    assert {path.stem for path in out.glob("*.png")} == names
    assert {path.name for path in (out / "mask").iterdir()} == {"mask.png", "overlay.jpg", "cutout.png", "result.json"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) == len(names)
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) == 2, "the folder's pictures"
    data = json.loads((out / "data" / "coco.json").read_text())
    assert len(data["images"]) == 2 and len(data["annotations"]) >= 4, "two circles in each"
    plain = [output["data"].get("text/plain", "") for output in outputs if "data" in output]
    assert any("Text(value='a red circle', " in one for one in plain), "the explorer"
    assert not any("Loading weights" in one for one in [text, *plain])
    assert str(ROOT) not in text.replace(f"AIRL is here: {ROOT}", ""), "no long paths"
    assert "1 found in 48 frames" in text and (out / "clip" / "overlay.mp4").exists()
    assert any("data:video/mp4;base64" in output.get("data", {}).get("text/html", "") for output in outputs)


def test_q2_takes_the_users_photo(tmp_path, monkeypatch):
    """The full profile's way through the notebook; the small models stand where the large ones would."""
    scene = shapes.scene(3, kind="convex")
    images.save(scene.image, tmp_path / "sample_image.jpg")
    tiny = ROOT / "airl" / "seg" / "tiny"
    (tmp_path / "CIDAS").mkdir()
    (tmp_path / "CIDAS" / "clipseg-rd64-refined").symlink_to(tiny / "clipseg")
    (tmp_path / "sam.safetensors").symlink_to(tiny / "sam.safetensors")
    (tmp_path / "facebook").mkdir()
    (tmp_path / "facebook" / "sam2.1-hiera-small").symlink_to(tiny / "video")
    settings = {"PROMPT": scene.prompt, "OTHER_PROMPTS": "a ring, a cross", "ABSENT_PROMPT": "a dog"}
    settings = {name: repr(value) for name, value in settings.items()}
    text, _ = run("q2.ipynb", tmp_path, monkeypatch, "full", SAM="'sam.safetensors'", **settings)
    assert "profile full" in text and "the picture is sample_image.jpg" in text
    assert f"“{scene.prompt}”: found" in text and "found: False" in text
    assert re.search(f"{scene.prompt!r}: [1-9] found in 48 frames", text)
    (out,) = (tmp_path / "out" / "q2").iterdir()
    mask = np.asarray(Image.open(out / "mask" / "mask.png")) > 0
    assert iou(mask, scene.truth(scene.prompt)) > 0.6  # JPEG and 500 scenes' mean: far better than a wrong object


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("q?.ipynb")))
def test_a_notebook_is_thin_and_committed_without_outputs(name):
    cells = [cell for cell in nbformat.read(ROOT / name, as_version=4).cells if cell.cell_type == "code"]
    assert len(cells) <= 20 and max(len(cell.source.splitlines()) for cell in cells) <= 20
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("docs/q?.ipynb")))
def test_the_executed_copy_is_of_this_notebook(name):
    """After a change: python docs/execute.py."""
    path = ROOT / "docs" / name
    assert path.stat().st_size < 1_000_000
    copy, original = (nbformat.read(p, as_version=4).cells for p in (path, ROOT / name))
    assert copy[0].source.endswith(original[0].source)
    assert [cell.source for cell in copy[1:]] == [cell.source for cell in original[1:]]
    assert all(cell.outputs for cell in copy if cell.cell_type == "code")
    assert str(ROOT.parent) not in path.read_text()
