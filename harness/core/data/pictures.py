"""One picture of whatever mode to the 8-bit RGB that a person would see."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from PIL import Image, ImageOps

BACKGROUND = "white"  # what transparent pictures are laid on, as pages and icons' own themes do
RULES = f"16 bits scaled to 8, transparency laid on {BACKGROUND}, turned as their EXIF says"

_BITS_PER_SAMPLE = 258  # the TIFF tag
_SIXTEEN_BITS = 65535


def as_rgb(image: Image.Image) -> Image.Image:
    """The picture as RGB: turned as its EXIF says, deep values scaled, transparency on `BACKGROUND`.

    Of more than 8 bits the upper 8 are kept, as Pillow does for colours. Floating-point values mean black to
    white from 0 to 1. Raises ValueError where values are of no known range, OSError for damaged files.
    """
    image.load()
    with suppress(Exception):  # metadata that cannot be read turn nothing; the picture itself has been
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        image = _from_integers(image)
    elif image.mode == "F":
        image = _from_floats(image)
    if image.has_transparency_data:
        return _on_background(image)
    return image.convert("RGB")


def _from_integers(image: Image.Image) -> Image.Image:
    """Grey values of up to 16 bits, as L, or LA where one value is declared transparent."""
    values = np.asarray(image).astype(np.int64)
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
    highest = 2**bits - 1 if bits < 16 else _SIXTEEN_BITS
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > highest:
        raise ValueError(f"its values {low} to {high} are not 0 to {highest}; convert it to 8 or 16 bits")
    grey = Image.fromarray((values * 256 // (highest + 1)).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _from_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"its floating-point values {low:g} to {high:g} are not 0 to 1; convert it to 8 bits"
        )
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))


def _on_background(image: Image.Image) -> Image.Image:
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:
        # Pillow keeps the upper 8 of 16 bits of the colours, but all 16 of the transparent one.
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    picture = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, BACKGROUND), picture).convert("RGB")
