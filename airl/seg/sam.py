"""From seeds to masks: the original SAM, and the small interface that every SAM here has.

    sam = load_sam("vit_h")            # or "vit_l", "vit_b", "sam2.1-hiera-large", ..., or a file's path
    sam.set_image(image)               # the heavy half, once per picture
    candidates = sam.predict(seed)     # as often as wanted

Kirillov et al. 2023, Segment Anything, https://arxiv.org/abs/2304.02643; Meta's package segment-anything. SAM 2 is
another family of models: sam2.py.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from airl import images
from airl.files import atomic_write
from airl.runtime import Runtime, choose
from airl.seg import weights
from airl.seg.metrics import iou
from airl.seg.precision import check_finite, compute
from airl.seg.seeds import Seed

CHOICES = ("score", "agreement", "both")
AT_ONCE = 8  # seeds that are decoded at once: of a full-size SAM, some 50 MiB each


@dataclass(frozen=True, eq=False)
class Candidates:
    """The masks that SAM offers for one seed, since a point on a shirt may mean the shirt or the person."""

    logits: np.ndarray  # float32 (C, h, w), at SAM's own resolution; above 0 is inside
    scores: np.ndarray  # float32 (C,): the IoU that SAM predicts for each, about [0, 1]
    enlarge: Callable[[np.ndarray], np.ndarray] = np.asarray  # one (h, w) to the picture's (H, W)
    tile: tuple[slice, slice] | None = None  # rows and columns of the picture that SAM saw, if not all of it

    def mask(self, i: int) -> np.ndarray:
        """Candidate i, enlarged: bool (H, W)."""
        return self.enlarge(self.logits[i]) > 0

    @property
    def masks(self) -> np.ndarray:
        """All of them: bool (C, H, W)."""
        return np.stack([self.mask(i) for i in range(len(self.logits))])

    def choose(self, region: np.ndarray, how: str) -> int:
        """Which to take, by one of CHOICES: "score", the IoU that SAM predicts; "agreement", the IoU with `region`,
        bool (H, W); or "both", their product."""
        if how == "score":
            return int(self.scores.argmax())
        agreement = np.array([iou(self.mask(i), region) for i in range(len(self.logits))])
        return int((agreement if how == "agreement" else agreement * self.scores.clip(0)).argmax())


class Segmenter(Protocol):
    """What the pipeline asks of a SAM."""

    def set_image(self, image: np.ndarray) -> None:
        """Encode a picture, uint8 (H, W, 3) RGB."""

    def predict(self, seed: Seed, mask_prompt: np.ndarray | None = None) -> Candidates:
        """Three candidates for a seed on the picture set.

        mask_prompt: a guess at the mask, float32 (H, W) logits. Raises RuntimeError before `set_image`.
        """

    def predict_many(self, seeds: Sequence[Seed], mask_prompts: Iterable[np.ndarray] | None = None) -> list[Candidates]:
        """`predict` for each of several seeds. mask_prompts: one for each, or none."""
        prompts = [None] * len(seeds) if mask_prompts is None else mask_prompts
        return [self.predict(*each) for each in zip(seeds, prompts, strict=True)]


@dataclass(frozen=True)
class SamConfig:
    """The shape of a SAM; the defaults are vit_h's."""

    width: int = 1280  # of the image encoder's tokens
    depth: int = 32
    heads: int = 16
    global_blocks: tuple[int, ...] = (7, 15, 23, 31)  # which blocks attend to the whole picture, not to windows
    window: int = 14  # tokens
    image_size: int = 1024  # longer side, pixels
    patch_size: int = 16
    channels: int = 256  # of the prompt encoder and the mask decoder
    decoder_mlp: int = 2048
    doublings: int = 2  # of the resolution, from tokens to masks; those beyond the decoder's own two come after them


CONFIGS = {
    "vit_h": SamConfig(),
    "vit_l": SamConfig(1024, 24, 16, (5, 11, 17, 23)),
    "vit_b": SamConfig(768, 12, 12, (2, 5, 8, 11)),
}


