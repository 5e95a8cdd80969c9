"""Drawn pictures and clips with exact truth: the embedded data of both halves, with no download."""
