"""From a clip and text prompts to masks in every frame, under ids that stay: CLIPSeg, seeds, SAM 2's memory.

    tracker = VideoTracker.from_pretrained()
    result = tracker.track("clip.mp4", ["a person", "a dog"], out="tracked")
    result.found, result.tracks[0].frames, result.mask(0, "a dog")     # and tracked/overlay.mp4

Every so many frames CLIPSeg is asked where the prompt's object is. What it finds and no track covers becomes a new
track: a seed gives SAM 2's mask there, and its memory carries that on, and back to where the object came from. The same
answers confirm the tracks, or end them. Frames are read as a stream, and a track keeps no more than its model looks at
again, so memory does not grow with the clip.

SAM 2: Ravi et al. 2024, Segment Anything in Images and Videos, https://arxiv.org/abs/2408.00714; transformers'
`Sam2VideoModel`.
"""

import json
import shutil
import tempfile
import warnings
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, PngImagePlugin
from torch import Tensor

from airl import images, runtime
from airl.files import atomic_write, slug
from airl.seg import weights
from airl.seg.clipseg import ClipSeg
from airl.seg.draw import colour_of, overlay
from airl.seg.metrics import iou
from airl.seg.seeds import Seed, box_of, make_seeds
from airl.seg.video.frames import Frames, Video, open_clip, write_mp4

MAX_ID = 255  # ids are the bytes of a PNG


# ------------------------------------------------------------------------------------------------- the result


@dataclass
class Track:
    """One object through the clip."""

    id: int  # from 1; what the masks hold
    prompt: str
    frames: list[int] = field(default_factory=list)  # where it is seen, increasing
    scores: list[float] = field(default_factory=list)  # of each: SAM 2's probability that it is there
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)  # of each: XYXY, the outermost pixels
    areas: list[int] = field(default_factory=list)  # of each: pixels
    ended: str | None = None  # why it was given up before the clip's end


@dataclass(frozen=True)
class Tracking:
    """What was found in a clip. Masks are read from `folder` when asked for; H, W are the clip's.

    folder: holds masks/0_a_person/000000.png ... for each prompt (the id at each pixel; 0 is none), overlay.mp4 and
    tracks.json. Without `out` it is a temporary one and goes with this object.
    """

    folder: Path
    prompts: list[str]
    size: tuple[int, int]  # H, W
    fps: float
    length: int  # frames
    tracks: list[Track]
    _temporary: tempfile.TemporaryDirectory | None = field(default=None, repr=False)

    @property
    def found(self) -> bool:
        """Presence: whether what any of the prompts asks for is there at all."""
        return bool(self.tracks)

    @property
    def video(self) -> Path:
        """The clip with the masks tinted and numbered: H.264, as browsers play it."""
        return self.folder / "overlay.mp4"

    def __len__(self) -> int:
        return self.length

    def ids(self, t: int, prompt: str | None = None) -> np.ndarray:
        """The id at each pixel of frame t, uint8 (H, W), of the tracks of a prompt; 0 is none.

        prompt: may be left out where there is one alone; objects of different prompts may overlap. Raises IndexError
        for a frame not in the clip, ValueError for another prompt.
        """
        if not 0 <= t < self.length:
            raise IndexError(f"the clip has the frames 0 to {self.length - 1}; there is no frame {t}")
        prompt = self.prompts[0] if prompt is None and len(self.prompts) == 1 else prompt
        if prompt not in self.prompts:
            raise ValueError(f"{prompt!r} is not one of the prompts {self.prompts}")
        return _masks(self.folder, self.prompts)[prompt].read(t)[0]

    def mask(self, t: int, which: int | str | None = None) -> np.ndarray:
        """The mask at frame t, bool (H, W), of one id, of all ids of a prompt, or of all."""
        wanted = [track for track in self.tracks if which in (None, track.id, track.prompt)]
        if not wanted and which is not None and which not in self.prompts:
            raise ValueError(f"{which!r} is neither an id of a track nor one of the prompts {self.prompts}")
        mask = np.zeros(self.size, bool)
        for track in wanted:
            mask |= self.ids(t, track.prompt) == track.id
        return mask

    def to_json(self) -> dict:
        return {
            "prompts": self.prompts,
            "size": list(self.size),  # H, W
            "fps": self.fps,
            "frames": self.length,
            "tracks": [asdict(track) for track in self.tracks],
        }


