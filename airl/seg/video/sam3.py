"""From a clip and text prompts straight to tracks by SAM 3, behind the same call and with the same results.

    tracker = VideoTracker.from_pretrained("sam3")
    tracking = tracker.track("clip.mp4", ["a person", "a dog"], out="tracked")

SAM 3 finds every instance in every frame and follows it by a memory like SAM 2's: there is no CLIPSeg, and there are no
seeds. Its own rules decide what is new, the same, or a false alarm. Frames are given to it one by one, and what it will
not look at again is dropped.

Carion et al. 2025, SAM 3: Segment Anything with Concepts, https://arxiv.org/abs/2511.16719; transformers'
`Sam3VideoModel`.
"""

import warnings
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from airl import runtime
from airl.seg import weights
from airl.seg.sam3 import load, tokens_of
from airl.seg.video import store
from airl.seg.video.frames import Frames
from airl.seg.video.rules import MAX_ID, TrackingRecipe
from airl.seg.video.tracker import VideoTracker, fingerprint


class Sam3Tracker(VideoTracker):
    """SAM 3 for video with its processor. It is asked in every frame, whatever `every` says."""

    def __init__(self, model, processor, name: str = "", where: runtime.Runtime | None = None):
        """model: a Sam3VideoModel. processor: its Sam3VideoProcessor. name: what they are called."""
        self.runtime = where or runtime.choose()
        self.model = model.eval().requires_grad_(False).to(self.runtime.device)
        self.processor = processor
        self.name = name
        self.recipe = TrackingRecipe()  # does nothing here

    @cached_property
    def _models(self) -> dict:
        return {"name": self.name, "precision": self.runtime.precision, "sam3": fingerprint(self.model)}

    @classmethod
    def from_pretrained(cls, sam3: str | Path = "sam3", device: str = "auto", precision: str = "auto") -> "Sam3Tracker":
        """Load "sam3", downloading it if it is not on this machine yet, or a folder that transformers saved.

        Raises ConnectionError where the weights cannot be had.
        """
        from transformers import Sam3VideoModel, Sam3VideoProcessor

        where = runtime.choose(device, precision)
        print(f"text to masks in a clip: SAM 3 {weights.label(sam3)}, on {where}")
        return cls(*load(Sam3VideoModel, Sam3VideoProcessor, sam3), str(sam3), where)

    @torch.inference_mode()
    def _follow(
        self, clip: Frames, prompts: list[str], folder: Path, recipe: TrackingRecipe, progress: bool
    ) -> tuple[int, dict]:
        """Write the masks of all frames; an interrupted run starts anew."""
        from tqdm.auto import tqdm

        masks, tracks = store.masks_of(folder, prompts), {}
        numbers: dict[int, int] = {}  # SAM 3's ids to ours
        session = self._session(prompts, clip.length)
        length = 0
        for t, image in enumerate(tqdm(clip.read(), "tracking", clip.length, disable=not progress, unit="frame")):
            length = t + 1
            pixels = self.processor(images=np.array(image), input_data_format="channels_last", return_tensors="pt")
            session.add_new_frame(pixels["pixel_values"], t)
            with self.runtime.autocast():
                out = self.model(session, frame_idx=t)
            for one in out.removed_obj_ids - session.hotstart_removed_obj_ids:  # it was a false alarm
                if one in numbers:
                    about = tracks[numbers[one]]
                    for earlier in range(about["first"], t):
                        masks[about["prompt"]].change(earlier, numbers[one])
            session.hotstart_removed_obj_ids |= out.removed_obj_ids
            found = self.processor.postprocess_outputs(session, out, original_sizes=[list(image.shape[:2])])
            there = found["object_ids"].tolist()
            scores_of = dict(zip(there, found["scores"].tolist(), strict=True))
            mask_of = dict(zip(there, found["masks"].cpu().numpy(), strict=True))
            for prompt in prompts:
                ids, scores = np.zeros(image.shape[:2], np.uint8), {}
                for one in found["prompt_to_obj_ids"].get(prompt, ()):
                    number = numbers.setdefault(one, len(numbers) + 1)
                    if number > MAX_ID:
                        warnings.warn(
                            f"there are {MAX_ID} tracks, as many as masks can tell apart: no more", stacklevel=2
                        )
                        continue
                    tracks.setdefault(number, {"prompt": prompt, "first": t, "ended": None})
                    scores[number] = scores_of[one]
                    ids[mask_of[one]] = number
                masks[prompt].write(t, ids, scores)
            self._prune(session, t)
        return length, tracks

    def _session(self, prompts: list[str], length: int | None):
        session = self.processor.init_video_session(inference_device=self.runtime.device, dtype=torch.float32)
        for prompt in prompts:
            number = session.add_prompt(prompt)
            tokens = tokens_of(self.processor, prompt).to(self.runtime.device)
            session.prompt_input_ids[number] = tokens["input_ids"]
            session.prompt_attention_masks[number] = tokens["attention_mask"]
        # Pointers' positions are shares of the clip's length, if that is less than the pointers there can be.
        session.processed_frames = dict.fromkeys(range(length or self.memory.max_object_pointers_in_encoder))
        return session

    @property
    def memory(self):
        """The configuration of SAM 3's memory."""
        return self.model.config.tracker_config

    def _prune(self, session, t: int) -> None:
        """Drop what the model does not look at again after frame t."""
        session.processed_frames[t] = None
        session.obj_id_to_tracker_score_frame_wise.pop(t - 1, None)
        session.suppressed_obj_ids.pop(t - 1, None)
        for kept in (*session.mask_inputs_per_obj.values(), *session.frames_tracked_per_obj.values()):
            kept.clear()
        for outputs in session.output_dict_per_obj.values():
            sure, recent = outputs["cond_frame_outputs"], outputs["non_cond_frame_outputs"]
            for frame in [frame for frame in recent if t - frame >= self.memory.max_object_pointers_in_encoder]:
                del recent[frame]
            old = sorted(sure)[: -self.memory.max_cond_frame_num]
            for frame, output in (*recent.items(), *((frame, sure[frame]) for frame in old)):
                if t - frame >= self.memory.num_maskmem - 1:
                    for part in ("maskmem_features", "maskmem_pos_enc"):
                        output.pop(part, None)
            for output in (*sure.values(), *recent.values()):
                for part in ("pred_masks", "high_res_masks"):
                    output.pop(part, None)
