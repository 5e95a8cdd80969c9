"""Each rule by itself, on clips whose truth is known."""

from dataclasses import FrozenInstanceError, asdict

import cv2
import numpy as np
import pytest

from airl.seg.video.frames import open_clip
from airl.seg.video.memory import Seen, VideoSam2
from airl.seg.video.rules import Followed, Rules, TrackingRecipe, colours_of, compose, find_seeds
from airl.seg.video.store import masks_of
from tests.seg.video.by_colour import ByColour, clip_of, iou


@pytest.fixture
def begun(truthful, tmp_path):
    """Rules that have followed their one track, number 1, through the frames 0 to 3, with pictures, truth and masks."""
    images, truth, prompt = clip_of("moving", 1)
    masks = masks_of(tmp_path, [prompt])
    rules = Rules(ByColour(), truthful.sam2, TrackingRecipe(every=4), open_clip(images), [prompt], masks)
    for t in range(4):
        rules.step(t, images[t])
    assert [one.id for one in rules.live] == [1]
    return rules, images, truth, masks[prompt]


def second(rules):
    """A second track of the same object."""
    (one,) = rules.live
    two = Followed(2, one.prompt, rules.sam2.recall(one.memory), None, [])
    rules.live.append(two)
    rules.tracks[2] = {"prompt": one.prompt, "first": 0, "last": 3, "ended": None}
    return one, two


def sees(monkeypatch, rules, answers):
    """Let the memories of these tracks give such masks, at such scores; others what they do give."""
    known = {one.memory: Seen(np.where(mask, 10, -10).astype(np.float32), score) for one, mask, score in answers}
    real = VideoSam2.follow
    monkeypatch.setattr(
        rules.sam2, "follow", lambda memory, *rest, **options: known.get(memory) or real(rules.sam2, memory, *rest)
    )
    return known


def test_a_drifted_track_is_corrected_and_a_good_one_left(begun, monkeypatch):
    rules, images, truth, masks = begun
    (one,) = rules.live
    before = one.memory
    for shift, corrected in ((9, True), (0, False)):
        one.memory = before
        sees(monkeypatch, rules, [(one, np.roll(truth[4], shift, axis=1), 0.9)])
        rules.step(4, images[4])
        assert iou(masks.read(4)[0] == 1, truth[4]) > 0.8
        assert one.memory.seeded == ({0, 4} if corrected else {0}) and (one.memory is before) != corrected


def test_a_component_with_two_tracks_corrects_neither(begun):
    rules, images, truth, _ = begun
    one, two = second(rules)
    rules.ask()
    drifted = Seen(np.where(np.roll(truth[3], 9, axis=1), 10, -10), 0.9)
    for other, corrected in ((drifted, False), (Seen(drifted.logits * 0 - 1, 0.9), True)):
        before, rules.seen = one.memory, {1: drifted, 2: other}
        rules.correct()
        assert (one.memory is not before) == corrected
        one.memory = before


def test_of_two_tracks_on_one_object_the_surer_has_it(begun, monkeypatch):
    rules, images, truth, masks = begun
    one, two = second(rules)
    for scores, winner in (((0.8, 0.9), 2), ((0.9, 0.8), 1), ((0.9, 0.9), 1)):
        sees(monkeypatch, rules, [(one, truth[5], scores[0]), (two, truth[5], scores[1])])
        rules.step(5, images[5])
        ids, told = masks.read(5)
        assert set(np.unique(ids)) == {0, winner} == {0, *told}


def test_what_doubles_is_doubtful_and_ends_at_the_asking_after(begun, monkeypatch):
    rules, images, truth, _ = begun
    one, two = second(rules)
    for t in range(4, 9):
        sees(monkeypatch, rules, [(one, truth[t], 0.9), (two, truth[t], 0.8)])
        rules.step(t, images[t])
        if t < 8:
            assert (one.doubt, two.doubt) == (None, 4) and rules.live == [one, two]
    assert rules.live == [one] and rules.lost == [two]
    assert rules.tracks[1]["ended"] is None and "at frame 8: no longer" in rules.tracks[2]["ended"]


def test_only_tracks_of_the_same_prompt_that_overlap_enough_are_doubled(begun):
    rules, *_ = begun
    a, b, c = (Followed(i, "a star", None, None, []) for i in (1, 2, 3))
    other = Followed(4, "a ring", None, None, [])
    disc = np.hypot(*(np.mgrid[:20, :20] - 10)) < 6
    rules.live = [a, b, c, other]
    shifted = np.roll(disc, 8, axis=1)
    rules.seen = {
        1: Seen(disc - 0.5, 0.8), 2: Seen(disc - 0.5, 0.9), 3: Seen(shifted - 0.5, 0.7), 4: Seen(disc - 0.5, 1.0)
    }  # fmt: skip
    assert [rules.is_double(one) for one in rules.live] == [True, False, False, False]


