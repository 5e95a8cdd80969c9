from pathlib import Path

import pytest
import torch
from transformers import Sam2VideoModel

from airl import seg
from airl.seg.video.tracker import VideoTracker
from tests.seg.video.by_colour import ByColour
from training.train_tiny_video import small_sam2_video


@pytest.fixture(scope="session")
def untrained():
    """A small Sam2VideoModel of random weights that takes its object to be there always."""
    torch.manual_seed(0)
    model = small_sam2_video().eval()
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(3.0)
    return model


@pytest.fixture(scope="session")
def trained():
    """The small model that is shipped."""
    return Sam2VideoModel.from_pretrained(Path(seg.__file__).parent / "tiny/video", dtype=torch.float32)


@pytest.fixture
def truthful(trained, cpu):
    """The small model that is shipped, with a heat-map that does not err."""
    return VideoTracker(ByColour(), trained, "by colour", cpu)
