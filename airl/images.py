"""Any picture a person has, as one kind of array; and arrays back to files."""

import http.client
import io
import re
import urllib.request
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Union

import numpy as np
from PIL import Image, ImageOps

from airl.files import atomic_write

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 150_000_000  # beyond this a picture is taken for a decompression bomb
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1]
# Of PNG's compression levels 1 takes a fifth of the default's time for about the same size; runs alone (zlib's Z_RLE)
# take a quarter less again, and photos and masks get smaller.
SAVE_OPTIONS = {".png": {"compress_level": 1, "compress_type": 3}, ".jpg": {"quality": 90}, ".jpeg": {"quality": 90}}

MAX_BYTES = 500_000_000  # of a picture from the web
HEIF = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # brands, at the fifth byte of the file type

# A torch tensor, too: a library that need not be loaded.
Picture = Union[str, Path, bytes, BinaryIO, Image.Image, np.ndarray, "torch.Tensor"]


def load(source: Picture) -> np.ndarray:
    """Read a picture as uint8 (H, W, 3) RGB, upright as its EXIF orientation says; the array is a new one.

    source: a file's path, its address on the web, an open binary file, an encoded file's bytes, a PIL image, an array
    (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or a torch tensor of these shapes or (1, H, W), (3, H, W), (4, H, W);
    arrays and tensors are of uint8, uint16, bool or float in [0, 1]. Grey becomes three equal channels; palettes and
    CMYK are converted; 16 bits are scaled to 8; transparency is laid over white, since the colours under it are
    arbitrary; of an animation the first frame is taken. HEIC is read if the package pillow-heif is installed. Memory
    stays below about 8 bytes a pixel at any size.

    Raises FileNotFoundError for a path that is not there; ConnectionError for an address that serves nothing;
    ValueError, which names the file, for one that is not a picture or is truncated, for more than MAX_PIXELS, and for
    an array of another shape, type or range; TypeError for anything else.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if hasattr(source, "requires_grad"):
        return _from_tensor(source)
    if isinstance(source, Image.Image):
        return _from_pil(source, "the PIL image")
    if isinstance(source, str) and re.match("https?://", source):
        name, file = source, io.BytesIO(_fetch(source))
    elif isinstance(source, bytes | bytearray):
        name, file = f"the picture in {len(source):,} bytes", io.BytesIO(source)
    elif isinstance(source, str | Path):
        name, file = str(source), _path(source)
    elif hasattr(source, "read"):
        name, data = f"the picture in {source!r}", source.read()
        if not isinstance(data, bytes):
            raise TypeError(f"{source!r} is open as text; open pictures with mode 'rb'")
        file = io.BytesIO(data)
    else:
        raise TypeError(
            "a picture is a path, an address, bytes, an open file, a PIL image, an array or a tensor, not a "
            f"{type(source).__name__}"
        )

    try:
        with warnings.catch_warnings():  # Pillow warns, and far beyond refuses; the limit here is one, and clear
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if _is_heif(file):
                _register_heif(name)
            image = Image.open(file)
    except Image.DecompressionBombError as error:
        raise ValueError(_too_large(name)) from error
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # Pillow's decoders raise many kinds for a broken file
        raise ValueError(f"{name} is not a picture that can be read: {error}") from error
    with image:
        return _from_pil(image, name)


def _path(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if not str(source).strip():
        raise ValueError("the picture's path is empty; give a file such as 'photo.jpg'")
    if path.is_dir():
        raise ValueError(f"{source} is a folder, not a picture; give one of the files in it")
    if not path.exists():
        raise FileNotFoundError(f"there is no picture at {source} (the working folder is {Path.cwd()})")
    return path


def _fetch(address: str) -> bytes:
    request = urllib.request.Request(address, headers={"User-Agent": "airl"})  # some hosts refuse urllib's own
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            data = response.read(MAX_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"{address} cannot be read: {error}; download the picture and give its path") from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"{address} holds more than {MAX_BYTES // 1_000_000} MB; download it and make it smaller")
    return data


def _is_heif(file: Path | io.BytesIO) -> bool:
    if isinstance(file, Path):
        with open(file, "rb") as opened:
            head = opened.read(12)
    else:
        head = file.getbuffer()[:12].tobytes()
    return head[4:8] == b"ftyp" and head[8:12] in HEIF


def _register_heif(name: str) -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise ImportError(f"{name} is a HEIC picture; to read it, run `pip install pillow-heif`") from error
    register_heif_opener()


def _too_large(name: str, size: tuple[int, int] | None = None) -> str:
    is_large = f"is {size[0]} x {size[1]} pixels" if size else "is too large"
    return f"{name} {is_large}; the limit is {MAX_PIXELS // 1_000_000} megapixels: make it smaller"


def _from_pil(image: Image.Image, name: str) -> np.ndarray:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(_too_large(name, image.size))
    if not image.width * image.height:
        raise ValueError(f"{name} is empty: {image.width} x {image.height} pixels")
    try:
        image = ImageOps.exif_transpose(image)  # decodes the file
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds for a broken file
        raise ValueError(f"{name} is damaged or truncated: {error}") from error

    array = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, 4_000_000 // image.width)  # in strips, so that conversions do not double the memory
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        strip.info = image.info  # where some formats keep the transparent colour
        array[top : top + rows] = _strip_to_rgb(strip, name)
    return array


def _strip_to_rgb(strip: Image.Image, name: str) -> np.ndarray:
    if strip.mode[0] in "IF":  # one channel of 16 or 32 bits, which Pillow's own conversion would clip
        values = np.asarray(strip)
        low, high, most = values.min(), values.max(), 1 if strip.mode[0] == "F" else 65535
        if not (low >= 0 and high <= most):  # false for NaN too
            raise ValueError(
                f"{name} holds 32-bit values in [{low:g}, {high:g}], not in [0, {most}]; scale them and pass an array"
            )
        if strip.mode[0] == "F":
            return _from_array(values)
        return _from_array(values.astype(np.uint16))
    if strip.has_transparency_data:
        strip = strip.convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        strip = Image.alpha_composite(white, strip)
    return np.asarray(strip.convert("RGB"))


def _from_tensor(tensor: "torch.Tensor") -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.ndim == 3 and tensor.shape[0] in (1, 3, 4):
        tensor = tensor.permute(1, 2, 0)  # (C, H, W) -> (H, W, C)
    return _from_array((tensor.float() if tensor.is_floating_point() else tensor).numpy())


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]  # (H, W) -> (H, W, 1)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise ValueError(f"a picture is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); this array is {array.shape}")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ValueError(_too_large("the array", (array.shape[1], array.shape[0])))
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257
    elif np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # false for NaN too
            raise ValueError(f"a float picture is in [0, 1]; this array is in [{array.min()}, {array.max()}]")
        array = (array * 255 + 0.5).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(f"a picture is uint8, uint16, bool or float; this array is {array.dtype}")
    if array.shape[2] == 4:
        alpha = array[..., 3:].astype(np.uint16)
        array = ((array[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.array(np.broadcast_to(array, (*array.shape[:2], 3)), order="C")  # a copy: nobody can change it any more


def enlarge(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize float32 (h, w) to `size`, (H, W), bilinearly; pixels are squares, not points at their corners, as in
    torch's `interpolate(..., align_corners=False)`, to about 1e-4 of the values' range, in a tenth of its time."""
    import cv2

    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)


