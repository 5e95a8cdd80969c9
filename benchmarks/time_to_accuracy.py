"""Wall time to 60%, 70%, 80%, 85% and 90% test accuracy: a recipe of AIRL, or what a user would write instead.

    python -m benchmarks.time_to_accuracy --data DIR --way fast
    python -m benchmarks.time_to_accuracy --data DIR --way timm --epochs 12

DIR is an image folder (train/<class>/, test/<class>/) or "cifar10". The way "timm" is timm's VisionTransformer of the
size of recipe `--size`, torchvision's crop and flip in a DataLoader with 2 workers, AdamW and a cosine, under the
autocast that suits the hardware; it is scored four times an epoch, a recipe once. Time counts from the first
training step and includes the scoring. On a CPU run two ways side by side, each pinned to cores of its own:

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.time_to_accuracy ...
"""

import argparse
import math
import tempfile
import time
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision import transforms

from airl import runtime, vit
from airl.vit.data import Dataset, Split
from airl.vit.recipes import MODELS, RECIPES, TrainConfig
from benchmarks.report import publish

MARKS = (0.6, 0.7, 0.8, 0.85, 0.9)


Curve = list[tuple[float, float, float]]  # for each scoring: seconds since the start, passes, test accuracy


def run_recipe(config: TrainConfig, data: Dataset) -> tuple[Curve, int]:
    """Train by a recipe -> its curve and the model's number of parameters."""
    torch.manual_seed(config.seed)
    with tempfile.TemporaryDirectory() as folder:
        result = vit.train(vit.ViT(MODELS[config.name]), data, config, folder)
    seconds, curve = 0.0, []
    for row in result.history:
        seconds += row["seconds"]
        curve.append((seconds, row["epoch"], row["test_accuracy"]))
    return curve, result.model.num_parameters


def run_timm(data: Dataset, size: str, epochs: int, seed: int) -> tuple[Curve, int]:
    """Train as a user would -> the same as `run_recipe`."""
    from timm.models import VisionTransformer

    torch.manual_seed(seed)
    here, c = runtime.choose(), MODELS[size]
    model = VisionTransformer(
        img_size=32, patch_size=4, num_classes=10, embed_dim=c.dim, depth=c.depth, num_heads=c.heads
    ).to(here.device)
    mean, std = data.mean_std()
    augment = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    loader = DataLoader(
        _Augmented(data.train, augment),
        batch_size=128,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
    )
    test = (data.test.images.float() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05, fused=True)
    steps = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    scaler, curve, step, start = here.grad_scaler(), [], 0, time.perf_counter()
    for _ in range(epochs):
        for x, y in loader:
            model.train()
            with here.autocast():
                logits = model(x.to(here.device))
            loss = F.cross_entropy(logits.float(), y.to(here.device), label_smoothing=0.1)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            schedule.step()
            step += 1
            if step % len(loader) % math.ceil(len(loader) / 4) == 0:
                model.eval()
                with torch.inference_mode(), here.autocast():
                    answers = [model(part.to(here.device)).argmax(dim=1).cpu() for part in test.split(500)]
                right = (torch.cat(answers) == data.test.labels).float().mean().item()
                curve.append((time.perf_counter() - start, step / len(loader), right))
                print(f"{curve[-1][0] / 60:.1f} min, {curve[-1][1]:.2f} passes: {right:.2%}", flush=True)
    return curve, sum(parameter.numel() for parameter in model.parameters())


class _Augmented(torch.utils.data.Dataset):
    def __init__(self, split: Split, augment: transforms.Compose):
        self.split, self.augment = split, augment

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.augment(self.split.images[index]), int(self.split.labels[index])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--way", default="fast", choices=[*RECIPES, "timm"])
    parser.add_argument("--size", default="fast", choices=MODELS, help="of timm's model; a recipe has its own")
    parser.add_argument("--epochs", type=int, help="the recipe's own unless given")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = vit.load_dataset(args.data)
    if args.way == "timm":
        curve, parameters = run_timm(data, args.size, args.epochs or 200, args.seed)
    else:
        config = RECIPES[args.way]
        config = replace(config, epochs=args.epochs or config.epochs, seed=args.seed)
        curve, parameters = run_recipe(config, data)

    seconds, passes, accuracy = curve[-1]
    row = {"way": args.way, "parameters, M": round(parameters / 1e6, 1)}
    for mark in MARKS:
        reached = next((seconds for seconds, _, accuracy in curve if accuracy >= mark), None)
        row[f"to {mark:.0%}, min"] = reached and round(reached / 60, 1)
    row |= {
        "test accuracy at the end, %": round(100 * accuracy, 2),
        "passes": passes,
        "time, min": round(seconds / 60, 1),
    }
    note = f"{runtime.choose().precision}, seed {args.seed}."
    publish("time_to_accuracy", [row], data=args.data, note=note)
    print(" ".join(f"({seconds / 60:.1f} min, {passes:.2f}, {accuracy:.2%})" for seconds, passes, accuracy in curve))


if __name__ == "__main__":
    main()
