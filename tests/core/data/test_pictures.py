"""Pictures of every mode become what a person would see."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.core.data import load, parse
from harness.core.data.pictures import as_rgb
from harness.core.errors import DataError

RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)
ORIENTATION = 0x0112


def png(path: Path, pixels: np.ndarray, colours: int, *, clear: tuple[int, ...] = ()) -> Path:
    """A PNG of 16 bits a value and that colour type, which Pillow reads and does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    height, width = pixels.shape[:2]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colours, 0, 0, 0))]
    if clear:
        chunks.append((b"tRNS", struct.pack(f">{len(clear)}H", *clear)))
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def seen(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(as_rgb(opened))


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_of_grey(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"deep.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 16 16 65535\n" + (RAMP * 257).astype(">u2").tobytes())
    else:
        Image.fromarray(RAMP * 257).save(path)
    assert np.array_equal(seen(path), grey(RAMP))


def test_sixteen_bits_of_colour(tmp_path: Path) -> None:
    pixels = np.stack([RAMP * 257, RAMP[::-1] * 257, np.zeros_like(RAMP)], axis=2)
    assert np.array_equal(seen(png(tmp_path / "deep.png", pixels, 2)), pixels // 257)


def test_twelve_bits_of_a_scanner(tmp_path: Path) -> None:
    """TIFF packs two values of 12 bits into three bytes."""
    values = (RAMP.astype(np.int64) * 4095 // 255).flatten()
    pairs = values.reshape(-1, 2)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1
    )
    data = packed.astype(np.uint8).tobytes()
    tags = {256: 16, 257: 16, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 16, 279: len(data)}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    path = tmp_path / "scan.tif"
    path.write_bytes(head + data + struct.pack("<H", len(tags)) + fields + struct.pack("<I", 0))
    assert np.array_equal(seen(path), grey((values >> 4).reshape(16, 16)))


def test_integers_of_32_bits_that_hold_16(tmp_path: Path) -> None:
    Image.fromarray((RAMP * 257).astype(np.int32)).save(tmp_path / "deep.tif")
    assert np.array_equal(seen(tmp_path / "deep.tif"), grey(RAMP))


def test_floating_point_from_black_to_white(tmp_path: Path) -> None:
    Image.fromarray((RAMP / 255).astype(np.float32)).save(tmp_path / "deep.tif")
    assert np.array_equal(seen(tmp_path / "deep.tif"), grey(RAMP))


@pytest.mark.parametrize("values", [RAMP.astype(np.float32), np.full((4, 4), np.nan, dtype=np.float32)])
def test_values_of_no_known_range_are_refused(values: np.ndarray, image_folder: Path) -> None:
    (image_folder / "train" / "cat" / "0.png").unlink()
    Image.fromarray(values).save(image_folder / "train" / "cat" / "0.tif")
    with pytest.raises(DataError, match=r"0\.tif \(its floating-point values .* are not 0 to 1; convert it"):
        load(parse("folder:pets", image_folder.parent), image_folder.parent)


def test_integers_of_no_known_range_are_refused() -> None:
    for values in (np.array([[70_000]]), np.array([[-1]])):
        with pytest.raises(ValueError, match="are not 0 to 65535"):
            as_rgb(Image.fromarray(values.astype(np.int32)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_shows_white(mode: str, tmp_path: Path) -> None:
    """Black ink on nothing, as icons are: without its transparency it would be all black."""
    icon = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    icon.putpixel((1, 2), (0, 0, 0, 255))
    icon.putpixel((2, 2), (0, 0, 0, 128))
    pixels = np.asarray(as_rgb(icon.convert(mode)))[..., 0]
    assert pixels[2].tolist() == [255, 0, 127, 255]
    assert (np.delete(pixels, 2, axis=0) == 255).all()


def test_transparency_of_a_palette(tmp_path: Path) -> None:
    icon = Image.new("P", (3, 1))
    icon.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    icon.putdata([0, 1, 2])
    icon.save(tmp_path / "bytes.png", transparency=b"\x00\xff\x00")
    assert seen(tmp_path / "bytes.png").tolist() == [[[255] * 3, [0, 255, 0], [255] * 3]]
    icon.save(tmp_path / "index.png", transparency=1)
    assert seen(tmp_path / "index.png").tolist() == [[[255, 0, 0], [255] * 3, [0, 0, 255]]]


def test_a_colour_that_is_declared_transparent(tmp_path: Path) -> None:
    Image.new("L", (2, 2), 7).save(tmp_path / "grey.png", transparency=7)
    assert (seen(tmp_path / "grey.png") == 255).all()
    Image.new("RGB", (2, 2), (7, 8, 9)).save(tmp_path / "colour.png", transparency=(7, 8, 9))
    assert (seen(tmp_path / "colour.png") == 255).all()
    deep = png(tmp_path / "deep.png", RAMP * 257, 0, clear=(3 * 257,))
    assert np.array_equal(seen(deep), grey(np.where(RAMP == 3, 255, RAMP)))
    pixels = np.stack([RAMP * 257] * 3, axis=2)
    deep = png(tmp_path / "deep_colour.png", pixels, 2, clear=(3 * 257,) * 3)
    assert np.array_equal(seen(deep), grey(np.where(RAMP == 3, 255, RAMP)))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_turned_as_the_camera_was_held(suffix: str, tmp_path: Path) -> None:
    upright = Image.new("RGB", (16, 32), "white")
    upright.paste((0, 0, 0), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned right by 90 degrees
    upright.rotate(90, expand=True).save(tmp_path / f"photo.{suffix}", exif=exif)
    pixels = seen(tmp_path / f"photo.{suffix}")
    assert pixels.shape == (32, 16, 3)
    assert pixels[:15].max() < 20
    assert pixels[17:].min() > 235


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_metadata_that_cannot_be_read_turn_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (16, 8), "red").save(tmp_path / "photo.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert seen(tmp_path / "photo.jpg").shape == (8, 16, 3)


def test_colours_of_print(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    red, green, blue = seen(tmp_path / "print.jpg")[4, 4].tolist()
    assert red > 240 > 20 > max(green, blue)


def test_usual_pictures_stay_as_they_were(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for mode in ("RGB", "L", "P", "1", "YCbCr"):
        image = Image.fromarray(pixels).convert(mode)
        assert np.array_equal(np.asarray(as_rgb(image.copy())), np.asarray(image.convert("RGB")))


def test_a_folder_of_deep_and_transparent_pictures(image_folder: Path) -> None:
    for number in range(3):
        where = image_folder / "train" / "cat" / ("more" if number == 2 else "") / f"{number}.png"
        Image.fromarray(np.full((8, 10), 257 * 100, dtype=np.uint16)).save(where)
    icon = Image.new("RGBA", (10, 8), (0, 0, 0, 0))
    icon.putpixel((4, 4), (0, 0, 0, 255))
    icon.save(image_folder / "train" / "dog" / "0.png")
    dataset = load(parse("folder:pets", image_folder.parent), image_folder.parent)
    assert (dataset.images[:3] == 100).all()
    assert dataset.images[3].unique().tolist() == [0, 255]


def test_a_bomb_is_refused_in_words(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"cannot decode .* \(DecompressionBombError\)"):
        load(parse("folder:pets", image_folder.parent), image_folder.parent)
