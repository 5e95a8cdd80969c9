"""Cut an object out of a picture or a clip by a text prompt: CLIPSeg's heat-map, a seed, SAM's mask."""

from airl.seg.batch import segment_files
from airl.seg.export import save_label_map
from airl.seg.pipeline import RECIPES, Recipe, TextSegmenter
from airl.seg.result import Instance, Segmentation, label_map
from airl.seg.seeds import STRATEGIES
from airl.seg.video import Track, TrackedFrame, Tracking, TrackingRecipe, VideoTracker, track

__all__ = [
    "RECIPES",
    "STRATEGIES",
    "Instance",
    "Recipe",
    "Segmentation",
    "TextSegmenter",
    "Track",
    "TrackedFrame",
    "Tracking",
    "TrackingRecipe",
    "VideoTracker",
    "label_map",
    "save_label_map",
    "segment_files",
    "track",
]


def __getattr__(name: str):
    if name == "plots":  # loaded when it is first used, for the sake of matplotlib
        import importlib

        return importlib.import_module("airl.seg.plots")
    raise AttributeError(f"module 'airl.seg' has no attribute {name!r}")
