"""The notebooks' set-up cell, run where airl is not importable, against a server that answers like Colab's.

The cell runs in its own interpreter: `-S` leaves site-packages out, and with them airl; a stand-in for pip notes
what it is asked to install and "installs" an empty airl; a stand-in for git knows the branches.
"""

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import serving

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("q?.ipynb"))

PIP = """
import json, pathlib, sys
site = pathlib.Path(__file__).parents[1]
(site.parent / "pip.json").write_text(json.dumps(sys.argv[1:]))
if "broken" in sys.argv[-1]:
    sys.exit("fatal: repository not found")
(site / "airl").mkdir()
(site / "airl" / "__init__.py").write_text("")
"""

GIT = """#!/bin/sh
[ "$1" = ls-remote ] && [ "$GIT_TERMINAL_PROMPT" = 0 ] || exit 2
case "$2" in *broken*) echo "fatal: repository not found" >&2; exit 128;; esac
printf 'ab\\trefs/heads/%s\\n' main fix/a fix/deep/branch fix
printf 'ab\\trefs/tags/%s\\n' v1.0
"""


@pytest.fixture
def notebook():
    return NOTEBOOKS[0]  # the last test says that they are all the same


def setup_cell(notebook: Path) -> str:
    cells = json.loads(notebook.read_text())["cells"]
    return "".join(next(cell["source"] for cell in cells if cell["cell_type"] == "code"))


def session(path="", name="q1.ipynb"):
    """What Colab's service answers for a notebook."""
    return [{"id": "1", "kernel": {"name": "python3"}, "type": "notebook", "path": path, "name": name}]


@pytest.fixture
def colab():
    """A server on port 9000 of a loopback address. `colab.answer` is sent as JSON, or as it is when it is bytes."""

    class Handler(serving.Handler):
        def do_GET(self):
            answer = self.server.answer
            self.send_response(200 if self.path == "/api/sessions" else 404)
            self.end_headers()
            self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    with ExitStack() as stack:
        for i in range(1, 20):
            try:
                server = stack.enter_context(serving.serving(Handler, (f"127.0.0.{i}", 9000)))
                break
            except OSError:  # taken
                continue
        else:
            pytest.skip("port 9000 is taken on every loopback address")
        server.ip = server.server_address[0]
        yield server


@pytest.fixture
def run_cell(tmp_path, notebook):
    """Run the set-up cell and then `import airl` -> (what was printed, what pip was asked for or None)."""

    def run(ip, repository="", cwd=None, code="", torch="2.11.0+cu128"):
        for folder in ("empty", "site/pip", "bin", f"site/torch-{torch}.dist-info"):
            (tmp_path / folder).mkdir(parents=True)
        (tmp_path / "site" / f"torch-{torch}.dist-info" / "METADATA").write_text(f"Name: torch\nVersion: {torch}\n")
        (tmp_path / "bin" / "git").write_text(GIT)
        (tmp_path / "bin" / "git").chmod(0o755)
        (tmp_path / "site" / "pip" / "__init__.py").touch()
        (tmp_path / "site" / "pip" / "__main__.py").write_text(PIP)
        cell = setup_cell(notebook)
        assert 'REPOSITORY = ""  # @param' in cell
        cell = cell.replace('REPOSITORY = ""', f"REPOSITORY = {repository!r}")
        environment = {
            "PYTHONPATH": str(tmp_path / "site"),
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "no_proxy": "*",
            **({"COLAB_JUPYTER_IP": ip} if ip else {}),
        }
        done = subprocess.run(
            [sys.executable, "-S", "-c", f"{code}\n{cell}\nimport airl"],
            cwd=cwd or tmp_path / "empty",
            env=environment,
            capture_output=True,
            text=True,
            timeout=50,
        )
        asked = tmp_path / "pip.json"
        return done.stdout + done.stderr, json.loads(asked.read_text()) if asked.exists() else None

    return run


def asked_for(source):
    return ["install", "-q", "--no-input", f"git+{source}"]


ENCODED = "https%3A%2F%2Fgithub.com%2FOWNER%2FREPO.x%2Fblob%2F"


