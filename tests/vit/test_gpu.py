"""Training, evaluation and figures on a GPU: on a pretended one always, on a real one where there is one."""

from dataclasses import replace

import pytest
import torch

from airl import distributed, runtime, vit
from airl.vit import plots
from airl.vit.run import Run
from tests.pretend_gpu import A100, CUDA, T4, pretend_gpu

pretended = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU")

# Kernels of one step, whatever the model's width: a step of a small model takes as long as launching them. More than
# these mean that a change made training slower where launching is what limits. On a T4 fp16 comes with its scaler.
KERNELS = {
    "assignment": {T4: 524, A100: 512},
    "quick": {T4: 344, A100: 331},
    "best": {T4: 695, A100: 661},
    "fast": {T4: 595, A100: 561},
}
KERNELS_OF_A_CHUNK = 340  # order, augmentation, mixing and erasing, once for thousands of images


def random_data(train=40, test=12) -> vit.Dataset:
    generator = torch.Generator().manual_seed(0)

    def split(n):
        images = torch.randint(256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return vit.Split(images, torch.arange(n) % 10)

    return vit.Dataset("random", split(train), split(test), [f"class {i}" for i in range(10)])


def model_of(recipe, **changes) -> vit.ViT:
    torch.manual_seed(0)
    return vit.ViT(replace(vit.MODELS[recipe], **changes))


class Bar:
    """A progress bar that is drawn when `drawn` says so."""

    def __init__(self, drawn=lambda: False):
        self.drawn = drawn

    def update(self, images):
        return self.drawn()

    def set_description(self, *args, **kwargs):
        pass

    set_postfix = set_description


def run_of(recipe, model, data, **changes) -> Run:
    config = replace(vit.RECIPES[recipe], **changes)
    where = runtime.choose(precision=config.precision)
    return Run(model, data, config, where, distributed.join(where.device))


@pretended
@pytest.mark.parametrize("recipe", vit.RECIPES)
def test_two_epochs_with_a_stop_and_a_resume(gpu, recipe, tmp_path):
    """Stopped after an epoch and resumed, the run ends with the weights it would have had: the device's random
    numbers, the scaler and what the optimizer keeps on the device are all in the checkpoint."""
    data, narrow = random_data(), dict(dim=24, depth=2, heads=2)
    config = replace(vit.RECIPES[recipe], epochs=2, batch_size=16)
    whole = vit.train(model_of(recipe, **narrow), data, config, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop(history):
        raise Stopped

    with pytest.raises(Stopped):
        vit.train(model_of(recipe, **narrow), data, config, tmp_path / "parts", on_epoch=stop)
    parts = vit.train(model_of(recipe, **narrow), data, config, tmp_path / "parts", resume=True)
    assert all(p.device == CUDA for p in parts.model.parameters())
    for name, value in whole.model.state_dict().items():
        assert torch.equal(parts.model.state_dict()[name], value), name
    assert [row["train_loss"] for row in parts.history] == [row["train_loss"] for row in whole.history]
    assert f"{gpu.kind[1]} (compute capability" in parts.hardware

    report = vit.evaluate(parts.model, data.test)
    assert report.logits.device.type == "cpu" and report.accuracy == parts.accuracy
    assert len(vit.predict(parts.model, [data.test.images[0], data.test.images[1].cuda()])) == 2
    again = vit.ViT.from_pretrained(tmp_path / "parts" / "model")
    assert torch.equal(again.position, parts.model.position.cpu())


@pretended
@pytest.mark.parametrize("recipe", vit.RECIPES)
def test_steps_do_not_wait_and_launch_no_more_kernels_than_are_written_down(gpu, recipe):
    run = run_of(recipe, model_of(recipe, dim=32, heads=2), random_data(), batch_size=8)
    run.network.train()
    run.model.patch_drop.probability = run.config.patch_drop
    with gpu.count() as chunk:
        ((labels, batches),) = run.chunks(mixed=True)
    kernels = []
    for images, targets, size in batches:
        with gpu.count() as step:
            run.step(images, targets, size)
        assert not step.waits
        kernels.append(step.kernels.total())
    assert max(kernels[1:]) <= KERNELS[recipe][gpu.kind]  # the first step makes the optimizer's state
    assert not chunk.waits and chunk.kernels.total() <= KERNELS_OF_A_CHUNK


@pretended
@pytest.mark.parametrize("recipe", ["assignment", "best"])
def test_an_epoch_waits_once_each_time_the_bar_is_drawn(gpu, recipe):
    """The same epoch with a bar that is never drawn, and with one that is drawn at two of its five steps."""
    waits = []
    for drawn in ([], [1, 3]):
        steps = iter(range(5))
        run = run_of(recipe, model_of(recipe, dim=24, depth=2, heads=2), random_data(), batch_size=8)
        with gpu.count() as count:
            run.epoch(Bar(lambda steps=steps, drawn=drawn: next(steps) in drawn))
        waits.append(count.waits)
    extra = waits[1] - waits[0]
    assert set(extra.values()) == {2} and len(extra) == 1 and next(iter(extra)).startswith("tolist, airl/vit/run.py:")
    assert waits[0].total() <= 8  # the epoch's own: its sums, the evaluation, whether all weights are finite


@pretended
def test_the_schedule_and_the_clip_cost_no_wait_either(gpu):
    run = run_of("best", model_of("best", dim=24, depth=2, heads=2), random_data(), batch_size=8, grad_clip=1.0)
    with gpu.count() as count:
        for _, batches in run.chunks(mixed=True):
            for batch in batches:
                run.step(*batch)
    assert not count.waits


@pretended
def test_a_step_with_an_infinite_gradient_changes_nothing_and_does_not_wait():
    """In fp16, with Muon and AdamW in one: all parameters step, or none."""
    with pretend_gpu(*T4) as gpu:
        run = run_of("best", model_of("best", dim=24, depth=2, heads=2), random_data(), batch_size=8)
        assert run.scaler.is_enabled()
        for _, batches in run.chunks(mixed=False):
            (images, targets, size), *_ = batches
        run.step(images, targets, size)
        before = {name: value.clone() for name, value in run.model.named_parameters()}
        run.scaler.update(2.0**60)  # beyond fp16 whatever the gradient is
        with gpu.count() as count:
            run.step(images, targets, size)
        assert not count.waits
        assert all(torch.equal(value, before[name]) for name, value in run.model.named_parameters())
        assert run.scaler.get_scale() == 2.0**59
        run.scaler.update(256.0)
        run.step(images, targets, size)
        assert not any(torch.equal(value, before[name]) for name, value in run.model.named_parameters())
        assert all(value.isfinite().all() for value in run.model.parameters())


@pretended
def test_every_plot(a100):
    data = random_data().to(CUDA)
    model = model_of("assignment", dim=24, depth=2, heads=2).to(CUDA)
    report = vit.evaluate(model, data.test)
    history = [{"epoch": e, **dict.fromkeys(("train_loss", "test_loss", "train_accuracy", "test_accuracy"), 0.5)}
               for e in (1, 2)]  # fmt: skip
    figures = [
        plots.augmentation_preview(data, vit.RECIPES["best"]),
        plots.training_curves(history),
        plots.prediction_grid(data.test, report),
        plots.confusion_matrix(report),
        plots.per_class_accuracy(report),
        plots.attention_overlay(model, data.test.images[:3], data.classes),
        plots.position_similarity(model),
        plots.what_it_is(model, data.test.images[0]),
    ]
    for figure in figures:
        figure.canvas.draw()
    public = {name for name, value in vars(plots).items() if callable(value) and value.__module__ == plots.__name__}
    assert len(figures) == len({name for name in public if not name.startswith("_")} - {"LiveCurves"})


# ------------------------------------------------------------------------------------------------- a real GPU


@pytest.fixture
def no_waits():
    def no_waits(run, steps=20):
        """Train for some steps, in which the host must not wait; returns the mean loss of an image at each."""
        run.network.train()
        losses = []
        while len(losses) < steps:
            for _, batches in run.chunks(mixed=True):
                torch.cuda.set_sync_debug_mode("error" if losses else "default")  # the first step may set things up
                try:
                    for images, targets, size in batches:
                        losses.append(run.step(images, targets, size)[0] / size)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
        return torch.stack(losses[:steps]).tolist()

    return no_waits


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("recipe", vit.RECIPES)
def test_twenty_steps_on_a_real_gpu_without_a_wait(no_waits, recipe, precision):
    """The recipe's own model and batch. Labels that repeat are learned a little; a step fits into 6 GiB."""
    torch.cuda.reset_peak_memory_stats()
    config = vit.RECIPES[recipe]
    data = random_data(train=11 * config.batch_size)
    losses = no_waits(run_of(recipe, model_of(recipe), data, precision=precision, warmup=0.0))
    assert all(0 < loss < 20 for loss in losses)
    assert sum(losses[-5:]) < sum(losses[:5])
    assert torch.cuda.max_memory_allocated() < 6 * 2**30


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", ["assignment", "best"])
def test_compiled_steps_on_a_real_gpu_give_the_plain_ones_losses(no_waits, recipe):
    """Without randomness; bf16's last bit is 0.4%, and a few steps carry it on."""
    changes = dict(mixup_alpha=0.0, cutmix_alpha=0.0, random_erasing=0.0, precision="bf16")
    losses = []
    for compiled in (False, True):
        model = model_of(recipe, dropout=0.0, drop_path=0.0)
        run = run_of(recipe, model, random_data(train=1280), compile=compiled, **changes)
        losses.append(no_waits(run, steps=10))
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("recipe", vit.RECIPES)
def test_a_run_on_a_real_gpu_stops_and_resumes(tmp_path, recipe, precision):
    """cuBLAS and atomic additions may round otherwise from run to run: the losses agree to a hundredth."""
    data = random_data(train=400, test=50)
    config = replace(vit.RECIPES[recipe], epochs=3, batch_size=100, precision=precision)
    whole = vit.train(model_of(recipe), data, config, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop(history):
        raise Stopped

    with pytest.raises(Stopped):
        vit.train(model_of(recipe), data, config, tmp_path / "parts", on_epoch=stop)
    parts = vit.train(model_of(recipe), data, config, tmp_path / "parts", resume=True)
    losses = [[row["train_loss"] for row in result.history] for result in (whole, parts)]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", vit.RECIPES)
@pytest.mark.parametrize("precision, bound", [("fp32", 0.05), ("bf16", 0.2), ("fp16", 0.05)])
def test_logits_on_a_real_gpu_are_the_cpus(recipe, precision, bound):
    """TF32 has 10 bits of mantissa, as fp16; bf16 has 7. Logits here are about 1."""
    model, images = model_of(recipe).eval(), random_data().test.images
    expected = vit.evaluation.predict_logits(model, images, precision="fp32")
    given = vit.evaluation.predict_logits(model.cuda(), images, precision=precision)
    assert (given - expected).abs().max() < bound * max(1.0, expected.abs().max().item())
