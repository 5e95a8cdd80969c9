"""What more prompts cost on a folder of pictures: `airl.seg.segment_files` with one and with five, by the small models.

    python -m benchmarks.folder [--pictures 20] [--rounds 2]

Both models look at a picture once, whatever is asked, so four prompts more should cost little. The small models look in
a tenth of a second, so what is done for each object counts; a larger model's look outweighs it. The first of the five
prompts is the one alone, and in every picture there is what it asks for, so that SAM looks at all of them. What counts
is the fastest round of each, in time of the processor, on one thread.
"""

import argparse
import contextlib
import io
import itertools
import tempfile
import time
from pathlib import Path

from airl import images, seg
from airl.scenes import shapes
from benchmarks.record import record

PROMPTS = ["the red object", "a star", "a blue circle", "a yellow cross", "the green object"]
SIZE = (768, 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    segmenter = seg.TextSegmenter.tiny("best", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        scenes = (shapes.scene(seed, SIZE) for seed in itertools.count())
        scenes = (scene for scene in scenes if scene.truth(PROMPTS[0]).any())
        for number, scene in enumerate(itertools.islice(scenes, args.pictures)):
            images.save(scene.image, photos / f"{number:03d}.jpg")
        segmenter(photos / "000.jpg", PROMPTS[:1])  # what is loaded at first use is loaded now
        times: dict[int, list[float]] = {1: [], len(PROMPTS): []}
        found = {}
        for number in range(args.rounds):
            for count in times:
                out = Path(folder) / f"{number}-{count}"
                start = time.process_time()
                with contextlib.redirect_stdout(io.StringIO()):
                    seg.segment_files(segmenter, photos, PROMPTS[:count], out)
                times[count].append(time.process_time() - start)
                found[count] = (out / "coco.json").read_text().count('"category_id"')
    one = min(times[1])
    rows = [
        {
            "prompts": count,
            "instances found": found[count],
            "CPU time, s": round(min(taken), 2),
            "times one prompt": round(min(taken) / one, 2),
        }
        for count, taken in times.items()
    ]
    for row in rows:
        print(row)
    data = f"{args.pictures} drawn pictures of {SIZE[1]} x {SIZE[0]} pixels"
    note = f"the fastest of {args.rounds} rounds; time of the processor, one thread"
    record("folder", rows, data=data, note=note, device="cpu")


if __name__ == "__main__":
    main()
