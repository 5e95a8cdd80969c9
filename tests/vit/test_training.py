"""The loop: it follows torch's own AdamW and cosine, resumes bit for bit, and never loses a checkpoint."""

import csv
import errno
import functools
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from airl import vit
from airl.vit import training
from airl.vit.run import Run, learning_rate

train = functools.partial(vit.train, device="cpu")

TINY = vit.ViTConfig(image_size=16, patch_size=8, num_classes=3, dim=24, depth=2, heads=2, dropout=0.1, drop_path=0.1)
CONFIG = vit.TrainConfig(epochs=3, batch_size=16, precision="fp32")


@pytest.fixture(autouse=True)
def save_every_epoch(monkeypatch):
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)


def random_data(train=50, test=20, classes=3, size=16) -> vit.Dataset:
    generator = torch.Generator().manual_seed(0)

    def split(n):
        images = torch.randint(256, (n, 3, size, size), generator=generator, dtype=torch.uint8)
        return vit.Split(images, torch.arange(n) % classes)

    return vit.Dataset("random", split(train), split(test), [f"class {i}" for i in range(classes)])


def tiny_model(**changes) -> vit.ViT:
    torch.manual_seed(0)
    return vit.ViT(replace(TINY, **changes))


def same_weights(a: vit.ViT, b: vit.ViT) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_assignments_recipe_is_the_assignment():
    config = vit.RECIPES["assignment"]
    assert (config.epochs, config.batch_size, config.lr, config.weight_decay) == (200, 128, 1e-3, 0.05)
    assert (config.label_smoothing, config.crop_padding, config.flip, config.auto_augment) == (0.1, 4, True, True)
    assert (config.warmup, config.random_erasing, config.mixup_alpha, config.cutmix_alpha) == (0, 0, 0, 0)
    assert config.grad_clip is None
    assert vit.MODELS["assignment"] == vit.ViTConfig()


def test_learning_rate_equals_torchs_cosine():
    """CosineAnnealingLR(T_max=200) stepped once an epoch; both compute in double, by other formulas."""
    config = vit.RECIPES["assignment"]
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200)
    for epoch in range(200):
        for step in (0, 390):
            ours = learning_rate(config, epoch * 391 + step, 391)
            assert ours == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_learning_rate_warms_up_by_step_to_its_peak():
    config = replace(CONFIG, epochs=10, warmup=0.2, lr=1.0)
    rates = [learning_rate(config, step, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0 and rates[10:] == sorted(rates[10:], reverse=True)


def test_the_linear_schedule_equals_torchs():
    """LinearLR from 1 to 0 over all steps; both compute in double, by other formulas."""
    config = replace(CONFIG, epochs=4, schedule="linear", lr=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=20)
    for step in range(20):
        assert learning_rate(config, step, 5) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_a_misspelt_recipe_is_answered_with_those_there_are():
    for recipes in (vit.RECIPES, vit.MODELS):
        with pytest.raises(KeyError, match="no recipe 'asignment': expected one of assignment, quick, .*'assignment'"):
            recipes["asignment"]
        assert "asignment" not in recipes


def test_best_and_fast_keep_the_limit_of_parameters():
    for name in ("best", "fast"):
        assert vit.ViT(vit.MODELS[name]).num_parameters <= 6.4e6 and vit.RECIPES[name].epochs <= 200


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_a_short_run_warms_up_too(epochs):
    config = replace(vit.RECIPES["quick"], epochs=epochs)
    rates = [learning_rate(config, step, 100) for step in range(epochs * 100)]
    assert min(rates) > 0 and rates[0] < max(rates) == config.lr


@pytest.mark.parametrize("name, clip", [("adamw", None), ("adamw", 0.5), ("muon", None), ("muon", 0.5)])
def test_one_epoch_equals_a_loop_written_with_torch_alone(tmp_path, monkeypatch, plain_newton_schulz, name, clip):
    """Without randomness the run is torch's AdamW on smoothed cross-entropy over the same order of images.

    With "muon" the matrices of the blocks are torch's Muon's, its iterations in float32 as the run's are.
    The same operations, but fused and stacked ones round otherwise: 1e-5 of weights of the order of 0.1.
    """
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", plain_newton_schulz)
    data = random_data(train=40)
    config = replace(CONFIG, epochs=1, crop_padding=0, flip=False, auto_augment=False, grad_clip=clip, optimizer=name)
    shape = dict(dropout=0.0, drop_path=0.0)
    ours = train(tiny_model(**shape), data, config, tmp_path).model

    peer = tiny_model(**shape).train()
    settings = dict(lr=1e-3, weight_decay=0.05)
    matrices = [p for p in peer.blocks.parameters() if p.ndim == 2] if name == "muon" else []
    rest = [p for p in peer.parameters() if all(p is not matrix for matrix in matrices)]
    optimizers = [torch.optim.AdamW(rest, fused=False, **settings)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **settings))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in data.mean_std())
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for index in order.split(16):
        logits = peer((data.train.images[index] / 255 - mean) / std)
        cross_entropy(logits, data.train.labels[index], label_smoothing=0.1).backward()
        if clip:
            assert torch.nn.utils.clip_grad_norm_(peer.parameters(), clip) > clip
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for ours_p, peer_p in zip(ours.parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(ours_p, peer_p, rtol=0, atol=1e-5)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_training_gives_the_same_weights(tmp_path):
    """fp32 without randomness; fused kernels round otherwise: a tenth of one step of AdamW at 1e-3 is allowed."""
    config = replace(CONFIG, epochs=1, batch_size=25)
    results = []
    for compiled in (False, True):
        model = tiny_model(dropout=0.0, drop_path=0.0)
        out_dir = tmp_path / str(compiled)
        results.append(train(model, random_data(), replace(config, compile=compiled), out_dir).model.state_dict())
    plain, compiled = results
    assert plain.keys() == compiled.keys()  # torch.compile's own prefix is not in what is saved
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=0, atol=1e-4)


