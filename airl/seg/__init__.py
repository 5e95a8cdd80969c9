"""Cut an object out of a picture by a text prompt: CLIPSeg's heat-map, a seed, SAM's mask."""

from airl.seg.pipeline import RECIPES, Recipe, Segmentation, TextSegmenter, label_map

__all__ = ["RECIPES", "Recipe", "Segmentation", "TextSegmenter", "label_map"]
