"""How the ViT in the package does on large pictures: CIFAR-10's test images, enlarged and encoded as a camera does.

    python -m benchmarks.enlarged --data cifar10 [--images 10000]

Each image is made 8 times as large (256x256, bicubic), written as JPEG and given to `vit.predict`, which makes it small
again. What it loses is the pipeline's own loss; a photo also has its object elsewhere, smaller, and among others. The
last column averages the probabilities of an image and of its mirror image, which costs twice the time.
"""

import argparse
import io

import torch
from PIL import Image

from airl import vit
from benchmarks.report import publish

SIDE = 256
ROWS = {"as they are": None, "enlarged, JPEG of quality 90": 90, "enlarged, JPEG of quality 50": 50}


def picture(image: torch.Tensor, quality: int | None):
    """What `vit.predict` is given of a uint8 image (3, 32, 32): itself, or the bytes of a large JPEG."""
    if quality is None:
        return image
    file = io.BytesIO()
    large = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    large.save(file, "JPEG", quality=quality)
    return file.getvalue()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="cifar10, or the path of an image folder")
    parser.add_argument("--images", type=int, default=10_000, help="the first so many test images")
    args = parser.parse_args(arguments)
    model, test = vit.ViT.tiny(), vit.load_dataset(args.data).test
    classes = [test.classes[label] for label in test.labels[: args.images]]
    rows = []
    for name, quality in ROWS.items():
        once = twice = 0
        for start in range(0, len(classes), 500):
            chunk = test.images[start : min(start + 500, len(classes))]
            plain, mirrored = (
                vit.predict(model, [picture(image, quality) for image in images]) for images in (chunk, chunk.flip(-1))
            )
            for one, other, label in zip(plain, mirrored, classes[start:], strict=False):
                once += one.label == label
                twice += max(model.config.classes, key=lambda c: one.probabilities[c] + other.probabilities[c]) == label
        shares = {"accuracy, %": once, "averaged with the mirror image, %": twice}
        rows.append({"test images": name} | {key: round(100 * n / len(classes), 2) for key, n in shares.items()})
    publish("enlarged", rows, data=f"{len(classes):,} test images of {args.data}", note="The ViT in the package.")


if __name__ == "__main__":
    main()
