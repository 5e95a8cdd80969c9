"""What the figures say: their titles, their images and their legends."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from airl import seg
from airl.seg import plots
from airl.seg.pipeline import Recipe
from airl.seg.sam import Candidates


class Halves:
    """Stands in for both models: the prompt names the half of the picture that it is about."""

    def set_image(self, image):
        H, W = image.shape[:2]
        self.left = np.arange(W) < W / 2 + np.zeros((H, 1))

    def probabilities(self, prompts, templates):
        parts = {"left": self.left, "right": ~self.left, "both": self.left | True}
        return np.stack([np.where(parts.get(p, self.left & False), 0.9, 0.1) for p in prompts]).astype(np.float32)

    def predict(self, seed, mask_prompt=None):
        return Candidates(np.stack([~seed.region, seed.region, self.left]), np.array([0.2, 0.75, 0.5], np.float32))


@pytest.fixture
def segmenter():
    return seg.TextSegmenter(Halves(), Halves())


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


PICTURE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def test_steps_show_every_step_in_order(segmenter):
    one = segmenter(PICTURE, "left", box=True, negatives=1)
    figure = plots.steps(one)
    assert titles(figure) == [
        "picture",
        "CLIPSeg's heat-map (peak 0.90)",
        "coarse mask and seed",
        "SAM's mask 1: 0.20",
        "SAM's mask 2: 0.75, taken",
        "SAM's mask 3: 0.50",
        "mask",
        "overlay",
        "cut-out",
    ]
    assert figure.get_suptitle() == "“left”: found, peak probability 0.90; SAM expects an IoU of 0.75"
    drawn = [axis.images for axis in figure.axes]
    assert (drawn[0][0].get_array() == PICTURE).all()
    assert (drawn[1][1].get_array() == one.heatmap).all()
    assert ((drawn[2][1].get_array()[..., 3] > 0) == one.coarse).all()
    for i in range(3):
        assert ((drawn[3 + i][1].get_array()[..., 3] > 0) == one.candidates[0].masks[i]).all()
    assert (drawn[6][0].get_array() == one.mask).all()
    assert (drawn[8][0].get_array()[one.mask] == PICTURE[one.mask]).all()
    seed, negative = figure.axes[2].lines
    assert np.concatenate(seed.get_data()).tolist() == one.seeds[0].point.tolist()
    assert np.concatenate(negative.get_data()).tolist() == one.seeds[0].negatives[0].tolist()
    assert len(figure.axes[2].patches) == 1


def test_absence_is_said(segmenter):
    one = segmenter(PICTURE, "elsewhere")
    verdict = "“elsewhere” is not there: the highest probability is 0.10, 0.50 is needed"
    figure = plots.steps(one)
    assert figure.get_suptitle() == verdict and len(figure.axes) == 3
    assert plots.overlay(one).axes[0].get_title() == verdict
    for plot in (plots.heatmap, plots.seeds, plots.candidates, plots.result):
        plot(one).canvas.draw()


def test_labels_have_a_legend(segmenter):
    figure = plots.labels(segmenter(PICTURE, ["left", "right", "nowhere"]))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["left", "right", "nowhere: not there"]
    _, left, right = figure.axes[0].images
    for layer, columns, handle in ((left, slice(0, 20), 0), (right, slice(20, 40), 1)):
        colours = layer.get_array()
        assert (colours[:, columns, 3] > 0).all() and (colours[..., 3] > 0).sum() == 30 * 20
        assert tuple(colours[0, columns][0, :3]) == legend.get_patches()[handle].get_facecolor()[:3]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (900, 8), (2000, 1200)])
def test_pictures_of_any_size(segmenter, size):
    for recipe in (Recipe(), Recipe(seeding="components", box=True, negatives=1)):
        segmenter.recipe = recipe
        one, two = segmenter(np.full((*size, 3), 99, np.uint8), ["both", "none"])
        for figure in (plots.steps(one), plots.labels([one, two]), plots.picture(one.image)):
            figure.canvas.draw()
            assert max(max(image.get_array().shape) for axis in figure.axes for image in axis.images) <= plots.LONGEST
            inches = figure.get_size_inches()
            assert inches.max() < 30


def test_several_seeds_are_counted(segmenter):
    picture = np.zeros((20, 30, 3), np.uint8)

    class Two(Halves):
        def probabilities(self, prompts, templates):
            heat = np.full((1, 20, 30), 0.1, np.float32)
            heat[:, 2:9, 2:9] = heat[:, 2:9, 20:25] = 0.8
            return heat

    two = seg.TextSegmenter(Two(), Two())(picture, "x", seeding="components", choice="agreement")
    assert "SAM's mask 2 for seed 1 of 2: 0.75, taken" in titles(plots.candidates(two))
    assert len(plots.seeds(two).axes[0].lines) == 4  # a positive and an empty set of negatives for each


def test_exploring_redraws_and_explains(segmenter):
    segmenter.set_image(PICTURE)
    box = plots.explore(segmenter, "left")
    prompt, threshold, seeding, message, drawn = box.children
    first = drawn.value
    assert bytes(first).startswith(b"\x89PNG") and not message.value
    prompt.value = "right"
    second = drawn.value
    assert second != first
    prompt.value = "nowhere"
    third = drawn.value
    threshold.value = 0.05  # below the 0.1 that is everywhere
    assert len({second, third, drawn.value}) == 3
    seeding.value = "interior"
    assert not message.value and not plt.get_fignums()


def test_exploring_without_a_prompt_says_so():
    class Empty(Halves):
        def probabilities(self, prompts, templates):
            raise ValueError("a prompt is empty: ['']")

    segmenter = seg.TextSegmenter(Empty(), Empty())
    segmenter.set_image(PICTURE)
    assert "a prompt is empty" in plots.explore(segmenter, "").children[3].value
