"""Train, evaluate and predict from a shell:

python -m airl.vit train --data cifar10 --recipe assignment --out runs/q1
python -m airl.vit evaluate --model runs/q1/model --data cifar10
python -m airl.vit predict --model runs/q1/model cat.jpg dog.png
python -m airl.vit predict cat.jpg                                     # the model that comes with AIRL
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from airl import runtime, vit
from airl.vit.data import NAMES

IN_A_SHELL = {"resume=True": "--resume", "out_dir": "--out", "OUT_DIR": "OUT", "image_size=": "--image-size "}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0, or after a line on stderr 130 for Ctrl-C, 1 for an error (`predict`: with any file)."""
    args = _parser().parse_args(arguments)
    try:
        return args.run(args)
    except (ValueError, OSError, FloatingPointError) as error:
        message = str(error)
        for name, option in IN_A_SHELL.items():
            message = message.replace(name, option)
        print(f"error: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        saved = args.run is train and (Path(args.out).expanduser() / "checkpoint.pt").exists()
        print("stopped" + "; the same command with --resume goes on from the checkpoint" * saved, file=sys.stderr)
        return 130


def train(args: argparse.Namespace) -> int:
    config = vit.RECIPES[args.recipe]
    given = {name: getattr(args, name) for name in ("epochs", "batch_size", "seed", "precision", "compile")}
    config = replace(config, **{name: value for name, value in given.items() if value is not None})
    data = vit.load_dataset(args.data, root=args.root, image_size=args.image_size)
    torch.manual_seed(config.seed)
    shape = replace(vit.MODELS[args.recipe], image_size=data.train.images.shape[-1], num_classes=data.num_classes)
    result = vit.train(vit.ViT(shape), data, config, args.out, resume=args.resume, device=args.device)
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"last epoch's test accuracy {result.accuracy:.2%}; best epoch's {result.best_epoch_accuracy:.2%}")
        print(f"model: {result.out_dir / 'model'}")
    return 0


def _model(args: argparse.Namespace) -> vit.ViT:
    """The model asked for, on its device; where none is, the package's own, which is announced on stderr."""
    if args.model is None:
        model = vit.ViT.tiny()
        classes = ", ".join(model.config.classes)
        print(f"the ViT that comes with AIRL, trained on CIFAR-10, knows {classes} and nothing else", file=sys.stderr)
    else:
        model = vit.ViT.from_pretrained(args.model)
    return model.to(runtime.choose(args.device).device)


def evaluate(args: argparse.Namespace) -> int:
    model = _model(args)
    size = None if args.data in NAMES else model.config.image_size
    data = vit.load_dataset(args.data, root=args.root, image_size=size)
    report = vit.evaluate(model, data.test)
    print(report)
    for name, accuracy in report.per_class.items():
        print(f"{accuracy:8.2%}  {name}")
    return 0


def predict(args: argparse.Namespace) -> int:
    model = _model(args)
    failed = 0
    for file in args.files:
        try:
            prediction = vit.predict(model, file)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed = 1
            continue
        ranked = list(prediction.probabilities.items())[:3]
        print(f"{file}: " + ", ".join(f"{label} {probability:.1%}" for label, probability in ranked))
    return failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airl.vit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    on_data = argparse.ArgumentParser(add_help=False)
    on_data.add_argument("--data", default="cifar10", help="cifar10, cifar100, shapes or a folder (default: cifar10)")
    on_data.add_argument("--root", default="data", help="where CIFAR is kept or downloaded to (default: data)")
    on_device = argparse.ArgumentParser(add_help=False)
    on_device.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    on_model = argparse.ArgumentParser(add_help=False)
    on_model.add_argument(
        "--model", help="a folder that train wrote (OUT/model), or a name on the Hub (default: the one in the package)"
    )

    command = commands.add_parser("train", parents=[on_data, on_device], help="train a model")
    command.add_argument("--recipe", choices=vit.RECIPES, default="assignment", help="default: assignment")
    command.add_argument("--out", required=True, help="folder of the checkpoint, the history and the model")
    command.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, if there is one")
    command.add_argument("--image-size", type=int, help="resize the images of a folder to this many pixels, squared")
    command.add_argument("--epochs", type=int, help="instead of the recipe's")
    command.add_argument("--batch-size", type=int, help="instead of the recipe's")
    command.add_argument("--seed", type=int, help="instead of the recipe's")
    command.add_argument("--precision", help="fp32, bf16 or fp16, instead of what the hardware is fast at")
    command.add_argument("--compile", action="store_true", default=None, help="use torch.compile")
    command.set_defaults(run=train)

    command = commands.add_parser("evaluate", parents=[on_model, on_data, on_device], help="score a model")
    command.set_defaults(run=evaluate)

    command = commands.add_parser("predict", parents=[on_model, on_device], help="classify image files")
    command.add_argument("files", nargs="+", metavar="FILE")
    command.set_defaults(run=predict)
    return parser


if __name__ == "__main__":
    sys.exit(main())
