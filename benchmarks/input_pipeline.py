"""Images per second of the training input: random crop, flip, AutoAugment (CIFAR-10 policy), normalize.

    python benchmarks/input_pipeline.py [--device cuda] [--images 4096] [--repeats 7]

Every way turns the same random 32x32 images, held in memory, into normalized float32 batches of 128:
- airl: `augment` on --chunk images at a time, a sub-policy per image, then `normalize` batch by batch;
- DataLoader: torchvision's transforms on PIL images in a DataLoader with 2 workers, a sub-policy per image, which is
  what public notebooks do (its workers are started before the clock; on a GPU the copy of each batch is included);
- torchvision v2: on each batch as a whole, so all its images get one offset, flip and sub-policy: less work, and
  less variety;
- kornia, where it is installed: on each batch, on float images, as its documentation does.
The ways take turns within each repeat, so that a busy machine slows all of them; the table gives medians, and the
ratios are medians of the ratios within a repeat.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from airl.vit.autoaugment import augment
from airl.vit.mixing import normalize

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH = 128


def ours(images: Tensor, chunk: int) -> Callable[[], int]:
    generator = torch.Generator().manual_seed(0)

    def run() -> int:
        for part in images.split(chunk):
            for batch in augment(part, generator).split(BATCH):
                normalize(batch, MEAN, STD)
        return len(images)

    return run


class PILImages(torch.utils.data.Dataset):
    """The images as torchvision's CIFAR10 holds them, with the usual transforms."""

    def __init__(self, images: Tensor):
        from torchvision import transforms as T

        self.arrays = images.permute(0, 2, 3, 1).contiguous().numpy()  # (N, H, W, 3)
        self.transform = T.Compose(
            [
                T.RandomCrop(images.shape[-2:], padding=4),
                T.RandomHorizontalFlip(),
                T.AutoAugment(T.AutoAugmentPolicy.CIFAR10),
                T.ToTensor(),
                T.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.arrays[i])), 0


def dataloader(images: Tensor, device: torch.device, workers: int) -> Callable[[], int]:
    dataset = PILImages(images.cpu())
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, num_workers=workers, pin_memory=device.type == "cuda", persistent_workers=True
    )

    def run() -> int:
        for batch, _ in loader:
            batch.to(device, non_blocking=True)
        return len(dataset)

    return run


def on_batches(images: Tensor, transform: Callable[[Tensor], Tensor]) -> Callable[[], int]:
    def run() -> int:
        for batch in images.split(BATCH):
            transform(batch)
        return len(images)

    return run


def torchvision_v2(images: Tensor) -> Callable[[], int]:
    from torchvision.transforms import v2

    return on_batches(
        images,
        v2.Compose(
            [
                v2.RandomCrop(images.shape[-2:], padding=4),
                v2.RandomHorizontalFlip(),
                v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        ),
    )


def kornia_batches(images: Tensor) -> Callable[[], int]:
    import kornia.augmentation as K

    transform = torch.nn.Sequential(
        K.RandomCrop(tuple(images.shape[-2:]), padding=4),
        K.RandomHorizontalFlip(),
        K.auto.AutoAugment("cifar10"),
        K.Normalize(MEAN, STD),
    )
    return on_batches(images, lambda batch: transform(batch.float().div_(255)))


def seconds_per_image(run: Callable[[], int], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    count = run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def machine(device: torch.device) -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((s.split(":")[1].strip() for s in info.read_text().splitlines() if "model name" in s), cpu)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu}, {cores} cores, torch {torch.__version__}, device: {name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=4096, help="images per measurement")
    parser.add_argument("--chunk", type=int, default=4096, help="images per call of airl's augment")
    parser.add_argument("--workers", type=int, default=2, help="workers of the DataLoader")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    device = torch.device(args.device)
    images = torch.randint(0, 256, (args.images, 3, 32, 32), dtype=torch.uint8).to(device)

    ways = {
        f"airl, {args.chunk} at a time": ours(images, args.chunk),
        f"torchvision, DataLoader, {args.workers} workers": dataloader(images, device, args.workers),
        "torchvision v2, one draw per batch": torchvision_v2(images),
    }
    try:
        ways["kornia, on the batch"] = kornia_batches(images)
    except ImportError:
        print("kornia is not installed: left out")
    for run in ways.values():
        run()  # starts workers, fills caches
    times = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, run in ways.items():
            times[name].append(seconds_per_image(run, device))

    print(machine(device))
    print(f"{'crop + flip + AutoAugment + normalize':42s} {'images/s':>12s} {'airl is faster by':>18s}")
    first = next(iter(times.values()))
    for name, seconds in times.items():
        ratio = statistics.median(theirs / own for theirs, own in zip(seconds, first, strict=True))
        print(f"{name:42s} {1 / statistics.median(seconds):12,.0f} {ratio:17.1f}x")


if __name__ == "__main__":
    main()
