"""Oracles: OpenCV's reader and ffmpeg's own account of a file."""

import re
import subprocess
from collections import deque

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from airl.scenes import clips
from airl.seg.video.frames import FPS, backwards, open_clip, write_mp4

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
    refused(images.astype(np.float32), ValueError, r"a float clip is in \[0, 1\]; this array is in \[0.0, 2")
    refused(images.astype(np.int64), ValueError, "int64")
    refused([], ValueError, "is empty")
    refused(iter(()), ValueError, "the generator is not a clip: there are no frames")
    refused(b"film", TypeError, "not a bytes")
    for name, value in (("start", -1), ("end", 0), ("stride", 0), ("stride", 1.5), ("max_side", 2), ("start", True)):
        refused(images, ValueError, f"{name} is {value!r}; expected a whole number", **{name: value})
    refused(images, ValueError, "no frame is from 12 to None: .* has the frames 0 to 11", start=12)
    refused(images, ValueError, "no frame is from 5 to 5", start=5, end=5)
    refused(3, TypeError, "not a int")
    refused(images, ValueError, "fps is 0", fps=0)

    path = encode(images, tmp_path / "whole.mp4", "-c:v", "libx264", "-movflags", "+faststart")
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    refused(tmp_path / "cut.mp4", ValueError, "cut.mp4 is damaged: it breaks off")
    refused(path, ValueError, "leave fps out", fps=5)

    data = path.read_bytes()
    (tmp_path / "strange.mp4").write_bytes(data.replace(b"avc1", b"zzz9"))
    refused(tmp_path / "strange.mp4", ValueError, "strange.mp4")

    sine = [FFMPEG, "-y", "-v", "error", "-f", "lavfi", "-i", "sine=duration=0.2"]
    subprocess.run([*sine, tmp_path / "sound.m4a"], check=True)
    refused(tmp_path / "sound.m4a", ValueError, "sound.m4a holds sound alone, no film")
    Image.fromarray(images[0]).save(tmp_path / "cover.png")
    cover = ["-i", tmp_path / "cover.png", "-map", "0", "-map", "1", "-c:v", "mjpeg", "-disposition:v", "attached_pic"]
    subprocess.run([*sine, *cover, "-pix_fmt", "yuvj420p", tmp_path / "cover.mp3"], check=True)
    refused(tmp_path / "cover.mp3", ValueError, "cover.mp3 holds sound and a cover picture, no film")


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


def test_lists_generators_tensors_and_animated_pictures(tmp_path, images):
    pictures = [Image.fromarray(image) for image in images]
    pictures[0].save(tmp_path / "clip.webp", save_all=True, append_images=pictures[1:], duration=50, lossless=True)
    for i, image in enumerate(pictures):
        image.save(tmp_path / f"{20 - i}.png")
    paths = [str(tmp_path / f"{20 - i}.png") for i in range(12)]  # in the list's order, not their names'
    tensor = torch.from_numpy(images.copy())
    for clip, fps in (
        (list(images), 10),
        (pictures, 10),
        (paths, 10),
        ((image for image in images), 10),
        (map(Image.fromarray, images), 10),
        (tensor, 10),
        (tensor.permute(0, 3, 1, 2), 10),
        (tensor.permute(0, 3, 1, 2) / 255, 10),
        (images / 255.0, 10),
        (tmp_path / "clip.webp", 20),
    ):
        clip = open_clip(clip)
        assert (clip.length, clip.size, clip.fps, clip.damage) == (12, (48, 64), fps, None)
        np.testing.assert_array_equal(np.stack(list(clip.read())), images)
        np.testing.assert_array_equal(np.stack(list(clip.read(7, 9))), images[7:9])
    white = np.ones((2, 20, 30, 3), np.float32)
    assert (next(open_clip(white).read()) == 255).all() and not next(open_clip(white - 1).read()).any()
    assert open_clip(iter(images)).identity == open_clip(iter(images)).identity
    assert open_clip(iter(images)).identity != open_clip(iter(images[::-1])).identity
    assert open_clip(list(images)).identity != open_clip(list(images[::-1])).identity
    with pytest.raises(ValueError, match="frame 0 is 64 x 48 pixels, frame 1 is 64 x 40"):
        open_clip([images[0], images[0][:40]])


def test_a_part_of_a_clip_is_a_slice_of_it(tmp_path, images):
    path = encode(images, tmp_path / "clip.mkv", "-c:v", "ffv1", fps=12)
    for video in (images, path):
        part = open_clip(video, start=2, end=11, stride=3)
        assert part.length == 3 and part.fps == open_clip(video).fps / 3
        np.testing.assert_array_equal(np.stack(list(part.read())), images[2:11:3])
        np.testing.assert_array_equal(np.stack(list(part.read(1))), images[2:11:3][1:])
        np.testing.assert_array_equal(np.stack(list(part.read(1, 2))), images[2:11:3][1:2])
        assert len(list(open_clip(video, end=50).read())) == 12
    small = open_clip(images, max_side=32)
    by_mean = images.reshape(12, 24, 2, 32, 2, 3).mean((2, 4))  # the area's mean is what halving by area is
    assert small.size == (24, 32) and open_clip(images, max_side=64).size == (48, 64)
    assert np.abs(np.stack(list(small.read())) - by_mean).max() <= 1  # rounding
    names = {
        str(open_clip(images, **o).identity) for o in ({}, {"start": 1}, {"end": 9}, {"stride": 2}, {"max_side": 32})
    }
    assert len(names) == 5