class _Masks:
    """000000.png ...: the ids of one prompt's tracks, with the scores of those that are there as text beside them."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, t: int) -> Path:
        return self.folder / f"{t:06d}.png"

    def write(self, t: int, ids: np.ndarray, scores: dict[int, float]) -> None:
        image = Image.fromarray(ids)
        image.putpalette([0, 0, 0, *colour_of(np.arange(1, 256)).ravel().tolist()])
        text = PngImagePlugin.PngInfo()
        text.add_text("scores", json.dumps(scores))
        with atomic_write(self.path(t)) as temporary:
            image.save(temporary, pnginfo=text)

    def read(self, t: int) -> tuple[np.ndarray, dict[int, float]]:
        with Image.open(self.path(t)) as image:
            return np.array(image), {int(number): score for number, score in json.loads(image.text["scores"]).items()}

    def change(self, t: int, number: int, mask: np.ndarray | bool = False, score: float = 0.0) -> None:
        """Give `number` the part of a mask that no other has; an empty mask, or none, takes it out of the frame."""
        ids, scores = self.read(t)
        ids[ids == number] = 0
        scores.pop(number, None)
        mask = mask & (ids == 0)
        if mask.any():
            ids[mask] = number
            scores[number] = score
        self.write(t, ids, scores)


def _masks(folder: Path, prompts: Sequence[str]) -> dict[str, _Masks]:
    """The masks in the folder of a run, for each prompt."""
    return {prompt: _Masks(folder / "masks" / f"{i}_{slug(prompt, 40)}") for i, prompt in enumerate(prompts)}


# ------------------------------------------------------------------------------------------------- tracking


@dataclass(eq=False)
class _Object:
    """A track while it is being followed, or remembered."""

    id: int
    prompt: str
    session: object  # transformers' Sam2VideoInferenceSession with this object alone
    doubt: int | None  # the frame since which the heat-map has not confirmed it
    unseen: int = 0  # askings, in a row, that found it out of sight


class VideoTracker:
    """CLIPSeg and a SAM 2 for video."""

    threshold = 0.5  # heat-map to coarse mask, and the least peak at which something counts as present
    min_area = 0.002  # of a component that starts a track, as a share of the picture
    covered = 0.3  # a component of which tracks cover more than this share is theirs
    min_agreement = 0.2  # a track starts where SAM 2's mask agrees with the component: their IoU
    better = 0.05  # a track is corrected where a new seed's mask agrees with the heat-map by so much more: IoU
    confirm = 0.25  # a track is confirmed where the heat-map's mean over its mask reaches this
    patience = 20  # askings for which a track out of sight is followed
    lost = 16  # tracks that ended last and may be recognized

    def __init__(self, clipseg: ClipSeg, sam2, name: str = "", where: runtime.Runtime | None = None):
        """sam2: a Sam2VideoModel. name: what tells these models from others; an interrupted run goes on only with the
        same."""
        self.runtime = where or runtime.choose()
        self.clipseg = clipseg
        self.model = sam2.eval().requires_grad_(False).to(self.runtime.device)
        self.name = name
        self.side = sam2.config.prompt_encoder_config.image_size  # pixels; frames are stretched to a square
        config = sam2.config
        self.memories = config.num_maskmem - 1  # recent frames whose masks the model looks at again
        self.pointers = max(config.max_object_pointers_in_encoder - 1, self.memories)  # and whose pointers

    @classmethod
    def from_pretrained(
        cls,
        sam2: str | Path = "sam2.1-hiera-small",
        clipseg: str | Path = weights.CLIPSEG,
        device: str = "auto",
        precision: str = "auto",
    ) -> "VideoTracker":
        """Load both models, downloading what is not on this machine yet, and print what was chosen.

        sam2: one of `weights.SAM2`, or a folder that transformers saved. clipseg: a folder, or a name on the Hub.
        device, precision: see `runtime.choose`. Raises ValueError for an unknown name, ConnectionError where weights
        cannot be downloaded.
        """
        from transformers import Sam2VideoModel

        folder = weights.SAM2.get(str(sam2), str(Path(sam2).expanduser()))
        if str(sam2) not in weights.SAM2 and not Path(folder).is_dir():
            raise ValueError(f"unknown SAM 2 {sam2!r}; choose one of {', '.join(weights.SAM2)}, or give a folder")
        where = runtime.choose(device, precision)
        print(f"text to masks in a clip: CLIPSeg {clipseg}, SAM 2 {sam2}, on {where}")
        model = weights.from_hub(lambda name: Sam2VideoModel.from_pretrained(name, dtype=torch.float32), folder)
        return cls(ClipSeg.from_pretrained(clipseg, where), model, f"{sam2}, {clipseg}, {where.precision}", where)

    @classmethod
    def tiny(cls, device: str = "auto", precision: str = "fp32") -> "VideoTracker":
        """The same with the small models that `training.train_tiny` and `training.train_tiny_video` make for the moving
        scenes of `airl.scenes.clips`. Raises FileNotFoundError, which says how to make them, if they are not here."""
        folder = Path(__file__).parents[1] / "tiny"
        for path, script, out in (("clipseg", "train_tiny", folder), ("video", "train_tiny_video", folder / "video")):
            if not (folder / path / "model.safetensors").exists():
                raise FileNotFoundError(
                    f"{folder / path} holds no small model; make it with: python -m airl.seg.{script} --out {out}"
                )
        return cls.from_pretrained(folder / "video", folder / "clipseg", device, precision)

    # -------------------------------------------------------------------------------------------- one frame

    def _pixels(self, image: np.ndarray) -> Tensor:
        return images.model_input(image, (self.side, self.side)).to(self.runtime.device)

    def _session(self, cache):
        """An empty memory for one object; `cache` holds what the model saw of the last frame, for all objects."""
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        device = self.runtime.device
        session = Sam2VideoInferenceSession(
            inference_device=device, inference_state_device=device, video_storage_device=device, dtype=torch.float32
        )
        session.cache = cache
        session.obj_id_to_idx(1)
        return session

    def _cache(self):
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceCache

        return Sam2VideoInferenceCache(self.runtime.device, self.runtime.device)

    def _step(self, session, t: int, pixels: Tensor, size: tuple[int, int], reverse: bool = False):
        """Follow one object to frame t: its logits, float32 (H, W), and the probability that it is there."""
        with torch.inference_mode(), self.runtime.autocast():
            out = self.model(session, frame_idx=t, frame=pixels, reverse=reverse)
            score = float(out.object_score_logits.float().sigmoid())
            logits = F.interpolate(out.pred_masks.float(), size, mode="bilinear", align_corners=False)[0, 0]
        self._forget(session, t)
        return logits.cpu().numpy(), score

    def _forget(self, session, t: int) -> None:
        """Drop from a memory what the model does not look at again after frame t."""
        outputs = session.output_dict_per_obj[0]
        recent = outputs["non_cond_frame_outputs"]
        for frame in list(recent):
            if abs(t - frame) >= self.pointers:
                del recent[frame]
            elif abs(t - frame) >= self.memories:
                recent[frame].pop("maskmem_features", None)
                recent[frame].pop("maskmem_pos_enc", None)
        for output in (*recent.values(), *outputs["cond_frame_outputs"].values()):
            output.pop("high_res_masks", None)
            output.pop("pred_masks", None)
        session.processed_frames = None
        session.point_inputs_per_obj[0].clear()
        session.frames_tracked_per_obj[0].clear()

    def _seeds(self, heatmap: np.ndarray) -> list[Seed]:
        """One for each component of a heat-map, with its box."""
        options = dict(threshold=self.threshold, floor=self.threshold, min_area=self.min_area, box=True)
        return make_seeds(heatmap, "components", **options).seeds

    def _start(self, cache, t: int, pixels: Tensor, seed: Seed, size: tuple[int, int]):
        """A memory that begins with a seed's mask in frame t; with it what `_step` gives."""
        session = self._session(cache)
        scale = np.array([self.side / size[1], self.side / size[0]])  # XY
        points = np.concatenate([seed.box.reshape(2, 2), seed.point[None]]) * scale  # a box is points of two kinds
        session.add_point_inputs(
            0,
            t,
            {
                "point_coords": torch.as_tensor(points, dtype=torch.float32)[None, None],  # (1, 1, 3, 2)
                "point_labels": torch.tensor([[[2, 3, 1]]], dtype=torch.int32),
            },
        )
        session.obj_with_new_inputs = [1]
        return session, *self._step(session, t, pixels, size)

    # -------------------------------------------------------------------------------------------- a clip

    def track(
        self,
        video: Video,
        prompts: str | Sequence[str],
        out: str | Path | None = None,
        *,
        every: int = 8,
        fps: float | None = None,
        overwrite: bool = False,
        progress: bool = True,
    ) -> Tracking:
        """Track what each prompt asks for through a clip (see `frames.open_clip`).

        Several instances of a prompt get several ids. An object that returns has its old id if SAM 2's memory still
        knows it: that of the track while it is followed, that of the track's first frame after it was lost. Else it
        has a new one.

        out: a folder for masks, overlay and JSON (see `Tracking`); a temporary one if None. When it holds this very
        run, finished, that is read; interrupted, it goes on where it was last saved, at most `every` frames before.
        every: frames from one asking of the heat-map to the next. fps: of an array or a folder.

        A prompt whose object is never there gives no track: the result is empty, not an error. Raises ValueError for a
        prompt or a clip that cannot be used (see `frames.open_clip`), FileExistsError, and changes nothing, for an
        `out` that holds another run, unless `overwrite`.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts or any(not prompt.strip() for prompt in prompts) or len(set(prompts)) < len(prompts):
            raise ValueError(f"expected one or more prompts, none empty and none twice; got {prompts}")
        if every < 1:
            raise ValueError(f"every is {every}; the heat-map is asked again every 1 frame or more")
        clip = open_clip(video, fps)
        temporary = tempfile.TemporaryDirectory() if out is None else None
        folder = Path(temporary.name if temporary else out)
        job = {"clip": clip.identity, "prompts": prompts, "every": every, "models": self.name}
        job = json.loads(json.dumps(job))  # as it will be read
        _claim(folder, job, overwrite)
        finished = folder / "tracks.json"
        if not finished.exists():
            state = self._follow(clip, prompts, folder, every, progress)
            _finish(clip, prompts, folder, state, progress)
        said = json.loads(finished.read_text())
        tracks = [Track(**{**t, "boxes": [tuple(box) for box in t["boxes"]]}) for t in said["tracks"]]
        return Tracking(folder, prompts, tuple(said["size"]), said["fps"], said["frames"], tracks, temporary)

    def _follow(self, clip: Frames, prompts: list[str], folder: Path, every: int, progress: bool) -> dict:
        """Write the masks of all frames that are not written yet; what is told of the tracks: {"tracks": ...}."""
        from tqdm.auto import tqdm

        masks, cache = _masks(folder, prompts), self._cache()
        state, objects = self._resume(folder, cache)
        recent: deque[np.ndarray] = deque(maxlen=every)  # the frames before this one
        rest = clip.read(state["next"])
        bar = tqdm(rest, "tracking", clip.length, initial=state["next"], disable=not progress, unit="frame")
        for t, image in enumerate(bar, state["next"]):
            pixels = self._pixels(image)
            seen = {one.id: self._step(one.session, t, pixels, clip.size) for one in objects}
            if t % every == 0:
                self._ask(clip, t, image, pixels, prompts, objects, seen, state, masks, cache, recent)
            for prompt in prompts:
                own = [one for one in objects if one.prompt == prompt and not _doubled(one, objects, seen)]
                ids = compose({one.id: seen[one.id][0] for one in own}, clip.size)
                there = np.unique(ids[ids > 0]).tolist()
                masks[prompt].write(t, ids, {number: seen[number][1] for number in there})
                for number in there:
                    state["tracks"][number]["last"] = t
            recent.append(image)
            state["next"] = t + 1
            if t % every == 0:
                self._save(folder, state, objects)
        self._save(folder, state, objects)
        return state

    def _ask(self, clip, t, image, pixels, prompts, objects, seen, state, masks, cache, recent) -> None:
        """Let the heat-maps of frame t confirm or end the tracks and start new ones; `objects` and `seen` change."""
        self.clipseg.set_image(image)
        heatmaps = dict(zip(prompts, self.clipseg.predict(prompts), strict=True))
        seeds = {prompt: self._seeds(heatmap) for prompt, heatmap in heatmaps.items()}
        for prompt in prompts:
            own = [one for one in objects if one.prompt == prompt]
            for seed in seeds[prompt]:
                self._correct(cache, t, pixels, seed, own, seen)

        doubtful = []
        for one in objects:
            mask = seen[one.id][0] > 0
            one.unseen = 0 if mask.any() else one.unseen + 1
            if mask.any() and heatmaps[one.prompt][mask].mean() >= self.confirm and not _doubled(one, objects, seen):
                one.doubt = None
            elif mask.any():
                doubtful.append(one)

        for prompt in prompts:
            taken = np.zeros(clip.size, bool)
            for one in objects:
                if one.prompt == prompt:
                    taken |= seen[one.id][0] > 0
            for seed in seeds[prompt]:
                if (seed.region & taken).sum() > self.covered * seed.region.sum() or seed.region.mean() < self.min_area:
                    continue
                session, logits, score = self._start(cache, t, pixels, seed, clip.size)
                mask = logits > 0
                if iou(mask, seed.region) < self.min_agreement or (mask & taken).sum() > 0.5 * mask.sum():
                    continue  # SAM 2 does not see there what CLIPSeg sees, or sees a track's object
                number = len(state["tracks"]) + 1
                away = [one for one in objects if one.prompt == prompt and (one in doubtful or one.unseen)]
                if old := self._recognize(
                    cache, t, pixels, mask, away, [o for o in state["lost"] if o.prompt == prompt]
                ):
                    self._take_back(old, t, masks[prompt], state)
                    state["lost"] = [o for o in state["lost"] if o is not old]
                    objects[:] = [o for o in objects if o is not old]
                    doubtful = [o for o in doubtful if o is not old]
                    _keep_first(old.session, session)
                    number = old.id
                elif number > MAX_ID:
                    warnings.warn(f"there are {MAX_ID} tracks, as many as masks can tell apart: no more", stacklevel=2)
                    continue
                about = state["tracks"].setdefault(number, {"prompt": prompt, "last": -1})
                about["ended"] = None
                # A new one is in doubt: should the next asking say no, it was a false alarm, and all is taken back.
                objects.append(_Object(number, prompt, session, doubt=None if old else t))
                seen[number] = logits, score
                taken |= mask
                self._go_back(clip, t, objects[-1], about["last"], masks[prompt], recent, cache)

        for one in list(objects):
            if one in doubtful and one.doubt is None:
                one.doubt = t
            elif one in doubtful or one.unseen > self.patience:
                self._take_back(one, t, masks[one.prompt], state)
                why = "no longer on what was asked for" if one in doubtful else "out of sight for too long"
                state["tracks"][one.id]["ended"] = f"at frame {t}: {why}"
                objects.remove(one)
                del seen[one.id]
                outputs = one.session.output_dict_per_obj[0]
                outputs["non_cond_frame_outputs"].clear()
                state["lost"] = [*state["lost"], one][-self.lost :]

    def _correct(self, cache, t, pixels, seed: Seed, own: list[_Object], seen: dict) -> None:
        """Where one track alone is on a component, and a new seed there gives SAM 2 a mask that agrees with it better
        than what the memory gave, go on from the seed, and from the track's first frame."""
        size = seed.region.shape
        on = [one for one in own if (seed.region & (seen[one.id][0] > 0)).sum() > self.covered * seed.region.sum()]
        if len(on) != 1:
            return
        session, logits, score = self._start(cache, t, pixels, seed, size)
        if iou(logits > 0, seed.region) > iou(seen[on[0].id][0] > 0, seed.region) + self.better:
            _keep_first(on[0].session, session)
            on[0].session = session
            seen[on[0].id] = logits, score

    def _recognize(self, cache, t, pixels, mask, *candidates: list[_Object]) -> _Object | None:
        """Which of the tracks out of sight, in doubt or ended has its object at a mask that has just been found: that
        whose memory of its first frame alone, without what came later, gives this mask most nearly; None if none."""
        best, found = 0.5, None
        for one in (one for some in candidates for one in some if t not in _conditioning(one.session)):
            session = self._session(cache)
            _conditioning(session).update(_conditioning(one.session))
            logits, _ = self._step(session, t, pixels, mask.shape)
            if (agreement := iou(logits > 0, mask)) > best:
                best, found = agreement, one
        return found

    def _take_back(self, one: _Object, t: int, masks: _Masks, state: dict) -> None:
        """Take a track out of the frames before t in which it was in doubt."""
        if one.doubt is not None:
            for earlier in range(one.doubt, t):
                masks.change(earlier, one.id)
            state["tracks"][one.id]["last"] = min(state["tracks"][one.id]["last"], one.doubt - 1)

    def _go_back(self, clip: Frames, t: int, one: _Object, last: int, masks: _Masks, recent: deque, cache) -> None:
        """Carry a track that starts in frame t back to where its object came into sight, but not beyond `last`."""
        every = recent.maxlen
        session = self._session(cache)
        _conditioning(session)[t] = _conditioning(one.session)[t]
        missing = 0
        for earlier, image in _backwards(clip, t, recent):
            if earlier <= last:
                break
            logits, score = self._step(session, earlier, self._pixels(image), clip.size, reverse=True)
            mask = logits > 0
            others = masks.read(earlier)[0]
            if (mask & ((others == 0) | (others == one.id))).sum() * 2 <= mask.sum():  # out of sight, or another's
                missing += 1
                mask[:] = False
            elif earlier % every == 0:
                self.clipseg.set_image(image)
                if self.clipseg.predict([one.prompt])[0][mask].mean() < self.confirm:
                    mask[:] = False
                    missing = every
            if missing >= every:
                break
            if mask.any():
                missing = 0
                one.doubt = None if one.doubt is None else earlier
            masks.change(earlier, one.id, mask, score)

    def _save(self, folder: Path, state: dict, objects: list[_Object]) -> None:
        def plain(one: _Object) -> dict:
            memory = {kind: dict(frames) for kind, frames in one.session.output_dict_per_obj[0].items()}
            return {**vars(one), "session": memory}

        with atomic_write(folder / "state.pt") as temporary:
            torch.save({**state, "lost": list(map(plain, state["lost"])), "live": list(map(plain, objects))}, temporary)

    def _resume(self, folder: Path, cache) -> tuple[dict, list[_Object]]:
        """What `_save` saved, or a beginning: {"next": the frame to go on with, "tracks": what is told of each by id,
        "lost": the tracks ended last}, and the tracks that are followed."""
        path = folder / "state.pt"
        if not path.exists():
            return {"next": 0, "tracks": {}, "lost": []}, []

        def whole(one: dict) -> _Object:
            session = self._session(cache)
            session.output_dict_per_obj[0] = one["session"]
            return _Object(**{**one, "session": session})

        state = torch.load(path, map_location=self.runtime.device, weights_only=True)
        return {**state, "lost": list(map(whole, state["lost"]))}, list(map(whole, state.pop("live")))


