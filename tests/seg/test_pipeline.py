"""Oracles: Pillow reads what was saved, segment-anything's run lengths, and scenes whose truth is known."""

import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from PIL import Image

from airl import runtime, seg
from airl.scenes import shapes
from airl.seg import draw, pipeline
from airl.seg.clipseg import ClipSeg
from airl.seg.export import run_lengths
from airl.seg.pipeline import RECIPES, Recipe, TextSegmenter
from airl.seg.result import label_map
from airl.seg.sam import Candidates, SegmentAnything, Segmenter

PREPROCESSING = {"size": 64, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}


class Ideal(Segmenter):
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


@pytest.mark.parametrize("changes", [{}, {"mask_prompt": True}])
def test_prompts_asked_together_are_as_one_by_one(tiny, changes):
    """Some prompts are not there and some have several seeds: each gets the masks of its own."""
    scene, changes = shapes.scene(5, (48, 64), "several"), changes | {"seeding": "components", "min_area": 0}
    prompts = ["a red circle", "a blue star", "the star", "photo of the red star", "a circle"]
    peaks = [one.peak for one in tiny(scene.image, prompts)]
    floor = sum(sorted(peaks)[1:3]) / 2  # two of the five are not there
    thresholds = {"floor": floor, "threshold": 0.9 * floor}
    many = tiny.segment(prompts, **thresholds, **changes)
    assert sum(not one.found for one in many) == 2 and max(len(one.seeds) for one in many) > 1
    for one in many:
        alone = tiny.segment(one.prompt, **thresholds, **changes)
        # Products of larger matrices are summed in another order, which changes float32's last bits; the seeds follow
        # from the heat-map by comparisons.
        np.testing.assert_allclose(one.heatmap, alone.heatmap, atol=1e-5)
        assert one.prompt == alone.prompt and one.chosen == alone.chosen and len(one.seeds) == len(alone.seeds)
        for mine, its in zip(one.candidates, alone.candidates, strict=True):
            np.testing.assert_allclose(mine.logits, its.logits, atol=1e-3)
            np.testing.assert_allclose(mine.scores, its.scores, atol=1e-4)


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
    assert result["score"] == pytest.approx(0.8) and result["size"] == [48, 64] and result["floor"] == 0.5
    assert result["peak"] == pytest.approx(0.9) and result["seeds"][0]["chosen"] == 1
    assert result["seeds"][0]["scores"] == pytest.approx([0.5, 0.8, 0.7])
    assert result["seeds"][0]["box"] == result["box"], "of all the coarse mask, as center_of_mass has it"
    assert ideal(scene.image, scene.prompt).to_json()["seeds"][0]["box"] is None


