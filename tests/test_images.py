"""Oracle: Pillow's own conversions, where they are right, and values worked out by hand where they are not."""

import functools
import http.server
import io
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from airl import images
from tests import serving


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (23, 31, 3), np.uint8)


def encoded(image, suffix="PNG", **kwargs):
    file = io.BytesIO()
    image.save(file, suffix, **kwargs)
    return file.getvalue()


def test_every_way_to_hand_over_a_picture(picture, tmp_path):
    file = tmp_path / "a picture.png"
    image = Image.fromarray(picture)
    image.save(file)
    tensor = torch.from_numpy(picture)
    sources = [file, str(file), file.read_bytes(), image, picture, io.BytesIO(file.read_bytes())]
    sources += [tensor, tensor.permute(2, 0, 1), tensor.permute(2, 0, 1).float().requires_grad_() / 255]
    for source in sources:
        loaded = images.load(source)
        assert loaded.dtype == np.uint8 and (loaded == picture).all()
    with open(file, "rb") as opened:
        assert (images.load(opened) == picture).all()
    with open(__file__) as text, pytest.raises(TypeError, match="mode 'rb'"):
        images.load(text)


def test_what_is_done_to_an_array_later_does_not_matter(picture):
    source = picture.copy()
    loaded = images.load(source)
    source[:] = 0
    assert (loaded == picture).all()


def test_from_the_web(picture, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Image.fromarray(picture).save(tmp_path / "a.png")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with serving.serving(handler) as server:
        assert (images.load(f"{server.url}/a.png") == picture).all()
        with pytest.raises(ConnectionError, match="b.png cannot be read: .*404.*give its path"):
            images.load(f"{server.url}/b.png")
        monkeypatch.setattr(images, "MAX_BYTES", 100)
        with pytest.raises(ValueError, match="a.png holds more than"):
            images.load(f"{server.url}/a.png")
    with pytest.raises(ConnectionError, match="a.png cannot be read"):
        images.load(f"{server.url}/a.png")


def test_heic_is_read_if_its_package_is_there(picture, tmp_path, monkeypatch):
    file = tmp_path / "photo.HEIC"
    file.write_bytes(b"\0\0\0\x18ftypheic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImportError, match="photo.HEIC.*pip install pillow-heif"):
        images.load(file)
    monkeypatch.undo()
    pillow_heif = pytest.importorskip("pillow_heif")
    smooth = np.full((64, 48, 3), (200, 40, 90), np.uint8)
    pillow_heif.from_pillow(Image.fromarray(smooth)).save(file)
    for source in (file, file.read_bytes()):
        assert np.abs(images.load(source).astype(int) - smooth).max() <= 3  # it is a lossy format


@pytest.mark.parametrize("size", [(200, 300), (20, 30), (7, 500), (1, 1), (44, 88)])
def test_enlarging_is_torchs_interpolation(size):
    values = np.random.default_rng(0).random((44, 44), np.float32)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], size, mode="bilinear")[0, 0]
    np.testing.assert_allclose(images.enlarge(values, size), theirs, atol=1e-4)  # OpenCV's weights are coarser


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(picture, orientation):
    image = Image.fromarray(picture)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert (images.load(data) == upright).all()
    assert (upright.shape[:2] == (23, 31)) == (orientation <= 4)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_modes_that_pillow_converts(picture, mode):
    rgb = Image.fromarray(picture)
    image = Image.frombytes("LAB", rgb.size, rgb.tobytes()) if mode == "LAB" else rgb.convert(mode)
    assert (images.load(image) == np.asarray(image.convert("RGB"))).all()


def test_cmyk_jpeg(picture):
    data = encoded(Image.fromarray(picture).convert("CMYK"), "JPEG")
    assert (images.load(data) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()


def test_transparency_is_laid_over_white(picture):
    alpha = np.random.default_rng(1).integers(0, 256, (23, 31, 1), np.uint8)
    rgba = np.concatenate([picture, alpha], 2)
    white = Image.new("RGBA", (31, 23), "white")
    expected = np.asarray(Image.alpha_composite(white, Image.fromarray(rgba)).convert("RGB")).astype(int)
    for source in (rgba, Image.fromarray(rgba), encoded(Image.fromarray(rgba))):
        assert np.abs(images.load(source).astype(int) - expected).max() <= 1  # rounding
    grey_alpha = Image.fromarray(rgba).convert("LA")
    assert (images.load(grey_alpha)[alpha[..., 0] == 0] == 255).all()


def test_transparent_palette_and_transparent_colour():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 2), 1)
    loaded = images.load(encoded(image, transparency=0))
    assert (loaded[2, 1] == (0, 0, 255)).all() and (loaded[0, 0] == 255).all()
    keyed = encoded(Image.new("RGB", (4, 4), (9, 9, 9)), transparency=(9, 9, 9))
    assert (images.load(keyed) == 255).all()


