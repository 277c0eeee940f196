"""Load the dataset that a `DatasetSpec` names."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from harness.core.data.catalog import KNOWN, DatasetSpec
from harness.core.data.dataset import Dataset, Samples
from harness.core.data.transforms import ZCA, Normalization, Transform
from harness.core.errors import DataError


def load(
    spec: DatasetSpec, data_dir: Path, *, download: bool = True, device: torch.device | str = "cpu"
) -> Dataset:
    """Load the train split of `spec` onto `device`; the test split is read when `Dataset.test()` is called.

    Published datasets lie under `data_dir` as torchvision lays them out. Raises DataError, in one line, if
    the data are absent or damaged and cannot be downloaded, or are not what their name says.
    """
    data_dir = Path(data_dir)
    train = _read(spec, data_dir, download, train=True).to(device)
    return Dataset(
        spec,
        train,
        _fit_transform(spec, train).to(device),
        partial(_read, spec, data_dir, download, train=False),
    )


def _read(spec: DatasetSpec, data_dir: Path, download: bool, *, train: bool) -> Samples:
    # Imported where needed: torchvision adds a second or two to every trial's start.
    known = KNOWN.get(spec.source)
    if known is not None and known.embedded:
        from harness.core.data.embedded import read_embedded

        return read_embedded(spec.source, train)
    if spec.source == "folder":
        from harness.core.data.folder import read_folder

        return read_folder(spec, data_dir, train)
    from harness.core.data.archives import read_archive

    samples = read_archive(spec, data_dir, train, download)
    _check_published(spec, data_dir, samples, train)
    return samples


def _check_published(spec: DatasetSpec, data_dir: Path, samples: Samples, train: bool) -> None:
    """Refuse files that lie where a published dataset should and are another one, or a part of it."""
    known = KNOWN[spec.source]
    expected = (known.train if train else known.test, known.classes, known.shape)
    found = (len(samples.labels), len(samples.labels.unique()), tuple(samples.images.shape[1:]))
    if found != expected:
        raise DataError(
            f"what lies under {data_dir} is not {spec.name}: its {'train' if train else 'test'} split has "
            f"{_in_words(*found)}, the published one {_in_words(*expected)}; to use it as a dataset of its "
            "own, write its images to PATH/train/<class>/* and PATH/test/<class>/* and type "
            "--dataset folder:PATH"
        )


def _in_words(images: int, classes: int, shape: tuple[int, ...]) -> str:
    return f"{images:,} images of {classes} classes at {'x'.join(map(str, shape))}"


def _fit_transform(spec: DatasetSpec, train: Samples) -> Transform:
    if spec.zca:
        return ZCA.fit(train.images)
    known = KNOWN.get(spec.source)
    if known is None or not known.mean:
        return Normalization.fit(train.images)
    return Normalization.of(known.mean, known.std)
