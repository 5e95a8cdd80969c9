"""Record a finished run's row of the results table from its folder, and keep its history.

    python -m benchmarks.trained runs/assignment --data cifar10 [--note "trained at commit 1234567"]

Scores OUT/model on the test images, writes benchmarks/results/training.json and copies history.csv beside it, as
assignment-200-history.csv. Run it where the run was trained and at its commit: the record names machine and commit.
"""

import argparse
import csv
import shutil
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch

from airl import runtime, vit
from benchmarks.record import RESULTS
from benchmarks.report import publish

PASSING = ("name", "about", "epochs", "seed", "precision", "compile")  # fields that leave a recipe what it is
OF_DATA = ("image_size", "num_classes", "classes", "mean", "std")  # fields that leave a model what it is


def history_of(run: Path) -> list[dict[str, float]]:
    """history.csv of a run, a dict an epoch."""
    with open(run / "history.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [row | {"epoch": int(row["epoch"])} for row in rows]


def model_of(run: Path) -> vit.ViT:
    """The model that a run ended with. Raises FileNotFoundError for a run that has not ended."""
    if not (run / "model").is_dir():
        raise FileNotFoundError(f"{run} has no model/: the run is not finished; go on with vit.train(..., resume=True)")
    return vit.ViT.from_pretrained(run / "model")


def recipe_of(settings: dict[str, dict]) -> str:
    """The name of the recipe, with its model, that a checkpoint's settings are of, or "custom"."""
    train = asdict(vit.TrainConfig()) | settings["recipe"]  # a field that is younger than the run had its default
    model = asdict(vit.ViTConfig()) | settings["model"]
    for name, config in vit.RECIPES.items():
        wanted, shape = asdict(config), asdict(vit.MODELS[name])
        if all(train[field] == wanted[field] for field in wanted if field not in PASSING) and all(
            model[field] == shape[field] for field in shape if field not in OF_DATA
        ):
            return name
    return "custom"


def row_of(run: Path, data: vit.Dataset, device: str = "auto") -> dict[str, str | int | float]:
    """The results table's row of a finished run."""
    history, model = history_of(run), model_of(run)
    settings = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)["settings"]
    report = vit.evaluate(model.to(runtime.choose(device).device), data.test)
    confused = report.confusion.clone().fill_diagonal_(0)
    worst = [divmod(int(i), len(report.classes)) for i in confused.flatten().argsort(descending=True)[:3]]
    return {
        "recipe": recipe_of(settings),
        "parameters, M": round(model.num_parameters / 1e6, 1),
        "epochs": len(history),
        "seed": settings["recipe"]["seed"],
        "test accuracy of the last epoch, %": round(100 * report.accuracy, 2),
        "of the best epoch, %": round(100 * max(row["test_accuracy"] for row in history), 2),
        "top-5, %": round(100 * report.top5, 2),
        "calibration error, %": round(100 * report.ece, 2),
        "time, min": round(sum(row["seconds"] for row in history) / 60, 1),
        "training images/s": round(median(row["images_per_second"] for row in history)),
        "most confused": ", ".join(
            f"{report.classes[true]} as {report.classes[given]} {confused[true, given]}" for true, given in worst
        ),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder that vit.train wrote to")
    parser.add_argument("--data", default="cifar10", help="what it was trained on: cifar10, or an image folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--note", default="", help="anything else that a reader of the table has to know")
    args = parser.parse_args(arguments)
    data = vit.load_dataset(args.data)
    row = row_of(args.run, data, args.device)
    publish("training", [row], data=args.data, note=args.note, device=args.device)
    shutil.copyfile(args.run / "history.csv", RESULTS / f"{row['recipe']}-{row['epochs']}-history.csv")


if __name__ == "__main__":
    main()
