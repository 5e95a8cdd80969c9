"""Text prompts to masks in every frame of a clip, under ids that stay."""

from airl.seg.video.result import Track, TrackedFrame, Tracking
from airl.seg.video.rules import TrackingRecipe
from airl.seg.video.tracker import VideoTracker, track

__all__ = ["Track", "TrackedFrame", "Tracking", "TrackingRecipe", "VideoTracker", "track"]
