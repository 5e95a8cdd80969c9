"""Each figure shows what it is given; how it looks is for a person to judge (`make run` leaves them in out/)."""

import pytest
import torch

from airl import vit
from airl.vit import plots

CLASSES = ["cat", "dog", "frog"]


@pytest.fixture(scope="module")
def split():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (30, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return vit.Split(images, torch.arange(30) % 3)


@pytest.fixture(scope="module")
def report(split):
    logits = torch.nn.functional.one_hot(split.labels, 3) * 3.0
    logits[:6] = logits[:6].roll(1, dims=1)  # six mistakes, two a class
    return vit.Evaluation(logits, split.labels, CLASSES)


def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_curves_show_both_splits_and_the_last_accuracy():
    keys = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    history = [{"epoch": e, **{key: e / 10 + i / 100 for i, key in enumerate(keys)}} for e in (1, 2, 3)]
    loss, accuracy = plots.training_curves(history).axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[row[k] for row in history] for k in keys[::2]]
    assert [list(line.get_ydata()) for line in accuracy.lines] == [[row[k] for row in history] for k in keys[1::2]]
    assert accuracy.get_title() == f"Accuracy: {history[-1]['test_accuracy']:.1%} of the test images after epoch 3"


@pytest.mark.parametrize("epochs", [1, 2, 5, 25, 200])
def test_no_tick_stands_at_an_epoch_that_is_none(epochs):
    rows = [
        dict(epoch=e, train_loss=1, train_accuracy=0.5, test_loss=1, test_accuracy=0.5) for e in range(1, epochs + 1)
    ]
    for axis in plots.training_curves(rows).axes:
        left, right = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if left <= tick <= right]
        assert ticks and all(tick == int(tick) and 1 <= tick <= epochs for tick in ticks)


def test_confusion_matrix_is_by_true_class(report):
    axis = plots.confusion_matrix(report).axes[0]
    assert axis.images[0].get_array().sum(axis=1).tolist() == pytest.approx([1, 1, 1])
    assert sorted(texts(axis)) == ["20%"] * 3 + ["80%"] * 3
    assert axis.get_ylabel() == "true class" and [t.get_text() for t in axis.get_yticklabels()] == CLASSES


def test_per_class_accuracy_is_sorted(report):
    axis = plots.per_class_accuracy(report).axes[0]
    assert [bar.get_width() for bar in axis.patches] == sorted(report.per_class.values())
    labels = [label.get_text() for label in axis.get_yticklabels()]  # beside the bars, where no line crosses them
    assert labels == [f"{name}  {value:.1%}" for name, value in sorted(report.per_class.items(), key=lambda i: i[1])]


def test_predictions_show_right_and_wrong_ones(split, report):
    figure = plots.prediction_grid(split, report, count=6)
    above, below = figure.subfigs
    assert len(above.axes) == 6 and len(below.axes) == 6
    assert all("\nis " in axis.get_title() for axis in below.axes)
    right = vit.Evaluation(torch.eye(3)[split.labels], split.labels, CLASSES)
    assert plots.prediction_grid(split, right).subfigs[1].get_suptitle() == "No mistakes"


def test_augmentation_preview_shows_the_untouched_image_first(split):
    data = vit.Dataset("random", split, split, CLASSES)
    figure = plots.augmentation_preview(data, vit.RECIPES["assignment"], versions=3)
    assert len(figure.axes) == 3 * 4
    for row in range(3):
        first = figure.axes[row * 4].images[0].get_array()
        assert torch.equal(torch.from_numpy(first.data), split.images[row].permute(1, 2, 0))


def test_attention_and_positions_have_the_grid_of_patches(split):
    model = vit.ViT(vit.ViTConfig(image_size=16, patch_size=4, num_classes=3, dim=24, depth=2, heads=2)).train()
    figure = plots.attention_overlay(model, split.images[:3], CLASSES)
    overlay = figure.axes[3].images[1].get_array()
    assert overlay.shape == (4, 4) and overlay.sum() == pytest.approx(1, abs=1e-5)
    assert model.training  # as it was
    maps = plots.position_similarity(model).axes[:16]
    for place, axis in enumerate(maps):
        assert axis.images[0].get_array().flat[place] == pytest.approx(1, abs=1e-5)  # alike to itself


def test_what_a_picture_is_taken_for():
    """A wide picture: its middle, as large as it is and as small as the model sees it, and the surest class on top."""
    config = vit.ViTConfig(image_size=16, dim=24, depth=2, heads=2, classes=tuple("abcdefghij"))
    model, wide = vit.ViT(config).eval(), torch.randint(256, (40, 90, 3), dtype=torch.uint8).numpy()
    figure = plots.what_it_is(model, wide)
    square, seen, attention, bars = figure.axes
    assert (square.images[0].get_array() == wide[:, 25:65]).all()
    assert seen.images[0].get_array().shape == (16, 16, 3)
    expected = vit.attention_rollout(model.attention_maps(seen_by(model, seen.images[0].get_array())))[0]
    assert torch.allclose(torch.tensor(attention.images[1].get_array()), expected, atol=1e-6)
    prediction = vit.predict(model, wide)
    assert [bar.get_width() for bar in bars.patches] == list(prediction.probabilities.values())[4::-1]
    assert bars.get_yticklabels()[-1].get_text() == f"{prediction.label}  {prediction.confidence:.0%}"


def seen_by(model, pixels):
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.config.mean, model.config.std))
    return ((torch.tensor(pixels).permute(2, 0, 1) / 255 - mean) / std)[None]


def test_every_figure_has_a_title(split, report):
    model = vit.ViT(vit.ViTConfig(image_size=16, patch_size=4, num_classes=3, dim=24, depth=2, heads=2))
    data = vit.Dataset("random", split, split, CLASSES)
    for figure in (
        plots.augmentation_preview(data, vit.RECIPES["assignment"]),
        plots.confusion_matrix(report),
        plots.confusion_matrix(vit.Evaluation(torch.eye(10), torch.arange(10), [f"class {i}" for i in range(10)])),
        plots.per_class_accuracy(report),
        plots.attention_overlay(model, split.images[:8]),
        plots.position_similarity(model),
        plots.what_it_is(model, split.images[0]),
    ):
        assert figure.get_suptitle() or figure.axes[0].get_title()
        figure.draw_without_rendering()
        for axis in figure.axes:
            for text in (axis.title, axis.xaxis.label, axis.yaxis.label, *figure.texts):
                box, name = text.get_window_extent(), text.get_text()
                assert not name or (box.x0 >= 0 and box.x1 <= figure.bbox.width), f"{name} is cut off"
                assert not name or (box.y0 >= 0 and box.y1 <= figure.bbox.height), f"{name} is cut off"
