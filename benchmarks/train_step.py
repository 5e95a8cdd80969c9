"""Images per second of one full training step (forward, backward, AdamW) of the assignment's model.

    pip install vit-pytorch          # a peer that nothing else here needs; without it, it is left out
    python -m benchmarks.train_step [--device cuda] [--batch 128] [--seconds 4] [--rounds 3]

The same ViT (32x32, patch 4, dim 256, depth 8, heads 8, MLP ratio 4, dropout 0.1) by AIRL, timm, transformers and
vit-pytorch, each as it comes and compiled, under the autocast that suits the hardware, with torch's fused AdamW. The
ways take turns in each round, so that a busy machine slows all of them; the figures are medians.

The limit is a step that consists of its matrix products alone, forward and backward, each of the model's own shape at
the rate this machine measures for it in the same run. `--profile` adds where AIRL's step spends the rest.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airl import runtime
from airl.vit import ViT, ViTConfig
from benchmarks.report import publish

CONFIG = ViTConfig()


def timm_vit() -> nn.Module:
    from timm.models import VisionTransformer

    return VisionTransformer(
        img_size=32,
        patch_size=4,
        num_classes=10,
        embed_dim=256,
        depth=8,
        num_heads=8,
        pos_drop_rate=0.1,
        proj_drop_rate=0.1,
    )


def transformers_vit() -> nn.Module:
    from transformers import ViTConfig as Config
    from transformers import ViTForImageClassification

    config = Config(
        image_size=32,
        patch_size=4,
        num_labels=10,
        hidden_size=256,
        num_hidden_layers=8,
        num_attention_heads=8,
        intermediate_size=1024,
        hidden_dropout_prob=0.1,
    )

    class Logits(ViTForImageClassification):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).logits

    return Logits(config)


def vit_pytorch_vit() -> nn.Module:
    from vit_pytorch import ViT as Theirs

    return Theirs(
        image_size=32,
        patch_size=4,
        num_classes=10,
        dim=256,
        depth=8,
        heads=8,
        dim_head=32,
        mlp_dim=1024,
        dropout=0.1,
        emb_dropout=0.1,
    )


BUILDERS = {
    "AIRL": lambda: ViT(CONFIG),
    "timm": timm_vit,
    "transformers": transformers_vit,
    "vit-pytorch": vit_pytorch_vit,
}


def step_of(model: nn.Module, where: runtime.Runtime, batch: int, compiled: bool) -> Callable[[], None]:
    model = model.to(where.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05, fused=True)
    scaler = where.grad_scaler()
    network = torch.compile(model, dynamic=False) if compiled else model
    x = torch.randn(batch, 3, 32, 32, device=where.device)
    y = torch.randint(0, 10, (batch,), device=where.device)

    def step() -> None:
        with where.autocast():
            logits = network(x)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=0.1)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def products(batch: int) -> list[tuple[int, tuple[int, int, int, int]]]:
    """The forward pass's matrix products as (how many, (b, m, k, n)): b products of (m, k) and (k, n)."""
    c = CONFIG
    patches = (c.image_size // c.patch_size) ** 2
    tokens, hidden, per_head = patches + 1, int(c.dim * c.mlp_ratio), c.dim // c.heads
    rows = batch * tokens
    return [
        (1, (1, batch * patches, 3 * c.patch_size**2, c.dim)),
        (c.depth, (1, rows, c.dim, 3 * c.dim)),
        (c.depth, (batch * c.heads, tokens, per_head, tokens)),
        (c.depth, (batch * c.heads, tokens, tokens, per_head)),
        (c.depth, (1, rows, c.dim, c.dim)),
        (c.depth, (1, rows, c.dim, hidden)),
        (c.depth, (1, rows, hidden, c.dim)),
        (1, (1, batch, c.dim, c.num_classes)),
    ]


def limit(where: runtime.Runtime, batch: int) -> tuple[float, float]:
    """Seconds and FLOPs of a step's matrix products: each forward one, and the two of its shape that lead back."""
    seconds = flops = 0.0
    for count, (b, m, k, n) in products(batch):
        shapes = [((b, m, k), (b, k, n)), ((b, m, n), (b, n, k)), ((b, k, m), (b, m, n))]  # y, dx, dw
        for left, right in shapes:
            p, q = (torch.randn(shape, device=where.device, dtype=where.dtype) for shape in (left, right))
            if b == 1:
                p, q = p[0], q[0]
            seconds += count * seconds_of(lambda p=p, q=q: p @ q, where, 0.1)
        flops += count * 3 * 2 * b * m * k * n
    return seconds, flops


def seconds_of(run: Callable[[], object], where: runtime.Runtime, at_least: float) -> float:
    """Seconds of one call after a first one: the mean over calls that take this long together."""
    synchronize = torch.cuda.synchronize if where.device.type == "cuda" else lambda: None
    run()
    synchronize()
    count, start, seconds = 0, time.perf_counter(), 0.0
    while not count or seconds < at_least:
        for _ in range(1 if where.device.type == "cpu" else 10):
            run()
            count += 1
        synchronize()
        seconds = time.perf_counter() - start
    return seconds / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print where AIRL's step spends its time")
    args = parser.parse_args()
    where = runtime.choose(args.device)
    torch.manual_seed(0)
    steps = {}
    for name, build in BUILDERS.items():
        try:
            for how, compiled in (("as it comes", False), ("compiled", True)):
                steps[name, how] = step_of(build(), where, args.batch, compiled)
                steps[name, how]()  # compiles
        except ImportError:
            print(f"{name} is not installed: left out")

    times = {way: [] for way in steps}
    limits = []
    for _ in range(args.rounds):
        for way, step in steps.items():
            times[way].append(seconds_of(step, where, args.seconds))
        limits.append(limit(where, args.batch))
    best = min((way for way in steps if way[0] == "AIRL"), key=lambda way: statistics.median(times[way]))

    bound, flops = statistics.median(s for s, _ in limits), limits[0][1]
    rows = []
    for (model, way), seconds in times.items():
        middle = statistics.median(seconds)
        ratio = statistics.median(theirs / own for theirs, own in zip(seconds, times[best], strict=True))
        rows.append(
            {
                "model": model,
                "way": way,
                "images/s": round(args.batch / middle),
                "of the limit, %": round(100 * bound / middle),
                "AIRL is faster by": None if (model, way) == best else round(ratio, 2),
            }
        )
    rows.append({"model": "products alone", "way": "the limit", "images/s": round(args.batch / bound)})
    note = f"{where.precision}; {flops / args.batch / 1e9:.2f} GFLOP an image, products alone at "
    note += f"{flops / bound / 1e9:,.0f} GFLOP/s. The ways take turns, so the ratios hold better than the rates."
    publish("train_step", rows, data=f"random images, batch {args.batch}", note=note, device=args.device)
    if args.profile:
        with torch.profiler.profile() as profile:
            steps[best]()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50))


if __name__ == "__main__":
    main()
