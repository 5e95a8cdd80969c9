"""Data sets against torchvision, PIL and numpy, and downloads against a local server that misbehaves."""

import hashlib
import pickle
import tarfile
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import functional as F

from airl import download as download_module
from airl.scenes import shapes
from airl.vit import data as data_module
from airl.vit.data import Dataset, Split, load_dataset
from tests import serving

# --- Split and Dataset ---------------------------------------------------------------------------------------


def make_split(n=6, size=4, labels=None, seed=0):
    images = torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(n) % 2 if labels is None else torch.tensor(labels)
    return Split(images.to(torch.uint8), labels)


def test_mean_std_equal_numpys():
    data = Dataset("random", make_split(50, 8), make_split(6, 8), ["a", "b"])
    pixels = data.train.images.numpy() / 255
    mean, std = data.mean_std()
    # Both sum in float64: they differ by its rounding only.
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std((0, 2, 3)), rtol=1e-12)


def test_a_constant_channel_can_be_normalised():
    split = make_split(6, 8)
    split.images[:, 1] = 7
    mean, std = Dataset("plain", split, split, ["a", "b"]).mean_std()
    assert mean[1] == pytest.approx(7 / 255) and std[1] == 1 / 255


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "uint8 .*float32"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"\(2, 4, 4, 3\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2), "int64 .*float32"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"int64 \(2,\).*\(3,\)"),
        (torch.zeros(0, 3, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), "must hold images"),
    ],
)
def test_split_refuses(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Split(images, labels)


@pytest.mark.parametrize(
    ("train", "test", "classes", "message"),
    [
        ({"labels": [0, 1, 0, 1, 0, 7]}, {}, ["a", "b"], "train label is 7, but labels of 2 classes are 0 to 1"),
        ({}, {"labels": [0, 1, 0, 1, 0, -1]}, ["a", "b"], "test label is -1"),
        ({"labels": [0] * 6}, {"labels": [0] * 6}, ["a"], "at least 2 classes"),
        ({"size": 4}, {"size": 5}, ["a", "b"], r"\(3, 4, 4\).*\(3, 5, 5\)"),
    ],
)
def test_dataset_refuses(train, test, classes, message):
    with pytest.raises(ValueError, match=message):
        Dataset("bad", make_split(**train), make_split(**test), classes)


# --- Names ---------------------------------------------------------------------------------------------------


def test_shapes_are_ten_classes_drawn_from_two_seeds():
    data = load_dataset("shapes")
    assert data.classes == list(shapes.CLASSES) and data.num_classes == 10
    assert data.train.images.shape == (4000, 3, 32, 32) and data.test.images.shape == (1000, 3, 32, 32)
    assert set(data.train.labels.tolist()) == set(data.test.labels.tolist()) == set(range(10))
    train = {image.numpy().tobytes() for image in data.train.images}
    assert not any(image.numpy().tobytes() in train for image in data.test.images)


def test_unknown_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.zip").touch()
    with pytest.raises(ValueError, match="unknown data set 'cifar11': known are cifar10, cifar100, shapes"):
        load_dataset("cifar11")
    with pytest.raises(FileNotFoundError, match="no/such/folder does not exist"):
        load_dataset("no/such/folder")
    with pytest.raises(ValueError, match="file.zip is a file"):
        load_dataset(tmp_path / "file.zip")
    with pytest.raises(ValueError, match="32x32; image_size=64"):
        load_dataset("cifar10", image_size=64)
    with pytest.raises(ValueError, match="at least 1 pixel, not 0"):
        load_dataset("shapes", image_size=0)


# --- Folders -------------------------------------------------------------------------------------------------


def make_folder(root, classes=("cat", "dog"), images=3, size=(8, 6)):
    """Write small images of several formats and modes at root/{train,test}/<class>/."""
    random = np.random.default_rng(0)
    formats = ["a.png", "b.JPG", "c.bmp", "d.webp", "e.jpeg"]
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(images):
                pixels = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
                mode = "L" if i == 1 else "RGB"  # one grey JPEG
                Image.fromarray(pixels).convert(mode).save(root / split / name / formats[i % 5])
    return root


def test_folder_equals_torchvisions(tmp_path):
    make_folder(tmp_path, images=5)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "cat" / "._a.png").write_text("what macOS leaves on foreign disks")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    data = load_dataset(str(tmp_path))
    (tmp_path / "train" / "cat" / "._a.png").unlink()
    (tmp_path / "train" / ".ipynb_checkpoints").rmdir()
    for name in ("train", "test"):
        split, oracle = getattr(data, name), datasets.ImageFolder(tmp_path / name)
        assert data.classes == oracle.classes
        assert split.labels.tolist() == oracle.targets
        for image, (expected, _) in zip(split.images, oracle, strict=True):
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_folder_with_image_size_resizes_the_middle_square(tmp_path):
    make_folder(tmp_path, size=(20, 12))
    Image.new("RGB", (30, 40)).save(tmp_path / "test" / "dog" / "large.png")
    data = load_dataset(tmp_path, image_size=6)
    source = Image.open(tmp_path / "train" / "cat" / "a.png")
    expected = F.center_crop(F.resize(source, 6, F.InterpolationMode.BICUBIC), 6)
    np.testing.assert_array_equal(data.train.images[0].permute(1, 2, 0).numpy(), np.asarray(expected))
    assert data.test.images.shape == (7, 3, 6, 6)


