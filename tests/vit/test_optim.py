"""Muon against torch's own and against Newton-Schulz written out; fp16's skipped steps; the average against torch's."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from airl import vit
from airl.vit.optim import Muon, make_optimizer, orthogonalize

SHAPES = [(24, 24), (72, 24), (24, 96), (24, 24), (96, 24), (24, 96)]
SETTINGS = dict(lr=0.02, weight_decay=0.1)


def parameters(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator) * 0.1) for shape in [*SHAPES, (24,), (7, 24)]]


def set_gradients(params: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator) * 1e-3


def ours(params: list[nn.Parameter], dtype: torch.dtype) -> Muon:
    others = [{"params": params[-1:]}, {"params": params[-2:-1], "weight_decay": 0.0}]
    return Muon(params[:-2], others, dtype=dtype, **SETTINGS)


@pytest.mark.parametrize("shape", sorted(set(SHAPES)))
def test_orthogonalize_is_newton_schulz_on_each_matrix(plain_newton_schulz, shape):
    """In float32 1e-5 of values up to 1; in other types a few of their last bits, after 15 products."""
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    expected = torch.stack([plain_newton_schulz(matrix) for matrix in matrices])
    torch.testing.assert_close(orthogonalize(matrices, torch.float32), expected, rtol=0, atol=1e-5)
    for dtype, bits in ((torch.bfloat16, 8), (torch.float16, 11)):
        error = (orthogonalize(matrices, dtype) - expected).norm() / expected.norm()
        assert error < 8 * 2.0**-bits, dtype
    assert torch.equal(orthogonalize(torch.zeros(1, 4, 4), torch.float16), torch.zeros(1, 4, 4))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 2e-3)])
def test_steps_are_those_of_torchs_muon_and_adamw(plain_newton_schulz, monkeypatch, dtype, tolerance):
    """Five steps of 0.02 * 0.2 * sqrt(96) a matrix; torch's Muon with float32 products for float32."""
    if dtype == torch.float32:
        monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", plain_newton_schulz)
    params, peers = parameters(0), parameters(0)
    optimizer = ours(params, dtype)
    theirs = [
        torch.optim.Muon(peers[:-2], adjust_lr_fn="match_rms_adamw", **SETTINGS),
        torch.optim.AdamW([{"params": peers[-1:]}, {"params": peers[-2:-1], "weight_decay": 0.0}], **SETTINGS),
    ]
    for step in range(5):
        set_gradients(params, step)
        set_gradients(peers, step)
        optimizer.step()
        for one in theirs:
            one.step()
    for p, peer in zip(params, peers, strict=True):
        torch.testing.assert_close(p, peer, rtol=0, atol=tolerance)


def test_a_loaded_state_goes_on_as_if_nothing_had_happened():
    params = parameters(0)
    optimizer = ours(params, torch.float32)
    set_gradients(params, 1)
    optimizer.step()
    others = copy.deepcopy(params)
    resumed = ours(others, torch.float32)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for some, one in ((params, optimizer), (others, resumed)):
        set_gradients(some, 2)
        one.step()
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("where", [0, 4, -2, -1], ids=["matrix", "tall matrix", "vector", "head"])
def test_a_gradient_that_is_not_finite_changes_nothing(clip, value, where):
    """With the scaler one bad number anywhere skips the step of all; and the next step is as if it had not been."""
    params, clean = parameters(0), parameters(0)
    runs = [(params, ours(params, torch.float16)), (clean, ours(clean, torch.float16))]
    scalers = [
        torch.amp.GradScaler("cpu", init_scale=8.0, backoff_factor=1.0 - 1e-12, growth_interval=1000) for _ in runs
    ]

    def step(k, seed, poison=None):
        (some, optimizer), scaler = runs[k], scalers[k]
        set_gradients(some, seed)
        scaler.scale(torch.ones(()))  # makes the scale
        for p in some:
            p.grad *= 8.0
        if poison is not None:
            some[where].grad.view(-1)[3] = poison
        scaler.unscale_(optimizer)
        if clip:
            nn.utils.clip_grad_norm_(some, 1e-2)
        scaler.step(optimizer)
        scaler.update()

    step(0, 1), step(1, 1)
    before = copy.deepcopy(params), copy.deepcopy(runs[0][1].state_dict())
    step(0, 2, value)
    for p, q in zip(params, before[0], strict=True):
        assert torch.equal(p, q)
    after = runs[0][1].state_dict()["state"]
    for key, state in before[1]["state"].items():
        for name, tensor in state.items():
            assert torch.equal(after[key][name], tensor), (key, name)
    step(0, 3), step(1, 3)
    for p, q in zip(params, clean, strict=True):
        assert torch.equal(p, q) and p.isfinite().all()


def test_only_matrices_decay_where_the_recipe_says_so():
    """A step with zero gradients is decay alone."""
    config = vit.TrainConfig(lr=0.1, weight_decay=0.5)
    for name in ("adamw", "muon"):
        for decay_on in ("all", "matrices"):
            for shape in (dict(), dict(stem="conv", pool="mean")):
                model = vit.ViT(vit.ViTConfig(image_size=16, dim=24, depth=1, heads=2, patch_size=4, **shape))
                with torch.no_grad():
                    for p in model.parameters():
                        p.fill_(1.0)
                        p.grad = torch.zeros_like(p)
                changed = replace(config, optimizer=name, decay_on=decay_on)
                make_optimizer(model, changed, torch.float32).step()
                for key, p in model.named_parameters():
                    spared = decay_on == "matrices" and (p.ndim == 1 or key in ("position", "class_token"))
                    torch.testing.assert_close(p, torch.full_like(p, 1.0 if spared else 0.95), msg=f"{key} {name}")


def test_the_recipes_of_ours_spare_vectors_and_the_assignments_does_not():
    assert {name: recipe.decay_on for name, recipe in vit.RECIPES.items()} == {
        "assignment": "all", "quick": "matrices", "best": "matrices", "fast": "matrices"
    }  # fmt: skip
