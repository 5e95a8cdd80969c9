"""From text to a heat-map: CLIPSeg, with the picture seen once however many prompts follow.

    clipseg = ClipSeg.from_pretrained("CIDAS/clipseg-rd64-refined")
    clipseg.set_image(image)
    heatmaps = clipseg.predict(["a person", "a tie"])     # float32 (2, H, W)

Lüddecke & Ecker 2022, Image Segmentation Using Text and Image Prompts, https://arxiv.org/abs/2112.10003; the model
is transformers' `CLIPSegForImageSegmentation`.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from airl import images
from airl.runtime import Runtime, choose
from airl.seg import weights
from airl.seg.precision import compute

CHUNK = 32  # prompts that are decoded at once, or pictures that are seen at once


class ClipSeg:
    """A CLIPSeg model with its tokenizer and its way to see a picture."""

    def __init__(self, model, tokenizer, preprocessing: dict, runtime: Runtime | None = None):
        """model: a CLIPSegForImageSegmentation. preprocessing: "size" (a side, or "height" and "width", in pixels),
        "image_mean" and "image_std" (3 numbers each, for RGB in [0, 1]), "resample" (as PIL numbers them)."""
        self.runtime = runtime or choose()
        self.model = model.eval().to(self.runtime.device)
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        size = preprocessing["size"]
        self.size = (size["height"], size["width"]) if isinstance(size, dict) else (size, size)
        self.resample = Image.Resampling(preprocessing["resample"])
        self.image_size: tuple[int, int] | None = None  # (H, W)
        self.activations: list[Tensor] = []

    @classmethod
    def from_pretrained(cls, name: str | Path = weights.CLIPSEG, runtime: Runtime | None = None) -> "ClipSeg":
        """Load from a folder that transformers saved, or from the Hub (kept in its cache).

        Raises ConnectionError when it is neither here nor to be had.
        """
        from transformers import AutoTokenizer, CLIPSegForImageSegmentation, ViTImageProcessor

        def load(name: str) -> "ClipSeg":
            preprocessing, _ = ViTImageProcessor.get_image_processor_dict(name)
            model = CLIPSegForImageSegmentation.from_pretrained(name, dtype=torch.float32)
            return cls(model, AutoTokenizer.from_pretrained(name), preprocessing, runtime)

        return weights.from_hub(load, str(name))

    def pixels(self, image: np.ndarray) -> Tensor:
        """What the model sees of uint8 (H, W, 3) RGB: resized without regard to its shape; float32 (1, 3, h, w)."""
        mean, std = self.preprocessing["image_mean"], self.preprocessing["image_std"]
        return images.model_input(image, self.size, mean, std, self.resample)

    def look(self, pixels: Tensor) -> list[Tensor]:
        """The vision tower: pixels (B, 3, h, w) to the activations the decoder reads, each (B, 1 + patches, dim)."""
        seen = self.model.clip.vision_model(
            pixels, output_hidden_states=True, interpolate_pos_encoding=True, return_dict=True
        )
        # hidden_states[0] is what enters the first layer
        return [seen.hidden_states[i + 1] for i in self.model.extract_layers]

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """The text tower: one conditional embedding per prompt, (P, projection_dim). Of a prompt of more tokens than it
        reads (77, for the released model), it reads the beginning."""
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt")
        read = self.model.clip.text_model(
            input_ids=tokens["input_ids"].to(self.runtime.device),
            attention_mask=tokens["attention_mask"].to(self.runtime.device),
            return_dict=True,
        )
        return self.model.clip.text_projection(read.pooler_output)

    def decode(self, activations: list[Tensor], embeddings: Tensor) -> Tensor:
        """The decoder: activations of P pictures, or of one for all, and P embeddings to logits (P, h, w)."""
        logits = self.model.decoder(tuple(activations), embeddings, return_dict=True).logits
        return logits.reshape(len(embeddings), *logits.shape[-2:])

    @torch.no_grad()
    def set_image(self, image: np.ndarray) -> None:
        """Look at a picture, uint8 (H, W, 3) RGB, so that `predict` need not."""
        self.image_size = None  # should this fail, no older picture is taken for this one
        pixels = self.pixels(image).to(self.runtime.device)
        activations = compute("CLIPSeg's vision tower", self.runtime, lambda: self.look(pixels))
        self.activations = [one.float() for one in activations]  # so that the decoder can run in fp32 too
        self.image_size = image.shape[:2]

    @torch.no_grad()
    def probabilities(self, prompts: Iterable[str], templates: Sequence[str] = ("{}",)) -> np.ndarray:
        """Of the picture set, at the model's own resolution, float32 (P, h, w) in [0, 1]: the probability that there
        is what the prompt says.

        prompts: at least none, such as "a person". templates: phrasings such as "a photo of {}"; a prompt's
        conditional embedding is the mean over them. Raises RuntimeError before `set_image`, ValueError for an empty
        prompt or a template without {}.
        """
        if self.image_size is None:
            raise RuntimeError("no picture to look at: call set_image before predict")
        prompts = check_prompts(prompts)
        templates = check_templates(templates)
        if not prompts:
            return np.empty((0, *self.size), np.float32)

        def forward() -> list[Tensor]:
            embeddings = self._conditions(prompts, templates)
            return [self.decode(self.activations, part).float().sigmoid() for part in embeddings.split(CHUNK)]

        return torch.cat(list(compute("CLIPSeg's decoder", self.runtime, forward))).cpu().numpy()

    @torch.no_grad()
    def probabilities_of(
        self, pictures: Iterable[np.ndarray], prompts: Sequence[str], templates: Sequence[str] = ("{}",)
    ) -> Iterator[np.ndarray]:
        """`probabilities`, float32 (P, h, w), of one picture after the other, seen by the batch; the one set stays."""
        (embeddings,) = compute(
            "CLIPSeg's text tower", self.runtime, lambda: [self._conditions(prompts, templates).float()]
        )
        pictures = iter(pictures)
        while some := list(islice(pictures, CHUNK)):
            pixels = torch.cat([self.pixels(picture) for picture in some]).to(self.runtime.device)

            def forward(pixels: Tensor = pixels) -> list[Tensor]:
                activations = self.look(pixels)
                return [self.decode(activations, one.expand(len(pixels), -1)).sigmoid() for one in embeddings]

            yield from torch.stack(list(compute("CLIPSeg", self.runtime, forward)), 1).float().cpu().numpy()

    def _conditions(self, prompts: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Each prompt's conditional embedding, the mean over the templates: (P, projection_dim)."""
        phrases = [template.replace("{}", prompt) for prompt in prompts for template in templates]
        return self.embed(phrases).unflatten(0, (len(prompts), len(templates))).mean(1)

    def predict(self, prompts: Iterable[str], templates: Sequence[str] = ("{}",)) -> np.ndarray:
        """Heat-maps, float32 (P, H, W): `probabilities`, enlarged bilinearly to the size of the picture set."""
        small = self.probabilities(prompts, templates)
        heatmaps = np.empty((len(small), *self.image_size), np.float32)
        for heatmap, probabilities in zip(heatmaps, small, strict=True):
            # Rounding may leave the interval by an ulp.
            np.clip(images.enlarge(probabilities, self.image_size), 0, 1, out=heatmap)
        return heatmaps


def check_prompts(prompts: Iterable[str]) -> list[str]:
    """Prompts as a list; a text is one prompt. Raises ValueError for an empty prompt, and for what is no text."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ValueError(f"a prompt is a text, such as 'a person', not {prompt!r}")
        if not prompt.strip():
            raise ValueError(f"a prompt is empty: {prompts}; say what to look for, such as 'a person'")
    return prompts


def check_templates(templates: Iterable[str]) -> tuple[str, ...]:
    """Templates as a tuple. Raises ValueError for none, for a text instead of several, and for one without {}."""
    if isinstance(templates, str) or not all(isinstance(t, str) and "{}" in t for t in templates) or not templates:
        raise ValueError(
            f"templates are several texts, each with a {{}} for the prompt, such as ('a photo of {{}}',); "
            f"got {templates!r}"
        )
    return tuple(templates)
