"""What was found in a clip."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from airl.seg.export import frame_to_supervision
from airl.seg.seeds import box_of
from airl.seg.video.store import masks_of, read_json

if TYPE_CHECKING:
    from supervision import Detections


@dataclass
class Track:
    """One object through the clip."""

    id: int  # from 1; what the masks hold
    prompt: str
    frames: list[int] = field(default_factory=list)  # where it is seen, increasing
    scores: list[float] = field(default_factory=list)  # of each: SAM 2's probability that it is there; SAM 3's score
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)  # of each: XYXY, the outermost pixels
    areas: list[int] = field(default_factory=list)  # of each: pixels
    ended: str | None = None  # why it was given up before the clip's end


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """The N objects in one frame, in order of their ids."""

    t: int
    ids: np.ndarray  # int64 (N,)
    prompts: list[str]  # of each
    scores: np.ndarray  # float64 (N,): SAM 2's probability that it is there; SAM 3's score
    boxes: np.ndarray  # int64 (N, 4) XYXY, the outermost pixels
    masks: np.ndarray  # bool (N, H, W)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Tracking:
    """What was found in a clip: `for frame in tracking` gives a `TrackedFrame` for each, `tracking[t]` one. Masks are
    read from `folder` when asked for; H, W are those of the frames that were tracked.

    folder: holds masks/0_a-person/000000.png ... for each prompt (the id at each pixel; 0 is none), overlay.mp4 and
    tracks.json. Without `out` it is a temporary one, removed when Python ends.
    """

    folder: Path
    prompts: list[str]
    size: tuple[int, int]  # H, W
    fps: float
    length: int  # frames
    tracks: list[Track]
    damage: str | None = None  # what was lost of a damaged film

    @classmethod
    def read(cls, folder: Path) -> "Tracking":
        """Of a finished run's folder. Raises ValueError, which says what to remove, where it is damaged."""
        path = folder / "tracks.json"
        said = read_json(path, str(path))
        try:
            tracks = [Track(**{**t, "boxes": [tuple(box) for box in t["boxes"]]}) for t in said["tracks"]]
            about = tuple(said["size"]), said["fps"], said["frames"]
            return cls(folder, said["prompts"], *about, tracks, said["damage"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}); remove it, and track again") from error

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

    def __getitem__(self, t: int) -> TrackedFrame:
        """Frame t; a negative one counts from the end. Raises IndexError for one that is not in the clip."""
        t = t + self.length if t < 0 else t
        found = []
        for prompt in self.prompts:
            ids, scores = self._read(t, prompt)
            found += [(number, prompt, score, ids == number) for number, score in scores.items()]
        found.sort(key=lambda one: one[0])
        masks = np.array([mask for *_, mask in found], bool).reshape(-1, *self.size)
        return TrackedFrame(
            t=t,
            ids=np.array([number for number, *_ in found], np.int64),
            prompts=[prompt for _, prompt, *_ in found],
            scores=np.array([score for _, _, score, _ in found], np.float64),
            boxes=np.array([box_of(mask) for mask in masks], np.int64).reshape(-1, 4),
            masks=masks,
        )

    def __iter__(self) -> Iterator[TrackedFrame]:
        return map(self.__getitem__, range(self.length))

    def __repr__(self) -> str:
        found = f"{len(self.tracks)} tracks" if self.tracks else "nothing"
        return f"Tracking of {', '.join(map(repr, self.prompts))}: {found} in {self.length} frames, in {self.folder}"

    def _read(self, t: int, prompt: str) -> tuple[np.ndarray, dict[int, float]]:
        if not 0 <= t < self.length:
            raise IndexError(f"the clip has the frames 0 to {self.length - 1}; there is no frame {t}")
        return masks_of(self.folder, self.prompts)[prompt].read(t)

    def ids(self, t: int, prompt: str | None = None) -> np.ndarray:
        """The id at each pixel of frame t, uint8 (H, W), of the tracks of a prompt; 0 is none.

        prompt: may be left out where there is one alone; objects of different prompts may overlap. Raises IndexError
        for a frame not in the clip, ValueError for another prompt.
        """
        prompt = self.prompts[0] if prompt is None and len(self.prompts) == 1 else prompt
        if prompt not in self.prompts:
            raise ValueError(f"{prompt!r} is not one of the prompts {self.prompts}")
        return self._read(t, prompt)[0]

    def mask(self, t: int, which: int | str | None = None) -> np.ndarray:
        """The mask at frame t, bool (H, W), of one id, of all ids of a prompt, or of all."""
        wanted = [track for track in self.tracks if which in (None, track.id, track.prompt)]
        if not wanted and which is not None and which not in self.prompts:
            raise ValueError(f"{which!r} is neither an id of a track nor one of the prompts {self.prompts}")
        mask = np.zeros(self.size, bool)
        for track in wanted:
            mask |= self.ids(t, track.prompt) == track.id
        return mask

    def to_supervision(self, t: int) -> "Detections":
        """The objects in frame t as `supervision.Detections`: see `export.frame_to_supervision`."""
        return frame_to_supervision(self, t)

    def to_json(self) -> dict:
        return {
            "prompts": self.prompts,
            "size": list(self.size),  # H, W
            "fps": self.fps,
            "frames": self.length,
            "damage": self.damage,
            "tracks": [asdict(track) for track in self.tracks],
        }