def test_a_run_writes_its_history_and_a_model_that_predicts_the_same(tmp_path):
    data = random_data()
    seen = []
    result = train(tiny_model(), data, CONFIG, tmp_path, on_epoch=lambda history: seen.append(len(history)))
    assert seen == [1, 2, 3]
    with open(tmp_path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items()} for row in rows] == result.history
    report = vit.evaluate(result.model, data.test, precision="fp32")
    assert result.accuracy == result.history[-1]["test_accuracy"] == report.accuracy
    assert result.best_epoch_accuracy == max(row["test_accuracy"] for row in result.history)
    again = vit.ViT.from_pretrained(tmp_path / "model")
    assert same_weights(again, result.model)
    assert again.config.classes == ("class 0", "class 1", "class 2")
    assert again.config.mean == pytest.approx(data.mean_std()[0])
    assert f"{result.accuracy:.2%}" in result.table()


def test_the_quick_recipes_ingredients_learn(tmp_path):
    """Three solid colours are learned in a few epochs by every ingredient at once: warm-up, mixing, erasing."""
    data = random_data(train=96)
    for split in (data.train, data.test):
        split.images = torch.zeros_like(split.images)
        split.images[torch.arange(len(split)), split.labels] = 200
    config = replace(
        CONFIG, epochs=12, lr=3e-3, warmup=0.1, grad_clip=1.0, auto_augment=False,
        random_erasing=0.25, mixup_alpha=0.8, cutmix_alpha=1.0, optimizer="muon", schedule="linear",
    )  # fmt: skip
    result = train(tiny_model(), data, config, tmp_path)
    assert result.history[0]["test_loss"] > result.history[-1]["test_loss"]
    assert result.accuracy == 1.0


