"""The reader of pictures: docs/pictures.md's table, with a file made for each row, and what it says of the refused."""

from __future__ import annotations

import io
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from task_losses.pictures import SUFFIXES, PictureError, pictures_in, read_picture
from training.bench.study.data import read_folders
from training.images import open_image

PAGE = (Path(__file__).parents[1] / "docs" / "pictures.md").read_text(encoding="utf-8")
TABLE = dict(re.findall(r"^\| (.+?) \| ((?:read|refused).*?) \|$", PAGE, re.MULTILINE))

PIXELS = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
COLOUR = Image.fromarray(PIXELS)
GREY = np.arange(0, 65536, 64, dtype=np.uint16)[: 24 * 32].reshape(24, 32)
PNG = b"\x89PNG\r\n\x1a\n"

# What a file shows, (H, W, 3) in [0, 1]; None for what is refused.
Shown = np.ndarray | None
Make = Callable[[Path], Shown]


def shown(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(np.float32) / 255


def colour(suffix: str, width: int = 32, **options: object) -> Make:
    def make(path: Path) -> Shown:
        image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (24, width, 3), dtype=np.uint8))
        data = io.BytesIO()
        image.save(data, Image.registered_extensions()[suffix], **options)
        path.write_bytes(data.getvalue())
        return shown(Image.open(path))

    return make


def saved(image: Image.Image, suffix: str = ".png", **options: object) -> Make:
    """What a picture shows after it was stored without loss."""

    def make(path: Path) -> Shown:
        image.save(path, Image.registered_extensions()[suffix], **options)
        return shown(image)

    return make


def refused(image: Image.Image, suffix: str = ".png", **options: object) -> Make:
    def make(path: Path) -> Shown:
        image.save(path, Image.registered_extensions()[suffix], **options)
        return None

    return make


def deep_grey(suffix: str) -> Make:
    def make(path: Path) -> Shown:
        if suffix == ".pgm":  # which Pillow writes in 16 bits only since version 10.3
            path.write_bytes(b"P5 32 24 65535\n" + GREY.astype(">u2").tobytes())
        else:
            Image.fromarray(GREY).save(path, Image.registered_extensions()[suffix])
        return np.repeat(GREY[..., None].astype(np.float32) / 65535, 3, axis=-1)

    return make


def numbers(content: np.ndarray, top: float) -> Make:
    def make(path: Path) -> Shown:
        with path.open("wb") as file:
            np.save(file, content)
        values = (content if content.ndim == 3 else np.repeat(content[..., None], 3, axis=-1)).astype(np.float32)
        result: np.ndarray = np.divide(values, np.float32(top))
        return result

    return make


def turned(orientation: int, suffix: str = ".png") -> Make:
    """Each orientation undoes one of these turns."""
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
        8: lambda x: np.rot90(x),
    }

    def make(path: Path) -> Shown:
        exif = Image.Exif()
        exif[0x0112] = orientation
        COLOUR.save(path, Image.registered_extensions()[suffix], exif=exif)
        return turns[orientation](PIXELS).astype(np.float32) / 255

    return make


