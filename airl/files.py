"""Files that are either whole or absent, and their names."""

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block ends well, delete it if it raises.

    A reader sees the old file or the whole new one, never a part: when the disk fills up or the process is
    killed, what was at `path` is still there. The parent folder is made if it is missing. sync: wait until it is on the
    disk, so that it outlives a power failure; what is written many times a second and can be made again need not.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        if sync:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        with contextlib.suppress(OSError):  # some mounted drives have no modes
            os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files private to their owner
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; if the block ends well, move its files into `path`, each at once.

    Files of the same names are replaced, others stay. If the block raises, `path` is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        yield Path(temporary)
        path.mkdir(exist_ok=True)
        for file in sorted(Path(temporary).iterdir()):
            os.replace(file, path / file.name)


def slug(text: str, longest: int = 60) -> str:
    """A text as part of a file's name: words of small letters and digits, joined by "-"; "" if it has none.

    One that would be longer is cut, and ends in a hash, so that two long texts with one beginning stay apart.
    """
    plain = re.sub(r"[\W_]+", "-", text.lower()).strip("-")
    if len(plain.encode()) <= longest:
        return plain
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:8]
    return plain.encode()[: longest - 9].decode(errors="ignore").strip("-") + "-" + digest
