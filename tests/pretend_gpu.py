"""A GPU for tests on a machine without one: CPU tensors that count as lying on `cuda:0`.

    with pretend_gpu((7, 5), "Tesla T4") as gpu:       # torch.cuda.is_available() and so on say yes
        model.to("cuda")
        with gpu.count() as count:
            step()
    count.waits, count.kernels                         # Counters: the lines where the host waited, the launches

What CUDA refuses raises here too: operands on two devices, `.numpy()`, a CPU generator. Autocast casts as it does on
CUDA, dropout and attention are one kernel, foreach and fused optimizers are chosen, random numbers are a stream of
their own. What it cannot show: rounding, speed, memory, what reads a copy before it has arrived, and a mix of devices
inside a backward pass.
"""

import collections
import contextlib
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
import torch._dynamo  # it notes torch's functions when imported, so before some are replaced
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakIdKeyDictionary

T = torch.Tensor
CUDA = torch.device("cuda", 0)
ROOT = Path(__file__).parents[1]

# The host has to see a result before it knows the shape of the next tensor, or the number that Python asked for.
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal",
    "bincount", "repeat_interleave",
}  # fmt: skip
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}
INDEXING = {T.__getitem__, T.__setitem__, T.index_put_, T.index_put, torch.index_put, torch.index_put_}

# CUDA's autocast computes these in float32, the CPU's does not.
FLOAT32_ON_CUDA = (
    "layer_norm", "group_norm", "softmax.int", "log_softmax.int", "exp", "log", "rsqrt", "reciprocal", "cumsum", "sum",
    "sum.dim_IntList", "pow.Tensor_Scalar", "norm.Scalar", "softplus",
)  # fmt: skip
WIDENED_ON_THE_CPU = ("cat", "stack")  # and those the CPU's brings to one precision, CUDA's leaves them alone

T4, A100 = ((7, 5), "Tesla T4"), ((8, 0), "NVIDIA A100")  # compute capability and name


@dataclass(eq=False)
class Count:
    """What happened on the device."""

    waits: collections.Counter = field(default_factory=collections.Counter)  # by "what, file:line"
    kernels: collections.Counter = field(default_factory=collections.Counter)  # by torch's name


class PretendGpu(TorchFunctionMode):
    """Knows which tensors are on the device, and what each call does with them."""

    tensors = WeakIdKeyDictionary()  # those on the device; of all pretended ones, as code may cache a tensor

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator()
        self.counts: list[Count] = []
        self.running = False  # whether the call at work runs on the device

    @contextlib.contextmanager
    def count(self):
        """Count the waits and kernels of what runs inside."""
        self.counts.append(count := Count())
        try:
            yield count
        finally:
            self.counts.remove(count)

    def holds(self, x) -> bool:
        return isinstance(x, T) and x in self.tensors

    def put(self, x):
        self.tensors[x] = True
        return x

    def wait(self, what: str) -> None:
        if self.counts:
            where = f"{what}, {_line()}"
            for count in self.counts:
                count.waits[where] += 1

    def kernel(self, name: str) -> None:
        for count in self.counts:
            count.kernels[name] += 1

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        special = SPECIAL.get(func)
        return special(self, func, *args, **kwargs) if special else self.call(func, args, kwargs)

    def call(self, func, args, kwargs):
        """Any function of torch's, on the device if its tensors or its result are there."""
        tensors = [*_tensors(args), *_tensors(kwargs)]
        here = [x for x in tensors if self.holds(x)]
        device = kwargs.get("device")
        on_gpu = bool(here) if device is None else is_cuda(device)
        if device is not None:
            kwargs = {**kwargs, "device": torch.device("cpu") if on_gpu else device}
        if here or on_gpu:
            self.refuse(func, args, kwargs, here, tensors)
            if func in INDEXING:
                self.wait_for_index(args[1])
        before, self.running = self.running, self.running or on_gpu or bool(here)
        try:
            out = func(*args, **kwargs)
        finally:
            self.running = before
        if on_gpu:
            for x in _tensors(out):
                self.put(x)
        return out

    def refuse(self, func, args, kwargs, here, tensors) -> None:
        """Raise where CUDA would."""
        name = getattr(func, "__name__", str(func))
        if (generator := kwargs.get("generator")) is not None and generator.device.type != "cuda":
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({name}, {_line()})")
        joins = func in (torch.cat, torch.stack)  # they take no number from the host
        elsewhere = [x for x in tensors if not self.holds(x) and (x.dim() > 0 or joins)]
        if func in INDEXING and self.holds(args[0]):  # an index may lie on the host
            elsewhere = [x for x in elsewhere if all(x is not i for i in _tensors(args[1]))]
        if here and elsewhere:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"({name}, on the CPU {[tuple(x.shape) for x in elsewhere]}, {_line()})"
            )

    def wait_for_index(self, index) -> None:
        for i in _tensors(index):
            if not self.holds(i) and i.dim() > 0:
                self.wait("index from the host")
            elif i.dtype == torch.bool:
                self.wait("index by a mask")

    def move(self, x, device, dtype=None, non_blocking=False, copy=False, memory_format=None):
        """Tensor.to."""
        target = self.holds(x) if device is None else is_cuda(device)
        form = {} if memory_format is None else {"memory_format": memory_format}
        if target == self.holds(x):
            return self.call(T.to, (x, x.dtype if dtype is None else dtype), {"copy": copy, **form})
        if not non_blocking:
            self.wait("copy to the device" if target else "copy to the host")
        self.kernel("copy between devices")
        moved = x.to(x.dtype if dtype is None else dtype, copy=True, **form)
        return self.put(moved) if target else moved


