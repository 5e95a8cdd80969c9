"""From a clip and text prompts to masks in every frame, under ids that stay: CLIPSeg, seeds, SAM 2's memory.

    tracker = VideoTracker.from_pretrained()
    result = tracker.track("clip.mp4", ["a person", "a dog"], out="tracked")
    result.found, result.tracks[0].frames, result.mask(0, "a dog")     # and tracked/overlay.mp4

Every so many frames CLIPSeg is asked where the prompt's object is. What it finds and no track covers becomes a new
track: a seed gives SAM 2's mask there, and its memory (`memory.py`) carries that on, and back to where the object came
from. The same answers confirm the tracks, or end them (`rules.py`). Frames are read as a stream, and a track keeps no
more than its model looks at again, so memory does not grow with the clip.
"""

import atexit
import hashlib
import json
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from airl import runtime
from airl.files import atomic_write
from airl.seg import weights
from airl.seg.clipseg import ClipSeg
from airl.seg.draw import overlay
from airl.seg.pipeline import TINY_FLOOR, TINY_THRESHOLD
from airl.seg.sam3 import is_sam3
from airl.seg.seeds import box_of
from airl.seg.video import store
from airl.seg.video.frames import Frames, Video, open_clip, write_mp4
from airl.seg.video.memory import VideoSam2
from airl.seg.video.result import Track, Tracking
from airl.seg.video.rules import Rules, TrackingRecipe