def test_save_replaces_its_own_files_and_no_others(ideal, scene, tmp_path):
    one, other = ideal(scene.image, scene.prompts()[:2])
    (tmp_path / "mask.png").write_text("precious")
    with pytest.raises(FileExistsError, match="mask.png.*overwrite=True"):
        one.save(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["mask.png"] and (tmp_path / "mask.png").read_text() == "precious"
    one.save(tmp_path, overwrite=True)
    (tmp_path / "notes.txt").write_text("kept")
    ideal(scene.image, one.prompt, threshold=0.95).save(tmp_path)  # the cell runs again, with another setting
    assert not json.loads((tmp_path / "result.json").read_text())["found"]
    assert {f.name for f in tmp_path.iterdir()} == {"mask.png", "overlay.jpg", "result.json", "notes.txt"}
    elsewhere = TextSegmenter(Ideal(scene), Ideal(scene))(255 - scene.image, one.prompt)
    for another in (other, elsewhere):
        with pytest.raises(FileExistsError, match="something else"):
            another.save(tmp_path)
    for broken in ("no JSON", "[]", "{}"):
        (tmp_path / "result.json").write_text(broken)
        with pytest.raises(FileExistsError, match="something else"):
            one.save(tmp_path)
    other.save(tmp_path, overwrite=True, note="mine")
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["prompt"] == other.prompt and saved["note"] == "mine"


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
    with pytest.raises(ValueError, match="one picture"):
        label_map([many[0], ideal(scene.image[:20], scene.prompt)])


def test_in_a_label_map_the_more_probable_prompt_wins(ideal, scene):
    one = ideal(scene.image, scene.prompt)
    everywhere = Candidates(np.ones((1, 48, 64)), np.ones(1, np.float32))
    columns = np.broadcast_to(np.arange(64) < 20, (48, 64))
    left, right = (
        replace(one, prompt=name, probabilities=np.where(part, 0.9, 0.6).astype(np.float32), candidates=(everywhere,))
        for name, part in (("left", columns), ("right", ~columns))
    )
    left, right = (replace(each, seeds=one.seeds[:1], chosen=(0,)) for each in (left, right))
    for many in ([left, right], [right, left]):
        labels, legend = label_map(many)
        assert {legend[number] for number in np.unique(labels[:, :20])} == {"left"}
        assert {legend[number] for number in np.unique(labels[:, 20:])} == {"right"}
    labels, legend = label_map([left, replace(left, prompt="the same")])
    assert {legend[number] for number in np.unique(labels)} == {"left"}, "of two alike the first wins"


def test_misuse(ideal, scene, tmp_path):
    with pytest.raises(RuntimeError, match="set_image before segment"):
        ideal.segment(["a star"])
    with pytest.raises(FileNotFoundError, match="no.jpg"):
        ideal("no.jpg", "a star")
    ideal.set_image(scene.image)
    with pytest.raises(FileNotFoundError):
        ideal.set_image("no.jpg")
    with pytest.raises(RuntimeError):  # a picture that failed to load leaves none behind
        ideal.segment(["a star"])
    with pytest.raises(ValueError, match="unknown recipe 'worst'.*assignment, best"):
        TextSegmenter.from_pretrained(recipe="worst")
    with pytest.raises(ValueError, match="unknown recipe {'box': True}"):
        TextSegmenter.from_pretrained(recipe={"box": True})
    for wrong in ("", " ", ["a star", ""], [3]):
        with pytest.raises(ValueError, match="a prompt is"):
            ideal(scene.image, wrong)
    with pytest.raises(TypeError, match="sharpness"):
        ideal(scene.image, "a star", sharpness=3)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"seeding": "luck"}, "seeding 'luck'.*center_of_mass, interior, components"),
        ({"choice": "luck"}, "choice 'luck'.*score, agreement, both"),
        ({"threshold": float("nan")}, r"threshold is nan; expected a number in \[0, 1\]"),
        ({"threshold": 2}, "threshold is 2"),
        ({"threshold": "0.5"}, "threshold is '0.5'"),
        ({"floor": float("nan")}, "floor is nan"),
        ({"floor": -0.1}, "floor is -0.1"),
        ({"min_area": -1}, "min_area is -1"),
        ({"negatives": 2.5}, "negatives is 2.5"),
        ({"negatives": -1}, "negatives is -1"),
        ({"box": "yes"}, "box is 'yes'; expected True or False"),
        ({"mask_prompt": 1}, "mask_prompt is 1"),
        ({"templates": "a photo of {}"}, r"templates are several texts.*got 'a photo of \{\}'"),
        ({"templates": ["a photo"]}, r"got \['a photo'\]"),
        ({"templates": ()}, r"got \(\)"),
    ],
)
def test_a_recipe_is_checked_when_it_is_made(ideal, scene, changes, says):
    with pytest.raises(ValueError, match=says):
        Recipe(**changes)
    with pytest.raises(ValueError, match=says):
        ideal(scene.image, "a star", **changes)


def test_thresholds_are_the_assignments_and_what_clipsegs_authors_report():
    assert [RECIPES[name].threshold for name in ("assignment", "best")] == [0.5, 0.3]


def test_recipe_takes_the_limits():
    with pytest.raises(FrozenInstanceError):  # the named ones are everybody's
        RECIPES["assignment"].threshold = 0.3
    Recipe(threshold=0, floor=1, min_area=np.float32(0), negatives=np.int64(2), templates=["{}"])
    assert Recipe(templates=["{}"]).templates == ("{}",)


