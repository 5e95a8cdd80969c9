import pytest
import torch


@pytest.fixture
def plain_newton_schulz():
    def plain_newton_schulz(matrix: torch.Tensor, *_) -> torch.Tensor:
        """Jordan's iteration for one matrix in float32, as his article writes it."""
        a, b, c = 3.4445, -4.7750, 2.0315
        x = matrix / matrix.norm()
        if matrix.shape[0] > matrix.shape[1]:
            x = x.T
        for _ in range(5):
            A = x @ x.T
            x = a * x + (b * A + c * A @ A) @ x
        return x.T if matrix.shape[0] > matrix.shape[1] else x

    return plain_newton_schulz
