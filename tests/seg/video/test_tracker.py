"""Quality is judged on clips with exact truth."""

import json
from dataclasses import replace

import numpy as np
import pytest

from airl.scenes import clips, shapes
from airl.seg.video.frames import open_clip
from airl.seg.video.memory import VideoSam2
from airl.seg.video.tracker import VideoTracker
from tests.seg.video.by_colour import ByColour, clip_of, iou


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --------------------------------------------------------------------------------------------- a clip


def test_an_object_is_followed_and_everything_is_written(truthful, tmp_path):
    images, truth, prompt = clip_of("moving", 1)
    result = truthful.track(images, prompt, tmp_path / "out", fps=12, progress=False)
    assert result.found and len(result) == 24
    assert np.mean([iou(result.mask(t), truth[t]) for t in range(24)]) > 0.7

    said = json.loads((tmp_path / "out/tracks.json").read_text())
    assert said == json.loads(json.dumps(result.to_json()))
    assert (said["prompts"], said["size"], said["fps"], said["frames"]) == ([prompt], [96, 112], 12, 24)
    for one in result.tracks:
        assert one.prompt == prompt and one.frames == sorted(set(one.frames))
        for t, score, box, area in zip(one.frames, one.scores, one.boxes, one.areas, strict=True):
            y, x = np.nonzero(result.ids(t) == one.id)
            assert (box, area) == ((x.min(), y.min(), x.max(), y.max()), len(x)) and 0.5 <= score <= 1
    drawn = np.stack(list(open_clip(result.video).read()))
    assert drawn.shape == images.shape and open_clip(result.video).fps == 12
    difference = np.abs(drawn.astype(int) - images).mean(-1)
    tinted = np.stack([result.mask(t) for t in range(24)])
    assert difference[tinted].mean() > 2 * difference[~tinted].mean()


def test_paths_and_folders_give_what_the_array_gives(truthful, tmp_path):
    from PIL import Image

    images, _, prompt = clip_of("moving", 1, frames=9)
    (tmp_path / "frames").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "frames" / f"{i}.png")
    one = truthful.track(images, prompt, progress=False)
    two = truthful.track(tmp_path / "frames", prompt, progress=False)
    assert one.tracks == two.tracks and one.tracks
    for t in range(9):
        np.testing.assert_array_equal(one.ids(t), two.ids(t))


def test_an_object_that_enters_between_askings_is_followed_back(truthful):
    images, truth, prompt = clip_of("late", 1, frames=32)
    visible = np.flatnonzero(truth.any((1, 2)))
    result = truthful.track(images, prompt, every=10, progress=False)
    (first,) = {track.frames[0] for track in result.tracks[:1]}
    assert first % 10, "it was found at an asking, and there were frames before"
    assert abs(first - visible[0]) <= 4  # the first sliver of it has few pixels
    assert not result.mask(max(0, visible[0] - 3)).any()


def test_back_over_the_askings_that_missed_it(trained, cpu):
    """The heat-map sees it only from the third asking on; the memory carries it back to the clip's beginning."""
    tracker = VideoTracker(ByColour(blind=lambda asked: asked <= 2), trained, where=cpu)
    images, truth, prompt = clip_of("moving", 1)
    result = tracker.track(images, prompt, every=8, progress=False)
    assert [track.frames[0] for track in result.tracks][:1] == [0]
    assert np.mean([iou(result.mask(t), truth[t]) for t in range(24)]) > 0.6


def test_absent(truthful, tmp_path):
    images, _, _ = clip_of("moving", 1, frames=10)
    images[...] //= 3  # nothing is as bright as white
    missing = "the white object"
    result = truthful.track(images, missing, tmp_path / "out", progress=False)
    assert not result.found and result.tracks == []
    assert not any(result.mask(t).any() for t in range(10))
    assert len(list(open_clip(result.video).read())) == 10