def test_16_bits_are_scaled_not_clipped():
    values = np.array([[0, 256, 257], [32768, 65278, 65535]], np.uint16)
    expected = np.round(values / 257).astype(np.uint8)
    for source in (values, Image.fromarray(values), encoded(Image.fromarray(values))):
        assert (images.load(source) == expected[..., None]).all()
    assert (images.load(encoded(Image.fromarray(values), "TIFF")) == expected[..., None]).all()


def test_float_tiff_in_the_unit_interval():
    values = np.float32([[0, 0.5, 1]])
    assert images.load(encoded(Image.fromarray(values), "TIFF")).tolist() == [[[0] * 3, [128] * 3, [255] * 3]]


def test_arrays_of_other_types():
    assert images.load(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]
    assert images.load(np.array([[[0.0, 0.5, 1.0]]])).tolist() == [[[0, 128, 255]]]
    assert images.load(np.zeros((2, 3, 1), np.uint8)).shape == (2, 3, 3)


@pytest.mark.parametrize("size", [(1, 1), (4000, 30), (1, 5000)])
def test_extreme_sizes(size):
    array = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    assert (images.load(encoded(Image.fromarray(array))) == array).all()


@pytest.mark.parametrize(
    "array, says",
    [
        (np.zeros((3, 4, 5), np.uint8), r"\(3, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros((4,), np.uint8), r"\(4,\)"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.full((4, 4), 2.0), r"\[2.0, 2.0\]"),
        (np.full((4, 4), np.nan), "nan"),
    ],
)
def test_bad_arrays(array, says):
    with pytest.raises(ValueError, match=says):
        images.load(array)


def test_bad_files(picture, tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such.jpg"):
        images.load("no-such.jpg")
    (tmp_path / "notes.png").write_text("not a picture")
    with pytest.raises(ValueError, match="notes.png is not a picture"):
        images.load(tmp_path / "notes.png")
    with pytest.raises(ValueError, match="0 bytes"):
        images.load(b"")
    with pytest.raises(ValueError, match=f"{tmp_path} is a folder.*files in it"):
        images.load(tmp_path)
    with pytest.raises(ValueError, match="path is empty"):
        images.load("")
    with pytest.raises(TypeError, match="int"):
        images.load(3)
    for suffix in ("jpg", "png"):
        file = tmp_path / f"cut.{suffix}"
        Image.fromarray(np.tile(picture, (9, 9, 1))).save(file)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(ValueError, match=f"cut.{suffix} is damaged or truncated"):
            images.load(file)
    with pytest.raises(ValueError, match=r"32-bit values in \[70000, 70000\], not in \[0, 65535\]"):
        images.load(Image.fromarray(np.full((2, 2), 70000, np.int32)))
    with pytest.raises(ValueError, match=r"32-bit values in \[0, 1.5\], not in \[0, 1\]"):
        images.load(Image.fromarray(np.float32([[0, 1.5]])))
    with pytest.raises(ValueError, match="nan"):
        images.load(Image.fromarray(np.float32([[0, np.nan]])))


def png_header(width, height):
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width, height", [(20_000, 8_000), (60_000, 60_000)])
def test_decompression_bombs_are_refused_unopened(tmp_path, width, height):
    file = tmp_path / "bomb.png"
    file.write_bytes(png_header(width, height))
    with pytest.raises(ValueError, match="bomb.png .* limit is 150 megapixels"):
        images.load(file)


def test_100_megapixels_load_in_bounded_memory(recwarn):
    data = encoded(Image.new("L", (12_500, 8_000), 77), compress_level=1)
    tracemalloc.start()  # sees NumPy's memory; Pillow's own, 1 to 4 bytes a pixel, is outside Python's
    loaded = images.load(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert loaded.shape == (8_000, 12_500, 3) and loaded[0, 0, 0] == loaded[-1, -1, 2] == 77
    assert peak < 4 * 100e6  # the array's own 3 bytes a pixel, and a strip
    assert not recwarn.list


def test_save_and_load_again(picture, tmp_path):
    images.save(picture, tmp_path / "new" / "a.png")
    assert (images.load(tmp_path / "new" / "a.png") == picture).all()
    mask = picture[..., 0] > 100
    images.save(mask, tmp_path / "mask.png")
    assert (np.asarray(Image.open(tmp_path / "mask.png")) == mask * 255).all()
    rgba = np.concatenate([picture, mask[..., None] * np.uint8(255)], 2)
    images.save(rgba, tmp_path / "cutout.png")
    assert (np.asarray(Image.open(tmp_path / "cutout.png")) == rgba).all()


def test_save_destroys_nothing(picture, tmp_path):
    file = tmp_path / "a.png"
    file.write_text("precious")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        images.save(picture, file)
    with pytest.raises(ValueError, match="jpg.*use .png"):
        images.save(np.zeros((4, 4, 4), np.uint8), tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="suffix '.doc'"):
        images.save(picture, tmp_path / "a.doc")
    with pytest.raises(ValueError, match="float64"):
        images.save(np.zeros((4, 4)), tmp_path / "b.png")
    assert file.read_text() == "precious" and list(tmp_path.iterdir()) == [file]
    images.save(picture, file, overwrite=True)
    assert (images.load(file) == picture).all()