def test_folder_reads_photos_upright(tmp_path):
    make_folder(tmp_path, size=(6, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn to the left: 8 wide, shown 6 wide
    Image.new("RGB", (8, 6)).save(tmp_path / "train" / "cat" / "photo.jpg", exif=exif)
    assert load_dataset(tmp_path).train.images.shape == (7, 3, 8, 6)


def test_bad_folders(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="empty has no folder 'train'; expected images at train/<class>/"):
        load_dataset(empty)
    (empty / "train").mkdir()
    (empty / "test").mkdir()
    with pytest.raises(ValueError, match="train holds no class folders"):
        load_dataset(empty)
    with pytest.raises(ValueError, match="one class only, 'cat'; at least 2"):
        load_dataset(make_folder(tmp_path / "one", ["cat"]))
    differing = make_folder(tmp_path / "differing")
    (differing / "test" / "dog").rename(differing / "test" / "dogs")
    with pytest.raises(ValueError, match=r"only train has \['dog'\] and only test has \['dogs'\]"):
        load_dataset(differing)
    hollow = make_folder(tmp_path / "hollow")
    for path in (hollow / "test" / "dog").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="test/dog holds no images"):
        load_dataset(hollow)


def test_images_of_different_sizes_are_named(tmp_path):
    make_folder(tmp_path)
    Image.new("RGB", (9, 6)).save(tmp_path / "test" / "dog" / "odd.png")
    with pytest.raises(ValueError, match=r"test/cat/a.png is 8x6 and .*test/dog/odd.png is 9x6; give image_size"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("kind", ["garbage", "empty", "truncated png", "truncated jpeg"])
def test_unreadable_images_are_named(tmp_path, kind):
    make_folder(tmp_path)
    bad = tmp_path / "train" / "dog" / ("bad.jpg" if "jpeg" in kind else "bad.png")
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)).save(bad)
    content = bad.read_bytes()
    bad.write_bytes({"garbage": b"no image", "empty": b""}.get(kind, content[: len(content) - 40]))
    with pytest.raises(ValueError, match=r"train/dog/bad\.(png|jpg) is (not a picture|damaged or truncated)"):
        load_dataset(tmp_path)


# --- Downloads -----------------------------------------------------------------------------------------------