@pytest.mark.parametrize(
    ("path", "name", "branch"),
    [
        (f"/fileId={ENCODED}main%2Fq1.ipynb", "q1.ipynb", "main"),
        (f"fileId={ENCODED}fix%2Fdeep%2Fbranch%2Fq1.ipynb", "q1.ipynb", "fix/deep/branch"),
        (f"fileId={ENCODED}main%2Fq1.ipynb".replace("%", "%25"), "q1.ipynb", "main"),  # encoded twice
        (f"fileId={ENCODED}fix%252Fa%2Fq1.ipynb", "q1.ipynb", "fix/a"),  # in part
        ("fileId=https://github.com/OWNER/REPO.x/blob/main/q1.ipynb", "q1.ipynb", "main"),
        ("github.com/OWNER/REPO.x/blob/main/q1.ipynb", "", "main"),
        ("1a2b3c", f"{ENCODED}main%2Fq1.ipynb", "main"),  # by its name
        (f"fileId={ENCODED}main%2Fq1.ipynb", f"{ENCODED}main%2Fq1.ipynb", "main"),
    ],
)
def test_opened_from_github(colab, run_cell, path, name, branch):
    colab.answer = session(path, name)
    out, asked = run_cell(colab.ip)
    source = f"https://github.com/OWNER/REPO.x@{branch}"
    assert asked == asked_for(source)
    said = f"Installing AIRL from https://github.com/OWNER/REPO.x {branch}: about a minute\nAIRL is here: "
    assert re.fullmatch(rf"{re.escape(said)}\S+__init__.py\n", out)


@pytest.mark.parametrize(
    ("repository", "source"),
    [
        ("https://github.com/OWNER/REPO", "https://github.com/OWNER/REPO"),
        (" https://github.com/OWNER/REPO/ ", "https://github.com/OWNER/REPO"),
        ("github.com/OWNER/REPO", "https://github.com/OWNER/REPO"),
        ("https://github.com/OWNER/REPO.git", "https://github.com/OWNER/REPO"),
        ("https://github.com/OWNER/REPO/tree/fix/a", "https://github.com/OWNER/REPO@fix/a"),
        ("https://github.com/OWNER/REPO/tree/main/", "https://github.com/OWNER/REPO@main"),
        ("https://github.com/OWNER/REPO/blob/fix/a/q1.ipynb", "https://github.com/OWNER/REPO@fix/a"),
        ("https://github.com/OWNER/REPO/blob/main/notebooks/old/q1.ipynb", "https://github.com/OWNER/REPO@main"),
        (
            "https://github.com/OWNER/REPO/blob/fix/deep/branch/sub/q1.ipynb",
            "https://github.com/OWNER/REPO@fix/deep/branch",
        ),
        ("https://github.com/OWNER/REPO/blob/fix/other/q1.ipynb", "https://github.com/OWNER/REPO@fix"),
        ("https://github.com/OWNER/REPO/blob/v1.0/q1.ipynb", "https://github.com/OWNER/REPO@v1.0"),
        (f"https://github.com/OWNER/REPO/blob/{'ab' * 20}/q1.ipynb", f"https://github.com/OWNER/REPO@{'ab' * 20}"),
        ("https://github.com/OWNER/REPO/tree/mian", "https://github.com/OWNER/REPO@mian"),  # pip will say so
        ("OWNER/REPO", "https://github.com/OWNER/REPO"),
        ("https://www.github.com/OWNER/RE.PO-1", "https://github.com/OWNER/RE.PO-1"),
        ("git@github.com:OWNER/REPO.git", "https://github.com/OWNER/REPO"),
        ("https://github.com/OWNER/REPO?tab=readme-ov-file#airl", "https://github.com/OWNER/REPO"),
        ("https://github.com/OWNER/REPO/tree/fix/a?tab=readme-ov-file", "https://github.com/OWNER/REPO@fix/a"),
        (
            "https://colab.research.google.com/github/OWNER/REPO/blob/main/q1.ipynb#scrollTo=q1-01",
            "https://github.com/OWNER/REPO@main",
        ),
        ("https://gitlab.com/OWNER/REPO.git", "https://gitlab.com/OWNER/REPO.git"),
        ("https://TOKEN@github.com/OWNER/REPO", "https://TOKEN@github.com/OWNER/REPO"),
        ("ssh://git@example.org/OWNER/REPO.git@main", "ssh://git@example.org/OWNER/REPO.git@main"),
    ],
)
def test_the_form_field_for_a_notebook_on_drive(colab, run_cell, repository, source):
    colab.answer = session("fileId=1a2b3c", "q1.ipynb")
    assert run_cell(colab.ip, repository)[1] == asked_for(source)


