"""Draw a finished run, as the README shows it, from its folder.

    python -m benchmarks.figures runs/assignment --data cifar10 [--out docs/figures]

Writes curves.png, confusion.png, per_class.png, predictions.png (at random, and the mistakes it is surest of),
attention.png (rollout) and positions.png.
"""

import argparse
from pathlib import Path

from airl import vit
from airl.files import atomic_write
from benchmarks.trained import history_of, model_of


def main(arguments: list[str] | None = None) -> None:
    from airl.vit import plots

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder that vit.train wrote to")
    parser.add_argument("--data", default="cifar10", help="what it was trained on: cifar10, or an image folder")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    args = parser.parse_args(arguments)
    history, model, test = history_of(args.run), model_of(args.run), vit.load_dataset(args.data).test
    report = vit.evaluate(model, test)
    one_of_each = [int((test.labels == label).nonzero()[0]) for label in test.labels.unique()][:10]
    figures = {
        "curves": plots.training_curves(history),
        "confusion": plots.confusion_matrix(report),
        "per_class": plots.per_class_accuracy(report),
        "predictions": plots.prediction_grid(test, report),
        "attention": plots.attention_overlay(
            model, test.images[one_of_each], [report.classes[label] for label in test.labels[one_of_each]]
        ),
        "positions": plots.position_similarity(model),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        with atomic_write(args.out / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=80, format="png", bbox_inches="tight")
        print(args.out / f"{name}.png")


if __name__ == "__main__":
    main()