def is_cuda(device) -> bool:
    return isinstance(device, int) or torch.device(device).type == "cuda"


def _tensors(x) -> list[T]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(x, T):
        return [x]
    if isinstance(x, dict):
        x = x.values()
    return [t for one in x for t in _tensors(one)] if isinstance(x, tuple | list | type({}.values())) else []


def _line() -> str:
    """Which line of this project is at work."""
    frame = sys._getframe()
    while frame := frame.f_back:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(ROOT) and "site-packages" not in file.parts and file != Path(__file__):
            return f"{file.relative_to(ROOT).as_posix()}:{frame.f_lineno}"
    return "elsewhere"


# What a tensor on the device says and does otherwise than one on the CPU: (gpu, func, *args, **kwargs).


def _to(gpu, func, x, *args, **kwargs):
    copy = kwargs.pop("copy", False)
    if args and isinstance(args[0], T):
        kwargs = {"device": gpu_device(gpu, args[0]), "dtype": args[0].dtype, **kwargs}
        args = args[1:]
    device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
    return gpu.move(x, device, dtype, non_blocking, copy, memory_format)


def gpu_device(gpu, x):
    return CUDA if gpu.holds(x) else T.device.__get__(x)


def _numpy(gpu, func, x, *args, **kwargs):
    if gpu.holds(x):
        if not kwargs.get("force"):
            raise TypeError(
                f"can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory "
                f"first. ({_line()})"
            )
        gpu.wait("copy to the host")
    return func(x, *args, **kwargs)


def _host_reads(gpu, func, x, *args, **kwargs):
    if gpu.holds(x):
        gpu.wait(func.__name__)
    return func(x, *args, **kwargs)


def _copy(gpu, func, x, source, non_blocking=False):
    if gpu.holds(x) != gpu.holds(source) and not non_blocking:
        gpu.wait("copy to the device" if gpu.holds(x) else "copy to the host")
    if gpu.holds(x) or gpu.holds(source):
        gpu.kernel("copy_")
    return func(x, source)


def _grad(gpu, func, x):
    grad = func(x)
    return gpu.put(grad) if gpu.holds(x) and grad is not None else grad


def _set_data(gpu, func, x, data):
    func(x, data)
    if gpu.holds(data):
        gpu.put(x)
    else:
        gpu.tensors.pop(x, None)


def _pin(gpu, func, x, device=None):
    if gpu.holds(x):
        raise RuntimeError(f"cannot pin 'torch.cuda.FloatTensor': only dense CPU tensors can be pinned ({_line()})")
    return x.clone()


def _dropout(gpu, func, x, p=0.5, training=True, inplace=False):
    if gpu.holds(x) and training and 0 < p < 1 and not inplace:
        return gpu.call(torch.native_dropout, (x, p, True), {})[0]
    return gpu.call(func, (x, p, training, inplace), {})


def _one_hot(gpu, func, x, num_classes=-1):
    if not gpu.holds(x) or num_classes < 0:
        return gpu.call(func, (x, num_classes), {})

    def without_a_look_at_the_labels(x):  # which the CPU takes
        return torch.zeros(*x.shape, num_classes, dtype=torch.long).scatter_(-1, x.unsqueeze(-1), 1)

    return gpu.call(without_a_look_at_the_labels, (x,), {})


SPECIAL = {
    T.device.__get__: lambda gpu, func, x: gpu_device(gpu, x),
    T.is_cuda.__get__: lambda gpu, func, x: gpu.holds(x),
    T.is_cpu.__get__: lambda gpu, func, x: func(x) and not gpu.holds(x),
    T.get_device: lambda gpu, func, x: 0 if gpu.holds(x) else -1,
    T.grad.__get__: _grad,
    T.grad.__set__: lambda gpu, func, x, grad: func(x, grad),
    T.data.__set__: _set_data,
    T.to: _to,
    T.cpu: lambda gpu, func, x, memory_format=None: gpu.move(x, "cpu"),
    T.cuda: lambda gpu, func, x, device=None, non_blocking=False: gpu.move(x, CUDA, None, non_blocking),
    T.copy_: _copy,
    T.numpy: _numpy,
    T.__array__: _numpy,
    T.tolist: _host_reads,
    T.__format__: _host_reads,
    T.__repr__: _host_reads,
    T.__reduce_ex__: _host_reads,
    T.pin_memory: _pin,
    T.is_pinned: lambda gpu, func, x, device=None: False,
    torch.nn.functional.dropout: _dropout,
    torch.nn.functional.one_hot: _one_hot,
    torch._has_compatible_shallow_copy_type: lambda gpu, func, *args: True,  # so Module.to keeps its Parameters
}


