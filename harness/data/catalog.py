"""Which datasets there are and what identifies one; free of torch so that a command line starts at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from harness.errors import DataError, UnknownNameError

FOLDER_PREFIX = "folder:"
# What torchvision's ImageFolder takes for an image, so that both see the same files in the same order.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class KnownDataset:
    """Facts about a dataset that is known by name.

    `mean` and `std` are per channel in [0, 1] units, as the field's code sets them; empty means measured on
    the train split. `smallest_class` counts training images, of datasets that come with the package: those
    cannot be missing, and importing torch to count would take longer than the rest of planning.
    """

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int
    note: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    smallest_class: int | None = None

    @property
    def embedded(self) -> bool:
        """Whether it comes with the package."""
        return self.smallest_class is not None


# Mean and std: the tables of the DC/DM line of code (and of MTT for TinyImageNet).
KNOWN = {
    "digits": KnownDataset(
        (1, 8, 8), 10, 1437, 360, "handwritten digits of scikit-learn; needs no download", smallest_class=139
    ),
    "fashion-mini": KnownDataset(
        (1, 28, 28),
        10,
        4_000,
        2_000,
        "a stratified part of Fashion-MNIST; needs no download",
        (0.2861,),
        (0.3530,),
        smallest_class=400,
    ),
    "mnist": KnownDataset((1, 28, 28), 10, 60_000, 10_000, "handwritten digits", (0.1307,), (0.3081,)),
    "fashionmnist": KnownDataset(
        (1, 28, 28), 10, 60_000, 10_000, "articles of clothing", (0.2861,), (0.3530,)
    ),
    "svhn": KnownDataset(
        (3, 32, 32),
        10,
        73_257,
        26_032,
        "street-view house numbers, without the extra split",
        (0.4377, 0.4438, 0.4728),
        (0.1980, 0.2010, 0.1970),
    ),
    "cifar10": KnownDataset(
        (3, 32, 32),
        10,
        50_000,
        10_000,
        "photographs of animals and vehicles",
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
    ),
    "cifar100": KnownDataset(
        (3, 32, 32),
        100,
        50_000,
        10_000,
        "photographs, fine labels",
        (0.5071, 0.4866, 0.4409),
        (0.2673, 0.2564, 0.2762),
    ),
    "tinyimagenet": KnownDataset(
        (3, 64, 64),
        200,
        100_000,
        10_000,
        "200 ImageNet classes; the validation split serves as test split",
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    ),
}


@dataclass(frozen=True)
class DatasetSpec:
    """The identity of a dataset: equal specs mean equal data, on any machine.

    `name` is shown in results; `source` is a key of `KNOWN` or "folder". `image_size` (pixels a side, None =
    as stored), `listing` (hash of file names and sizes) and `path` belong to folders only; `path` says where
    the folder lies on this machine and is no part of the identity. `zca` asks for ZCA whitening in place of
    mean/std normalisation.
    """

    name: str
    source: str
    image_size: int | None = None
    zca: bool = False
    listing: str = ""
    path: str | None = field(default=None, compare=False)


class DatasetRow(NamedTuple):
    """One line of `list datasets`; None where it depends on the folder."""

    name: str
    shape: tuple[int, int, int] | None
    classes: int | None
    train: int | None
    test: int | None
    note: str


def describe() -> list[DatasetRow]:
    """All that `parse` accepts, one row each."""
    known = [
        DatasetRow(name, facts.shape, facts.classes, facts.train, facts.test, facts.note)
        for name, facts in KNOWN.items()
    ]
    note = "your own images: PATH/train/<class>/* and PATH/test/<class>/*"
    return [*known, DatasetRow("folder:PATH", None, None, None, None, note)]


def default_data_dir() -> Path:
    """Folder of the datasets: $HARNESS_DATA, else the user's cache."""
    return Path(os.environ.get("HARNESS_DATA") or Path.home() / ".cache" / "distillation-harness")


