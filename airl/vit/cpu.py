"""Two operations that torch computes slowly on a CPU, computed another way there."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / sqrt(hs)) v, all (B, nh, T, hs): scaled_dot_product_attention, but for training below fp32.

    There its backward pass on a CPU is several times slower than that of two products.
    """
    if q.device.type != "cpu" or q.dtype == torch.float32 or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):  # softmax is float32 inside; autocast would read and write it, too
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v


class Dropout(nn.Dropout):
    """nn.Dropout, whose random numbers a CPU draws one by one: here four decisions are taken from each.

    The probability is rounded to a 65,536th.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        # In place on int16, because fresh memory takes longer than the work: 1 where a draw is at least the threshold.
        threshold = min(max(1, round(self.p * 2**16)), 2**16 - 1) - 2**15
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        keep = draws[: x.numel()].view(x.shape).clamp_(threshold - 1, threshold).sub_(threshold - 1)
        scale = torch.tensor(1 / (1 - self.p), dtype=x.dtype)
        if scale.itemsize == 2:  # bf16 and fp16: the bits of the scale times 0 or 1 are those of 0 or the scale
            return x * keep.mul_(scale.view(torch.int16)).view(x.dtype)
        return x * keep.mul(scale)
