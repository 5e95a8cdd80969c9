"""Oracle: transformers' own session over the whole clip at once, and its processor's post-processing."""

import numpy as np
import pytest
import torch

from airl import seg
from airl.scenes import clips
from airl.seg import weights
from airl.seg.video.sam3 import Sam3Tracker

PROMPTS = ["a red circle", "a blue star"]
FRAMES = 14


@pytest.fixture(scope="module")
def model(small_sam3, tell_apart):
    from transformers import Sam3TrackerVideoConfig, Sam3VideoConfig, Sam3VideoModel

    torch.manual_seed(0)
    detector, vision = small_sam3(width=128, heads=4, queries=4)
    memory = Sam3TrackerVideoConfig(
        image_size=56,
        vision_config=dict(model_type="sam3_vision_model", **vision),
        prompt_encoder_config=dict(hidden_size=128, image_size=56, patch_size=14),
        mask_decoder_config=dict(hidden_size=128, mlp_dim=32, num_attention_heads=4, iou_head_hidden_dim=32),
        num_maskmem=3,
        max_object_pointers_in_encoder=5,
        max_cond_frame_num=2,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=128,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=32,
    )
    config = Sam3VideoConfig(
        detector_config=detector,
        tracker_config=memory,
        low_res_mask_size=16,
        score_threshold_detection=0.2,
        new_det_thresh=0.25,
        max_num_objects=5,
        hotstart_delay=6,
        hotstart_unmatch_thresh=3,
        hotstart_dup_thresh=3,
        recondition_every_nth_frame=4,
        high_conf_thresh=0.2,
        high_iou_thresh=0.2,
    )
    model = Sam3VideoModel(config).eval()
    tell_apart(model.detector_model)
    with torch.no_grad():
        for name, parameter in model.tracker_model.named_parameters():
            if parameter.ndim > 1 and ("memory" in name or "mask_decoder" in name):
                parameter.mul_(3)
        model.tracker_model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(5)  # all is there
    return model


@pytest.fixture(scope="module")
def processor(tiny_tokenizer):
    from transformers import Sam2VideoVideoProcessor, Sam3ImageProcessor, Sam3VideoProcessor

    side = {"height": 56, "width": 56}
    half = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Sam3VideoProcessor(Sam3ImageProcessor(size=side), Sam2VideoVideoProcessor(size=side, **half), tiny_tokenizer)


@pytest.fixture(scope="module")
def frames():
    return clips.clip(3, FRAMES, (48, 64), "lookalikes").render()[0]


@pytest.fixture(scope="module")
def expected(model, processor, frames):
    """What transformers gives for the whole clip: for each frame {prompt: {object: mask}}."""
    session = processor.init_video_session(video=frames)
    session = processor.add_text_prompt(session, PROMPTS)
    told = []
    for out in model.propagate_in_video_iterator(session):
        found = processor.postprocess_outputs(session, out)
        masks = dict(zip(found["object_ids"].tolist(), found["masks"].numpy(), strict=True))
        told.append({p: {i: masks[i] for i in found["prompt_to_obj_ids"].get(p, [])} for p in PROMPTS})
    assert session.removed_obj_ids and len(session.output_dict_per_obj[0]["cond_frame_outputs"]) > 2, "nothing is tried"
    return told


def of(frame, prompt):
    return [mask for mask, asked in zip(frame.masks, frame.prompts, strict=True) if asked == prompt]


def test_the_same_as_its_own_session_and_processor(model, processor, frames, expected, cpu, tmp_path):
    tracking = Sam3Tracker(model, processor, where=cpu).track(frames, PROMPTS, tmp_path, progress=False)
    for frame, told in zip(tracking, expected, strict=True):
        for prompt in PROMPTS:
            assert len(of(frame, prompt)) == len(told[prompt])
            assert all((a == b).all() for a, b in zip(of(frame, prompt), told[prompt].values(), strict=True))
    names = {track.id: track.prompt for track in tracking.tracks}
    assert len(names) == len({(p, i) for told in expected for p in PROMPTS for i in told[p]}) > 1
    assert tracking.video.exists() and all(0 < score < 1 for track in tracking.tracks for score in track.scores)
    with pytest.raises(FileExistsError, match="another models"):
        Sam3Tracker(model, processor, "another", cpu).track(frames, PROMPTS, tmp_path, progress=False)


def test_what_is_kept_does_not_grow(model, processor, frames, cpu, monkeypatch):
    """Of old frames, pointers alone stay: a vector for each object."""
    sizes, prune = [], Sam3Tracker._prune

    def tensors(value):
        if isinstance(value, torch.Tensor):
            return value.numel() if value.numel() > 128 else 0  # which a pointer has
        return sum(map(tensors, value.values() if isinstance(value, dict) else value or ()))

    def measured(self, session, t):
        prune(self, session, t)
        kept = session.processed_frames, session.output_dict_per_obj, session.mask_inputs_per_obj
        sizes.append(tensors(kept) / max(1, session.get_obj_num()))

    monkeypatch.setattr(Sam3Tracker, "_prune", measured)
    Sam3Tracker(model, processor, where=cpu).track(frames, PROMPTS, progress=False)
    assert max(sizes) == 4 * 2 * 64 * 16  # memories of 2 detections and 2 frames, features and positions, of 4x4 cells


def test_from_pretrained(model, processor, frames, expected, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "sam3")
    processor.save_pretrained(tmp_path / "sam3")
    tracker = seg.VideoTracker.from_pretrained(tmp_path / "sam3", device="cpu", precision="fp32")
    assert isinstance(tracker, Sam3Tracker)
    tracking = tracker.track(frames[:2], [PROMPTS[1], "a " * 50 + "star"], progress=False)  # longer than SAM 3 reads
    read = type(model).from_pretrained(tmp_path / "sam3").state_dict()
    if all(torch.equal(value, read[name]) for name, value in model.state_dict().items()):  # 5.6 reads not all
        np.testing.assert_array_equal(of(tracking[1], PROMPTS[1]), list(expected[1][PROMPTS[1]].values()))

    def refused(load, name):
        raise ConnectionError(f"cannot get {name}")

    monkeypatch.setattr(weights, "from_hub", refused)
    with pytest.raises(ConnectionError, match="(?s)facebook/sam3.*gated.*huggingface.co/facebook/sam3.*hf auth login"):
        seg.VideoTracker.from_pretrained("sam3", device="cpu")
