"""A small picture of a distilled set, kept with its record where the set itself would be too large."""

from __future__ import annotations

import io
from bisect import bisect_right
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.files import replacing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

MOST_BYTES = 30_000
ACROSS = 10  # classes in a row
SIDES = (4, 8, 16, 24, 32, 48, 64)  # of an image: the largest with which the picture is small enough
COLOURS = 64
SMALL = 100_000  # values of pixels up to which a picture is likely to be small enough as it is


def write_preview(images: Tensor, classes: Tensor, path: Path) -> None:
    """Write a PNG of the first image of each class, at most `MOST_BYTES`; the same set gives the same bytes.

    images: (n, C, H, W) as pixels in [0, 1], C 1 or 3; classes: (n,) int64.
    """
    content = preview(images, classes)
    with replacing(path) as aside:
        aside.write_bytes(content)


def preview(images: Tensor, classes: Tensor) -> bytes:
    """The PNG: classes from left to right in rows of `ACROSS`, as stored or smaller, a pixel apart."""
    import torch

    first = [int((classes == one).nonzero()[0]) for one in torch.unique(classes)]
    pixels = (images[first].clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    largest = max(pixels.shape[1:3])
    encoded = cache(partial(_encoded, pixels))
    whole: bytes = encoded(largest) if pixels.size <= SMALL else b""
    if whole and len(whole) <= MOST_BYTES:
        return whole
    sides = (*(side for side in SIDES if side < largest), largest)
    fitting = bisect_right(sides, MOST_BYTES, key=lambda side: len(encoded(side)))
    return encoded(sides[max(0, fitting - 1)])


def _encoded(pixels: NDArray[np.uint8], side: int) -> bytes:
    """The PNG with images whose longer side has so many pixels."""
    from PIL import Image

    _, height, width, _ = pixels.shape
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    across, down = min(ACROSS, len(pixels)), -(-len(pixels) // ACROSS)
    sheet = Image.new("RGB", (across * (size[0] + 1) - 1, down * (size[1] + 1) - 1), "white")
    for k, image in enumerate(pixels):
        tile: Any = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        if tile.size != size:
            tile = tile.resize(size, Image.Resampling.LANCZOS)
        sheet.paste(tile, ((k % ACROSS) * (size[0] + 1), (k // ACROSS) * (size[1] + 1)))
    encoded = io.BytesIO()
    sheet.quantize(COLOURS).save(encoded, format="PNG", optimize=True)
    return encoded.getvalue()
