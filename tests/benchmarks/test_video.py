import json

import numpy as np
import pytest
from PIL import Image

from airl.scenes import clips
from benchmarks import video


@pytest.fixture(scope="module")
def davis(tmp_path_factory):
    """Two drawn clips, of things that CLIPSeg is sure of, as DAVIS lays them out, and a file that says what to ask."""
    folder = tmp_path_factory.mktemp("davis")
    (folder / "ImageSets" / "2017").mkdir(parents=True)
    (folder / "ImageSets" / "2017" / "val.txt").write_text("one\ntwo\nunasked\n")
    lines = []
    for name, seed in (("one", 900_003), ("two", 900_002)):
        clip = clips.clip(seed, 9, (96, 96), "moving")
        for t in range(len(clip)):
            picture, ids = clip.draw(t)
            for kind in ("JPEGImages", "Annotations"):
                (folder / kind / "480p" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(
                folder / "JPEGImages" / "480p" / name / f"{t:05}.jpg", quality=95, subsampling=0
            )
            palette = Image.fromarray(ids, "P")
            palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200, 200, 200, 0])
            palette.save(folder / "Annotations" / "480p" / name / f"{t:05}.png")
        lines += [f'{name} {number} "{clip.prompt}"' for number in clip.asked()]
    (folder / "text.txt").write_text("\n".join(lines) + '\nelsewhere 1 "a cat"\n')
    return folder


def test_clips_truths_and_prompts_are_those_drawn(davis):
    for case, seed in zip(video.davis(davis, davis / "text.txt"), (900_003, 900_002), strict=True):
        clip = clips.clip(seed, 9, (96, 96), "moving")
        pictures, truth = clip.render()
        assert case.prompt == clip.prompt and case.asked == clip.asked()
        assert np.array_equal(case.truth, truth)
        assert np.abs(case.images.astype(int) - pictures).mean() < 6  # JPEG


def test_the_embedded_models_are_measured_on_it(davis, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.record.RESULTS", tmp_path)
    video.main(["--davis", str(davis), "--text", str(davis / "text.txt"), "--tiny"])
    (record,) = json.loads((tmp_path / "video_davis.json").read_text())["records"]
    tracker, *others = record["rows"]
    assert tracker["way"].startswith("seg.track") and len(others) == 3
    assert tracker["objects: J&F"] > 0.8 > others[-1]["objects: J&F"], "a mask that stays is left behind"


def test_files_that_do_not_fit_say_so(davis, tmp_path):
    (tmp_path / "text.txt").write_text("one a cat\n")
    with pytest.raises(ValueError, match="has the line 'one a cat'; expected NAME OBJECT"):
        next(video.davis(davis, tmp_path / "text.txt"))
    (tmp_path / "text.txt").write_text('unasked 1 "a cat"\n')
    with pytest.raises(ValueError, match="0 pictures and 0 truths of unasked"):
        next(video.davis(davis, tmp_path / "text.txt"))
