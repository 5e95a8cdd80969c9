"""What the loop does with a recipe: each thing that it could leave out without a word."""

import contextlib
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from airl import distributed, runtime, vit
from airl.vit.run import Run, learning_rate

SHAPE = dict(image_size=16, patch_size=8, num_classes=3, dim=24, depth=2, heads=2)
PLAIN = vit.TrainConfig(
    epochs=2, batch_size=16, precision="fp32", crop_padding=0, flip=False, auto_augment=False, label_smoothing=0.0
)


def data(train=40, test=20) -> vit.Dataset:
    generator = torch.Generator().manual_seed(0)
    splits = []
    for count in (train, test):
        images = torch.randint(256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
        splits.append(vit.Split(images, torch.arange(count) % 3))
    return vit.Dataset("random", *splits, ["a", "b", "c"])


def make_run(model: vit.ViT | None = None, dataset: vit.Dataset | None = None, **changes) -> Run:
    config = replace(PLAIN, **changes)
    torch.manual_seed(0)
    model = model or vit.ViT(vit.ViTConfig(dropout=0.0, **SHAPE))
    return Run(model, dataset or data(), config, runtime.choose("cpu", config.precision), distributed.Group())


def run_epoch(run: Run) -> None:
    run.epoch(tqdm(disable=True))


def seen_images(run: Run, mixed: bool = False) -> tuple[torch.Tensor, torch.Tensor, list]:
    """The bytes of an epoch's images as the steps see them, the numbers of the images that they were, and targets."""
    run.data.train.labels = torch.arange(len(run.data.train))
    images, numbers, targets = [], [], []
    for labels, batches in run.chunks(mixed):
        numbers.append(labels)
        for x, target, _ in batches:
            images.append(x)
            targets.append(target)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (run.model.config.mean, run.model.config.std))
    return ((torch.cat(images) * std + mean) * 255).round(), torch.cat(numbers), targets


def test_every_step_has_the_schedules_rate_for_every_parameter(monkeypatch):
    rates, step = [], torch.optim.AdamW.step

    def record(optimizer, *args, **kwargs):
        rates.append({group["lr"] for group in optimizer.param_groups})
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    run = make_run(optimizer="muon", decay_on="matrices", warmup=0.4, schedule="linear", lr=0.01)
    run_epoch(run), run_epoch(run)
    assert rates == [{learning_rate(run.config, i, 3)} for i in range(6)]
    assert [row["lr"] for row in run.history] == [learning_rate(run.config, i, 3) for i in (2, 5)]


def test_each_augmentation_is_applied_alone_and_none_without_it():
    originals = data().train.images.float()

    def unchanged(**changes):
        images, numbers, _ = seen_images(make_run(**changes))
        assert sorted(numbers.tolist()) == list(range(40))
        return images, originals[numbers]

    images, before = unchanged()
    assert torch.equal(images, before)

    images, before = unchanged(flip=True)
    same, mirrored = ((images == x).flatten(1).all(1) for x in (before, before.flip(-1)))
    assert (same | mirrored).all() and 8 <= same.sum() <= 32  # 40 fair coins

    images, before = unchanged(crop_padding=4)
    shifted = torch.nn.functional.pad(before, (4, 4, 4, 4)).unfold(2, 16, 1).unfold(3, 16, 1)  # (B, 3, 9, 9, 16, 16)
    matches = (shifted == images[:, :, None, None]).all(1).flatten(3).all(3)  # (B, 9, 9)
    assert (matches.flatten(1).sum(1) >= 1).all() and matches.any(0).sum() > 15

    images, before = unchanged(auto_augment=True)
    assert 15 <= (images != before).flatten(1).any(1).sum() < 40  # most sub-policies do something, some do not

    images, _ = unchanged(random_erasing=1.0)
    mean = torch.tensor(data().mean_std()[0]).mul(255).round().view(3, 1, 1)
    assert ((images == mean).all(1).flatten(1).sum(1) > 4).all()  # a box of at least 2% of 256 pixels