def with_exif(content: bytes, suffix: str) -> Make:
    def make(path: Path) -> Shown:
        COLOUR.save(path, Image.registered_extensions()[suffix], exif=content)
        return shown(Image.open(path))

    return make


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, bits: int, kind: int, row: bytes, *chunks: bytes) -> bytes:
    """A PNG of equal rows, of forms that Pillow cannot write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress((b"\0" + row) * min(height, 100)))
    return PNG + header + b"".join(chunks) + rows + chunk(b"IEND", b"")


def interlaced(more: int = 0) -> bytes:
    """A black PNG of 5 x 3 pixels in seven passes, with bytes more or fewer than it needs."""
    passes = ((1, 1), (1, 1), (0, 0), (1, 1), (3, 1), (2, 2), (5, 1))  # pixels in a row, rows
    needed = sum(rows * (1 + 3 * columns) for columns, rows in passes if columns)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 3, 8, 2, 0, 0, 1))
    return PNG + header + chunk(b"IDAT", zlib.compress(bytes(needed + more))) + chunk(b"IEND", b"")


def black(data: bytes, height: int, width: int) -> Make:
    def make(path: Path) -> Shown:
        path.write_bytes(data)
        return np.zeros((height, width, 3), np.float32)

    return make


def content(data: bytes) -> Make:
    def make(path: Path) -> Shown:
        path.write_bytes(data)
        return None

    return make


def tiff(values: np.ndarray, **options: Any) -> Make:
    def make(path: Path) -> Shown:
        import tifffile

        tifffile.imwrite(path, values, **options)
        return None

    return make


def patched(image: Image.Image, suffix: str, at: bytes, offset: int, value: int) -> Make:
    """A file that says of itself that it is deeper than Pillow writes."""

    def make(path: Path) -> Shown:
        image.save(path, Image.registered_extensions()[suffix])
        data = bytearray(path.read_bytes())
        place = data.index(at) + offset
        data[place] |= value
        path.write_bytes(data)
        return None

    return make


def photograph_of_a_phone(path: Path) -> Shown:
    COLOUR.save(path, "MPO", save_all=True, append_images=[Image.new("L", (8, 6))], quality=95)
    return shown(Image.open(path))


def pipe(path: Path) -> Shown:
    os.mkfifo(path)
    return None


def long(path: Path) -> Shown:
    path.touch()
    os.truncate(path, 2**28 + 1)
    return None


def npy_header(shape: tuple[int, ...]) -> bytes:
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return data.getvalue()


def folder(path: Path) -> Shown:
    path.mkdir()
    return None


def frames(suffix: str) -> Make:
    return refused(COLOUR, suffix, save_all=True, append_images=[Image.fromarray(255 - PIXELS)])


def stored(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


SEE_THROUGH = COLOUR.convert("RGBA")
SEE_THROUGH.putpixel((3, 4), (1, 2, 3, 254))
DEEP = np.full((16, 16, 3), 40000, np.uint16)
OPAQUE = Image.fromarray(PIXELS[..., 0]).convert("LA")

CASES: dict[str, list[Make]] = {
    "8-bit colour, of any size, in any format that Pillow reads": [
        *(colour(suffix) for suffix in (".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm", ".tga", ".jp2")),
        *(colour(".bmp", width) for width in (16, 538, 720)),  # rows of 1616 and 2160 bytes
        *(colour(".tif", width, compression="tiff_deflate") for width in (160, 216)),
        *([colour(".avif")] if features.check("avif") else []),
        black(interlaced(), 3, 5),
    ],
    "8-bit grey, black-and-white, palette": [saved(COLOUR.convert(mode)) for mode in ("L", "1", "P")],
    "16-bit grey: PNG, TIFF, PGM": [deep_grey(suffix) for suffix in (".png", ".tif", ".pgm")],
    "numbers in `.npy`: uint8, uint16, or floats in [0, 1]; (H, W, 3) or (H, W)": [
        numbers(PIXELS, 255),
        numbers(GREY, 65535),
        numbers(PIXELS / 255, 1),
        numbers(PIXELS[..., 0].astype(np.float32) / 255, 1),
    ],
    "transparency channel, fully opaque": [
        saved(COLOUR.convert("RGBA")),
        saved(OPAQUE),
        saved(COLOUR.convert("P"), transparency=bytes([255] * 256)),
    ],
    "EXIF orientation": [*(turned(orientation) for orientation in range(1, 9)), turned(6, ".tif")],
    "damaged EXIF data": [
        with_exif(data, suffix)
        for data in (b"no exif", b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12")
        for suffix in (".jpg", ".webp", ".png")
    ],
    "MPO of a phone": [photograph_of_a_phone],
    "transparent anywhere": [
        refused(SEE_THROUGH),
        refused(SEE_THROUGH.convert("LA")),
        refused(COLOUR.convert("P"), transparency=bytes([0] * 256)),
        content(
            png(32, 24, 16, 0, GREY[3].astype(">u2").tobytes(), chunk(b"tRNS", GREY[3, 4].astype(">u2").tobytes()))
        ),
        refused(SEE_THROUGH, ".webp", lossless=True),
    ],
    "16-bit colour; 10 and 12 bits in AVIF and JPEG 2000": [
        content(png(12, 12, 16, 2, bytes(range(72)))),
        content(png(12, 12, 16, 4, bytes(range(48)))),
        content(png(12, 12, 16, 6, bytes(range(96)))),
        tiff(DEEP, photometric="rgb"),
        tiff(DEEP, photometric="rgb", byteorder=">", compression="zlib"),
        tiff(DEEP.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        content(b"P6 12 12 65535\n" + bytes(range(72)) * 12),
        content(b"P6 12 12 1023\n" + bytes([1, 2] * 432)),
        content(b"P3 2 1 65535\n1 2 3 40000 5 6\n"),
        patched(COLOUR, ".jp2", b"\xff\x4f\xff\x51", 42, 0x0F),
        *([patched(COLOUR, ".avif", b"av1C", 6, 0x40)] if features.check("avif") else []),
    ],
    "32-bit or signed integers, floating point, Hounsfield units": [
        tiff(np.arange(-1024, 1024, dtype=np.int32).reshape(32, 64)),
        tiff(np.arange(-1024, 1024, dtype=np.int16).reshape(32, 64)),
        tiff(np.linspace(-1024, 3000, 2048, dtype=np.float32).reshape(32, 64)),
        refused(Image.new("F", (16, 16)), ".tif"),
        numbers(np.full((4, 5), 1.5), 1),
        numbers(np.full((4, 5), np.nan), 1),
        numbers(np.zeros((4, 5), np.int32), 1),
        numbers(np.zeros((4, 5, 4), np.uint8), 1),
    ],
    "16-bit grey TIFF that stores white as 0": [tiff(GREY, photometric="miniswhite")],
    "CMYK, Lab": [refused(COLOUR.convert("CMYK"), ".jpg"), refused(Image.new("LAB", (16, 16)), ".tif")],
    "several frames or pages: GIF, TIFF, APNG, WebP": [frames(suffix) for suffix in (".gif", ".tif", ".png", ".webp")],
    "over 67 megapixels, or a file of over 268 MB": [
        content(png(9000, 9000, 8, 2, b"\0" * 27000)),  # under Pillow's own limits
        content(png(20000, 20000, 8, 2, b"\0" * 60000)),
        content(npy_header((9000, 9000)) + bytes(9000 * 9000)),
        long,
    ],
    "pipes, devices, folders": [folder, *([pipe] if hasattr(os, "mkfifo") else [])],
    "empty, cut or damaged files, and what is no picture": [
        content(b""),
        content(b"no picture"),
        content(PNG),
        content(stored(COLOUR)[:-800]),
        content(stored(COLOUR)[:60] + b"\xff" * 900),
        content(b"P6 nothing 12\n"),
        content(png(4, 2**23, 8, 2, bytes(12))),  # of which 100 rows are there
        content(interlaced(-1)),
        content(b"\x93NUMPY\x01\x00"),
    ],
}
ROWS = [pytest.param(row, make, id=f"{row}-{at}") for row, makes in CASES.items() for at, make in enumerate(makes)]


def read(path: Path) -> np.ndarray:
    """As training reads it, in time: what waits for a pipe waits for ever."""
    result: list[np.ndarray | Exception] = []

    def work() -> None:
        try:
            assert torch.equal(open_image(str(path))[0], read_picture(path))
            result.append(read_picture(path)[0].permute(1, 2, 0).numpy())
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(30)
    assert result, "the reader does not come back"
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


def test_the_page_and_the_cases_name_the_same_pictures() -> None:
    assert list(TABLE) == list(CASES)
    (listed,) = re.findall(r"count as pictures: (.*?)\. Hidden", PAGE, re.DOTALL)
    assert set(listed.split()) == SUFFIXES


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow's, of what the test itself opens
@pytest.mark.parametrize(("row", "make"), ROWS)
def test_a_picture_is_read_or_refused_as_the_page_says(row: str, make: Make, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    expected = make(path)
    if TABLE[row].startswith("read"):
        assert expected is not None
        np.testing.assert_array_equal(read(path), expected)
        return
    with pytest.raises(PictureError, match=str(path)) as caught:
        read(path)
    assert len(str(caught.value).replace(str(path), "").split()) > 4, "it says what is wrong"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (refused(SEE_THROUGH), "transparent.*flatten"),
        (content(png(12, 12, 16, 2, bytes(range(72)))), "16 bits per colour channel.*8 bits"),
        (tiff(np.linspace(-1024, 3000, 2048, dtype=np.float32).reshape(32, 64)), "-1024 to 3000.*black.*npy"),
        (refused(COLOUR.convert("CMYK"), ".jpg"), "mode 'CMYK'.*convert it"),
        (frames(".gif"), "2 frames.*save the frame"),
        (content(png(9000, 9000, 8, 2, b"\0" * 27000)), "81 megapixels, at most 67 are read; crop it"),
        (content(png(20000, 20000, 8, 2, b"\0" * 60000)), "pixels.*crop it"),
        (long, "268435457 bytes, at most 268435456 are read"),
        (content(b""), "empty file"),
        (content(b"no picture"), "no picture in a format"),
        (folder, "[Dd]irectory; expected a picture's file"),
        *([(pipe, "not a regular file; expected a picture's file")] if hasattr(os, "mkfifo") else []),
    ],
)
def test_a_refusal_says_why_and_what_to_do(make: Make, words: str, tmp_path: Path) -> None:
    make(tmp_path / "picture")
    with pytest.raises(PictureError, match=words):
        read(tmp_path / "picture")


def test_a_large_photograph_is_read_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    COLOUR.save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 32 - 1)  # a photograph of 100 million pixels, in small
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_picture(tmp_path / "large.png")[0].permute(1, 2, 0).numpy(), shown(COLOUR))


def test_the_benchmark_refuses_what_training_refuses(tmp_path: Path) -> None:
    COLOUR.save(tmp_path / "a.png")
    assert torch.equal(read_folders([tmp_path])[0].image, open_image(str(tmp_path / "a.png"))[0])
    SEE_THROUGH.save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="transparent"):
        read_folders([tmp_path])


def test_a_folder_gives_its_pictures_by_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "._c.jpg", "d.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in pictures_in(tmp_path)] == ["a.jpg", "b.PNG"]
    with pytest.raises(PictureError, match="no images in"):
        pictures_in(tmp_path / "missing")