def build_sam(config: SamConfig) -> torch.nn.Module:
    """Put a `segment_anything.modeling.Sam` together, with random weights, in training mode."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    grid = config.image_size // config.patch_size
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            out_chans=config.channels,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=config.window,
            global_attn_indexes=config.global_blocks,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=config.channels,
            image_embedding_size=(grid, grid),
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=config.channels,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=config.channels, num_heads=8, mlp_dim=config.decoder_mlp
            ),
            iou_head_hidden_dim=config.channels,
        ),
    )
    fine = config.channels // 8  # channels of the finest features
    for _ in range(config.doublings - 2):
        double = torch.nn.ConvTranspose2d(fine, fine, kernel_size=4, stride=2, padding=1)
        sam.mask_decoder.output_upscaling.extend([double, torch.nn.GELU()])
    return sam


def sam_from_weights(state: dict[str, Tensor], config: SamConfig) -> torch.nn.Module:
    """A Sam in evaluation mode that holds exactly these weights; no second copy of them is made.

    Raises ValueError, which names them, for keys or shapes that do not fit.
    """
    with torch.device("meta"):
        sam = build_sam(config)
    # The mean and the spread of the colours are no part of the released files.
    sam.register_buffer("pixel_mean", 255 * torch.tensor(images.IMAGENET_MEAN).view(3, 1, 1), persistent=False)
    sam.register_buffer("pixel_std", 255 * torch.tensor(images.IMAGENET_STD).view(3, 1, 1), persistent=False)
    try:
        sam.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"these are not the weights of a SAM {config}: {error}") from error
    return sam.eval().requires_grad_(False)


def read_sam(path: str | Path) -> torch.nn.Module:
    """Read a SAM from a .pth file such as the released ones (its size is told by its weights), or from a
    .safetensors file that `write_sam` wrote. Raises FileNotFoundError, and ValueError for another file."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no SAM checkpoint at {path} (the working folder is {Path.cwd()})")
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dict)
                fields = json.loads((file.metadata() or {})["config"])
            config = SamConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            width = state["image_encoder.patch_embed.proj.weight"].shape[0]
            config = {config.width: config for config in CONFIGS.values()}[width]
    except FileNotFoundError:
        raise
    except Exception as error:  # both libraries raise several kinds for a damaged or foreign file
        raise ValueError(
            f"{path} is not a SAM checkpoint, or it is damaged: {type(error).__name__}: {error}. "
            f"The released ones are {', '.join(c.file for c in weights.SAM.values())}"
        ) from error
    return sam_from_weights(state, config)


def write_sam(model: torch.nn.Module, config: SamConfig, path: str | Path) -> None:
    """Write a SAM's weights, in their own precision, and its shape to a .safetensors file that `read_sam` reads."""
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(state, temporary, {"config": json.dumps(asdict(config))})


