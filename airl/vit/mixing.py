"""Bytes to normalised floats, and what mixes or erases them: random erasing, mixup, CutMix, a draw for every image.

    batch = normalize(images, mean, std)                     # uint8 in, float32 out
    batch = random_erasing(batch, generator, probability=0.25)
    batch, targets = mix(batch, labels, generator, num_classes=10, mixup_alpha=0.8, cutmix_alpha=1.0)

As in `autoaugment`, every decision is drawn on the CPU from the generator passed in; nothing waits for the
device.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from airl.runtime import to_device


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images / 255 - mean) / std per channel: uint8 (B,C,H,W) -> float32. mean, std: C numbers, for values in 0..1."""
    mean, std = torch.tensor([mean, std], dtype=torch.float64)
    scale, offset = to_device(torch.stack([1 / (255 * std), mean / std]).float(), images.device)[..., None, None]
    return images.float().mul_(scale).sub_(offset)


def random_erasing(
    images: Tensor,
    generator: torch.Generator,
    probability: float,
    area: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> Tensor:
    """Random erasing (Zhong et al. 2017, arXiv:1708.04896): with `probability`, an image loses a box to zeros, which
    is the mean colour in normalized images.

    images: float (B,C,H,W), normalized. area: the box's share of the image, drawn uniformly. ratio: its height over
    its width, drawn log-uniformly. As in torchvision, the first of ten draws that fits inside is taken; else none.
    """
    (count, _, height, width), tries = images.shape, 10
    erased = torch.rand(count, generator=generator) < probability
    pixels = height * width * torch.empty(count, tries).uniform_(*area, generator=generator)
    aspect = torch.empty(count, tries).uniform_(math.log(ratio[0]), math.log(ratio[1]), generator=generator).exp()
    box = torch.stack([(pixels * aspect).sqrt().round(), (pixels / aspect).sqrt().round()]).long()  # (2, B, tries)
    fits = (box[0] < height) & (box[1] < width)
    first = fits.int().argmax(1)
    box = box[:, torch.arange(count), first] * (erased & fits.any(1))  # (2, B)
    room = torch.tensor([[height], [width]]) - box + 1
    corner = (torch.rand(2, count, generator=generator) * room).long()
    return images.masked_fill(_box(corner, corner + box, images), 0.0)


def mix(
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    num_classes: int,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    probability: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2017, arXiv:1710.09412) or CutMix (Yun et al. 2019, arXiv:1905.04899), one draw per image.

    With `probability` an image is mixed with another of the batch: blended by a share drawn from Beta(alpha, alpha),
    or given a box of it; where both alphas are above 0, either with equal chance. images: float (B,C,H,W), labels:
    int64 (B,). Returns mixed images and targets, float32 (B,num_classes), whose weights are the two images' shares of
    the pixels: `F.cross_entropy(logits, targets, label_smoothing=...)`.
    """
    if mixup_alpha <= 0 and cutmix_alpha <= 0:
        raise ValueError(f"mixup_alpha {mixup_alpha} and cutmix_alpha {cutmix_alpha}: at least one must be above 0")
    count, _, height, width = images.shape
    mixed, chance, *centre = torch.rand(4, count, generator=generator)
    partner = torch.randperm(count, generator=generator)
    seed = int(torch.randint(2**63 - 1, (), generator=generator))  # torch's Beta takes no generator, NumPy's does
    cut = chance < (1.0 if mixup_alpha <= 0 else 0.5 if cutmix_alpha > 0 else 0.0)
    alpha = torch.where(cut, cutmix_alpha, mixup_alpha)
    share = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha))  # (B,) float64, what an image keeps
    share = share.masked_fill(mixed >= probability, 1.0)

    size = torch.tensor([[height], [width]])
    half = (size * (1 - share).sqrt()).long() // 2
    centre = (torch.stack(centre) * size).long()  # (2, B)
    first, last = (centre - half).clamp(min=0), (centre + half).minimum(size)
    last = torch.where(cut, last, first)  # mixup: an empty box
    weight = share.masked_fill(cut, 1.0)
    share = weight - (last - first).prod(0) / (height * width)

    partner, weight, share = (to_device(t, images.device) for t in (partner, weight.float(), share.float()))
    weight = weight[:, None, None, None].masked_fill(_box(first, last, images), 0.0)  # (B, 1, H, W)
    one_hot = F.one_hot(labels, num_classes).float()  # (B, num_classes)
    targets = torch.lerp(one_hot[partner], one_hot, share[:, None])
    return torch.lerp(images[partner], images, weight.to(images.dtype)), targets


def _box(first: Tensor, last: Tensor, images: Tensor) -> Tensor:
    """bool (B,1,H,W): inside rows first[0] to last[0] - 1 and columns first[1] to last[1] - 1; first, last: (2,B)."""
    first, last = to_device(torch.stack([first, last]), images.device)[..., None]  # (2, B, 1)
    row, column = (torch.arange(n, device=images.device) for n in images.shape[-2:])
    rows = (row >= first[0]) & (row < last[0])  # (B, H)
    columns = (column >= first[1]) & (column < last[1])  # (B, W)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
