"""What each part of the recipes is worth: one change at a time, at a fixed budget of images.

    python -m benchmarks.ablation --data DIR [--passes 4] [--only kept "no rotary positions" ...] [--seeds 0 1]

Each row is recipe `fast` ("kept") with one change. The last tenth of each class's training images is held out and
scored on after the last pass; the test images choose nothing. A few passes rank what makes learning fast, not what
keeps a long training from overfitting: that takes 30 and more. Recorded after every row.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from airl import vit
from airl.vit import ViT
from airl.vit.data import Dataset
from benchmarks.analysis import hold_out
from benchmarks.report import publish

MODEL, TRAIN = vit.MODELS["fast"], vit.RECIPES["fast"]


def halve_at_once(model: ViT) -> None:
    """The stem of 3x3 convolutions that halve, and nothing before them."""
    dim, stem = model.config.dim, model.stem
    first = nn.Conv2d(3, dim // 2, 3, stride=2, padding=1, bias=False)
    second = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1, bias=False)
    layers = first, nn.BatchNorm2d(dim // 2), nn.ReLU(), second, nn.BatchNorm2d(dim), nn.ReLU(), stem[-1]
    model.stem = nn.Sequential(*layers).to(memory_format=torch.channels_last)


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
    """QK-norm: a LayerNorm on each head's queries and keys, before they are rotated."""
    for block in model.blocks:
        block.attn.qkv = nn.Sequential(block.attn.qkv, QKNorm(model.config.heads, model.config.dim))


class QKNorm(nn.Module):
    """Queries, keys and values side by side, (B, T, 3 * dim), the first two normalised."""

    def __init__(self, heads: int, dim: int):
        super().__init__()
        self.heads = heads
        self.q, self.k = nn.LayerNorm(dim // heads), nn.LayerNorm(dim // heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = x.unflatten(2, (3, self.heads, -1)).unbind(2)  # (B, T, nh, hs) each
        return torch.stack([self.q(q).to(v.dtype), self.k(k).to(v.dtype), v], dim=2).flatten(2)


def split_projections(model: ViT) -> None:
    """Queries, keys and values by a matrix each, so that Muon orthogonalises each by itself."""
    for block in model.blocks:
        qkv = block.attn.qkv
        parts = [nn.Linear(qkv.in_features, qkv.in_features) for _ in range(3)]
        for part, weight, bias in zip(parts, qkv.weight.chunk(3), qkv.bias.chunk(3), strict=True):
            part.weight.data.copy_(weight.data)
            part.bias.data.copy_(bias.data)
        block.attn.qkv = Side(parts)


class Side(nn.ModuleList):
    """Several maps of one input, their outputs side by side."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part(x) for part in self], dim=-1)


class AttentionPool(nn.Module):
    """The tokens' mean, weighted by a softmax over a linear map: (B, T, dim) to (B, 1, dim).

    Hassani et al. 2021, Escaping the Big Data Paradigm with Compact Transformers, https://arxiv.org/abs/2104.05704
    """

    def __init__(self, dim: int):
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.score(x).softmax(dim=1).mT @ x.to(torch.float32)


def pool_by_attention(model: ViT) -> None:
    """Attention pooling in place of the mean."""
    model.norm = nn.Sequential(model.norm, AttentionPool(model.config.dim))


ROWS: dict[str, tuple[dict, dict, Callable[[ViT], None] | None]] = {  # name: (of TRAIN, of MODEL, to the model)
    "kept": ({}, {}, None),
    "stem that halves at once": ({}, {}, halve_at_once),
    "patch stem": ({}, {"stem": "patch"}, None),
    "no rotary positions": ({}, {"rotary": False}, None),
    "class token, no rotary positions": ({}, {"pool": "class", "rotary": False}, None),
    "a quarter of the patches dropped": ({"patch_drop": 0.25}, {}, None),
    "no patch dropped": ({"patch_drop": 0.0}, {}, None),
    "no AutoAugment": ({"auto_augment": False}, {}, None),
    "mixup and cutmix": ({"mixup_alpha": 0.8, "cutmix_alpha": 1.0}, {}, None),
    "random erasing": ({"random_erasing": 0.25}, {}, None),
    "drop path": ({}, {"drop_path": 0.1}, None),
    "no label smoothing": ({"label_smoothing": 0.0}, {}, None),
    "AdamW, lr 1e-3": ({"optimizer": "adamw", "lr": 1e-3}, {}, None),
    "lr 6e-3": ({"lr": 6e-3}, {}, None),
    "twice the weight decay": ({"weight_decay": 0.1}, {}, None),
    "cosine schedule": ({"schedule": "cosine"}, {}, None),
    "batch 64": ({"batch_size": 64}, {}, None),
    "a matrix each for q, k and v": ({}, {}, split_projections),
    "attention pooling": ({}, {}, pool_by_attention),
    "QK-norm": ({}, {}, normalize_queries_and_keys),
    "other initial weights": ({}, {}, other_init),
}


def run(name: str, data: Dataset, passes: int, seed: int) -> vit.TrainResult:
    of_train, of_model, change = ROWS[name]
    torch.manual_seed(seed)
    model = ViT(replace(MODEL, **of_model))
    if change:
        change(model)
    config = replace(TRAIN, name=name, epochs=passes, seed=seed, **of_train)
    with tempfile.TemporaryDirectory() as folder:
        return vit.train(model, data, config, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    data = hold_out(vit.load_dataset(args.data))
    rows = []
    for name in args.only:
        row = {"change": name}
        for seed in args.seeds:
            result = run(name, data, args.passes, seed)
            row[f"seed {seed}, %"] = round(100 * result.accuracy, 1)
        row["training images, %"] = round(100 * result.history[-1]["train_accuracy"], 1)
        row["time, min"] = round(result.seconds / 60, 1)
        rows.append(row)
        note = f"{args.passes} passes over {len(data.train):,} images by the model of recipe fast."
        publish("ablation", rows, data=f"training images of {args.data}, the last tenth held out", note=note)


if __name__ == "__main__":
    main()
