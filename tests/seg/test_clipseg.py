"""Oracle: transformers' own forward pass, image processor and configuration of the released model."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from airl.scenes import shapes
from airl.seg.clipseg import ClipSeg

PREPROCESSING = {  # as CIDAS/clipseg-rd64-refined says, at a tiny size
    "size": {"height": 64, "width": 64},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 2,
}
PROMPTS = ["a red circle", "the blue star", "a photo of a star"]


@pytest.fixture
def clipseg(tiny_clipseg, tiny_tokenizer, cpu):
    return ClipSeg(tiny_clipseg, tiny_tokenizer, PREPROCESSING, cpu)


def plain_forward(clipseg, image, prompts):
    tokens = clipseg.tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return clipseg.model(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=clipseg.pixels(image).repeat(len(prompts), 1, 1, 1),
        )


def test_seen_once_equals_the_plain_forward_pass(clipseg):
    image = shapes.scene(0, (64, 64)).image
    clipseg.set_image(image)
    theirs = plain_forward(clipseg, image, PROMPTS).logits.sigmoid().numpy()
    # float32 sums in another order: one prompt at a time here, a padded batch of three there
    np.testing.assert_allclose(clipseg.predict(PROMPTS), theirs, atol=1e-5)
    assert np.ptp(theirs, axis=0).max() > 0.01, "the prompts must make a difference for this to prove anything"


def test_the_vision_tower_runs_once_for_many_prompts(clipseg):
    runs = []
    hook = clipseg.model.clip.vision_model.register_forward_hook(lambda *_: runs.append(1))
    clipseg.set_image(shapes.scene(0, (64, 64)).image)
    clipseg.predict(PROMPTS)
    clipseg.predict(PROMPTS[:1])
    hook.remove()
    assert len(runs) == 1


def test_embedding_is_theirs_and_templates_average_it(clipseg):
    image = shapes.scene(0, (64, 64)).image
    theirs = plain_forward(clipseg, image, PROMPTS).conditional_embeddings
    with torch.no_grad():
        np.testing.assert_allclose(clipseg.embed(PROMPTS), theirs, atol=1e-6)
    clipseg.set_image(image)
    templates = ["{}", "a photo of {}", "the {}"]
    ours = clipseg.predict(["red circle"], templates)
    said = plain_forward(clipseg, image, [t.format("red circle") for t in templates]).conditional_embeddings
    with torch.no_grad():
        out = clipseg.model(pixel_values=clipseg.pixels(image), conditional_embeddings=said.mean(0, keepdim=True))
    np.testing.assert_allclose(ours[0], out.logits.reshape(64, 64).sigmoid().numpy(), atol=1e-5)
    assert np.abs(ours - clipseg.predict(["red circle"])).max() > 1e-4


def test_of_a_long_prompt_the_beginning_is_read(clipseg):
    clipseg.set_image(shapes.scene(0, (64, 64)).image)
    words = "a red circle of the blue star of a red"  # with the start and the end, as many tokens as it reads
    assert len(clipseg.tokenizer(words)["input_ids"]) == clipseg.tokenizer.model_max_length
    long = clipseg.predict([words + " circle of the photo" * 20])
    np.testing.assert_allclose(long, clipseg.predict([words]), atol=1e-6)
    assert np.abs(long - clipseg.predict([words[:-4]])).max() > 1e-4


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 70])
def test_as_many_prompts_as_wanted(clipseg, count):
    clipseg.set_image(shapes.scene(0, (64, 64)).image)
    prompts = [PROMPTS[i % 3] for i in range(count)]
    heatmaps = clipseg.predict((prompt for prompt in prompts), ("{}", "a photo of {}"))
    alone = [clipseg.predict([prompt], ["{}", "a photo of {}"])[0] for prompt in PROMPTS]
    assert len(heatmaps) == count
    for i, heatmap in enumerate(heatmaps):
        np.testing.assert_allclose(heatmap, alone[i % 3], atol=1e-5)


def test_probabilities_are_kept_at_the_models_resolution(clipseg):
    clipseg.set_image(np.zeros((300, 500, 3), np.uint8))
    small = clipseg.probabilities(PROMPTS)
    assert small.shape == (3, 64, 64) and small.dtype == np.float32 and 0 <= small.min() < small.max() <= 1


def test_a_picture_that_failed_leaves_none_behind(clipseg, monkeypatch):
    clipseg.set_image(shapes.scene(0, (64, 64)).image)
    monkeypatch.setattr(clipseg, "look", lambda pixels: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        clipseg.set_image(shapes.scene(1, (64, 64)).image)
    with pytest.raises(RuntimeError, match="set_image before predict"):
        clipseg.predict(["a star"])


@pytest.mark.parametrize("size", [(200, 120), (30, 4000), (1, 1), (64, 64)])
def test_pixels_are_their_image_processors(clipseg, size):
    from transformers import ViTImageProcessor

    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    theirs = ViTImageProcessor(**PREPROCESSING)(image, input_data_format="channels_last", return_tensors="np")
    # Pillow and torchvision round their resized pixels differently, by one level: 1 / 255 / 0.224
    np.testing.assert_allclose(clipseg.pixels(image), theirs["pixel_values"], atol=1.01 / 255 / 0.224)


@pytest.mark.parametrize("size", [(200, 120), (30, 400), (1, 1)])
def test_heatmaps_are_as_large_as_the_picture(clipseg, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    clipseg.set_image(image)
    heatmaps = clipseg.predict(PROMPTS)
    assert heatmaps.shape == (3, *size) and heatmaps.dtype == np.float32
    assert heatmaps.min() >= 0 and heatmaps.max() <= 1
    small = plain_forward(clipseg, image, PROMPTS).logits.sigmoid()[:, None]
    np.testing.assert_allclose(heatmaps, F.interpolate(small, size, mode="bilinear")[:, 0], atol=1e-5)


def test_saved_and_loaded_again(clipseg, tmp_path, cpu):
    from transformers import ViTImageProcessor

    clipseg.model.save_pretrained(tmp_path)
    clipseg.tokenizer.save_pretrained(tmp_path)
    ViTImageProcessor(**PREPROCESSING).save_pretrained(tmp_path)
    again = ClipSeg.from_pretrained(tmp_path, cpu)
    image = shapes.scene(0, (64, 64)).image
    for each in (clipseg, again):
        each.set_image(image)
    np.testing.assert_allclose(again.predict(PROMPTS), clipseg.predict(PROMPTS), atol=1e-5)


def test_a_folder_in_half_precision_is_read_in_fp32(clipseg, tmp_path, cpu):
    from transformers import ViTImageProcessor

    copy.deepcopy(clipseg.model).half().save_pretrained(tmp_path)
    clipseg.tokenizer.save_pretrained(tmp_path)
    ViTImageProcessor(**PREPROCESSING).save_pretrained(tmp_path)
    again = ClipSeg.from_pretrained(tmp_path, cpu)
    assert {parameter.dtype for parameter in again.model.parameters()} == {torch.float32}


def test_the_model_is_put_into_evaluation_mode(tiny_clipseg, tiny_tokenizer, cpu):
    assert not ClipSeg(tiny_clipseg.train(), tiny_tokenizer, PREPROCESSING, cpu).model.training


def test_misuse(clipseg, tmp_path, cpu):
    with pytest.raises(RuntimeError, match="set_image before predict"):
        clipseg.predict(["a star"])
    clipseg.set_image(shapes.scene(0, (64, 64)).image)
    with pytest.raises(ValueError, match="prompt is empty"):
        clipseg.predict(["a star", " "])
    with pytest.raises(ValueError, match="photo of {}.*a photo of a"):
        clipseg.predict(["star"], ["a photo of a"])
    with pytest.raises(ConnectionError, match="nowhere"):
        ClipSeg.from_pretrained(tmp_path / "nowhere", cpu)
    assert clipseg.predict([]).shape == (0, 64, 64)


def test_full_size_model_has_the_released_keys():
    """rd64-refined: ViT-B/16 at 352, layers 3, 6 and 9 read, 64 channels, three-stage upsampling."""
    config = CLIPSegConfig(vision_config={"patch_size": 16}, reduce_dim=64, use_complex_transposed_convolution=True)
    with torch.device("meta"):
        model = CLIPSegForImageSegmentation(config)
    shapes_of = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    released = {  # as the released model's configuration has them
        "clip.logit_scale": (),
        "clip.visual_projection.weight": (512, 768),
        "clip.text_projection.weight": (512, 512),
        "clip.text_model.embeddings.token_embedding.weight": (49408, 512),
        "clip.vision_model.embeddings.patch_embedding.weight": (768, 3, 16, 16),
        "clip.vision_model.embeddings.position_embedding.weight": (197, 768),
        "clip.vision_model.encoder.layers.11.mlp.fc2.weight": (768, 3072),
        "decoder.film_mul.weight": (64, 512),
        "decoder.reduces.2.weight": (64, 768),
        "decoder.layers.2.self_attn.q_proj.weight": (64, 64),
        "decoder.transposed_convolution.0.weight": (64, 64, 3, 3),
        "decoder.transposed_convolution.2.weight": (64, 32, 4, 4),
        "decoder.transposed_convolution.4.weight": (32, 1, 4, 4),
    }
    assert released.items() <= shapes_of.items()
