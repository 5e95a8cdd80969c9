import torch

from airl.vit.data import Dataset, Split
from benchmarks.analysis import hold_out, rows_of


def test_the_last_tenth_of_each_class_is_held_out():
    labels = torch.tensor([1, 0] * 20)
    images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 3, 2, 2)
    data = hold_out(Dataset("numbered", Split(images, labels), Split(images[:2], labels[:2]), ["a", "b"]))
    assert data.test.images[:, 0, 0, 0].tolist() == [36, 37, 38, 39]
    assert data.test.labels.tolist() == [1, 0, 1, 0]
    assert data.train.images[:, 0, 0, 0].tolist() == list(range(36))


def test_depth_changes_against_width_at_about_equal_cost():
    rows = rows_of(256, 8)
    assert [(rows[name][0]["dim"], rows[name][0]["depth"]) for name in ("wider", "deeper")] == [(352, 4), (192, 14)]
    for name in ("wider", "deeper"):
        model = rows[name][0]
        assert 0.9 < model["depth"] * model["dim"] ** 2 / (8 * 256**2) < 1.1
        assert model["dim"] == 32 * model["heads"]