def parse(text: str, data_dir: Path, image_size: int | None = None, zca: bool = False) -> DatasetSpec:
    """Turn what the user typed, a known name in any case or "folder:PATH", into a spec.

    PATH is absolute, or looked up under `data_dir` and then under the current directory. Raises
    UnknownNameError for another name, DataError for a folder that is no dataset or an `image_size` where none
    applies.
    """
    if text.lower().startswith(FOLDER_PREFIX):
        if image_size is not None and image_size < 1:
            raise DataError(
                f"image size {image_size} is not a positive number of pixels; e.g. --image-size 32"
            )
        return _parse_folder(text[len(FOLDER_PREFIX) :], data_dir, image_size, zca)
    name = text.lower()
    if name not in KNOWN:
        raise UnknownNameError("dataset", text, [*KNOWN, "folder:PATH"])
    if image_size is not None:
        raise DataError(
            f"{name} has a fixed image size; leave --image-size out, it is for folder:PATH datasets"
        )
    return DatasetSpec(name, name, zca=zca)


def _parse_folder(text: str, data_dir: Path, image_size: int | None, zca: bool) -> DatasetSpec:
    path = _find_folder(text, data_dir)
    if path.name.lower() in KNOWN:
        raise DataError(
            f"folder {path} bears the name of the built-in dataset {path.name.lower()!r}, with which its "
            f"results would be confused; rename it, e.g. {path.name}-jpeg"
        )
    listing = folder_listing(path, folder_splits(path))
    return DatasetSpec(path.name, "folder", image_size, zca, listing, str(path))


def _find_folder(text: str, data_dir: Path) -> Path:
    candidates = [base / Path(text).expanduser() for base in (data_dir, Path.cwd())]
    for path in candidates if text else []:
        if path.is_dir():
            return path.resolve()
    tried = " or ".join(dict.fromkeys(map(str, candidates)))
    raise DataError(
        f"no folder {text!r} (looked for {tried}); type folder:PATH with PATH/train and PATH/test in it"
    )


def folder_splits(path: Path) -> dict[str, dict[str, list[str]]]:
    """Image files of "train" and "test" by class, see `class_files`.

    Raises DataError unless both exist with the same, non-empty class folders.
    """
    splits = {split: class_files(path / split) for split in ("train", "test")}
    unpaired = splits["train"].keys() ^ splits["test"].keys()
    if unpaired:
        raise DataError(
            f"train and test of {path} must have the same classes; {min(unpaired)!r} is in one of them only"
        )
    return splits


def folder_listing(path: Path, splits: dict[str, dict[str, list[str]]]) -> str:
    """Short hash of the names and byte sizes of a folder dataset's images, the same on every machine."""
    return digest_files(
        path, (file for split in splits.values() for files in split.values() for file in files)
    )


def class_files(split: Path) -> dict[str, list[str]]:
    """Image files of each class of `split`/<class>/..., in the order of torchvision's ImageFolder.

    Their paths are strings: making a `Path` of each takes longer than all else that listing them takes.
    Raises DataError for a missing folder or a class without images.
    """
    classes = sorted(entry.name for entry in split.iterdir() if entry.is_dir()) if split.is_dir() else []
    if not classes:
        raise DataError(
            f"no class folders in {split}; expected images at {split}{os.sep}<class>{os.sep}*.png or .jpg"
        )
    files = {name: list(_images_below(split / name)) for name in classes}
    for name, found in files.items():
        if not found:
            raise DataError(
                f"class folder {split / name} holds no image; add some or remove it from train and test"
            )
    return files


def _images_below(folder: Path) -> Iterator[str]:
    for parent, _, names in sorted(os.walk(folder, followlinks=True)):
        for name in sorted(names):
            if name.lower().endswith(IMAGE_SUFFIXES):
                yield os.path.join(parent, name)


def digest_files(root: Path, files: Iterable[str | Path]) -> str:
    """16 hex characters that identify the files' names relative to `root` and their sizes in bytes."""
    # Path.relative_to takes most of a second for the 60 000 files of CIFAR-10; all files lie below root.
    start = len(str(root)) + 1
    try:
        lines = sorted(
            f"{str(file)[start:].replace(os.sep, '/')}\t{os.stat(file).st_size}\n" for file in files
        )
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}; restore or remove it") from error
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]
