"""The way from a run's folder to the model in the package, small."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from airl import vit
from training import pack_vit


def test_a_run_becomes_a_rounded_model_that_says_how_it_was_trained(tmp_path):
    for part, count in (("train", 16), ("test", 6)):
        for name, shade in (("dark", 60), ("light", 200)):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (16, 16), (shade + i, shade, shade)).save(tmp_path / "data" / part / name / f"{i}.png")
    data = vit.load_dataset(tmp_path / "data")
    model = vit.ViT(vit.ViTConfig(image_size=16, num_classes=2, dim=16, depth=1, heads=2))
    config = vit.TrainConfig(epochs=2, batch_size=8, auto_augment=False)
    trained = vit.train(model, data, config, tmp_path / "run").model
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "cat.jpg").write_bytes(b"stays")
    pack_vit.main([str(tmp_path / "run"), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "tiny")])

    names = {path.name for path in (tmp_path / "tiny").iterdir()}
    assert names == {"cat.jpg", "config.json", "model.safetensors", "training.json"}
    weights = load_file(tmp_path / "tiny" / "model.safetensors")
    expected = trained.state_dict()
    assert all(torch.equal(weights[name], value.bfloat16()) for name, value in expected.items() if value.ndim)
    packed = vit.ViT.from_pretrained(tmp_path / "tiny")
    assert packed.config == trained.config
    (row,) = json.loads((tmp_path / "tiny" / "training.json").read_text())["rows"]
    assert row["epochs"] == 2 and row["recipe"] == "custom"
    assert row["rounded: test accuracy, %"] == pytest.approx(100 * vit.evaluate(packed, data.test).accuracy, abs=0.01)
