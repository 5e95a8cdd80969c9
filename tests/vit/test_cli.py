"""`python -m airl.vit`, as a person types it."""

import subprocess
import sys

import pytest
import torch
from PIL import Image

from airl import vit
from airl.vit.__main__ import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of plain colour, 16 x 16."""
    root = tmp_path_factory.mktemp("colours")
    for split, count in (("train", 40), ("test", 8)):
        for name in ("red", "blue"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (16, 16), (255 - i, 0, 0) if name == "red" else (0, 0, 255 - i)).save(
                    root / split / name / f"{i}.png"
                )
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    arguments = ["--data", str(folder), "--recipe", "quick", "--epochs", "3", "--batch-size", "8", "--seed", "1"]
    assert main(["train", *arguments, "--out", str(out)]) == 0
    return out


def test_train_writes_a_model_that_evaluate_and_predict_use(run, folder, capsys):
    model = str(run / "model")
    assert main(["evaluate", "--model", model, "--data", str(folder)]) == 0
    report = capsys.readouterr().out
    expected = vit.evaluate(vit.ViT.from_pretrained(model), vit.load_dataset(folder).test)
    assert f"accuracy {expected.accuracy:.2%}" in report and "red" in report and "blue" in report

    files = [str(folder / "test" / name / "0.png") for name in ("red", "blue")]
    assert main(["predict", "--model", model, *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, file in zip(lines, files, strict=True):
        prediction = vit.predict(vit.ViT.from_pretrained(model), file)
        assert line.startswith(f"{file}: {prediction.label} {prediction.confidence:.1%}")


def test_a_bad_file_is_reported_and_the_rest_go_on(run, folder, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    good = str(folder / "test" / "red" / "0.png")
    assert main(["predict", "--model", str(run / "model"), str(tmp_path / "bad.jpg"), good]) == 1
    printed = capsys.readouterr()
    assert "bad.jpg" in printed.err and good in printed.out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--data", "mnist", "--out", "OUT"], "unknown data set 'mnist'"),
        (["evaluate", "--model", "OUT/none/model"], "there is no folder"),
        (["train", "--data", "shapes", "--recipe", "quick", "--out", "OUT", "--device", "cuda"], "sees 0 CUDA GPUs"),
        (["train", "--data", "shapes", "--recipe", "quick", "--out", "OUT", "--device", "gpu"], "device is 'gpu'"),
    ],
)
def test_errors_are_one_line_and_exit_1(arguments, message, tmp_path, capsys):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main([argument.replace("OUT", str(tmp_path)) for argument in arguments]) == 1
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: ") and message in error


def test_a_model_is_not_scored_on_other_classes(run, tmp_path, capsys):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (20, 30)).save(tmp_path / split / name / "0.png")
    assert main(["evaluate", "--model", str(run / "model"), "--data", str(tmp_path)]) == 1
    assert "knows blue, red" in capsys.readouterr().err


def test_errors_speak_of_options(run, folder, capsys):
    arguments = ["train", "--data", str(folder), "--recipe", "quick", "--batch-size", "8", "--out", str(run)]
    assert main(arguments) == 1
    assert "pass --resume to go on with it, or another --out" in capsys.readouterr().err
    assert main(["evaluate", "--model", str(run / "none")]) == 1
    assert "(train writes OUT/model)" in capsys.readouterr().err


@pytest.mark.parametrize("saved", [True, False])
def test_ctrl_c_is_one_line_and_status_130(run, folder, tmp_path, monkeypatch, capsys, saved):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(vit, "train", interrupted)
    out = str(run if saved else tmp_path)
    assert main(["train", "--data", str(folder), "--recipe", "quick", "--out", out]) == 130
    going_on = "; the same command with --resume goes on from the checkpoint" if saved else ""
    assert capsys.readouterr().err == f"stopped{going_on}\n"


def test_help_comes_from_the_module(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "airl.vit", "--help"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "python -m airl.vit train --data cifar10 --recipe assignment" in done.stdout


def test_import_is_cheap_and_plots_are_there_when_asked_for(tmp_path):
    code = "import sys, airl, airl.vit; print(sorted(sys.modules)); airl.vit.plots.training_curves"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    for name in ("matplotlib", "torchvision", "timm", "transformers", "cv2", "segment_anything"):
        assert f"'{name}'" not in done.stdout
