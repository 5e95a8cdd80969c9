"""Patch size, depth against width, and augmentation: what each costs and brings, one change at a time.

    python -m benchmarks.analysis --data cifar10                                       # a GPU: the assignment's size
    python -m benchmarks.analysis --data cifar10 --dim 64 --depth 4 --epochs 3         # a CPU

Every row is the assignment's model and recipe, of the width, depth and number of epochs asked for, with one change. All
see the same number of images. The last tenth of each class's training images is held out and scored on (of CIFAR-10
5,000 images, 500 of each class, the same ones from the archive and from a folder whose files are numbered); the test
images are not touched. Depth and width change at about equal cost, in steps of a head's width, 32.

The rows are trained in `--out`, each in a folder of its own, and recorded as they end; the same command goes on where
it was stopped. images/s is of one training step, measured anew by every call.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from airl import runtime, vit
from airl.vit import TrainConfig, ViT, ViTConfig
from airl.vit.data import Dataset, Split
from benchmarks.record import record
from benchmarks.train_step import seconds_of, step_of

HEAD = 32  # the width of a head of the assignment's model


def rows_of(dim: int, depth: int) -> dict[str, tuple[dict, dict]]:
    """Name of a row -> what it changes of the model and of the recipe, the cheapest to compare first."""

    def shape(width: float) -> dict:
        width = max(HEAD, round(width / HEAD) * HEAD)
        return {"dim": width, "heads": width // HEAD, "depth": max(1, round(depth * (dim / width) ** 2))}

    return {
        "as it is": ({}, {}),
        "no augmentation": ({}, {"crop_padding": 0, "flip": False, "auto_augment": False}),
        "crop and flip": ({}, {"auto_augment": False}),
        "patch 8": ({"patch_size": 8}, {}),
        "patch 2": ({"patch_size": 2}, {}),
        "wider": (shape(dim * 2**0.5), {}),
        "deeper": (shape(dim / 2**0.5), {}),
    }


def hold_out(data: Dataset) -> Dataset:
    """The training images alone: the last tenth of each class, in the data set's order, becomes the test split."""
    labels, held = data.train.labels, torch.zeros(len(data.train), dtype=torch.bool)
    for label in range(data.num_classes):
        of_class = (labels == label).nonzero().flatten()
        held[of_class[len(of_class) - len(of_class) // 10 :]] = True
    train, test = (Split(data.train.images[which], labels[which]) for which in (~held, held))
    return Dataset(data.name, train, test, data.classes)


def measure(name: str, model: ViTConfig, config: TrainConfig, data: Dataset, folder: Path, device: str) -> dict:
    """Train one row, or take it from its folder if it is done, and time its step."""
    torch.manual_seed(config.seed)
    result = vit.train(ViT(model), data, config, folder, resume=True, device=device)
    here, batch = runtime.choose(device), config.batch_size
    seconds = seconds_of(step_of(ViT(model), here, batch, compiled=False), here, at_least=2.0)
    return {
        "change": name,
        "patch": model.patch_size,
        "tokens": (model.image_size // model.patch_size) ** 2 + 1,
        "width x depth": f"{model.dim} x {model.depth}",
        "parameters": result.model.num_parameters,
        "epochs": config.epochs,
        "seed": config.seed,
        "accuracy": round(result.accuracy, 4),
        "images/s": round(batch / seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="cifar10, or the path of an image folder")
    parser.add_argument("--dim", type=int, default=256, help=f"width of the model, a multiple of {HEAD}")
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=rows_of(256, 8), help="these rows alone")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/analysis"))
    args = parser.parse_args()
    if args.dim < HEAD or args.dim % HEAD:
        parser.error(f"--dim is {args.dim}; expected a multiple of {HEAD}")

    whole = vit.load_dataset(args.data)
    data = hold_out(whole)
    base = replace(
        vit.MODELS["assignment"],
        image_size=data.train.images.shape[-1],
        num_classes=data.num_classes,
        dim=args.dim,
        heads=args.dim // HEAD,
        depth=args.depth,
    )
    recipe = replace(vit.RECIPES["assignment"], name="analysis", epochs=args.epochs)
    note = f"scored on {len(data.test):,} held-out training images; every row sees {args.epochs} x {len(data.train):,}"
    done = []
    for name, (of_model, of_recipe) in rows_of(args.dim, args.depth).items():
        for seed in args.seeds if not args.only or name in args.only else ():
            folder = args.out / f"{args.dim}x{args.depth}-{args.epochs}" / f"{name.replace(' ', '-')}-{seed}"
            config = replace(recipe, seed=seed, **of_recipe)
            done.append(measure(name, replace(base, **of_model), config, data, folder, args.device))
            record("analysis", done, data=args.data, note=note)


if __name__ == "__main__":
    main()
