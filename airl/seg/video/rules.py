"""Which objects are followed through a clip: when one is found, corrected, confirmed, retired and known again."""

import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from airl.seg.metrics import iou
from airl.seg.seeds import Seed, make_seeds
from airl.seg.video.frames import Frames, backwards
from airl.seg.video.memory import Memory, Seen, VideoSam2, View
from airl.seg.video.store import Masks

MAX_ID = 255  # ids are the bytes of a PNG


@dataclass(frozen=True)
class TrackingRecipe:
    """How CLIPSeg's heat-maps and SAM 2's memory decide about tracks. Areas are shares of the picture."""

    every: int = 4  # frames from one asking of the heat-map to the next
    threshold: float = 0.5  # heat-map to coarse mask
    floor: float = 0.5  # the least peak of a component that starts a track
    min_area: float = 0.002  # of a component that starts a track
    covered: float = 0.3  # a component of which tracks cover more than this share is theirs
    min_agreement: float = 0.2  # a track starts where SAM 2's mask agrees with the component: their IoU
    better: float = 0.05  # a track is corrected where a new seed's mask agrees with the heat-map by so much more: IoU
    confirm: float = 0.25  # a track is confirmed where the heat-map's mean over its mask reaches this
    recognize: float = 0.5  # a new mask is that of a lost track whose memory gives it with this IoU
    alike: float = 0.4  # or, if no memory does, that of a confirmed one whose colours it has: overlap of histograms
    doubled: float = 0.7  # two tracks of a prompt are on one object where the IoU of their masks is above this
    patience: int = 20  # askings for which a track out of sight is followed
    lost: int = 16  # tracks that ended last and may be recognized

    def __post_init__(self):
        for name, least in (("every", 1), ("patience", 0), ("lost", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; expected a whole number of at least {least}")
        shares = ("threshold", "floor", "min_area", "covered", "min_agreement", "better", "confirm")
        for name in (*shares, "recognize", "alike", "doubled"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:  # NaN, too
                raise ValueError(f"{name} is {value!r}; expected a number from 0 to 1")


@dataclass(eq=False)
class Followed:
    """A track while it is being followed, or remembered."""

    id: int
    prompt: str
    memory: Memory
    doubt: int | None  # the frame since which the heat-map has not confirmed it
    colours: list[float]  # of its first mask, see `colours_of`
    confirmed: bool = False  # whether the heat-map has ever confirmed it
    unseen: int = 0  # askings, in a row, that found it out of sight


class Rules:
    """The tracks of one clip, a frame at a time: all are followed, and at every `recipe.every`-th frame the heat-maps
    are asked, in four phases: correct, confirm, find, retire.

    clip: for the frames before one in which a track starts. masks: where they are written, by prompt.
    """

    def __init__(
        self, clipseg, sam2: VideoSam2, recipe: TrackingRecipe, clip: Frames, prompts: Sequence[str],
        masks: dict[str, Masks],
    ):  # fmt: skip
        self.clipseg, self.sam2, self.recipe = clipseg, sam2, recipe
        self.clip, self.prompts, self.masks = clip, list(prompts), masks
        self.tracks: dict[int, dict] = {}  # by id: its prompt, the first and the last frame it is seen in, why it ended
        self.live: list[Followed] = []
        self.lost: list[Followed] = []  # ended, the last one last
        self.recent: deque[np.ndarray] = deque(maxlen=recipe.every)  # the frames before this one
        # Of the frame at hand:
        self.image: np.ndarray
        self.view: View
        self.seen: dict[int, Seen]  # by id, of the live ones
        self.heatmaps: dict[str, np.ndarray]
        self.seeds: dict[str, list[Seed]]  # by prompt: one for each component of the heat-map, with its box
        self.doubtful: list[Followed]  # whom the heat-map does not confirm

    def step(self, t: int, image: np.ndarray) -> None:
        """Follow all tracks to frame t and write its masks."""
        self.image, self.view = image, self.sam2.see(t, image)
        self.seen = {one.id: self.sam2.follow(one.memory, self.view) for one in self.live}
        if t % self.recipe.every == 0:
            self.ask()
            self.correct()
            self.confirm()
            self.find()
            self.retire()
        for prompt, masks in self.masks.items():
            own = [one for one in self.of(prompt) if not self.is_double(one)]
            ids = compose({one.id: self.seen[one.id].logits for one in own}, self.view.size)
            there = np.unique(ids[ids > 0]).tolist()
            masks.write(t, ids, {number: self.seen[number].score for number in there})
            for number in there:
                about = self.tracks[number]
                about["first"], about["last"] = min(about["first"], t), t
        self.recent.append(image)

    def of(self, prompt: str) -> list[Followed]:
        """The live tracks of a prompt."""
        return [one for one in self.live if one.prompt == prompt]

    # ------------------------------------------------------------------------------------------ the phases

    def ask(self) -> None:
        """CLIPSeg's heat-maps of this frame, and their seeds."""
        self.clipseg.set_image(self.image)
        self.heatmaps = dict(zip(self.prompts, self.clipseg.predict(self.prompts), strict=True))
        self.seeds = {prompt: find_seeds(heatmap, self.recipe) for prompt, heatmap in self.heatmaps.items()}

    def correct(self) -> None:
        """Where one track alone is on a component, and a new seed there gives SAM 2 a mask that agrees with it better
        than what the memory gave, go on from the seed, and from the track's first frame."""
        for prompt in self.prompts:
            for seed in self.seeds[prompt]:
                on = [one for one in self.of(prompt) if self.is_taken(seed, self.seen[one.id].mask)]
                if len(on) != 1:
                    continue
                (one,) = on
                memory, seen = self.sam2.start(self.view, seed)
                if iou(seen.mask, seed.region) > iou(self.seen[one.id].mask, seed.region) + self.recipe.better:
                    memory.keep_first(one.memory)
                    one.memory, self.seen[one.id] = memory, seen

    def confirm(self) -> None:
        """Sort out which tracks in sight the heat-map confirms, and which are doubtful."""
        self.doubtful = []
        for one in self.live:
            mask = self.seen[one.id].mask
            if not mask.any():
                one.unseen += 1
                continue
            one.unseen = 0
            if self.heatmaps[one.prompt][mask].mean() >= self.recipe.confirm and not self.is_double(one):
                one.doubt, one.confirmed = None, True
            else:
                self.doubtful.append(one)

    def find(self) -> None:
        """Start a track at each component that no track covers, or go on with a lost one."""
        for prompt in self.prompts:
            taken = np.zeros(self.view.size, bool)
            for one in self.of(prompt):
                taken |= self.seen[one.id].mask
            for seed in self.seeds[prompt]:
                region = seed.region
                if not is_sure(self.heatmaps[prompt], region, self.recipe) or region.mean() < self.recipe.min_area:
                    continue
                if self.is_taken(seed, taken):
                    continue
                memory, seen = self.sam2.start(self.view, seed)
                if iou(seen.mask, region) < self.recipe.min_agreement:
                    continue  # SAM 2 does not see there what CLIPSeg sees
                if (seen.mask & taken).sum() > 0.5 * seen.mask.sum():
                    continue  # or sees a track's object
                if self.begin(prompt, memory, seen):
                    taken |= seen.mask

    def retire(self) -> None:
        """End the tracks that were in doubt before and still are, and those out of sight for too long."""
        for one in list(self.live):
            if one in self.doubtful and one.doubt is None:
                one.doubt = self.view.t
            elif one in self.doubtful or one.unseen > self.recipe.patience:
                self.take_back(one)
                why = "no longer on what was asked for" if one in self.doubtful else "out of sight for too long"
                self.tracks[one.id]["ended"] = f"at frame {self.view.t}: {why}"
                self.live.remove(one)
                del self.seen[one.id]
                one.memory.forget_recent()
                self.lost = [*self.lost, one][-self.recipe.lost :] if self.recipe.lost else []

    # ------------------------------------------------------------------------------------------ their parts

    def is_taken(self, seed: Seed, mask: np.ndarray) -> bool:
        return (seed.region & mask).sum() > self.recipe.covered * seed.region.sum()

    def is_double(self, one: Followed) -> bool:
        """Whether another track of the prompt, which the model is surer of, is on the same object."""
        own = self.seen[one.id]
        surer = [r for r in self.of(one.prompt) if (self.seen[r.id].score, -r.id) > (own.score, -one.id)]
        return any(iou(own.mask, self.seen[r.id].mask) > self.recipe.doubled for r in surer)

    def begin(self, prompt: str, memory: Memory, seen: Seen) -> bool:
        """Follow what a new memory is of, under the id of a lost track that it is recognized as, or a new one; back in
        time, too. False where there is no id left."""
        t, colours = self.view.t, colours_of(self.image, seen.mask)
        if old := self.recognize(prompt, seen.mask, colours):
            self.take_back(old)
            self.lost, self.live, self.doubtful = (
                [one for one in some if one is not old] for some in (self.lost, self.live, self.doubtful)
            )
            memory.keep_first(old.memory)
            number = old.id
        else:
            number = self.free_id()
            if number is None:
                warnings.warn(f"there are {MAX_ID} tracks, as many as masks can tell apart: no more", stacklevel=2)
                return False
            self.tracks[number] = {"prompt": prompt, "first": t, "last": -1}
        self.tracks[number]["ended"] = None
        # A new one is in doubt: should the next asking say no, it was a false alarm, and all is taken back.
        one = Followed(number, prompt, memory, doubt=None if old else t, colours=colours)
        if old:
            one.colours, one.confirmed = old.colours, old.confirmed
        self.live.append(one)
        self.seen[number] = seen
        self.go_back(one)
        return True

    def free_id(self) -> int | None:
        """An id that no track has had, else that of a false alarm of which nothing is left; None if there is none."""
        if len(self.tracks) < MAX_ID:
            return len(self.tracks) + 1
        followed = {one.id for one in self.live}
        alarms = (n for n, about in self.tracks.items() if n not in followed and about["last"] < about["first"])
        number = next(alarms, None)
        self.lost = [one for one in self.lost if one.id != number]
        return number

    def recognize(self, prompt: str, mask: np.ndarray, colours: list[float]) -> Followed | None:
        """Which of the tracks out of sight, in doubt or lost has its object at a mask that has just been found: that
        whose memory of its seeded frames alone, without what came later, gives this mask most nearly; if no memory
        does, that of the confirmed ones whose colours are most alike; None if none is."""
        away = [one for one in self.of(prompt) if one in self.doubtful or one.unseen]
        away += [one for one in self.lost if one.prompt == prompt]
        away = [one for one in away if self.view.t not in one.memory.seeded]

        def remembered(one: Followed) -> float:
            return iou(self.sam2.follow(self.sam2.recall(one.memory), self.view).mask, mask)

        def alike(one: Followed) -> float:
            return float(np.minimum(one.colours, colours).sum()) if one.confirmed else 0.0

        for measure, least in ((remembered, self.recipe.recognize), (alike, self.recipe.alike)):
            scores = list(map(measure, away))
            if max(scores, default=0) > least:
                return away[scores.index(max(scores))]
        return None

    def take_back(self, one: Followed) -> None:
        """Take a track out of the frames before this one in which it was in doubt."""
        if one.doubt is not None:
            for earlier in range(one.doubt, self.view.t):
                self.masks[one.prompt].change(earlier, one.id)
            about = self.tracks[one.id]
            about["last"] = min(about["last"], one.doubt - 1)

    def go_back(self, one: Followed) -> None:
        """Carry a track that starts in this frame back to where its object came into sight, but not beyond the last
        frame it is seen in."""
        every, masks, last = self.recipe.every, self.masks[one.prompt], self.tracks[one.id]["last"]
        memory = self.sam2.recall(one.memory, {self.view.t})
        missing = 0
        for earlier, image in backwards(self.clip, self.view.t, self.recent):
            if earlier <= last:
                break
            seen = self.sam2.follow(memory, self.sam2.see(earlier, image), reverse=True)
            mask = seen.mask
            others = masks.read(earlier)[0]
            if (mask & ((others == 0) | (others == one.id))).sum() * 2 <= mask.sum():  # out of sight, or another's
                missing += 1
                mask = np.zeros_like(mask)
            elif earlier % every == 0:
                self.clipseg.set_image(image)
                if self.clipseg.predict([one.prompt])[0][mask].mean() < self.recipe.confirm:
                    break
            if missing >= every:
                break
            if mask.any():
                missing = 0
                one.doubt = None if one.doubt is None else earlier
                self.tracks[one.id]["first"] = min(self.tracks[one.id]["first"], earlier)
            masks.change(earlier, one.id, mask, seen.score)

    # ------------------------------------------------------------------------------------------ interruption

    def state(self) -> dict:
        """All that the rest of the clip depends on, for `torch.save`."""

        def plain(one: Followed) -> dict:
            return {**vars(one), "memory": one.memory.state()}

        return {"tracks": self.tracks, "live": list(map(plain, self.live)), "lost": list(map(plain, self.lost))}

    def restore(self, state: dict) -> None:
        def whole(one: dict) -> Followed:
            return Followed(**{**one, "memory": self.sam2.restore(one["memory"])})

        self.tracks = state["tracks"]
        self.live, self.lost = list(map(whole, state["live"])), list(map(whole, state["lost"]))


def find_seeds(heatmap: np.ndarray, recipe: TrackingRecipe) -> list[Seed]:
    """One seed for each component of a heat-map, with its box."""
    options = dict(threshold=recipe.threshold, floor=recipe.threshold, min_area=recipe.min_area, box=True)
    return list(make_seeds(heatmap, "components", **options).seeds)


def is_sure(heatmap: np.ndarray, region: np.ndarray, recipe: TrackingRecipe) -> bool:
    """Whether a component of a heat-map, bool (H, W), is enough of a peak to start a track."""
    return heatmap[region].max() >= recipe.floor


def colours_of(image: np.ndarray, mask: np.ndarray) -> list[float]:
    """The shares that a mask's pixels have in 8x8x8 bins of RGB: two masks are alike as their shares overlap. Swain &
    Ballard 1991, Color Indexing. image: uint8 (H, W, 3)."""
    bins = image[mask].astype(int) // 32 @ (64, 8, 1)
    return (np.bincount(bins, minlength=512) / max(1, len(bins))).tolist()


def compose(logits: dict[int, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Masks as one map of ids, uint8 (H, W): where masks overlap, the higher logit wins."""
    ids, best = np.zeros(size, np.uint8), np.zeros(size, np.float32)
    for number, values in logits.items():
        wins = values > best
        ids[wins] = number
        best[wins] = values[wins]
    return ids
