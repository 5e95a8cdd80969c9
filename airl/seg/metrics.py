"""How well a mask fits the truth: by region and by boundary, as DAVIS measures them.

Perazzi et al. 2016, A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation (DAVIS), where they
are called J and F.
"""

import numpy as np


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Region similarity, J: intersection over union of two bool masks (H, W), in [0, 1]; 1 if both are empty."""
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def boundary_f(mask: np.ndarray, truth: np.ndarray, tolerance: float = 0.008) -> float:
    """Boundary accuracy, F: the harmonic mean of two shares, in [0, 1], of two bool masks (H, W): how much of the
    mask's boundary lies near the truth's, and how much of the truth's near the mask's; 1 if both are empty.

    tolerance: what is near, as a share of the picture's diagonal; DAVIS's by default.
    """
    import cv2

    reach = int(np.ceil(tolerance * np.hypot(*mask.shape)))
    disk = (np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= reach).astype(np.uint8)
    edges = [_boundary(m) for m in (mask, truth)]
    near = [cv2.dilate(edge.astype(np.uint8), disk).astype(bool) for edge in edges]
    counts = [np.count_nonzero(edge) for edge in edges]
    if not all(counts):
        return float((mask == truth).all())
    precision = np.count_nonzero(edges[0] & near[1]) / counts[0]
    recall = np.count_nonzero(edges[1] & near[0]) / counts[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask, bool (H, W), with a 4-neighbour outside it; the picture's border is no boundary."""
    framed = np.pad(mask, 1, mode="edge")
    inside = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return mask & ~inside
