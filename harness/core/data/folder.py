"""Image files to uint8 tensors, decoded once and kept, since every trial is its own process."""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from harness.core.data.catalog import DatasetSpec, listing_of
from harness.core.data.dataset import Samples
from harness.core.data.files import beside_images, folder_contents, folder_splits
from harness.core.data.pictures import as_rgb
from harness.core.errors import DataError
from harness.core.files import replacing

Pixels = npt.NDArray[np.uint8]

# All that a damaged picture, or one of a kind that cannot be shown, makes Pillow raise.
UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
DECODING = 2  # raised when the same files give other pixels than before
CHUNK = 4096  # images compared at a time
NAMED = 3  # files that a remark names


def read_folder(spec: DatasetSpec, data_dir: Path, train: bool) -> Samples:
    """Read one split of a folder dataset; classes and files in the order of torchvision's ImageFolder.

    Pictures become RGB as `pictures.as_rgb` says. With `spec.image_size` images are cropped at the centre and
    resized to a square of that side; without, they must be of one size. Raises DataError if the folder or an
    image cannot be read, or if its files are not those that the spec was made from.
    """
    root = Path(spec.path) if spec.path else data_dir / spec.name
    splits = folder_splits(root)
    contents = folder_contents(root, splits, data_dir)
    if listing_of(contents) != spec.listing:
        raise DataError(
            f"the files of {root} changed since dataset {spec.name} was planned; run the command again"
        )
    classes = splits["train" if train else "test"]
    files = [file for members in classes.values() for file in members]
    sizes = torch.tensor([len(members) for members in classes.values()])
    try:
        images = decode(files, spec.image_size, cache_file(data_dir, spec, train, contents))
    except (OSError, ValueError) as error:
        raise DataError(f"folder dataset {spec.name}: {error}") from error
    return Samples(images, torch.arange(len(sizes)).repeat_interleave(sizes), tuple(classes))


def remarks(spec: DatasetSpec, images: Mapping[str, Tensor]) -> list[str]:
    """What a person may not know of a folder dataset and should, a line each.

    `images` are uint8 (N, C, H, W) of "train" and "test", as they were read.
    """
    root = Path(spec.path or "")
    splits = folder_splits(root)
    lines = [*_passed_over(root)]
    for split, pixels in images.items():
        lines += _without_contrast(root, split, splits[split], pixels)
        lines += _alike(split, splits[split], pixels)
    return [f"{spec.name}: {line}" for line in lines]


def _passed_over(root: Path) -> Iterator[str]:
    kinds: dict[str, list[str]] = defaultdict(list)
    for file in beside_images(root):
        kinds[os.path.splitext(file)[1].lower() or "no suffix"].append(file)
    if kinds:
        found = "; ".join(f"{len(files)} {kind} ({_some(files)})" for kind, files in sorted(kinds.items()))
        yield f"passed over, as no images or in no class folder: {found}"


def _without_contrast(
    root: Path, split: str, classes: Mapping[str, Sequence[str]], pixels: Tensor
) -> Iterator[str]:
    files = [os.path.relpath(file, root) for members in classes.values() for file in members]
    flat = [
        (chunk.flatten(2).amin(2) == chunk.flatten(2).amax(2)).all(dim=1) for chunk in pixels.split(CHUNK)
    ]
    rows = torch.cat(flat).nonzero().flatten().tolist()
    if rows:
        named = _some([files[row] for row in rows])
        yield f"{len(rows)} of {len(files)} {split} images are of a single colour: {named}"


def _alike(split: str, classes: Mapping[str, Sequence[str]], pixels: Tensor) -> Iterator[str]:
    parts = pixels.split([len(members) for members in classes.values()])
    alike = [
        name
        for name, part in zip(classes, parts, strict=True)
        if len(part) > 1 and all(bool((chunk == part[0]).all()) for chunk in part.split(CHUNK))
    ]
    if alike:
        of = f"{len(alike)} of {len(classes)} classes"
        yield f"all {split} images of a class are equal in {of}: {_some(alike)}"


def _some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def cache_file(data_dir: Path, spec: DatasetSpec, train: bool, contents: str) -> Path:
    """Where the decoded pixels of one split are kept; `contents` identifies its files."""
    size = spec.image_size or "stored"
    split = "train" if train else "test"
    return data_dir / ".decoded" / f"{spec.name}-{size}-{contents}-{DECODING}-{split}.npy"


def decode(files: Sequence[str | Path], size: int | None, cache: Path) -> Tensor:
    """RGB pixels uint8 (N, 3, H, W) of image files, from `cache` where it holds them.

    A cache that is absent, cut short or not writable only costs the time to decode. Raises OSError for an
    image that cannot be read and ValueError if images differ in size while `size` is None.
    """
    pixels = _cached(cache, len(files))
    if pixels is None:
        pixels = _decode(files, size)
        with suppress(OSError), replacing(cache, durable=False) as aside, aside.open("wb") as file:
            np.save(file, pixels)
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
            image = as_rgb(opened)
    except UNREADABLE as error:
        raise OSError(f"cannot decode {file} ({_reason(error)}); replace it or remove it") from error
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
    return np.moveaxis(np.asarray(image, dtype=np.uint8), 2, 0)


def _reason(error: Exception) -> str:
    """What Pillow says of damage is of no help to a person; a value that fits nothing is."""
    return str(error) if type(error) is ValueError else type(error).__name__


def _cached(path: Path, count: int) -> Pixels | None:
    try:
        # Mapped first: a file shorter than its header promises is noticed before it is read.
        pixels: Pixels = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    fits = pixels.dtype == np.uint8 and pixels.ndim == 4 and len(pixels) == count
    return pixels.copy() if fits else None