def test_the_form_field_wins_over_the_service(colab, run_cell):
    colab.answer = session(f"fileId={ENCODED}main%2Fq1.ipynb")
    assert run_cell(colab.ip, "https://github.com/ME/FORK")[1] == asked_for("https://github.com/ME/FORK")


@pytest.mark.parametrize("answer", [session("fileId=1a2b3c", "q1.ipynb"), [], {}, b"<html>no JSON</html>", "closed"])
def test_a_clear_error_when_nothing_tells_the_repository(colab, run_cell, answer):
    colab.answer = answer
    if answer == "closed":
        colab.socket.close()
    out, asked = run_cell(colab.ip)
    assert asked is None
    assert out.splitlines()[-1].startswith("RuntimeError: Which repository holds AIRL? Fill in REPOSITORY (OWNER/REPO")


def test_the_form_field_without_the_service(colab, run_cell):
    colab.socket.close()
    assert run_cell(colab.ip, "https://github.com/OWNER/REPO")[1] == asked_for("https://github.com/OWNER/REPO")


def test_the_hosts_own_address_without_the_variable(colab, run_cell):
    colab.answer = session(f"fileId={ENCODED}main%2Fq1.ipynb")
    named = f"import socket; socket.gethostbyname = {{socket.gethostname(): {colab.ip!r}}}.get"
    assert run_cell(None, code=named)[1] == asked_for("https://github.com/OWNER/REPO.x@main")


def test_what_pip_said_when_it_fails(colab, run_cell):
    out, asked = run_cell(colab.ip, "https://github.com/OWNER/broken")
    assert asked == asked_for("https://github.com/OWNER/broken")
    assert "fatal: repository not found" in out
    *_, last = out.strip().splitlines()
    assert last.startswith("RuntimeError: pip could not install AIRL from https://github.com/OWNER/broken")
    assert "private" in last and "wrong" in last and "offline" in last


@pytest.mark.parametrize(
    "torch, kept", [("2.8.0+cu126", False), ("2.9.0", True), ("2.11.0+cu128", True), ("1.13", False)]
)
def test_a_torch_that_pip_would_replace_is_named_before(colab, run_cell, torch, kept):
    out, _ = run_cell(colab.ip, "OWNER/REPO", torch=torch)
    assert (f"here is {torch}, so pip downloads gigabytes" in out) is not kept


def test_the_torch_required_is_what_the_package_requires(notebook):
    (required,) = re.findall(r"^torch>=(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    cell = setup_cell(notebook)
    assert f"it needs torch {required} or newer" in cell and f"< [{required.replace('.', ', ')}]" in cell


def test_in_a_checkout_nothing_is_installed(colab, run_cell):
    colab.answer = session(f"fileId={ENCODED}main%2Fq1.ipynb")
    out, asked = run_cell(colab.ip, "https://github.com/OWNER/REPO", cwd=ROOT)
    assert asked is None
    assert out == f"AIRL is here: {ROOT / 'airl' / '__init__.py'}\n"


def test_a_clone_in_the_working_folder_is_not_taken_for_the_package(colab, run_cell, tmp_path):
    clone = tmp_path / "content" / "airl" / "airl"  # after `git clone .../airl`, the folder airl is no package
    clone.mkdir(parents=True)
    (clone / "__init__.py").touch()
    out, asked = run_cell(colab.ip, "https://github.com/OWNER/REPO", cwd=tmp_path / "content")
    assert asked == asked_for("https://github.com/OWNER/REPO")
    assert "Traceback" not in out


def test_the_cell_is_the_same_in_all_notebooks_and_hidden():
    assert NOTEBOOKS
    assert len({setup_cell(notebook) for notebook in NOTEBOOKS}) == 1
    for notebook in NOTEBOOKS:
        cell = next(cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code")
        assert cell["metadata"] == {"cellView": "form", "jupyter": {"source_hidden": True}}
