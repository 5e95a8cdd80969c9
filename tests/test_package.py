"""What surrounds the code: the package's own facts agree, and `python -m airl` tells what there is to run."""

import tomllib
from pathlib import Path

import airl
from airl.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]


def test_the_version_is_the_same_everywhere():
    assert f"\nversion: {airl.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "MIT"


def test_airl_tells_what_there_is_to_run(capsys):
    main()
    told = capsys.readouterr().out
    assert airl.__version__ in told
    for module in COMMANDS:
        assert f"python -m {module} " in told
        path = module.replace(".", "/")
        assert (ROOT / f"{path}.py").exists() or (ROOT / path / "__main__.py").exists(), module
