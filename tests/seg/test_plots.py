"""What the figures say: their titles, their images and their legends."""

import io
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image

from airl import seg
from airl.seg import plots
from airl.seg.pipeline import Recipe
from airl.seg.sam import Candidates, Segmenter


class Halves(Segmenter):
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
    assert figure.get_suptitle() == "“left”: found\npeak probability 0.90; SAM expects an IoU of 0.75"
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
    verdict = "“elsewhere” is not there\nthe highest probability is 0.10, at least 0.50 is needed"
    figure = plots.steps(one)
    assert figure.get_suptitle() == verdict and len(figure.axes) == 3
    assert plots.overlay(one).axes[0].get_title() == verdict
    for plot in (plots.heatmap, plots.seeds, plots.candidates, plots.result):
        plot(one).draw_without_rendering()


def test_labels_have_a_legend(segmenter):
    figure = plots.labels(segmenter(PICTURE, ["left", "right", "nowhere"]))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["1  left", "2  right", "3  nowhere: not there"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "2"]
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
            figure.draw_without_rendering()
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


def test_a_mask_of_something_else_is_doubtful():
    class Inverse(Halves):
        """SAM is surest of what is not the object, and more than sure."""

        def predict(self, seed, mask_prompt=None):
            right = np.where(self.left, -1.0, 1.0)
            return Candidates(np.stack([right, right, right]), np.array([1.04, 0.9, 0.8], np.float32))

    one = seg.TextSegmenter(Inverse(), Inverse())(PICTURE, "left")
    assert plots.verdict(one) == "“left”: doubtful\nSAM's mask and the coarse mask have an IoU of only 0.00"
    assert "SAM's mask 1: 1.00, taken" in titles(plots.candidates(one))
    right = seg.TextSegmenter(Inverse(), Inverse())(PICTURE, "right")
    assert plots.verdict(right) == "“right”: found\npeak probability 0.90; SAM expects an IoU of 1.00"


def test_a_seed_beside_the_coarse_mask_is_said():
    class Ring(Halves):
        def probabilities(self, prompts, templates):
            heat = np.full((1, 30, 40), 0.9, np.float32)
            heat[:, 10:20, 10:30] = 0.1
            return heat

    one = seg.TextSegmenter(Ring(), Ring())(PICTURE, "ring")
    assert plots.verdict(one).endswith("; a seed lies outside the coarse mask")
    inside = seg.TextSegmenter(Ring(), Ring())(PICTURE, "ring", seeding="interior")
    assert "outside" not in plots.verdict(inside)