def test_from_pretrained_loads_what_is_named(tiny, cpu, monkeypatch, capsys):
    loaded = []
    monkeypatch.setattr(pipeline, "load_sam", lambda *args: loaded.append(args) or tiny.sam)
    monkeypatch.setattr(ClipSeg, "from_pretrained", lambda *args: loaded.append(args) or tiny.clipseg)
    segmenter = TextSegmenter.from_pretrained("some.pth", "a/clipseg", "best", device="cpu", precision="bf16")
    assert (segmenter.sam, segmenter.clipseg, segmenter.recipe) == (tiny.sam, tiny.clipseg, RECIPES["best"])
    half = runtime.choose("cpu", "bf16")
    assert loaded == [("some.pth", half), ("a/clipseg", half)], "a mistyped path costs no download"
    assert "CLIPSeg a/clipseg, SAM some.pth" in capsys.readouterr().out


def test_a_prompt_is_no_list_of_letters(tiny, scene):
    one = tiny(scene.image, "star")
    again = tiny.segment("star")
    assert one.prompt == again.prompt == "star" and (one.heatmap == again.heatmap).all()
    several = tiny.segment(word for word in ("star", "circle"))
    assert [each.prompt for each in several] == ["star", "circle"]
    np.testing.assert_allclose(several[0].heatmap, one.heatmap, atol=1e-5)


def test_a_picture_changed_between_the_calls_is_not_seen(tiny, scene):
    picture = scene.image.copy()
    expected = tiny(picture, "a star", threshold=0.1, floor=0.1)
    tiny.set_image(picture)
    picture[:] = 0
    one = tiny.segment("a star", threshold=0.1, floor=0.1)
    assert expected.found and (one.mask == expected.mask).all() and (one.image == scene.image).all()


def test_threads_share_a_segmenter(tiny):
    pictures = [shapes.scene(number, (48, 64)).image for number in range(12)]
    expected = [tiny(picture, "a star", threshold=0.1, floor=0.1) for picture in pictures]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda picture: tiny(picture, "a star", threshold=0.1, floor=0.1), pictures))
    finally:
        sys.setswitchinterval(switch)
    for one, other in zip(expected, results, strict=True):
        assert (one.heatmap == other.heatmap).all() and (one.mask == other.mask).all()


def test_instances(ideal):
    for number in range(20):
        scene = shapes.scene(number, (48, 64), "several")
        one = TextSegmenter(Ideal(scene), Ideal(scene), "best")(scene.image, scene.prompt, min_area=0)
        instances = one.instances
        assert len(instances) == len(one.seeds) and (np.any([i.mask for i in instances], axis=0) == one.mask).all()
        assert [i.area for i in instances] == sorted((i.mask.sum() for i in instances), reverse=True)
        for instance in instances:
            x0, y0, x1, y1 = instance.box
            x, y = map(round, instance.point)
            assert instance.mask[y0 : y1 + 1, x0 : x1 + 1].sum() == instance.area and instance.mask[y, x]
            assert instance.mask[y0].any() and instance.mask[y1].any() and instance.mask[:, x1].any()
            assert instance.score == pytest.approx(0.8)
        json_ = one.to_json()["instances"]
        assert [(tuple(i["box"]), i["area"], tuple(i["point"])) for i in json_] == [
            (i.box, i.area, i.point) for i in instances
        ]
    scene = shapes.scene(1, (48, 64), "convex")
    empty = Candidates(np.zeros((3, 48, 64)), np.array([0.5, 0.4, 0.3], np.float32))
    one = TextSegmenter(Ideal(scene), Ideal(scene, empty))(scene.image, scene.prompt)
    assert one.found and one.instances == [] and one.box is None and one.cutout.shape == (0, 0, 4)


def test_an_instance_is_where_its_seed_is(ideal, scene):
    one = ideal(scene.image, scene.prompt)
    (instance,) = one.instances
    assert instance.point == tuple(one.seeds[0].point), "the center of mass, which is no middle of the mask"


def test_overlays_number_what_is_several(monkeypatch):
    seen = []
    monkeypatch.setattr(draw, "overlay", lambda image, objects: seen.append(list(objects)) or image)
    for number in range(30):
        scene = shapes.scene(number, (48, 64), ["several", "convex"][number % 2])
        one = TextSegmenter(Ideal(scene), Ideal(scene), "best")(scene.image, scene.prompt, min_area=0)
        assert one.overlay is one.image
        count = len(one.instances)
        texts = [f"{i} {one.prompt}" for i in range(1, count + 1)] if count > 1 else [one.prompt] * count
        assert [(number, label) for number, _, label in seen[-1]] == list(enumerate(texts, 1))
        for (_, mask, _), instance in zip(seen[-1], one.instances, strict=True):
            assert (mask == instance.mask).all()
    assert {len(objects) for objects in seen} >= {1, 2}


