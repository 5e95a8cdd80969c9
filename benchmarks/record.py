"""Where benchmarks leave what they measured: benchmarks/results/NAME.json, which `benchmarks.report` turns into a page.

    from benchmarks.record import record
    record("seeding", rows, data="500 drawn scenes", note="scenes that nothing was trained on")

Run a benchmark as `python -m benchmarks.seeding ...` in the repository's root, so that this import is found. Measure
what is committed: a record made from changed files says so.
"""

import json
import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from airl import runtime
from airl.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(os.environ.get("AIRL_RESULTS", ROOT / "benchmarks" / "results"))  # tests leave theirs elsewhere
FIELDS = ("command", "commit", "date", "machine", "versions", "data", "note", "rows")
LIBRARIES = ("torch", "transformers")  # whose versions are always told; of the next only where the benchmark used them
PEERS = ("torchvision", "timm", "kornia", "vit-pytorch", "segment-anything")

Value = str | int | float | None


def record(name: str, rows: list[dict[str, Value]], *, data: str, note: str = "", device: str = "auto") -> Path:
    """Write rows that were just measured to benchmarks/results/NAME.json -> the file's path.

    A row is {column: value}; units are in the column's name ("time, s"), a value not measured is None. `data` says on
    what it was measured, `note` what a reader of the table has to know, `device` is the one that computed. The command
    is that of the running process, and a record of the same command and machine is replaced. Raises ValueError when
    there is nothing to record, or nothing is said of the data.
    """
    new = entry(rows, data=data, note=note, device=device)
    path = RESULTS / f"{name}.json"
    records = json.loads(path.read_text(encoding="utf-8"))["records"] if path.exists() else []
    same = [i for i, old in enumerate(records) if all(old[key] == new[key] for key in ("command", "machine"))]
    if same:
        records[same[0]] = new
    else:
        records.append(new)
    text = json.dumps({"records": records}, indent=1, ensure_ascii=False, default=lambda scalar: scalar.item())
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return path


def entry(rows: list[dict[str, Value]], *, data: str, note: str = "", device: str = "auto") -> dict:
    """What `record` writes of these rows."""
    if not rows or not all(rows):
        raise ValueError(f"a record has {len(rows)} rows, {sum(map(bool, rows))} of them with values; give some")
    if not data:
        raise ValueError("a record does not say on what data it was measured; give data='...'")
    return {
        "command": _command(),
        "commit": _commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": runtime.device_name(runtime.choose(device).device),
        "versions": _versions(),
        "data": data,
        "note": note,
        "rows": rows,
    }


def _command() -> str:
    """What was typed, of paths elsewhere on this machine only the name: "python -m benchmarks.seeding --scenes 500"."""
    words = [word.removeprefix(f"{ROOT}/") for word in sys.orig_argv[1:]]
    return shlex.join(["python", *(Path(word).name if Path(word).is_absolute() else word for word in words)])


def _commit() -> str:
    """The commit that was measured, with "+changes" where files other than results and pages differ from it."""
    try:
        commit = _git("rev-parse", "--short=7", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs", ":!README.md")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + "+changes" * bool(changed)


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _versions() -> dict[str, str]:
    names = [*LIBRARIES, *(name for name in PEERS if name.replace("-", "_") in sys.modules)]
    versions = {"python": sys.version.split()[0]}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = sys.modules[name.replace("-", "_")].__version__
    return versions
