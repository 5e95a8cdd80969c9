"""Oracles: pycocotools, which wrote COCO's annotations, and supervision."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from airl import seg
from airl.scenes import shapes
from airl.seg import draw, export

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


def test_instances_as_supervision_has_them():
    sv = pytest.importorskip("supervision")
    scene = shapes.scene(0, (96, 128), "several")
    segmenter = seg.TextSegmenter.tiny("best", device="cpu")
    one, absent = segmenter(scene.image, [scene.prompt, "a purple crescent"])
    assert len(one.instances) > 1 and not absent.found
    detections = one.to_supervision()
    assert detections == export.to_supervision([one, absent]) and len(detections) == len(one.instances)
    assert (detections.xyxy == sv.mask_to_xyxy(detections.mask)).all()
    assert detections.area.tolist() == [instance.area for instance in one.instances]
    np.testing.assert_allclose(detections.confidence, [instance.score for instance in one.instances])
    assert detections.class_id.tolist() == [0] * len(detections)
    assert set(detections["class_name"]) == {scene.prompt}
    drawn = sv.MaskAnnotator().annotate(scene.image.copy(), detections)
    assert ((drawn != scene.image).any(2) == one.mask).mean() > 0.99  # a few pixels have the annotator's colour already

    both = export.to_supervision([absent, one])
    assert both.class_id.tolist() == [1] * len(both) and (both.mask == detections.mask).all()
    assert len(absent.to_supervision()) == 0 and absent.to_supervision().is_empty()


def test_a_films_frames_as_supervision_has_them(tmp_path):
    sv = pytest.importorskip("supervision")
    from airl.seg.video import Track, Tracking

    masks = {1: np.zeros((20, 30), bool), 2: np.zeros((20, 30), bool)}
    masks[1][2:9, 3:8] = masks[2][5:15, 6:25] = True

    class Drawn(Tracking):
        def ids(self, t, prompt=None):
            if not 0 <= t < self.length:
                raise IndexError(f"no frame {t}")
            number = {"a dog": 1, "a cat": 2}[prompt]
            return masks[number] * np.uint8(number)

    tracks = [
        Track(2, "a cat", [1, 2], [0.5, 0.25], [(6, 5, 24, 14)] * 2, [190] * 2),
        Track(1, "a dog", [2], [0.75], [(3, 2, 7, 8)], [35]),
    ]
    tracking = Drawn(tmp_path, ["a dog", "a cat"], (20, 30), 25.0, 3, tracks)
    assert tracking.to_supervision(0).is_empty()
    detections = tracking.to_supervision(2)
    assert detections.tracker_id.tolist() == [2, 1] and detections.class_id.tolist() == [1, 0]
    assert detections.confidence.tolist() == [0.25, 0.75] and detections["class_name"].tolist() == ["a cat", "a dog"]
    assert (detections.xyxy == sv.mask_to_xyxy(detections.mask)).all() and detections.area.tolist() == [190, 35]
    with pytest.raises(IndexError):
        tracking.to_supervision(3)


def test_a_labelled_png(tmp_path):
    scene = shapes.scene(0, (96, 128), "several")
    many = seg.TextSegmenter.tiny("best", device="cpu")(scene.image, scene.prompts())
    path = export.save_label_map(many, tmp_path / "new" / "labels.png")
    labels, legend = seg.label_map(many)
    picture = Image.open(path)
    assert picture.mode == "P" and (np.asarray(picture) == labels).all() and len(np.unique(labels)) > 2
    assert json.loads((tmp_path / "new" / "labels.json").read_text()) == {str(n): text for n, text in legend.items()}
    seen = np.asarray(picture.convert("RGB"))
    assert (seen[labels == 2] == draw.colour_of(2)).all() and (seen[labels == 0] == 0).all()


def test_without_supervision(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        export.to_supervision([])