def test_mixing_and_patch_dropping_stop_where_the_recipe_says():
    run = make_run(epochs=4, mix_until=0.5, mixup_alpha=1.0, mix_probability=1.0, patch_drop=0.5)
    kinds, step = [], run.step

    def record(images, targets, batch_size):
        kinds.append((targets.dtype, run.model.patch_drop.probability))
        return step(images, targets, batch_size)

    run.step = record
    for _ in range(4):
        run_epoch(run)
    assert kinds == [(torch.float32, 0.5)] * 6 + [(torch.int64, 0.0)] * 6


@pytest.mark.parametrize("mixup, cutmix", [(1.0, 0.0), (0.0, 1.0)])
def test_mixed_images_come_with_their_targets(mixup, cutmix):
    """The images are of one value, their class's: so the mean of what a step sees tells its targets."""
    dataset = data(train=48)
    dataset.train.images = (dataset.train.labels * 100).to(torch.uint8)[:, None, None, None].repeat(1, 3, 16, 16)
    for probability in (0.0, 1.0):
        run = make_run(dataset=dataset, mixup_alpha=mixup, cutmix_alpha=cutmix, mix_probability=probability)
        mean, std = run.model.config.mean[0], run.model.config.std[0]
        mixed = 0
        for _, batches in run.chunks(mixed=True):
            for x, targets, _ in batches:
                value = (x.mean((1, 2, 3)) * std + mean) * 255
                torch.testing.assert_close(value, targets @ torch.tensor([0.0, 100.0, 200.0]), rtol=0, atol=0.01)
                mixed += (targets.amax(1) < 1).sum()
        assert (mixed > 10) == (probability == 1.0)


