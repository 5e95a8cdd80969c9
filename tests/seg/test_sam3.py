"""Oracle: transformers' own processor, which prepares the picture and the text and reads SAM 3's answer."""

import inspect
import json

import numpy as np
import pytest
import torch

from airl import runtime, seg
from airl.scenes import shapes
from airl.seg import plots, weights
from airl.seg.sam3 import Sam3Segmenter

transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "Sam3Model"):
    pytest.skip("this transformers has no SAM 3", allow_module_level=True)

PROMPTS = ["a red circle", "a blue star", "the photo of a star"]


@pytest.fixture(scope="module")
def model(small_sam3, tell_apart):
    from transformers import Sam3Model

    torch.manual_seed(0)
    model = Sam3Model(small_sam3(width=32, heads=2, queries=10)[0]).eval()
    tell_apart(model)
    return model


@pytest.fixture(scope="module")
def processor(tiny_tokenizer):
    from transformers import Sam3ImageProcessor, Sam3Processor

    return Sam3Processor(Sam3ImageProcessor(size={"height": 56, "width": 56}), tiny_tokenizer)


@pytest.fixture
def segmenter(model, processor, cpu):
    return Sam3Segmenter(model, processor, runtime=cpu)


@pytest.fixture(scope="module")
def image():
    return shapes.scene(5, (48, 64), "several").image


def by_processor(model, processor, image, prompt, threshold):
    scores_of = processor.image_processor.post_process_semantic_segmentation
    if "return_segmentation_scores" not in inspect.signature(scores_of).parameters:
        pytest.skip("this version of transformers gives no semantic scores to compare with")
    inputs = processor(images=image, text=prompt, return_tensors="pt")
    with torch.no_grad():
        out = model(**{name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")})
    size = [image.shape[:2]]
    (instances,) = processor.post_process_instance_segmentation(out, threshold, 0.5, size)
    (semantic,) = scores_of(out, size, return_segmentation_scores=True)
    return instances, semantic["segmentation_scores"][0].numpy(), float(out.presence_logits.sigmoid())


def test_the_same_as_its_own_processor(segmenter, model, processor, image):
    counts = []
    for one in segmenter(image, PROMPTS, threshold=0.2, floor=0.0):
        instances, heatmap, presence = by_processor(model, processor, image, one.prompt, 0.2)
        # OpenCV's enlarging differs from torch's by up to 1e-4; rounding decides on a pixel or two at a mask's border
        np.testing.assert_allclose(one.heatmap, heatmap, atol=2e-4)
        assert (one.coarse != (heatmap > 0.2)).mean() < 2e-3
        assert one.peak == pytest.approx(presence, abs=1e-5)
        np.testing.assert_allclose([c.scores[0] for c in one.candidates], instances["scores"], atol=1e-5)
        for candidates, mask in zip(one.candidates, instances["masks"].bool().numpy(), strict=True):
            assert (candidates.mask(0) != mask).mean() < 2e-3
        assert 0 < one.mask.mean() < 1 and one.seeds == ()
        areas = [instance.area for instance in one.instances]
        assert areas == sorted(areas, reverse=True) and (np.any([i.mask for i in one.instances], 0) == one.mask).all()
        for instance in one.instances:
            x, y = np.array(instance.point).astype(int)
            assert instance.mask[y, x]
        counts.append(len(one.candidates))
    assert max(counts) > 1


def test_presence(segmenter, image):
    (one,) = segmenter(image, PROMPTS[:1], threshold=0.0, floor=0.0)
    assert one.found and len(one.candidates) == 10
    below, above = (segmenter.segment(PROMPTS[0], threshold=0.0, floor=one.peak + d) for d in (-1e-6, 1e-3))
    assert below.found and not above.found and not above.mask.any() and above.instances == []
    assert not segmenter.segment(PROMPTS[0], threshold=0.9, floor=0.0).found


def test_looks_once(segmenter, image, monkeypatch):
    looks = []
    look = segmenter.model.get_vision_features
    monkeypatch.setattr(segmenter.model, "get_vision_features", lambda pixels: looks.append(1) or look(pixels))
    many = segmenter(image, PROMPTS)
    again = segmenter.segment(PROMPTS[1])
    assert looks == [1] and (again.heatmap == many[1].heatmap).all()
    assert (many[0].heatmap != many[1].heatmap).any(), "the prompt does not matter"


def test_results_are_used_like_any_other(segmenter, image, tmp_path):
    one = segmenter(image, PROMPTS[0], threshold=0.2, floor=0.0)
    result = json.loads((one.save(tmp_path / "out") / "result.json").read_text())
    assert len(result["instances"]) == len(one.instances) and result["seeds"] == []
    assert len(plots.steps(one).axes) >= 6 and one._repr_png_()
    segmenter.segment("a star", seeding="interior", box=True)
    with pytest.raises(ValueError, match="empty"):
        segmenter.segment(" ")
    segmenter.segment("a " * 50 + "star")  # longer than SAM 3 reads
    with pytest.raises(FileNotFoundError):
        segmenter("no.jpg", "a star")
    with pytest.raises(RuntimeError, match="set_image"):
        segmenter.segment("a star")


def test_from_pretrained(segmenter, model, processor, image, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = seg.TextSegmenter.from_pretrained(tmp_path, device="cpu", precision="fp32")
    assert isinstance(loaded, Sam3Segmenter)
    one, two = (s(image, PROMPTS[0], threshold=0.2, floor=0.0) for s in (segmenter, loaded))
    assert (one.mask == two.mask).all() and one.peak == two.peak

    def refused(load, name):
        raise ConnectionError(f"cannot get {name}")

    monkeypatch.setattr(weights, "from_hub", refused)
    with pytest.raises(ConnectionError, match="(?s)facebook/sam3.*gated.*huggingface.co/facebook/sam3.*hf auth login"):
        seg.TextSegmenter.from_pretrained("sam3", device="cpu")


def test_half_precision(model, processor, image, segmenter):
    half = Sam3Segmenter(model, processor, runtime=runtime.Runtime(torch.device("cpu"), "bf16"))
    a, b = (s(image, PROMPTS[0], threshold=0.2, floor=0.0) for s in (segmenter, half))
    assert b.heatmap.dtype == np.float32 and 0 < np.abs(a.heatmap - b.heatmap).mean() < 0.05  # bf16 keeps 8 bits


@pytest.mark.parametrize("part, name", [("vision_encoder", "vision encoder"), ("mask_decoder", "decoder")])
def test_overflow_in_half_precision_is_done_again_in_fp32(segmenter, model, processor, image, capsys, part, name):
    half = Sam3Segmenter(model, processor, runtime=runtime.Runtime(torch.device("cpu"), "bf16"))
    expected = segmenter(image, PROMPTS[0], threshold=0.0, floor=0.0)

    def overflow(module, inputs, output):
        if torch.is_autocast_enabled("cpu"):
            values = output.fpn_hidden_states[0] if part == "vision_encoder" else output.pred_masks
            values[..., 0] = float("inf")

    hook = getattr(model, part).register_forward_hook(overflow)
    one = half(image, PROMPTS[0], threshold=0.0, floor=0.0)
    hook.remove()
    assert f"SAM 3's {name} overflows in bf16" in capsys.readouterr().out
    assert np.isfinite(one.heatmap).all() and np.isfinite(one.score)
    assert np.abs(one.heatmap - expected.heatmap).max() < 0.1
