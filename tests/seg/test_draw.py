"""What an overlay shows, pixel by pixel."""

import numpy as np
import pytest

from airl.seg.draw import PALETTE, colour_of, overlay

GREY = np.full((200, 300, 3), 100, np.uint8)


def square(y, x, side=60):
    mask = np.zeros((200, 300), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def test_colours_repeat():
    assert (colour_of(1) == PALETTE[0]).all() and (colour_of(len(PALETTE) + 1) == PALETTE[0]).all()
    assert colour_of(np.arange(1, 256)).shape == (255, 3) and colour_of(3).dtype == np.uint8


def test_each_object_has_its_tint_its_outline_and_its_label():
    left, right = square(80, 20), square(90, 200)
    drawn = overlay(GREY, [(1, left, "1 left"), (2, right, "2 right")])
    assert (GREY == 100).all() and drawn.shape == GREY.shape and drawn.dtype == np.uint8
    for number, mask, (y, x) in ((1, left, (110, 50)), (2, right, (120, 230))):
        assert np.abs(drawn[y, x].astype(int) - (100 + colour_of(number).astype(int)) // 2).max() <= 1
        rows, columns = np.nonzero(mask)
        assert (drawn[rows[0], columns[0]] == colour_of(number)).all(), "the corner is the outline's"
        above = drawn[rows[0] - 20 : rows[0] - 3, columns[0] : columns[-1]]
        assert (above > 220).all(-1).any() and (above < 30).all(-1).any(), "white letters on a black rim"
    far = ~(np.pad(left | right, 30, mode="edge")[:200, :300])
    far[55:160] = False
    assert (drawn[far] == 100).all(), "nothing else is touched"


def test_what_is_empty_is_passed_over():
    assert (overlay(GREY, [(1, np.zeros((200, 300), bool), "nothing")]) == GREY).all()
    assert (overlay(GREY, []) == GREY).all()


@pytest.mark.parametrize("label", ["", "1 a very long prompt " * 10, "Käse, naïve", "\u72d7", "two\nlines"])
@pytest.mark.parametrize("y, x", [(0, 0), (140, 240), (0, 240)])
def test_labels_stay_in_the_picture(label, y, x):
    drawn = overlay(GREY, [(1, square(y, x), label)])
    assert label == "" or (drawn > 220).all(-1).any()


def test_a_picture_of_one_pixel():
    drawn = overlay(np.zeros((1, 1, 3), np.uint8), [(4, np.ones((1, 1), bool), "dot")])
    assert drawn.shape == (1, 1, 3)


def test_labels_of_the_same_object_do_not_cover_each_other():
    mask = np.zeros((480, 640), bool)
    mask[240:360, 160:360] = True
    image = np.zeros((480, 640, 3), np.uint8)
    both = overlay(image, [(1, mask, "1 a dog"), (2, mask, "2 a cat")])
    alone = [overlay(image, [(number, mask, label)]) for number, label in ((1, "1 a dog"), (2, "2 a cat"))]
    white = [(drawn > 150).all(2).sum() for drawn in (both, *alone)]
    assert white[0] == white[1] + white[2] > 20