class VideoTracker:
    """CLIPSeg and a SAM 2 for video."""

    def __init__(
        self,
        clipseg: ClipSeg,
        sam2,
        name: str = "",
        where: runtime.Runtime | None = None,
        recipe: TrackingRecipe | None = None,
    ):
        """sam2: a Sam2VideoModel. name: what these models are called. Raises ValueError for fp16 on a CPU."""
        self.runtime = where or runtime.choose()
        if self.runtime.device.type == "cpu" and self.runtime.precision == "fp16":
            raise ValueError("precision is 'fp16', which a CPU does not track with; use 'fp32', 'bf16' or 'auto'")
        self.clipseg = clipseg
        self.sam2 = VideoSam2(sam2, self.runtime)
        self.name = name
        self.recipe = recipe or TrackingRecipe()

    @cached_property
    def _models(self) -> dict:
        """What tells these models from others: an interrupted run goes on only with the same."""
        digests = {"clipseg": fingerprint(self.clipseg.model), "sam2": fingerprint(self.sam2.model)}
        return {"name": self.name, "precision": self.runtime.precision, **digests}

    @classmethod
    def from_pretrained(
        cls,
        sam2: str | Path = "sam2.1-hiera-small",
        clipseg: str | Path = weights.CLIPSEG,
        device: str = "auto",
        precision: str = "auto",
        recipe: TrackingRecipe | None = None,
    ) -> "VideoTracker":
        """Load both models, downloading what is not on this machine yet, and print what was chosen.

        sam2: one of `weights.SAM2`, or a folder that transformers saved; or "sam3", which needs no CLIPSeg and no
        recipe: then this is a `sam3.Sam3Tracker`. clipseg: a folder, or a name on the Hub.
        device, precision: see `runtime.choose`; fp16 is for GPUs alone. Raises ValueError for an unknown name,
        ConnectionError where weights cannot be downloaded.
        """
        from transformers import Sam2VideoModel

        if is_sam3(sam2):
            from airl.seg.video.sam3 import Sam3Tracker

            return Sam3Tracker.from_pretrained(sam2, device, precision)
        folder = weights.SAM2.get(str(sam2), str(Path(sam2).expanduser()))
        if str(sam2) not in weights.SAM2 and not Path(folder).is_dir():
            raise ValueError(f"unknown SAM 2 {sam2!r}; choose one of {', '.join(weights.SAM2)}, sam3, or give a folder")
        where = runtime.choose(device, precision)
        print(f"text to masks in a clip: CLIPSeg {weights.label(clipseg)}, SAM 2 {weights.label(sam2)}, on {where}")
        model = weights.from_hub(lambda name: Sam2VideoModel.from_pretrained(name, dtype=torch.float32), folder)
        return cls(ClipSeg.from_pretrained(clipseg, where), model, f"{sam2}, {clipseg}", where, recipe)

    @classmethod
    def tiny(cls, device: str = "auto", precision: str = "fp32") -> "VideoTracker":
        """The same with the small models that `training.train_tiny` and `training.train_tiny_video` make for the moving
        scenes of `airl.scenes.clips`. Raises FileNotFoundError, which says how to make them, if they are not here."""
        folder = Path(__file__).parents[1] / "tiny"
        for path, script, out in (("clipseg", "train_tiny", folder), ("video", "train_tiny_video", folder / "video")):
            if not (folder / path / "model.safetensors").exists():
                raise FileNotFoundError(
                    f"{folder / path} holds no small model; make it with: python -m training.{script} --out {out}"
                )
        recipe = TrackingRecipe(threshold=TINY_THRESHOLD, floor=TINY_FLOOR)
        return cls.from_pretrained(folder / "video", folder / "clipseg", device, precision, recipe)

    def track(
        self,
        video: Video,
        prompts: str | Sequence[str],
        out: str | Path | None = None,
        *,
        every: int | None = None,
        fps: float | None = None,
        start: int = 0,
        end: int | None = None,
        stride: int = 1,
        max_side: int | None = None,
        overwrite: bool = False,
        progress: bool = True,
    ) -> Tracking:
        """Track what each prompt asks for through a clip: a file, a folder, an array, a list, ... (`frames.open_clip`).

        Several instances of a prompt get several ids. An object that returns has its old id if SAM 2's memory still
        knows it: that of the track while it is followed, that of the track's first frame after it was lost; or if its
        colours are those of a track that is out of sight or lost. Else it has a new one.

        out: a folder for masks, overlay (with the film's sound) and JSON, see `Tracking`; if None a temporary one,
        removed when Python ends. When it holds this very run, finished, that is read; interrupted, it goes on where it
        was last saved, at most `every` frames before. overwrite: remove what a run of another job wrote there; nothing
        else ever is.
        every: frames from one asking of the heat-map to the next; the recipe's if None. fps: of what does not say it.
        start, end, stride: which frames, as in a slice: frame k of the result is frame start + k * stride of the clip.
        max_side: make the frames smaller, so that the longer side has at most so many pixels; the masks are as large.

        A prompt whose object is never there gives no track: the result is empty, not an error. Raises ValueError for a
        prompt, an option or a clip that cannot be used and for damaged files in `out`, FileExistsError, and changes
        nothing, for an `out` that holds something else, RuntimeError while another run tracks into it.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts or any(not prompt.strip() for prompt in prompts) or len(set(prompts)) < len(prompts):
            raise ValueError(f"expected one or more prompts, none empty and none twice; got {prompts}")
        recipe = self.recipe if every is None else replace(self.recipe, every=every)
        clip = open_clip(video, fps, start=start, end=end, stride=stride, max_side=max_side)
        folder = _temporary_folder() if out is None else Path(out).expanduser()
        job = {"clip": clip.identity, "prompts": prompts, "recipe": asdict(recipe), "models": self._models}
        job = json.loads(json.dumps(job))  # as it will be read
        with store.claim(folder, job, overwrite):
            if not (folder / "tracks.json").exists():
                length, tracks = self._follow(clip, prompts, folder, recipe, progress)
                _finish(clip, prompts, folder, length, tracks, progress)
            return Tracking.read(folder)

    def _follow(
        self, clip: Frames, prompts: list[str], folder: Path, recipe: TrackingRecipe, progress: bool
    ) -> tuple[int, dict]:
        """Write the masks of all frames that are not written yet; how many frames there are, and `Rules.tracks`."""
        from tqdm.auto import tqdm

        rules = Rules(self.clipseg, self.sam2, recipe, clip, prompts, store.masks_of(folder, prompts))
        done = 0
        if saved := store.load_state(folder, self.runtime.device):
            rules.restore(saved["rules"])
            done = saved["next"]
        bar = tqdm(clip.read(done), "tracking", clip.length, initial=done, disable=not progress, unit="frame")
        for t, image in enumerate(bar, done):
            rules.step(t, image)
            done = t + 1
            if t % recipe.every == 0:
                store.save_state(folder, {"next": done, "rules": rules.state()})
        store.save_state(folder, {"next": done, "rules": rules.state()})
        return done, rules.tracks


def fingerprint(model: torch.nn.Module) -> str:
    """Of a model's weights: names, shapes and the first values of each, which any training changes."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.flatten()[:16].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="airl-track-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _finish(clip: Frames, prompts: list[str], folder: Path, length: int, told: dict, progress: bool) -> None:
    """Gather from the masks what tracks.json says, and draw the overlay; tracks.json, the last, marks the end."""
    from tqdm.auto import tqdm

    masks = store.masks_of(folder, prompts)
    names = {number: about["prompt"] for number, about in told.items()}
    rows = {number: array("d") for number in names}  # frame, score, box, area: one after another

    def drawn() -> Iterator[np.ndarray]:
        bar = tqdm(clip.read(), total=length, disable=not progress, unit="frame", desc="drawing")
        for t, image in enumerate(bar):
            for prompt in prompts:
                ids, scores = masks[prompt].read(t)
                for number, score in scores.items():
                    mask = ids == number
                    rows[number].extend([t, score, *box_of(mask), np.count_nonzero(mask)])
                numbers = np.unique(ids[ids > 0]).tolist()
                image = overlay(image, ((number, ids == number, f"{number} {names[number]}") for number in numbers))
            yield image

    write_mp4(drawn(), folder / "overlay.mp4", clip.fps, clip.sound, length / clip.fps)
    tracks = []
    for number, about in told.items():
        table = np.array(rows[number]).reshape(-1, 7)
        if len(table):  # else all of it was taken back
            frames, boxes, areas = table[:, 0].astype(int), table[:, 2:6].astype(int), table[:, 6].astype(int)
            tracks.append(
                Track(
                    id=number,
                    prompt=about["prompt"],
                    frames=frames.tolist(),
                    scores=table[:, 1].round(4).tolist(),
                    boxes=boxes.tolist(),
                    areas=areas.tolist(),
                    ended=about["ended"],
                )
            )
    result = Tracking(folder, prompts, clip.size, clip.fps, length, tracks, clip.damage)
    with atomic_write(folder / "tracks.json") as temporary:
        temporary.write_text(json.dumps(result.to_json()))
    store.drop_state(folder)


def track(video: Video, prompts: str | Sequence[str], tracker: VideoTracker | None = None, **options) -> Tracking:
    """Track what each prompt asks for through a clip: `VideoTracker.track`, with the default models if None."""
    return (tracker or VideoTracker.from_pretrained()).track(video, prompts, **options)
