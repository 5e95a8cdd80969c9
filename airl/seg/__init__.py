"""Cut an object out of a picture or a clip by a text prompt: CLIPSeg's heat-map, a seed, SAM's mask."""

from airl.seg.batch import segment_files
from airl.seg.pipeline import RECIPES, Recipe, Segmentation, TextSegmenter, label_map
from airl.seg.seeds import STRATEGIES
from airl.seg.video import Track, Tracking, VideoTracker, track

__all__ = [
    "RECIPES",
    "STRATEGIES",
    "Recipe",
    "Segmentation",
    "TextSegmenter",
    "Track",
    "Tracking",
    "VideoTracker",
    "label_map",
    "segment_files",
    "track",
]
