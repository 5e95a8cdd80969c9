"""From seeds to masks by SAM 2, which is another family of models than SAM, behind the same interface (see sam.py).

Ravi et al. 2024, SAM 2: Segment Anything in Images and Videos, https://arxiv.org/abs/2408.00714; transformers'
`Sam2Model`.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from airl import images
from airl.runtime import Runtime, choose
from airl.seg import weights
from airl.seg.precision import check_finite, compute
from airl.seg.sam import Candidates, Segmenter
from airl.seg.seeds import Seed


class SegmentAnything2(Segmenter):
    """SAM 2, by transformers' Sam2Model."""

    def __init__(self, model, runtime: Runtime | None = None):
        self.runtime = runtime or choose()
        self.model = model.eval().to(self.runtime.device)
        self.side = model.config.prompt_encoder_config.image_size  # pixels; pictures are stretched to a square
        self.image_size: tuple[int, int] | None = None  # (H, W)
        self.features: list[Tensor] = []

    @classmethod
    def from_pretrained(cls, name: str, runtime: Runtime | None = None) -> "SegmentAnything2":
        """Load from a folder that transformers saved, in whatever precision, or from the Hub (kept in its cache).

        Raises ConnectionError when it is neither here nor to be had.
        """
        from transformers import Sam2Model

        return cls(weights.from_hub(partial(Sam2Model.from_pretrained, dtype=torch.float32), name), runtime)

    @torch.no_grad()
    def set_image(self, image: np.ndarray) -> None:
        self.image_size = None  # should this fail, no older picture is taken for this one
        pixels = images.model_input(image, (self.side, self.side)).to(self.runtime.device)
        features = compute("SAM 2's image encoder", self.runtime, lambda: self.model.get_image_embeddings(pixels))
        self.features = [level.float() for level in features]  # the decoder is light and stays in fp32
        self.image_size = image.shape[:2]

    @torch.no_grad()
    def predict(self, seed: Seed, mask_prompt: np.ndarray | None = None) -> Candidates:
        if self.image_size is None:
            raise RuntimeError("no picture to segment: call set_image before predict")
        H, W = self.image_size
        scale = np.array([self.side / W, self.side / H])  # XY

        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array, dtype=torch.float32, device=self.runtime.device)

        out = self.model(
            image_embeddings=self.features,
            input_points=tensor(seed.points * scale)[None, None],  # (picture, mask, points, 2)
            input_labels=torch.as_tensor(seed.labels, device=self.runtime.device)[None, None],
            input_boxes=None if seed.box is None else tensor(seed.box * np.tile(scale, 2))[None, None],
            input_masks=None if mask_prompt is None else tensor(mask_prompt)[None, None],
            multimask_output=True,
        )
        logits, scores = check_finite("SAM 2's mask decoder", [out.pred_masks[0, 0], out.iou_scores[0, 0]])
        return Candidates(logits.cpu().numpy(), scores.cpu().numpy(), partial(images.enlarge, size=(H, W)))
