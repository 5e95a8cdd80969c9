"""Oracle: colours as `colorsys` tells them, and the owners' own counts."""

import colorsys

import numpy as np

from airl.scenes import shapes
from training import variety


def test_scenes_have_their_truth():
    sizes = [(128, 128), (96, 128), (128, 96)]
    seen, counts = set(), []
    for seed in range(40):
        size = sizes[seed % 3]
        image, owner, looks = variety.scene(seed, size)
        assert image.shape == (*size, 3) and image.dtype == np.uint8 and owner.shape == size
        areas = np.bincount(owner.ravel(), minlength=len(looks) + 1)[1:]
        assert len(areas) == len(looks) >= 1 and (areas > 4).all(), "every object can be seen"
        counts += areas.tolist()
        seen |= set(looks)
        again, *_ = variety.scene(seed, size)
        assert np.array_equal(image, again)
    assert {shape for _, shape in seen} == set(shapes.SCENE_SHAPES) and {c for c, _ in seen} == set(shapes.COLOURS)
    assert min(counts) < 60 and max(counts) > 2000, "small and large ones"


def test_tints_are_what_they_are_called():
    rng = np.random.default_rng(0)
    hues = {colour: colorsys.rgb_to_hsv(*rgb)[0] for colour, rgb in shapes.COLOURS.items() if colour != "white"}
    for colour, hue in hues.items():
        for _ in range(50):
            found, saturation, value = colorsys.rgb_to_hsv(*variety.tint(rng, colour))
            away = {c: abs((found - h + 0.5) % 1 - 0.5) for c, h in hues.items()}
            assert min(away, key=away.get) == colour and saturation > 0.4 and value > 0.4, (colour, found, hue)
    assert all(variety.tint(rng, "white").min() > 0.75 for _ in range(50))


def test_a_shape_is_where_it_is_placed():
    rng = np.random.default_rng(0)
    for shape in shapes.SCENE_SHAPES:
        for _ in range(5):
            mask = variety.place(rng, shape, (96, 128), np.array([80.0, 40.0]), 25.0) <= 0
            ys, xs = np.nonzero(mask)
            assert 15 < np.hypot(xs - 80, ys - 40).max() < 34
            assert mask.sum() > 250
