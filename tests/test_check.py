"""`python -m airl.check` says so when a device computes something wrong, and its exit status does too."""

import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch

from airl import check, seg, vit
from tests.pretend_gpu import T4, PretendGpu, pretend_gpu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the pretended GPU is for machines without one")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Narrow models, small batches, no network."""
    for name, config in vit.MODELS.items():
        monkeypatch.setitem(vit.MODELS, name, replace(config, dim=24, depth=2, heads=2))
        monkeypatch.setitem(vit.RECIPES, name, replace(vit.RECIPES[name], batch_size=16))
    monkeypatch.setattr(check, "_answers", lambda address: False)


def lines(capsys) -> dict[str, str]:
    """What was printed: each check's verdict; and the last line under ""."""
    *each, last = capsys.readouterr().out.splitlines()
    return {line[6:].split(":")[0]: line[:6].strip() for line in each} | {"": last}


def expected(precision) -> set[str]:
    precisions = {"fp32", precision}
    return {"versions", "device", "released models", *(f"training, recipe {name}" for name in vit.RECIPES)}.union(
        *({f"a ViT's logits, {p}", f"text to mask, {p}", f"tracking, {p}"} for p in precisions)
    )


def test_on_the_cpu_nothing_is_wrong(capsys, monkeypatch):
    monkeypatch.setattr(check.runtime, "_fast_precision", lambda device: "fp32")
    state = torch.get_rng_state()
    assert check.main() == 0
    said = lines(capsys)
    assert said.pop("") == "nothing is wrong" and said.pop("released models") == "--"
    assert said.keys() == expected("fp32") - {"released models"} and set(said.values()) == {"ok"}
    assert torch.equal(torch.get_rng_state(), state)


def on_gpu(monkeypatch, name, wrong):
    """On the pretended GPU the functions of this name give `wrong` of what they should."""
    right = PretendGpu.call

    def call(self, func, args, kwargs):
        out = right(self, func, args, kwargs)
        if getattr(func, "__name__", "") == name and self.holds(out):
            return self.put(wrong(out))
        return out

    monkeypatch.setattr(PretendGpu, "call", call)


def test_a_wrong_product_on_the_device_is_seen_everywhere(capsys, monkeypatch):
    """One column in sixteen of each linear layer's result is a little too large: what an overclocked card does."""
    monkeypatch.setattr(check, "tracking", lambda there: (True, ""))  # slow in fp16 on a CPU
    on_gpu(monkeypatch, "linear", lambda y: y * (1 + 2 * (torch.arange(y.shape[-1]) % 16 == 3)))
    with pretend_gpu(*T4):
        assert check.main() == 1
    said = lines(capsys)
    wrong = {name for name, verdict in said.items() if verdict == "WRONG"}
    assert said.keys() - {""} == expected("fp16")
    assert {"a ViT's logits, fp32", "a ViT's logits, fp16", "text to mask, fp32"} <= wrong
    assert (
        said["versions"] == said["device"] == "ok" and said[""] == f"{len(wrong)} of {len(said) - 1} checks are WRONG"
    )


def test_on_a_t4_that_is_right_nothing_is_wrong(capsys):
    with pretend_gpu(*T4):
        assert check.main() == 0
    said = lines(capsys)
    assert said.keys() - {""} == expected("fp16") and "WRONG" not in said.values()


def test_steps_that_do_not_learn_are_wrong(monkeypatch):
    here = check.runtime.choose("cpu", "fp32")
    assert check.training(here, "quick")[0]
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    assert not check.training(here, "quick")[0]


@pytest.mark.parametrize("look", [check.segmentation, check.tracking])
def test_masks_unlike_the_cpus_are_wrong(monkeypatch, look):
    here = check.runtime.choose("cpu", "fp32")
    assert look(here)[0]
    values = iter([0.94, *[1.0] * 99])
    monkeypatch.setattr("airl.seg.metrics.iou", lambda a, b: next(values))
    assert not look(here)[0]
    assert look(replace(here, precision="bf16"))[0]  # 0.94 is gone


def test_logits_that_are_not_finite_are_wrong(monkeypatch):
    from airl.vit import evaluation

    monkeypatch.setattr(evaluation, "predict_logits", lambda *args, **kwargs: torch.full((2, 10), float("nan")))
    assert not check.logits(check.runtime.choose("cpu", "fp32"))[0]


