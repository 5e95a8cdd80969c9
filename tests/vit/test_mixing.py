"""Erasing and mixing against torchvision and scipy; statistical tests use fixed seeds and fail below p = 1e-3."""

import math

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from airl.vit import mixing as M

LEAST_P = 1e-3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_normalize_equals_torchvision():
    from torchvision.transforms import functional as TF

    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=seeded(1))
    expected = TF.normalize(TF.convert_image_dtype(images, torch.float32), mean, std)
    ours = M.normalize(images, mean, std)
    assert ours.dtype == torch.float32
    # |values| < 3, and the two round at different places: a few float32 steps of 2.4e-7.
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def boxes(erased: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Height and width of the zeroed box in each of (B,1,H,W), checked to be a full rectangle."""
    zero = erased[:, 0] == 0
    height, width = zero.any(2).sum(1), zero.any(1).sum(1)
    assert torch.equal(zero.sum((1, 2)), height * width)
    return height, width


def test_erasing_draws_boxes_as_torchvision():
    from torchvision.transforms import RandomErasing

    images = torch.ones(4000, 1, 32, 32)
    ours = M.random_erasing(images, seeded(10), probability=1.0)
    assert torch.equal(images, torch.ones_like(images))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transform = RandomErasing(p=1.0, value=0)
        theirs = torch.stack([transform(image) for image in images])
    (h, w), (their_h, their_w) = boxes(ours), boxes(theirs)
    assert max(h.max(), w.max()) < 32  # torchvision draws again where a box is as long as the image
    for a, b in ((h * w, their_h * their_w), (h / w, their_h / their_w)):
        assert stats.ks_2samp(a, b).pvalue > LEAST_P
    for a, b in ((ours, theirs), (ours.mT, theirs.mT)):  # where the boxes lie: the first erased row, column
        first, their_first = ((x[:, 0] == 0).any(2).int().argmax(1) for x in (a, b))
        assert stats.ks_2samp(first, their_first).pvalue > LEAST_P


def test_erased_boxes_lie_wholly_inside_and_reach_every_border():
    erased = M.random_erasing(torch.ones(500, 1, 8, 8), seeded(12), 1.0, area=(0.25, 0.25), ratio=(1.0, 1.0))
    assert all((side == 4).all() for side in boxes(erased))
    for x in (erased, erased.mT):
        assert (x[:, 0] == 0).any(2).int().argmax(1).unique().tolist() == [0, 1, 2, 3, 4]


def test_erasing_probability_and_per_image_boxes():
    erased = M.random_erasing(torch.ones(4000, 3, 16, 24), seeded(11), probability=0.25)
    assert torch.equal(erased[:, 0], erased[:, 1]) and torch.equal(erased[:, 0], erased[:, 2])
    hit = (erased == 0).flatten(1).any(1)
    assert stats.binomtest(int(hit.sum()), 4000, 0.25).pvalue > LEAST_P
    assert len(erased[hit].unique(dim=0)) > 500


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixed_labels_are_the_pixel_shares(mixup, cutmix):
    """A pixel's channel is the number of the image it is from, so pixels say how much of which images a mix holds."""
    count = 1000
    images = torch.eye(count)[:, :, None, None].expand(-1, -1, 8, 12)
    labels = torch.arange(count)
    mixed, targets = M.mix(
        images, labels, seeded(12), num_classes=count, mixup_alpha=mixup, cutmix_alpha=cutmix, probability=0.7
    )
    # Shares are sums of at most 96 float32 pixels.
    torch.testing.assert_close(targets, mixed.mean((2, 3)), rtol=0, atol=1e-5)
    torch.testing.assert_close(targets.sum(1), torch.ones(count), rtol=0, atol=1e-6)
    whole = ((mixed == 0) | (mixed == 1)).flatten(1).all(1)
    kept = targets.diagonal()
    touched = kept < 1
    if not cutmix:
        assert not (whole & touched).any()
        # With probability 0.7; a mix with itself (1 in 1000) or a share that rounds to 1 is not seen as one.
        assert abs(touched.float().mean() - 0.7) < 4 * math.sqrt(0.7 * 0.3 / count) + 0.01
        assert stats.kstest(kept[touched], stats.beta(0.8, 0.8).cdf).pvalue > LEAST_P
    elif not mixup:
        assert whole.all()
        rows = (mixed.diagonal(dim1=0, dim2=1) == 0).permute(2, 0, 1)  # (count, 8, 12): the box
        assert torch.equal(rows.sum((1, 2)), rows.any(2).sum(1) * rows.any(1).sum(1))
    else:
        blended = int((~whole).sum())
        assert stats.binomtest(blended, count, 0.35).pvalue > LEAST_P  # half of 0.7
        assert (whole & touched).sum() > 100


def test_targets_take_label_smoothing():
    labels = torch.randint(0, 10, (64,), generator=seeded())
    logits = torch.randn(64, 10, generator=seeded())
    images = torch.randn(64, 3, 8, 8, generator=seeded())
    same, targets = M.mix(images, labels, seeded(), num_classes=10, mixup_alpha=1.0, probability=0.0)
    assert torch.equal(same, images)
    torch.testing.assert_close(
        F.cross_entropy(logits, targets, label_smoothing=0.1), F.cross_entropy(logits, labels, label_smoothing=0.1)
    )


def test_mix_without_alphas_is_refused():
    with pytest.raises(ValueError, match="at least one must be above 0"):
        M.mix(torch.zeros(2, 3, 4, 4), torch.zeros(2).long(), seeded(), num_classes=2)
