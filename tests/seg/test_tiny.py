"""The embedded models do what the README says of them, on scenes that they were not trained on."""

from dataclasses import replace

import numpy as np
import pytest

from airl import seg
from airl.runtime import choose
from airl.scenes import shapes
from airl.seg import pipeline
from airl.seg.metrics import iou
from airl.seg.pipeline import TINY_FLOOR, TINY_THRESHOLD
from training.train_tiny import TEST_SEED

EACH = 20  # scenes of each kind; benchmarks/seeding.py takes 100


@pytest.fixture(scope="module")
def results():
    """For both recipes, for each kind of scene: IoU and presence. Both start from the same look at a picture."""
    segmenter = seg.TextSegmenter.tiny(device="cpu")
    results = {name: {kind: [] for kind in shapes.KINDS} for name in seg.RECIPES}
    for kind in shapes.KINDS:
        for number in range(EACH):
            scene = shapes.scene(TEST_SEED + number, kind=kind)
            segmenter.set_image(scene.image)
            for name, recipe in seg.RECIPES.items():
                changes = vars(recipe) | {"threshold": TINY_THRESHOLD, "floor": TINY_FLOOR}
                (one,) = segmenter.segment([scene.prompt], **changes)
                results[name][kind].append((iou(one.mask, scene.truth(scene.prompt)), one.found))
    return results


def mean_iou(results, *kinds):
    return np.mean([score for kind in kinds for score, _ in results[kind]])


def test_masks_are_good(results):
    # Over 20 scenes a mean IoU strays by about 0.05 from that over 100, which the README states.
    present = [kind for kind in shapes.KINDS if kind != "absent"]
    assert mean_iou(results["assignment"], "convex") > 0.70
    assert mean_iou(results["best"], "convex") > 0.80
    assert mean_iou(results["best"], *present) > 0.70
    assert mean_iou(results["best"], *present) > mean_iou(results["assignment"], *present) + 0.05


@pytest.mark.parametrize("recipe", seg.RECIPES)
def test_presence_is_known(results, recipe):
    by_kind = results[recipe]
    assert sum(found for _, found in by_kind["absent"]) <= 0.15 * EACH  # 5% and two standard deviations of 20 draws
    missed = sum(not found for kind, scores in by_kind.items() if kind != "absent" for _, found in scores)
    assert missed <= 0.1 * 4 * EACH  # likewise of 80


def test_the_same_weights_for_any_phrasing_and_picture():
    segmenter = seg.TextSegmenter.tiny(device="cpu")
    scene = shapes.scene(TEST_SEED, kind="convex")
    small = shapes.scene(TEST_SEED, (128, 128), kind="convex")
    truth = scene.truth(scene.prompt)
    for prompt in (scene.prompt.upper(), f"a photo of {scene.prompt}"):
        assert iou(segmenter(scene.image, prompt).mask, truth) > 0.7
    assert segmenter(small.image, small.prompt).mask.shape == (128, 128)
    templates = ("{}", "a photo of {}", "a picture of {}")
    assert iou(segmenter(scene.image, scene.prompt, templates=templates).mask, truth) > 0.7
    nothing = segmenter(np.full((200, 300, 3), 90, np.uint8), "a dog")
    assert not nothing.found and not nothing.mask.any()


def test_the_recipes_floor_is_their_own():
    for name, recipe in seg.RECIPES.items():
        assert seg.TextSegmenter.tiny(name, "cpu").recipe == replace(recipe, threshold=TINY_THRESHOLD, floor=TINY_FLOOR)
    mine = seg.Recipe(floor=0.3)
    assert seg.TextSegmenter.tiny(mine, "cpu").recipe == mine


def test_device_and_precision_are_those_asked_for(capsys):
    segmenter = seg.TextSegmenter.tiny(device="cpu", precision="fp16")  # which "auto" never gives on a CPU
    assert {segmenter.clipseg.runtime, segmenter.sam.runtime} == {choose("cpu", "fp16")}
    assert str(choose("cpu", "fp16")) in capsys.readouterr().out
    nowhere = seg.TextSegmenter.tiny(device="meta")  # the one other device that every machine has
    models = (nowhere.clipseg.model, nowhere.sam.predictor.model)
    assert {p.device.type for model in models for p in model.parameters()} == {"meta"}
    with pytest.raises(ValueError, match="device is 'abacus'"):
        seg.TextSegmenter.tiny(device="abacus")


def test_without_the_files_it_says_how_to_make_them(monkeypatch, tmp_path):
    monkeypatch.setattr(pipeline, "__file__", str(tmp_path / "pipeline.py"))
    with pytest.raises(FileNotFoundError, match="python -m training.train_tiny"):
        seg.TextSegmenter.tiny()