def model_input(
    image: np.ndarray,
    size: tuple[int, int],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> "torch.Tensor":
    """What a model sees of a picture, uint8 (H, W, 3) RGB: stretched to `size`, (h, w), and normalised; float32
    (1, 3, h, w). mean, std: of RGB in [0, 1]."""
    import torch

    resized = np.array(Image.fromarray(image).resize(size[::-1], resample))
    x = torch.from_numpy(resized).permute(2, 0, 1).float() / 255  # (h, w, 3) -> (3, h, w)
    return ((x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))[None]


def central_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """The largest square in a picture's middle, resized (bicubic, antialiased): uint8 (H, W, 3) -> (size, size, 3)."""
    return np.array(ImageOps.fit(Image.fromarray(pixels), (size, size), Image.Resampling.BICUBIC))


def save(array: np.ndarray, path: str | Path, overwrite: bool = False) -> Path:
    """Write uint8 (H, W, 3) RGB, uint8 (H, W, 4) RGBA or a bool mask (H, W), as 0 and 255, to a file.

    The suffix says the format (use .png for masks and RGBA). The file appears whole or not at all. Raises
    FileExistsError for a file that is there already unless `overwrite`, ValueError for an array or a suffix that
    cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already; pass overwrite=True to replace it")
    if not (
        (array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] in (3, 4))
        or (array.dtype == np.bool_ and array.ndim == 2)
    ):
        raise ValueError(f"expected uint8 (H, W, 3 or 4) or bool (H, W), got {array.dtype} {array.shape}")
    image = Image.fromarray(array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array)
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"no picture format has the suffix {path.suffix!r} of {path}; use .png")
    with atomic_write(path) as temporary:
        try:
            image.save(temporary, **SAVE_OPTIONS.get(path.suffix.lower(), {}))
        except (OSError, KeyError) as error:
            if isinstance(error, OSError) and error.errno:  # the disk's, not the format's
                raise
            raise ValueError(f"{path} cannot hold a picture of mode {image.mode}: {error}; use .png") from error
    return path
