"""Any clip a person has, as a stream of pictures of one size; and pictures back to a clip that every browser plays."""

import contextlib
import hashlib
import re
import subprocess
import tempfile
import zlib
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from airl import images
from airl.files import atomic_write

Video = str | Path | np.ndarray | torch.Tensor | Iterable[images.Picture]
FPS = 10.0  # frames a second of what does not say it: arrays, tensors, folders, lists and generators
BLOCK = 2**27  # bytes of frames that going back keeps at once


class Frames:
    """A clip that is read from its start, or from any frame on, as often as wanted.

    name: for messages. size: (H, W). fps: frames a second. length: how many frames there are; for a video file as many
    as its packets, which may differ from what can be decoded. identity: what tells this clip from another, for JSON.
    damage: what was lost in reading, None for nothing. sound: a file with the clip's sound, with the second at which
    the clip begins in it, None for none.
    """

    name: str
    size: tuple[int, int]
    fps: float
    length: int
    identity: dict
    damage: str | None = None
    sound: tuple[Path, float] | None = None

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Frames from `start` on, up to but not with `stop`, each uint8 (H, W, 3) RGB."""
        raise NotImplementedError


def open_clip(
    video: Video,
    fps: float | None = None,
    *,
    start: int = 0,
    end: int | None = None,
    stride: int = 1,
    max_side: int | None = None,
) -> Frames:
    """Open a clip: a file's path (mp4, gif, animated WebP, whatever ffmpeg reads), a folder of pictures in the order of
    their names (2.png before 10.png), an array or a tensor (T, H, W, 3) or, for a tensor, (T, 3, H, W), of uint8 or
    floats in [0, 1], or a list or a generator of pictures (see `images.load`). What a generator gives is kept, without
    loss, in a temporary file.

    fps: frames a second of what does not say it, 10 if None. start, end, stride: which frames, as in a slice. max_side:
    make the frames smaller, so that the longer side has at most so many pixels. Raises FileNotFoundError for a path
    that is not there, ValueError for a clip without frames, one that cannot be read, frames of different sizes and
    options out of range, TypeError for anything else.
    """
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"fps is {fps}; expected a positive number of frames a second")
    for name, value, least in (("start", start, 0), ("end", end, 1), ("stride", stride, 1), ("max_side", max_side, 16)):
        optional = value is None and name in ("end", "max_side")
        if not optional and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ValueError(f"{name} is {value!r}; expected a whole number of at least {least}")
    clip = _open(video, fps)
    if (start, end, stride, max_side) == (0, None, 1, None):
        return clip
    return _Part(clip, start, end, stride, max_side)


def _open(video: Video, fps: float | None) -> Frames:
    if isinstance(video, Frames):
        return video
    if isinstance(video, torch.Tensor):
        array = video.detach().cpu().numpy()
        if array.ndim == 4 and array.shape[1] == 3 and array.shape[3] != 3:
            array = array.transpose(0, 2, 3, 1)
        return _Array(array, fps or FPS)
    if isinstance(video, np.ndarray):
        return _Array(video, fps or FPS)
    if isinstance(video, str | Path):
        return _open_path(video, fps)
    if isinstance(video, Sequence) and not isinstance(video, bytes):
        return _Pictures(list(video), f"the list of {len(video)} pictures", fps or FPS)
    if isinstance(video, Iterator):
        return _Generated(video, fps or FPS)
    kinds = "a file's path, a folder of pictures, an array, a tensor, or a list or generator of pictures"
    raise TypeError(f"a clip is {kinds}, not a {type(video).__name__}")


def _open_path(video: str | Path, fps: float | None) -> Frames:
    path = Path(video).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no clip at {video} (the working folder is {Path.cwd()})")
    if path.is_dir():
        known = Image.registered_extensions()
        paths = sorted(
            (p for p in path.iterdir() if p.suffix.lower() in known and not p.name.startswith(".")),
            key=lambda p: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", p.name)],
        )
        if not paths:
            raise ValueError(f"the folder {path} holds no pictures, so there is no clip in it")
        return _Pictures(paths, str(path), fps or FPS)
    if fps is not None:
        raise ValueError(f"fps is {fps}, but {video} says itself how fast it plays; leave fps out")
    if not path.stat().st_size:
        raise ValueError(f"{path} is an empty file, so there is no clip in it")
    return _Animation(path) if path.suffix.lower() == ".webp" else _File(path)


class _Part(Frames):
    """Some of a clip's frames, perhaps made smaller."""

    def __init__(self, clip: Frames, start: int, end: int | None, stride: int, max_side: int | None):
        if start >= clip.length or (end is not None and end <= start):
            raise ValueError(f"no frame is from {start} to {end}: {clip.name} has the frames 0 to {clip.length - 1}")
        self.clip, self.start, self.end, self.stride = clip, start, end, stride
        self.name, self.fps = clip.name, clip.fps / stride
        self.length = len(range(clip.length)[start:end:stride])
        scale = min(1.0, max_side / max(clip.size)) if max_side else 1.0
        self.size = tuple(max(1, round(side * scale)) for side in clip.size)
        part = {"start": start, "end": end, "stride": stride, "max_side": max_side}
        self.identity = {**clip.identity, **part}
        if clip.sound:
            self.sound = clip.sound[0], clip.sound[1] + start / clip.fps

    @property
    def damage(self) -> str | None:
        return self.clip.damage

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        import cv2

        last = self.end
        if stop is not None:
            last = self.start + stop * self.stride if last is None else min(last, self.start + stop * self.stride)
        rest = self.clip.read(self.start + start * self.stride, last)
        for image in islice(rest, 0, None, self.stride):
            if image.shape[:2] != self.size:
                image = cv2.resize(image, self.size[::-1], interpolation=cv2.INTER_AREA)
            yield image


