"""Oracles: segment-anything's own registry and predictor, transformers' SamModel, Sam2Model and their processors."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Sam2Processor, SamConfig, SamModel

from airl import images, runtime
from airl.scenes import shapes
from airl.seg import sam as ours
from airl.seg import weights
from airl.seg.sam2 import SegmentAnything2
from airl.seg.seeds import make_seeds


@pytest.fixture
def scene():
    return shapes.scene(1, (48, 64), "convex")


def seed_of(scene, **kwargs):
    return make_seeds(scene.truth(scene.prompt).astype(np.float32), **kwargs).seeds[0]


# --------------------------------------------------------------------------------------------- SAM


def renamed(state):
    """segment-anything's names for a SAM's weights, as transformers calls them."""
    ends = {"layers.0": "proj_in", "layers.1": "layers.0", "layers.2": "proj_out"}
    names = [
        ("image_encoder.blocks", "vision_encoder.layers"),
        ("image_encoder", "vision_encoder"),
        ("patch_embed.proj", "patch_embed.projection"),
        ("neck.0", "neck.conv1"),
        ("neck.1", "neck.layer_norm1"),
        ("neck.2", "neck.conv2"),
        ("neck.3", "neck.layer_norm2"),
        ("mask_downscaling.0", "mask_embed.conv1"),
        ("mask_downscaling.1", "mask_embed.layer_norm1"),
        ("mask_downscaling.3", "mask_embed.conv2"),
        ("mask_downscaling.4", "mask_embed.layer_norm2"),
        ("mask_downscaling.6", "mask_embed.conv3"),
        ("point_embeddings", "point_embed"),
        ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
        ("output_upscaling.0", "upscale_conv1"),
        ("output_upscaling.1", "upscale_layer_norm"),
        ("output_upscaling.3", "upscale_conv2"),
        ("norm_final_attn", "layer_norm_final_attn"),
        (".norm", ".layer_norm"),
    ]
    new = {}
    for name, tensor in state.items():
        if "output_hypernetworks_mlps" in name or "iou_prediction_head" in name:
            name = next(name.replace(a, b) for a, b in ends.items() if a in name)
        for old, to in names:
            name = name.replace(old, to)
        new[name] = tensor
    new["prompt_encoder.shared_embedding.positional_embedding"] = new["shared_image_embedding.positional_embedding"]
    return new


@pytest.fixture(scope="module")
def their_sam(tiny_sam, tiny_sam_config):
    c = tiny_sam_config
    config = SamConfig(
        vision_config=dict(
            hidden_size=c.width,
            num_hidden_layers=c.depth,
            num_attention_heads=c.heads,
            global_attn_indexes=list(c.global_blocks),
            window_size=c.window,
            image_size=c.image_size,
            patch_size=c.patch_size,
            output_channels=c.channels,
            num_pos_feats=c.channels // 2,
            mlp_dim=4 * c.width,
        ),
        prompt_encoder_config=dict(hidden_size=c.channels, image_size=c.image_size, patch_size=c.patch_size),
        mask_decoder_config=dict(hidden_size=c.channels, mlp_dim=c.decoder_mlp, iou_head_hidden_dim=c.channels),
    )
    model = SamModel(config).eval()
    missing, unexpected = model.load_state_dict(renamed(tiny_sam.state_dict()), strict=False)
    assert not missing and not unexpected
    return model


@pytest.mark.parametrize("prompt", [{}, {"box": True}, {"negatives": 2}, {"box": True, "negatives": 3}])
def test_sam_agrees_with_transformers(tiny_sam, tiny_sam_config, their_sam, scene, cpu, prompt):
    sam = ours.SegmentAnything(tiny_sam, cpu)
    sam.set_image(scene.image)
    seed = seed_of(scene, **prompt)
    here = sam.predict(seed)

    scale = tiny_sam_config.image_size / 64  # of the longer side, here 1
    pixels = sam.predictor.model.preprocess(torch.from_numpy(scene.image).permute(2, 0, 1)[None].float())
    with torch.no_grad():
        there = their_sam(
            pixel_values=pixels,
            input_points=torch.tensor(seed.points * scale, dtype=torch.float32)[None, None],
            input_labels=torch.tensor(seed.labels)[None, None],
            input_boxes=None if seed.box is None else torch.tensor(seed.box * scale, dtype=torch.float32)[None, None],
        )
    logits = torch.nn.functional.interpolate(there.pred_masks[0], (64, 64), mode="bilinear")[0, :, :48, :64]
    assert here.masks.shape == (3, 48, 64) and here.masks.dtype == bool
    assert 0.02 < here.masks.mean() < 0.98, "masks that are all or nothing would prove nothing"
    # Pixels whose logit is 0 to float32's precision may fall either way.
    assert (here.masks == (logits > 0).numpy())[np.abs(logits.numpy()) > 1e-4].all()
    np.testing.assert_allclose(here.scores, there.iou_scores[0, 0], atol=1e-4)


@pytest.mark.parametrize("size", [(48, 64), (100, 70), (37, 211), (64, 64)])
@pytest.mark.parametrize("prompt", [{}, {"box": True, "negatives": 2}])
@pytest.mark.parametrize("guess", [False, True])
def test_sam_agrees_with_its_own_predictor(tiny_sam, cpu, size, prompt, guess):
    from segment_anything import SamPredictor

    scene = shapes.scene(1, size, "convex")
    seed = seed_of(scene, **prompt)
    sam, predictor = ours.SegmentAnything(tiny_sam, cpu), SamPredictor(tiny_sam)
    mask_prompt = np.where(seed.region, 5, -5).astype(np.float32) if guess else None
    sam.set_image(scene.image)
    predictor.set_image(scene.image)
    mine = sam.predict(seed, mask_prompt)
    low = None if mask_prompt is None else sam._low_resolution(mask_prompt)
    theirs = dict(point_coords=seed.points, point_labels=seed.labels, box=seed.box, mask_input=low)
    logits, scores, small = predictor.predict(**theirs, return_logits=True)
    np.testing.assert_allclose(mine.logits, small, atol=1e-5)
    np.testing.assert_allclose(mine.scores, scores, atol=1e-5)
    # OpenCV's weights, by which masks are enlarged, are coarser than torch's.
    clear = np.abs(logits) > 1e-3 * np.abs(logits).max()
    assert clear.mean() > 0.98 and (mine.masks == (logits > 0))[clear].all()
    assert all((mine.mask(i) == mine.masks[i]).all() for i in range(3))


def test_mask_prompt_is_in_the_frame_sam_reads(tiny_sam, scene, cpu):
    sam = ours.SegmentAnything(tiny_sam, cpu)
    sam.set_image(scene.image)
    seed = seed_of(scene)
    logits = np.where(scene.truth(scene.prompt), 5, -5).astype(np.float32)
    low = sam._low_resolution(logits)
    assert low.shape == (1, 32, 32) and (low[0, 24:] == -5).all()  # 48 x 64 fills three quarters of the square
    theirs = torch.nn.functional.interpolate(torch.tensor(logits)[None, None], (24, 32), mode="area")[0, 0].numpy()
    assert np.abs(low[0, :24] - theirs).mean() < 1 and ((low[0, :24] > 0) == (theirs > 0)).mean() > 0.98
    np.testing.assert_allclose(low[0, :24].mean(), logits.mean(), atol=0.2)
    assert (sam.predict(seed, logits).masks != sam.predict(seed).masks).any()


def test_encoded_once_for_many_seeds(tiny_sam, scene, cpu):
    sam = ours.SegmentAnything(tiny_sam, cpu)
    runs = []
    hook = tiny_sam.image_encoder.register_forward_hook(lambda *_: runs.append(1))
    sam.set_image(scene.image)
    first, second = sam.predict(seed_of(scene)), sam.predict(seed_of(scene))
    hook.remove()
    assert len(runs) == 1 and (first.masks == second.masks).all()


@pytest.mark.parametrize("guess", [False, True])
def test_many_seeds_at_once_are_as_one_by_one(tiny_sam, cpu, guess):
    """Seeds with and without a box, of one to four points, more than are decoded at once, in no order."""
    scene = shapes.scene(1, (48, 64), "convex")
    sam = ours.SegmentAnything(tiny_sam, cpu)
    sam.set_image(scene.image)
    rng, seed = np.random.default_rng(0), seed_of(scene)
    seeds = [
        replace(
            seed,
            point=rng.uniform(0, 47, 2),
            negatives=rng.uniform(0, 47, (number % 4, 2)),
            box=np.array([5, 5, 30 + number, 40.0]) if number % 3 else None,
        )
        for number in range(2 * ours.AT_ONCE + 9)
    ]
    guesses = [rng.normal(0, 5, (48, 64)).astype(np.float32) for _ in seeds] if guess else [None] * len(seeds)
    runs = []
    hook = tiny_sam.mask_decoder.register_forward_hook(lambda *_: runs.append(1))
    many = sam.predict_many(seeds, iter(guesses) if guess else None)
    hook.remove()
    assert len(runs) == 8, "two kinds of box, one to four points; none of more than are decoded at once"
    for one, each, prompt in zip(seeds, many, guesses, strict=True):
        alone = sam.predict(one, prompt)
        # Products of larger matrices are summed in another order, which changes float32's last bits.
        np.testing.assert_allclose(each.logits, alone.logits, atol=1e-5 * np.abs(alone.logits).max())
        np.testing.assert_allclose(each.scores, alone.scores, atol=1e-5)
    assert sam.predict_many([]) == []


def test_no_more_are_decoded_at_once_than_memory_is_for(tiny_sam, scene, cpu):
    sam = ours.SegmentAnything(tiny_sam, cpu)
    sam.set_image(scene.image)
    sizes = []
    hook = tiny_sam.mask_decoder.register_forward_hook(lambda _, inputs, out: sizes.append(len(out[0])))
    assert len(sam.predict_many([seed_of(scene)] * (2 * ours.AT_ONCE + 1))) == sum(sizes)
    hook.remove()
    assert sizes == [ours.AT_ONCE, ours.AT_ONCE, 1]


@pytest.mark.parametrize("size", [(30, 4000), (4000, 30), (1, 500), (500, 1), (1, 1), (700, 500)])
def test_sam_takes_pictures_of_any_shape(tiny_sam, cpu, size):
    sam = ours.SegmentAnything(tiny_sam, cpu)
    sam.set_image(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    heatmap = np.zeros(size)
    heatmap[-1, -1] = 1
    seed = make_seeds(heatmap, box=True, negatives=1).seeds[0]
    logits = np.full(size, -3, np.float32)
    for candidates in (sam.predict(seed), sam.predict(seed, logits)):
        assert candidates.masks.shape == (3, *size) and np.isfinite(candidates.scores).all()


@pytest.mark.parametrize("size", [(30, 4000), (48, 64), (500, 7), (7, 5)])
def test_coordinates_survive_the_resize(tiny_sam, tiny_sam_config, cpu, size):
    """A pixel's middle, sent through SAM's own resize, lands where that pixel's colour lands."""
    sam = ours.SegmentAnything(tiny_sam, cpu)
    sam.set_image(np.zeros((*size, 3), np.uint8))
    scale = tiny_sam_config.image_size / max(size)
    for y in (0, size[0] // 2, size[0] - 1):
        for x in (0, size[1] // 2, size[1] - 1):
            sent = sam.predictor.transform.apply_coords(np.array([[x, y]], float), sam.predictor.original_size)[0]
            # SAM adds 0.5 to reach the middle of a pixel of its own frame; half a pixel of the coarser grid is what
            # this convention costs, and the shorter side is rounded to whole pixels.
            back = (sent + 0.5) / scale - 0.5
            assert np.abs(back - (x, y)).max() <= 0.5 * max(1, 1 / scale) + 0.5 / scale


@pytest.mark.parametrize("name", ["vit_h", "vit_l", "vit_b"])
def test_full_size_models_have_the_released_keys(name):
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        theirs, model = sam_model_registry[name](), ours.build_sam(ours.CONFIGS[name])
    shapes_of = [{k: (v.shape, v.dtype) for k, v in each.state_dict().items()} for each in (model, theirs)]
    assert shapes_of[0] == shapes_of[1]
    assert str(model) == str(theirs), "what no weight tells: activations, strides, the norms' epsilons"
    assert model.image_encoder.img_size == theirs.image_encoder.img_size
    assert model.prompt_encoder.input_image_size == theirs.prompt_encoder.input_image_size
    for ours_, each in zip(model.image_encoder.blocks, theirs.image_encoder.blocks, strict=True):
        assert (ours_.window_size, ours_.attn.num_heads) == (each.window_size, each.attn.num_heads)


def test_full_size_state_dict_is_taken_without_a_copy():
    with torch.device("meta"):
        state = ours.build_sam(ours.CONFIGS["vit_h"]).state_dict()
    model = ours.sam_from_weights(state, ours.CONFIGS["vit_h"])
    assert model.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert not model.training and all(not p.requires_grad for p in model.parameters())
    state.pop("mask_decoder.iou_token.weight")
    with pytest.raises(ValueError, match="mask_decoder.iou_token.weight"):
        ours.sam_from_weights(state, ours.CONFIGS["vit_h"])


def test_written_and_read_again(tiny_sam, tiny_sam_config, scene, cpu, tmp_path):
    ours.write_sam(tiny_sam, tiny_sam_config, tmp_path / "tiny.safetensors")
    here = ours.SegmentAnything(tiny_sam, cpu)
    there = ours.load_sam(tmp_path / "tiny.safetensors", cpu)
    for sam in (here, there):
        sam.set_image(scene.image)
    a, b = here.predict(seed_of(scene)), there.predict(seed_of(scene))
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)  # where weights lie in memory changes the last bits
    assert (a.masks != b.masks).mean() < 0.01


def test_finer_masks(tiny_sam_config, scene, cpu, tmp_path):
    """Every doubling after the decoder's own two makes masks twice as fine, and is kept in the file."""
    torch.manual_seed(0)
    config = replace(tiny_sam_config, doublings=4)
    ours.write_sam(ours.build_sam(config), config, tmp_path / "fine.safetensors")
    sam = ours.load_sam(tmp_path / "fine.safetensors", cpu)
    sam.set_image(scene.image)
    candidates = sam.predict(seed_of(scene), np.zeros(scene.image.shape[:2], np.float32))
    tokens = config.image_size // config.patch_size
    assert candidates.logits.shape == (3, 16 * tokens, 16 * tokens)
    assert candidates.masks.shape == (3, *scene.image.shape[:2])


def test_a_path_may_begin_with_the_home_folder(tiny_sam, tiny_sam_config, their_sam2, cpu, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    ours.write_sam(tiny_sam, tiny_sam_config, tmp_path / "tiny.safetensors")
    their_sam2.save_pretrained(tmp_path / "sam2")
    assert isinstance(ours.load_sam("~/tiny.safetensors", cpu), ours.SegmentAnything)
    assert isinstance(ours.load_sam("~/sam2", cpu), SegmentAnything2)


def test_names_are_looked_up(monkeypatch, tiny_sam, tiny_sam_config, their_sam2, cpu, tmp_path):
    ours.write_sam(tiny_sam, tiny_sam_config, tmp_path / "tiny.safetensors")
    their_sam2.save_pretrained(tmp_path / "sam2")
    monkeypatch.setattr(weights, "sam_file", lambda name: {"vit_b": tmp_path / "tiny.safetensors"}[name])
    monkeypatch.setitem(weights.SAM2, "sam2.1-hiera-tiny", str(tmp_path / "sam2"))
    for name, kind in (("vit_b", ours.SegmentAnything), ("sam2.1-hiera-tiny", SegmentAnything2)):
        sam = ours.load_sam(name, cpu)
        assert isinstance(sam, kind) and sam.runtime is cpu


def test_pth_tells_its_size_by_its_weights(tiny_sam, tiny_sam_config, tmp_path, monkeypatch):
    monkeypatch.setitem(ours.CONFIGS, "tiny", tiny_sam_config)
    torch.save(tiny_sam.state_dict(), tmp_path / "some.pth")
    read = ours.read_sam(tmp_path / "some.pth").state_dict()
    assert all((read[k] == v).all() for k, v in tiny_sam.state_dict().items())


def test_bad_checkpoints(tiny_sam, tmp_path):
    with pytest.raises(FileNotFoundError, match="no SAM checkpoint at .*none.pth .*working folder"):
        ours.load_sam(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="'vit_g'.*vit_h.*sam2.1-hiera-large"):
        ours.load_sam("vit_g")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "foreign.pth")
    torch.save(tiny_sam.state_dict(), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:-5000])
    (tmp_path / "text.safetensors").write_text("nothing")
    for name in ("foreign.pth", "cut.pth", "text.safetensors"):
        with pytest.raises(ValueError, match=name):
            ours.load_sam(tmp_path / name)


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("ran.txt"),)


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"image_encoder.patch_embed.proj.weight": Payload()}, "evil.pth")
    with pytest.raises(ValueError, match="evil.pth is not a SAM checkpoint"):
        ours.load_sam("evil.pth")
    assert not Path("ran.txt").exists()


