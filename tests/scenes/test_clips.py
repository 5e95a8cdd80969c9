"""The truth of a clip against geometry: where an object is by its own numbers, and what each kind promises."""

import numpy as np
import pytest

from airl.scenes import clips, shapes

SEEDS = range(12)


def area(one, number):
    """Pixels of an id in each frame."""
    return np.array([(one.draw(t)[1] == number).sum() for t in range(len(one))])


def test_a_clip_is_a_function_of_its_seed():
    first, ids = clips.clip(7, 6, (48, 64)).render()
    again, ids_again = clips.clip(7, 6, (48, 64)).render()
    other, _ = clips.clip(8, 6, (48, 64)).render()
    assert first.shape == (6, 48, 64, 3) and first.dtype == np.uint8
    assert ids.shape == (6, 48, 64) and ids.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(ids, ids_again)
    assert (first != other).any()


def test_frames_can_be_drawn_in_any_order_and_from_a_clip_of_any_length():
    images, _ = clips.clip(3, 8, (48, 64), "moving").render()
    one = clips.clip(3, 8, (48, 64), "moving")
    for t in (5, 0, 7):
        np.testing.assert_array_equal(one.draw(t)[0], images[t])
    assert clips.clip(3, 100_000, (48, 64), "returning").draw(99_999)[0].shape == (48, 64, 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_mask_of_the_foremost_circle_is_the_disc(seed):
    one = clips.clip(seed, 8, (64, 80), "moving")
    front = one.objects[-1]
    y, x = np.mgrid[:64, :80]
    for t in (0, 7):
        cx, cy = front.center(t)
        from_center = np.hypot(x - cx, y - cy)
        mask = one.draw(t)[1] == len(one.objects)
        assert not mask[from_center > front.radius + 1e-3].any()
        if front.shape == "circle":  # see drawing: its radius is 0.92 of the circle around it
            edge = np.abs(from_center - 0.92 * front.radius) < 1e-3  # float32 decides there
            np.testing.assert_array_equal(mask[~edge], (from_center < 0.92 * front.radius)[~edge])


@pytest.mark.parametrize("seed", SEEDS)
def test_pixels_have_the_colour_of_their_object(seed):
    one = clips.clip(seed, 8, (96, 96))
    image, ids = one.draw(4)
    for number, thing in enumerate(one.objects, 1):
        if (ids == number).sum() >= 50:
            seen = np.median(image[ids == number], axis=0) / 255
            nearest = min(shapes.COLOURS, key=lambda name: np.linalg.norm(seen - shapes.COLOURS[name]))
            assert nearest == thing.colour


def test_what_is_asked_for_is_there_except_in_absent_clips():
    kinds = set()
    for seed in range(40):
        one = clips.clip(seed, 4, (48, 48))
        kinds.add(one.kind)
        assert bool(one.asked()) == (one.kind != "absent")
        assert one.asked() == tuple(i for i, o in enumerate(one.objects, 1) if o.matches(one.prompt))
    assert kinds == set(clips.KINDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_occluded(seed):
    one = clips.clip(seed, 32, (96, 96), "occluded")
    (number,) = one.asked()
    seen = area(one, number)
    center = one.objects[number - 1].center(int(seen.argmin()))
    assert seen[0] > 0 and seen[-1] > 0 and seen.min() == 0
    assert (center >= 0).all() and (center < 96).all(), "hidden, not gone"


@pytest.mark.parametrize("seed", SEEDS)
def test_returning(seed):
    one = clips.clip(seed, 32, (96, 96), "returning")
    (number,) = one.asked()
    thing = one.objects[number - 1]
    outside = [bool((thing.center(t) < 0).any() or (thing.center(t) > 95).any()) for t in range(32)]
    away = [t for t in range(32) if outside[t]]
    assert away[0] > 0 and away[-1] < 31 and away == list(range(away[0], away[-1] + 1))
    assert area(one, number)[16] == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_late(seed):
    one = clips.clip(seed, 32, (96, 96), "late")
    (number,) = one.asked()
    seen = area(one, number)
    assert not seen[:5].any() and seen[10:].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_lookalikes(seed):
    one = clips.clip(seed, 8, (96, 96), "lookalikes")
    looks = {(one.objects[i - 1].shape, one.objects[i - 1].colour) for i in one.asked()}
    assert len(one.asked()) >= 2 and len(looks) == 1


def test_long_clips_repeat_what_happens():
    one = clips.clip(0, 3 * clips.CYCLE, (64, 64), "returning")
    (number,) = one.asked()
    thing = one.objects[number - 1]
    outside = np.array([bool((thing.center(t) < 0).any() or (thing.center(t) > 63).any()) for t in range(len(one))])
    assert (np.diff(outside.astype(int)) == 1).sum() == 3


def test_errors():
    with pytest.raises(ValueError, match="unknown kind of clip 'flying'"):
        clips.clip(0, kind="flying")
    with pytest.raises(ValueError, match="at least 2 frames"):
        clips.clip(0, frames=1)
    with pytest.raises(ValueError, match="at least 32 pixels"):
        clips.clip(0, size=(16, 64))
    with pytest.raises(IndexError, match="no frame 8"):
        clips.clip(0, frames=8).draw(8)


@pytest.mark.parametrize("size", [(600, 512), (40, 1001), (1, 1)])
def test_a_pan_shows_both_ends_and_returns(size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    frames = clips.pan(image, frames=9, side=10_000)
    width = max(1, round(0.6 * size[1]))
    assert frames.shape == (9, size[0], width, 3) and frames.dtype == np.uint8
    np.testing.assert_array_equal(frames[0], image[:, :width])
    np.testing.assert_array_equal(frames[4], image[:, size[1] - width :])
    np.testing.assert_array_equal(frames[8], frames[0])
    assert max(clips.pan(image, frames=2, side=20).shape[1:3]) <= 20
