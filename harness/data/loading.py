"""From a spec to a loaded dataset."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from harness.data.catalog import KNOWN, DatasetSpec
from harness.data.dataset import Dataset, Samples
from harness.data.transforms import ZCA, Normalization, Transform


def load(
    spec: DatasetSpec, data_dir: Path, *, download: bool = True, device: torch.device | str = "cpu"
) -> Dataset:
    """Load the train split of `spec` onto `device`; the test split is read when `Dataset.test()` is called.

    Published datasets lie under `data_dir` as torchvision lays them out. Raises DataError, in one line, if
    the data are absent or damaged and cannot be downloaded.
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
        from harness.data.embedded import read_embedded

        return read_embedded(spec.source, train)
    if spec.source == "folder":
        from harness.data.folder import read_folder

        return read_folder(spec, data_dir, train)
    from harness.data.archives import read_archive

    return read_archive(spec, data_dir, train, download)


def _fit_transform(spec: DatasetSpec, train: Samples) -> Transform:
    if spec.zca:
        return ZCA.fit(train.images)
    known = KNOWN.get(spec.source)
    if known is None or not known.mean:
        return Normalization.fit(train.images)
    return Normalization.of(known.mean, known.std)