@pytest.mark.parametrize("mixing, precision", [(0.0, "fp32"), (0.8, "bf16"), (0.8, "fp16")])
def test_resuming_between_epochs_changes_nothing(tmp_path, mixing, precision):
    """fp16 comes with the gradient scaler, whose scale is part of the state."""
    data = random_data()
    config = replace(
        CONFIG, mixup_alpha=mixing, cutmix_alpha=mixing, random_erasing=0.3, precision=precision,
        grad_clip=1.0, optimizer="muon" if mixing else "adamw", patch_drop=0.5 if mixing else 0.0,
    )  # fmt: skip
    whole = train(tiny_model(), data, config, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop(history):
        raise Stopped

    with pytest.raises(Stopped):
        train(tiny_model(), data, config, tmp_path / "parts", on_epoch=stop)
    saved = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert bool(saved["scaler"]) == (precision == "fp16")
    (tmp_path / "parts" / "history.csv").unlink()  # as if killed between the two files
    (tmp_path / "parts" / ".checkpoint.x1y2.pt").touch()  # as if killed while writing one
    parts = train(tiny_model(), data, config, tmp_path / "parts", resume=True)
    assert same_weights(parts.model, whole.model)
    assert [row["test_loss"] for row in parts.history] == [row["test_loss"] for row in whole.history]

    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"checkpoint.pt", "history.csv", "model"}
    third = train(tiny_model(), data, config, tmp_path / "parts", resume=True)  # nothing is left to do
    assert same_weights(third.model, whole.model) and third.history == parts.history


def test_patches_are_dropped_until_the_images_are_whole(tmp_path):
    data, model, seen = random_data(), tiny_model(), {}

    def count_tokens(block, inputs):
        if model.training:
            seen.setdefault(epoch[0], set()).add(inputs[0].shape[1])

    epoch = [1]
    model.blocks[0].register_forward_pre_hook(count_tokens)
    config = replace(CONFIG, epochs=4, patch_drop=0.5, mix_until=0.75)
    train(model, data, config, tmp_path, on_epoch=lambda history: epoch.__setitem__(0, len(history) + 1))
    assert seen == {1: {3}, 2: {3}, 3: {3}, 4: {5}}  # the class token and 2 or all 4 patches


def test_a_run_killed_in_the_middle_of_an_epoch_resumes_bit_for_bit(tmp_path):
    """kill -9 from outside, on the command line's own path; CPU, fp32."""
    data = random_data(train=600)
    for split, part in (("train", data.train), ("test", data.test)):
        for i, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
            path = tmp_path / "data" / split / str(label.item()) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    command = [
        sys.executable, "-m", "airl.vit", "train", "--data", tmp_path / "data", "--recipe", "quick",
        "--epochs", "3", "--batch-size", "8", "--precision", "fp32", "--device", "cpu", "--resume",
    ]  # fmt: skip
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    with subprocess.Popen([*command, "--out", checkpoint.parent], **quiet) as run:
        deadline = time.monotonic() + 100
        while not (history := checkpoint.with_name("history.csv")).exists():  # written just after the checkpoint
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.5 * float(next(csv.DictReader(history.open()))["seconds"]))  # into the second epoch
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
    assert torch.load(checkpoint, weights_only=True)["epoch"] < 3

    for name in ("killed", "whole"):
        subprocess.run([*command, "--out", tmp_path / name], check=True, **quiet)
    killed, whole = (vit.ViT.from_pretrained(tmp_path / name / "model") for name in ("killed", "whole"))
    assert same_weights(killed, whole)
    killed, whole = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("killed", "whole"))
    assert torch.equal(killed["random"][0]["generator"], whole["random"][0]["generator"])
    assert torch.equal(killed["random"][0]["torch"]["cpu"], whole["random"][0]["torch"]["cpu"])
    assert killed["step"] == whole["step"] == 3 * 600 // 8