def test_in_a_notebook(ideal, scene):
    nothing = next(prompt for prompt in shapes.PROMPTS if not scene.truth(prompt).any())
    one, absent = ideal(scene.image, [scene.prompt, nothing])
    assert repr(one) == f"<Segmentation {scene.prompt!r}: found, peak 0.90, score 0.80, 1 instance(s), 64 x 48 pixels>"
    assert "not there" in repr(absent) and "\n" not in repr(one.instances[0])
    for each in (one, absent):
        shown = np.asarray(Image.open(io.BytesIO(each._repr_png_())))
        assert (shown == each.overlay).all()
    large = ideal(np.zeros((1000, 1500, 3), np.uint8), nothing)
    assert Image.open(io.BytesIO(large._repr_png_())).size == (375, 250)
    assert [axis.get_title() for axis in one.plot().axes][0] == "picture"
    assert seg.plots.steps.__name__ == "steps"
    with pytest.raises(AttributeError, match="nothing"):
        _ = seg.nothing


def broken(tensor_holder, dtype):
    """A hook that puts infinities into what a module gives under autocast to dtype alone; into all if None."""

    def hook(module, inputs, output):
        tensor = tensor_holder(output)
        if dtype is None or torch.is_autocast_enabled("cpu"):
            tensor[..., 0] = float("inf")

    return hook


PARTS = {
    "CLIPSeg's vision tower": (lambda c, s: c.clip.vision_model.encoder.layers[0], lambda out: out),
    "CLIPSeg's decoder": (lambda c, s: c.clip.text_projection, lambda out: out),
    "SAM's image encoder": (lambda c, s: s.image_encoder, lambda out: out),
}


@pytest.mark.parametrize("part", PARTS)
def test_overflow_in_half_precision_is_done_again_in_fp32(
    tiny_clipseg, tiny_tokenizer, tiny_sam, tiny, scene, capsys, part
):
    half = runtime.Runtime(torch.device("cpu"), "bf16")
    other = TextSegmenter(ClipSeg(tiny_clipseg, tiny_tokenizer, PREPROCESSING, half), SegmentAnything(tiny_sam, half))
    find, tensor = PARTS[part]
    expected = tiny(scene.image, "a red circle", threshold=0.1, floor=0.1)
    module = find(tiny_clipseg, tiny_sam)
    hook = module.register_forward_hook(broken(tensor, "half"))
    try:
        one = other(scene.image, "a red circle", threshold=0.1, floor=0.1)
    finally:
        hook.remove()
    assert f"{part} overflows in bf16 on this picture; it is done again in fp32" in capsys.readouterr().out
    assert np.isfinite(one.heatmap).all() and np.isfinite(one.score)
    assert np.abs(one.heatmap - expected.heatmap).mean() < 0.05
    hook = module.register_forward_hook(broken(tensor, None))
    try:
        for segmenter in (tiny, other):
            with pytest.raises(FloatingPointError, match=f"{part} gives numbers that are not finite, in fp32 too"):
                segmenter(scene.image, "a red circle", threshold=0.1, floor=0.1)
    finally:
        hook.remove()


def test_a_sam_that_gives_nan_is_not_found_to_be_right(tiny, tiny_sam, scene):
    hook = tiny_sam.mask_decoder.iou_prediction_head.register_forward_hook(lambda *_: _[2] * float("nan"))
    try:
        with pytest.raises(FloatingPointError, match="SAM's mask decoder"):
            tiny(scene.image, "a red circle", threshold=0.1, floor=0.1)
    finally:
        hook.remove()


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
    seed = a.seeds[0]
    assert np.abs(tiny.sam.predict(seed).logits - other.sam.predict(seed).logits).max() > 0, "bf16 was not used"
    # bf16 keeps 8 bits; random weights amplify its rounding
    assert np.abs(a.heatmap - b.heatmap).mean() < 0.05
    assert (a.candidates[0].masks != b.candidates[0].masks).mean() < 0.1
