"""Half precision, and what is done where a model's numbers overflow in it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from airl.runtime import Runtime


def compute(what: str, runtime: Runtime, forward: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor]:
    """What `forward` gives under the runtime's autocast; where that holds infinities or NaN, a line says so and it is
    done again in fp32. Raises FloatingPointError, which names `what`, where fp32 gives such numbers too."""
    with runtime.autocast():
        tensors = forward()
    if runtime.precision != "fp32" and not _finite(tensors):
        print(f"{what} overflows in {runtime.precision} on this picture; it is done again in fp32")
        tensors = forward()
    return check_finite(what, tensors)


def check_finite(what: str, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The tensors of an fp32 computation. Raises FloatingPointError where one holds infinities or NaN."""
    if not _finite(tensors):
        raise FloatingPointError(
            f"{what} gives numbers that are not finite, in fp32 too: its weights are damaged, or the hardware is; get "
            "the weights again, or try device='cpu'"
        )
    return tensors


def _finite(tensors: Sequence[Tensor]) -> bool:
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
