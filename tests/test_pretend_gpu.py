"""The pretended GPU refuses what CUDA refuses, casts as CUDA's autocast does, and counts waits and kernels."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.pretend_gpu import CUDA, pretend_gpu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real one")


@pytest.fixture
def gpu():
    with pretend_gpu((7, 5), "Tesla T4") as gpu:
        yield gpu


@pytest.fixture
def x(gpu):
    return torch.arange(12.0).view(4, 3).to("cuda")


def test_torch_says_there_is_one_and_afterwards_there_is_none():
    with pretend_gpu((7, 5), "Tesla T4"):
        assert torch.cuda.is_available() and torch.cuda.device_count() == 1
        assert torch.cuda.get_device_name(0) == "Tesla T4" and torch.cuda.get_device_capability() == (7, 5)
        kept = torch.ones(3, device="cuda")
        assert kept.device == CUDA
    assert not torch.cuda.is_available() and kept.device.type == "cpu"
    with torch.autocast("cpu", torch.bfloat16):  # the CPU's autocast is its own again
        assert F.softmax(torch.ones(2, dtype=torch.bfloat16), 0).dtype == torch.bfloat16


def test_what_is_made_of_a_tensor_there_is_there(gpu, x):
    made = [x + 1, x[0], x.T, x.sum(), x.new_zeros(2), torch.zeros_like(x), torch.tensor([1.0], device="cuda"),
            *x.split(2), x.max(dim=1).indices, x.detach(), x.data, copy.deepcopy(x), nn.Parameter(x), x.half(),
            torch._foreach_add([x], 1)[0], torch.rand(2, device=CUDA), x.to(torch.float64)]  # fmt: skip
    assert all(one.device == CUDA and one.is_cuda and not one.is_cpu for one in made)
    assert x.cpu().device.type == x.to("cpu").device.type == torch.ones(2).device.type == "cpu"
    assert x.to(CUDA) is x and x.cuda() is x


def test_a_module_moves_as_on_cuda_with_its_parameters_themselves(gpu):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = list(model.parameters())
    model.to("cuda")
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    assert all(tensor.device == CUDA for tensor in [*model.parameters(), *model.buffers()])
    model(torch.ones(2, 3, device=CUDA)).sum().backward()
    assert all(p.grad.device == CUDA for p in model.parameters())
    assert all(p.device == CUDA and isinstance(p, nn.Parameter) for p in copy.deepcopy(model).parameters())


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + torch.ones(4, 3),
        lambda x: torch.cat([x, torch.ones(1, 3)]),
        lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
        lambda x: F.linear(x, torch.ones(2, 3)),
        lambda x: torch._foreach_mul_([x], [torch.ones(4, 3)]),
        lambda x: torch.ones(4, 3)[x.long()],
        lambda x: torch.ones(4, 3).add_(x),
    ],
)
def test_operands_on_two_devices_are_refused(x, mix):
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device.*test_pretend_gpu.py:"):
        mix(x)


def test_what_cuda_takes_from_the_host_is_taken(x):
    assert (x + torch.tensor(1.0)).device == CUDA  # a number
    assert x[torch.tensor([0, 1])].device == CUDA  # an index
    x[0] = torch.tensor(5.0)
    assert x.cpu()[0].tolist() == [5, 5, 5]


def test_numpy_generators_and_pinning_of_its_tensors_are_refused(x):
    for convert in (lambda: x.numpy(), lambda: memoryview(x.__array__())):
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            convert()
    assert x.numpy(force=True).shape == x.cpu().numpy().shape == (4, 3)
    generator = torch.Generator()
    for draw in (lambda: torch.rand(2, device="cuda", generator=generator), lambda: x.uniform_(generator=generator)):
        with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator but found 'cpu'"):
            draw()
    with pytest.raises(RuntimeError, match="cannot pin"):
        x.pin_memory()


@pytest.mark.parametrize(
    "wait, what",
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: bool(x.sum() > 0), "_local_scalar_dense"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.cpu(), "copy to the host"),
        (lambda x: x.numpy(force=True), "copy to the host"),
        (lambda x: torch.ones(2).to("cuda"), "copy to the device"),
        (lambda x: torch.ones(2).cuda(), "copy to the device"),
        (lambda x: x.copy_(torch.ones(4, 3)), "copy to the device"),
        (lambda x: x[x > 3], "index by a mask"),
        (lambda x: x[torch.tensor([1])], "index from the host"),
        (lambda x: (x > 3).nonzero(), "nonzero"),
        (lambda x: x.unique(), "_unique2"),
        (lambda x: f"{x.sum():.1f}", "__format__"),
        (lambda x: torch.cuda.synchronize(), "synchronize"),
    ],
)
def test_waits_are_counted_by_line(gpu, x, wait, what):
    with gpu.count() as count:
        wait(x)
    ((where, times),) = count.waits.items()
    assert where.startswith(f"{what}, tests/test_pretend_gpu.py:") and times == 1


def test_what_does_not_wait_is_not_counted(gpu, x):
    with gpu.count() as count:
        torch.ones(2).pin_memory().to("cuda", non_blocking=True)
        F.one_hot(x.argmax(dim=1), 3)
        (x @ x.T).relu().sum()
        torch.rand(100).sum().item()  # the host's own business
    assert not count.waits


def test_kernels_are_those_on_the_device(gpu, x):
    with gpu.count() as count:
        torch.ones(4, 3) + 1
        x.view(3, 4).T[1:].unsqueeze(0)
    assert not count.kernels
    with gpu.count() as count:
        F.dropout(x, 0.5)
        F.scaled_dot_product_attention(x.view(1, 1, 4, 3), x.view(1, 1, 4, 3), x.view(1, 1, 4, 3))
        x.add_(1)
    assert count.kernels.total() == 3
    with gpu.count() as count:
        x.requires_grad_().mul(2).exp().backward(x.detach())
    assert count.kernels == {"mul": 3, "exp": 1}  # the backward pass too


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_casts_as_cudas(x, dtype):
    weight = torch.ones(3, 3, device=CUDA)
    with torch.autocast("cuda", dtype):
        product = x @ weight
        assert product.dtype == dtype
        for function in (lambda y: F.softmax(y, 1), lambda y: F.layer_norm(y, (3,)), torch.exp, torch.sum):
            assert function(product).dtype == torch.float32
        assert F.gelu(product).dtype == (product + product).dtype == torch.cat([product, product]).dtype == dtype
        mixed = [product.to(torch.float16), product.to(torch.bfloat16)]
        assert torch.cat(mixed).dtype == torch.stack(mixed).dtype == torch.float32


def test_the_scaler_and_fused_adamw_train_in_fp16_without_a_wait(gpu):
    torch.manual_seed(0)
    model = nn.Linear(3, 1).to("cuda")
    optimizer, scaler = torch.optim.AdamW(model.parameters(), 0.1, fused=True), torch.amp.GradScaler("cuda")
    x, losses = torch.randn(64, 3).to("cuda"), []
    with gpu.count() as count:
        for _ in range(30):
            with torch.autocast("cuda", torch.float16):
                loss = (model(x)[:, 0] - x.sum(dim=1)).pow(2).mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            losses.append(loss.detach())
    assert not count.waits and count.kernels["_fused_adamw_"] == 30
    assert losses[-1] < 0.2 * losses[0]


def test_foreach_is_chosen_as_on_cuda(gpu):
    parameters = [nn.Parameter(torch.ones(3, device=CUDA)) for _ in range(4)]
    optimizer = torch.optim.SGD(parameters, 0.1)
    torch.stack([p.sum() for p in parameters]).sum().backward()
    with gpu.count() as count:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    assert count.kernels["_foreach_norm"] == count.kernels["_foreach_add_"] == 1 and not count.waits


def test_random_numbers_there_are_a_stream_of_their_own(gpu):
    torch.manual_seed(0)
    host = torch.rand(3)
    torch.manual_seed(0)
    torch.rand(5, device=CUDA)
    assert torch.equal(torch.rand(3), host)
    state = torch.cuda.get_rng_state()
    first = torch.rand(3, device=CUDA).cpu()
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3, device=CUDA).cpu(), first)


def test_files_hold_plain_tensors_and_are_read_to_where_one_says(tmp_path, x):
    torch.save({"x": x, "p": nn.Parameter(x)}, tmp_path / "x.pt")
    for where in ("cuda", "cpu"):
        read = torch.load(tmp_path / "x.pt", map_location=where, weights_only=True)
        assert read["x"].device.type == read["p"].device.type == where
        assert torch.equal(read["x"].cpu(), x.cpu())
