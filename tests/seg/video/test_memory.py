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


def test_what_is_needed_of_transformers_inside_is_there(untrained, cpu):
    """By name, so that a version without it says what is missing."""
    from transformers.models.sam2_video import modeling_sam2_video as inside

    session = inside.Sam2VideoInferenceSession(
        inference_device=cpu.device,
        inference_state_device=cpu.device,
        video_storage_device=cpu.device,
        dtype=torch.float32,
    )
    assert inside.Sam2VideoInferenceCache(cpu.device, cpu.device) is not None
    assert session.obj_id_to_idx(1) == 0
    assert session.output_dict_per_obj == {0: {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}}
    assert (session.point_inputs_per_obj, session.frames_tracked_per_obj) == ({0: {}}, {0: {}})
    assert (session.obj_with_new_inputs, session.processed_frames) == ([], None)
    assert "cache" in vars(session) and callable(session.add_point_inputs)
    fields = inside.Sam2VideoSegmentationOutput.__dataclass_fields__
    assert {"pred_masks", "object_score_logits"} <= set(fields), "object_score_logits came with transformers 5.0"
    config = untrained.config
    assert config.num_maskmem and config.max_object_pointers_in_encoder and config.prompt_encoder_config.image_size

    sam2 = VideoSam2(untrained, cpu)
    images, truth, _ = clip_of("moving", 3, frames=2)
    memory, _ = sam2.start(sam2.see(0, images[0]), seed_of(truth[0]))
    sam2.follow(memory, sam2.see(1, images[1]))
    kept = {"object_pointer", "object_score_logits", "maskmem_features", "maskmem_pos_enc"}
    assert set(memory._seeded[0]) == set(memory._recent[1]) == kept


def test_position_encodings_are_stored_once(trained, cpu, tmp_path):
    sam2 = VideoSam2(trained, cpu)
    images, truth, _ = clip_of("moving", 3, frames=4)
    memories = [sam2.start(sam2.see(0, images[0]), seed_of(truth[0]))[0] for _ in range(3)]
    for t in range(1, 4):
        view = sam2.see(t, images[t])
        for memory in memories:
            sam2.follow(memory, view)

    def places(memories):
        return [
            out["maskmem_pos_enc"].data_ptr() for m in memories for out in (*m._seeded.values(), *m._recent.values())
        ]

    assert len(places(memories)) == 12 and len(set(places(memories))) == 1
    torch.save([memory.state() for memory in memories], tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert set(places(map(sam2.restore, loaded))) == set(places(memories)), "also of what went on after an interruption"


def test_a_memory_that_was_saved_goes_on_the_same(trained, cpu, tmp_path):
    sam2 = VideoSam2(trained, cpu)
    images, truth, _ = clip_of("moving", 3, frames=6)
    memory, _ = sam2.start(sam2.see(0, images[0]), seed_of(truth[0]))
    sam2.follow(memory, sam2.see(1, images[1]))
    torch.save(memory.state(), tmp_path / "state.pt")
    other = sam2.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    first = sam2.recall(memory)
    for t in range(2, 5):
        view = sam2.see(t, images[t])
        one, two = sam2.follow(memory, view), sam2.follow(other, view)
        np.testing.assert_array_equal(one.logits, two.logits)
        assert one.score == two.score
    assert first.seeded == {0} and not first._recent and set(memory._recent) == {1, 2, 3, 4}
    new, _ = sam2.start(sam2.see(5, images[5]), seed_of(truth[5]))
    new.keep_first(memory)
    assert new.seeded == {0, 5} and sam2.recall(new, {5}).seeded == {5}
    memory.forget_recent()
    assert not memory._recent and memory.seeded == {0}
