"""Text prompts to masks in every frame of a clip, under ids that stay."""

from airl.seg.video.tracker import Track, Tracking, VideoTracker, track

__all__ = ["Track", "Tracking", "VideoTracker", "track"]