WORKER = """
import os, shutil, sys, torch
sys.path.insert(0, {tests!r})
from airl import vit
from airl.vit import training
from airl.vit.run import Run
from test_training import CONFIG, PLAIN, random_data, same_weights, tiny_model, train

real = Run.chunks
def spy(run, mixed):
    # With the images' own numbers for labels it tells which images this process was given.
    state, train = run.generator.get_state(), run.data.train
    train.labels, labels = torch.arange(len(train)), train.labels
    seen.append([n for numbers, _ in real(run, mixed) for n in numbers.tolist()])
    train.labels = labels
    run.generator.set_state(state)
    return real(run, mixed)
Run.chunks = spy

for count in (40, 37):
    seen = []
    model = train(tiny_model(dropout=0.0, drop_path=0.0), random_data(train=count), PLAIN, f"{{count}}").model
    torch.save({{"seen": seen, "weights": model.state_dict()}}, f"{{count}}/rank{{os.environ['RANK']}}.pt")

def copy_the_first_checkpoint(history):
    if len(history) == 1:
        shutil.copytree("whole", "resumed")

training.SECONDS_BETWEEN_CHECKPOINTS = 0.0
whole = train(tiny_model(), random_data(), CONFIG, "whole", on_epoch=copy_the_first_checkpoint).model
resumed = train(tiny_model(), random_data(), CONFIG, "resumed", resume=True).model
assert same_weights(whole, resumed)
"""
PLAIN = replace(CONFIG, epochs=2, batch_size=9, crop_padding=0, flip=False, auto_augment=False)


def test_two_processes_train_one_model_and_see_each_image_once(tmp_path):
    """torchrun with gloo; batches of 9, so the shares differ by one.

    Of 40 images the last batch is 4. Of 37 one is left over, too few for two processes: it joins the batch before.
    Without dropout and augmentation the weights are also those of a single process. Gradients are summed in another
    order, and AdamW blows rounding up where a gradient is near 0: a tenth of one step of 1e-3 is allowed, and to one
    weight in a thousand, which differ from processor to processor, less than a step. With both, a run resumed after
    its first epoch ends with the weights of one that went on.
    """
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=os.path.dirname(__file__)))
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script],
        cwd=tmp_path, check=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True,
    )  # fmt: skip
    for count in (40, 37):
        first, second = (torch.load(tmp_path / f"{count}/rank{rank}.pt", weights_only=True) for rank in (0, 1))
        for name, value in first["weights"].items():
            assert torch.equal(value, second["weights"][name]), name
        for epoch in range(2):
            assert first["seen"][epoch] and second["seen"][epoch]
            assert sorted(first["seen"][epoch] + second["seen"][epoch]) == list(range(count))
        assert first["seen"][0] != first["seen"][1]  # another order in another epoch
        if count == 40:
            alone = train(tiny_model(dropout=0.0, drop_path=0.0), random_data(train=40), PLAIN, tmp_path / "one")
            state = alone.model.state_dict()
            apart = torch.cat([(first["weights"][name] - value).abs().flatten() for name, value in state.items()])
            assert apart.max() < 1e-3 and (apart > 1e-4).float().mean() < 1e-3, apart.max()


# What can go wrong.


@pytest.fixture
def finished(tmp_path):
    """A folder with a finished run of one epoch, its data, and the bytes of its checkpoint."""
    data = random_data()
    config = replace(CONFIG, epochs=1)
    train(tiny_model(), data, config, tmp_path)
    return tmp_path, data, config, (tmp_path / "checkpoint.pt").read_bytes()


def test_a_checkpoint_is_not_overwritten_unless_resumed(finished):
    folder, data, config, before = finished
    with pytest.raises(FileExistsError, match="holds another run; pass resume=True"):
        train(tiny_model(), data, config, folder)
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_other_settings_are_refused_by_name(finished):
    folder, data, config, before = finished
    with pytest.raises(ValueError) as caught:
        train(tiny_model(depth=3), data, replace(config, lr=5e-4, epochs=2), folder, resume=True)
    for line in (
        "recipe.lr: 0.001 in the checkpoint, 0.0005 now",
        "recipe.epochs: 1 in the checkpoint, 2 now",
        "model.depth: 2 in the checkpoint, 3 now",
    ):
        assert line in str(caught.value)
    assert "batch_size" not in str(caught.value)
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_of_version_0_1_resumes(tmp_path):
    """It had no field decay_on, which then is at its default; AdamW in a list; and all of its state contiguous."""
    config, data = replace(CONFIG, epochs=2), random_data()
    whole = train(tiny_model(), data, config, tmp_path / "whole")

    def stop(history):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_model(), data, config, tmp_path / "old", on_epoch=stop)
    path = tmp_path / "old" / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    del saved["settings"]["recipe"]["decay_on"]
    for moments in saved["optimizer"]["state"].values():
        moments |= {name: value.contiguous() for name, value in moments.items()}
    saved["optimizers"] = [saved.pop("optimizer")]
    torch.save(saved, path)
    with pytest.raises(ValueError, match="recipe.decay_on: 'all' in the checkpoint, 'matrices' now"):
        train(tiny_model(), data, replace(config, decay_on="matrices"), tmp_path / "old", resume=True)
    assert same_weights(train(tiny_model(), data, config, tmp_path / "old", resume=True).model, whole.model)

    saved["settings"]["recipe"]["sharpness"] = 3
    torch.save(saved, path)
    with pytest.raises(ValueError, match="recipe.sharpness: 3 in the checkpoint, None now"):
        train(tiny_model(), data, config, tmp_path / "old", resume=True)


