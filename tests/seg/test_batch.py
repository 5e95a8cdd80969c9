"""Many files at once, and the command line, on the embedded models."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from airl import images, seg
from airl.scenes import shapes
from airl.seg.__main__ import main

PROMPT = "a red circle"
FILES = {"mask.png", "overlay.jpg", "cutout.png", "result.json"}


@pytest.fixture(scope="module")
def segmenter():
    return seg.TextSegmenter.tiny(device="cpu")


@pytest.fixture
def pictures(tmp_path):
    """Two scenes, the first with a red circle, and between them a file that is no picture."""
    files = [tmp_path / name for name in ("a.png", "broken.jpg", "b.jpg")]
    images.save(shapes.scene(34, (96, 128)).image, files[0])
    files[1].write_bytes(b"no picture")
    images.save(shapes.scene(2, (96, 128)).image, files[2])
    return files


def test_one_bad_file_is_reported_and_the_rest_go_on(segmenter, pictures, tmp_path, capfd):
    errors = seg.segment_files(segmenter, pictures, PROMPT, tmp_path / "out")
    assert list(errors) == [pictures[1]] and "broken.jpg" in str(errors[pictures[1]])
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.png", "b.jpg"}
    for file, found in ((pictures[0], True), (pictures[2], False)):
        folder = tmp_path / "out" / file.name / "a-red-circle"
        result = json.loads((folder / "result.json").read_text())
        expected = segmenter(file, PROMPT)
        assert result["prompt"] == PROMPT and result["found"] == expected.found == found
        assert {p.name for p in folder.iterdir()} == FILES - (set() if found else {"cutout.png"})
        assert (np.asarray(Image.open(folder / "mask.png")) == expected.mask * 255).all()
    said = capfd.readouterr()
    assert "broken.jpg" in said.err and "a.png: " in said.out + said.err


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("x")])
def test_each_picture_fails_alone(pictures, tmp_path, error):
    class Fails:
        def __call__(self, file, prompt):
            raise error

    errors = seg.segment_files(Fails(), pictures[::2], PROMPT, tmp_path / "out")
    assert errors == {pictures[0]: error, pictures[2]: error}


def test_names_that_differ_in_their_suffix_alone(segmenter, pictures, tmp_path):
    files = [tmp_path / "IMG.png", tmp_path / "IMG.jpg"]
    for seed, file in enumerate(files):
        images.save(shapes.scene(seed, (96, 128)).image, file)
    assert not seg.segment_files(segmenter, (file for file in files), PROMPT, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"IMG.png", "IMG.jpg"}


def test_the_same_name_from_two_folders(segmenter, pictures, tmp_path):
    other = tmp_path / "other" / "a.png"
    images.save(shapes.scene(7, (96, 128)).image, other)
    out = tmp_path / "out"
    errors = seg.segment_files(segmenter, [pictures[0], other], PROMPT, out)
    assert list(errors) == [other] and f"is for {pictures[0]}" in str(errors[other])
    before = (out / "a.png" / "a-red-circle" / "result.json").read_bytes()
    (error,) = seg.segment_files(segmenter, [other], PROMPT, out).values()  # in a run of its own
    assert isinstance(error, FileExistsError) and "choose another folder" in str(error)
    assert (out / "a.png" / "a-red-circle" / "result.json").read_bytes() == before


def test_what_is_done_is_skipped_and_never_overwritten(segmenter, pictures, tmp_path, capfd):
    out = tmp_path / "out"
    seg.segment_files(segmenter, pictures[:1], PROMPT, out)
    marker = out / "a.png" / "a-red-circle" / "mask.png"
    marker.write_text("kept")
    assert not seg.segment_files(segmenter, [pictures[0], pictures[2]], PROMPT, out)
    assert marker.read_text() == "kept" and (out / "b.jpg" / "a-red-circle" / "result.json").exists()
    assert "skipped" in "".join(capfd.readouterr())

    (error,) = seg.segment_files(segmenter, pictures[:1], "A red circle!", out).values()  # the same folder's name
    assert isinstance(error, FileExistsError) and "'a red circle'" in str(error) and marker.read_text() == "kept"

    assert not seg.segment_files(segmenter, pictures[:1], PROMPT, out, overwrite=True)
    assert Image.open(marker).size == Image.open(pictures[0]).size


def test_an_interrupted_one_is_done_again(segmenter, pictures, tmp_path):
    folder = tmp_path / "out" / "a.png" / "a-red-circle"
    folder.mkdir(parents=True)
    (folder / "cutout.png").write_text("half")  # stopped between two files
    assert not seg.segment_files(segmenter, pictures[0], PROMPT, tmp_path / "out", steps=True)
    assert {p.name for p in folder.iterdir()} == FILES | {"steps.png"}
    assert Image.open(folder / "cutout.png").mode == "RGBA" and Image.open(folder / "steps.png").width > 500


def test_prompts(segmenter, pictures, tmp_path):
    with pytest.raises(ValueError, match="'  '.*a person"):
        seg.segment_files(segmenter, pictures, "  ", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    long = "a red circle " * 25  # more than a file's name may have letters, and than CLIPSeg reads
    assert len(long) > 300 and not seg.segment_files(segmenter, pictures[:1], long, tmp_path / "out")
    (folder,) = (tmp_path / "out" / "a.png").iterdir()
    assert json.loads((folder / "result.json").read_text())["prompt"] == long


def test_command_line(pictures, tmp_path, capsys):
    out = tmp_path / "out"
    tiny = ["-o", str(out), "--sam", "tiny"]
    assert main([*map(str, pictures), PROMPT, *tiny, "--recipe", "best", "--steps"]) == 1, "one file is broken"
    assert "broken.jpg" in capsys.readouterr().err
    assert {p.name for p in (out / "a.png" / "a-red-circle").iterdir()} == FILES | {"steps.png"}
    assert main([str(pictures[0]), PROMPT, *tiny]) == 0
    assert main([str(pictures[0]), PROMPT * 30, *tiny]) == 0
    done = set(out.rglob("*"))
    assert main([str(pictures[0]), str(pictures[2]), *tiny]) == 1
    assert "the last argument is the prompt" in capsys.readouterr().err
    assert main([str(pictures[0]), "a", "red", "circle", *tiny]) == 1
    assert "no picture at a, red" in (said := capsys.readouterr().err) and 'in quotes: "a person"' in said
    assert main([str(pictures[0]), PROMPT, "-o", str(out), "--sam", "none.pth"]) == 1
    assert "none.pth" in capsys.readouterr().err
    assert set(out.rglob("*")) == done, "what was refused left nothing behind"
