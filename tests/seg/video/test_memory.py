"""The oracle is transformers' own session, from which nothing is taken."""

import numpy as np
import pytest
import torch

from airl import images as images_
from airl import runtime
from airl.scenes import clips
from airl.seg.seeds import make_seeds
from airl.seg.video.memory import VideoSam2
from airl.seg.video.tracker import VideoTracker
from tests.seg.video.by_colour import ByColour, clip_of, iou


def seed_of(mask):
    return make_seeds(mask.astype(np.float32), "components", box=True).seeds[0]


def plain(model, side, images, t0, seed, reverse):
    """Logits of every frame from t0 on (or back), by transformers' processor and a session that keeps everything."""
    from transformers import Sam2VideoProcessor
    from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession
    from transformers.models.sam2_video.video_processing_sam2_video import Sam2VideoVideoProcessor

    processor = Sam2VideoProcessor(Sam2ImageProcessor(), Sam2VideoVideoProcessor(), target_size=side)
    frames = torch.cat([images_.model_input(image, (side, side)) for image in images])
    H, W = images.shape[1:3]
    session = Sam2VideoInferenceSession(frames, H, W, dtype=torch.float32)
    prompt = {"input_points": [[[seed.point.tolist()]]], "input_labels": [[[1]]], "input_boxes": [[seed.box.tolist()]]}
    processor.add_inputs_to_inference_session(session, t0, 1, **prompt)
    model(session, frame_idx=t0)
    logits = {}
    for out in model.propagate_in_video_iterator(session, start_frame_idx=t0, reverse=reverse):
        masks = torch.nn.functional.interpolate(out.pred_masks, (H, W), mode="bilinear", align_corners=False)
        logits[out.frame_idx] = masks[0, 0].numpy()
    return logits


@pytest.mark.parametrize("which", ["trained", "untrained"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_pruned_memory_gives_what_transformers_own_session_gives(request, cpu, reverse, which):
    model = request.getfixturevalue(which)
    sam2 = VideoSam2(model, cpu)
    images, truth, _ = clip_of("moving", 3)
    t0 = 20 if reverse else 2
    seed = seed_of(truth[t0])
    there = plain(model, sam2.side, images, t0, seed, reverse)

    memory, seen = sam2.start(sam2.see(t0, images[t0]), seed)
    here = {t0: seen.logits}
    for t in range(t0 - 1, -1, -1) if reverse else range(t0 + 1, len(images)):
        here[t] = sam2.follow(memory, sam2.see(t, images[t]), reverse).logits
    assert here.keys() == there.keys() and len(here) > 15
    for t in here:
        np.testing.assert_allclose(here[t], there[t], atol=1e-3)  # the same sums, of logits of about 10
    assert any(0.001 < (m > 0).mean() < 0.999 for m in here.values()), "masks all or nothing would prove nothing"


def held(memory):
    """How many numbers a memory holds."""

    def count(thing):
        if isinstance(thing, torch.Tensor):
            return thing.numel()
        values = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list | tuple) else ()
        return sum(map(count, values))

    return count(vars(memory._session))


def test_what_a_memory_holds_does_not_grow(untrained, cpu):
    sam2 = VideoSam2(untrained, cpu)
    one = clips.clip(3, 60, (64, 64), "moving")
    image, ids = one.draw(0)
    seed = seed_of(ids == 1)
    memory, _ = sam2.start(sam2.see(0, image), seed)
    sizes = []
    for t in range(1, 60):
        sam2.follow(memory, sam2.see(t, one.draw(t)[0]))
        sizes.append(held(memory))
    assert sizes[10] == sizes[-1] == max(sizes[10:])
    assert len(memory._recent) <= 6  # max_object_pointers_in_encoder


def test_half_precision_follows_the_same_object(trained):
    images, truth, prompt = clip_of("moving", 1, frames=8)
    where = runtime.choose("cpu", "bf16")
    result = VideoTracker(ByColour(), trained, where=where).track(images, prompt, progress=False)
    assert np.mean([iou(result.mask(t), truth[t]) for t in range(8)]) > 0.6
