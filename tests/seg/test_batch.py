"""Many files at once, and the command line, on the embedded models."""

import json

import numpy as np
import pytest
from PIL import Image

from airl import images, seg
from airl.scenes import shapes
from airl.seg.__main__ import main

FILES = {"mask.png", "overlay.jpg", "cutout.png", "result.json", "steps.png"}
PROMPT = "a red circle"


@pytest.fixture(scope="module")
def segmenter():
    return seg.TextSegmenter.tiny(device="cpu")


@pytest.fixture
def pictures(tmp_path):
    """Two scenes of any kind, and between them a file that is no picture."""
    files = [tmp_path / name for name in ("a.png", "broken.jpg", "b.jpg")]
    for seed, file in enumerate(files):
        images.save(shapes.scene(seed, (96, 128)).image, file)
    files[1].write_bytes(b"no picture")
    return files


def test_one_bad_file_is_reported_and_the_rest_go_on(segmenter, pictures, tmp_path, capfd):
    errors = seg.segment_files(segmenter, pictures, PROMPT, tmp_path / "out")
    assert list(errors) == [pictures[1]] and "broken.jpg" in str(errors[pictures[1]])
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a", "b"}
    for name in ("a", "b"):
        folder = tmp_path / "out" / name / "a-red-circle"
        result = json.loads((folder / "result.json").read_text())
        expected = segmenter(tmp_path / ("a.png" if name == "a" else "b.jpg"), PROMPT)
        assert {p.name for p in folder.iterdir()} == FILES - (set() if expected.found else {"cutout.png"})
        assert result["prompt"] == PROMPT and result["found"] == expected.found
        assert (np.asarray(Image.open(folder / "mask.png")) == expected.mask * 255).all()
        assert Image.open(folder / "steps.png").width > 500
    said = capfd.readouterr()
    assert "broken.jpg" in said.err and "a.png: " in said.out + said.err


def test_what_is_done_is_skipped_and_never_overwritten(segmenter, pictures, tmp_path, capfd):
    out = tmp_path / "out"
    seg.segment_files(segmenter, pictures[:1], PROMPT, out)
    marker = out / "a" / "a-red-circle" / "mask.png"
    marker.write_text("kept")
    (out / "a" / "a-red-circle" / "steps.png").unlink()  # whatever else is there: result.json says it is done
    assert not seg.segment_files(segmenter, [pictures[0], pictures[2]], PROMPT, out)
    assert marker.read_text() == "kept" and (out / "b" / "a-red-circle" / "result.json").exists()
    assert "skipped" in "".join(capfd.readouterr())

    (error,) = seg.segment_files(segmenter, pictures[:1], "A red circle!", out).values()  # the same folder's name
    assert isinstance(error, FileExistsError) and "'a red circle'" in str(error) and marker.read_text() == "kept"

    assert not seg.segment_files(segmenter, pictures[:1], PROMPT, out, overwrite=True)
    assert Image.open(marker).size == (128, 96)


def test_an_interrupted_one_is_done_again(segmenter, pictures, tmp_path):
    folder = tmp_path / "out" / "a" / "a-red-circle"
    folder.mkdir(parents=True)
    (folder / "cutout.png").write_text("half")  # stopped between two files
    assert not seg.segment_files(segmenter, pictures[:1], PROMPT, tmp_path / "out")
    assert {p.name for p in folder.iterdir()} == FILES - {"cutout.png"}, "nothing there, nothing to cut out"


def test_bad_requests_are_refused_before_any_work(segmenter, pictures, tmp_path):
    with pytest.raises(ValueError, match="'  '.*a person"):
        seg.segment_files(segmenter, pictures, "  ", tmp_path / "out")
    with pytest.raises(ValueError, match="a.png and .*a.jpg have the same name"):
        seg.segment_files(segmenter, [*pictures, tmp_path / "sub" / "a.jpg"], PROMPT, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_line(pictures, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [*map(str, pictures), PROMPT, "-o", str(out), "--sam", "tiny", "--recipe", "best"]
    assert main(arguments) == 1, "one file is broken"
    assert "broken.jpg" in capsys.readouterr().err
    assert {p.name for p in (out / "b" / "a-red-circle").iterdir()} == FILES - {"cutout.png"}
    assert main([str(pictures[0]), PROMPT, "-o", str(out), "--sam", "tiny"]) == 0
    assert main([str(pictures[0]), str(pictures[2]), "-o", str(out), "--sam", "tiny"]) == 1
    assert "the last argument is the prompt" in capsys.readouterr().err
    assert main([str(pictures[0]), PROMPT, "-o", str(out), "--sam", "none.pth"]) == 1
    assert "none.pth" in capsys.readouterr().err
