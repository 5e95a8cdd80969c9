"""From text straight to instances by SAM 3, a third family of models, behind the same call and with the same results.

    segmenter = TextSegmenter.from_pretrained("sam3")
    one = segmenter("photo.jpg", "a person")

SAM 3 finds every instance of what a text says by itself: there is no CLIPSeg, and there are no seeds.

Carion et al. 2025, SAM 3: Segment Anything with Concepts, https://arxiv.org/abs/2511.16719; transformers' `Sam3Model`.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from airl import images
from airl.runtime import Runtime, choose
from airl.seg import weights
from airl.seg.clipseg import check_prompts
from airl.seg.pipeline import Recipe, TextSegmenter
from airl.seg.precision import compute
from airl.seg.result import Segmentation
from airl.seg.sam import Candidates

GATED = "SAM 3's weights are gated: ask for them at https://huggingface.co/facebook/sam3, then run `hf auth login`."


def is_sam3(name: str | Path) -> bool:
    """Whether this is the name of a SAM 3, or a folder that holds one as transformers saves it."""
    try:
        config = json.loads((Path(name).expanduser() / "config.json").read_text())
        return str(config.get("model_type")).startswith("sam3")  # the released folder says "sam3_video": it holds both
    except (OSError, ValueError, AttributeError):
        return str(name) in weights.SAM3


def load(model, processor, name: str | Path) -> tuple:
    """A model of SAM 3, in fp32, and its processor, given transformers' classes of both and "sam3" or a folder.

    Raises ConnectionError where the weights cannot be had.
    """
    folder = weights.SAM3.get(str(name), str(Path(name).expanduser()))
    try:
        read = weights.from_hub(processor.from_pretrained, folder)
        return weights.from_hub(partial(model.from_pretrained, dtype=torch.float32), folder), read
    except ConnectionError as error:
        raise ConnectionError(f"{error}\n{GATED}") from error


def tokens_of(processor, prompt: str):
    """A prompt as SAM 3 reads it, as its processor does it: 32 tokens, those beyond cut off."""
    return processor.tokenizer(prompt, padding="max_length", max_length=32, truncation=True, return_tensors="pt")


class Sam3Segmenter(TextSegmenter):
    """SAM 3 with its processor.

    Of a recipe, `threshold` is the least score of an instance, and the heat-map's for the coarse mask; `floor` is the
    least presence score. The other fields are about CLIPSeg, seeds and the choice of a mask, and do nothing here.
    """

    def __init__(self, model, processor, recipe: str | Recipe = "assignment", runtime: Runtime | None = None):
        """model: a Sam3Model. processor: its Sam3Processor."""
        super().__init__(None, None, recipe)
        self.runtime = runtime or choose()
        self.model = model.eval().requires_grad_(False).to(self.runtime.device)
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls,
        sam: str | Path = "sam3",
        recipe: str | Recipe = "assignment",
        device: str = "auto",
        precision: str = "auto",
    ) -> "Sam3Segmenter":
        """Load "sam3", downloading it if it is not on this machine yet, or a folder that transformers saved.

        Raises ConnectionError where the weights cannot be had.
        """
        from transformers import Sam3Model, Sam3Processor

        runtime = choose(device, precision)
        print(f"text to mask: SAM 3 {sam}, on {runtime}")
        return cls(*load(Sam3Model, Sam3Processor, sam), recipe, runtime)

    @torch.no_grad()
    def set_image(self, picture: images.Picture) -> None:
        with self._lock:
            self.image = None
            image = images.load(picture)
            pixels = self.processor(images=np.array(image), input_data_format="channels_last", return_tensors="pt")
            pixels = pixels["pixel_values"].to(self.runtime.device)

            def forward() -> tuple[torch.Tensor, ...]:
                self.features = self.model.get_vision_features(pixels)
                return self.features.fpn_hidden_states

            compute("SAM 3's vision encoder", self.runtime, forward)
            self.features = _float(self.features)  # so that what follows can be done in fp32 too
            self.image = image

    def segment(self, prompt: str | Iterable[str], **changes) -> Segmentation | list[Segmentation]:
        recipe = replace(self.recipe, **changes)
        prompts = check_prompts(prompt)
        with self._lock:
            if self.image is None:
                raise RuntimeError("no picture to segment: call set_image before segment")
            many = [self._find(one, recipe) for one in prompts]
        return many[0] if isinstance(prompt, str) else many

    def refine(self, one: Segmentation, add=(), remove=()) -> Segmentation:
        raise ValueError("SAM 3 takes no points; refine a result of a SAM or a SAM 2, such as sam='vit_h'")

    @torch.no_grad()
    def _find(self, prompt: str, recipe: Recipe) -> Segmentation:
        tokens = tokens_of(self.processor, prompt).to(self.runtime.device)

        def forward() -> list[torch.Tensor]:
            out = self.model(
                vision_embeds=self.features, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            )
            return [out.presence_logits, out.pred_logits[0], out.pred_masks[0], out.semantic_seg[0, 0]]

        tensors = compute("SAM 3's decoder", self.runtime, forward)
        presence, scores, masks, semantic = (tensor.float().sigmoid() for tensor in tensors)
        presence = float(presence)
        scores = scores * presence  # (queries,)
        kept = torch.nonzero(scores > recipe.threshold)[:, 0] if presence >= recipe.floor else []
        enlarge = partial(images.enlarge, size=self.image.shape[:2])
        # Probabilities are enlarged, not logits, as SAM 3's processor does; above 0 is inside here.
        masks = (masks[kept] - 0.5).cpu().numpy()  # (N, h, w)
        return Segmentation(
            image=self.image,
            prompt=prompt,
            probabilities=semantic.cpu().numpy(),
            threshold=recipe.threshold,
            floor=recipe.floor,
            peak=presence,
            seeds=(),
            candidates=tuple(
                Candidates(mask[None], scores[i][None].cpu().numpy(), enlarge)
                for mask, i in zip(masks, kept, strict=True)
            ),
            chosen=(0,) * len(kept),
        )


def _float(value):
    """A tensor, or what of a model's output holds tensors, in fp32."""
    if isinstance(value, torch.Tensor):
        return value.float()
    if isinstance(value, dict):
        return type(value)(**{name: _float(part) for name, part in value.items()})
    return type(value)(map(_float, value))
