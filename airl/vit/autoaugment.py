"""Crop, flip and AutoAugment in batches, on the device where the images live, with a separate draw for every image.

    images = augment(data.images[indices], generator)        # uint8 in, uint8 out

Every decision (offset, flip, sub-policy, sign) is drawn on the CPU from the one `torch.Generator` passed in.
So its state is all there is to save, a GPU draws what a CPU draws, and the CPU knows which images get which operation:
it groups them without ever waiting for the device. Pixels are exactly those of torchvision's functions on uint8
tensors. A call launches some hundreds of small kernels however many images it gets: call it on thousands at a time.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from airl.runtime import to_device

# AutoAugment's CIFAR-10 policy (Cubuk et al. 2019, arXiv:1805.09501): 25 sub-policies of two operations, each with its
# probability and its magnitude bin of 10 (None: the operation has no magnitude).
POLICY = (
    (("Invert", 0.1, None), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, None), ("Equalize", 0.9, None)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, None), ("Equalize", 0.5, None)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, None), ("AutoContrast", 0.4, None)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, None)),
    (("Equalize", 0.2, None), ("AutoContrast", 0.6, None)),
    (("Equalize", 0.2, None), ("Equalize", 0.6, None)),
    (("Color", 0.9, 9), ("Equalize", 0.6, None)),
    (("AutoContrast", 0.8, None), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, None)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, None), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, None), ("Invert", 0.1, None)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None)),
)


def augment(
    images: Tensor, generator: torch.Generator, *, crop_padding: int = 4, flip: bool = True, auto_augment: bool = True
) -> Tensor:
    """The usual training transforms in their usual order: random crop, horizontal flip, AutoAugment.

    images: uint8 (B,3,H,W) on any device; they are not changed. generator: on the CPU. crop_padding: pixels, 0 for no
    crop. Returns uint8 (B,3,H,W) on the same device. Raises ValueError for images of another shape or type.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(f"expected uint8 images of shape (B,3,H,W), got {images.dtype} {tuple(images.shape)}")
    images = images.clone(memory_format=torch.contiguous_format)
    if crop_padding:
        random_crop_(images, generator, crop_padding)
    if flip:
        random_flip_(images, generator)
    if auto_augment:
        random_auto_augment_(images, generator)
    return images


# The three steps change contiguous images in place, as torch's trailing underscore says: fresh memory for a few
# thousand images takes a CPU about as long as the work on them.