class _Array(Frames):
    def __init__(self, array: np.ndarray, fps: float):
        if array.ndim != 4 or array.shape[3] != 3 or not array.size:
            raise ValueError(f"a clip is (T, H, W, 3) with T > 0; this array is {array.dtype} {array.shape}")
        if np.issubdtype(array.dtype, np.floating):
            if not (array.min() >= 0 and array.max() <= 1):  # false for NaN too
                raise ValueError(f"a float clip is in [0, 1]; this array is in [{array.min()}, {array.max()}]")
            array = (array * 255 + 0.5).astype(np.uint8)
        if array.dtype != np.uint8:
            raise ValueError(f"a clip is uint8 or float; this array is {array.dtype}")
        self.array, self.fps = array, float(fps)
        self.name, self.size, self.length = f"the array {array.shape}", array.shape[1:3], len(array)
        self.identity = {"array": list(array.shape), "sha256": _digest(array), "fps": self.fps}

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        yield from map(np.ascontiguousarray, self.array[start:stop])


class _Pictures(Frames):
    """A list of pictures, of which those in files are read when they are needed."""

    def __init__(self, items: list, name: str, fps: float):
        if not items:
            raise ValueError(f"{name} is empty, so there is no clip in it")
        self.items, self.name, self.fps, self.length = items, name, float(fps), len(items)
        self.size = images.load(items[0]).shape[:2]
        files = [Path(item) for item in items if isinstance(item, str | Path)]
        for i, path in enumerate(files[1:] if len(files) == len(items) else [], 1):
            self._check(i, _upright_size(path))
        if len(files) == len(items):
            about = [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
            digest = hashlib.sha256(repr(about).encode()).hexdigest()
        else:
            digest = _digest(self.read())
        self.identity = {"pictures": len(items), "sha256": digest, "fps": self.fps}

    def _check(self, i: int, size: tuple[int, int]) -> None:
        if size != self.size:
            first, this = (
                Path(item).name if isinstance(item, str | Path) else f"frame {k}"
                for k, item in ((0, self.items[0]), (i, self.items[i]))
            )
            raise ValueError(
                f"the frames of {self.name} differ in size: {first} is {self.size[1]} x {self.size[0]} pixels, "
                f"{this} is {size[1]} x {size[0]}; a clip has frames of one size"
            )

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        for i, item in enumerate(self.items[start:stop], start):
            frame = images.load(item)
            self._check(i, frame.shape[:2])
            yield frame


def _digest(frames: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(np.ascontiguousarray(frame))
    return digest.hexdigest()


def _upright_size(path: Path) -> tuple[int, int]:
    """(H, W) by the file's header, as its EXIF orientation says."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except OSError as error:
        raise ValueError(f"{path} is not a picture that can be read: {error}") from error


class _Animation(Frames):
    """An animated picture as Pillow reads it: WebP, which ffmpeg may not know."""

    def __init__(self, path: Path):
        self.path, self.name = path, str(path)
        self.size = images.load(path).shape[:2]
        with Image.open(path) as image:
            self.length = getattr(image, "n_frames", 1)
            milliseconds = 0.0
            for t in range(self.length if self.length > 1 else 0):
                image.seek(t)
                image.load()  # only then does it know
                milliseconds += image.info.get("duration", 0)
        self.fps = 1000 * self.length / milliseconds if milliseconds else FPS
        self.identity = _of_file(path)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        with Image.open(self.path) as image:
            for t in range(start, self.length if stop is None else min(stop, self.length)):
                image.seek(t)
                yield images.load(image.copy())


def _of_file(path: Path) -> dict:
    stat = path.stat()
    return {"file": str(path.resolve()), "bytes": stat.st_size, "changed": stat.st_mtime_ns}


class _File(Frames):
    """A film, by ffmpeg. What it holds is counted by its packets, which costs reading it once; the container's duration
    says how long the longest of its streams is, and that may be the sound."""

    def __init__(self, path: Path):
        self.path, self.name = path, str(path)
        packets = [_ffmpeg(), "-hide_banner", "-nostdin", "-i", str(path), "-map", "0:V:0", "-c", "copy"]
        done = subprocess.run([*packets, "-f", "framecrc", "-"], capture_output=True)
        said = done.stderr.decode(errors="replace")
        streams = re.findall(r"Stream #0:\d+.*?: (\w+): (.*)", said.split("Stream mapping")[0].split("Output #0")[0])
        if streams and not any(kind == "Video" and "attached pic" not in about for kind, about in streams):
            what = "sound and a cover picture" if any(kind == "Video" for kind, _ in streams) else "sound alone"
            raise ValueError(f"{path} holds {what}, no film, so there is no clip in it")
        for words in ("partial file", "ended prematurely"):
            if words in said:
                raise ValueError(f"{path} is damaged: it breaks off ({_last_line(said, words)}); copy it here again")
        tick = re.search(rb"#tb 0: (\d+)/(\d+)", done.stdout)
        first = subprocess.run(
            [*self._decode(), "-frames:v", "1", "-f", "image2pipe", "-c:v", "ppm", "-"], capture_output=True
        )
        header = re.match(rb"P6\s+(\d+)\s+(\d+)\s", first.stdout)
        if not tick or not header:
            why = _last_line(first.stderr.decode(errors="replace") or said)
            raise ValueError(
                f"{path} is not a clip that ffmpeg can read; it may be damaged, or in an unknown codec: {why}. "
                f"Convert it first, as with: ffmpeg -i {path.name} -pix_fmt yuv420p clip.mp4"
            )
        self.size = int(header[2]), int(header[1])
        stamps = [int(line.split(b",")[2]) for line in done.stdout.splitlines() if not line.startswith(b"#")]
        self.times = np.sort(stamps) * int(tick[1]) / int(tick[2])  # seconds from the film's start
        self.length = len(stamps)
        about = next(about for kind, about in streams if kind == "Video" and "attached pic" not in about)
        rate = re.search(r"([\d.]+k?) (?:fps|tbr)", about)
        self.fps = (float(rate[1].replace("k", "e3")) if rate else 0) or FPS
        if any(kind == "Audio" and not re.match("none|unknown", about) for kind, about in streams):
            self.sound = path, 0.0
        self.marks = array("L")  # of every frame read so far: a checksum, by which a seek is known to be right
        self.identity = _of_file(path)

    def _decode(self, seconds: float | None = None) -> list[str]:
        seek = [] if seconds is None else ["-ss", f"{seconds:.6f}"]
        return [_ffmpeg(), "-v", "error", "-nostdin", *seek, "-i", str(self.path), "-map", "0:V:0"]

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """As `Frames.read`. Frames that were read before are sought, not decoded from the film's start, if what comes
        out is the same."""
        if 0 < start < (stop or 0) <= min(len(self.marks), self.length):
            between = (self.times[start - 1] + self.times[start]) / 2
            with contextlib.closing(self._run(between)) as found:
                block = list(islice(found, stop - start))
            if [_mark(frame) for frame in block] == list(self.marks[start:stop]):
                yield from block
                return
        with contextlib.closing(self._run()) as frames:
            for t, frame in enumerate(frames):
                if t == len(self.marks):
                    self.marks.append(_mark(frame))
                if stop is not None and t >= stop:
                    return
                if t >= start:
                    yield frame

    def _run(self, seconds: float | None = None) -> Iterator[np.ndarray]:
        """Decode from the film's start, or from a second on. Raises ValueError for a film without a frame."""
        command = [*self._decode(seconds), "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        bytes_per_frame = self.size[0] * self.size[1] * 3
        count = 0
        with (
            tempfile.TemporaryFile() as complaints,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, bufsize=bytes_per_frame) as ffmpeg,
        ):
            try:
                while len(data := ffmpeg.stdout.read(bytes_per_frame)) == bytes_per_frame:
                    yield np.frombuffer(data, np.uint8).reshape(*self.size, 3)
                    count += 1
                failed = bool(data) or ffmpeg.wait() != 0
            except BaseException:  # GeneratorExit too: nobody wants the rest
                ffmpeg.kill()
                count, failed = None, False
                raise
            finally:
                complaints.seek(0)
                said = complaints.read().decode(errors="replace").strip()
                if seconds is None:
                    self.damage = self._damage(count, said, failed) or self.damage
        if count == 0:
            raise ValueError(f"{self.name} holds no frame that ffmpeg can decode: {_last_line(said)}")

    def _damage(self, count: int | None, said: str, failed: bool) -> str | None:
        """What is missing or wrong by what ffmpeg said, by how many frames came out (None if not all were wanted), and
        by their times."""
        if said or failed:
            lost = "some" if count is None else f"about {max(0, self.length - count)}"
            return f"{self.name} is damaged: {lost} frames are lost, and others may be wrong: {_last_line(said)}"
        gaps = np.diff(self.times)
        usual = np.median(gaps) if len(gaps) else 0
        if not usual or np.mean(np.abs(gaps - usual) < 0.1 * usual) < 0.9:  # its frames do not come evenly
            return None
        missing = int((gaps[gaps > 1.5 * usual] / usual - 0.5).sum())
        return f"{self.name} leaves out about {missing} frames: lost, or never recorded" if missing else None


def _mark(frame: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(frame[::7, ::5]))


class _Generated(_File):
    """What a generator gives, kept as a film whose every frame is a key frame, without loss."""

    def __init__(self, frames: Iterator, fps: float):
        self.folder = tempfile.TemporaryDirectory(prefix="airl-clip-")  # goes with this object
        digest = hashlib.sha256()

        def loaded() -> Iterator[np.ndarray]:
            for frame in frames:
                image = images.load(frame)
                digest.update(image)
                yield image

        path = Path(self.folder.name) / "clip.mkv"
        try:
            _encode(loaded(), path, fps, ["-c:v", "ffv1", "-f", "matroska"], even=False)
        except ValueError as error:
            raise ValueError(f"the generator is not a clip: {error}") from error
        super().__init__(path)
        self.name, self.fps = "the generated clip", float(fps)
        self.identity = {"generated": self.length, "sha256": digest.hexdigest(), "fps": self.fps}


def backwards(clip: Frames, t: int, recent: deque[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """The frames before t, the last first: the recent ones are at hand, older ones are read again in blocks."""
    for image in reversed(recent):
        t -= 1
        yield t, image
    length = max(recent.maxlen, min(64, BLOCK // (3 * clip.size[0] * clip.size[1])))
    while t > 0:
        block = list(clip.read(max(0, t - length), t))
        while block:
            t -= 1
            yield t, block.pop()


def _last_line(text: str, words: str = "") -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and words in line]
    return re.sub(r" @ 0x[0-9a-f]+", "", lines[-1]) if lines else "ffmpeg does not say why"


def _ffmpeg() -> str:
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def write_mp4(
    frames: Iterable[np.ndarray],
    path: str | Path,
    fps: float,
    sound: tuple[Path, float] | None = None,
    seconds: float | None = None,
) -> Path:
    """Write frames, each uint8 (H, W, 3) RGB, to an H.264 file that browsers play: yuv420p, the index in front.

    sound: a file whose sound is added (AAC), and the second at which it begins; seconds: how much of it. A side of odd
    length, which H.264 does not have, is made even by repeating the last row or column. The file appears whole or not
    at all. Raises ValueError for no frames and for frames of different sizes, OSError when ffmpeg fails.
    """
    options = ["-map", "0:v", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-movflags", "+faststart"]
    source = []
    if sound:
        source = ["-ss", f"{sound[1]:.6f}", *(["-t", f"{seconds:.6f}"] if seconds else []), "-i", str(sound[0])]
        options += ["-map", "1:a:0", "-c:a", "aac"]
    with atomic_write(path) as temporary:
        _encode(frames, temporary, fps, [*source, *options, "-f", "mp4"], even=True, name=path)
    return Path(path)


def _encode(
    frames: Iterable[np.ndarray], path: Path, fps: float, options: list[str], even: bool, name: str | Path | None = None
) -> None:
    name = name or path
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"there are no frames to write to {name}")
    odd = [(0, side % 2 if even else 0) for side in first.shape[:2]] + [(0, 0)]
    height, width = (side + more for side, (_, more) in zip(first.shape[:2], odd[:2], strict=True))
    command = [_ffmpeg(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    command += ["-r", f"{fps:.6g}", "-i", "-", *options, str(path)]
    with tempfile.TemporaryFile() as complaints:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=complaints) as ffmpeg:
            try:
                frame = first
                while frame is not None:
                    if frame.shape != first.shape:
                        raise ValueError(f"a frame is {frame.shape}, the first was {first.shape}: {name} has one size")
                    ffmpeg.stdin.write(np.pad(frame, odd, mode="edge").tobytes())
                    frame = next(frames, None)
                ffmpeg.stdin.close()
            except BrokenPipeError:
                pass  # ffmpeg has given up; it says why below
            except BaseException:
                ffmpeg.kill()
                raise
        if ffmpeg.returncode:
            complaints.seek(0)
            raise OSError(f"ffmpeg could not write {name}: {_last_line(complaints.read().decode(errors='replace'))}")