CONTENT = np.random.default_rng(0).bytes(100_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(serving.Handler):
    """Serves `server.content` at /good and misbehaves elsewhere; notes the paths asked for in `server.asked`."""

    def do_GET(self):
        content = self.server.content
        self.server.asked.append(self.path)
        if self.path == "/missing":
            return self.send_error(404)
        if self.path == "/mute":
            self.server.stop.wait(5)
            return self.close()
        self.send_response(200)
        if self.path == "/page":
            content = b"<html>Our servers are busy</html>"
            self.send_header("Content-Type", "text/html; charset=utf-8")
        if self.path == "/short":
            content = content[:-1]
        if self.path == "/corrupt":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if self.path == "/endless":
            content = content * 2
        elif self.path != "/undeclared":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.path in ("/cut", "/undeclared"):
            self.wfile.write(content[: len(content) // 2])
        elif self.path == "/freeze":
            self.wfile.write(content[:1000])
            self.server.stop.wait(5)
        elif self.path == "/trickle":
            for _ in range(200):
                self.wfile.write(b"x")
                self.server.stop.wait(0.02)
        else:
            self.wfile.write(content)
        self.close()

    def close(self):
        self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving.serving(Handler) as server:
        server.handle_error = lambda *_: None  # a client that leaves a stalled server is what is tested
        server.content, server.asked, server.stop = CONTENT, [], threading.Event()
        yield server
        server.stop.set()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(download_module, "STALL_SECONDS", 0.5)


REASONS = {
    "/mute": "stalled: nothing came for 0.5 s",
    "/freeze": "stalled: nothing came for 0.5 s",
    "/trickle": r"stalled: 0 kB/s over [01] s",
    "/missing": "answered HTTP 404 Not Found",
    "/page": "answered with a web page",
    "/short": "offers 99999 bytes, not 100000",
    "/cut": "broke off after 50000 of 100000 bytes",
    "/undeclared": "broke off after 50000 of 100000 bytes",
    "/endless": "sent more than 100000 bytes",
    "/corrupt": r"served other content \(md5 [0-9a-f]{32}\)",
}


@pytest.mark.parametrize("bad", REASONS)
def test_a_bad_source_is_left_for_the_next(server, impatient, tmp_path, capfd, bad):
    path = tmp_path / "folder" / "file.tar.gz"
    urls = [server.url + bad, server.url + "/good", server.url + "/never"]
    assert download_module.download(urls, path, len(CONTENT), MD5) == server.url + "/good"
    assert server.asked == [bad, "/good"]
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["file.tar.gz"]
    assert len(capfd.readouterr().out.splitlines()) == 1


def test_when_all_sources_fail_each_has_its_reason(server, impatient, tmp_path):
    refused = "http://127.0.0.1:1/file"  # nobody listens there
    urls = [server.url + bad for bad in REASONS] + [refused, "not an address"]
    path = tmp_path / "file.tar.gz"
    with pytest.raises(ConnectionError, match=f"100,000 bytes, md5 {MD5}.*put it at {path}") as error:
        download_module.download(urls, path, len(CONTENT), MD5)
    for bad, reason in REASONS.items():
        error.match(f"{server.url}{bad} {reason}\n")
    error.match(f"{refused} failed: .*[Cc]onnection refused")
    error.match("not an address failed: unknown url type")
    assert list(tmp_path.iterdir()) == []


def test_a_slow_but_steady_source_is_not_stalled(server, impatient, tmp_path, monkeypatch):
    """It takes twice STALL_SECONDS in all, at 100 kB/s throughout."""
    monkeypatch.setattr(download_module, "MIN_RATE", 20_000)

    def slow(handler):
        handler.send_response(200)
        handler.end_headers()
        for start in range(0, len(CONTENT), 10_000):
            handler.wfile.write(CONTENT[start : start + 10_000])
            time.sleep(0.1)

    monkeypatch.setattr(Handler, "do_GET", slow)
    download_module.download([server.url], tmp_path / "file", len(CONTENT), MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_full_disk_is_not_the_sources_fault(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download_module, "_append", full)
    with pytest.raises(OSError, match="No space left"):
        download_module.download([server.url + "/good"], tmp_path / "file", len(CONTENT), MD5)


# --- CIFAR ---------------------------------------------------------------------------------------------------


def fake_cifar(monkeypatch, tmp_path, name):
    """Build a tiny archive in CIFAR's own layout, make torchvision and airl expect it, and return its bytes."""
    cifar = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    classes = 10 if name == "cifar10" else 100
    random = np.random.default_rng(1)
    source = tmp_path / "source" / cifar.base_folder
    source.mkdir(parents=True)

    def put(file, content):
        (source / file).write_bytes(pickle.dumps(content))
        return [file, hashlib.md5((source / file).read_bytes()).hexdigest()]

    def batch(file):
        labels = random.integers(0, classes, 20).tolist()
        pixels = random.integers(0, 256, (20, 3072), np.uint8)
        return put(file, {"data": pixels, "labels" if classes == 10 else "fine_labels": labels})

    monkeypatch.setattr(cifar, "train_list", [batch(file) for file, _ in cifar.train_list])
    monkeypatch.setattr(cifar, "test_list", [batch(file) for file, _ in cifar.test_list])
    meta = put(cifar.meta["filename"], {cifar.meta["key"]: [f"class {i}" for i in range(classes)]})
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": meta[1]})
    archive = tmp_path / "source" / cifar.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, cifar.base_folder)
    content = archive.read_bytes()
    monkeypatch.setattr(cifar, "tgz_md5", hashlib.md5(content).hexdigest())
    monkeypatch.setitem(data_module.CIFAR_BYTES, name, len(content))
    return cifar, content


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_downloaded_once_and_equals_torchvisions(server, monkeypatch, tmp_path, capfd, name):
    cifar, server.content = fake_cifar(monkeypatch, tmp_path, name)
    root = tmp_path / "data"
    monkeypatch.setenv(f"AIRL_{name.upper()}_URLS", f"{server.url}/corrupt, {server.url}/good,")
    data = load_dataset(name, root=root)
    assert server.asked == ["/corrupt", "/good"]
    assert f"downloaded {root / cifar.filename} from {server.url}/good" in capfd.readouterr().out
    assert {path.name for path in root.iterdir()} == {cifar.filename, cifar.base_folder}

    for split, train in ((data.train, True), (data.test, False)):
        oracle = cifar(root, train=train)
        assert data.classes == oracle.classes
        assert split.labels.tolist() == oracle.targets
        for image, (expected, _) in zip(split.images, oracle, strict=True):
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(expected))

    again = load_dataset(name, root=root)
    assert torch.equal(again.train.images, data.train.images)
    assert server.asked == ["/corrupt", "/good"]  # nothing was asked for again


def test_a_whole_archive_is_used_and_half_of_one_is_not(server, monkeypatch, tmp_path, capfd):
    cifar, server.content = fake_cifar(monkeypatch, tmp_path, "cifar10")
    monkeypatch.setenv("AIRL_CIFAR10_URLS", server.url + "/good")
    for folder, content in (("whole", server.content), ("half", server.content[: len(server.content) // 2])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / cifar.filename).write_bytes(content)
    load_dataset("cifar10", root=tmp_path / "whole")
    assert server.asked == []
    load_dataset("cifar10", root=tmp_path / "half")
    assert server.asked == ["/good"]
    assert "damaged or incomplete: it is downloaded again" in capfd.readouterr().out


def test_a_damaged_folder_is_refused_and_left_alone(server, monkeypatch, tmp_path):
    cifar, server.content = fake_cifar(monkeypatch, tmp_path, "cifar10")
    monkeypatch.setenv("AIRL_CIFAR10_URLS", server.url + "/good")
    load_dataset("cifar10", root=tmp_path)
    batch = tmp_path / cifar.base_folder / "data_batch_3"
    batch.write_bytes(b"mine")
    with pytest.raises(ValueError, match=f"{cifar.base_folder} is damaged or incomplete: remove it"):
        load_dataset("cifar10", root=tmp_path)
    assert batch.read_bytes() == b"mine"


def test_when_cifar_cannot_be_had_the_error_says_what_to_do(server, monkeypatch, tmp_path):
    cifar, server.content = fake_cifar(monkeypatch, tmp_path, "cifar10")
    monkeypatch.setitem(data_module.CIFAR_URLS, "cifar10", (server.url + "/missing", server.url + "/page"))
    with pytest.raises(ConnectionError, match=r"cifar-10-python.tar.gz.*\n.*HTTP 404.*\n.*web page") as error:
        load_dataset("cifar10", root=tmp_path / "data")
    error.match(f"md5 {cifar.tgz_md5}.*put it at {tmp_path / 'data' / cifar.filename} and run again")
    error.match("environment variable AIRL_CIFAR10_URLS")


def test_several_processes_may_load_at_once(server, monkeypatch, tmp_path):
    cifar, server.content = fake_cifar(monkeypatch, tmp_path, "cifar10")
    monkeypatch.setenv("AIRL_CIFAR10_URLS", server.url + "/good")
    root, loaded, start = tmp_path / "data", [], threading.Barrier(4)

    def load():
        start.wait()
        loaded.append(load_dataset("cifar10", root=root))

    threads = [threading.Thread(target=load) for _ in range(4)]  # they share the files, as processes do
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 4
    assert {path.name for path in root.iterdir()} == {cifar.filename, cifar.base_folder}


def test_the_slower_of_two_processes_keeps_the_others_folder(monkeypatch, tmp_path):
    cifar, _ = fake_cifar(monkeypatch, tmp_path, "cifar10")
    archive, folder = tmp_path / "source" / cifar.filename, tmp_path / "data" / cifar.base_folder
    folder.mkdir(parents=True)
    (folder / "of the other process").touch()
    download_module.extract(archive, folder)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert [path.name for path in folder.iterdir()] == ["of the other process"]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_sources_are_of_torchvisions_archive(name):
    cifar = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    urls = data_module.CIFAR_URLS[name]
    assert cifar.url in urls and len(set(urls)) == len(urls)
    assert all(url.startswith("https://") and cifar.filename in url for url in urls)
