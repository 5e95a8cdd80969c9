"""Text to mask and tracking on a GPU: on a pretended one always, on a real one where there is one.

The pretended one has no rounding of its own, so masks in fp32 are exactly the CPU's.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from airl import runtime, seg
from airl.scenes import clips, shapes
from airl.seg import plots
from airl.seg.clipseg import ClipSeg
from airl.seg.metrics import iou
from airl.seg.sam import SegmentAnything
from airl.seg.sam2 import SegmentAnything2
from airl.seg.seeds import make_seeds
from airl.seg.video import VideoTracker
from tests.pretend_gpu import CUDA

pretended = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU")
HINTS = {"box": True, "negatives": 2, "mask_prompt": True, "choice": "both", "templates": ("{}", "a photo of {}")}


@pytest.fixture
def scene():
    return shapes.scene(1, (48, 64), "convex")


def random_clipseg(model, tokenizer, where):
    square = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 2}
    return ClipSeg(copy.deepcopy(model), tokenizer, square, where)


@pretended
@pytest.mark.parametrize("hints", [{}, HINTS], ids=["no hint", "every hint"])
@pytest.mark.parametrize("seeding", seg.STRATEGIES)
def test_the_pipeline_with_every_seeding_and_hint(gpu, scene, tiny_clipseg, tiny_tokenizer, tiny_sam, seeding, hints):
    """In the precision that is chosen for the GPU; a random CLIPSeg finds something wherever the threshold lets it."""
    here = runtime.choose()
    assert (here.device, here.precision) == (CUDA, "fp16" if "T4" in str(here) else "bf16")
    segmenter = seg.TextSegmenter(
        random_clipseg(tiny_clipseg, tiny_tokenizer, here), SegmentAnything(copy.deepcopy(tiny_sam), here)
    )
    threshold = float(np.median(segmenter(scene.image, "red star", floor=0).heatmap))
    changes = {"seeding": seeding, "threshold": threshold, "min_area": 0.2, **hints}
    many = segmenter(scene.image, ["red star", "a blue circle"], floor=0, **changes)
    assert many[0].found and many[0].mask.shape == scene.image.shape[:2]
    assert all(np.isfinite(c.scores).all() for one in many for c in one.candidates)
    for figure in (plots.steps(many[0]), plots.labels(many), plots.heatmap(many[0])):
        figure.canvas.draw()


@pretended
def test_every_plot(a100, tmp_path):
    segmenter = seg.TextSegmenter.tiny("best")
    assert next(segmenter.clipseg.model.parameters()).device == CUDA
    scene = shapes.scene(3, (96, 96), "convex")
    one = segmenter(scene.image, scene.prompt)
    assert one.found
    for plot in (plots.steps, plots.heatmap, plots.seeds, plots.candidates, plots.result, plots.overlay):
        plot(one).canvas.draw()
    plots.picture(one.image).canvas.draw()
    plots.labels([one]).canvas.draw()
    assert bytes(plots.explore(segmenter, scene.prompt).children[-1].value).startswith(b"\x89PNG")
    one.save(tmp_path)


@pretended
@pytest.mark.parametrize("recipe", seg.RECIPES)
def test_the_embedded_models_give_the_cpus_masks(a100, recipe):
    there, here = seg.TextSegmenter.tiny(recipe), seg.TextSegmenter.tiny(recipe, device="cpu")
    scene = shapes.scene(3, (96, 96), "several")
    with a100.count() as count:
        one = there(scene.image, scene.prompt)
    other = here(scene.image, scene.prompt)
    assert one.found and (one.mask == other.mask).all() and one.score == pytest.approx(other.score, abs=1e-6)
    assert count.waits and count.waits.total() < 40 * len(one.seeds)  # a picture and a seed: no loop over pixels


@pretended
def test_tiles_give_the_cpus_masks(a100):
    there, here = (seg.TextSegmenter.tiny("best", device=device) for device in ("cuda", "cpu"))
    scene = shapes.scene(4, (240, 300), "several", scale=0.25)
    one, other = (segmenter(scene.image, scene.prompt, tile=128) for segmenter in (there, here))
    assert len(one.seeds) > 1 and (one.mask == other.mask).all()


@pretended
def test_sam2(gpu, scene, tiny_sam2):
    places = runtime.choose(), runtime.choose("cpu", "fp32")
    sam2, other = (SegmentAnything2(copy.deepcopy(tiny_sam2), where) for where in places)
    seed = make_seeds(scene.truth(scene.prompt).astype(np.float32), box=True, negatives=2).seeds[0]
    guess = np.where(seed.region, 4, -4).astype(np.float32)
    for prompt in ((seed, None), (replace(seed, box=None), guess)):
        sam2.set_image(scene.image)
        other.set_image(scene.image)
        offered, expected = sam2.predict(*prompt), other.predict(*prompt)
        assert offered.masks.shape == expected.masks.shape == (3, 48, 64)
        # The encoder's half precision: scores of random weights differ by a few thousandths.
        np.testing.assert_allclose(offered.scores, expected.scores, atol=0.02)


@pretended
def test_the_tracker(a100, tmp_path):
    """Stopped and resumed on the GPU, what it keeps is read back there; in fp32 the masks are the CPU's."""
    clip = clips.clip(3, 10, (64, 72), "moving")
    images, prompt = clip.render()[0], clip.prompt
    whole = VideoTracker.tiny(device="cpu").track(images, prompt, every=4, progress=False)

    class Stopped(Exception):
        pass

    there = VideoTracker.tiny()
    look, asked = there.clipseg.set_image, []

    def stop(image):
        asked.append(image)
        if len(asked) > 2:
            raise Stopped
        look(image)

    there.clipseg.set_image = stop
    with pytest.raises(Stopped):
        there.track(images, prompt, tmp_path, every=4, progress=False)
    parts = VideoTracker.tiny().track(images, prompt, tmp_path, every=4, progress=False)
    assert whole.found and [track.frames for track in parts.tracks] == [track.frames for track in whole.tracks]
    assert all((parts.mask(t) == whole.mask(t)).all() for t in range(10))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_masks_on_a_real_gpu_are_the_cpus(precision):
    """Another order of sums and half precision move a mask's border by a pixel here and there."""
    there, here = seg.TextSegmenter.tiny("best", precision=precision), seg.TextSegmenter.tiny("best", device="cpu")
    for number in range(4):
        scene = shapes.scene(number, (96, 96), "convex")
        one, other = there(scene.image, scene.prompt), here(scene.image, scene.prompt)
        assert one.found == other.found and abs(one.peak - other.peak) < 0.02
        assert not one.found or iou(one.mask, other.mask) > 0.95


@pytest.mark.gpu
def test_tracks_on_a_real_gpu_are_the_cpus():
    clip = clips.clip(3, 10, (64, 72), "moving")
    images, prompt = clip.render()[0], clip.prompt
    there, here = (
        VideoTracker.tiny(device).track(images, prompt, every=4, progress=False) for device in ("cuda", "cpu")
    )
    assert len(there.tracks) == len(here.tracks)
    assert min(iou(there.mask(t), here.mask(t)) for t in range(10) if here.mask(t).any()) > 0.9
