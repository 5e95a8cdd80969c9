"""That what is trained is what runs: the unrolled parts against the model's own forward, and a run of a few steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Sam2VideoModel

from training import train_tiny_video as training

EMBEDDED = Path(__file__).parents[2] / "airl" / "seg" / "tiny" / "video"


@pytest.fixture(scope="module")
def drawn():
    return training.draw(4, 17)


def test_samples(drawn):
    rng = np.random.default_rng(0)
    images, truth = training.sample(drawn, np.array([0, 1, 2, 3]), 5, 3, rng)
    assert images.shape == (4, 5, 3, 128, 128) and images.dtype == torch.uint8
    assert truth.shape == (4, 3, 5, 128, 128) and truth.dtype == torch.bool
    assert (truth[:, :, 0].flatten(2).sum(-1) >= 30).all(), "whatever is prompted can be seen"


def test_prompts_are_on_the_object():
    truth = torch.zeros(2, 128, 128, dtype=torch.bool)
    truth[0, 20:40, 50:90] = truth[1, 100:110, 3:9] = True
    torch.manual_seed(0)
    for seed in range(6):  # with and without boxes
        prompt = training.prompt_of(truth, np.random.default_rng(seed))
        points, labels = prompt["input_points"][:, 0], prompt["input_labels"][:, 0]
        x, y = points[torch.arange(2), (labels == 1).int().argmax(1)].long().T
        assert truth[torch.arange(2), y, x].all()
        if labels.shape[1] == 3:
            assert labels.tolist() == [[2, 3, 1]] * 2
            extent = torch.tensor([[39.0, 19.0], [5.0, 9.0]])
            for corner, there in ((0, [[50, 20], [3, 100]]), (1, [[89, 39], [8, 109]])):
                assert ((points[:, corner] - torch.tensor(there)).abs() <= 0.1 * extent + 1e-4).all()


def test_what_is_unrolled_is_what_the_model_does(drawn, monkeypatch):
    """The masks of three frames, by the trained parts as they are unrolled and by the model's own forward."""
    torch.manual_seed(0)
    model = training.small_sam2_video().eval()
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(5.0)  # the unrolled memory is told it is there
    images = drawn.images[:1, :3]
    truth = torch.ones(1, 1, 3, 128, 128, dtype=torch.bool)
    prompt = {
        "input_points": torch.tensor([[[[64.0, 64.0]]]]),
        "input_labels": torch.ones(1, 1, 1, dtype=torch.int32),
    }
    monkeypatch.setattr(training, "prompt_of", lambda *_: prompt)
    monkeypatch.setattr(model.config, "sigmoid_scale_for_mem_enc", 0.0)  # the first mask is remembered hard by one,
    unrolled, mask_loss = [], training.mask_loss  # softly by the other: let the memory be blind to masks
    monkeypatch.setattr(
        training, "mask_loss", lambda logits, *rest: unrolled.append(logits) or mask_loss(logits, *rest)
    )
    rng = np.random.default_rng(1)  # whose first number is above 0.5: the first frame is not far behind
    assert np.random.default_rng(1).random() > 0.5
    training.unroll(model, images, truth, rng, forced=0.0)

    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    session = Sam2VideoInferenceSession(dtype=torch.float32)
    session.obj_id_to_idx(1)
    session.add_point_inputs(0, 0, {"point_coords": prompt["input_points"], "point_labels": prompt["input_labels"]})
    session.obj_with_new_inputs = [1]
    for t, image in enumerate(training.normalize(images[0])):
        out = model(session, frame_idx=t, frame=image[None])
        logits = torch.nn.functional.interpolate(out.pred_masks, (128, 128), mode="bilinear", align_corners=False)[:, 0]
        torch.testing.assert_close(unrolled[t], logits, atol=1e-3, rtol=1e-3)
    assert unrolled[1].std() > 1e-3


def test_a_few_steps(drawn, tmp_path):
    model = training.train(drawn, 2, tmp_path / "video")
    read = Sam2VideoModel.from_pretrained(tmp_path / "video", dtype=torch.float32)
    for (name, a), b in zip(model.named_parameters(), read.parameters(), strict=True):
        torch.testing.assert_close(a.half().float(), b, msg=name)
    assert sum(p.stat().st_size for p in (tmp_path / "video").iterdir()) < 5e6
    for folder in (tmp_path / "video", EMBEDDED):  # transformers 5.15 does not know them and warns
        assert "rope_parameters" not in (folder / "config.json").read_text()

    further = training.train(drawn, 1, tmp_path / "video", further=True)
    for (name, a), b in zip(further.named_parameters(), read.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0, msg=name)  # a step of AdamW is about the rate, 5e-4
    assert any((a != b).any() for a, b in zip(further.parameters(), read.parameters(), strict=True))


def test_gradients_reach_the_memory(drawn):
    torch.manual_seed(0)
    model, rng = training.small_sam2_video(), np.random.default_rng(0)
    images, truth = training.sample(drawn, np.array([0, 1]), 3, 2, rng)
    training.unroll(model, images, truth, rng, forced=0.5).backward()
    for part in (model.memory_encoder, model.memory_attention, model.object_pointer_proj, model.vision_encoder):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
        assert any(p.grad.abs().max() > 0 for p in part.parameters())
