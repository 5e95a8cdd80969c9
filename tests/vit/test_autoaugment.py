"""Augmentation against torchvision (pixels), scipy (chi-square, Kolmogorov-Smirnov tests) and plain slicing.

Pixels are compared with torch.equal. Statistical tests use fixed seeds and fail below p = 1e-3.
"""

import functools
import itertools

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from airl.vit import autoaugment as A

LEAST_P = 1e-3
SIZES = [(32, 32), (24, 40), (33, 17), (2, 7)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=seeded(1))


@functools.cache
def structured_images(height: int, width: int) -> torch.Tensor:
    """Noise, and the images on which the operations have their special cases."""
    images = random_images(10, height, width)
    ramp = torch.arange(height * width).view(height, width) * 255 // max(1, height * width - 1)
    images[1] = 0
    images[2] = 255
    images[3] = torch.tensor([77, 0, 255], dtype=torch.uint8)[:, None, None]  # constant channels
    images[4] = ramp
    images[5] = images[5] // 128 * 255  # black and white
    images[6] = images[6] // 16 + 100  # low contrast
    images[7] = 0
    images[7, :, height // 2, width // 2] = 255  # one bright pixel
    images[8] = images[8] // 2  # dark
    images[9, 0] = 9  # one constant channel among noisy ones
    return images


def by_torchvision(image: torch.Tensor, name: str, bin: int | None, negative: bool) -> torch.Tensor:
    from torchvision.transforms import AutoAugment, InterpolationMode, autoaugment

    magnitudes, signed = AutoAugment()._augmentation_space(10, tuple(image.shape[-2:]))[name]
    magnitude = float(magnitudes[bin].item()) if magnitudes.ndim else 0.0
    magnitude = -magnitude if signed and negative else magnitude
    return autoaugment._apply_op(image, name, magnitude, InterpolationMode.NEAREST, None)


def test_policy_is_torchvisions():
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    assert list(A.POLICY) == AutoAugment()._get_policies(AutoAugmentPolicy.CIFAR10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [name for name in A.OPS if name != "Identity"])
def test_op_equals_torchvision_at_every_bin_and_sign(name, size):
    images = structured_images(*size)
    for bin, negative in itertools.product(range(10), (False, True)):
        expected = torch.stack([by_torchvision(image, name, bin, negative) for image in images])
        assert torch.equal(A.apply_op(images, name, bin, negative), expected), (bin, negative)


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "Sharpness", "Contrast"])
def test_op_equals_torchvision_on_large_images(name):
    images = random_images(2, 200, 224)
    for bin, negative in itertools.product((3, 9), (False, True)):
        expected = torch.stack([by_torchvision(image, name, bin, negative) for image in images])
        assert torch.equal(A.apply_op(images, name, bin, negative), expected), (bin, negative)


@pytest.mark.parametrize("name", list(A.OPS))
def test_op_takes_a_magnitude_for_each_image(name):
    images = random_images(20)
    bins, negative = torch.arange(20) // 2, torch.arange(20) % 2 == 1
    one_by_one = [A.apply_op(images[i : i + 1], name, int(bins[i]), bool(negative[i])) for i in range(20)]
    before = images.clone()
    assert torch.equal(A.apply_op(images, name, bins, negative), torch.cat(one_by_one))
    assert torch.equal(images, before)


def test_sub_policies_are_uniform_and_independent():
    sub_policy, applied, negative = A.draw_sub_policies(50_000, seeded())
    assert stats.chisquare(sub_policy.bincount(minlength=25)).pvalue > LEAST_P
    # Neighbours in a batch, and a sub-policy and its signs and sides, must not be related.
    pairs = torch.zeros(25, 25).index_put_((sub_policy[:-1:2], sub_policy[1::2]), torch.ones(()), accumulate=True)
    assert stats.chi2_contingency(pairs.numpy()).pvalue > LEAST_P
    signs = torch.zeros(25, 4).index_put_(
        (sub_policy, negative[:, 0] * 2 + negative[:, 1]), torch.ones(()), accumulate=True
    )
    assert stats.chi2_contingency(signs.numpy()).pvalue > LEAST_P
    assert stats.chisquare(signs.sum(0)).pvalue > LEAST_P
    assert applied.shape == negative.shape == (50_000, 2)


@pytest.mark.parametrize("step", [0, 1])
def test_operations_are_applied_with_their_probabilities(step):
    sub_policy, applied, _ = A.draw_sub_policies(100_000, seeded(2))
    for i, pair in enumerate(A.POLICY):
        drawn, probability = applied[sub_policy == i, step], pair[step][1]
        # 50 tests (25 sub-policies, 2 steps), so the least p-value is divided by 50.
        assert stats.binomtest(int(drawn.sum()), len(drawn), probability).pvalue > LEAST_P / 50, pair


def test_the_two_operations_are_drawn_independently():
    sub_policy, applied, _ = A.draw_sub_policies(100_000, seeded(3))
    both = applied[sub_policy == 9]  # probabilities 0.6 and 0.6
    table = [[int(((both[:, 0] == a) & (both[:, 1] == b)).sum()) for b in (0, 1)] for a in (0, 1)]
    assert stats.chi2_contingency(table).pvalue > LEAST_P


