"""Cut an object out of pictures by a text prompt, from a shell:

python -m airl.seg photo.jpg "a person" -o out
python -m airl.seg photos/*.jpg "a dog" -o out --sam sam2.1-hiera-large

For every picture, out/PICTURE/PROMPT/ gets mask.png, overlay.jpg, cutout.png and result.json. Pictures that are done
already are skipped when it is run again.
"""

import argparse
import os
import sys
from pathlib import Path

from airl import seg
from airl.seg import weights


def main(arguments: list[str] | None = None) -> int:
    """Segment; return 0, or 1 after printing an error to stderr or if any picture failed."""
    parser = argparse.ArgumentParser(
        prog="python -m airl.seg", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files")
    parser.add_argument("prompt", metavar="PROMPT", help='what to look for, such as "a person"')
    parser.add_argument("-o", "--out", required=True, help="folder for the results")
    known = ", ".join([*weights.SAM, *weights.SAM2, *weights.SAM3])
    sam_help = f"{known}, a checkpoint's path, or tiny: the embedded models, for drawn shapes (default: vit_h)"
    parser.add_argument("--sam", default="vit_h", help=sam_help)
    parser.add_argument("--recipe", choices=seg.RECIPES, default="assignment", help="default: assignment")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--overwrite", action="store_true", help="do again what is done already")
    parser.add_argument("--steps", action="store_true", help="write steps.png too, a figure of every step")
    args = parser.parse_args(arguments)
    try:
        if os.path.isfile(args.prompt):
            raise ValueError(f"the last argument is the prompt, but {args.prompt} is a file; say what to look for")
        missing = [name for name in args.images if not os.path.exists(name)]
        if missing:
            raise ValueError(
                f"there is no picture at {', '.join(missing)} (the working folder is {Path.cwd()}); if this is part of "
                'the prompt, put all of that in quotes: "a person"'
            )
        if args.sam == "tiny":
            segmenter = seg.TextSegmenter.tiny(args.recipe, args.device)
        else:
            segmenter = seg.TextSegmenter.from_pretrained(args.sam, recipe=args.recipe, device=args.device)
        errors = seg.segment_files(segmenter, args.images, args.prompt, args.out, args.overwrite, args.steps)
        return 1 if errors else 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
