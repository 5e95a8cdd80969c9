"""Oracles: Pillow reads what was saved, segment-anything's run lengths, and scenes whose truth is known."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from airl import runtime, seg
from airl.scenes import shapes
from airl.seg.clipseg import ClipSeg
from airl.seg.pipeline import RECIPES, Recipe, TextSegmenter
from airl.seg.result import label_map, run_lengths
from airl.seg.sam import Candidates, SegmentAnything

PREPROCESSING = {"size": 64, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}


class Ideal:
    """Stands in for both models: a heat-map that is the truth, and a SAM that returns what it is told to."""

    def __init__(self, scene, candidates=None):
        self.scene, self.candidates, self.calls = scene, candidates, []

    def set_image(self, image):
        self.calls.append("set_image")

    def probabilities(self, prompts, templates):
        self.calls.append("probabilities")
        return np.stack([np.where(self.scene.truth(p), 0.9, 0.1) for p in prompts]).astype(np.float32)

    def predict(self, seed, mask_prompt=None):
        self.calls.append("predict")
        self.seed, self.mask_prompt = seed, mask_prompt
        region = seed.region
        masks = np.stack([np.ones_like(region), region, np.zeros_like(region)])
        return self.candidates or Candidates(masks, np.array([0.5, 0.8, 0.7], np.float32))


@pytest.fixture
def scene():
    return shapes.scene(5, (48, 64), "several")


@pytest.fixture
def ideal(scene):
    return TextSegmenter(Ideal(scene), Ideal(scene))


@pytest.fixture
def tiny(tiny_clipseg, tiny_tokenizer, tiny_sam, cpu):
    return TextSegmenter(ClipSeg(tiny_clipseg, tiny_tokenizer, PREPROCESSING, cpu), SegmentAnything(tiny_sam, cpu))


@pytest.mark.parametrize("kind", shapes.KINDS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_with_ideal_models_the_mask_is_the_truth(kind, recipe):
    for number in range(8):
        scene = shapes.scene(number, (64, 64), kind)
        segmenter = TextSegmenter(Ideal(scene), Ideal(scene), recipe)
        one = segmenter(scene.image, scene.prompt, min_area=0)
        truth = scene.truth(scene.prompt)
        assert (one.mask == truth).all() and (one.coarse == truth).all() and one.found == truth.any()
        assert (one.image == scene.image).all() and one.prompt == scene.prompt
        assert one.peak == pytest.approx(0.9 if one.found else 0.1)


def test_every_step_with_real_models(tiny, scene):
    one = tiny(scene.image, "a red circle", threshold=0.1, floor=0.1)
    assert isinstance(one, seg.Segmentation) and one.found and len(one.seeds) == len(one.candidates) == 1
    assert one.heatmap.shape == one.coarse.shape == one.mask.shape == (48, 64)
    assert (one.coarse == (one.heatmap > 0.1)).all()
    best = one.candidates[0].scores.argmax()
    assert one.chosen == (best,) and (one.mask == one.candidates[0].masks[best]).all()
    assert one.score == pytest.approx(float(one.candidates[0].scores[best]))
    assert seg.Recipe() == RECIPES["assignment"] == tiny.recipe, "a call's changes are for that call"


@pytest.mark.parametrize(
    "changes",
    [
        {"seeding": "interior"},
        {"seeding": "components", "box": True, "negatives": 2, "choice": "both"},
        {"mask_prompt": True, "choice": "agreement"},
        {"templates": ("{}", "a photo of {}")},
    ],
)
def test_every_option_runs_on_real_models(tiny, scene, changes):
    one, two = tiny(scene.image, ["a red circle", "a blue star"], threshold=0.1, floor=0.1, **changes)
    assert one.mask.shape == two.mask.shape == (48, 64) and one.found and two.found


def test_many_prompts_look_once(scene):
    clipseg, sam = Ideal(scene), Ideal(scene)
    segmenter = TextSegmenter(clipseg, sam)
    many = segmenter(scene.image, scene.prompts())
    assert [one.prompt for one in many] == scene.prompts() and len(many) > 1
    assert clipseg.calls == ["set_image", "probabilities"]
    assert sam.calls.count("set_image") == 1 and sam.calls.count("predict") == len(many)
    again = segmenter.segment([scene.prompts()[0]], seeding="interior")
    assert sam.calls.count("set_image") == 1 and (again[0].mask == many[0].mask).all()


def test_absent():
    scene = shapes.scene(1, (48, 64), "absent")
    sam = Ideal(scene)
    one = TextSegmenter(Ideal(scene), sam)(scene.image, scene.prompt)
    assert not one.found and one.seeds == () and not one.mask.any() and one.score == 0.0 and one.box is None
    assert one.peak == pytest.approx(0.1) and one.floor == 0.5
    assert sam.calls == [], "SAM need not look at a picture in which nothing was found"
    assert one.to_json()["segmentation"] == {"size": [48, 64], "counts": [48 * 64]}


def test_choices():
    region = np.zeros((4, 4), bool)
    region[:2] = True
    masks = np.stack([region, np.ones((4, 4), bool), ~region])
    candidates = Candidates(masks, np.array([0.3, 0.9, 0.95], np.float32))
    assert candidates.choose(region, "score") == 2
    assert candidates.choose(region, "agreement") == 0
    assert candidates.choose(region, "both") == 1  # 0.3 * 1, 0.9 * 0.5, 0.95 * 0


def test_mask_prompt_is_the_heatmap_as_logits(scene):
    sam = Ideal(scene)
    TextSegmenter(Ideal(scene), sam, Recipe(mask_prompt=True))(scene.image, scene.prompt)
    truth = scene.truth(scene.prompt)
    np.testing.assert_allclose(torch.from_numpy(sam.mask_prompt[truth]).sigmoid(), 0.9, rtol=1e-5)
    assert (sam.mask_prompt[~truth] < -5).all()


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_are_segment_anythings(seed):
    from segment_anything.utils.amg import mask_to_rle_pytorch, rle_to_mask

    mask = np.random.default_rng(seed).random((7, 11)) < [0.5, 0.1, 0, 1][seed]
    assert run_lengths(mask) == mask_to_rle_pytorch(torch.from_numpy(mask)[None])[0]["counts"]
    assert (rle_to_mask({"size": [7, 11], "counts": run_lengths(mask)}) == mask).all()


def test_saved_files(ideal, scene, tmp_path):
    one = ideal(scene.image, scene.prompt, box=True, negatives=1)
    truth = scene.truth(scene.prompt)
    assert one.save(tmp_path / "new" / "out") == tmp_path / "new" / "out"
    folder = tmp_path / "new" / "out"
    assert (np.asarray(Image.open(folder / "mask.png")) == truth * 255).all()
    overlay = np.asarray(Image.open(folder / "overlay.jpg"))
    assert overlay.shape == scene.image.shape
    np.testing.assert_allclose(overlay.astype(int).mean((0, 1)), one.overlay.mean((0, 1)), atol=3)  # it is a JPEG
    result = json.loads((folder / "result.json").read_text())
    cutout = np.asarray(Image.open(folder / "cutout.png"))
    x, y = result["cutout"]["offset"]
    part = np.s_[y : y + cutout.shape[0], x : x + cutout.shape[1]]
    assert (cutout[..., 3] == truth[part] * 255).all() and truth[part].sum() == truth.sum()
    assert (cutout[..., :3] == scene.image[part]).all() and truth[part][[0, -1]].any(1).all()
    assert result["prompt"] == scene.prompt and result["found"] and result["area"] == truth.sum()
    rows, columns = np.nonzero(truth)
    assert result["box"] == [columns.min(), rows.min(), columns.max(), rows.max()]
    assert result["seeds"][0]["point"] == one.seeds[0].point.tolist() and len(result["seeds"][0]["negatives"]) == 1
    assert result["score"] == pytest.approx(0.8)


def test_save_overwrites_only_when_asked(ideal, scene, tmp_path):
    one = ideal(scene.image, scene.prompt)
    (tmp_path / "mask.png").write_text("precious")
    with pytest.raises(FileExistsError, match="mask.png.*overwrite=True"):
        one.save(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["mask.png"] and (tmp_path / "mask.png").read_text() == "precious"
    one.save(tmp_path, overwrite=True)
    assert len(list(tmp_path.iterdir())) == 4


def test_label_map(ideal, scene):
    many = ideal(scene.image, scene.prompts())
    labels, legend = label_map(many)
    assert legend == dict(enumerate(scene.prompts(), 1))
    covered = np.any([one.mask for one in many], axis=0)
    assert ((labels > 0) == covered).all()
    for number in range(1, len(many) + 1):
        assert many[number - 1].mask[labels == number].all()
    with pytest.raises(ValueError, match="one picture"):
        label_map([])


def test_misuse(ideal, scene, tmp_path):
    with pytest.raises(RuntimeError, match="set_image before segment"):
        ideal.segment(["a star"])
    with pytest.raises(FileNotFoundError, match="no.jpg"):
        ideal("no.jpg", "a star")
    with pytest.raises(RuntimeError):  # a picture that failed to load leaves none behind
        ideal.segment(["a star"])
    with pytest.raises(ValueError, match="unknown recipe 'worst'.*assignment, best"):
        TextSegmenter.from_pretrained(recipe="worst")
    with pytest.raises(ValueError, match="'luck'.*score, agreement, both"):
        ideal(scene.image, "a star", choice="luck")
    with pytest.raises(TypeError, match="sharpness"):
        ideal(scene.image, "a star", sharpness=3)


def test_import_is_cheap():
    code = (
        "import sys, airl.seg; heavy = {'transformers', 'segment_anything', 'cv2', 'torchvision', 'matplotlib', "
        "'timm', 'scipy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_half_precision_stays_inside_the_models(tiny_clipseg, tiny_tokenizer, tiny_sam, tiny, scene):
    half = runtime.Runtime(torch.device("cpu"), "bf16")
    other = TextSegmenter(ClipSeg(tiny_clipseg, tiny_tokenizer, PREPROCESSING, half), SegmentAnything(tiny_sam, half))
    a, b = (s(scene.image, "a red circle", threshold=0.1, floor=0.1) for s in (tiny, other))
    assert b.heatmap.dtype == np.float32 and b.candidates[0].scores.dtype == np.float32
    assert np.abs(a.heatmap - b.heatmap).max() > 0, "bf16 was not used"
    # bf16 keeps 8 bits; random weights amplify its rounding
    assert np.abs(a.heatmap - b.heatmap).mean() < 0.05
    assert (a.candidates[0].masks != b.candidates[0].masks).mean() < 0.1