def test_several_prompts_and_instances(truthful):
    one = clips.clip(2, 16, (96, 112), "lookalikes")
    images, ids = one.render()
    colours = sorted({thing.colour for thing in one.objects})
    prompts = [shapes.phrase(colour, None) for colour in colours]
    result = truthful.track(images, prompts, progress=False)
    assert len({track.id for track in result.tracks}) == len(result.tracks)
    assert {track.prompt for track in result.tracks} == set(prompts)
    for prompt in prompts:
        truth = np.isin(ids, one.asked(prompt))
        assert np.mean([iou(result.mask(t, prompt), truth[t]) for t in range(16)]) > 0.4
    with pytest.raises(ValueError, match="not one of the prompts"):
        result.ids(0)
    with pytest.raises(ValueError, match="neither an id"):
        result.mask(0, "a dog")
    with pytest.raises(IndexError, match="no frame 16"):
        result.ids(16, prompts[0])


def test_a_track_that_is_no_longer_confirmed_is_ended_and_its_doubtful_masks_taken_back(trained, cpu):
    """From the third asking on the heat-map is empty."""
    tracker = VideoTracker(ByColour(blind=lambda asked: asked >= 3), trained, where=cpu)
    images, _, prompt = clip_of("moving", 1)
    result = tracker.track(images, prompt, every=6, progress=False)
    assert result.found
    for track in result.tracks:
        assert track.ended == "at frame 18: no longer on what was asked for"
        assert max(track.frames) == 11


def test_a_lost_track_is_recognized_under_its_old_id(trained, cpu):
    """At the third and fourth asking the heat-map is empty: the tracks end, and at the fifth they are known again."""
    tracker = VideoTracker(ByColour(blind=lambda asked: asked in (3, 4)), trained, where=cpu)
    images, truth, prompt = clip_of("moving", 1)
    undisturbed = VideoTracker(ByColour(), trained, where=cpu).track(images, prompt, every=4, progress=False)
    result = tracker.track(images, prompt, every=4, progress=False)
    assert tracker.clipseg.asked > 6, "they went back over the frames that had been taken from them"
    main = max(result.tracks, key=lambda track: len(track.frames))
    assert main.id in [track.id for track in undisturbed.tracks] and main.ended is None
    assert {5, 9, 14, 20} <= set(main.frames)


def test_a_false_alarm_is_taken_back(trained, cpu):
    """The second asking knows nothing of what the first has found."""
    tracker = VideoTracker(ByColour(blind=lambda asked: asked >= 2), trained, where=cpu)
    images, _, prompt = clip_of("moving", 1)
    result = tracker.track(images, prompt, every=6, progress=False)
    assert not result.found and not any(result.mask(t).any() for t in range(24))


def test_the_end_of_what_stays_out_of_sight(truthful):
    truthful.recipe = replace(truthful.recipe, patience=1)
    images, truth, prompt = clip_of("returning", 1, frames=40)
    gone = images.copy()
    gone[12:] = images[np.flatnonzero(~truth.any((1, 2)))[0]]
    result = truthful.track(gone, prompt, every=4, progress=False)
    assert "out of sight" in result.tracks[0].ended


# --------------------------------------------------------------------------------------------- interruption


