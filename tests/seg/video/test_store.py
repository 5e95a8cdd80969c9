import numpy as np

from airl.seg.video.store import Masks


def test_masks_keep_ids_and_scores_and_change_one_alone(tmp_path):
    masks = Masks(tmp_path)
    ids = np.array([[1, 1, 0], [0, 2, 2]], np.uint8)
    masks.write(3, ids, {1: 0.75, 2: 0.5})
    masks.change(3, 3, np.array([[True, True, True], [False, False, False]]), 0.25)
    got, scores = masks.read(3)
    np.testing.assert_array_equal(got, [[1, 1, 3], [0, 2, 2]])
    assert scores == {1: 0.75, 2: 0.5, 3: 0.25}
    masks.change(3, 1, np.zeros((2, 3), bool), 0.0)
    got, scores = masks.read(3)
    np.testing.assert_array_equal(got, [[0, 0, 3], [0, 2, 2]])
    assert scores == {2: 0.5, 3: 0.25}
