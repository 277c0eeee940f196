"""Image files to uint8 tensors, decoded once and kept, since every trial is its own process."""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from harness.data.catalog import DatasetSpec, folder_listing, folder_splits
from harness.data.dataset import Samples
from harness.errors import DataError

Pixels = npt.NDArray[np.uint8]


def read_folder(spec: DatasetSpec, data_dir: Path, train: bool) -> Samples:
    """Read one split of a folder dataset as RGB; classes and files in the order of torchvision's ImageFolder.

    With `spec.image_size` images are cropped at the centre and resized to a square of that side; without,
    they must be of one size. Raises DataError if the folder or an image cannot be read, or if its files are
    not those that the spec was made from.
    """
    root = Path(spec.path) if spec.path else data_dir / spec.name
    splits = folder_splits(root)
    if folder_listing(root, splits) != spec.listing:
        raise DataError(
            f"the files of {root} changed since dataset {spec.name} was planned; run the command again"
        )
    classes = splits["train" if train else "test"]
    files = [file for members in classes.values() for file in members]
    sizes = torch.tensor([len(members) for members in classes.values()])
    try:
        images = decode(files, spec.image_size, cache_file(data_dir, spec, train, spec.listing))
    except (OSError, ValueError) as error:
        raise DataError(f"folder dataset {spec.name}: {error}") from error
    return Samples(images, torch.arange(len(sizes)).repeat_interleave(sizes), tuple(classes))


def cache_file(data_dir: Path, spec: DatasetSpec, train: bool, listing: str) -> Path:
    """Where the decoded pixels of one split are kept; `listing` identifies its files."""
    size = spec.image_size or "stored"
    return data_dir / ".decoded" / f"{spec.name}-{size}-{listing}-{'train' if train else 'test'}.npy"


def decode(files: Sequence[str | Path], size: int | None, cache: Path) -> Tensor:
    """RGB pixels uint8 (N, 3, H, W) of image files, from `cache` where it holds them.

    A cache that is absent, cut short or not writable only costs the time to decode. Raises OSError for an
    image that cannot be read and ValueError if images differ in size while `size` is None.
    """
    pixels = _cached(cache, len(files))
    if pixels is None:
        pixels = _decode(files, size)
        with suppress(OSError):
            _store(cache, pixels)
    return torch.from_numpy(pixels)


def _decode(files: Sequence[str | Path], size: int | None) -> Pixels:
    first = _decode_one(files[0], size)
    pixels = np.empty((len(files), *first.shape), dtype=np.uint8)
    for row, file in zip(pixels, files, strict=True):
        image = _decode_one(file, size)
        if image.shape != first.shape:
            height, width = image.shape[1:]
            raise ValueError(
                f"{file} is {width}x{height}, {Path(files[0]).name} is {first.shape[2]}x{first.shape[1]}; "
                "pass --image-size S to bring all images to SxS"
            )
        row[:] = image
    return pixels


def _decode_one(file: str | Path, size: int | None) -> Pixels:
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise OSError(f"cannot decode {file} ({type(error).__name__}); replace it or remove it") from error
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
    return np.moveaxis(np.asarray(image, dtype=np.uint8), 2, 0)


def _cached(path: Path, count: int) -> Pixels | None:
    try:
        # Mapped first: a file shorter than its header promises is noticed before it is read.
        pixels: Pixels = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    fits = pixels.dtype == np.uint8 and pixels.ndim == 4 and len(pixels) == count
    return pixels.copy() if fits else None


def _store(path: Path, pixels: Pixels) -> None:
    """Write aside and rename, so that no reader and no second writer ever meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            np.save(file, pixels)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
