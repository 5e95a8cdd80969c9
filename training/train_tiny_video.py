"""Train the small SAM 2 for video that comes with this package, on the moving scenes of `airl.scenes.clips`.

    OMP_NUM_THREADS=1 python -m training.train_tiny_video --out airl/seg/tiny/video

It is transformers' Sam2VideoModel in a small shape, trained from nothing. Its own forward is for inference only, so its
parts are unrolled here over a few frames, with gradients through the memory: a prompt gives the mask in the first,
the memory the masks in the others (Ravi et al. 2024, https://arxiv.org/abs/2408.00714, appendix D.2.2). What is in the
folder at any time is the moving average of the weights so far.
"""

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airl import runtime
from airl.files import atomic_folder
from airl.images import IMAGENET_MEAN, IMAGENET_STD
from airl.scenes import clips
from training.train_tiny import TRAIN_SEED, box_of, flip, learn, mask_loss, note, some_pixel

SIDE = 128  # pixels
DRAWN = 14  # frames of each clip
STAGES = ((0.25, 16, 1), (0.6, 6, 3), (1.0, 3, 7))  # up to which share of the steps: clips in a batch, frames of each
FURTHER = ((0.5, 3, 7), (1.0, 2, 12))  # the same of a model that is trained already


def small_sam2_video() -> nn.Module:
    """A Sam2VideoModel in a small shape, with random weights, in training mode."""
    from transformers import Sam2VideoConfig, Sam2VideoModel
    from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig
    from transformers.models.sam2_video.configuration_sam2_video import Sam2VideoMaskDecoderConfig

    dims = [32, 64, 128, 160]
    backbone = Sam2HieraDetConfig(
        hidden_size=dims[0],
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 2, 3, 1],
        embed_dim_per_stage=dims,
        num_attention_heads_per_stage=[1, 2, 4, 5],
        window_size_per_stage=[8, 8, 8, 4],
        global_attention_blocks=[2],
        mlp_ratio=3.0,
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=dims[::-1],
        backbone_feature_sizes=[[SIDE // s, SIDE // s] for s in (4, 8, 16)],
        fpn_hidden_size=128,
    )
    model = Sam2VideoModel(
        Sam2VideoConfig(
            vision_config=vision,
            prompt_encoder_config=dict(hidden_size=128, image_size=SIDE, patch_size=16),
            mask_decoder_config=Sam2VideoMaskDecoderConfig(  # from a dict transformers 5.15 makes another class
                hidden_size=128,
                mlp_dim=256,
                num_attention_heads=4,
                num_multimask_outputs=1,
                iou_head_hidden_dim=64,
                dynamic_multimask_via_stability=False,
            ),
            image_size=SIDE,
            num_maskmem=4,
            max_object_pointers_in_encoder=6,
            multimask_output_in_sam=False,  # a drawn shape has no parts: a point means one thing
            multimask_output_for_tracking=False,
            memory_attention_hidden_size=128,
            memory_attention_num_layers=2,
            memory_attention_feed_forward_hidden_size=256,
            memory_attention_dropout=0.0,
            memory_attention_rope_feat_sizes=[SIDE // 16, SIDE // 16],
            memory_attention_rope_dropout=0.0,
            memory_encoder_hidden_size=128,
            memory_encoder_output_channels=64,
            mask_downsampler_embed_dim=128,
            memory_fuser_embed_dim=128,
            memory_fuser_intermediate_dim=256,
            memory_fuser_layer_scale_init_value=0.1,
        )
    )
    with torch.no_grad():
        # What transformers starts from is meant to be replaced by trained weights: too small, or zero, to learn from.
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
                module.reset_parameters()
        for start in (
            model.memory_temporal_positional_encoding,
            model.no_object_pointer,
            model.occlusion_spatial_embedding_parameter,
            model.no_memory_embedding,
            model.vision_encoder.backbone.pos_embed,
            model.vision_encoder.backbone.pos_embed_window,
        ):
            start.normal_(0, 0.02)
        for layer in model.memory_encoder.memory_fuser.layers:
            layer.scale.fill_(0.1)
    return model.train()


# ------------------------------------------------------------------------------------------------- clips


@dataclass
class Clips:
    """N drawn clips as tensors."""

    images: Tensor  # uint8 (N, DRAWN, 3, SIDE, SIDE)
    ids: Tensor  # uint8 (N, DRAWN, SIDE, SIDE)


def _draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    kind = ("occluded", "returning", None, None)[seed % 4]  # most in which the object is out of sight for a while
    one = clips.clip(seed, 32, (SIDE, SIDE), kind)
    start = seed % (len(one) - DRAWN + 1)
    images, ids = zip(*(one.draw(t) for t in range(start, start + DRAWN)), strict=True)
    return np.stack(images).transpose(0, 3, 1, 2), np.stack(ids)


def draw(n: int, first_seed: int) -> Clips:
    images = torch.empty(n, DRAWN, 3, SIDE, SIDE, dtype=torch.uint8)
    ids = torch.empty(n, DRAWN, SIDE, SIDE, dtype=torch.uint8)
    with ProcessPoolExecutor() as workers:
        for i, (pictures, truth) in enumerate(workers.map(_draw, range(first_seed, first_seed + n), chunksize=16)):
            images[i], ids[i] = torch.from_numpy(pictures.copy()), torch.from_numpy(truth)
    return Clips(images, ids)


# ------------------------------------------------------------------------------------------------- unrolling


def normalize(images: Tensor) -> Tensor:
    """uint8 (..., 3, h, w) to what SAM 2 sees."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.float() / 255 - mean) / std


def prompt_of(truth: Tensor, rng: np.random.Generator) -> dict:
    """A point, with or without a box, for each of N masks that are not empty (N, h, w)."""
    points, labels = some_pixel(truth), torch.ones(len(truth), 1, dtype=torch.int32)
    if rng.random() < 0.6:  # a box is its two corners, as the points labelled 2 and 3
        box = box_of(truth)
        extent = (box[:, 2:] - box[:, :2]).repeat(1, 2)
        corners = (box + (torch.rand(len(truth), 4) - 0.5) * 0.2 * extent).view(-1, 2, 2)
        points = torch.cat([corners, points], 1)
        labels = torch.cat([torch.tensor([[2, 3]], dtype=torch.int32).expand(len(truth), -1), labels], 1)
    return {"input_points": points[:, None], "input_labels": labels[:, None]}  # (N, 1, P, 2), (N, 1, P)


def unroll(model: nn.Module, images: Tensor, truth: Tensor, rng: np.random.Generator, forced: float) -> Tensor:
    """The loss of tracking K objects in each of B clips, all seen in the first frame.

    images: uint8 (B, T, 3, h, w). truth: bool (B, K, T, h, w). forced: the share of memories made of the true masks.
    """
    B, K, T = truth.shape[:3]
    N = B * K
    truth = truth.flatten(0, 1)  # (N, T, h, w)
    seen = model.get_image_features(normalize(images.flatten(0, 1)), return_dict=True)
    levels = [level.unflatten(1, (B, T)) for level in seen.fpn_hidden_states]  # (h * w, B, T, C) each
    place = seen.fpn_position_encoding[-1][:, :1].expand(-1, N, -1)  # (h * w, N, C), the same for every picture
    wide = model.get_image_wide_positional_embeddings().expand(N, -1, -1, -1)
    memories: list[dict[str, Tensor]] = []
    long_ago = int(rng.integers(0, 300)) if rng.random() < 0.5 else 0  # in a long clip the first frame is far behind
    total = torch.zeros(())
    for t in range(T):
        fine, middle, last = (level[:, :, t].repeat_interleave(K, 1) for level in levels)  # (h * w, N, C) each
        sparse, dense = model.prompt_encoder(
            **(prompt_of(truth[:, 0], rng) if t == 0 else {"input_points": torch.zeros(N, 1, 1, 2)}),
            **({} if t == 0 else {"input_labels": -torch.ones(N, 1, 1, dtype=torch.int32)}),
            input_boxes=None,
            input_masks=None,
        )
        if t == 0:
            conditioned = last + model.no_memory_embedding
        else:
            recent = [(t - s, memories[s]) for s in range(max(1, t - model.num_maskmem + 1), t)]
            kept, places = model._build_memory_attention_inputs([(0, memories[0]), *recent], images.device)
            ago = range(1, min(t, model.config.max_object_pointers_in_encoder))  # but the first frame
            pointers, when = model._process_object_pointers(
                [t + long_ago, *ago],
                [memories[t - a]["object_pointer"] for a in (t, *ago)],
                model.config.max_object_pointers_in_encoder,
                N,
                model.hidden_dim,
                images.device,
            )
            conditioned = model.memory_attention(
                current_vision_features=last,
                current_vision_position_embeddings=place,
                memory=torch.cat([*kept, pointers]).float(),
                memory_posision_embeddings=torch.cat([*places, when]),
                num_object_pointer_tokens=len(pointers),
            ).squeeze(0)  # (N, h * w, C)
            conditioned = conditioned.transpose(0, 1)
        features = [
            x.permute(1, 2, 0).unflatten(2, size)  # (N, C, h, w)
            for x, size in zip((fine, middle, conditioned), model.backbone_feature_sizes, strict=True)
        ]
        low, quality, token, presence = model.mask_decoder(
            image_embeddings=features[2],
            image_positional_embeddings=wide,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=features[:2],
        )
        logits = F.interpolate(low[:, 0], (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]  # (N, h, w)
        target = truth[:, t]
        there = target.flatten(1).any(1)  # (N,)
        with torch.no_grad():
            union = ((logits > 0) | target).sum((1, 2)).clamp(min=1)
            iou = ((logits > 0) & target).sum((1, 2)) / union
        loss = mask_loss(logits, target.float()) + F.mse_loss(quality[:, 0, 0], iou, reduction="none")
        loss = (loss * there).sum() / there.sum().clamp(min=1)
        rare = torch.where(there, 1.0, 3.0)
        total = total + loss + F.binary_cross_entropy_with_logits(presence[:, 0, 0], there.float(), rare)

        if t == T - 1:
            break
        # The memory is told whether the object is there; its mask is the model's own, or the true one.
        sure = (there.float() * 20 - 10)[:, None]
        teach = (torch.rand(N) < forced)[:, None, None]
        remembered = torch.where(teach, target.float() * 20 - 10, logits)
        remembered = torch.where(there[:, None, None], remembered, -20.0)
        memory, memory_place = model._encode_new_memory(last, remembered[:, None], sure[..., None], False)
        pointer = model.object_pointer_proj(token[:, :, 0])[:, 0]  # (N, C)
        pointer = torch.where(there[:, None], pointer, model.no_object_pointer)
        memories.append({"maskmem_features": memory, "maskmem_pos_enc": memory_place, "object_pointer": pointer})
    return total / T


def sample(
    drawn: Clips, chosen: np.ndarray, length: int, objects: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """`length` frames of each chosen clip, forwards or backwards, and the masks of `objects` objects seen in the first:
    uint8 (B, T, 3, h, w), bool (B, K, T, h, w)."""
    images, truth = [], []
    for i in chosen:
        for _ in range(4):  # rather a part in which one of them is hidden later: those teach most
            step = min(int(rng.choice([1, 1, 2])), (DRAWN - 1) // max(length - 1, 1))
            start = int(rng.integers(0, DRAWN - step * (length - 1)))
            frames = (start + step * np.arange(length))[:: int(rng.choice([-1, 1]))].copy()
            ids = drawn.ids[i, frames]  # (T, h, w)
            there, counts = ids[0].unique(return_counts=True)
            there = there[(there > 0) & (counts >= 30)]
            if not len(there):  # all has left: the background is an object, too
                there = torch.zeros(1, dtype=torch.uint8)
            gone = torch.stack([(ids == number).flatten(1).any(1).logical_not().any() for number in there])
            if gone.any() or length == 1:
                break
        weight = 1 + 4 * gone.float()
        wanted = there[weight.multinomial(objects, replacement=len(there) < objects)]
        images.append(drawn.images[i, frames])
        truth.append(ids[None] == wanted[:, None, None, None])
    return flip([torch.stack(images), torch.stack(truth)], int(rng.integers(8)))


def losses(model: nn.Module, drawn: Clips, steps: int, seed: int, further: bool) -> Iterator[Tensor]:
    """One loss per step, of ever longer parts of clips, from memories that are ever less the true masks'."""
    rng = np.random.default_rng(seed)
    stages, taught = (FURTHER, 0.0) if further else (STAGES, STAGES[1][0] * steps)
    for step in range(1, steps + 1):
        batch, length = next((batch, length) for share, batch, length in stages if step <= share * steps)
        images, truth = sample(drawn, rng.integers(0, len(drawn.images), batch), length, 3, rng)
        yield unroll(model, images, truth, rng, forced=1 - step / taught if step < taught else 0.0)


def train(drawn: Clips, steps: int, folder: Path, seed: int = 0, further: bool = False) -> nn.Module:
    """Returns the moving average of the weights, which is written to the folder on the way, too.

    further: start from the weights in the folder, more gently."""
    from transformers import Sam2VideoModel

    torch.manual_seed(seed)
    model = Sam2VideoModel.from_pretrained(folder, dtype=torch.float32).train() if further else small_sam2_video()
    rate = 5e-4 if further else 1e-3
    learn("video", model, losses(model, drawn, steps, seed, further), steps, rate, lambda late: write(late, folder))
    return model.eval()


def write(model: nn.Module, folder: Path) -> None:
    """As transformers saves it, in half the bytes."""
    with atomic_folder(folder) as temporary:
        deepcopy(model).half().save_pretrained(temporary)
        config = json.loads((temporary / "config.json").read_text())
        config.pop("rope_parameters", None)  # the defaults; transformers 5.15 does not know them and warns
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights, such as airl/seg/tiny/video")
    parser.add_argument("--clips", type=int, default=3_000, help="how many clips to draw")
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--resume", action="store_true", help="train the model that is in OUT further")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other clips")
    options = parser.parse_args()
    where = runtime.choose("cpu", "fp32")
    print(f"training on {where}")
    began = time.monotonic()
    drawn = draw(options.clips, TRAIN_SEED + 50_000 * options.seed)
    print(f"drew {options.clips} clips in {time.monotonic() - began:.0f} s", flush=True)
    began = time.monotonic()
    train(drawn, options.steps, options.out, options.seed, options.resume)
    command = f"train_tiny_video --out {options.out} --clips {options.clips} --steps {options.steps}"
    note(options.out / "training.json", f"{command} --seed {options.seed}", options.resume, where, began)


if __name__ == "__main__":
    main()
