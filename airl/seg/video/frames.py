"""Any clip a person has, as a stream of pictures of one size; and pictures back to a clip that every browser plays."""

import hashlib
import re
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from airl import images
from airl.files import atomic_write

Video = str | Path | np.ndarray
FPS = 10.0  # frames a second of what does not say it: arrays and folders


class Frames:
    """A clip that is read from its start, or from any frame on, as often as wanted.

    name: for messages. size: (H, W). fps: frames a second. length: how many frames there are; for a video file an
    estimate by its duration. identity: what tells this clip from another, for JSON.
    """

    name: str
    size: tuple[int, int]
    fps: float
    length: int
    identity: dict

    def read(self, start: int = 0) -> Iterator[np.ndarray]:
        """Frames from `start` on, each uint8 (H, W, 3) RGB."""
        raise NotImplementedError


def open_clip(video: Video, fps: float | None = None) -> Frames:
    """Open a clip: a file's path (mp4, gif, webm, whatever ffmpeg reads), a folder of pictures in the order of their
    names (2.png before 10.png), or an array uint8 (T, H, W, 3) RGB.

    fps: frames a second of an array or a folder, 10 if None; a file says it itself. Raises FileNotFoundError for a path
    that is not there, ValueError for a clip without frames, one that cannot be read and frames of different sizes,
    TypeError for anything else.
    """
    if fps is not None and not fps > 0:
        raise ValueError(f"fps is {fps}; expected a positive number of frames a second")
    if isinstance(video, np.ndarray):
        return _Array(video, fps or FPS)
    if not isinstance(video, str | Path):
        raise TypeError(f"a clip is a file's path, a folder of pictures or an array, not a {type(video).__name__}")
    path = Path(video).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no clip at {video} (the working folder is {Path.cwd()})")
    if path.is_dir():
        return _Folder(path, fps or FPS)
    if fps is not None:
        raise ValueError(f"fps is {fps}, but {video} says itself how fast it plays; leave fps out")
    return _File(path)


class _Array(Frames):
    def __init__(self, array: np.ndarray, fps: float):
        if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8 or not array.size:
            raise ValueError(f"a clip is uint8 (T, H, W, 3) with T > 0; this array is {array.dtype} {array.shape}")
        self.array, self.fps = array, float(fps)
        self.name, self.size, self.length = f"the array {array.shape}", array.shape[1:3], len(array)
        digest = hashlib.sha256()
        for frame in array:
            digest.update(np.ascontiguousarray(frame))
        self.identity = {"array": list(array.shape), "sha256": digest.hexdigest(), "fps": self.fps}

    def read(self, start: int = 0) -> Iterator[np.ndarray]:
        yield from self.array[start:]


class _Folder(Frames):
    def __init__(self, folder: Path, fps: float):
        known = Image.registered_extensions()
        self.paths = sorted(
            (p for p in folder.iterdir() if p.suffix.lower() in known and not p.name.startswith(".")),
            key=lambda p: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", p.name)],
        )
        if not self.paths:
            raise ValueError(f"the folder {folder} holds no pictures, so there is no clip in it")
        self.name, self.fps, self.length = str(folder), float(fps), len(self.paths)
        self.size = images.load(self.paths[0]).shape[:2]
        for path in self.paths[1:]:
            self._check(path, _upright_size(path))
        files = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in self.paths]
        digest = hashlib.sha256(repr(files).encode()).hexdigest()
        self.identity = {"folder": str(folder.resolve()), "files": len(files), "sha256": digest, "fps": self.fps}

    def _check(self, path: Path, size: tuple[int, int]) -> None:
        if size != self.size:
            raise ValueError(
                f"the frames of {self.name} differ in size: {self.paths[0].name} is {self.size[1]} x {self.size[0]} "
                f"pixels, {path.name} is {size[1]} x {size[0]}; a clip has frames of one size"
            )

    def read(self, start: int = 0) -> Iterator[np.ndarray]:
        for path in self.paths[start:]:
            frame = images.load(path)
            self._check(path, frame.shape[:2])
            yield frame


