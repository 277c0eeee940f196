"""Which datasets there are and what identifies one; free of torch so that a command line starts at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from harness.core.data.files import folder_contents, folder_splits
from harness.core.errors import DataError, UnknownNameError

FOLDER_PREFIX = "folder:"
# Folders with records from when a folder was known by the names and sizes of its files: what identified it
# then, by what its files contain. Exactly these contents go on under that name, all others do not.
EARLIER_LISTINGS = {"56a80c097b583e8e": "acc2477d098a409e"}


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
    as stored), `listing` (hash of file names and contents) and `path` belong to folders only; `path` says
    where the folder lies on this machine and is no part of the identity. `zca` asks for ZCA whitening in
    place of mean/std normalisation.
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
    note = "your own images: PATH/train/<class>/* and PATH/test/<class>/*; transparent ones lie on white"
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
    listing = listing_of(folder_contents(path, folder_splits(path), data_dir))
    return DatasetSpec(path.name, "folder", image_size, zca, listing, str(path))


def listing_of(contents: str) -> str:
    """The `listing` of a folder whose files have these contents, see `DatasetSpec`."""
    return EARLIER_LISTINGS.get(contents, contents)


def _find_folder(text: str, data_dir: Path) -> Path:
    candidates = [base / Path(text).expanduser() for base in (data_dir, Path.cwd())]
    for path in candidates if text else []:
        if path.is_dir():
            return path.resolve()
    tried = " or ".join(dict.fromkeys(map(str, candidates)))
    raise DataError(
        f"no folder {text!r} (looked for {tried}); type folder:PATH with PATH/train and PATH/test in it"
    )
