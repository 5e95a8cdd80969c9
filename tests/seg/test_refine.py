"""Oracles: drawn scenes, whose truth is known, and segment-anything's own predictor."""

import numpy as np
import pytest

from airl import seg
from airl.scenes import shapes
from airl.seg import export
from airl.seg.metrics import iou
from airl.seg.seeds import furthest_inside


@pytest.fixture(scope="module")
def segmenter():
    return seg.TextSegmenter.tiny("best", device="cpu")


@pytest.fixture
def scene():
    return shapes.scene(0, (96, 128), "several")


def corrected(one, truth):
    """The innermost pixel of the larger error."""
    missing, extra = truth & ~one.mask, one.mask & ~truth
    kind, wrong = ("add", missing) if missing.sum() >= extra.sum() else ("remove", extra)
    return {kind: [tuple(furthest_inside(wrong))]}


def test_where_nothing_was_found_a_point_is_a_seed(segmenter, scene):
    none = segmenter(scene.image, scene.prompt, floor=1.0)
    for mask in (thing.mask for thing in scene.objects):
        one = segmenter.refine(none, add=[furthest_inside(mask)])
        assert one.found and iou(one.mask, mask) > 0.7 and len(one.instances) == 1
    assert not none.found and none.seeds == (), "the result given is as it was"


def test_an_object_more_and_one_less(segmenter, scene):
    one = segmenter(scene.image, scene.prompt)
    assert len(one.instances) == 2 and iou(one.mask, scene.truth(scene.prompt)) > 0.8
    other = next(thing.mask for thing in scene.objects if not thing.matches(scene.prompt))
    middle = furthest_inside(other)
    more = segmenter.refine(one, add=[middle])
    assert len(more.instances) == 3 and iou(more.mask, one.mask | other) > 0.8
    less = segmenter.refine(more, remove=[middle])
    assert len(less.instances) == 2 and (less.mask == one.mask).all()


def test_points_go_to_the_nearest_instance_with_all_that_sam_was_told(segmenter, monkeypatch):
    scene = shapes.scene(14, (96, 128), "several")
    one = segmenter(scene.image, scene.prompt)
    asked, predict_many = [], segmenter.sam.predict_many

    def spy(seeds, mask_prompts=None):
        asked.append((seeds[0], mask_prompts and mask_prompts[0]))
        return predict_many(seeds, mask_prompts)

    monkeypatch.setattr(segmenter.sam, "predict_many", spy)
    far, near = one.candidates[0].mask(one.chosen[0]), one.candidates[1].mask(one.chosen[1])
    point, beside = furthest_inside(near) + 1, furthest_inside(near) - 1
    two = segmenter.refine(segmenter.refine(one, add=[point]), remove=[beside])
    assert len(asked) == 4 and two.candidates[0] is one.candidates[0], "the other instance is left alone"
    (first, former), (_, no_mask), (last, _), _ = asked
    assert first.points.tolist() == [one.seeds[1].point.tolist(), point.tolist()] and first.labels.tolist() == [1, 1]
    assert last.points.tolist() == [*first.points.tolist(), beside.tolist()] and last.labels.tolist() == [1, 1, 0]
    assert ((former > 0) == near).all() and no_mask is None and (two.instances[0].mask == far).any()
    segmenter.refine(two, add=[point])
    assert asked[4][0].labels.tolist() == [1, 1, 1, 0] and asked[4][0].negatives.tolist() == [beside.tolist()]
    result = two.to_json()["seeds"][1]
    assert result["added"] == [point.tolist()] and result["negatives"] == [beside.tolist()]


def test_sam_is_told_the_points_as_its_own_predictor_is(segmenter, scene):
    one = segmenter(scene.image, scene.prompt)
    point, beside = one.seeds[0].point + 2, np.array(one.instances[0].box[:2], float)  # the box's corner
    two = segmenter.refine(one, add=[point], remove=[beside])
    (i,) = (i for i, c in enumerate(two.candidates) if c is not one.candidates[i])
    own = segmenter.sam.predictor
    told = np.stack([one.seeds[i].point, point, beside])
    masks, scores, _ = own.predict(told, np.array([1, 1, 0]))
    np.testing.assert_allclose(two.candidates[i].scores[3:], scores, atol=1e-5)
    # Enlarged by OpenCV here and by torch there: rounding decides on a pixel or two at a border.
    assert (two.candidates[i].masks[3:] != masks).mean() < 1e-3


def test_another_picture_in_between(segmenter, scene):
    one = segmenter(scene.image, scene.prompt)
    point = [furthest_inside(one.mask)]
    expected = segmenter.refine(one, add=point)
    other = shapes.scene(3, (64, 64))
    segmenter.set_image(other.image)
    assert (segmenter.refine(one, add=point).mask == expected.mask).all()
    again = segmenter.segment(other.prompt)
    assert again.size == (64, 64) and (again.mask == segmenter(other.image, other.prompt).mask).all()


@pytest.mark.parametrize("number, kind", [(5, "touching"), (6, "several"), (13, "several"), (31, "concave")])
def test_a_point_helps_where_a_scene_was_cut_badly(segmenter, number, kind):
    scene = shapes.scene(number, (96, 128), kind)
    truth, one = scene.truth(scene.prompt), segmenter(scene.image, scene.prompt)
    assert iou(one.mask, truth) < 0.8
    assert iou(segmenter.refine(one, **corrected(one, truth)).mask, truth) > iou(one.mask, truth) + 0.1


def test_misuse(segmenter, scene):
    one, absent = segmenter(scene.image, [scene.prompt, "a purple crescent"])
    with pytest.raises(ValueError, match="no point"):
        segmenter.refine(one)
    with pytest.raises(ValueError, match=r"128 x 96.*\[128.0, 5.0\]"):
        segmenter.refine(one, add=[(5, 5), (128, 5)])
    with pytest.raises(ValueError, match="picture"):
        segmenter.refine(one, remove=[(float("nan"), 5)])
    assert not absent.found
    with pytest.raises(ValueError, match="not found.*add a point first"):
        segmenter.refine(absent, remove=[(5, 5)])
    assert export.polygons(segmenter.refine(absent, add=[(5, 5), (9, 9)]).mask) is not None
