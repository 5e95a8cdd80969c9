"""Wall time to 60%, 70% and 80% test accuracy: a recipe of AIRL, or what a user would write instead.

    python benchmarks/time_to_accuracy.py --data DIR --way fast
    python benchmarks/time_to_accuracy.py --data DIR --way timm --epochs 12

DIR is an image folder (train/<class>/, test/<class>/) or "cifar10". The way "timm" is timm's VisionTransformer of the
size of recipe `--size`, torchvision's crop and flip in a DataLoader with 2 workers, AdamW and a cosine, under the
autocast that suits the hardware; it is scored four times an epoch, a recipe once. Time counts from the first
training step and includes the scoring. On a CPU run two ways side by side, each pinned to cores of its own:

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/time_to_accuracy.py ...
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

MARKS = (0.6, 0.7, 0.8)


def run_recipe(config: TrainConfig, data: Dataset) -> list[tuple[float, float, float]]:
    """Train by a recipe -> for each scoring, (seconds since the start, passes over the images, test accuracy)."""
    torch.manual_seed(config.seed)
    with tempfile.TemporaryDirectory() as folder:
        result = vit.train(vit.ViT(MODELS[config.name]), data, config, folder)
    seconds, curve = 0.0, []
    for row in result.history:
        seconds += row["seconds"]
        curve.append((seconds, row["epoch"], row["test_accuracy"]))
    return curve


def run_timm(data: Dataset, size: str, epochs: int, seed: int) -> list[tuple[float, float, float]]:
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
    return curve


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
        curve = run_timm(data, args.size, args.epochs or 200, args.seed)
    else:
        config = RECIPES[args.way]
        config = replace(config, epochs=args.epochs or config.epochs, seed=args.seed)
        curve = run_recipe(config, data)

    print(f"{runtime.choose()}, torch {torch.__version__}, {data.name}")
    print(f"| way | {' | '.join(f'{mark:.0%}' for mark in MARKS)} | end | passes | time |\n|{' --- |' * 7}")
    cells = []
    for mark in MARKS:
        reached = next((seconds for seconds, _, accuracy in curve if accuracy >= mark), None)
        cells.append("not reached" if reached is None else f"{reached / 60:.1f} min")
    seconds, passes, accuracy = curve[-1]
    print(f"| {args.way} | {' | '.join(cells)} | {accuracy:.2%} | {passes:g} | {seconds / 60:.1f} min |")
    print(" ".join(f"({seconds / 60:.1f} min, {passes:.2f}, {accuracy:.2%})" for seconds, passes, accuracy in curve))


if __name__ == "__main__":
    main()