def test_names_and_compilation_are_no_settings(finished):
    folder, data, config, _ = finished
    train(tiny_model(), data, replace(config, name="renamed", about="more", compile=True), folder, resume=True)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None, "foreign"])
def test_a_corrupt_or_foreign_checkpoint_is_named_and_left(finished, content):
    folder, data, config, before = finished
    path = folder / "checkpoint.pt"
    if content == "foreign":
        torch.save({"state_dict": {}}, path)
    else:
        path.write_bytes(before[: len(before) // 2] if content is None else content)
    damaged = path.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint.pt .*(cannot be read|is not a checkpoint).* left as it is"):
        train(tiny_model(), data, config, folder, resume=True)
    assert path.read_bytes() == damaged


def test_a_checkpoint_cannot_run_code(finished):
    folder, data, config, _ = finished

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(folder / "pwned"),))

    torch.save({"model": Evil()}, folder / "checkpoint.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        train(tiny_model(), data, config, folder, resume=True)
    assert not (folder / "pwned").exists()


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    """The kernel refuses to let any file grow past 60 kB, after the first epoch's checkpoint was written."""
    data = random_data()

    def fill_the_disk(history):
        if len(history) == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match=r"cannot save .*checkpoint.pt .*already there is untouched"):
            train(tiny_model(), data, CONFIG, tmp_path, on_epoch=fill_the_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "history.csv"]
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == 1
    resumed = train(tiny_model(), data, CONFIG, tmp_path, resume=True)
    assert len(resumed.history) == 3