@pytest.mark.parametrize("precision, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_steps_and_evaluation_compute_in_the_recipes_precision(precision, dtype):
    run = make_run(precision=precision)
    seen = {True: set(), False: set()}
    run.model.blocks[0].mlp.fc1.register_forward_hook(
        lambda module, inputs, output: seen[module.training].add(output.dtype)
    )
    run_epoch(run)
    assert seen == {True: {dtype}, False: {dtype}}


def test_the_seed_decides_the_order_the_augmentation_and_dropout():
    orders, drops, images = [], [], []
    for seed in (0, 3, 3):
        run = make_run(seed=seed, flip=True)
        drops.append(torch.rand(3))
        seen, numbers, _ = seen_images(run)
        orders.append(numbers)
        images.append(seen)
    assert torch.equal(orders[1], torch.randperm(40, generator=torch.Generator().manual_seed(3)))
    for values in (orders, drops, images):
        assert torch.equal(values[1], values[2]) and not torch.equal(values[0], values[1])


def test_the_history_tells_the_loss_and_accuracy_of_the_steps():
    """Against a loop that evaluates each batch with the weights before its step. The sums round: 1e-5."""
    run = make_run(label_smoothing=0.1)
    loss, right, step = 0.0, 0, run.step

    def follow(images, targets, batch_size):
        nonlocal loss, right
        with torch.no_grad():
            logits = run.model(images)
        loss += cross_entropy(logits, targets, label_smoothing=0.1, reduction="sum").item()
        right += (logits.argmax(1) == targets).sum().item()
        return step(images, targets, batch_size)

    run.step = follow
    run_epoch(run)
    row = run.history[0]
    assert row["train_loss"] == pytest.approx(loss / 40, abs=1e-5) and row["train_accuracy"] == right / 40
    report = vit.evaluate(run.model, run.data.test, precision="fp32")
    assert (row["test_loss"], row["test_accuracy"]) == (report.loss, report.accuracy)


def test_chunks_are_bounded_in_bytes_and_change_nothing_without_randomness(monkeypatch):
    from airl.vit import run as module

    results = []
    for size, chunks in ((1, 3), (2 * 16 * 3 * 16 * 16 * 4, 2), (10**9, 1)):
        monkeypatch.setattr(module, "CHUNK_BYTES", size)
        run = make_run()
        state = run.generator.get_state()
        assert len(list(run.chunks(mixed=False))) == chunks
        run.generator.set_state(state)
        run_epoch(run)
        results.append((run.model.head.weight.detach().clone(), run.history[0]["train_accuracy"]))
    for weight, accuracy in results[1:]:
        assert torch.equal(weight, results[0][0]) and accuracy == results[0][1]


def test_a_chunk_fits_beside_the_model_on_a_small_gpu():
    """Augmentation holds several copies of a chunk at once: 48 MiB are 4,096 of CIFAR-10's images."""
    from airl.vit.run import CHUNK_BYTES

    assert CHUNK_BYTES == 4096 * 3 * 32 * 32 * 4


def test_only_full_batches_are_compiled_for(monkeypatch):
    sizes = []

    def compile(self, network):
        return lambda x: sizes.append(len(x)) or network(x)

    monkeypatch.setattr(runtime.Runtime, "compile", compile)
    run_epoch(make_run(compile=True))
    assert sizes == [16, 16]  # of 40 images
    run_epoch(make_run(compile="auto"))  # never on a CPU
    assert sizes == [16, 16]


def test_nothing_is_asked_of_the_device_within_a_chunk(monkeypatch):
    """Reading a value makes the host wait; the bar alone may, when it is drawn."""
    run = make_run(grad_clip=1.0, optimizer="muon", precision="fp16", mixup_alpha=1.0)
    run_epoch(run)

    def wait(*_):
        raise AssertionError("the host waits")

    step = run.step

    def watched(*args):
        with contextlib.ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy"):
                patch.setattr(torch.Tensor, name, wait)
            return step(*args)

    run.step = watched
    run_epoch(run)


class RecordingBar:
    """A bar that is drawn after every step."""

    def __init__(self):
        self.shown, self.images = [], []

    def update(self, images):
        self.images.append(images)
        return True

    def set_postfix(self, **values):
        self.shown.append(values)

    def set_description(self, text, refresh):
        self.description = text


def test_the_bar_shows_the_loss_and_accuracy_so_far_and_the_last_test_accuracy():
    """The last line of an epoch is its row in the history; until the first evaluation there is no test accuracy."""
    run, bar = make_run(label_smoothing=0.1), RecordingBar()
    run.epoch(bar)
    assert bar.images == [16, 16, 8] and bar.description == "epoch 1/2"
    row = run.history[0]
    last = dict(loss=f"{row['train_loss']:.3f}", train=f"{row['train_accuracy']:.1%}", refresh=False)
    assert bar.shown[2] == {**last, "test": "-"} and bar.shown[3] == {**last, "test": f"{row['test_accuracy']:.1%}"}
    run.epoch(bar)
    assert bar.description == "epoch 2/2" and bar.shown[4]["test"] == bar.shown[3]["test"]


def test_a_loss_that_is_not_finite_stops_the_epoch_when_the_bar_is_drawn():
    run, bar = make_run(), RecordingBar()
    with torch.no_grad():
        run.model.head.weight[0, 0] = float("nan")
    with pytest.raises(vit.TrainingDiverged):
        run.epoch(bar)
    assert bar.images == [16]  # of three steps


def test_whether_to_compile_is_asked_for_all_steps_of_the_run(monkeypatch):
    asked = []
    monkeypatch.setattr(runtime.Runtime, "compiling_pays", lambda self, steps: asked.append(steps))
    make_run(compile="auto", epochs=5)
    assert asked == [5 * 3]


def test_the_smallest_of_everything_trains():
    """One block, one head, one epoch: the limits themselves are allowed."""
    config = vit.ViTConfig(image_size=16, patch_size=16, num_classes=3, dim=1, depth=1, heads=1)
    run = make_run(vit.ViT(config), epochs=1, batch_size=1)
    assert len(list(run.chunks(mixed=False))[0][0]) == 40
    run_epoch(run)
    assert run.done and run.steps_done == 40
