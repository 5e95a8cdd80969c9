"""Oracles: scipy.ndimage for centers of mass, distance transforms and components."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from scipy import ndimage

from airl.scenes import shapes
from airl.seg.seeds import STRATEGIES, PackedMask, box_of, make_seeds


def heat(mask, inside=0.9, outside=0.1):
    return np.where(mask, inside, outside).astype(np.float32)


def blobs(seed, size=(60, 90)):
    """Irregular blotches: smoothed noise above a quantile."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(size), 4)
    return noise > np.quantile(noise, 0.8)


def ring():
    y, x = np.mgrid[:80, :100]
    return np.abs(np.hypot(x - 50, y - 40) - 25) < 6


@pytest.mark.parametrize("seed", range(10))
def test_center_of_mass_is_scipys(seed):
    mask = blobs(seed)
    result = make_seeds(heat(mask))
    assert result.found and (result.coarse == mask).all() and len(result.seeds) == 1
    np.testing.assert_allclose(result.seeds[0].point[::-1], ndimage.center_of_mass(mask), rtol=1e-12)


def test_center_of_mass_of_a_ring_lies_in_its_hole_and_the_interior_does_not():
    mask = ring()
    x, y = make_seeds(heat(mask)).seeds[0].point.round().astype(int)
    assert not mask[y, x]
    x, y = make_seeds(heat(mask), "interior").seeds[0].point.astype(int)
    assert mask[y, x]


@pytest.mark.parametrize("seed", range(10))
def test_interior_is_the_peak_of_scipys_distance_transform(seed):
    mask = blobs(seed)
    x, y = make_seeds(heat(mask), "interior").seeds[0].point.astype(int)
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    assert distance[y, x] == pytest.approx(distance.max(), abs=1e-3)  # OpenCV's is float32


@pytest.mark.parametrize("seed", range(10))
def test_components_are_scipys(seed):
    mask = blobs(seed)
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    areas = ndimage.sum_labels(mask, labels, range(1, count + 1))
    result = make_seeds(heat(mask), "components", min_area=0.01)
    assert len(result.seeds) == (areas >= 0.01 * mask.size).sum()
    found = sorted(seed.region.sum() for seed in result.seeds)
    assert found == sorted(areas[areas >= 0.01 * mask.size])
    for one in result.seeds:
        x, y = one.point.astype(int)
        assert (one.region == (labels == labels[y, x])).all()


def test_components_keep_the_largest_however_small():
    mask = np.zeros((100, 100), bool)
    mask[3, 4] = mask[50, 60:62] = True
    result = make_seeds(heat(mask), "components", min_area=0.5)
    assert len(result.seeds) == 1 and result.seeds[0].point.tolist() in ([60, 50], [61, 50])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("corner", [(0, 0), (3999, 0), (0, 29), (3999, 29)])
def test_one_pixel_in_a_corner_of_a_wide_picture(strategy, corner):
    mask = np.zeros((30, 4000), bool)
    mask[corner[1], corner[0]] = True
    seed = make_seeds(heat(mask), strategy, box=True, negatives=2).seeds[0]
    assert tuple(seed.point) == corner and tuple(seed.box) == corner * 2
    assert len(seed.negatives) and (np.abs(seed.negatives - corner).max(1) <= 1).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_there(strategy):
    for heatmap in (np.zeros((5, 7)), np.full((5, 7), 0.5), np.full((1, 1), 0.2)):
        result = make_seeds(heatmap, strategy)
        assert not result.found and result.seeds == () and not result.coarse.any()
        assert result.peak == heatmap.max() and result.floor == 0.5


def test_a_component_of_exactly_the_least_area_counts():
    mask = np.zeros((100, 100), bool)
    mask[10:20, 10:30] = mask[50:60, 50:60] = mask[80:89, 80:91] = True  # 200, 100 and 99 pixels
    result = make_seeds(heat(mask), "components", min_area=0.01)
    assert [int(seed.region.sum()) for seed in result.seeds] == [200, 100], "the largest first"


def test_the_least_area_is_a_share_of_the_picture():
    mask = np.zeros((200, 200), bool)
    mask[10:30, 10:30] = mask[100, 100:120] = mask[150, 100:119] = True  # 0.0005 of the picture are 20 pixels
    assert [int(seed.region.sum()) for seed in make_seeds(heat(mask), "components").seeds] == [400, 20]


def test_presence_floor():
    heatmap = heat(ring(), inside=0.7)
    assert make_seeds(heatmap, floor=float(heatmap.max())).found, "a peak that reaches the floor is enough"
    assert make_seeds(heatmap, floor=0.6).found
    refused = make_seeds(heatmap, floor=0.8)
    assert not refused.found and refused.coarse.any()
    assert refused.peak == pytest.approx(0.7) and refused.floor == 0.8


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_everything_is_the_object(strategy):
    seed = make_seeds(np.ones((9, 5)), strategy, box=True, negatives=3).seeds[0]
    assert tuple(seed.point) == (2, 4) or strategy != "center_of_mass"
    assert tuple(seed.box) == (0, 0, 4, 8) and seed.negatives.shape == (0, 2)
    assert seed.points.shape == (1, 2) and seed.labels.tolist() == [1]