def test_a_folder_that_cannot_be_written_is_noticed_before_the_first_epoch(tmp_path, monkeypatch):
    """By a file in its way, and by what the system says; what to do is told for each."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(Run, "epoch", lambda *_: pytest.fail("trained"))
    with pytest.raises(OSError, match=r"cannot write to .*file/run .*A file is in the way"):
        train(tiny_model(), random_data(), CONFIG, tmp_path / "file" / "run")
    for number, advice in ((errno.EACCES, "change its permissions"), (errno.ENOSPC, "Free some space")):

        def refuse(*_, number=number, **__):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("tempfile.mkstemp", refuse)
        with pytest.raises(OSError, match=f"cannot write to .*{os.strerror(number)}.*{advice}"):
            train(tiny_model(), random_data(), CONFIG, tmp_path / "run")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    result = train(tiny_model(), random_data(), replace(CONFIG, epochs=1), "~/run")
    assert result.out_dir == tmp_path / "run"
    assert same_weights(vit.ViT.from_pretrained("~/run/model"), result.model)


def test_checkpoints_and_calls_are_half_a_minute_apart(tmp_path, monkeypatch):
    """After the first epoch, the last, and those that end 30 seconds after the last time; here each takes 12."""
    monkeypatch.undo()
    clock, real = [0.0], Run.epoch
    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])

    def epoch(run, bar):
        real(run, bar)
        clock[0] += 12.0

    monkeypatch.setattr(Run, "epoch", epoch)
    calls = []

    def on_epoch(history):
        saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        assert saved["epoch"] == len(history) == len((tmp_path / "history.csv").read_text().splitlines()) - 1
        calls.append(len(history))

    train(tiny_model(), random_data(), replace(CONFIG, epochs=8), tmp_path, on_epoch=on_epoch)
    assert calls == [1, 4, 7, 8]


def test_seconds_count_all_that_a_user_waits_for(tmp_path):
    """Drawing and saving between the epochs are in the next row."""
    start = time.perf_counter()
    result = train(tiny_model(), random_data(), CONFIG, tmp_path, on_epoch=lambda _: time.sleep(0.2))
    waited = time.perf_counter() - start
    assert min(row["seconds"] for row in result.history[1:]) > 0.2
    assert 0.4 < result.seconds < waited


def test_diverging_in_the_first_epoch_claims_no_checkpoint(tmp_path):
    model = tiny_model()
    model.head.bias.data.fill_(math.nan)
    with pytest.raises(vit.TrainingDiverged, match="became nan in epoch 1; nothing was saved"):
        train(model, random_data(), CONFIG, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    data = random_data()
    model = tiny_model()

    def poison(history):
        if len(history) == 2:
            model.head.bias.data.fill_(math.nan)

    with pytest.raises(vit.TrainingDiverged, match="became nan in epoch 3; the checkpoint of epoch 2 is kept"):
        train(model, data, CONFIG, tmp_path, on_epoch=poison)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["epoch"] == 2 and all(torch.isfinite(value).all() for value in saved["model"].values())


def test_a_weight_that_is_not_finite_is_never_saved(tmp_path, monkeypatch):
    """The last step of an epoch can break the weights after the last loss was finite."""
    real = torch.optim.AdamW.step
    steps = iter(range(100))

    def break_the_last_step(self, *args, **kwargs):
        real(self, *args, **kwargs)
        if next(steps) == 7:  # the last of the second epoch's four
            self.param_groups[0]["params"][0].data.fill_(math.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", break_the_last_step)
    with pytest.raises(vit.TrainingDiverged, match="a weight became .* in epoch 2"):
        train(tiny_model(), random_data(), CONFIG, tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == 1
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "changes, shape, message",
    [
        (dict(batch_size=51), {}, "batch_size is 51; expected at most the 50 training images"),
        ({}, dict(image_size=32), "random has images of .*16, 16.*image_size is 32"),
        ({}, dict(num_classes=10), "random has 3 classes; the model's num_classes is 10"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path, changes, shape, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_model(**shape), random_data(), replace(CONFIG, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(epochs=0), "epochs is 0"),
        (dict(lr=-1.0), "lr is -1.0"),
        (dict(optimizer="sgd"), "optimizer is 'sgd'; expected 'adamw' or 'muon'"),
        (dict(schedule="step"), "schedule is 'step'; expected 'cosine' or 'linear'"),
        (dict(patch_drop=1.0), "patch_drop is 1.0; expected a share below 1"),
        (dict(warmup=1.0), "warmup is 1.0; expected a share below 1"),
        (dict(batch_size=2.5), "batch_size is 2.5; expected a whole number above 0"),
        (dict(crop_padding=-1), "crop_padding is -1; expected a whole number of pixels"),
        (dict(grad_clip=-1.0), "grad_clip is -1.0; expected None or a number above 0"),
        (dict(mixup_alpha=-0.1), "mixup_alpha is -0.1; expected 0 or more"),
        (dict(label_smoothing=1.5), "label_smoothing is 1.5"),
        (dict(lr="1e-3"), "lr is '1e-3'; expected a number above 0"),
        (dict(lr=math.nan), "lr is nan"),
        (dict(epochs=True), "epochs is True; expected a whole number"),
        (dict(grad_clip="1"), "grad_clip is '1'"),
        (dict(warmup=None), "warmup is None"),
        (dict(seed=0.5), "seed is 0.5; expected a whole number"),
        (dict(flip="no"), "flip is 'no'; expected True or False"),
        (dict(compile="yes"), "compile is 'yes'; expected True, False or 'auto'"),
        (dict(precision="int8"), "precision is 'int8'; expected 'auto', 'fp32', 'bf16' or 'fp16'"),
        (dict(decay_on="some"), "decay_on is 'some'"),
    ],
)
def test_a_wrong_recipe_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)
