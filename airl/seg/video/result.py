"""What was found in a clip."""

import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from airl.seg.export import frame_to_supervision
from airl.seg.video.store import masks_of

if TYPE_CHECKING:
    from supervision import Detections


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

    folder: holds masks/0_a-person/000000.png ... for each prompt (the id at each pixel; 0 is none), overlay.mp4 and
    tracks.json. Without `out` it is a temporary one and goes with this object.
    """

    folder: Path
    prompts: list[str]
    size: tuple[int, int]  # H, W
    fps: float
    length: int  # frames
    tracks: list[Track]
    _temporary: tempfile.TemporaryDirectory | None = field(default=None, repr=False)

    @classmethod
    def read(cls, folder: Path, temporary: tempfile.TemporaryDirectory | None = None) -> "Tracking":
        """Of a finished run's folder."""
        said = json.loads((folder / "tracks.json").read_text())
        tracks = [Track(**{**t, "boxes": [tuple(box) for box in t["boxes"]]}) for t in said["tracks"]]
        return cls(folder, said["prompts"], tuple(said["size"]), said["fps"], said["frames"], tracks, temporary)

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
        return masks_of(self.folder, self.prompts)[prompt].read(t)[0]

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
            "tracks": [asdict(track) for track in self.tracks],
        }