@pytest.mark.parametrize("variable", [False, True])
def test_going_back_seeks_and_gives_the_same_frames(tmp_path, images, variable, monkeypatch):
    long = np.concatenate([images, images[::-1]] * 3)  # (72, 48, 64, 3)
    options = ["-c:v", "libx264", "-g", "24", "-bf", "3", "-pix_fmt", "yuv420p"]
    if variable:  # a frame's time is no multiple of another's
        options += ["-vf", "setpts='(N+0.4*mod(N\\,3)+floor(N/10))/12/TB'", "-fps_mode", "passthrough"]
    clip = open_clip(encode(long, tmp_path / "clip.mkv", *options))  # ffmpeg 7's mp4 would hide the last frame
    frames = list(clip.read())
    assert len(frames) == 72
    begun, run = [], clip._run
    monkeypatch.setattr(clip, "_run", lambda seconds=None: begun.append(seconds) or run(seconds))
    recent = deque(frames[58:60], maxlen=2)
    monkeypatch.setattr("airl.seg.video.frames.BLOCK", 20 * 48 * 64 * 3)
    back = list(backwards(clip, 60, recent))
    assert [t for t, _ in back] == list(range(59, -1, -1))
    for t, image in back:
        np.testing.assert_array_equal(image, frames[t])
    assert len(begun) == 3 and None not in begun[:2], "all but the film's start were sought"

    clip.times = clip.times + 0.2  # where the times are wrong, it is seen, and the film decoded from its start
    np.testing.assert_array_equal(np.stack(list(clip.read(30, 33))), frames[30:33])
    assert begun[-2] is not None and begun[-1] is None


def test_sound_that_is_longer_than_the_picture(tmp_path, images):
    path = with_sound(encode(images, tmp_path / "clip.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p"), 9)
    clip = open_clip(path)
    assert (clip.length, len(list(clip.read())), clip.damage) == (12, 12, None)
    assert clip.sound == (path, 0) and open_clip(path, start=6).sound == (path, 0.5)


def with_sound(path, seconds):
    """The film beside a tone that rises, so that its parts can be told."""
    tone = ["-f", "lavfi", "-i", f"aevalsrc=sin(2*PI*t*(300+500*t)):d={seconds}"]
    heard = path.with_name("heard.mp4")
    subprocess.run([FFMPEG, "-y", "-v", "error", "-i", path, *tone, "-c:v", "copy", "-c:a", "aac", heard], check=True)
    return heard


def loudness(path, start=0.0):
    """The sound, from a second on, as float32 samples, 8000 a second."""
    command = [FFMPEG, "-v", "error", "-ss", str(start), "-i", path, "-map", "0:a:0", "-ar", "8000", "-ac", "1"]
    done = subprocess.run([*command, "-f", "f32le", "-"], capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.float32)


def test_the_sound_is_kept_from_where_the_clip_begins(tmp_path, images):
    film = with_sound(encode(images, tmp_path / "clip.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p"), 3)
    clip = open_clip(film, start=6, end=12)
    path = write_mp4(clip.read(), tmp_path / "out.mp4", clip.fps, clip.sound, 0.5)
    here, there = loudness(path), loudness(film, 0.5)
    assert 0.4 < len(here) / 8000 < 0.6  # AAC has frames of 0.02 seconds

    def likeness(other):
        """The highest correlation with a second's third of the sound, up to 0.06 s off."""
        windows = np.lib.stride_tricks.sliding_window_view(other[:3500], 2500)
        return np.max([np.corrcoef(here[500:3000], window)[0, 1] for window in windows[::2]])

    assert likeness(there) > 0.9 > 0.5 > likeness(loudness(film))
    assert len(list(open_clip(path).read())) == 6


def test_a_film_with_a_corrupt_middle_says_so(tmp_path, images):
    path = encode(np.concatenate([images] * 4), tmp_path / "clip.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    assert not [*open_clip(path).read()][48:] and open_clip(path).damage is None
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2
    data[middle : middle + 300] = bytes(255 - value for value in data[middle : middle + 300])
    path.write_bytes(data)
    clip = open_clip(path)
    count = len(list(clip.read()))
    assert 0 < count <= 48 and re.search(rf"clip.mp4 is damaged: about {48 - count} frames are lost", clip.damage)
    part = open_clip(path, stride=2)
    list(part.read())
    assert part.damage == clip.damage
    part = open_clip(path, end=45)
    list(part.read())
    assert "clip.mp4 is damaged: some frames are lost" in part.damage


def test_a_gap_in_a_films_times_is_told(tmp_path, images):
    film = np.concatenate([images] * 2)
    encode(
        film,
        tmp_path / "gap.mkv",
        "-vf",
        "select='not(between(n\\,10\\,11))'",
        "-fps_mode",
        "passthrough",
        "-c:v",
        "ffv1",
    )
    clip = open_clip(tmp_path / "gap.mkv")
    assert len(list(clip.read())) == 22 and "leaves out about 2 frames" in clip.damage


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


def test_a_film_that_cannot_be_written_says_why(tmp_path, images):
    with pytest.raises(OSError, match=r"could not write .*out.mp4: .*No such file"):
        write_mp4(images, tmp_path / "out.mp4", 10, (tmp_path / "nowhere.mp4", 0.0))
    assert not list(tmp_path.iterdir())


def test_animated_pictures_are_known_by_their_file_and_still_ones_have_no_pace(tmp_path):
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pictures[0].save(tmp_path / "two.webp", save_all=True, append_images=pictures[1:], duration=50)
    pictures[0].save(tmp_path / "one.webp", duration=50)
    two, one = open_clip(tmp_path / "two.webp"), open_clip(tmp_path / "one.webp")
    assert two.fps == 20 and one.fps == FPS and two.identity != one.identity
