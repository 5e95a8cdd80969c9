"""Patch size, depth against width, and augmentation: what each costs and brings, one change at a time.

    python -m benchmarks.analysis --data cifar10                                       # a GPU: the assignment's size
    python -m benchmarks.analysis --data cifar10 --dim 64 --depth 4 --epochs 3         # a CPU

Every row is the assignment's model and recipe, of the width, depth and number of epochs asked for, with one change. All
see the same number of images. The last tenth of each class's training images is held out and scored on (of CIFAR-10
5,000 images, 500 of each class, the same ones from the archive and from a folder whose files are numbered); the test
images are not touched. Depth and width change at about equal cost, in steps of a head's width, 32.

The runs are in `--out`, each in a folder of its own, and recorded as they end; the same command goes on where it was
stopped. images/s is of a training step, measured anew by every call: call again when nothing else computes.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from airl import runtime, vit
from airl.vit import ViT, ViTConfig
from airl.vit.data import Dataset, Split
from benchmarks.report import publish
from benchmarks.train_step import seconds_of, step_of

HEAD = 32  # the width of a head of the assignment's model


def rows_of(dim: int, depth: int) -> dict[str, tuple[dict, dict]]:
    """Name of a row -> what it changes of the model and of the recipe, the dearest last."""

    def shape(width: float) -> dict:
        width = max(HEAD, round(width / HEAD) * HEAD)
        return {"dim": width, "heads": width // HEAD, "depth": max(1, round(depth * (dim / width) ** 2))}

    return {
        "as it is": ({}, {}),
        "no augmentation": ({}, {"crop_padding": 0, "flip": False, "auto_augment": False}),
        "crop and flip": ({}, {"auto_augment": False}),
        "patch 8": ({"patch_size": 8}, {}),
        "wider": (shape(dim * 2**0.5), {}),
        "deeper": (shape(dim / 2**0.5), {}),
        "patch 2": ({"patch_size": 2}, {}),
    }


def hold_out(data: Dataset) -> Dataset:
    """The training images alone: the last tenth of each class, in the data set's order, becomes the test split."""
    labels, held = data.train.labels, torch.zeros(len(data.train), dtype=torch.bool)
    for label in range(data.num_classes):
        of_class = (labels == label).nonzero().flatten()
        held[of_class[len(of_class) - len(of_class) // 10 :]] = True
    train, test = (Split(data.train.images[which], labels[which]) for which in (~held, held))
    return Dataset(data.name, train, test, data.classes)


def rate_of(model: ViTConfig, batch: int, device: str) -> float:
    """Images per second of a training step."""
    here = runtime.choose(device)
    return batch / seconds_of(step_of(ViT(model), here, batch, compiled=False), here, at_least=2.0)


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

    data = hold_out(vit.load_dataset(args.data))
    base = replace(
        vit.MODELS["assignment"],
        image_size=data.train.images.shape[-1],
        num_classes=data.num_classes,
        dim=args.dim,
        heads=args.dim // HEAD,
        depth=args.depth,
    )
    recipe = replace(vit.RECIPES["assignment"], name="analysis", epochs=args.epochs)
    note = (
        f"{runtime.choose(args.device).precision}; every row saw {args.epochs} x {len(data.train):,} images; accuracy "
        f"of the last epoch on the {len(data.test):,} training images held out."
    )
    rows = []
    for name, (of_model, of_recipe) in rows_of(args.dim, args.depth).items():
        if args.only and name not in args.only:
            continue
        model = replace(base, **of_model)
        rows.append(
            {
                "change": name,
                "patch": model.patch_size,
                "tokens": (model.image_size // model.patch_size) ** 2 + 1,
                "width x depth": f"{model.dim} x {model.depth}",
                "parameters, M": round(ViT(model).num_parameters / 1e6, 2),
                "images/s": round(rate_of(model, recipe.batch_size, args.device)),
            }
        )
        for seed in args.seeds:
            folder = args.out / f"{args.dim}x{args.depth}-{args.epochs}" / f"{name.replace(' ', '-')}-{seed}"
            torch.manual_seed(seed)
            config = replace(recipe, seed=seed, **of_recipe)
            result = vit.train(ViT(model), data, config, folder, resume=True, device=args.device)
            rows[-1][f"seed {seed}, %"] = round(100 * result.accuracy, 2)
            publish("analysis", rows, data=f"training images of {args.data}", note=note, device=args.device)


if __name__ == "__main__":
    main()
