"""Download one file from whichever of several sources serves it whole.

A source that is silent, slow, or serves something else is left for the next, with one printed line that says
why. The right file is known by its length and md5, so any mirror will do.
"""

import contextlib
import hashlib
import http.client
import os
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

# The University of Toronto's server has given 50 to 85 kB/s since June 2026 (pytorch/vision#9536): an hour for
# CIFAR-10. At 200 kB/s it is still a quarter of an hour, so a slower source is worth leaving for another.
MIN_RATE = 200_000  # bytes per second, on average over STALL_SECONDS
STALL_SECONDS = 20.0  # outlasts a hiccup of the connection; also the limit of every single wait for data


class BadSource(Exception):
    """Why a source is left for the next."""


def download(urls: Sequence[str], path: str | Path, size: int, md5: str) -> str:
    """Put the file of `size` bytes with this `md5` at `path`, from the first of `urls` that serves it.

    The file grows beside `path`, as .NAME.part, and is renamed when it is whole and verified, so that `path` never
    holds a part of it. What broke off goes on where it was, from the next source or when this is called again.
    Several processes may do this at once. Returns the address that served it, or its end. Raises ConnectionError,
    with the reason for every source, when none did; an OSError of the local disk is raised as it is.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    with _part(path) as file:
        for url in urls:
            try:
                resumed = _append(url, file, size, path.name)
                digest = _md5(file)
                if digest != md5 and resumed:  # what was there may be another source's fault
                    file.truncate(0)
                    _append(url, file, size, path.name)
                    digest = _md5(file)
                if digest != md5:
                    file.truncate(0)
                    raise BadSource(f"served other content (md5 {digest})")
            except BadSource as reason:
                print(f"left {url}: it {reason}")
                reasons.append(f"  {url} {reason}")
                continue
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
            return url
        kept = file.seek(0, os.SEEK_END)
    raise ConnectionError(
        "\n".join([f"no source served {path.name}:", *reasons])
        + (f"\n{kept:,} bytes are kept, and the next run goes on from there." if kept else "")
        + f"\nGet this file ({size:,} bytes, md5 {md5}) some other way, put it at {path.absolute()} and run again."
    )


@contextlib.contextmanager
def _part(path: Path) -> Iterator[BinaryIO]:
    """Open, to append to it, the file in which a download to `path` left off; while another process is at that, one of
    our own, which nobody goes on with. One that is empty at the end goes."""
    with open(path.with_name(f".{path.name}.part"), "a+b") as file:
        if not _lock(file):
            with tempfile.NamedTemporaryFile("a+b", dir=path.parent, prefix=f".{path.name}.", delete=False) as own:
                try:
                    yield own
                finally:
                    Path(own.name).unlink(missing_ok=True)
            return
        try:
            yield file
        finally:
            if Path(file.name).exists() and not file.seek(0, os.SEEK_END):
                Path(file.name).unlink()


def _lock(file: BinaryIO) -> bool:
    """Hold a file until it is closed; False if another process does, or has renamed it since."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.stat(file.name), os.fstat(file.fileno()))
    except (ImportError, OSError):  # Windows; locked; renamed; a file system without locks
        return False


def _md5(file: BinaryIO) -> str:
    file.seek(0)
    return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _append(url: str, file: BinaryIO, size: int, name: str) -> bool:
    """Get what a file lacks of its `size` bytes; whether there was something to go on from."""
    from tqdm.auto import tqdm

    start = file.seek(0, os.SEEK_END)
    if start > size:
        start = file.truncate(0)
    if start == size:
        return True
    resumed = False
    with tqdm(total=size, initial=start, unit="B", unit_scale=True, desc=name) as bar:
        for position, chunk in _chunks(url, size, start):
            if position == 0 and start:  # this source cannot begin in the middle
                file.truncate(0)
                bar.reset()
            resumed = resumed or position == start > 0
            file.write(chunk)
            bar.update(len(chunk))
    return resumed


def _chunks(url: str, size: int, start: int) -> Iterator[tuple[int, bytes]]:
    """Yield what `url` serves of a file of `size` bytes, with each chunk's position: from `start` on, or from 0 where
    the server cannot begin in the middle. Raise BadSource when it does not serve the file to its end, or too slowly."""
    headers = {"User-Agent": "airl"}  # some hosts refuse urllib's own
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=STALL_SECONDS) as response:
            if "html" in response.headers.get("Content-Type", ""):
                raise BadSource("answered with a web page")
            resumes = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            received = start if response.status == 206 and resumes else 0
            length = received + int(response.headers.get("Content-Length", size - received))
            if length != size:
                raise BadSource(f"offers {length} bytes, not {size}")
            window_bytes, window_start = 0, time.monotonic()
            # read1 is one read of the socket, which the timeout bounds; read(n) would wait until it has n bytes.
            while chunk := response.read1(1 << 18):
                if received + len(chunk) > size:
                    raise BadSource(f"sent more than {size} bytes")
                yield received, chunk
                received += len(chunk)
                window_bytes += len(chunk)
                seconds = time.monotonic() - window_start
                if seconds >= STALL_SECONDS:
                    if window_bytes < MIN_RATE * seconds and received < size:
                        rate = window_bytes / seconds / 1000
                        raise BadSource(f"stalled: {rate:.0f} kB/s over {seconds:.0f} s")
                    window_bytes, window_start = 0, time.monotonic()
            if received < size:
                raise BadSource(f"broke off after {received} of {size} bytes")
    except urllib.error.HTTPError as error:
        raise BadSource(f"answered HTTP {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise BadSource(f"stalled: nothing came for {STALL_SECONDS:g} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # unreachable, not HTTP, not an address
        raise BadSource(f"failed: {error}") from error


def extract(archive: Path, folder: Path) -> None:
    """Unpack the folder of that name from the tar archive.

    It appears whole or not at all; several processes may do this at once.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        try:
            os.rename(Path(temporary) / folder.name, folder)
        except OSError:
            if not folder.exists():
                raise  # else another process was first, with the same files