class SegmentAnything(Segmenter):
    """The original SAM, by segment-anything's SamPredictor."""

    def __init__(self, model: torch.nn.Module, runtime: Runtime | None = None):
        from segment_anything import SamPredictor

        self.runtime = runtime or choose()
        self.predictor = SamPredictor(model.to(self.runtime.device))
        self.image_size: tuple[int, int] | None = None  # (H, W)

    @torch.no_grad()
    def set_image(self, image: np.ndarray) -> None:
        self.image_size = None  # should this fail, no older picture is taken for this one
        size = image.shape[:2]
        # Resized to the model's longer side, the shorter one of a very long picture would have no pixel left.
        shortest = -(-max(size) // self.predictor.model.image_encoder.img_size)
        missing = [(0, max(0, shortest - side)) for side in size]
        image = np.pad(image, [*missing, (0, 0)], mode="edge") if any(map(any, missing)) else image

        def forward() -> list[Tensor]:
            self.predictor.set_image(image)
            return [self.predictor.features]

        (features,) = compute("SAM's image encoder", self.runtime, forward)
        self.predictor.features = features.float()  # the decoder is light and stays in fp32
        self.image_size = size

    def predict(self, seed: Seed, mask_prompt: np.ndarray | None = None) -> Candidates:
        return self.predict_many([seed], None if mask_prompt is None else [mask_prompt])[0]

    @torch.no_grad()
    def predict_many(self, seeds: Sequence[Seed], mask_prompts: Iterable[np.ndarray] | None = None) -> list[Candidates]:
        if self.image_size is None:
            raise RuntimeError("no picture to segment: call set_image before predict")
        masks = None if mask_prompts is None else [self._low_resolution(prompt) for prompt in mask_prompts]
        alike: dict[tuple, list[int]] = {}  # only prompts of as many tokens can be decoded at once
        for i, seed in enumerate(seeds):
            alike.setdefault((len(seed.points), seed.box is None), []).append(i)
        found: dict[int, Candidates] = {}
        for numbers in alike.values():
            for start in range(0, len(numbers), AT_ONCE):
                part = numbers[start : start + AT_ONCE]
                some = self._decode([seeds[i] for i in part], masks and [masks[i] for i in part])
                found.update(zip(part, some, strict=True))
        return [found[i] for i in range(len(seeds))]

    def _decode(self, seeds: list[Seed], masks: list[np.ndarray] | None) -> list[Candidates]:
        """For seeds of as many points, all with a box or none; masks: each (1, h, w), as SAM reads them."""
        # As SamPredictor.predict, which takes one seed and would enlarge all three masks before anybody asks for one.
        predictor, sam = self.predictor, self.predictor.model

        def tensor(arrays: list[np.ndarray]) -> Tensor:
            return torch.as_tensor(np.stack(arrays), device=self.runtime.device)

        def scaled(points: np.ndarray) -> np.ndarray:
            return predictor.transform.apply_coords(points, predictor.original_size).astype(np.float32)

        boxes = None if seeds[0].box is None else tensor([scaled(seed.box.reshape(2, 2)).ravel() for seed in seeds])
        sparse, dense = sam.prompt_encoder(
            points=(tensor([scaled(seed.points) for seed in seeds]), tensor([seed.labels for seed in seeds])),
            boxes=boxes,
            masks=masks and tensor(masks),
        )
        logits, scores = check_finite(
            "SAM's mask decoder",
            sam.mask_decoder(
                image_embeddings=predictor.features,
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            ),
        )
        enlarge = partial(
            _enlarge,
            side=sam.image_encoder.img_size,
            resized=predictor.input_size,
            padded=predictor.original_size,
            size=self.image_size,
        )
        return [Candidates(*each, enlarge) for each in zip(logits.cpu().numpy(), scores.cpu().numpy(), strict=True)]

    def _low_resolution(self, logits: np.ndarray) -> np.ndarray:
        """Logits (H, W) in the frame that SAM reads mask prompts in: scaled, then padded below or on the right."""
        h, w = self.predictor.model.prompt_encoder.mask_input_size
        scale = h / max(logits.shape)
        size = [max(1, round(side * scale)) for side in logits.shape]
        small = F.interpolate(torch.from_numpy(logits)[None, None], size, mode="bilinear", antialias=True)
        return F.pad(small, (0, w - size[1], 0, h - size[0]), value=float(logits.min()))[0].numpy()


def _enlarge(
    logits: np.ndarray, side: int, resized: tuple[int, int], padded: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Logits (h, w) out of SAM's square frame, as `Sam.postprocess_masks` does it: to the frame's own side, there to
    the part that the picture fills, and to the picture, of which padding is cut off."""
    square = images.enlarge(logits, (side, side))
    return images.enlarge(square[: resized[0], : resized[1]], padded)[: size[0], : size[1]]


def load_sam(name: str | Path, runtime: Runtime | None = None) -> Segmenter:
    """Load a SAM by name (see `weights.SAM`), a SAM 2 by name (see `weights.SAM2`), or either by path: a file is
    a SAM, a folder a SAM 2 as transformers saves it.

    Raises ValueError for an unknown name or a damaged file, FileNotFoundError for a path that is not there,
    ConnectionError where weights cannot be downloaded.
    """
    name = str(name)
    if name in weights.SAM:
        return SegmentAnything(read_sam(weights.sam_file(name)), runtime)
    if name in weights.SAM2 or Path(name).expanduser().is_dir():
        from airl.seg.sam2 import SegmentAnything2

        return SegmentAnything2.from_pretrained(weights.SAM2.get(name, str(Path(name).expanduser())), runtime)
    if not Path(name).suffix:
        known = ", ".join([*weights.SAM, *weights.SAM2, *weights.SAM3])
        raise ValueError(f"unknown SAM {name!r}; choose one of {known}, or give a checkpoint's path")
    return SegmentAnything(read_sam(name), runtime)
