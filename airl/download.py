"""Download one file from whichever of several sources serves it whole.

A source that is silent, slow, or serves something else is left for the next, with one printed line that says
why. The right file is known by its length and md5, so any mirror will do.
"""

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

from airl.files import atomic_write

# The University of Toronto's server has given 50 to 85 kB/s since June 2026 (pytorch/vision#9536): an hour for
# CIFAR-10. At 200 kB/s it is still a quarter of an hour, so a slower source is worth leaving for another.
MIN_RATE = 200_000  # bytes per second, on average over STALL_SECONDS
STALL_SECONDS = 20.0  # outlasts a hiccup of the connection; also the limit of every single wait for data


class BadSource(Exception):
    """Why a source is left for the next."""


def download(urls: Sequence[str], path: str | Path, size: int, md5: str) -> str:
    """Put the file of `size` bytes with this `md5` at `path`, from the first of `urls` that serves it.

    The file is written beside `path` and renamed when it is whole, so that `path` never holds a part of it;
    several processes may do this at once. Returns the address that served it. Raises ConnectionError, with the
    reason for every source, when none did; an OSError of the local disk is raised as it is.
    """
    from tqdm.auto import tqdm

    path = Path(path)
    reasons = []
    for url in urls:
        try:
            digest = hashlib.md5(usedforsecurity=False)
            with (
                atomic_write(path) as temporary,
                open(temporary, "wb") as file,
                tqdm(total=size, unit="B", unit_scale=True, desc=path.name) as bar,
            ):
                for chunk in _chunks(url, size):
                    file.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
                if digest.hexdigest() != md5:
                    raise BadSource(f"served other content (md5 {digest.hexdigest()})")
            return url
        except BadSource as reason:
            print(f"left {url}: it {reason}")
            reasons.append(f"  {url} {reason}")
    raise ConnectionError(
        "\n".join([f"no source served {path.name}:", *reasons])
        + f"\nGet this file ({size:,} bytes, md5 {md5}) some other way, put it at {path.absolute()} and run again."
    )


def _chunks(url: str, size: int) -> Iterator[bytes]:
    """Yield the `size` bytes that `url` serves; raise BadSource when it does not serve them, or too slowly."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "airl"})  # some hosts refuse urllib's own
        with urllib.request.urlopen(request, timeout=STALL_SECONDS) as response:
            if "html" in response.headers.get("Content-Type", ""):
                raise BadSource("answered with a web page")
            length = int(response.headers.get("Content-Length", size))
            if length != size:
                raise BadSource(f"offers {length} bytes, not {size}")
            received, window_bytes, window_start = 0, 0, time.monotonic()
            # read1 is one read of the socket, which the timeout bounds; read(n) would wait until it has n bytes.
            while chunk := response.read1(1 << 18):
                received += len(chunk)
                window_bytes += len(chunk)
                if received > size:
                    raise BadSource(f"sent more than {size} bytes")
                yield chunk
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