def test_negatives_lie_apart_and_off_the_object():
    for number in range(10):
        scene = shapes.scene(number, (96, 128), "concave")
        truth = scene.truth(scene.prompt)
        seed = make_seeds(heat(truth), negatives=4).seeds[0]
        assert 1 <= len(seed.negatives) <= 4 and seed.labels.tolist() == [1] + [0] * len(seed.negatives)
        x, y = seed.negatives.astype(int).T
        assert not truth[y, x].any() and len(np.unique(seed.negatives, axis=0)) == len(seed.negatives)
    hole = make_seeds(heat(ring()), negatives=1).seeds[0].negatives[0]
    assert np.hypot(*(hole - (50, 40))) < 2  # of a ring, the middle of its hole


@pytest.mark.parametrize("number", range(6))
def test_negatives_are_as_far_as_can_be_from_the_coarse_mask_and_each_other(number):
    mask = blobs(number)
    seed = make_seeds(heat(mask), "components", box=True, negatives=3).seeds[0]
    x0, y0, x1, y1 = seed.box.astype(int)
    margin = 1 + max(x1 - x0, y1 - y0) // 10
    left, top = max(x0 - margin, 0), max(y0 - margin, 0)
    free = ~mask[top : y1 + margin + 1, left : x1 + margin + 1]
    rows, columns = np.mgrid[: free.shape[0], : free.shape[1]]
    for point in seed.negatives:
        x, y = (point - (left, top)).astype(int)
        depth = ndimage.distance_transform_edt(np.pad(free, 1))[1:-1, 1:-1]
        assert free[y, x] and depth[y, x] == pytest.approx(depth.max(), abs=1e-3)  # OpenCV's is float32
        free &= np.hypot(columns - x, rows - y) > depth[y, x]
    assert len(seed.negatives) == 3


@pytest.mark.parametrize("free", [np.s_[:, 0], np.s_[:, -1], np.s_[0], np.s_[-1]])
def test_negatives_may_lie_at_the_pictures_border(free):
    mask = np.ones((20, 30), bool)
    mask[free] = False
    (point,) = make_seeds(heat(mask), negatives=1).seeds[0].negatives.astype(int)
    assert not mask[point[1], point[0]]


def test_hints_are_given_only_if_asked_for():
    seed = make_seeds(heat(ring())).seeds[0]
    assert seed.negatives.shape == (0, 2) and seed.box is None and seed.points.shape == (1, 2)


def test_packed_masks():
    for size in ((1, 1), (3, 5), (8, 8), (7, 31)):
        mask = np.random.default_rng(0).random(size) < 0.5
        packed = PackedMask.pack(mask)
        assert packed.bits.nbytes == -(-mask.size // 8) and packed.size == size
        assert packed.unpack().dtype == bool and (packed.unpack() == mask).all()


def test_boxes():
    for seed in range(20):
        mask = np.random.default_rng(seed).random((9, 13)) < 0.03
        y, x = np.nonzero(mask)
        assert box_of(mask) == (x.min(), y.min(), x.max(), y.max())
    assert box_of(np.zeros((9, 13), bool)) is None


def test_what_was_seeded_is_not_changed_any_more():
    seeding = make_seeds(heat(ring()))
    for one in (seeding, *seeding.seeds, seeding.seeds[0].packed_region):
        with pytest.raises(FrozenInstanceError):
            setattr(one, next(iter(vars(one))), None)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_flips_carry_over(strategy):
    mask = blobs(3)
    here = make_seeds(heat(mask), strategy)
    there = make_seeds(heat(mask[:, ::-1]), strategy)
    assert len(here.seeds) == len(there.seeds)
    for a, b in zip(here.seeds, there.seeds, strict=True):
        assert (a.region == b.region[:, ::-1]).all()
    if strategy == "center_of_mass":
        assert there.seeds[0].point[0] == pytest.approx(89 - here.seeds[0].point[0])


def test_bad_input():
    with pytest.raises(ValueError, match="'middle'.*center_of_mass, interior, components"):
        make_seeds(np.zeros((4, 4)), "middle")
    with pytest.raises(ValueError, match=r"float \(H, W\).*\(4,\)"):
        make_seeds(np.zeros(4))
    with pytest.raises(ValueError, match="uint8"):
        make_seeds(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="sigmoid"):
        make_seeds(np.full((4, 4), 3.0))
    with pytest.raises(ValueError, match="nan"):
        make_seeds(np.full((4, 4), np.nan))