def _upright_size(path: Path) -> tuple[int, int]:
    """(H, W) by the file's header, as its EXIF orientation says."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except OSError as error:
        raise ValueError(f"{path} is not a picture that can be read: {error}") from error


class _File(Frames):
    def __init__(self, path: Path):
        import imageio_ffmpeg

        self.path, self.name = path, str(path)
        if not path.stat().st_size:
            raise ValueError(f"{path} is an empty file, so there is no clip in it")
        reader = imageio_ffmpeg.read_frames(path)
        try:
            about = next(reader)
            self.size = about["size"][::-1]
            self.fps = float(about["fps"]) or FPS
        except Exception as error:  # it raises several kinds for what ffmpeg cannot open
            raise ValueError(
                f"{path} is not a clip that ffmpeg can read; it may be damaged, or in an unknown codec: "
                f"{_last_line(str(error))}. Convert it first, as with: ffmpeg -i {path.name} -pix_fmt yuv420p clip.mp4"
            ) from error
        finally:
            reader.close()
        self.length = max(1, round(about["duration"] * self.fps))
        stat = path.stat()
        self.identity = {"file": str(path.resolve()), "bytes": stat.st_size, "changed": stat.st_mtime_ns}

    def read(self, start: int = 0) -> Iterator[np.ndarray]:
        """As `Frames.read`. Raises ValueError, after the frames that could be had, for a file that ends too early."""
        import imageio_ffmpeg

        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-i", str(self.path), "-map", "0:v:0"]
        command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        bytes_per_frame = self.size[0] * self.size[1] * 3
        count = 0
        with (
            tempfile.TemporaryFile() as complaints,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, bufsize=bytes_per_frame) as ffmpeg,
        ):
            try:
                while len(data := ffmpeg.stdout.read(bytes_per_frame)) == bytes_per_frame:
                    if count >= start:
                        yield np.frombuffer(data, np.uint8).reshape(*self.size, 3)
                    count += 1
            except BaseException:  # GeneratorExit too: nobody wants the rest
                ffmpeg.kill()
                raise
            ffmpeg.wait()
            complaints.seek(0)
            said = _last_line(complaints.read().decode(errors="replace"))
        if not count:
            raise ValueError(f"{self.name} holds no frame that ffmpeg can decode: {said}")
        if data or ffmpeg.returncode or count < 0.95 * self.length - 2:
            raise ValueError(f"{self.name} is damaged: {count} of about {self.length} frames could be read: {said}")


def backwards(clip: Frames, t: int, recent: deque[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """The frames before t, the last first: the recent ones are at hand, older ones are read again in blocks."""
    for image in reversed(recent):
        t -= 1
        yield t, image
    while t > 0:
        start = max(0, t - recent.maxlen)
        block = list(islice(clip.read(start), t - start))
        while block:
            t -= 1
            yield t, block.pop()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "ffmpeg does not say why"


def write_mp4(frames: Iterable[np.ndarray], path: str | Path, fps: float) -> Path:
    """Write frames, each uint8 (H, W, 3) RGB, to an H.264 file that browsers play: yuv420p, the index in front.

    A side of odd length, which H.264 does not have, is made even by repeating the last row or column. The file appears
    whole or not at all. Raises ValueError for no frames and for frames of different sizes, OSError when ffmpeg fails.
    """
    import imageio_ffmpeg

    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"there are no frames to write to {path}")
    odd = [(0, side % 2) for side in first.shape[:2]] + [(0, 0)]
    height, width = (side + side % 2 for side in first.shape[:2])
    with atomic_write(path) as temporary, tempfile.TemporaryFile() as complaints:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{width}x{height}", "-r", f"{fps:.6g}", "-i", "-", "-c:v", "libx264", "-pix_fmt", "yuv420p"]
        command += ["-crf", "20", "-movflags", "+faststart", "-f", "mp4", str(temporary)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=complaints) as ffmpeg:
            try:
                frame = first
                while frame is not None:
                    if frame.shape != first.shape:
                        raise ValueError(f"a frame is {frame.shape}, the first was {first.shape}: {path} has one size")
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
            raise OSError(f"ffmpeg could not write {path}: {_last_line(complaints.read().decode(errors='replace'))}")
    return Path(path)