def random_crop_(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Pad with `padding` zeros on each side, then cut (H,W) out at a place drawn uniformly for each image."""
    dy, dx = torch.randint(-padding, padding + 1, (2, len(images)), generator=generator)
    return _shift_(_shift_(images, dy, -2), dx, -1)


def random_flip_(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 0.5."""
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return _by_group_(images, flipped.long(), lambda group, *_: group.flip(-1))


def draw_sub_policies(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw for each of `count` images its sub-policy, int64 (count,), an index into POLICY; which of its two operations
    are applied; and which of them get a negative magnitude (if they have a sign): bool (count,2) each."""
    sub_policy = torch.randint(len(POLICY), (count,), generator=generator)
    probability = torch.tensor([[p for _, p, _ in pair] for pair in POLICY])  # (25, 2)
    applied = torch.rand(count, 2, generator=generator) < probability[sub_policy]
    negative = torch.randint(2, (count, 2), generator=generator).bool()
    return sub_policy, applied, negative


def random_auto_augment_(images: Tensor, generator: torch.Generator) -> Tensor:
    """AutoAugment with the CIFAR-10 policy on uint8 (B,3,H,W): each image gets its own sub-policy and draws."""
    names = list(OPS)
    sub_policy, applied, negative = draw_sub_policies(len(images), generator)
    op = torch.tensor([[names.index(name) for name, _, _ in pair] for pair in POLICY])[sub_policy]  # (B, 2)
    bins = torch.tensor([[bin or 0 for _, _, bin in pair] for pair in POLICY])[sub_policy]  # (B, 2)
    op = op * applied  # 0 is Identity
    for step in (0, 1):

        def apply(group: Tensor, k: int, ids: Tensor, step: int = step) -> Tensor:
            return apply_op(group, names[k], bins[ids, step], negative[ids, step])

        _by_group_(images, op[:, step], apply)
    return images


def apply_op(images: Tensor, name: str, bins: Tensor | int = 0, negative: Tensor | bool = False) -> Tensor:
    """One AutoAugment operation (a key of OPS) on each image, uint8 (B,3,H,W), at the image's own magnitude.

    bins: magnitude bin 0..9, int or int64 (B,) on the CPU. negative: bool or bool (B,) on the CPU, whether the
    magnitude's sign is flipped; ignored where there is none. Magnitudes are those of torchvision's AutoAugment.
    """
    if name not in OPS:
        raise ValueError(f"unknown operation {name!r}: expected one of {', '.join(OPS)}")
    height, width = images.shape[-2:]
    start, stop = {
        "ShearX": (0.0, 0.3),
        "ShearY": (0.0, 0.3),
        "TranslateX": (0.0, 150.0 / 331.0 * width),
        "TranslateY": (0.0, 150.0 / 331.0 * height),
        "Rotate": (0.0, 30.0),
        "Solarize": (255.0, 0.0),
    }.get(name, (0.0, 0.9))
    magnitude = torch.linspace(start, stop, 10).double()[bins]  # float32 steps: the same numbers as torchvision's
    if name == "Posterize":
        magnitude = 8 - (torch.arange(10) / 2.25).round()[bins]  # bits kept
    elif name != "Solarize":
        magnitude = torch.where(torch.as_tensor(negative), -magnitude, magnitude)
    return OPS[name](images, magnitude.expand(len(images)))


# The operations: (images uint8 (n,3,H,W), magnitude float64 (n,) on the host) -> uint8 (n,3,H,W).


def invert(images: Tensor, _: Tensor) -> Tensor:
    return ~images


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    mask = 256 - 2 ** (8 - bits.long())
    return images & _per_image(mask.to(torch.uint8), images)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    above = images >= _per_image(threshold.ceil().to(torch.uint8), images)
    return images ^ above.view(torch.uint8) * 255  # x ^ 255 = 255 - x


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    flat = images.flatten(2)
    low, high = (m[..., None, None].float() for m in (flat.amin(2), flat.amax(2)))  # (n, 3, 1, 1)
    constant = low == high
    scale = torch.where(constant, 1.0, 255 / (high - low))
    return _to_uint8((images - low.masked_fill(constant, 0)).mul_(scale))


def equalize(images: Tensor, _: Tensor) -> Tensor:
    levels = images.flatten(2).long()  # (n, 3, HW)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int32, device=images.device)
    counts.scatter_add_(2, levels, counts.new_ones(1, 1, 1).expand_as(levels))
    up_to = counts.cumsum(2, dtype=torch.int32)
    total = levels.shape[2]
    # The brightest level present is left out of the step, as in PIL; where nothing is left, the channel stays as it is.
    step = up_to.masked_fill(up_to == total, 0).amax(2, keepdim=True) // 255
    lut = torch.div(up_to - counts + step // 2, step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    lut = torch.where(step == 0, torch.arange(256, dtype=torch.int32, device=images.device), lut)
    return lut.to(torch.uint8).gather(2, levels).view_as(images)


def brightness(images: Tensor, magnitude: Tensor) -> Tensor:
    return _blend(images, None, magnitude)


def color(images: Tensor, magnitude: Tensor) -> Tensor:
    return _blend(images, _grey(images), magnitude)


def contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    # Sums of integers, so exact in any order up to 2^24 / 255 = 65,793 pixels.
    grey = _grey(images)
    mean = grey.sum((1, 2, 3), keepdim=True, dtype=torch.float32) / grey[0].numel()
    return _blend(images, mean, magnitude)


def sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    if min(images.shape[-2:]) <= 2:
        return images
    level = images.short()
    rows = (level[..., :-2, :] + level[..., 1:-1, :]).add_(level[..., 2:, :])
    box = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:])
    total = box.add_(level[..., 1:-1, 1:-1], alpha=4)
    smooth = images.float()  # the border stays as it is
    smooth[..., 1:-1, 1:-1] = (total / 13).round_()  # n/13 is never half-way, so no rounding error shows
    return _blend(images, smooth, magnitude)


def translate_x(images: Tensor, magnitude: Tensor) -> Tensor:
    return _shift_(images.clone(), -magnitude.long(), -1)


def translate_y(images: Tensor, magnitude: Tensor) -> Tensor:
    return _shift_(images.clone(), -magnitude.long(), -2)


def warp(images: Tensor, magnitude: Tensor, name: str) -> Tensor:
    distinct, which = magnitude.unique(return_inverse=True)
    size = tuple(images.shape[-2:])
    maps = torch.stack([source_map(name, m, size, images.device) for m in distinct.tolist()])  # (K, HW)
    index = maps[to_device(which, images.device)].unsqueeze(1).expand(-1, 3, -1)  # (n, 3, HW)
    return F.pad(images.flatten(2), (0, 1)).gather(2, index).view_as(images)


OPS = {
    "Identity": lambda images, _: images,
    "Invert": invert,
    "Posterize": posterize,
    "Solarize": solarize,
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Brightness": brightness,
    "Color": color,
    "Contrast": contrast,
    "Sharpness": sharpness,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "ShearX": functools.partial(warp, name="ShearX"),
    "ShearY": functools.partial(warp, name="ShearY"),
    "Rotate": functools.partial(warp, name="Rotate"),
}


@functools.lru_cache(maxsize=256)
def source_map(name: str, magnitude: float, size: tuple[int, int], device: torch.device) -> Tensor:
    """Where each output pixel of a shear or rotation comes from, nearest neighbour: int64 (H*W,), H*W meaning outside.

    Made on the CPU in torchvision's float32 arithmetic, so that ties round its way on every device.
    """
    height, width = size
    sin, cos = math.sin(math.radians(magnitude)), math.cos(math.radians(magnitude))
    to_source = {  # rows give source x and y from output (x, y, 1), in pixels from the image's centre
        "ShearX": [[1.0, magnitude, magnitude * height * 0.5], [0.0, 1.0, 0.0]],  # shears fix the top left corner
        "ShearY": [[1.0, 0.0, 0.0], [magnitude, 1.0, magnitude * width * 0.5]],
        "Rotate": [[cos, -sin, 0.0], [sin, cos, 0.0]],
    }[name]
    x = torch.arange(width) - (width - 1) / 2
    y = torch.arange(height) - (height - 1) / 2
    y, x = torch.meshgrid(y, x, indexing="ij")
    output = torch.stack([x, y, torch.ones_like(x)], -1).view(1, -1, 3)
    grid = output @ (torch.tensor([to_source]).mT / torch.tensor([width / 2, height / 2]))  # (1, HW, 2)
    number = torch.arange(1.0, height * width + 1).view(1, 1, height, width)  # from 1, as 0 will mean outside
    source = F.grid_sample(number, grid.view(1, height, width, 2), mode="nearest", align_corners=False)
    return to_device(((source.long() - 1) % (height * width + 1)).flatten(), device)


def _by_group_(images: Tensor, key: Tensor, function: Callable[[Tensor, int, Tensor], Tensor]) -> Tensor:
    """Replace each group of images of the same key by function(group, key, indices), in place.

    key: int64 (B,) on the CPU, 0 for images to leave as they are. indices: where the group's images are, on the CPU.
    """
    most = 128 if images.device.type == "cpu" else len(images)  # a CPU's cache holds about so many at work
    order = key.argsort(stable=True)
    place = to_device(order, images.device)
    stop = 0
    for value, count in zip(*(t.tolist() for t in key.unique(return_counts=True)), strict=True):
        start, stop = stop, stop + count
        for first in range(start, stop, most) if value else ():
            part = slice(first, min(first + most, stop))
            group = function(images.index_select(0, place[part]), value, order[part])
            _words(images).index_copy_(0, place[part], _words(group.contiguous()))
    return images


def _words(images: Tensor) -> Tensor:
    """(n,C,H,W) viewed as (n,-1), int64 where the bytes divide into that: index_copy_ is 5 times as fast on words."""
    flat = images.view(len(images), -1)
    return flat.view(torch.int64) if flat.shape[1] % 8 == 0 else flat


def _shift_(images: Tensor, offset: Tensor, dim: int) -> Tensor:
    """In place, image[..., p] = image[..., p + its offset] along dim -1 or -2, zero outside; offset: int64 (B,)."""
    rest = (0, 0) if dim == -2 else ()
    size = images.shape[dim]
    return _by_group_(images, offset.clamp(-size, size), lambda group, d, _: F.pad(group, (*rest, -d, d)))


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    return to_device(values, images.device)[:, None, None, None]


def _to_uint8(values: Tensor) -> Tensor:
    return values.clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    r, g, b = images.unbind(1)
    return (0.2989 * r + 0.587 * g + 0.114 * b).to(torch.uint8).unsqueeze(1)  # (n, 1, H, W)


def _blend(images: Tensor, other: Tensor | None, magnitude: Tensor) -> Tensor:
    """(1 + magnitude) * images - magnitude * other, each product rounded to float32 as torchvision's; None: black."""
    factor = 1 + magnitude
    blend = images * _per_image(factor.float(), images)
    if other is not None:
        blend += other.float().mul_(_per_image((1 - factor).float(), images))
    return _to_uint8(blend)
