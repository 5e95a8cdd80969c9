"""What each part of the recipes is worth: one change at a time, at a fixed budget of images.

    python -m benchmarks.ablation --data DIR [--only kept "class token" ...] [--seeds 0 1]

Four passes over 25,000 of the training images by a ViT of width 128 and depth 6, small enough for a CPU: such a
budget can rank what makes learning fast, not what keeps a long training from overfitting. Each row is the first
one ("kept") with one change; the accuracy is the last epoch's on all test images. Recorded after every row.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from airl import vit
from airl.vit import TrainConfig, ViT, ViTConfig
from airl.vit.data import Dataset, Split
from benchmarks.report import publish

MODEL = ViTConfig(dim=128, depth=6, heads=4, dropout=0.0, stem="conv", pool="mean")
TRAIN = TrainConfig(epochs=4, optimizer="muon", lr=3e-3, warmup=0.1, schedule="linear", patch_drop=0.5)


def other_init(model: ViT) -> None:
    """Xavier's for all matrices, zeros for the head and for what each branch adds."""
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    for block in model.blocks:
        nn.init.zeros_(block.attn.proj.weight)
        nn.init.zeros_(block.mlp.fc2.weight)
    nn.init.zeros_(model.head.weight)


def normalize_queries_and_keys(model: ViT) -> None:
    """QK-norm: a LayerNorm on each head's queries and keys."""
    width = model.config.dim // model.config.heads
    for block in model.blocks:
        attn, project = block.attn, block.attn.project
        attn.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

        def normalized(x, attn=attn, project=project):
            q, k, v = project(x)
            return attn.norms[0](q).to(v.dtype), attn.norms[1](k).to(v.dtype), v

        attn.project = normalized


ROWS: dict[str, tuple[dict, dict, Callable[[ViT], None] | None]] = {  # name: (of TRAIN, of MODEL, to the model)
    "kept": ({}, {}, None),
    "AdamW, lr 1e-3": ({"optimizer": "adamw", "lr": 1e-3}, {}, None),
    "lr 6e-3": ({"lr": 6e-3}, {}, None),
    "no patch dropped": ({"patch_drop": 0.0}, {}, None),
    "batch 64": ({"batch_size": 64}, {}, None),
    "batch 32": ({"batch_size": 32}, {}, None),
    "no AutoAugment": ({"auto_augment": False}, {}, None),
    "cosine schedule": ({"schedule": "cosine"}, {}, None),
    "averaged weights": ({"ema_decay": 0.999}, {}, None),
    "mixup and cutmix": ({"mixup_alpha": 0.8, "cutmix_alpha": 1.0}, {}, None),
    "random erasing": ({"random_erasing": 0.25}, {}, None),
    "drop path": ({}, {"drop_path": 0.1}, None),
    "patch stem": ({}, {"stem": "patch"}, None),
    "class token": ({}, {"pool": "class"}, None),
    "QK-norm": ({}, {}, normalize_queries_and_keys),
    "other initial weights": ({}, {}, other_init),
    "assignment's model and AdamW, nothing dropped": (
        {"optimizer": "adamw", "lr": 1e-3, "patch_drop": 0.0},
        {"dropout": 0.1, "stem": "patch", "pool": "class"},
        None,
    ),
}


def run(name: str, data: Dataset, seed: int) -> tuple[float, float]:
    """The last epoch's accuracy in % and the training's images/s."""
    of_train, of_model, change = ROWS[name]
    torch.manual_seed(seed)
    model = ViT(replace(MODEL, **of_model))
    if change:
        change(model)
    with tempfile.TemporaryDirectory() as folder:
        result = vit.train(model, data, replace(TRAIN, name=name, seed=seed, **of_train), folder)
    return 100 * result.accuracy, sum(row["images_per_second"] for row in result.history) / len(result.history)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    data = vit.load_dataset(args.data)
    some = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:25000]
    data = replace(data, train=Split(data.train.images[some], data.train.labels[some]))
    rows = []
    for name in args.only:
        row = {"change": name}
        for seed in args.seeds:
            accuracy, rate = run(name, data, seed)
            row |= {f"seed {seed}, %": round(accuracy, 1), "images/s": round(rate)}
        rows.append(row)
        note = f"{TRAIN.epochs} passes, a ViT of width {MODEL.dim} and depth {MODEL.depth}, accuracy of the last epoch."
        publish("ablation", rows, data=f"25,000 training images and all test images of {args.data}", note=note)


if __name__ == "__main__":
    main()