def test_compose_gives_a_pixel_to_the_higher_logit():
    a, b = np.full((2, 3), -1.0), np.full((2, 3), -1.0)
    a[0], b[0, 1:], b[1, 0] = 2.0, [1.0, 3.0], 0.5
    np.testing.assert_array_equal(compose({4: a, 9: b}, (2, 3)), [[4, 4, 9], [9, 0, 0]])
    assert not compose({}, (2, 3)).any()


def test_the_recipe_is_the_one_that_was_measured():
    assert asdict(TrackingRecipe()) == {
        "every": 4,
        "threshold": 0.5,
        "floor": 0.5,
        "min_area": 0.002,
        "covered": 0.3,
        "min_agreement": 0.2,
        "better": 0.05,
        "confirm": 0.25,
        "recognize": 0.5,
        "alike": 0.4,
        "doubled": 0.7,
        "patience": 20,
        "lost": 16,
    }


def test_a_recipe_is_not_changed():
    with pytest.raises(FrozenInstanceError):
        TrackingRecipe().every = 3


def test_a_recipe_takes_the_limits_of_every_number():
    assert TrackingRecipe(every=1, patience=0, lost=0, min_area=0, better=0, confirm=0).every == 1
    assert TrackingRecipe(threshold=1, covered=1, doubled=1.0).threshold == 1


@pytest.mark.parametrize(
    "change",
    [
        {"every": 0},
        {"every": 2.5},
        {"threshold": float("nan")},
        {"confirm": 2},
        {"min_area": -1},
        {"patience": True},
        {"patience": -1},
        {"lost": -1},
    ],
)
def test_a_recipe_refuses_by_name_what_it_cannot_follow(change):
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}; expected"):
        TrackingRecipe(**change)


def test_ids_of_false_alarms_are_used_again_when_none_is_left(begun):
    rules, images, truth, masks = begun
    (one,) = rules.live
    for number in range(2, 254):
        rules.tracks[number] = {"prompt": one.prompt, "first": 2, "last": 3, "ended": "at frame 3"}
    assert rules.free_id() == 254
    rules.tracks[254] = {"prompt": one.prompt, "first": 2, "last": 1, "ended": "at frame 3"}  # nothing is left of it
    assert rules.free_id() == 255
    rules.tracks[255] = {"prompt": one.prompt, "first": 3, "last": 2, "ended": None}
    rules.live.append(Followed(255, one.prompt, one.memory, 3, []))  # it may yet be confirmed
    rules.lost = [Followed(n, one.prompt, one.memory, 2, []) for n in (253, 254)]
    assert rules.free_id() == 254 and [gone.id for gone in rules.lost] == [253]
    rules.tracks[254]["last"] = 3
    assert rules.free_id() is None
    rules.doubtful = []
    seen = Seen(np.where(np.roll(truth[3], 30, axis=1), 10, -10).astype(np.float32), 0.9)
    rules.lost = []
    with pytest.warns(UserWarning, match="there are 255 tracks"):
        assert not rules.begin(one.prompt, one.memory, seen)
    assert len(rules.live) == 2


def test_a_false_alarm_leaves_nothing_and_is_known_as_such(trained, cpu, tmp_path):
    images, truth, prompt = clip_of("moving", 1)
    masks = masks_of(tmp_path, [prompt])
    sam2 = VideoSam2(trained, cpu)
    blind = ByColour(blind=lambda asked: asked != 2)  # it is seen at the second asking alone
    rules = Rules(blind, sam2, TrackingRecipe(every=4), open_clip(images), [prompt], masks)
    for t in range(9):
        rules.step(t, images[t])
        if t == 4:
            assert [one.id for one in rules.live] == [1] and rules.live[0].doubt == rules.tracks[1]["first"] == 1
            assert [bool(masks[prompt].read(t)[1]) for t in range(5)] == [False, True, True, True, True]
    assert rules.live == [] and rules.tracks[1]["last"] < rules.tracks[1]["first"]
    assert not any(masks[prompt].read(t)[1] for t in range(9))


