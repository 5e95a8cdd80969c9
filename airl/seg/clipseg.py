"""From text to a heat-map: CLIPSeg, with the picture seen once however many prompts follow.

    clipseg = ClipSeg.from_pretrained("CIDAS/clipseg-rd64-refined")
    clipseg.set_image(image)
    heatmaps = clipseg.predict(["a person", "a tie"])     # float32 (2, H, W)

Lüddecke & Ecker 2022, Image Segmentation Using Text and Image Prompts, https://arxiv.org/abs/2112.10003; the model
is transformers' `CLIPSegForImageSegmentation`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from airl import runtime
from airl.seg import weights


class ClipSeg:
    """A CLIPSeg model with its tokenizer and its way to see a picture."""

    def __init__(self, model, tokenizer, preprocessing: dict, where: runtime.Runtime | None = None):
        """model: a CLIPSegForImageSegmentation. preprocessing: "size" (a side, or "height" and "width", in pixels),
        "image_mean" and "image_std" (3 numbers each, for RGB in [0, 1]), "resample" (as PIL numbers them)."""
        self.runtime = where or runtime.choose()
        self.model = model.eval().to(self.runtime.device)
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        size = preprocessing["size"]
        self.size = (size["height"], size["width"]) if isinstance(size, dict) else (size, size)
        self.resample = Image.Resampling(preprocessing["resample"])
        self.mean = torch.tensor(preprocessing["image_mean"]).view(3, 1, 1)
        self.std = torch.tensor(preprocessing["image_std"]).view(3, 1, 1)
        self.image_size: tuple[int, int] | None = None  # (H, W)
        self.activations: list[Tensor] = []

    @classmethod
    def from_pretrained(cls, name: str | Path = weights.CLIPSEG, where: runtime.Runtime | None = None) -> "ClipSeg":
        """Load from a folder that transformers saved, or from the Hub (kept in its cache).

        Raises ConnectionError when it is neither here nor to be had.
        """
        from transformers import AutoTokenizer, CLIPSegForImageSegmentation, ViTImageProcessor

        def load(name: str) -> "ClipSeg":
            preprocessing, _ = ViTImageProcessor.get_image_processor_dict(name)
            model = CLIPSegForImageSegmentation.from_pretrained(name, dtype=torch.float32)
            return cls(model, AutoTokenizer.from_pretrained(name), preprocessing, where)

        return weights.from_hub(load, str(name))

    def pixels(self, image: np.ndarray) -> Tensor:
        """What the model sees of uint8 (H, W, 3) RGB: resized without regard to its shape; float32 (1, 3, h, w)."""
        resized = np.asarray(Image.fromarray(image).resize(self.size[::-1], self.resample))
        x = torch.from_numpy(resized.copy()).permute(2, 0, 1).float() / 255  # (h, w, 3) -> (3, h, w)
        return ((x - self.mean) / self.std)[None]

    def look(self, pixels: Tensor) -> list[Tensor]:
        """The vision tower: pixels (B, 3, h, w) to the activations the decoder reads, each (B, 1 + patches, dim)."""
        seen = self.model.clip.vision_model(
            pixels, output_hidden_states=True, interpolate_pos_encoding=True, return_dict=True
        )
        # hidden_states[0] is what enters the first layer
        return [seen.hidden_states[i + 1] for i in self.model.extract_layers]

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """The text tower: one conditional embedding per prompt, (P, projection_dim)."""
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt")
        read = self.model.clip.text_model(
            input_ids=tokens["input_ids"].to(self.runtime.device),
            attention_mask=tokens["attention_mask"].to(self.runtime.device),
            return_dict=True,
        )
        return self.model.clip.text_projection(read.pooler_output)

    def decode(self, activations: list[Tensor], embeddings: Tensor) -> Tensor:
        """The decoder: activations of P pictures and an embedding for each to logits (P, h, w)."""
        logits = self.model.decoder(tuple(activations), embeddings, return_dict=True).logits
        return logits.reshape(len(embeddings), *logits.shape[-2:])

    @torch.no_grad()
    def set_image(self, image: np.ndarray) -> None:
        """Look at a picture, uint8 (H, W, 3) RGB, so that `predict` need not."""
        with self.runtime.autocast():
            self.activations = self.look(self.pixels(image).to(self.runtime.device))
        self.image_size = image.shape[:2]

    @torch.no_grad()
    def predict(self, prompts: Sequence[str], templates: Sequence[str] = ("{}",)) -> np.ndarray:
        """Heat-maps of the picture set, float32 (P, H, W): the probability that a pixel is what the prompt says.

        templates: phrasings such as "a photo of {}"; a prompt's conditional embedding is the mean over them. The
        probabilities, at the model's resolution, are enlarged to the picture's bilinearly. Raises RuntimeError
        before `set_image`, ValueError for an empty prompt or a template without {}.
        """
        if self.image_size is None:
            raise RuntimeError("no picture to look at: call set_image before predict")
        if any(not prompt.strip() for prompt in prompts):
            raise ValueError(f"a prompt is empty: {list(prompts)}; say what to look for, such as 'a person'")
        if not templates or any("{}" not in template for template in templates):
            raise ValueError(f"a template has a {{}} for the prompt, such as 'a photo of {{}}'; got {list(templates)}")
        heatmaps = np.empty((len(prompts), *self.image_size), np.float32)
        for i, prompt in enumerate(prompts):  # one by one: at full size a heat-map may be large
            with self.runtime.autocast():
                embedding = self.embed([t.replace("{}", prompt) for t in templates]).mean(0, keepdim=True)
                probability = self.decode(self.activations, embedding).float().sigmoid()  # (1, h, w)
            enlarged = F.interpolate(probability[None].cpu(), self.image_size, mode="bilinear", align_corners=False)
            heatmaps[i] = enlarged[0, 0].clamp(0, 1)  # rounding may leave the interval by an ulp
        return heatmaps
