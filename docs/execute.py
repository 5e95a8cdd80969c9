"""Run the notebooks in their quick profile and leave the executed copies beside this file, small enough for the web.

    python docs/execute.py          # both; or: python docs/execute.py q2.ipynb

GitHub shows no widgets and no films, so the explorer is a still picture in these copies and the film is left out.
"""

import base64
import io
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTE = "*Executed on a CPU in the quick profile; [the notebook itself](../{name}) has no outputs.*\n\n"
WITHOUT_WIDGETS = "import sys\nsys.modules['ipywidgets'] = None"
WIDTH = 900  # pixels


def execute(name: str) -> nbformat.NotebookNode:
    notebook = nbformat.read(ROOT / name, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(WITHOUT_WIDGETS))
    os.environ.update(AIRL_PROFILE="quick", PYTHONPATH=str(ROOT), PYTHONWARNINGS="ignore")
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": folder}}).execute()
    del notebook.cells[0]
    notebook.cells[0].source = NOTE.format(name=name) + notebook.cells[0].source
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which differ from run to run
        if cell.cell_type == "code":
            cell.execution_count -= 1
            cell.outputs = [output for output in map(slim, cell.outputs) if output]
    notebook.metadata.pop("widgets", None)
    return notebook


def slim(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output in fewer bytes, without this machine's paths; None for one that the web does not show."""
    if output.output_type == "stream":
        if output.name == "stderr":  # progress bars
            return None
        output.text = output.text.replace(f"{ROOT}{os.sep}", "")
    elif "data:video" in output.data.get("text/html", ""):
        return None
    elif "image/png" in output.data:
        image = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGB")
        if image.width > WIDTH:
            image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=75, optimize=True)
        del output.data["image/png"]
        output.data["image/jpeg"] = base64.b64encode(file.getvalue()).decode()
    if "execution_count" in output:
        output.execution_count -= 1
    return output


if __name__ == "__main__":
    for name in sys.argv[1:] or ("q1.ipynb", "q2.ipynb"):
        notebook = execute(name)
        path = ROOT / "docs" / name
        nbformat.write(notebook, path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.2f} MB")
