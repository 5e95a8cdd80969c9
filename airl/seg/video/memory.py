"""SAM 2's memory of one object, pruned to what the model looks at again.

    sam2 = VideoSam2(model)                      # a transformers Sam2VideoModel
    view = sam2.see(0, image)                    # the heavy half, once for all objects
    memory, seen = sam2.start(view, seed)        # a seed gives the object's mask, and a memory of it
    seen = sam2.follow(memory, sam2.see(1, next_image))

This is the one place that touches transformers' inside: its own session keeps every frame and serves one set of
objects, so each object here has a session of its own, out of which what is no longer needed is taken.

SAM 2: Ravi et al. 2024, Segment Anything in Images and Videos, https://arxiv.org/abs/2408.00714.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from airl import images, runtime
from airl.seg.seeds import Seed


@dataclass(frozen=True, eq=False)
class View:
    """One frame as SAM 2 sees it."""

    t: int
    size: tuple[int, int]  # (H, W) of the frame
    pixels: Tensor  # float32 (1, 3, side, side)
    cache: object  # transformers' Sam2VideoInferenceCache: the features, computed at the first step, for all objects


@dataclass(frozen=True, eq=False)
class Seen:
    """One object in one frame."""

    logits: np.ndarray  # float32 (H, W), positive on the object
    score: float  # the probability that it is there at all

    @cached_property
    def mask(self) -> np.ndarray:
        return self.logits > 0


class Memory:
    """What SAM 2 remembers of one object."""

    def __init__(self, session):
        self._session = session  # transformers' Sam2VideoInferenceSession with this object alone

    @property
    def _seeded(self) -> dict[int, dict]:
        return self._session.output_dict_per_obj[0]["cond_frame_outputs"]

    @property
    def _recent(self) -> dict[int, dict]:
        return self._session.output_dict_per_obj[0]["non_cond_frame_outputs"]

    @property
    def seeded(self) -> set[int]:
        """The frames in which it was given a seed."""
        return set(self._seeded)

    def keep_first(self, older: "Memory") -> None:
        """Add the first seeded frame of another memory of the same object."""
        first = min(older._seeded)
        self._seeded[first] = older._seeded[first]

    def forget_recent(self) -> None:
        """Keep the seeded frames alone."""
        self._recent.clear()

    def state(self) -> dict:
        """For `torch.save`; see `VideoSam2.restore`."""
        return {kind: dict(frames) for kind, frames in self._session.output_dict_per_obj[0].items()}


class VideoSam2:
    """A SAM 2 for video."""

    def __init__(self, model, where: runtime.Runtime | None = None):
        """model: a Sam2VideoModel."""
        self.runtime = where or runtime.choose()
        self.model = model.eval().requires_grad_(False).to(self.runtime.device)
        config = model.config
        self.side = config.prompt_encoder_config.image_size  # pixels; frames are stretched to a square
        self.memories = config.num_maskmem - 1  # recent frames whose masks the model looks at again
        self.pointers = max(config.max_object_pointers_in_encoder - 1, self.memories)  # and whose pointers
        self.places: dict = {}  # position encodings, which are the same for every memory of one precision

    def see(self, t: int, image: np.ndarray) -> View:
        """Frame t, uint8 (H, W, 3) RGB."""
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceCache

        device = self.runtime.device
        pixels = images.model_input(image, (self.side, self.side)).to(device)
        return View(t, image.shape[:2], pixels, Sam2VideoInferenceCache(device, device))

    def start(self, view: View, seed: Seed) -> tuple[Memory, Seen]:
        """A memory that begins with a seed in a frame, and what SAM 2 sees there. The seed's box is required."""
        memory = self._empty()
        H, W = view.size
        scale = np.array([self.side / W, self.side / H])  # XY
        points = np.concatenate([seed.box.reshape(2, 2), seed.point[None]]) * scale  # a box is points of two kinds
        memory._session.add_point_inputs(
            0,
            view.t,
            {
                "point_coords": torch.as_tensor(points, dtype=torch.float32)[None, None],  # (1, 1, 3, 2)
                "point_labels": torch.tensor([[[2, 3, 1]]], dtype=torch.int32),
            },
        )
        memory._session.obj_with_new_inputs = [1]
        return memory, self.follow(memory, view)

    def follow(self, memory: Memory, view: View, reverse: bool = False) -> Seen:
        """Follow an object to a frame, which its memory then holds. reverse: the frames come in order of falling t."""
        session = memory._session
        session.cache = view.cache
        with torch.inference_mode(), self.runtime.autocast():
            out = self.model(session, frame_idx=view.t, frame=view.pixels, reverse=reverse)
            score = float(out.object_score_logits.float().sigmoid())
            logits = F.interpolate(out.pred_masks.float(), view.size, mode="bilinear", align_corners=False)[0, 0]
        self._prune(memory, view.t)
        return Seen(logits.cpu().numpy(), score)

    def recall(self, memory: Memory, frames: set[int] | None = None) -> Memory:
        """A new memory that knows of an object what another one has of its seeded frames, or of some of them, alone."""
        new = self._empty()
        new._seeded.update({t: memory._seeded[t] for t in (memory.seeded if frames is None else frames)})
        return new

    def restore(self, state: dict) -> Memory:
        """The memory whose `state` this was."""
        memory = self._empty()
        memory._session.output_dict_per_obj[0] = state
        self._share_places(memory)
        return memory

    def _empty(self) -> Memory:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        device = self.runtime.device
        session = Sam2VideoInferenceSession(
            inference_device=device, inference_state_device=device, video_storage_device=device, dtype=torch.float32
        )
        session.obj_id_to_idx(1)
        return Memory(session)

    def _prune(self, memory: Memory, t: int) -> None:
        """Drop what the model does not look at again after frame t."""
        for frame in list(memory._recent):
            if abs(t - frame) >= self.pointers:
                del memory._recent[frame]
            elif abs(t - frame) >= self.memories:
                memory._recent[frame].pop("maskmem_features", None)
                memory._recent[frame].pop("maskmem_pos_enc", None)
        for output in (*memory._recent.values(), *memory._seeded.values()):
            output.pop("high_res_masks", None)
            output.pop("pred_masks", None)
        self._share_places(memory)
        session = memory._session
        session.cache = session.processed_frames = None
        session.point_inputs_per_obj[0].clear()
        session.frames_tracked_per_obj[0].clear()

    def _share_places(self, memory: Memory) -> None:
        for output in (*memory._recent.values(), *memory._seeded.values()):
            if (place := output.get("maskmem_pos_enc")) is not None:
                output["maskmem_pos_enc"] = self.places.setdefault((place.dtype, place.shape), place)