def _conditioning(session) -> dict:
    """What a memory holds of the frames in which it was given a seed."""
    return session.output_dict_per_obj[0]["cond_frame_outputs"]


def _keep_first(old, new) -> None:
    """Give a memory the first frame of another one of the same object."""
    first = min(_conditioning(old))
    _conditioning(new)[first] = _conditioning(old)[first]


def _backwards(clip: Frames, t: int, recent: deque) -> Iterator[tuple[int, np.ndarray]]:
    """The frames before t, the last first: the recent ones are at hand, older ones are read again in blocks."""
    for image in reversed(recent):
        t -= 1
        yield t, image
    while t > 0:
        start = max(0, t - recent.maxlen)
        block = list(islice(clip.read(start), t - start))
        while block:
            t -= 1
            yield t, block.pop()


def compose(logits: dict[int, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Masks as one map of ids, uint8 (H, W): where masks overlap, the higher logit wins."""
    ids, best = np.zeros(size, np.uint8), np.zeros(size, np.float32)
    for number, values in logits.items():
        wins = values > best
        ids[wins] = number
        best[wins] = values[wins]
    return ids


def _doubled(one: _Object, objects: list[_Object], seen: dict) -> bool:
    """Whether another track of the prompt, which the model is surer of, is on the same object."""
    logits, score = seen[one.id]
    surer = [r for r in objects if r.prompt == one.prompt and (seen[r.id][1], -r.id) > (score, -one.id)]
    return any(iou(logits > 0, seen[r.id][0] > 0) > 0.7 for r in surer)


# ------------------------------------------------------------------------------------------------- the folder

NAMES = ("job.json", "state.pt", "masks", "overlay.mp4", "tracks.json")


def _claim(folder: Path, job: dict, overwrite: bool) -> None:
    """Make the folder this run's. Raises FileExistsError, and changes nothing, if it holds another one's results."""
    mine = folder / "job.json"
    if mine.exists() and json.loads(mine.read_text()) == job and not overwrite:
        return
    there = [name for name in NAMES if (folder / name).exists()]
    if set(there) - {"job.json"} and not overwrite:
        raise FileExistsError(
            f"{folder} holds {', '.join(there)} of another clip, prompts, models or settings; "
            f"choose another folder, or pass overwrite=True to replace them"
        )
    for name in reversed(there):  # job.json goes last: until then the folder is seen to be in use
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with atomic_write(mine) as temporary:
        temporary.write_text(json.dumps(job))


def _finish(clip: Frames, prompts: list[str], folder: Path, state: dict, progress: bool) -> None:
    """Gather from the masks what tracks.json says, and draw the overlay; tracks.json, the last, marks the end."""
    from tqdm.auto import tqdm

    masks = _masks(folder, prompts)
    names = {number: about["prompt"] for number, about in state["tracks"].items()}
    rows = {number: array("d") for number in names}  # frame, score, box, area: one after another

    def drawn() -> Iterator[np.ndarray]:
        bar = tqdm(clip.read(), total=state["next"], disable=not progress, unit="frame", desc="drawing")
        for t, image in enumerate(bar):
            for prompt in prompts:
                ids, scores = masks[prompt].read(t)
                for number, score in scores.items():
                    mask = ids == number
                    rows[number].extend([t, score, *box_of(mask), np.count_nonzero(mask)])
                numbers = np.unique(ids[ids > 0]).tolist()
                image = overlay(image, ((number, ids == number, f"{number} {names[number]}") for number in numbers))
            yield image

    write_mp4(drawn(), folder / "overlay.mp4", clip.fps)
    tracks = []
    for number, about in state["tracks"].items():
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
    result = Tracking(folder, prompts, clip.size, clip.fps, state["next"], tracks)
    with atomic_write(folder / "tracks.json") as temporary:
        temporary.write_text(json.dumps(result.to_json()))
    (folder / "state.pt").unlink()


def track(video: Video, prompts: str | Sequence[str], tracker: VideoTracker | None = None, **options) -> Tracking:
    """Track what each prompt asks for through a clip: `VideoTracker.track`, with the default models if None."""
    return (tracker or VideoTracker.from_pretrained()).track(video, prompts, **options)