def test_back_to_the_last_frame_it_is_seen_in_and_taken_back_from_the_first_in_doubt(begun):
    rules, images, truth, masks = begun
    (one,) = rules.live
    rules.image, rules.view = images[4], rules.sam2.see(4, images[4])
    rules.ask()
    one.memory, _ = rules.sam2.start(rules.view, rules.seeds[one.prompt][0])
    for t in range(4):
        masks.change(t, 1)
    rules.tracks[1]["last"] = 1
    rules.go_back(one)
    assert [bool(masks.read(t)[1]) for t in range(4)] == [False, False, True, True]
    one.doubt = 3
    rules.take_back(one)
    rules.tracks[1]["last"] = 3
    rules.take_back(one)
    assert [bool(masks.read(t)[1]) for t in range(4)] == [False, False, True, False]
    assert rules.tracks[1]["last"] == 2


def test_back_no_further_than_it_is_out_of_sight(begun, monkeypatch):
    rules, images, truth, _ = begun
    (one,) = rules.live
    rules.recipe = TrackingRecipe(every=2)
    rules.view, rules.tracks[1]["last"] = rules.sam2.see(4, images[4]), -1
    one.memory, _ = rules.sam2.start(rules.view, find_seeds(truth[4].astype(np.float32), rules.recipe)[0])
    looks, empty = [], Seen(np.full(truth[4].shape, -1.0), 0.0)
    monkeypatch.setattr(rules.sam2, "follow", lambda memory, view, reverse: looks.append(view.t) or empty)
    rules.go_back(one)
    assert looks == [3, 2]  # `every` frames


def test_colours_are_a_histogram_of_the_mask():
    """Oracle: OpenCV's histogram."""
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    mask = np.zeros((30, 40), bool)
    mask[5:20, 8:30] = True
    counts = cv2.calcHist([image], [0, 1, 2], mask.astype(np.uint8), [8, 8, 8], [0, 256] * 3)
    np.testing.assert_allclose(colours_of(image, mask), counts.flatten() / mask.sum(), rtol=1e-6)  # theirs is float32
    assert sum(colours_of(image, ~mask & mask)) == 0


def test_what_no_memory_knows_is_recognized_by_its_colours(begun, monkeypatch):
    rules, images, truth, _ = begun
    rules.step(4, images[4])
    (one,) = rules.live
    assert one.confirmed
    colours, other = one.colours, colours_of(255 - images[4], truth[4])
    same = colours_of(images[4], truth[4])
    monkeypatch.setattr(rules.sam2, "follow", lambda *_: Seen(np.full(truth[4].shape, -1.0), 0.0))  # remembers nothing
    rules.live, rules.lost = [], [one]
    rules.view = rules.sam2.see(5, images[5])
    assert rules.recognize(one.prompt, truth[4], same) is one
    assert rules.recognize(one.prompt, truth[4], other) is None
    assert rules.recognize("another prompt", truth[4], same) is None
    two = Followed(2, one.prompt, one.memory, None, (0.9 * np.array(same) + 0.1 * np.array(colours)).tolist(), True)
    rules.lost = [one, two]
    assert rules.recognize(one.prompt, truth[4], same) is two, "the one that is most alike"
    one.confirmed = two.confirmed = False
    assert rules.recognize(one.prompt, truth[4], same) is None
    one.confirmed, rules.lost = True, [one]
    rules.recipe = TrackingRecipe(alike=1.0)
    assert rules.recognize(one.prompt, truth[4], same) is None
    rules.recipe = TrackingRecipe()
    rules.masks[one.prompt].change(4, 1)
    rules.image, rules.seen, rules.doubtful = images[5], {}, []
    monkeypatch.setattr(rules, "go_back", lambda _: None)
    memory = rules.sam2.recall(one.memory)
    assert rules.begin(one.prompt, memory, Seen(np.where(truth[5], 1.0, -1.0), 0.9))
    (again,) = rules.live
    assert again.id == 1 and again.confirmed and again.colours == colours and again.doubt is None


def test_a_component_below_the_floor_starts_no_track(begun, monkeypatch):
    rules, images, truth, _ = begun
    (one,) = rules.live
    heatmap = np.where(truth[4], 0.7, 0.0).astype(np.float32)
    monkeypatch.setattr(rules.clipseg, "predict", lambda prompts: heatmap[None])
    for floor, starts in ((0.71, False), (0.7, True)):
        rules.recipe = TrackingRecipe(every=4, floor=floor)
        rules.live, rules.lost = [], []
        rules.step(4, images[4])
        assert bool(rules.live) == starts
