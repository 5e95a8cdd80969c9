import csv
import json
from dataclasses import asdict

import torch
from PIL import Image

from airl import vit
from benchmarks import __main__ as module
from benchmarks import figures
from benchmarks.__main__ import Piece, measure
from benchmarks.trained import recipe_of


def test_what_fits_is_run_in_order_once_and_training_goes_on_later(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "ran.py").write_text(
        "import sys, time\nprint('x', file=open(sys.argv[1], 'a'))\ntime.sleep(float(sys.argv[2]))\n"
    )

    def piece(name: str, minutes: float, seconds: float) -> Piece:
        return Piece(name, minutes, [["ran", str(tmp_path / name), str(seconds)]])

    pieces = [piece("long", 0, 60), piece("big", 5, 0), piece("small", 0, 0)]
    outcome = measure(pieces, 1 / 60, tmp_path)
    assert outcome["long"] == "out of time"
    assert outcome["big"].startswith("not started")
    outcome = measure([piece("long", 0, 0), Piece("wrong", 0, [["no_such_module"]]), *pieces[1:]], 1, tmp_path)
    assert outcome["long"] == outcome["small"] == "done"
    assert outcome["wrong"] == "failed with status 1"
    assert measure(pieces, 1, tmp_path)["long"] == "done before"
    assert (tmp_path / "long").read_text() == "x\nx\n"


def test_the_longest_training_comes_first_on_a_gpu_and_not_at_all_on_a_cpu(tmp_path):
    names = {
        device: [one.name for one in module.pieces(device, "cifar10", tmp_path, False)] for device in ("cuda", "cpu")
    }
    assert names["cuda"] == ["assignment", "best", "train_step", "input_pipeline", "segmentation", "scaling"]
    assert names["cpu"] == ["train_step", "input_pipeline", "segmentation", "scaling"]
    train, score = module.pieces("cuda", "cifar10", tmp_path, False)[0].commands
    assert train[:2] == ["airl.vit", "train"] and "--resume" in train and "--epochs" not in train
    assert score[:2] == ["benchmarks.trained", train[train.index("--out") + 1]]


def test_small_sizes_train_score_and_record(tmp_path, monkeypatch):
    for i in range(80):
        part, colour = "train" if i < 64 else "test", ("blue", "red")[i % 2]
        (tmp_path / "data" / part / colour).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), colour).save(tmp_path / "data" / part / colour / f"{i}.png")
    monkeypatch.setenv("AIRL_RESULTS", str(tmp_path / "results"))
    arguments = ["--smoke", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert module.main([*arguments, "--device", "cpu", "--minutes", "5"]) == 0
    (one,) = json.loads((tmp_path / "results" / "training.json").read_text())["records"]
    assert one["command"] == "python -m benchmarks.trained quick --data data --device cpu"
    (row,) = one["rows"]
    with open(tmp_path / "results" / "quick-1-history.csv", newline="") as file:
        (epoch,) = csv.DictReader(file)
    assert (row["recipe"], row["epochs"], row["seed"]) == ("quick", 1, 0)
    assert row["test accuracy of the last epoch, %"] == round(100 * float(epoch["test_accuracy"]), 2)
    assert json.loads((tmp_path / "results" / "input_pipeline.json").read_text())["records"][0]["rows"]


def test_a_run_is_drawn(tmp_path, monkeypatch):
    images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
    data = vit.Dataset("noise", *[vit.Split(images, torch.arange(64) % 3)] * 2, ["a", "b", "c"])
    monkeypatch.setattr(vit, "load_dataset", lambda name: data)
    model = vit.ViT(vit.ViTConfig(image_size=16, dim=16, depth=1, heads=2, num_classes=data.num_classes))
    vit.train(model, data, vit.TrainConfig(epochs=1, batch_size=32), tmp_path / "run")
    figures.main([str(tmp_path / "run"), "--out", str(tmp_path / "figures")])
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    names = ("curves", "confusion", "per_class", "predictions", "attention", "positions")
    assert drawn == {f"{name}.png" for name in names}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "figures").iterdir())


def test_a_run_is_named_by_its_recipe_only_if_it_is_that_recipe():
    def named(train=None, model=None):
        settings = {"recipe": asdict(vit.RECIPES["assignment"]), "model": asdict(vit.MODELS["assignment"])}
        settings["recipe"] |= train or {}
        settings["model"] |= {"mean": (0.5, 0.5, 0.5), **(model or {})}
        return recipe_of(settings)

    assert named() == named({"epochs": 5, "seed": 3, "precision": "bf16"}) == "assignment"
    assert named({"lr": 2e-3}) == named(model={"depth": 2}) == "custom"
