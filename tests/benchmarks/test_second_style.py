"""Oracle: the picture itself; what the truth says is there has the colour that the prompt names."""

import colorsys

import numpy as np
import pytest

from airl.scenes import shapes
from benchmarks import second_style


@pytest.fixture(scope="module")
def scenes():
    return [second_style.scene(seed, present=seed % 3 > 0) for seed in range(40)]


def test_what_is_asked_for_is_there_or_not(scenes):
    for seed, scene in enumerate(scenes):
        there = any(thing.matches(scene.prompt) for thing in scene.objects)
        assert there == (seed % 3 > 0) == (scene.kind != "absent") == scene.truth(scene.prompt).any()
    assert {thing.shape for scene in scenes for thing in scene.objects} == set(shapes.SCENE_SHAPES)
    hard = [s for s in scenes if s.kind == "absent" and all(part is not None for part in shapes.parse(s.prompt))]
    assert any({shapes.parse(s.prompt)} < {(a.colour, b.shape) for a in s.objects for b in s.objects} for s in hard)


def test_objects_are_apart_and_inside(scenes):
    for scene in scenes:
        total = sum(thing.mask.astype(int) for thing in scene.objects)
        assert total.max() == 1
        for thing in scene.objects:
            ys, xs = np.nonzero(thing.mask)
            reach = np.hypot(xs - thing.center[0], ys - thing.center[1]).max()
            assert 0.6 * thing.radius < reach < 1.05 * thing.radius + 1
            assert not (thing.mask[[0, -1]].any() or thing.mask[:, [0, -1]].any())


def test_objects_have_their_colours(scenes):
    degrees = {"red": 0, "green": 122, "blue": 224, "yellow": 54, "purple": 284}
    for scene in scenes:
        for thing in scene.objects:
            if thing.radius < 30:  # outlines and blur leave little of the smaller ones
                continue
            hue, saturation, value = colorsys.rgb_to_hsv(*np.median(scene.image[thing.mask], 0) / 255)
            if thing.colour == "white":
                assert saturation < 0.2 and value > 0.5
            else:
                assert saturation > 0.3
                assert abs((hue * 360 - degrees[thing.colour] + 180) % 360 - 180) < 40, (thing.colour, hue * 360)


def test_the_same_seed_gives_the_same_scene():
    one, two, other = (second_style.scene(seed, True) for seed in (5, 5, 6))
    assert np.array_equal(one.image, two.image) and one.prompt == two.prompt
    assert one.image.shape != other.image.shape or not np.array_equal(one.image, other.image)