def test_a_check_that_fails_is_wrong_and_the_others_go_on(capsys, monkeypatch):
    def fail(*args):
        raise RuntimeError("CUDA error: an illegal\nmemory access")

    for name in ("training", "segmentation", "tracking"):
        monkeypatch.setattr(check, name, lambda *args: (True, ""))
    monkeypatch.setattr(check, "logits", fail)
    monkeypatch.setattr(check, "tracking", lambda *args: (np.bool_(False), ""))  # a verdict of NumPy's counts too
    assert check.main(device="cpu") == 1
    printed = capsys.readouterr().out
    assert "WRONG a ViT's logits, fp32: RuntimeError: CUDA error: an illegal memory access\n" in printed
    assert (
        printed.splitlines()[-1].startswith(f"{printed.count('WRONG') - 1} of ") and "WRONG tracking, fp32" in printed
    )


def test_the_device_and_why(monkeypatch):
    monkeypatch.setattr(check.shutil, "which", lambda name: None)
    cpu = check.runtime.choose("cpu", "bf16")
    assert check.hardware(cpu)[0] and "bf16 (the CPU has instructions for it); no CUDA GPU" in check.hardware(cpu)[1]
    monkeypatch.setattr(check.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    good, text = check.hardware(cpu)
    assert not good and "torch" in text and "sees no GPU" in text
    for capability, why in (((7, 5), "fp16 (bf16 needs compute capability 8.0)"), ((8, 0), "bf16 (from compute")):
        with pretend_gpu(capability):
            good, text = check.hardware(check.runtime.choose())
            assert good and why in text and "16.1 of 17.2 GB free" in text


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(check, "PACKAGES", ("torch", "no-such-package"))
    good, text = check.versions()
    assert not good and text.endswith("not installed: no-such-package") and f"torch {torch.__version__[:4]}" in text


def test_where_the_released_models_are(monkeypatch, tmp_path):
    from airl.seg import weights

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "SAM sam_vit_h_4b8939.pth: dl.fbaipublicfiles.com does not answer" in check.released()[1]
    monkeypatch.setattr(check, "_answers", lambda address: True)
    assert "SAM sam_vit_h_4b8939.pth: can be had from dl.fbaipublicfiles.com" in check.released()[1]
    monkeypatch.setitem(weights.SAM, "vit_h", replace(weights.SAM["vit_h"], size=3))
    (tmp_path / "sam_vit_h_4b8939.pth").write_bytes(b"ha")  # half an upload
    assert "SAM sam_vit_h_4b8939.pth: can be had" in check.released()[1]
    (tmp_path / "sam_vit_h_4b8939.pth").write_bytes(b"all")
    verdict, text = check.released()
    assert verdict is None and "SAM sam_vit_h_4b8939.pth: is here" in text


@pytest.mark.parametrize(
    "changes, good",
    [
        ({}, True),
        ({"peak": 0.6}, False),
        ({"score": 0.6}, False),
        ({"area": 0.05}, False),
        ({"area": 0.95}, False),
        ({"elephant": True}, False),
    ],
)
def test_the_portrait_has_a_person_and_no_elephant(monkeypatch, changes, good):
    said = {"peak": 0.9, "score": 0.9, "area": 0.5, "elephant": False, **changes}

    def segmenter(picture, prompts):
        assert picture.name == "grace_hopper.jpg" and prompts == ["a person", "an elephant"]
        mask = np.arange(100) < 100 * said["area"]
        person = types.SimpleNamespace(mask=mask, peak=said["peak"], score=said["score"], found=True)
        return person, types.SimpleNamespace(peak=0.1, found=said["elephant"])

    monkeypatch.setattr(seg.TextSegmenter, "from_pretrained", lambda *args, **kwargs: segmenter)
    assert bool(check.portrait(check.runtime.choose("cpu", "fp32"))[0]) is good


def test_the_command_line(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(check, "main", lambda *args: asked.append(args) or 1)
    monkeypatch.setattr(sys, "argv", ["check", "--device", "cpu", "--download"])
    assert check._command_line() == 1 and asked == [(True, "cpu")]
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["check", "--device", "gpu"])
    with pytest.raises(SystemExit):
        check._command_line()
    assert "device is 'gpu'; expected 'auto', 'cpu', 'cuda' or 'cuda:N'" in capsys.readouterr().err
