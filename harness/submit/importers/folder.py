"""A folder with a folder of images for each class, as torchvision's ImageFolder reads it.

The folders are called as the classes of the dataset, or number them in its order: `0`, `1`, ..., or `new000`,
`new001`, ... of SRe2L and its family.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.core.data.files import class_files
from harness.core.data.pictures import as_rgb
from harness.core.errors import UserError
from harness.submit.importers.common import Imported, refuse_large

LOSSY = (".jpg", ".jpeg", ".webp")
LOSSY_NOTE = "the images are stored with losses (JPEG or WebP): they are not the ones that were distilled"


def read(path: Path, class_names: tuple[str, ...], channels: int, limit: int) -> list[Imported]:
    """The one set in the folder, as bytes 0..255."""
    files = {name: list(map(Path, found)) for name, found in class_files(path).items()}
    order = class_order(path, list(files), class_names)
    images, labels = [], []
    total = 0
    for name in sorted(files, key=order.__getitem__):
        for file in files[name]:
            image = _decode(file, channels, limit - total)
            total += image.nbytes
            images.append(image)
            labels.append(order[name])
    shapes = {tuple(image.shape[1:]) for image in images}
    if len(shapes) > 1:
        raise UserError(f"{path}: images differ in size: {', '.join(f'{h}x{w}' for h, w in sorted(shapes))}")
    lossy = any(file.suffix.lower() in LOSSY for members in files.values() for file in members)
    notes = (LOSSY_NOTE,) if lossy else ()
    return [Imported("folder", torch.stack(images), torch.tensor(labels), notes=notes)]


def class_order(path: Path, found: list[str], class_names: tuple[str, ...]) -> dict[str, int]:
    """The label that each folder's name means; UserError for a name that means none."""
    by_name = {name: label for label, name in enumerate(class_names)}
    if set(found) <= by_name.keys():
        return {name: by_name[name] for name in found}
    numbers = _numbers(found, len(class_names))
    if len(numbers) == len(found):
        return numbers
    strange = next(name for name in found if name not in by_name and name not in numbers)
    shown = ", ".join(class_names[:12]) + (", ..." if len(class_names) > 12 else "")
    raise UserError(
        f"{path}: folder {strange!r} names no class; expected {shown}, or their numbers "
        f"0 to {len(class_names) - 1}, also after one word for all of them (new000, new001, ...)"
    )


def _numbers(found: list[str], classes: int) -> dict[str, int]:
    """The class number that each name ends in, of names that begin alike and name different classes."""
    matches = {name: re.fullmatch(r"(\D*)(\d+)", name) for name in found}
    known = {name: match for name, match in matches.items() if match and int(match[2]) < classes}
    words = {match[1] for match in known.values()}
    numbers = {name: int(match[2]) for name, match in known.items()}
    return numbers if len(words) == 1 and len(set(numbers.values())) == len(numbers) else {}


def _decode(file: Path, channels: int, room: int) -> Tensor:
    """Bytes (C, H, W) of an image, whose size is checked before it is decoded."""
    try:
        with Image.open(file) as opened:
            refuse_large(file, opened.width * opened.height * channels, room, "the image")
            picture = as_rgb(opened)
            pixels = np.asarray(picture.convert("L") if channels == 1 else picture, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise UserError(f"cannot decode {file} ({type(error).__name__}); replace it or remove it") from None
    planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
    return torch.from_numpy(planes.copy())