def test_of_a_logit_of_nothing_it_is_outside():
    candidates = ours.Candidates(np.array([[[-1, 0, 1e-6]]], np.float32), np.ones(1, np.float32))
    assert candidates.mask(0).tolist() == [[False, False, True]]


def test_no_picture_set(tiny_sam, scene, cpu, their_sam2):
    for sam in (ours.SegmentAnything(tiny_sam, cpu), SegmentAnything2(their_sam2, cpu)):
        with pytest.raises(RuntimeError, match="set_image before predict"):
            sam.predict(seed_of(scene))


# --------------------------------------------------------------------------------------------- SAM 2


@pytest.fixture
def their_sam2(tiny_sam2):
    return tiny_sam2


@pytest.mark.parametrize("prompt", [{}, {"box": True, "negatives": 2}])
def test_sam2_agrees_with_its_processor(their_sam2, scene, cpu, prompt):
    from transformers import Sam2ImageProcessor

    sam = SegmentAnything2(their_sam2, cpu)
    sam.set_image(scene.image)
    seed = seed_of(scene, **prompt)
    here = sam.predict(seed)

    processor = Sam2Processor(
        Sam2ImageProcessor(size={"height": 128, "width": 128}, mask_size={"height": 32, "width": 32}), target_size=128
    )
    inputs = processor(
        images=scene.image,
        input_points=[[seed.points.tolist()]],
        input_labels=[[seed.labels.tolist()]],
        input_boxes=None if seed.box is None else [[seed.box.tolist()]],
        return_tensors="pt",
    )
    # Pillow and torchvision round their resized pixels differently, by one level: 1 / 255 / 0.224
    np.testing.assert_allclose(
        images.model_input(scene.image, (128, 128)), inputs["pixel_values"], atol=1.01 / 255 / 0.224
    )
    inputs["pixel_values"] = images.model_input(scene.image, (128, 128))
    sizes = inputs.pop("original_sizes")
    with torch.no_grad():
        out = their_sam2(**inputs, multimask_output=True)
    logits = processor.post_process_masks(out.pred_masks, sizes, binarize=False)[0][0]
    assert here.masks.shape == (3, 48, 64) and here.masks.dtype == bool
    clear = np.abs(logits.numpy()) > 1e-2 * np.abs(logits.numpy()).max()  # OpenCV's weights are coarser than torch's
    assert clear.mean() > 0.8 and 0.02 < here.masks.mean() < 0.98, "what proves something is compared"
    assert (here.masks == (logits > 0).numpy())[clear].all()
    np.testing.assert_allclose(here.scores, out.iou_scores[0, 0], atol=1e-4)
    elsewhere = replace(seed, point=seed.point[::-1].copy())
    assert np.abs(sam.predict(elsewhere).logits - here.logits).max() > 0.1, "it matters where the seed is"