class Interrupted(VideoSam2):
    """Stops like Ctrl-C once it has followed objects for so many steps."""

    steps, stop = 0, None

    def follow(self, *arguments, **options):
        self.steps += 1
        if self.stop is not None and self.steps > self.stop:
            raise KeyboardInterrupt
        return super().follow(*arguments, **options)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_an_interrupted_run_goes_on_and_ends_the_same(trained, cpu, tmp_path, share):
    images, _, prompt = clip_of("late", 1, frames=32)

    def tracker(stop=None):
        one = VideoTracker(ByColour(), trained, "same", cpu)
        one.sam2 = Interrupted(trained, cpu)
        one.sam2.stop = stop
        return one

    whole = tracker()
    whole.track(images, prompt, tmp_path / "whole", every=5, progress=False)
    with pytest.raises(KeyboardInterrupt):
        tracker(int(share * whole.sam2.steps)).track(images, prompt, tmp_path / "parts", every=5, progress=False)
    assert not (tmp_path / "parts/tracks.json").exists()
    rest = tracker()
    rest.track(images, prompt, tmp_path / "parts", every=5, progress=False)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert rest.sam2.steps < whole.sam2.steps or share < 0.5

    again = tracker(stop=0)  # what is finished is read, not done again
    result = again.track(images, prompt, tmp_path / "parts", every=5, progress=False)
    assert again.sam2.steps == 0 and result.found
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_a_folder_of_another_run_is_left_alone(truthful, tmp_path):
    images, _, prompt = clip_of("moving", 1, frames=6)
    truthful.track(images, prompt, tmp_path / "out", progress=False)
    before = files(tmp_path / "out")
    for change in ({"every": 3}, {"fps": 3}):
        with pytest.raises(FileExistsError, match="overwrite=True"):
            truthful.track(images, prompt, tmp_path / "out", progress=False, **change)
    with pytest.raises(FileExistsError, match="choose another folder"):
        truthful.track(images[::-1], prompt, tmp_path / "out", progress=False)
    assert files(tmp_path / "out") == before
    (tmp_path / "out/mine.txt").write_text("a note")
    truthful.track(images[::-1].copy(), prompt, tmp_path / "out", overwrite=True, progress=False)
    assert files(tmp_path / "out")["job.json"] != before["job.json"]
    assert (tmp_path / "out/mine.txt").read_text() == "a note"


def test_a_clip_that_breaks_off_is_not_taken_for_whole(truthful, tmp_path):
    from airl.seg.video.frames import write_mp4

    images, _, prompt = clip_of("moving", 1)
    path = write_mp4(images, tmp_path / "clip.mp4", 10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match="clip.mp4 is damaged"):
        truthful.track(path, prompt, tmp_path / "out", progress=False)
    assert not (tmp_path / "out/tracks.json").exists() and not (tmp_path / "out/overlay.mp4").exists()


def test_errors(truthful, tmp_path):
    images = np.zeros((3, 40, 40, 3), np.uint8)
    for prompts in ([], "", ["a star", " "], ["a star", "a star"]):
        with pytest.raises(ValueError, match="expected one or more prompts"):
            truthful.track(images, prompts, tmp_path / "out")
    with pytest.raises(ValueError, match="every is 0"):
        truthful.track(images, "a star", tmp_path / "out", every=0)
    with pytest.raises(ValueError, match="T > 0"):
        truthful.track(images[:0], "a star", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="there is no clip"):
        truthful.track(tmp_path / "gone.mp4", "a star", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="unknown SAM 2 'sam3'; choose one of sam2.1-hiera-tiny"):
        VideoTracker.from_pretrained("sam3")


# --------------------------------------------------------------------------------------------- the small models


def test_end_to_end_from_text():
    """The small CLIPSeg and the small SAM 2 as they are shipped."""
    tiny, scores = VideoTracker.tiny(device="cpu"), []
    for seed in range(6):
        one = clips.clip(seed, 16, (96, 96), "moving")
        images, ids = one.render()
        truth = np.isin(ids, one.asked())
        result = tiny.track(images, one.prompt, progress=False)
        scores.append(np.mean([iou(result.mask(t), truth[t]) for t in range(16)]))
    assert np.mean(scores) > 0.6, scores  # one of six may be lost; a wrong object or frame gives 0.2 and less


def test_an_object_comes_back_under_its_old_id(truthful):
    images, truth, prompt = clip_of("returning", 1, frames=40)
    away = np.flatnonzero(~truth.any((1, 2)))
    result = truthful.track(images, prompt, progress=False)
    main = max(result.tracks, key=lambda track: len(track.frames))
    assert main.frames[0] < away[0] and main.frames[-1] > away[-1]
    assert not set(main.frames) & set(away[1:-1])