@pytest.mark.parametrize("size", [(32, 32), (20, 28)])
@pytest.mark.parametrize("count", [1, 300])
def test_augment_equals_torchvision_image_by_image(size, count):
    """The oracle applies torchvision's functions to each image with the decisions drawn from the same stream."""
    from torchvision.transforms import functional as TF

    images = random_images(count, *size)
    ours = A.augment(images, seeded(4))
    generator = seeded(4)
    top, left = torch.randint(-4, 5, (2, count), generator=generator) + 4
    flipped = torch.rand(count, generator=generator) < 0.5
    sub_policy, applied, negative = A.draw_sub_policies(count, generator)
    for i in range(count):
        expected = TF.crop(TF.pad(images[i], [4]), int(top[i]), int(left[i]), *size)
        expected = TF.hflip(expected) if flipped[i] else expected
        for step, (name, _, bin) in enumerate(A.POLICY[sub_policy[i]]):
            if applied[i, step]:
                expected = by_torchvision(expected, name, bin, bool(negative[i, step]))
        assert torch.equal(ours[i], expected), i


@pytest.mark.parametrize("size", [(32, 32), (5, 9)])
def test_crop_draws_each_offset_uniformly(size):
    height, width = size
    image = (torch.arange(3 * height * width) % 255 + 1).to(torch.uint8).view(1, 3, height, width)  # no zeros inside
    crops = A.random_crop_(image.repeat(4000, 1, 1, 1), seeded(5), padding=4)
    padded = F.pad(image[0], (4, 4, 4, 4))
    windows = [padded[:, y : y + height, x : x + width] for y in range(9) for x in range(9)]
    counts = [int((crops == window).flatten(1).all(1).sum()) for window in windows]
    assert sum(counts) == 4000  # every crop is one of the 81, and they all differ
    assert stats.chisquare(counts).pvalue > LEAST_P


@pytest.mark.parametrize("padding", [1, 12])
def test_crop_padding_may_exceed_the_image(padding):
    images = torch.full((200, 3, 8, 8), 255, dtype=torch.uint8)
    crops = A.random_crop_(images, seeded(6), padding)
    filled = (crops == 255).sum((1, 2, 3)) // 3
    sides = [max(0, 8 - abs(d)) for d in range(-padding, padding + 1)]
    assert set(filled.tolist()) <= {a * b for a in sides for b in sides}


def test_flip_mirrors_half_of_the_images():
    images = random_images(4000, 4, 6)
    flipped = A.random_flip_(images.clone(), seeded(7))
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert torch.equal(flipped[~mirrored], images[~mirrored])
    assert stats.binomtest(int(mirrored.sum()), 4000, 0.5).pvalue > LEAST_P


def test_stages_can_be_switched_off():
    images = random_images(50)
    off = {"crop_padding": 0, "flip": False, "auto_augment": False}
    assert torch.equal(A.augment(images, seeded(), **off), images)
    assert torch.equal(A.augment(images, seeded(), **off | {"flip": True}), A.random_flip_(images.clone(), seeded()))
    cropped = A.augment(images, seeded(), **off | {"crop_padding": 3})
    assert torch.equal(cropped, A.random_crop_(images.clone(), seeded(), 3))
    changed = A.augment(images, seeded(), **off | {"auto_augment": True})
    assert torch.equal(changed, A.random_auto_augment_(images.clone(), seeded()))


def test_generator_state_decides_everything():
    images, generator = random_images(200), seeded(8)
    state = generator.get_state()
    first = A.augment(images, generator)
    second = A.augment(images, generator)
    generator.set_state(state)
    assert torch.equal(A.augment(images, generator), first)
    assert torch.equal(A.augment(images, generator), second)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_input_is_not_modified(layout):
    images = random_images(300).contiguous(memory_format=layout)
    before = images.clone()
    result = A.augment(images, seeded(9))
    assert torch.equal(images, before)
    assert torch.equal(result, A.augment(before.contiguous(), seeded(9)))


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 3, 8, 8), torch.float32), ((2, 1, 8, 8), torch.uint8), ((3, 8, 8), torch.uint8)]
)
def test_wrong_images_are_refused(shape, dtype):
    images = torch.zeros(shape, dtype=dtype)
    with pytest.raises(ValueError, match=r"uint8 images of shape \(B,3,H,W\)"):
        A.augment(images, seeded())


def test_unknown_operation_is_refused():
    with pytest.raises(ValueError, match="'Blur'.*Equalize"):
        A.apply_op(random_images(1), "Blur")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_same_pixels_without_waiting():
    images = random_images(500)
    expected = A.augment(images, seeded(13))
    on_gpu = images.cuda()
    A.augment(on_gpu, seeded(13))  # fills the cache of source maps
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours = A.augment(on_gpu, seeded(13))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(ours.cpu(), expected)
