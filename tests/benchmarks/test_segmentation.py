import torch

from airl.scenes import shapes
from airl.seg.metrics import iou
from benchmarks.segmentation import WAYS


def test_the_ways_find_the_same_with_the_same_weights(tiny_sam, cpu):
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config={**small, "num_hidden_layers": 1},
        vision_config={**small, "num_hidden_layers": 10, "patch_size": 16},
        use_complex_transposed_convolution=True,
    )
    torch.manual_seed(0)
    clipseg = CLIPSegForImageSegmentation(config).eval()
    photo = shapes.scene(0, (96, 128)).image
    masks = {name: make(clipseg, tiny_sam, cpu)(photo, ["one", "two"]) for name, (make, _) in WAYS.items()}
    for name, found in masks.items():
        assert len(found) == 2
        for mask, ours in zip(found, masks["AIRL"], strict=True):
            assert 0 < mask.mean() < 1
            assert iou(mask, ours) > 0.99, name
