"""The notebooks, run from the first cell to the last in a real kernel, in their quick profile."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


def run(name: str, tmp_path: Path, monkeypatch, **settings: str) -> tuple[str, list[dict]]:
    """Execute a notebook with some of its form fields filled in -> (all text printed, all outputs)."""
    monkeypatch.setenv("AIRL_PROFILE", "quick")
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
    assert "last epoch:" in text and "best epoch:" in text and "| quick | shapes |" in text
    (out,) = (tmp_path / "out" / "q1").iterdir()
    names = {"augmentation", "curves", "predictions", "confusion", "per_class", "attention", "positions"}
    assert {path.stem for path in out.glob("*.png")} == names
    assert sum("image/png" in output.get("data", {}) for output in outputs) == len(names) + 1  # and the live curve
    assert {path.name for path in out.iterdir()} >= {"checkpoint.pt", "history.csv", "model", "result.md"}
    assert "| quick | shapes |" in (out / "result.md").read_text()

    before = (out / "checkpoint.pt").stat().st_mtime_ns
    again, _ = run("q1.ipynb", tmp_path, monkeypatch, EPOCHS="2")  # Run all, once more: nothing is trained again
    assert "2 epochs (2 done)" in again and (out / "checkpoint.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("q?.ipynb")))
def test_a_notebook_is_thin_and_committed_without_outputs(name):
    cells = [cell for cell in nbformat.read(ROOT / name, as_version=4).cells if cell.cell_type == "code"]
    assert len(cells) <= 20 and max(len(cell.source.splitlines()) for cell in cells) <= 20
    assert not any(cell.outputs or cell.execution_count for cell in cells)
