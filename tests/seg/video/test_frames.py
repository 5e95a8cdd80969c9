"""Oracles: OpenCV's reader and ffmpeg's own account of a file."""

import re
import subprocess

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from airl.scenes import clips
from airl.seg.video.frames import open_clip, write_mp4

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


@pytest.fixture(scope="module")
def images():
    return clips.clip(1, 12, (48, 64), "moving").render()[0]


def encode(images, path, *options, fps=12):
    T, H, W, _ = images.shape
    command = [FFMPEG, "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{W}x{H}", "-r", str(fps)]
    subprocess.run([*command, "-i", "-", *options, str(path)], input=images.tobytes(), check=True, capture_output=True)
    return path


def by_opencv(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    return np.stack(frames), capture.get(cv2.CAP_PROP_FPS)


def about(path):
    """What ffmpeg says of a file."""
    return subprocess.run([FFMPEG, "-i", str(path)], capture_output=True, text=True).stderr


@pytest.mark.parametrize(
    "name, options",
    [
        ("clip.mp4", ["-c:v", "libx264", "-pix_fmt", "yuv420p"]),
        ("clip.webm", ["-c:v", "libvpx-vp9"]),
        ("clip.gif", []),
        ("clip.mkv", ["-c:v", "ffv1"]),
    ],
)
def test_files_are_read_as_opencv_reads_them(tmp_path, images, name, options):
    clip = open_clip(encode(images, tmp_path / name, *options, fps=10))
    here, (there, fps) = np.stack(list(clip.read())), by_opencv(tmp_path / name)
    assert here.shape == there.shape == images.shape and here.dtype == np.uint8
    assert clip.size == (48, 64) and clip.fps == pytest.approx(fps, rel=0.01) and clip.length == 12
    # Both decode the same codes; their conversions from YUV round differently.
    assert np.abs(here.astype(int) - there).mean() < 3
    np.testing.assert_array_equal(np.stack(list(clip.read(9))), here[9:])
    if name == "clip.mkv":  # lossless
        np.testing.assert_array_equal(here, images)


def test_an_av1_file_is_read(tmp_path, images):
    path = encode(images, tmp_path / "clip.webm", "-c:v", "libaom-av1", "-cpu-used", "8", "-crf", "10")
    here = np.stack(list(open_clip(path).read()))
    assert here.shape == images.shape
    assert np.abs(here.astype(int) - images).mean() < 16  # noise is what such codecs drop; a wrong frame would be > 25


def test_a_turned_film_is_upright(tmp_path, images):
    encode(images, tmp_path / "flat.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    turn = [FFMPEG, "-y", "-v", "error", "-display_rotation", "90", "-i", tmp_path / "flat.mp4", "-c", "copy"]
    subprocess.run([*turn, tmp_path / "turned.mp4"], check=True)
    clip = open_clip(tmp_path / "turned.mp4")
    assert clip.size == (64, 48)
    assert next(clip.read()).shape == (64, 48, 3)


def test_arrays_and_folders(tmp_path, images):
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")  # 10.png comes after 9.png
    (tmp_path / "notes.txt").write_text("no picture")
    for clip in (open_clip(tmp_path, fps=5), open_clip(images, fps=5)):
        assert (clip.length, clip.size, clip.fps) == (12, (48, 64), 5)
        np.testing.assert_array_equal(np.stack(list(clip.read())), images)
        np.testing.assert_array_equal(np.stack(list(clip.read(7))), images[7:])


def test_clips_are_told_apart(tmp_path, images):
    changed = images.copy()
    changed[5, 3, 3] ^= 1
    assert open_clip(images).identity == open_clip(images.copy()).identity
    assert open_clip(images).identity != open_clip(changed).identity
    assert open_clip(images).identity != open_clip(images, fps=3).identity
    path = encode(images, tmp_path / "clip.mkv", "-c:v", "ffv1")
    before = open_clip(path).identity
    encode(changed[:7], path, "-c:v", "ffv1")
    assert open_clip(path).identity != before


def test_what_cannot_be_read(tmp_path, images):
    def refused(video, error, words, **options):
        with pytest.raises(error, match=words):
            list(open_clip(video, **options).read())

    (tmp_path / "empty.mp4").touch()
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 1000)
    (tmp_path / "none").mkdir()
    refused(tmp_path / "gone.mp4", FileNotFoundError, "there is no clip at .*gone.mp4")
    refused(tmp_path / "empty.mp4", ValueError, "empty.mp4 is an empty file")
    refused(tmp_path / "junk.mp4", ValueError, "junk.mp4 is not a clip that ffmpeg can read.*ffmpeg -i junk.mp4")
    refused(tmp_path / "none", ValueError, "holds no pictures")
    refused(images[:0], ValueError, "T > 0")
    refused(images[..., 0], ValueError, r"\(12, 48, 64\)")
    refused(images.astype(np.float32), ValueError, "float32")
    refused(3, TypeError, "not a int")
    refused(images, ValueError, "fps is 0", fps=0)

    path = encode(images, tmp_path / "whole.mp4", "-c:v", "libx264", "-movflags", "+faststart")
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    refused(tmp_path / "cut.mp4", ValueError, r"cut.mp4 is damaged: \d+ of about 12 frames")
    refused(path, ValueError, "leave fps out", fps=5)

    data = path.read_bytes()
    (tmp_path / "strange.mp4").write_bytes(data.replace(b"avc1", b"zzz9"))
    refused(tmp_path / "strange.mp4", ValueError, "strange.mp4")

    sound = [FFMPEG, "-y", "-v", "error", "-f", "lavfi", "-i", "sine=duration=0.2", tmp_path / "sound.mp4"]
    subprocess.run(sound, check=True)
    refused(tmp_path / "sound.mp4", ValueError, "sound.mp4")


def test_frames_of_different_sizes_are_refused_before_any_is_read(tmp_path, images):
    Image.fromarray(images[0]).save(tmp_path / "0.png")
    Image.fromarray(images[0][:40]).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match="0.png is 64 x 48 pixels, 1.png is 64 x 40"):
        open_clip(tmp_path)
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="1.png is not a picture"):
        open_clip(tmp_path)


def test_a_reader_that_is_left_early_ends_its_process(images, tmp_path):
    path = encode(np.concatenate([images] * 40), tmp_path / "long.mkv", "-c:v", "ffv1")
    reader = open_clip(path).read()
    next(reader)
    reader.close()  # else it would wait for the rest of the clip to be taken
    assert next(open_clip(path).read()).shape == (48, 64, 3)


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_write_mp4_is_what_browsers_play(tmp_path, images, size):
    images = images[:, : size[0], : size[1]]
    path = write_mp4(iter(images), tmp_path / "out.mp4", 12.5)
    said = about(path)
    assert "h264" in said and "yuv420p" in said and re.search(r"\b64x48\b", said), said
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index is in front, so that it plays while it loads"
    there, fps = by_opencv(path)
    assert fps == pytest.approx(12.5) and len(there) == 12
    assert np.abs(there[:, : size[0], : size[1]].astype(int) - images).mean() < 12  # the codec drops noise
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_nothing_half_written_is_left(tmp_path, images):
    def broken():
        yield images[0]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_mp4(broken(), tmp_path / "out.mp4", 10)
    with pytest.raises(ValueError, match="no frames"):
        write_mp4([], tmp_path / "out.mp4", 10)
    with pytest.raises(ValueError, match="one size"):
        write_mp4([images[0], images[0][:40]], tmp_path / "out.mp4", 10)
    assert not list(tmp_path.iterdir())
