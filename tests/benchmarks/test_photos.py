import json

import numpy as np
import pytest

from airl import images
from airl.scenes import shapes
from benchmarks import photos

masks = pytest.importorskip("pycocotools.mask")


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Six drawn scenes as COCO lays them out; a category for every colour and shape."""
    folder = tmp_path_factory.mktemp("drawn")
    names = [f"{colour} {shape}" for colour in shapes.COLOURS for shape in shapes.SCENE_SHAPES]
    said = {"images": [], "annotations": [], "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)]}
    for number in range(1, 7):
        scene = shapes.scene(900_000 + number, kind=("convex", "several")[number % 2])
        images.save(scene.image, folder / "val" / f"{number:06}.png")
        H, W = scene.image.shape[:2]
        said["images"].append({"id": number, "file_name": f"{number:06}.png", "height": H, "width": W})
        for thing in scene.objects:
            encoded = masks.encode(np.asfortranarray(thing.mask.astype(np.uint8)))
            one = {
                "id": len(said["annotations"]) + 1,
                "image_id": number,
                "category_id": names.index(f"{thing.colour} {thing.shape}") + 1,
                "segmentation": {"size": [H, W], "counts": encoded["counts"].decode()},
            }
            said["annotations"].append(one)
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(said))
    return folder


def test_truths_are_those_drawn_and_absent_prompts_are_of_no_object(coco):
    scenes = {shapes.scene(900_000 + n, kind=("convex", "several")[n % 2]).image.tobytes(): n for n in range(1, 7)}
    seen = set()
    for photo, truths, absent in photos.read(coco, None, 100, seed=0):
        number = scenes[photo.tobytes()]
        scene = shapes.scene(900_000 + number, kind=("convex", "several")[number % 2])
        seen.add(number)
        assert set(truths) == {shapes.phrase(thing.colour, thing.shape) for thing in scene.objects}
        for prompt, truth in truths.items():
            assert np.array_equal(truth, scene.truth(prompt))
        assert len(absent) == len(truths) and not any(scene.truth(prompt).any() for prompt in absent)
    assert seen == set(range(1, 7))


def test_the_embedded_models_are_measured_on_it(coco, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.record.RESULTS", tmp_path)
    monkeypatch.setattr(photos, "THRESHOLDS", (0.5, 0.999))
    monkeypatch.setattr(photos, "WAYS", {name: way for name, way in photos.WAYS.items() if name == "recipe best"})
    photos.main([str(coco), "--tiny", "--device", "cpu", "--photos", "4"])
    (record,) = json.loads((tmp_path / "photos.json").read_text())["records"]
    middle, strict = record["rows"]
    assert middle["recipe best"] > 0.8 > strict["recipe best"]
    assert middle["coarse mask, no SAM"] > 0.7
    (record,) = json.loads((tmp_path / "photos_presence.json").read_text())["records"]
    refused = [row["absent refused, %"] for row in record["rows"]]
    missed = [row["present missed, %"] for row in record["rows"]]
    assert refused == sorted(refused) and missed == sorted(missed)
    assert refused[-1] > 50 > missed[0]


def test_a_folder_without_annotations_or_pictures_says_what_is_missing(coco, tmp_path):
    with pytest.raises(FileNotFoundError, match="has 0 files annotations/instances_"):
        next(photos.read(tmp_path, None, 1, 0))
    file = coco / "annotations" / "instances_val.json"
    with pytest.raises(FileNotFoundError, match=".png is in none of"):
        next(photos.read(tmp_path, file, 1, 0))