def test_instances_are_numbered(segmenter):
    figure = plots.instances(segmenter(PICTURE, "left"))
    assert titles(figure) == ["“left”: 1 instance"] and [text.get_text() for text in figure.axes[0].texts] == ["1"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1  score 0.75, 600 pixels"]
    assert titles(plots.instances(segmenter(PICTURE, "nowhere"))) == ["“nowhere”: 0 instances"]


@pytest.mark.parametrize("prompt", ["left", "a prompt that says much more than is needed " * 8])
def test_no_title_is_cut_off(segmenter, prompt):
    class Nowhere(Halves):
        def predict(self, seed, mask_prompt=None):
            return Candidates(np.where(self.left, -1.0, [[[1.0]]] * 3), np.array([1, 1, 1], np.float32))

    found = replace(segmenter(PICTURE, "left"), prompt=prompt)
    doubtful = replace(seg.TextSegmenter(Nowhere(), Nowhere())(PICTURE, "left"), prompt=prompt)
    doubtful.seeds[0].point[:] = (39, 0)
    assert "outside" in plots.verdict(doubtful) and "only 0.00" in plots.verdict(doubtful)
    drawings = (plots.steps, plots.heatmap, plots.seeds, plots.candidates, plots.result, plots.overlay)
    for plot, one in product(drawings, (found, doubtful)):
        figure = plot(one)
        figure.draw_without_rendering()
        for text in [*[axis.title for axis in figure.axes], *figure.texts]:
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width, f"{plot.__name__}: {text.get_text()}"


def test_exploring_starts_from_the_recipe_and_redraws_and_explains(segmenter):
    segmenter.recipe = Recipe(seeding="interior", threshold=0.4, floor=0.3)
    segmenter.set_image(PICTURE)
    left, drawn = plots.explore(segmenter, "left", hint="It knows <two> words.").children
    prompt, threshold, floor, seeding, *_, message = left.children
    assert (threshold.value, floor.value, seeding.value) == (0.4, 0.3, "interior")
    assert "It knows &lt;two&gt; words." in message.value and "found</b><br>" in message.value
    first = drawn.value
    assert Image.open(io.BytesIO(first)).width == 600
    prompt.value = "right"
    assert drawn.value != first
    prompt.value = "nowhere"
    assert "not there" in message.value
    floor.value = threshold.value = 0.05  # below the 0.1 that is everywhere
    assert "not there" not in message.value
    seeding.value = "center_of_mass"
    assert "found" in message.value or "doubtful" in message.value


def test_exploring_corrects_by_points_and_takes_them_back(segmenter, monkeypatch):
    asked, given, shown = [], [], []
    refine, overlay = segmenter.refine, plots.overlay

    def spy(one, **points):
        asked.append((one, points))
        given.append(refine(one, **points))
        return given[-1]

    monkeypatch.setattr(segmenter, "refine", spy)
    monkeypatch.setattr(plots, "overlay", lambda one: shown.append(one) or overlay(one))
    segmenter.set_image(PICTURE)
    left, drawn = plots.explore(segmenter, "left").children
    prompt, *_, x, y, buttons, message = left.children
    add, remove, undo = buttons.children
    assert (x.value, x.max, y.value, y.max) == (20, 39, 15, 29), "in the middle of the 40 x 30 pixels"
    before = drawn.value
    x.value, y.value = 30, 7
    assert drawn.value != before and shown[-1] is shown[0], "the place is marked, and nothing asked"
    add.click()
    x.value = 5
    remove.click()
    assert shown[-1] is given[1]
    assert [points for _, points in asked] == [{"add": [(30, 7)]}, {"remove": [(5, 7)]}]
    assert [one for one, _ in asked] == [shown[0], given[0]], "a point goes on from the one before"
    undo.click()
    assert shown[-1] is given[0]
    for _ in range(2):
        undo.click()
        assert shown[-1] is shown[0], "the prompt's own result stays"
    add.click()
    prompt.value = "nowhere"
    undo.click()
    assert not shown[-1].found, "a new prompt begins anew"
    remove.click()
    assert "add a point first" in message.value
    prompt.value = " "
    for button in (undo, add):
        button.click()
        assert "a prompt is empty" in message.value


def test_points_added_later_are_drawn(segmenter):
    one = segmenter(PICTURE, "left")
    for point in ((3, 4), (5, 6)):
        one = segmenter.refine(one, add=[point])
    assert plots.seeds(one).axes[0].lines[0].get_xydata().tolist() == [one.seeds[0].point.tolist(), [3, 4], [5, 6]]


def test_exploring_without_a_prompt_says_so():
    class Empty(Halves):
        def probabilities(self, prompts, templates):
            raise ValueError("a prompt is empty: ['']")

    segmenter = seg.TextSegmenter(Empty(), Empty())
    segmenter.set_image(PICTURE)
    left, _ = plots.explore(segmenter, "").children
    assert "a prompt is empty" in left.children[-1].value


def test_without_ipywidgets_the_explorer_is_a_still_picture(segmenter, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    segmenter.set_image(PICTURE)
    assert titles(plots.explore(segmenter, "left"))[0].startswith("“left”: found")
    assert "pip install ipywidgets" in capsys.readouterr().out
