"""Make the ViT that comes with this package of a finished run's folder.

    python -m airl.vit train --data cifar10 --recipe fast --out runs/tiny
    python -m training.pack_vit runs/tiny --data cifar10

Writes the weights, rounded to bf16, their configuration, and training.json: what was run, where and for how long, and
what the rounded model scores on the test images. Run it where the run was trained.
"""

import argparse
import json
from pathlib import Path

from safetensors.torch import save_file

from airl import vit
from airl.files import atomic_folder
from benchmarks.record import entry
from benchmarks.trained import model_of, row_of


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder that vit.train wrote to")
    parser.add_argument("--data", default="cifar10", help="what it was trained on: cifar10, or an image folder")
    parser.add_argument("--note", default="", help="anything else that a reader has to know, such as the run's commit")
    parser.add_argument("--out", type=Path, default=Path("airl/vit/tiny"))
    args = parser.parse_args(arguments)
    data, model = vit.load_dataset(args.data), model_of(args.run)
    row = row_of(args.run, data)
    exact = {name: value.contiguous() for name, value in model.state_dict().items()}
    rounded = {k: v.bfloat16() if v.is_floating_point() else v for k, v in exact.items()}
    model.load_state_dict(rounded)
    report = vit.evaluate(model, data.test)
    row |= {"rounded: test accuracy, %": round(100 * report.accuracy, 2)}
    row |= {"rounded: calibration error, %": round(100 * report.ece, 2)}
    note = f"python -m airl.vit train --recipe {row['recipe']} --epochs {row['epochs']} --seed {row['seed']}"
    note += f"; {args.note}" * bool(args.note)
    told = json.dumps(entry([row], data=args.data, note=note), indent=1, ensure_ascii=False)
    with atomic_folder(args.out) as folder:
        model.save_pretrained(folder)
        (folder / "README.md").unlink()  # a card for the Hub
        save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "training.json").write_text(told + "\n", encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