def test_a_picture_that_failed_leaves_none_behind(tiny_sam, their_sam2, scene, cpu, monkeypatch):
    for sam, module in (
        (ours.SegmentAnything(tiny_sam, cpu), tiny_sam.image_encoder),
        (SegmentAnything2(their_sam2, cpu), their_sam2.vision_encoder),
    ):
        sam.set_image(scene.image)
        with monkeypatch.context() as patched:
            patched.setattr(module, "forward", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                sam.set_image(scene.image)
        with pytest.raises(RuntimeError, match="set_image before predict"):
            sam.predict(seed_of(scene))


def test_sam2_computes_in_half_precision_and_again_where_that_overflows(their_sam2, scene, cpu, capsys):
    half = runtime.Runtime(torch.device("cpu"), "bf16")
    exact, rounded = SegmentAnything2(their_sam2, cpu), SegmentAnything2(their_sam2, half)
    for sam in (exact, rounded):
        sam.set_image(scene.image)
    a, b = exact.predict(seed_of(scene)), rounded.predict(seed_of(scene))
    assert 0 < np.abs(a.logits - b.logits).max() < 0.3 * np.abs(a.logits).max() and b.logits.dtype == np.float32
    assert not capsys.readouterr().out

    def overflow(module, inputs, output):
        if torch.is_autocast_enabled("cpu"):
            output[..., 0] = float("nan")

    hook = their_sam2.vision_encoder.neck.convs[0].register_forward_hook(overflow)
    rounded.set_image(scene.image)
    hook.remove()
    assert "SAM 2's image encoder overflows in bf16" in capsys.readouterr().out
    np.testing.assert_allclose(rounded.predict(seed_of(scene)).logits, a.logits, atol=1e-5)
    hook = their_sam2.mask_decoder.register_forward_hook(lambda *args: (args[2][0] / 0, *args[2][1:]))
    with pytest.raises(FloatingPointError, match="SAM 2's mask decoder"):
        exact.predict(seed_of(scene))
    hook.remove()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sam2_folder_in_half_precision(their_sam2, scene, cpu, tmp_path, dtype):
    copy.deepcopy(their_sam2).to(dtype).save_pretrained(tmp_path)
    ours_, theirs = ours.load_sam(tmp_path, cpu), SegmentAnything2(copy.deepcopy(their_sam2).to(dtype).float(), cpu)
    assert {p.dtype for p in ours_.model.parameters()} == {torch.float32}
    for sam in (ours_, theirs):
        sam.set_image(scene.image)
    np.testing.assert_allclose(ours_.predict(seed_of(scene)).scores, theirs.predict(seed_of(scene)).scores, atol=1e-5)


def test_sam2_takes_mask_prompts_and_any_shape(their_sam2, cpu):
    sam = SegmentAnything2(their_sam2, cpu)
    for size in [(30, 4000), (1, 1), (48, 64)]:
        sam.set_image(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
        seed = make_seeds(np.ones(size)).seeds[0]
        plain = sam.predict(seed)
        guided = sam.predict(seed, np.full(size, 4, np.float32))
        assert plain.masks.shape == guided.masks.shape == (3, *size)
        assert (plain.scores != guided.scores).any()


def test_sam2_saved_and_loaded_by_its_folder(their_sam2, scene, cpu, tmp_path):
    their_sam2.save_pretrained(tmp_path)
    here, there = SegmentAnything2(their_sam2, cpu), ours.load_sam(tmp_path, cpu)
    for sam in (here, there):
        sam.set_image(scene.image)
    np.testing.assert_allclose(there.predict(seed_of(scene)).scores, here.predict(seed_of(scene)).scores, atol=1e-5)


def test_sam2_is_put_into_evaluation_mode(their_sam2, cpu):
    assert not SegmentAnything2(their_sam2.train(), cpu).model.training


def test_sam2_names_are_hub_names():
    assert all(value == f"facebook/{name}" for name, value in weights.SAM2.items())
