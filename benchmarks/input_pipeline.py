"""Images per second of the training input: random crop, flip, AutoAugment (CIFAR-10 policy), normalize.

    python -m benchmarks.input_pipeline [--device cuda] [--images 4096] [--repeats 7]

Every way turns the same random 32x32 images, held in memory, into normalized float32 batches of 128:
- AIRL: `augment` on --chunk images at a time, a sub-policy per image, then `normalize` batch by batch;
- DataLoader: torchvision's transforms on PIL images in a DataLoader with 2 workers, a sub-policy per image, which is
  what public notebooks do (its workers are started before the clock; on a GPU the copy of each batch is included);
- torchvision v2: on each batch as a whole, so all its images get one offset, flip and sub-policy: less work, and
  less variety;
- kornia, where it is installed: on each batch, on float images, as its documentation does.
The ways take turns within each repeat, so that a busy machine slows all of them; the figures are medians, and the
ratios are medians of the ratios within a repeat.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from airl import runtime
from airl.vit.autoaugment import augment
from airl.vit.mixing import normalize
from benchmarks.report import publish
from benchmarks.train_step import seconds_of

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH = 128


def ours(images: Tensor, chunk: int) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)

    def run() -> None:
        for part in images.split(chunk):
            for batch in augment(part, generator).split(BATCH):
                normalize(batch, MEAN, STD)

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


def dataloader(images: Tensor, device: torch.device, workers: int) -> Callable[[], None]:
    dataset = PILImages(images.cpu())
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, num_workers=workers, pin_memory=device.type == "cuda", persistent_workers=True
    )

    def run() -> None:
        for batch, _ in loader:
            batch.to(device, non_blocking=True)

    return run


def on_batches(images: Tensor, transform: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    def run() -> None:
        for batch in images.split(BATCH):
            transform(batch)

    return run


def torchvision_v2(images: Tensor) -> Callable[[], None]:
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


def kornia_batches(images: Tensor) -> Callable[[], None]:
    import kornia.augmentation as K

    transform = torch.nn.Sequential(
        K.RandomCrop(tuple(images.shape[-2:]), padding=4),
        K.RandomHorizontalFlip(),
        K.auto.AutoAugment("cifar10"),
        K.Normalize(MEAN, STD),
    )
    return on_batches(images, lambda batch: transform(batch.float().div_(255)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=4096, help="images per measurement")
    parser.add_argument("--chunk", type=int, default=4096, help="images per call of airl's augment")
    parser.add_argument("--workers", type=int, default=2, help="workers of the DataLoader")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    where = runtime.choose(args.device)
    images = torch.randint(0, 256, (args.images, 3, 32, 32), dtype=torch.uint8).to(where.device)

    each, one = "each image its own draw", "one draw for all its images"
    ways = {
        f"AIRL: {each}": ours(images, args.chunk),
        f"torchvision's transforms in a DataLoader with {args.workers} workers: {each}": dataloader(
            images, where.device, args.workers
        ),
        f"torchvision's v2 transforms on the batch: {one}": torchvision_v2(images),
    }
    try:
        ways["kornia on the batch: one sub-policy for all its images"] = kornia_batches(images)
    except ImportError:
        print("kornia is not installed: left out")
    times = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, run in ways.items():
            times[name].append(seconds_of(run, where, 0))

    ours_first = next(iter(times.values()))
    rows = []
    for name, seconds in times.items():
        ratio = statistics.median(theirs / own for theirs, own in zip(seconds, ours_first, strict=True))
        rate = round(args.images / statistics.median(seconds))
        rows.append({"way": name, "images/s": rate, "AIRL is faster by": None if not rows else round(ratio, 1)})
    data, note = f"{args.images:,} random images of 32x32", f"Medians of {args.repeats} runs, the ways in turn."
    publish("input_pipeline", rows, data=data, note=note, device=args.device)


if __name__ == "__main__":
    main()
