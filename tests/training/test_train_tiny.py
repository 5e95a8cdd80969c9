"""Oracle: torchvision's boxes of masks, scenes whose truth is known."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import masks_to_boxes

from airl.scenes import shapes
from airl.seg.clipseg import ClipSeg
from airl.seg.sam import build_sam, load_sam, write_sam
from airl.seg.seeds import make_seeds
from training import train_tiny


@pytest.fixture(scope="module")
def scenes():
    return train_tiny.draw(16, train_tiny.TRAIN_SEED)


def test_scenes_are_padded_and_owned(scenes):
    assert scenes.images.shape == (16, 3, 128, 128) and scenes.owners.shape == (16, 128, 128)
    assert {(128, 128), (96, 128), (128, 96)} == set(scenes.sizes)
    for i in range(16):
        h, w = scenes.sizes[i]
        assert not scenes.owners[i, h:].any() and not scenes.owners[i, :, w:].any()
        if i // 4 % 4:  # those not made smaller
            scene = shapes.scene(train_tiny.TRAIN_SEED + i, (h, w))
            assert (scenes.images[i, :, :h, :w].permute(1, 2, 0).numpy() == scene.image).all()
            for number, look in enumerate(scenes.looks[i], 1):
                mask = scenes.owners[i, :h, :w].numpy() == number
                assert (mask == scene.objects[number - 1].mask).all()
                assert train_tiny.matches(shapes.phrase(*look), look)


def test_questions_are_true_and_false_in_equal_parts(scenes):
    rng = np.random.default_rng(0)
    truths = []
    for looks, own in zip(scenes.looks, scenes.prompts, strict=True):
        prompts = train_tiny.ask(looks, own, 20, rng)
        assert prompts[0] == own and len(prompts) == 20
        truths += [any(train_tiny.matches(p, look) for look in looks) for p in prompts[1:]]
    assert 0.4 < np.mean(truths) < 0.8
    assert not train_tiny.matches("a red dog", ("red", "circle"))


def test_flips_are_eight_and_alike():
    x = torch.arange(9).view(1, 3, 3)
    flipped = [train_tiny.flip([x, x.float()], which) for which in range(8)]
    assert all((a == b).all() for a, b in flipped)
    assert len({tuple(a.flatten().tolist()) for a, _ in flipped}) == 8


def test_batches_show_every_scene_once_a_round():
    seen = np.concatenate(list(train_tiny.batches(10, 5, 6, np.random.default_rng(0))))
    assert (np.bincount(seen) == 3).all() and (np.bincount(seen[:10]) == 1).all()


def test_boxes_and_pixels_of_masks(scenes):
    masks = scenes.owners == 1
    assert (train_tiny.box_of(masks) == masks_to_boxes(masks)).all()
    x, y = train_tiny.some_pixel(masks)[:, 0].long().T
    assert masks[torch.arange(16), y, x].all()


def test_both_models_get_gradients_everywhere_and_come_back_from_disk(scenes, cpu, tmp_path):
    torch.manual_seed(0)
    clipseg = train_tiny.small_clipseg(cpu)
    helper = torch.nn.Linear(96, len(shapes.COLOURS) + len(shapes.SCENE_SHAPES) + 2)
    loss = next(train_tiny.clipseg_losses(clipseg, helper, scenes, 1, seed=0))
    loss.backward()
    assert 0 < loss.item() < 20
    idle = {"clip.logit_scale", "clip.visual_projection.weight"}  # and what serves only the class token's output
    for name, parameter in clipseg.model.named_parameters():
        if name not in idle and "post_layernorm" not in name:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    sam = train_tiny.small_sam()
    loss = next(train_tiny.sam_losses(sam, scenes, 1, 0, cpu))
    loss.backward()
    assert 0 < loss.item() < 20 and sam.image_encoder.pos_embed.grad.abs().sum() > 0

    train_tiny.write_clipseg(clipseg, tmp_path / "clipseg")
    write_sam(sam.half(), train_tiny.SAM, tmp_path / "sam.safetensors")
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert size < 5e6
    scene = shapes.scene(0)
    again = ClipSeg.from_pretrained(tmp_path / "clipseg", cpu)
    for each in (clipseg, again):
        each.set_image(scene.image)
    prompts = ["A red circle", "a dog"]
    np.testing.assert_allclose(again.predict(prompts), clipseg.predict(prompts), atol=0.01)  # kept in half precision
    back = load_sam(tmp_path / "sam.safetensors", cpu)
    back.set_image(scene.image)
    assert back.predict(make_seeds(np.ones((256, 256))).seeds[0]).masks.shape == (3, 256, 256)


def test_learning_lowers_a_loss_and_keeps_the_average():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    x = torch.randn(64, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])

    def losses():
        for _ in range(200):
            yield torch.nn.functional.mse_loss(model(x), y)

    before = torch.nn.functional.mse_loss(model(x), y).item()
    train_tiny.learn("line", model, losses(), 200, rate=0.05)
    assert torch.nn.functional.mse_loss(model(x), y).item() < 0.05 * before


def test_a_run_goes_on_where_it_ended(tmp_path):
    def run(model, batches, steps):
        losses = (torch.nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)) for x in batches)
        train_tiny.learn("line", model, losses, steps, rate=0.05, progress=tmp_path / "line.pt")
        return model

    batches = list(torch.randn(300, 8, 3, generator=torch.Generator().manual_seed(0)))
    torch.manual_seed(0)
    once = run(torch.nn.Linear(3, 1), batches, 100)
    (tmp_path / "line.pt").unlink()

    def broken():
        yield from batches[:50]
        raise KeyboardInterrupt

    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        run(torch.nn.Linear(3, 1), broken(), 100)
    assert train_tiny.steps_done(tmp_path / "line.pt") == 50
    torch.testing.assert_close(run(torch.nn.Linear(3, 1), batches[50:], 100).state_dict(), once.state_dict())


def test_finer_masks_start_as_the_coarser_ones_enlarged(scenes, cpu, tmp_path):
    """Oracle: torch's bilinear interpolation."""
    torch.manual_seed(0)
    coarse = build_sam(replace(train_tiny.SAM, doublings=2))
    write_sam(coarse, replace(train_tiny.SAM, doublings=2), tmp_path / "sam.safetensors")
    fine = train_tiny.train_sam(scenes, 0, cpu, tmp_path / "sam.safetensors")
    features = torch.randn(1, 96, 16, 16)
    before = coarse.mask_decoder.output_upscaling(features)
    after = fine.mask_decoder.output_upscaling[:-1](features)  # before the last activation
    enlarged = torch.nn.functional.interpolate(before, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(after[..., 1:-1, 1:-1], enlarged[..., 1:-1, 1:-1])


def test_a_note_tells_every_command(tmp_path, cpu):
    path = tmp_path / "clipseg.json"
    for resumed in (False, False, True):
        train_tiny.note(path, "train_tiny --out here", resumed, cpu, time.monotonic())
    first, second = json.loads(path.read_text())
    assert first["command"] == "python -m training.train_tiny --out here"
    assert second["command"] == "python -m training.train_tiny --out here --resume"
