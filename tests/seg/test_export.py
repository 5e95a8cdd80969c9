"""Oracle: pycocotools, which wrote COCO's annotations."""

import numpy as np
import pytest

from airl.scenes import shapes
from airl.seg import export

masks = pytest.importorskip("pycocotools.mask")


def drawn(seed: int) -> np.ndarray:
    """Masks of all sorts, (H, W) bool: noise, which has holes and touching corners, blobs, rings, full and empty."""
    if seed % 3 == 2:
        scene = shapes.scene(seed, (60, 80), "concave" if seed % 2 else "several")
        return scene.truth(scene.prompt)
    rng = np.random.default_rng(seed)
    H, W = rng.integers(1, 40, 2)
    if seed % 3 == 1:
        y, x = np.mgrid[:H, :W]
        return np.sin(x / rng.uniform(1, 5)) + np.cos(y / rng.uniform(1, 5)) > rng.uniform(-1, 1)
    return rng.random((H, W)) < rng.choice([0, 0.1, 0.5, 0.9, 1])


@pytest.mark.parametrize("seed", range(60))
def test_run_lengths_and_polygons_are_what_pycocotools_writes_and_reads(seed):
    mask = drawn(seed)
    written = masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert export.compressed_run_lengths(mask) == written
    outlines = export.polygons(mask)
    assert bool(outlines) == mask.any() and all(len(outline) >= 8 for outline in outlines)
    if outlines:
        H, W = mask.shape
        filled = masks.decode(masks.merge(masks.frPyObjects(outlines, H, W)))
        assert (filled == mask).all(), "a hole or a border is lost"
        points = np.concatenate(outlines).reshape(-1, 2)
        assert (points >= 0).all() and (points <= (W, H)).all()


def test_long_runs():
    mask = np.zeros((300, 400), bool)
    mask[10:290, 200:] = True
    written = masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert export.compressed_run_lengths(mask) == written
    assert export.polygons(mask) == [[200, 10, 200, 290, 400, 290, 400, 10]]
