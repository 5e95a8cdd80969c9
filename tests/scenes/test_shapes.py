"""Oracles: OpenCV's point-in-polygon distance and convex hulls, SciPy's labelling and dilation."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from airl.scenes import drawing, shapes

SCENES = range(40)


def corners_of_star():
    turns = np.pi / 2 + np.pi / 5 * np.arange(10)
    return [(r * np.cos(t), r * np.sin(t)) for r, t in zip([1, 0.42] * 5, turns, strict=True)]


CORNERS = {  # written out here; the drawing folds symmetric shapes
    "square": [(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)],
    "triangle": [(0, 1), (-0.87, -0.5), (0.87, -0.5)],
    "star": corners_of_star(),
    "cross": [
        *[(0.27, 0.95), (0.27, 0.27), (0.95, 0.27), (0.95, -0.27), (0.27, -0.27), (0.27, -0.95)],
        *[(-0.27, -0.95), (-0.27, -0.27), (-0.95, -0.27), (-0.95, 0.27), (-0.27, 0.27), (-0.27, 0.95)],
    ],
    "arrow": [
        *[(0.98, 0), (0.15, 0.75), (0.15, 0.27), (-0.92, 0.27)],
        *[(-0.92, -0.27), (0.15, -0.27), (0.15, -0.75)],
    ],
    "bolt": [(0.25, 0.98), (-0.6, -0.12), (-0.08, -0.12), (-0.25, -0.98), (0.6, 0.12), (0.08, 0.12)],
}


@pytest.mark.parametrize("shape", sorted(CORNERS))
def test_polygons_agree_with_opencv(shape):
    center, radius, turn = np.array([20.3, 17.6]), 13.7, 0.3
    ours = drawing.distance(shape, (36, 40), [center], [radius], [turn])[0]
    x, y = np.array(CORNERS[shape]).T
    placed = np.stack(
        [
            center[0] + radius * (np.cos(turn) * x - np.sin(turn) * y),
            center[1] - radius * (np.sin(turn) * x + np.cos(turn) * y),
        ],
        axis=1,
    ).astype(np.float32)[:, None]
    theirs = [[-cv2.pointPolygonTest(placed, (c, r), True) for c in range(40)] for r in range(36)]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)  # pixels; both sides compute in float32


@pytest.mark.parametrize("shape", shapes.CLASSES)
def test_distance_is_true_to_scale_at_the_border(shape):
    """Anti-aliasing reads coverage off the distance, so mean coverage must equal the finely sampled area."""
    place = {"center": [[31.2, 30.7]], "radius": [24.0], "turn": [0.2]}
    coverage = np.clip(0.5 - drawing.distance(shape, (64, 64), **place)[0], 0, 1)
    fine = {"center": [[31.2 * 8 + 3.5, 30.7 * 8 + 3.5]], "radius": [24.0 * 8], "turn": [0.2]}
    inside = drawing.distance(shape, (512, 512), **fine)[0] <= 0
    area = inside.reshape(64, 8, 64, 8).mean((1, 3))
    assert abs(coverage.sum() - area.sum()) < 0.01 * area.sum()
    assert np.abs(coverage - area).max() < 0.45  # where a sharp corner ends inside one pixel
    assert (drawing.distance(shape, (64, 64), **place)[0][area == 1] <= 0).all()


def test_shapes_stay_inside_the_unit_circle():
    y, x = np.mgrid[-1.5:1.5:200j, -1.5:1.5:200j]
    for name, shape in drawing.SHAPES.items():
        assert (shape(x, y)[np.hypot(x, y) > 1.005] > 0).all(), name


def test_classification_is_balanced_and_a_function_of_its_seed():
    images, labels = shapes.classification(203, seed=5)
    assert images.shape == (203, 32, 32, 3) and images.dtype == np.uint8
    assert labels.shape == (203,) and labels.dtype == np.int64
    counts = np.bincount(labels, minlength=len(shapes.CLASSES))
    assert len(shapes.CLASSES) == 10 and counts.max() - counts.min() <= 1
    again = shapes.classification(203, seed=5)
    assert (again[0] == images).all() and (again[1] == labels).all()
    assert (shapes.classification(203, seed=6)[0] != images).mean() > 0.9
    assert len(np.unique(images.reshape(203, -1), axis=0)) == 203


def test_classification_is_not_given_away_by_mean_colour():
    images, labels = shapes.classification(3000)
    mean = images.mean((1, 2))
    centroids = np.stack([mean[labels == c][:150].mean(0) for c in range(10)])
    guess = np.linalg.norm(mean[:, None] - centroids, axis=-1).argmin(1)
    assert (guess == labels).mean() < 0.2  # chance is 0.1


@pytest.mark.parametrize("n, size", [(0, 32), (1, 8), (12, 49)])
def test_classification_of_any_size(n, size):
    images, labels = shapes.classification(n, size)
    assert images.shape == (n, size, size, 3) and labels.shape == (n,)


@pytest.mark.parametrize("n, size", [(-1, 32), (10, 4)])
def test_classification_refuses(n, size):
    with pytest.raises(ValueError, match=rf"n={n} and size={size}"):
        shapes.classification(n, size)


def test_scene_is_a_function_of_its_seed():
    one, same, other = shapes.scene(3), shapes.scene(3), shapes.scene(4)
    assert (one.image == same.image).all() and one.prompt == same.prompt and one.kind == same.kind
    assert (one.image != other.image).any()
    assert one.image.shape == (256, 256, 3) and one.image.dtype == np.uint8
    assert {shapes.scene(seed, (32, 32)).kind for seed in range(60)} == set(shapes.KINDS)


@pytest.mark.parametrize("kind", shapes.KINDS)
def test_masks_do_not_overlap_and_prompts_are_the_true_ones(kind):
    for seed in SCENES:
        scene = shapes.scene(seed, (96, 120), kind)
        masks = np.stack([thing.mask for thing in scene.objects])
        assert masks.dtype == bool and masks.shape[1:] == scene.image.shape[:2] == (96, 120)
        assert masks.sum(0).max() == 1 and masks.any((1, 2)).all()
        assert set(scene.prompts()) == {p for p in shapes.PROMPTS if scene.truth(p).any()}
        assert (scene.prompt in scene.prompts()) == (kind != "absent")


def hull_share(mask):
    points = np.argwhere(mask)[:, ::-1].astype(np.int32)
    hull = cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), cv2.convexHull(points), 1)
    return mask.sum() / hull.sum()


def touches(a, b):
    return (ndimage.binary_dilation(a, np.ones((5, 5))) & b).any()


@pytest.mark.parametrize("kind", shapes.KINDS)
def test_kinds_are_what_they_say(kind):
    for seed in SCENES:
        scene = shapes.scene(seed, (160, 160), kind)
        truth = scene.truth(scene.prompt)
        fits = [thing for thing in scene.objects if thing.matches(scene.prompt)]
        rest = [thing for thing in scene.objects if not thing.matches(scene.prompt)]
        labelled, _ = ndimage.label(truth, np.ones((3, 3)))
        parts = (np.bincount(labelled.ravel())[1:] > 5).sum()  # the tips of a thin crescent come apart
        if kind == "absent":
            assert not truth.any() and scene.objects
        elif kind == "several":
            assert parts == len(fits) >= 2
        elif kind == "touching":
            assert len(fits) == 1 and any(touches(truth, thing.mask) for thing in rest)
        else:
            assert parts == len(fits) == 1 and not any(touches(truth, thing.mask) for thing in rest)
            # the least concave shape, the cross, covers 0.69 of its hull; pixels make straight edges uneven
            assert hull_share(truth) > 0.9 if kind == "convex" else hull_share(truth) < 0.85


def test_absent_is_hard_half_of_the_time():
    hard = 0
    for seed in range(200):
        scene = shapes.scene(seed, (32, 32), "absent")
        colour, shape = shapes.parse(scene.prompt)
        hard += bool(colour and shape and scene.truth(f"the {colour} object").any() and scene.truth(shape).any())
    assert hard > 0.4 * 200


def test_objects_have_the_colours_they_are_called_by():
    names, values = list(shapes.COLOURS), 255 * np.array(list(shapes.COLOURS.values()))
    for seed in SCENES:
        scene = shapes.scene(seed)
        for thing in scene.objects:
            seen = scene.image[ndimage.binary_erosion(thing.mask)]
            if len(seen):
                assert names[np.linalg.norm(values - seen.mean(0), axis=1).argmin()] == thing.colour


@pytest.mark.parametrize("size", [(32, 400), (400, 32)])
def test_scene_of_extreme_shape(size):
    for kind in shapes.KINDS:
        assert shapes.scene(0, size, kind).image.shape == (*size, 3)


def test_parse():
    assert shapes.parse("A red circle") == ("red", "circle")
    assert shapes.parse("the blue object") == ("blue", None)
    assert shapes.parse("star") == (None, "star")
    assert all(shapes.phrase(*shapes.parse(prompt)) == prompt for prompt in shapes.PROMPTS)
    with pytest.raises(ValueError, match="'dog' in prompt 'a red dog'"):
        shapes.parse("a red dog")
    with pytest.raises(ValueError, match="neither a colour nor a shape"):
        shapes.parse("the object")


def test_scene_refuses():
    with pytest.raises(ValueError, match="'solid'.*convex"):
        shapes.scene(0, kind="solid")
    with pytest.raises(ValueError, match="at least 32"):
        shapes.scene(0, (10, 100))
