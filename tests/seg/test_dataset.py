"""A folder as a data set, on the embedded models. Oracle: pycocotools, which reads coco.json."""

import html.parser
import json

import numpy as np
import pytest
from PIL import Image

from airl import distributed, images, seg
from airl.scenes import shapes
from airl.seg.__main__ import main
from airl.seg.dataset import find_pictures

PROMPTS = ["a red circle", "the blue object", "a star"]


@pytest.fixture(scope="module")
def segmenter():
    return seg.TextSegmenter.tiny("best", device="cpu")


@pytest.fixture
def photos(tmp_path):
    """A folder with a folder in it; two files have the same name, and one is no picture."""
    folder = tmp_path / "photos"
    for number, name in enumerate(("a.png", "more/a.png", "b & c.jpg")):
        images.save(shapes.scene((34, 0, 2)[number], (96, 128)).image, folder / name)
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture, and not said to be one")
    return folder


class Pictures(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.sources, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.sources.append(dict(attributes)["src"])

    def handle_data(self, data):
        self.text += data


def test_a_folder_becomes_a_data_set(segmenter, photos, tmp_path):
    from urllib.parse import unquote

    coco = pytest.importorskip("pycocotools.coco")
    out = tmp_path / "out"
    errors = seg.segment_files(segmenter, photos, PROMPTS, out)
    assert list(errors) == [photos / "broken.jpg"]
    data = coco.COCO(out / "coco.json")
    assert [c["name"] for c in data.loadCats(data.getCatIds())] == PROMPTS
    pictures = data.loadImgs(data.getImgIds())
    assert [p["file_name"] for p in pictures] == ["a.png", "b & c.jpg", "more/a.png"]
    count = 0
    for picture in pictures:
        image = images.load(photos / picture["file_name"])
        assert (picture["height"], picture["width"]) == image.shape[:2]
        for one, category in zip(segmenter(image, PROMPTS), data.getCatIds(), strict=True):
            annotations = data.loadAnns(data.getAnnIds(picture["id"], category))
            assert len(annotations) == len(one.instances)
            for annotation, instance in zip(annotations, one.instances, strict=True):
                mask = data.annToMask(annotation).astype(bool)
                assert (mask == instance.mask).all() and annotation["area"] == mask.sum()
                assert annotation["bbox"] == coco.maskUtils.toBbox(annotation["segmentation"]).tolist()
                assert annotation["score"] == pytest.approx(instance.score)
                count += 1
        overlay = np.asarray(Image.open(out / picture["file_name"] / "overlay.jpg")).astype(int)
        assert overlay.shape == image.shape
    assert count == len(data.getAnnIds()) > 2
    page = Pictures((out / "index.html").read_text())
    assert [unquote(source) for source in page.sources] == [f"{p['file_name']}/overlay.jpg" for p in pictures]
    assert all((out / unquote(source)).exists() for source in page.sources)
    assert "broken.jpg" in page.text and "b & c.jpg" in page.text and "a red circle: 1" in page.text


def test_both_models_look_once_and_each_prompt_has_its_own_threshold(segmenter, photos, tmp_path, monkeypatch):
    looks = []
    for model in (segmenter.clipseg, segmenter.sam):
        look = model.set_image
        monkeypatch.setattr(model, "set_image", lambda image, m=model, look=look: looks.append(m) or look(image))
    prompts = {"a red circle": {"threshold": 0.7}, "the blue object": {"floor": 1.0}, "a star": {}, "a ring": {}}
    assert not seg.segment_files(segmenter, photos / "a.png", prompts, tmp_path / "out")
    assert looks == [segmenter.clipseg, segmenter.sam]
    result = json.loads((tmp_path / "out" / "a.png" / "result.json").read_text())
    assert [one["prompt"] for one in result["prompts"]] == list(prompts)
    for one in result["prompts"]:
        expected = segmenter.segment(one["prompt"], **prompts[one["prompt"]])
        assert one["instances"] == json.loads(json.dumps([instance.to_json() for instance in expected.instances]))
        assert one["found"] == expected.found and one["peak"] == pytest.approx(expected.peak)
    assert result["prompts"][0]["found"] and not result["prompts"][1]["found"]
    assert result["recipes"]["a red circle"]["threshold"] == 0.7


def test_a_stopped_run_goes_on(segmenter, photos, tmp_path, monkeypatch):
    (photos / "broken.jpg").unlink()
    whole, out = tmp_path / "whole", tmp_path / "out"
    seg.segment_files(segmenter, photos, PROMPTS, whole)
    done, look = [], segmenter.set_image

    def stops(file):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(file)
        look(file)

    with monkeypatch.context() as patch:
        patch.setattr(segmenter, "set_image", stops)
        with pytest.raises(KeyboardInterrupt):
            seg.segment_files(segmenter, photos, PROMPTS, out)
    assert not (out / "coco.json").exists()
    seen = []
    monkeypatch.setattr(segmenter, "set_image", lambda file: seen.append(file) or look(file))
    assert not seg.segment_files(segmenter, photos, PROMPTS, out)
    assert len(seen) == 2 and done[0] not in seen
    assert same(out, whole)

    errors = seg.segment_files(segmenter, photos, PROMPTS[:1], out)  # others' prompts: nothing is replaced
    assert len(errors) == 3 and all("choose another folder" in str(error) for error in errors.values())
    assert same(out, whole, but={"coco.json", "index.html"})
    assert not seg.segment_files(segmenter, photos, PROMPTS[:1], out, overwrite=True)
    assert len(json.loads((out / "coco.json").read_text())["categories"]) == 1


def same(one, other, but=()):
    a, b = (
        {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (one, other)
    )
    return a.keys() == b.keys() and all(a[file] == b[file] for file in a if file not in but)


def test_processes_share_the_pictures_out(segmenter, photos, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    seg.segment_files(segmenter, photos, PROMPTS, whole)
    parts = []

    class Group(distributed.Group):
        def gather(self, value):
            parts.append(value)
            return parts

    shares, look = [], segmenter.set_image
    monkeypatch.setattr(segmenter, "set_image", lambda file: shares[-1].append(file) or look(file))
    for rank in (1, 0):  # rank 0 waits for the others
        shares.append([])
        monkeypatch.setattr(distributed, "join", lambda device, rank=rank: Group(rank, 2))
        errors = seg.segment_files(segmenter, photos, PROMPTS, out)
    assert [len(share) for share in shares] == [2, 2] and not set(shares[0]) & set(shares[1])
    assert list(errors) == [photos / "broken.jpg"] and same(out, whole)


def test_what_is_a_picture(photos, tmp_path):
    assert list(find_pictures(photos)) == ["a.png", "b & c.jpg", "broken.jpg", "more/a.png"]
    assert list(find_pictures([photos / "a.png", photos / "a.png"])) == ["a.png"], "given twice, taken once"
    with pytest.raises(ValueError, match="would both be a.png"):
        find_pictures([photos / "a.png", photos / "more"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no picture in .*empty"):
        find_pictures(tmp_path / "empty")


def test_command_line(photos, tmp_path, capsys):
    (photos / "broken.jpg").unlink()
    out = photos / "out"  # in the folder itself: results are not pictures
    command = [str(photos), "-o", str(out), "--sam", "tiny", "-p", "a red circle", "0.7", "-p", "a star", "0.5", "1.0"]
    for _ in range(2):
        assert main(command) == 0
        data = json.loads((out / "coco.json").read_text())
        assert [c["name"] for c in data["categories"]] == ["a red circle", "a star"] and len(data["images"]) == 3
        assert {a["category_id"] for a in data["annotations"]} == {1}, "nothing reaches the floor of the second"
    assert main([*command[:5], "-p", "a", "star"]) == 1
    assert "'a' is followed by star" in (said := capsys.readouterr().err) and "quotes" in said
    assert main([*command[:5], "--steps", "-p", "a star"]) == 1 and "one prompt" in capsys.readouterr().err
    assert main([str(photos / "a.png"), "-o", str(out), "--sam", "tiny"]) == 1
    assert "and then the prompt" in capsys.readouterr().err


def test_command_line_of_films(tmp_path, capsys):
    from airl.scenes import clips

    clip = clips.clip(0, frames=4, size=(64, 64))
    for t in range(len(clip)):
        images.save(clip.draw(t)[0], tmp_path / "film" / f"{t:03d}.png")
    out = tmp_path / "out"
    assert main(["track", str(tmp_path / "film"), "-p", clip.prompt, "-o", str(out), "--sam", "tiny"]) == 0
    assert "-> " in capsys.readouterr().out and (out / "tracks.json").exists() and (out / "overlay.mp4").exists()
    assert main(["track", str(tmp_path / "none.mp4"), "-p", "a star", "-o", str(out), "--sam", "tiny"]) == 1
    assert "none.mp4" in capsys.readouterr().err