class _Kernels(TorchDispatchMode):
    """Sees the operators of a call one by one, those of a backward pass too."""

    def __init__(self, gpu: PretendGpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, gpu = kwargs or {}, self.gpu
        if not gpu.running:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name in WAITING:
            gpu.wait(name)
        if not func.is_view and name not in NO_KERNEL:
            gpu.kernel(name)
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        host = torch.get_rng_state()
        torch.set_rng_state(gpu.generator.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            gpu.generator.set_state(torch.get_rng_state())
            torch.set_rng_state(host)


def _autocast_as_cuda() -> torch.library.Library:
    """Give the CPU's autocast what CUDA's does besides, as long as the object lives."""
    library = torch.library.Library("aten", "IMPL")

    def without_autocast(operator, cast):
        def run(*args, **kwargs):
            with torch.autocast("cpu", enabled=False):
                return operator(*tree_map(cast, args), **tree_map(cast, kwargs))

        return run

    def widen(x):
        return x.float() if isinstance(x, T) and x.dtype in (torch.float16, torch.bfloat16) else x

    def same(x):
        return x

    for names, cast in ((FLOAT32_ON_CUDA, widen), (WIDENED_ON_THE_CPU, same)):
        for name in names:
            packet, _, overload = name.partition(".")
            operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
            with warnings.catch_warnings(action="ignore"):  # of another kernel there
                library.impl(name, without_autocast(operator, cast), "AutocastCPU", allow_override=True)
    return library


@contextlib.contextmanager
def pretend_gpu(capability: tuple[int, int] = (8, 0), name: str = "NVIDIA A100"):
    """Inside, torch has one GPU of this compute capability. Yields a PretendGpu."""
    gpu = PretendGpu()
    load, seed, subclass, group = (
        torch.load,
        torch.manual_seed,
        T._make_subclass,
        torch._C._group_tensors_by_device_and_dtype,
    )
    start_autocast = torch.autocast.__init__

    def load_there(file, map_location=None, **options):
        if map_location is None or callable(map_location) or not is_cuda(map_location):
            return load(file, map_location=map_location, **options)
        loaded = load(file, map_location="cpu", **options)
        return tree_map(lambda x: gpu.put(x) if isinstance(x, T) else x, loaded)

    def seed_both(number):
        gpu.generator.manual_seed(int(number))
        return seed(number)

    def make_subclass(kind, data, *args, **kwargs):  # Parameter(data)
        made = subclass(kind, data, *args, **kwargs)
        return gpu.put(made) if gpu.holds(data) else made

    def group_there(lists, with_indices=False):
        groups = group(lists, with_indices)
        return {(gpu_device(gpu, next(x for x in value[0][0] if x is not None)), kind): value
                for (_, kind), value in groups.items()}  # fmt: skip

    def autocast(self, device_type, *args, **kwargs):
        start_autocast(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    def nothing(*args, **kwargs):
        return None

    properties = collections.namedtuple("properties", "name major minor total_memory multi_processor_count")
    cuda = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: capability,
        "get_device_name": lambda device=None: name,
        "get_device_properties": lambda device=None: properties(name, *capability, 16 << 30, 40),
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_rng_state": lambda device=None: gpu.generator.get_state(),
        "set_rng_state": lambda state, device=None: gpu.generator.set_state(state.cpu()),
        "synchronize": lambda device=None: gpu.wait("synchronize"),
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "max_memory_reserved": lambda device=None: 0,
        "mem_get_info": lambda device=None: (15 << 30, 16 << 30),
        **dict.fromkeys(("manual_seed", "manual_seed_all", "reset_peak_memory_stats", "empty_cache", "set_device",
                         "_lazy_init"), nothing),
    }  # fmt: skip
    replaced = [
        *((torch.cuda, attribute, value) for attribute, value in cuda.items()),
        (torch, "load", load_there),
        (torch, "manual_seed", seed_both),
        (T, "_make_subclass", staticmethod(make_subclass)),
        (torch._C, "_group_tensors_by_device_and_dtype", group_there),
        (torch.autocast, "__init__", autocast),
        *((torch.optim.Optimizer, check, nothing)
          for check in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check")
          if hasattr(torch.optim.Optimizer, check)),
    ]  # fmt: skip
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    library = _autocast_as_cuda()
    with contextlib.ExitStack() as stack:
        stack.callback(library._destroy)
        stack.callback(torch.set_float32_matmul_precision, precision)
        stack.callback(setattr, torch.backends.cudnn, "benchmark", benchmark)
        for owner, attribute, value in replaced:
            stack.enter_context(mock.patch.object(owner, attribute, value))
        stack.enter_context(_Kernels(gpu))
        yield stack.enter_context(gpu)
