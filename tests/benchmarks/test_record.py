import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import record as module
from benchmarks.record import FIELDS, record


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    words = ["/usr/bin/python3", f"{module.ROOT}/benchmarks/x.py", "--data", "/a/real photos"]
    monkeypatch.setattr(sys, "orig_argv", words)


def records(path):
    return json.loads(path.read_text())["records"]


def test_a_record_says_where_its_figures_come_from():
    (one,) = records(record("x", [{"IoU": np.float32(0.5), "F": torch.tensor(0.25), "s": None}], data="3 scenes"))
    assert tuple(one) == FIELDS
    assert one["command"] == "python benchmarks/x.py --data 'real photos'"
    assert one["rows"] == [{"IoU": 0.5, "F": 0.25, "s": None}]
    assert torch.__version__.startswith(one["versions"]["torch"])
    assert f"({torch.get_num_threads()} thread" in one["machine"] or torch.cuda.is_available()


def test_the_same_command_replaces_its_record_and_another_is_added(monkeypatch):
    record("x", [{"a": 1}], data="d")
    record("x", [{"a": 2}], data="d")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "benchmarks.x"])
    path = record("x", [{"a": 3}], data="d")
    assert [one["rows"][0]["a"] for one in records(path)] == [2, 3]


def test_the_commit_says_when_the_code_was_changed(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert module._commit() == "unknown"
    git("init", "--quiet")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    (tmp_path / "README.md").write_text("a page is not what was measured")
    assert len(module._commit()) == 7
    (tmp_path / "code.py").write_text("2")
    assert module._commit().endswith("+changes")


@pytest.mark.parametrize("rows, data", [([], "d"), ([{}], "d"), ([{"a": 1}], "")])
def test_nothing_to_record_is_an_error(rows, data):
    with pytest.raises(ValueError, match="a record "):
        record("x", rows, data=data)
