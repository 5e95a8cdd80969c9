"""Oracles: torchmetrics' Jaccard index; boundaries grown by SciPy."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchmetrics.functional.classification import binary_jaccard_index

from airl.scenes import shapes
from airl.seg.metrics import boundary_f, iou


def masks(seed):
    objects = shapes.scene(seed, (60, 80)).objects
    return objects[0].mask, np.roll(objects[0].mask, (seed % 3, 2), (0, 1))


@pytest.mark.parametrize("seed", range(5))
def test_iou_is_torchmetrics(seed):
    a, b = masks(seed)
    expected = binary_jaccard_index(torch.from_numpy(a).int(), torch.from_numpy(b).int()).item()
    assert iou(a, b) == pytest.approx(expected, abs=1e-6)  # torchmetrics computes in float32


@pytest.mark.parametrize("seed", range(5))
def test_boundary_f_with_scipys_distances(seed):
    a, b = masks(seed)
    edges = [m & ~ndimage.binary_erosion(m, border_value=1) for m in (a, b)]
    reach = 2  # ceil(0.015 * 100), the diagonal of 60 x 80
    near = [ndimage.distance_transform_edt(~edge) <= reach for edge in edges]
    precision, recall = edges[0][near[1]].sum() / edges[0].sum(), edges[1][near[0]].sum() / edges[1].sum()
    expected = 2 * precision * recall / (precision + recall)
    assert 0 < expected <= 1
    assert boundary_f(a, b, tolerance=0.015) == pytest.approx(expected, abs=1e-12)


def test_limits():
    mask, _ = masks(0)
    empty, full = np.zeros_like(mask), np.ones_like(mask)
    for measure in (iou, boundary_f):
        assert measure(mask, mask) == measure(empty, empty) == measure(full, full) == 1
        assert measure(mask, empty) == measure(empty, mask) == measure(empty, full) == 0
    far = np.zeros_like(mask)
    far[0, 0] = True
    corner = np.zeros_like(mask)
    corner[-1, -1] = True
    assert boundary_f(far, corner) == 0
