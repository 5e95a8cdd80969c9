"""Many visitors at once on the page of `airl.app`: errors, mixed-up results, waiting and the server's memory.

    python -m benchmarks.app --visitors 20 --minutes 5

Every visitor asks for the objects of scenes of his own, again and again, from a process of its own; each answer is
compared with what the library gives for the same scene. The embedded models are at work.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from gradio_client import Client, handle_file

from airl import images
from airl.scenes import shapes
from benchmarks.large import median_of
from benchmarks.record import record

SERVER = """
import sys
from airl import app
page = app.launch("tiny", port=int(sys.argv[1]))
print("ready", flush=True)
page.block_thread()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--port", type=int, default=7890)
    parser.add_argument("--note", default="", help="what a reader of the figures has to know")
    options = parser.parse_args()

    server = subprocess.Popen([sys.executable, "-c", SERVER, str(options.port)], stdout=subprocess.PIPE, text=True)
    while "ready" not in server.stdout.readline():
        if server.poll() is not None:
            raise RuntimeError("the page did not start")
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = visit(options, Path(folder), server.pid)
    finally:
        server.terminate()
    for name, value in rows.items():
        print(f"{name:40} {value}")
    record("app", [rows], data="drawn scenes of 256x256, one prompt each", note=options.note)


def visit(options: argparse.Namespace, folder: Path, pid: int) -> dict:
    from airl import seg

    segmenter = seg.TextSegmenter.tiny("best")
    jobs = []  # of each visitor: scenes as files, and the words that the page must say of each
    for visitor in range(options.visitors):
        own = []
        for number in range(3):
            scene = shapes.scene(1000 + 10 * visitor + number)
            path = images.save(scene.image, folder / f"{visitor}-{number}.png")
            own.append((str(path), scene.prompt, expected_words(segmenter(scene.image, scene.prompt))))
        jobs.append(own)

    path, prompt, _ = jobs[0][0]
    library = median_of(lambda _: segmenter(path, prompt), 5)
    client = Client(f"http://127.0.0.1:{options.port}", verbose=False)
    ask(client, path, prompt)
    alone = median_of(lambda _: ask(client, path, prompt), 5)

    errors, mixed, waits, memory = [], [], [], []
    stop = time.monotonic() + 60 * options.minutes

    def one_visitor(own: list[tuple[str, str, str]]) -> None:
        client = Client(f"http://127.0.0.1:{options.port}", verbose=False)
        turn = 0
        while time.monotonic() < stop:
            path, prompt, words = own[turn % len(own)]
            turn += 1
            start = time.monotonic()
            try:
                answer = ask(client, path, prompt)
            except Exception as error:  # whatever it is, a visitor has met it
                errors.append(f"{type(error).__name__}: {error}")
                continue
            waits.append(time.monotonic() - start)
            if words not in answer:
                mixed.append(f"{prompt}: {answer}")

    threads = [threading.Thread(target=one_visitor, args=(own,)) for own in jobs]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append(resident_mib(pid))
        time.sleep(5)
    for problem in [*errors, *mixed][:5]:
        print(problem[:300])
    quarter = max(1, len(memory) // 4)
    return {
        "library alone, s": library,
        "page alone, s": alone,
        "visitors": options.visitors,
        "minutes": options.minutes,
        "answers": len(waits),
        "errors": len(errors),
        "answers that were another's": len(mixed),
        "wait, median s": round(float(np.median(waits)), 1),
        "wait, longest s": round(max(waits), 1),
        "server, MiB in the first quarter": round(float(np.median(memory[:quarter]))),
        "server, MiB in the last quarter": round(float(np.median(memory[-quarter:]))),
    }


def ask(client: Client, path: str, prompt: str) -> tuple:
    """All that the page shows of one picture and prompt."""
    return client.predict(handle_file(path), prompt, "tiny", "best", 0.5, "components", api_name="/cut_out")


def expected_words(one) -> str:
    """What the page says of a result."""
    from airl.app import Cut

    return Cut.of([one]).verdict()


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


if __name__ == "__main__":
    main()
