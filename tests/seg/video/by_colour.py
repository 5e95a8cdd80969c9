"""A heat-map that does not err, and clips with their truth, for the tests of the tracker."""

import cv2
import numpy as np
import torch

from airl.scenes import clips, shapes


class ByColour:
    """Stands in for CLIPSeg: what has the prompt's colour is hot. Blind in the frames that `blind` says."""

    def __init__(self, blind=lambda asked: False):
        self.asked, self.blind = 0, blind
        self.model = torch.nn.Identity()

    def set_image(self, image):
        self.image = image

    def predict(self, prompts):
        self.asked += 1
        maps = []
        for prompt in prompts:
            far = np.linalg.norm(self.image / 255 - np.array(shapes.COLOURS[shapes.parse(prompt)[0]]), axis=-1)
            hot = cv2.GaussianBlur((far < 0.3).astype(np.float32), (5, 5), 0)
            maps.append(hot * (0.0 if self.blind(self.asked) else 1.0))
        return np.stack(maps)


def clip_of(kind, seed, frames=24, size=(96, 112)):
    """Pictures, the truth by prompt, and a prompt that says the asked object's colour."""
    one = clips.clip(seed, frames, size, kind)
    images, ids = one.render()
    prompt = shapes.phrase(one.objects[one.asked()[0] - 1].colour, None)
    return images, np.isin(ids, one.asked(prompt)), prompt


def iou(a, b):
    return (a & b).sum() / max(1, (a | b).sum())
