"""Oracles: SciPy's labelling of connected parts, a picture cut out by hand, and scenes whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from airl import seg
from airl.scenes import shapes
from airl.seg import tiles
from airl.seg.metrics import iou
from airl.seg.seeds import make_seeds


@pytest.mark.parametrize("size", [(300, 500), (64, 65), (1000, 64), (40, 200)])
def test_cover_holds_every_small_box_and_no_more_than_the_picture(size):
    cover = tiles.cover(size, 64)
    owned = np.zeros(size, int)
    for tile in cover:
        assert owned[tile].shape == tuple(min(64, side) for side in size)
        owned[tile] += 1
    assert owned.min() >= 1
    rng = np.random.default_rng(0)
    for _ in range(200):  # a box of up to half a tile is whole in one of them
        extent = np.minimum(rng.integers(1, 33, 2), size)
        low = rng.integers(0, np.subtract(size, extent) + 1)
        assert any(
            all(s.start <= a and a + n <= s.stop for s, a, n in zip(tile, low, extent, strict=True)) for tile in cover
        )


def test_no_tiles_for_a_picture_no_larger_than_one():
    assert tiles.cover((64, 60), 64) == tiles.cover((640, 600), 0) == []


@pytest.mark.parametrize("seed", range(20))
def test_of_a_tile_what_its_border_does_not_cut_is_taken(seed):
    size, rng = (90, 90), np.random.default_rng(seed)
    tile = [np.s_[0:60, 30:90], np.s_[15:75, 0:60], np.s_[30:90, 30:90]][seed % 3]
    heatmap = ndimage.gaussian_filter(rng.random((60, 60)), 2).astype(np.float32)
    heatmap = (heatmap - heatmap.min()) / np.ptp(heatmap)
    joined = tiles.join(np.zeros((60, 60), np.float32), [(tile, heatmap)], size, threshold=0.6, floor=0.8)

    open_rows = [r for r, at_border in ((0, tile[0].start == 0), (59, tile[0].stop == 90)) if not at_border]
    open_columns = [c for c, at_border in ((0, tile[1].start == 0), (59, tile[1].stop == 90)) if not at_border]
    labels, count = ndimage.label(heatmap > 0.6, np.ones((3, 3)))
    expected = np.zeros((60, 60), bool)
    for label in range(1, count + 1):
        part = labels == label
        if heatmap[part].max() >= 0.8 and not part[open_rows].any() and not part[:, open_columns].any():
            expected |= part
    np.testing.assert_array_equal(joined[tile] > 0.6, expected)
    outside = np.ones(size, bool)
    outside[tile] = False
    assert not joined[outside].any()


def test_the_whole_pictures_map_is_taken_if_it_reaches_the_floor_or_nothing_else_does():
    spot, tile = np.zeros((32, 32), np.float32), np.s_[0:32, 0:32]
    spot[10:14, 10:14] = 0.9
    faint = np.full((32, 32), 0.4, np.float32)
    assert tiles.join(faint, [(tile, spot)], (64, 64), 0.3, 0.5)[40, 40] == 0
    assert tiles.join(faint, [(tile, spot * 0.4)], (64, 64), 0.3, 0.5)[40, 40] == pytest.approx(0.4)
    sure = np.full((32, 32), 0.6, np.float32)
    joined = tiles.join(sure, [(tile, spot)], (64, 64), 0.3, 0.5)
    assert joined[40, 40] == pytest.approx(0.6) and joined[12, 12] == pytest.approx(0.9)


@pytest.fixture(scope="module")
def large():
    """A scene of 600 x 500 pixels whose objects are some 10 to 20 pixels large."""
    return shapes.scene(4, (500, 600), "several", scale=0.1)


@pytest.fixture(scope="module")
def segmenter():
    return seg.TextSegmenter.tiny("best", device="cpu")


def test_small_things_are_found_by_tiles_alone(segmenter, large):
    truth = large.truth(large.prompt)
    whole = segmenter(large.image, large.prompt)
    tiled = segmenter(large.image, large.prompt, tile=128)
    assert iou(whole.mask, truth) < 0.2
    assert iou(tiled.mask, truth) > 0.6
    assert len(tiled.instances) > 2 and all((one.mask & truth).any() for one in tiled.instances)
    assert tiled.heatmap.shape == truth.shape


def test_sam_sees_a_small_thing_on_its_tile(segmenter, large):
    """The same as with the tile as a picture of its own."""
    one = segmenter(large.image, large.prompt, tile=128)
    cover = tiles.cover(large.image.shape[:2], 128)
    for seed, candidates in zip(one.seeds, one.candidates, strict=True):
        tile = cover[tiles.number_of(seed, cover)]
        segmenter.sam.set_image(np.ascontiguousarray(large.image[tile]))
        alone = segmenter.sam.predict(tiles.crop(seed, tile))
        np.testing.assert_allclose(candidates.scores, alone.scores, atol=1e-4)  # SAM's decoder by the batch: fp32
        for i in range(3):
            expected = np.zeros(large.image.shape[:2], bool)
            expected[tile] = alone.mask(i)
            assert (candidates.mask(i) != expected).mean() < 1e-4
    segmenter._seen = None  # the test set another


def test_a_small_thing_is_corrected_on_its_tile(segmenter, large):
    """What is asked again is what a tile as a picture of its own is asked."""
    one = segmenter(large.image, large.prompt, tile=128)
    tile, point = one.candidates[0].tile, one.instances[0].point
    x, y = point
    corrected = segmenter.refine(one, add=[point])
    changed = next(c for c, seed in zip(corrected.candidates, corrected.seeds, strict=True) if len(seed.added))
    assert changed.tile == tile
    segmenter.sam.set_image(np.ascontiguousarray(large.image[tile]))
    seed = replace(tiles.crop(one.seeds[0], tile), box=None, added=np.array([[x - tile[1].start, y - tile[0].start]]))
    before = one.candidates[0].enlarge(one.candidates[0].logits[one.chosen[0]])[tile]
    alone = [segmenter.sam.predict(seed, before), segmenter.sam.predict(seed)]
    np.testing.assert_allclose(changed.scores, np.concatenate([c.scores for c in alone]), atol=1e-4)  # fp32
    segmenter._seen = None  # the test set another
    assert iou(corrected.mask, large.truth(large.prompt)) > iou(one.mask, large.truth(large.prompt)) - 0.05


def test_a_point_beyond_the_tile_is_answered_on_the_whole_picture(segmenter, large):
    one = segmenter(large.image, large.prompt, tile=128)
    rows, columns = one.candidates[0].tile
    H, W = large.image.shape[:2]
    beyond = (0 if columns.start else W - 1, 0 if rows.start else H - 1)
    corrected = segmenter.refine(
        replace(one, seeds=one.seeds[:1], candidates=one.candidates[:1], chosen=one.chosen[:1]), remove=[beyond]
    )
    assert corrected.candidates[0].tile is None


@pytest.mark.parametrize("mask_prompt", [False, True])
def test_prompts_together_are_as_one_by_one(segmenter, large, mask_prompt):
    prompts = [large.prompt, "a red circle", "the blue object"]
    together = segmenter(large.image, prompts, tile=128, mask_prompt=mask_prompt)
    for prompt, one in zip(prompts, together, strict=True):
        alone = segmenter(large.image, prompt, tile=128, mask_prompt=mask_prompt)
        assert one.found == alone.found
        assert (one.mask != alone.mask).mean() < 1e-4


def test_the_whole_picture_is_as_before_after_tiles(segmenter, large):
    segmenter.set_image(large.image)
    before = segmenter.segment("a star")
    segmenter.segment("a star", tile=128)
    after = segmenter.segment("a star")
    np.testing.assert_array_equal(before.probabilities, after.probabilities)
    np.testing.assert_array_equal(before.mask, after.mask)


def test_a_picture_smaller_than_a_tile_is_as_without(segmenter):
    scene = shapes.scene(1, (128, 128), "convex")
    with_tiles, without = (segmenter(scene.image, scene.prompt, tile=tile) for tile in (128, 0))
    np.testing.assert_array_equal(with_tiles.mask, without.mask)


def test_a_large_thing_is_asked_of_the_whole_picture():
    heatmap = np.zeros((200, 200), np.float32)
    heatmap[20:150, 20:150] = 1
    (seed,) = make_seeds(heatmap).seeds
    assert tiles.number_of(seed, tiles.cover((200, 200), 64)) is None


@pytest.mark.parametrize("tile", [-1, 1.5, "352"])
def test_a_tile_that_is_none(tile):
    with pytest.raises(ValueError, match="tile is .*whole number of pixels"):
        seg.Recipe(tile=tile)
