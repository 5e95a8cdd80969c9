"""The optimizers of the recipes, each one object that takes a step with all parameters or with none."""

import torch
from torch import Tensor, nn

from airl.vit.model import ViT
from airl.vit.recipes import TrainConfig

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: steep at 0, then near 1


def make_optimizer(model: ViT, config: TrainConfig, dtype: torch.dtype) -> torch.optim.AdamW:
    """AdamW for all parameters, or Muon for the matrices of the blocks, in `dtype`, and AdamW for the rest.

    Where the recipe decays matrices only, the vectors, the position embedding and the class token are left alone.
    """
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2] if config.optimizer == "muon" else []
    rest = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    spared = [p for p in rest if p.ndim < 2 or p is model.position or p is model.class_token]
    if config.decay_on == "all":
        spared = []
    decayed = [p for p in rest if all(p is not one for one in spared)]
    groups = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    settings = dict(lr=config.lr, weight_decay=config.weight_decay)
    if not matrices:
        return torch.optim.AdamW(groups, fused=True, **settings)
    return Muon(matrices, groups, dtype=dtype, **settings)


class Muon(torch.optim.AdamW):
    """Muon for matrices, AdamW for the other groups: momentum whose singular values are all brought near 1.

    Matrices of one shape are orthogonalised in one stack, in `dtype`; the update has the size of AdamW's, so that one
    learning rate serves both. As with AdamW(fused=True), a GradScaler passes `found_inf` to `step`, which then leaves
    every parameter and state as it was, without waiting for the device. `step` uses up the matrices' gradients.

    Jordan 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025, https://arxiv.org/abs/2502.16982
    """

    def __init__(
        self, matrices: list[nn.Parameter], others: list[dict], *, lr: float, weight_decay: float, dtype: torch.dtype
    ):
        super().__init__([{"params": matrices}, *others], lr=lr, weight_decay=weight_decay, fused=True)
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        group, found_inf = self.param_groups[0], getattr(self, "found_inf", None)
        applied = 1.0 if found_inf is None else 1 - found_inf  # 1: take the step, 0: leave all as it is
        stacks: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in group["params"]:
            stacks.setdefault(matrix.shape, []).append(matrix)
        for shape, matrices in stacks.items():
            gradient = torch.stack([matrix.grad for matrix in matrices])  # (n, rows, columns)
            state = self.state[matrices[0]]  # the momentum of the whole stack is kept with its first matrix
            if not state:
                state["momentum"] = torch.zeros_like(gradient)
                state["step"] = torch.zeros(())  # AdamW looks for it when it loads a state
            momentum = state["momentum"]
            if found_inf is not None:  # its own momentum for a gradient changes neither
                gradient = torch.where(found_inf > 0, momentum, gradient)
            momentum.lerp_(gradient, 1 - MOMENTUM)
            update = orthogonalize(gradient.lerp_(momentum, MOMENTUM), self.dtype)  # Nesterov's
            if found_inf is not None:
                update.mul_(applied)
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"] * applied)
            size = 0.2 * max(shape) ** 0.5  # 0.2: the root mean square of AdamW's updates
            torch._foreach_add_(matrices, list(update.unbind()), alpha=-group["lr"] * size)
            for matrix in matrices:
                matrix.grad = None  # AdamW's step is for the parameters that have a gradient
        super().step()


def orthogonalize(matrices: Tensor, dtype: torch.dtype, steps: int = 5) -> Tensor:
    """Bring the singular values of each matrix of (n, rows, columns) to between about 0.7 and 1.2; float32.

    Newton-Schulz iterations, computed in `dtype`.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT.contiguous() if tall else matrices
    norm = torch.linalg.matrix_norm(wide, keepdim=True).clamp_(min=1e-7)
    x = torch.div(wide, norm, out=torch.empty_like(wide, dtype=dtype))  # in one pass
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return torch.empty_like(matrices).copy_(x.mT if tall else x)  # in the layout in which foreach takes one kernel
