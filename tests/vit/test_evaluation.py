import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from airl import vit
from airl.vit.evaluation import Evaluation, predict_logits

C = 7
CLASSES = [f"class {i}" for i in range(C)]


@pytest.fixture(scope="module")
def report():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(C, (500,), generator=generator)
    logits = torch.randn(500, C, generator=generator) * 2
    logits[torch.arange(500), labels] += 1.5  # right more often than not
    return Evaluation(logits, labels, CLASSES)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = vit.ViTConfig(image_size=16, patch_size=4, num_classes=3, dim=24, depth=2, heads=2)
    config.mean, config.std, config.classes = (0.2, 0.3, 0.4), (0.3, 0.2, 0.1), ("red", "green", "blue")
    return vit.ViT(config)


def test_every_figure_equals_torchmetrics(report):
    logits, labels = report.logits, report.labels
    assert report.accuracy == pytest.approx(multiclass_accuracy(logits, labels, C, average="micro").item())
    assert report.top5 == pytest.approx(multiclass_accuracy(logits, labels, C, average="micro", top_k=5).item())
    assert torch.equal(report.confusion, multiclass_confusion_matrix(logits, labels, C))
    by_class = multiclass_accuracy(logits, labels, C, average=None)
    assert report.per_class == pytest.approx(dict(zip(CLASSES, by_class.tolist(), strict=True)))
    # Both sum float32 confidences over 15 bins, in another order and precision.
    expected = multiclass_calibration_error(logits.softmax(dim=1), labels, C, n_bins=15)
    assert report.ece == pytest.approx(expected.item(), abs=1e-6)


def test_a_sure_and_right_model_is_calibrated():
    logits = torch.eye(C) * 1000
    perfect = Evaluation(logits, torch.arange(C), CLASSES)
    assert (perfect.accuracy, perfect.ece, perfect.loss) == (1.0, 0.0, 0.0)
    wrong = Evaluation(logits, (torch.arange(C) + 1) % C, CLASSES)
    assert (wrong.accuracy, wrong.ece) == (0.0, 1.0)


def test_logits_are_those_of_normalised_images_in_eval_mode(model):
    images = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model.train()
    logits = predict_logits(model, images, precision="fp32", batch_size=2)
    assert model.training  # as it was
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.config.mean, model.config.std))
    with torch.no_grad():
        expected = model.eval()((images / 255 - mean) / std)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)  # other batches, other order of sums


def test_evaluate_refuses_labels_the_model_does_not_know(model):
    split = vit.Split(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="labels run from 0 to 3; this model has 3 classes, 0 to 2"):
        vit.evaluate(model, split)


def test_evaluate_refuses_classes_of_other_names(model):
    images, labels = torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.tensor([0, 2])
    vit.evaluate(model, vit.Split(images, labels, ["red", "green", "blue"]))
    with pytest.raises(ValueError, match="the model knows red, green, blue; the images are of bolt, ring, star"):
        vit.evaluate(model, vit.Split(images, labels, ["bolt", "ring", "star"]))
    split = vit.Dataset("tools", vit.Split(images, labels), vit.Split(images, labels), ["bolt", "ring", "star"]).test
    with pytest.raises(ValueError, match="the model knows red"):
        vit.evaluate(model, split.to("cpu"))


def test_a_model_that_is_not_finite_predicts_nothing(model):
    broken = vit.ViT(model.config)
    broken.blocks[1].mlp.fc1.weight.data[3, 4] = float("nan")
    with pytest.raises(ValueError, match="not a finite number: blocks.1.mlp.fc1.weight holds"):
        vit.predict(broken, np.zeros((16, 16, 3), np.uint8))


def test_a_notebook_shows_lines_not_tensors(report, model):
    split = vit.Split(torch.zeros(2, 3, 16, 24, dtype=torch.uint8), torch.tensor([0, 2]))
    assert repr(split) == "Split(2 images of 16x24 on cpu)"
    data = vit.Dataset("tools", split, split, ["bolt", "ring", "star"])
    assert repr(data).startswith("Dataset('tools': 3 classes, train Split(2 images") and "\n" not in repr(data)
    assert repr(report).startswith("Evaluation(accuracy ") and "\n" not in repr(report)
    assert report._repr_html_().count("<tr>") == 1 + C and "class 6" in report._repr_html_()


def test_one_image_in_many_forms_gives_one_prediction(model, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "image.png")
    forms = [
        array,
        Image.fromarray(array),
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        torch.from_numpy(array).permute(2, 0, 1),
    ]
    predictions = vit.predict(model, forms, precision="fp32")
    assert len(predictions) == 5 and all(p == predictions[0] for p in predictions)
    first = vit.predict(model, array, precision="fp32")
    assert first.confidence == first.probabilities[first.label] == max(first.probabilities.values())
    assert sum(first.probabilities.values()) == pytest.approx(1)
    assert set(first.probabilities) == {"red", "green", "blue"}
    logits = predict_logits(model, torch.from_numpy(array).permute(2, 0, 1)[None], precision="fp32")
    assert first.label == model.config.classes[logits.argmax()]
    assert vit.predict(model, []) == []


def test_the_central_square_of_a_photo_is_used(model):
    """The resampling filter reaches a little past the square's edge, hence the tolerance."""
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 30:70] = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    square = wide[:, 30:70].copy()
    whole, cut, corner = (vit.predict(model, x, precision="fp32") for x in (wide, square, wide[:, :40].copy()))
    assert whole.probabilities == pytest.approx(cut.probabilities, abs=1e-3)
    assert whole.probabilities != pytest.approx(corner.probabilities, abs=1e-3)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((3, 4, 4, 3), np.uint8), r"\(3, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), r"\(2, 3, 4, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "int32"),
        (torch.zeros(8, 9, 3, dtype=torch.uint8), r"\(8, 9, 3\); expected uint8 \(3, H, W\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
    ],
)
def test_a_wrong_shape_or_type_is_named(model, image, message):
    with pytest.raises(ValueError, match=message):
        vit.predict(model, image)


def test_a_missing_or_broken_file_is_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        vit.predict(model, tmp_path / "nowhere.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="broken.png"):
        vit.predict(model, tmp_path / "broken.png")
