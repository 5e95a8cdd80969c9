"""Cut objects out of pictures and films by text prompts, from a shell:

python -m airl.seg photo.jpg "a person" -o out
    out/photo.jpg/a-person/ gets mask.png, overlay.jpg, cutout.png and result.json
python -m airl.seg photos more/*.jpg -p "a dog" -p "a cat" 0.3 0.4 -o out
    of files and folders a data set: out/coco.json, and out/index.html to look at it; after a prompt its threshold and
    floor may follow; with torchrun --nproc-per-node N -m airl.seg ... N processes share the pictures out
python -m airl.seg track film.mp4 -p "a person" -o out
    out/overlay.mp4, and masks with ids that stay

What is done already is skipped when it is run again.
"""

import argparse
import os
import sys
from pathlib import Path

from airl import seg
from airl.seg import weights


def main(arguments: list[str] | None = None) -> int:
    """Segment; return 0, or 1 after printing an error to stderr or if any picture failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    run = _track if arguments[:1] == ["track"] else _pictures
    try:
        return run(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser(of: str, sams: list[str], default: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airl.seg", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", required=True, help="folder for the results")
    sam_help = f"{', '.join(sams)}, a checkpoint's path, or tiny: the embedded models, for drawn {of}"
    parser.add_argument("--sam", default=default, help=f"{sam_help} (default: {default})")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--overwrite", action="store_true", help="do again what is done already")
    return parser


def _pictures(arguments: list[str]) -> int:
    parser = _parser("shapes", [*weights.SAM, *weights.SAM2, *weights.SAM3], "vit_h")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="picture files, and with -p folders; without -p, the prompt comes last",
    )
    parser.add_argument(
        "-p",
        "--prompt",
        nargs="+",
        action="append",
        metavar=("PROMPT", "THRESHOLD FLOOR"),
        help='what to look for, such as "a person"; may be given several times',
    )
    parser.add_argument("--recipe", choices=seg.RECIPES, default="assignment", help="default: assignment")
    parser.add_argument(
        "--steps", action="store_true", help="of one prompt: write steps.png too, a figure of every step"
    )
    args = parser.parse_args(arguments)
    files, prompt = args.images, dict(map(_prompt, args.prompt)) if args.prompt else args.images[-1]
    if not args.prompt:
        files = files[:-1]
        if not files:
            raise ValueError(f"there is one argument, {prompt}; give pictures and then the prompt, or prompts with -p")
        if os.path.exists(prompt):
            raise ValueError(f"the last argument is the prompt, but {prompt} is a file; say what to look for")
    missing = [name for name in files if not os.path.exists(name)]
    if missing:
        raise ValueError(
            f"there is no picture at {', '.join(missing)} (the working folder is {Path.cwd()}); if this is part of "
            'the prompt, put all of that in quotes: "a person"'
        )
    if args.sam == "tiny":
        segmenter = seg.TextSegmenter.tiny(args.recipe, args.device)
    else:
        segmenter = seg.TextSegmenter.from_pretrained(args.sam, recipe=args.recipe, device=args.device)
    return 1 if seg.segment_files(segmenter, files, prompt, args.out, args.overwrite, args.steps) else 0


def _prompt(words: list[str]) -> tuple[str, dict[str, float]]:
    """A prompt, and the fields of the recipe that follow it."""
    prompt, *numbers = words
    try:
        return prompt, dict(zip(("threshold", "floor"), map(float, numbers), strict=len(numbers) > 2))
    except ValueError as error:
        raise ValueError(
            f"after a prompt may come its threshold and its floor, two numbers; {prompt!r} is followed by "
            f"{' '.join(numbers)}; put pictures first and a prompt of several words in quotes"
        ) from error


def _track(arguments: list[str]) -> int:
    parser = _parser("clips", list(weights.SAM2), "sam2.1-hiera-small")
    parser.add_argument("track", choices=["track"])
    parser.add_argument("film", metavar="FILM", help="a film's file, or a folder of frames")
    parser.add_argument("-p", "--prompt", action="append", required=True, help='such as "a person"; several if wanted')
    args = parser.parse_args(arguments)
    if args.sam == "tiny":
        tracker = seg.VideoTracker.tiny(args.device)
    else:
        tracker = seg.VideoTracker.from_pretrained(args.sam, device=args.device)
    tracking = tracker.track(args.film, args.prompt, args.out, overwrite=args.overwrite)
    for track in tracking.tracks:
        print(f"{track.id} {track.prompt}: {len(track.frames)} of {len(tracking)} frames")
    print(f"{len(tracking.tracks)} objects -> {tracking.video}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
