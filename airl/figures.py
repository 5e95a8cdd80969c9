"""Figures that belong to whoever made them: pyplot keeps no list of these, so a notebook shows each once."""

import io
from pathlib import Path

import matplotlib.figure

from airl.files import atomic_write


class Figure(matplotlib.figure.Figure):
    """A matplotlib Figure that shows itself as a notebook cell's last line.

    pyplot's figures do so only because a notebook's backend shows, at the end of a cell, all that pyplot keeps.
    """

    def __init__(self, **how):
        super().__init__(**{"layout": "compressed"} | how)  # "constrained" for axes that keep their pictures' shape

    def save(self, path: str | Path) -> "Figure":
        """Write the figure as an image file, whole or not at all, and return it, so that a cell shows it too."""
        with atomic_write(path) as temporary:
            self.savefig(temporary)
        return self

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
