"""Published datasets in their own file formats, parsed and downloaded by torchvision.

torchvision writes a download straight to its final place, where an interruption leaves half a file that later
passes for data. Here it downloads into a scratch folder, whose content is moved when complete.
"""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import sys
import tarfile
import tempfile
import textwrap
import zipfile
import zlib
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import download_and_extract_archive, download_url

from harness.core.data.catalog import DatasetSpec
from harness.core.data.dataset import Samples, class_numbers
from harness.core.data.files import contents
from harness.core.data.folder import cache_file, decode
from harness.core.errors import DataError

# All that a missing, cut or altered file makes the parsers of this module raise.
UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AssertionError,
    pickle.UnpicklingError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
DIGIT_NAMES = tuple("0123456789")
TINY_FOLDER = "tiny-imagenet-200"
TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


@dataclass(frozen=True)
class Archive:
    """How one published dataset lies on disk.

    It lies in `home`, relative to the data directory, as `files` are. These must exist before either split is
    read, so that a missing test file is noticed before hours of distillation and not after.
    `read(data_dir, train)` parses one split and reads no file of the other; `fetch(data_dir)` downloads all.
    """

    home: str
    files: tuple[str, ...]
    read: Callable[[Path, bool], Samples]
    fetch: Callable[[Path], object]


def archive(spec: DatasetSpec) -> Archive:
    """Find the archive of a known dataset other than digits; a KeyError for any other source."""
    builders: dict[str, Callable[[], Archive]] = {
        "mnist": lambda: _idx(datasets.MNIST, DIGIT_NAMES),
        "fashionmnist": lambda: _idx(datasets.FashionMNIST, tuple(datasets.FashionMNIST.classes)),
        "svhn": _svhn,
        "cifar10": lambda: _cifar(datasets.CIFAR10),
        "cifar100": lambda: _cifar(datasets.CIFAR100),
        "tinyimagenet": lambda: _tiny(spec),
    }
    return builders[spec.source]()


def read_archive(spec: DatasetSpec, data_dir: Path, train: bool, download: bool) -> Samples:
    """Read one split of a published dataset, downloading it first where it is absent or damaged.

    Raises DataError, in one line, if it is neither there nor to be had.
    """
    source = archive(spec)
    try:
        return _read(source, data_dir, train)
    except UNREADABLE as error:
        problem = _brief(error)
    if download:
        try:
            return _fetch_and_read(source, data_dir, train)
        except UNREADABLE as error:
            problem += f"; the download failed ({_brief(error)})"
    raise DataError(
        f"{spec.name} cannot be read from {data_dir}: {problem}; put it under {data_dir / source.home}, "
        "pass --data DIR, or try --dataset digits, which needs no download"
    )


def _read(source: Archive, data_dir: Path, train: bool) -> Samples:
    for name in source.files:
        if not any((data_dir / candidate).exists() for candidate in (name, f"{name}.gz")):
            raise FileNotFoundError(f"there is no {name}")
    return source.read(data_dir, train)


def _fetch_and_read(source: Archive, data_dir: Path, train: bool) -> Samples:
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / ".download.lock"):
        try:
            # Another process may have fetched it while this one waited.
            return _read(source, data_dir, train)
        except UNREADABLE:
            with tempfile.TemporaryDirectory(dir=data_dir, prefix=".download-") as scratch:
                with redirect_stdout(sys.stderr):
                    source.fetch(Path(scratch))
                _move(Path(scratch), data_dir)
            return _read(source, data_dir, train)


def _move(source: Path, target: Path) -> None:
    """Move the content of a folder, whole subfolders at once where the target has none of that name."""
    for entry in source.iterdir():
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _move(entry, place)
        else:
            os.replace(entry, place)


def _brief(error: BaseException) -> str:
    """Say in one short line what went wrong."""
    return textwrap.shorten(str(error) or type(error).__name__, width=160, placeholder=" ...")


def _idx(kind: Any, class_names: tuple[str, ...]) -> Archive:
    """MNIST and its look-alikes: big-endian idx files, plain or gzipped."""
    home = f"{kind.__name__}/raw"
    files = tuple(f"{home}/{Path(name).stem}" for name, _ in kind.resources)

    def read(data_dir: Path, train: bool) -> Samples:
        prefix = data_dir / home / ("train" if train else "t10k")
        with tempfile.TemporaryDirectory() as scratch:
            images = _parse_idx(read_image_file, Path(f"{prefix}-images-idx3-ubyte"), Path(scratch))
            labels = _parse_idx(read_label_file, Path(f"{prefix}-labels-idx1-ubyte"), Path(scratch))
        return Samples(images[:, None], labels, class_names)

    return Archive(home, files, read, lambda root: kind(root, download=True))


def _parse_idx(parse: Callable[[str], Tensor], file: Path, scratch: Path) -> Tensor:
    plain = file
    try:
        if not file.exists():
            plain = scratch / file.name
            with gzip.open(f"{file}.gz") as packed, plain.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        return parse(str(plain))
    except UNREADABLE as error:
        raise OSError(f"{file.name} is cut short or damaged") from error


def _verified(name: str, construct: Callable[[], Any]) -> Any:
    """Build a torchvision dataset; its own complaint advises an argument that our users do not have."""
    try:
        return construct()
    except RuntimeError as error:
        raise OSError(f"a file of {name} is cut short or damaged (its checksum is wrong)") from error


def _svhn() -> Archive:
    splits = {split: datasets.SVHN.split_list[split] for split in ("train", "test")}

    def read(data_dir: Path, train: bool) -> Samples:
        data = _verified("SVHN", lambda: datasets.SVHN(data_dir, split="train" if train else "test"))
        images, labels = torch.from_numpy(data.data), class_numbers(torch.from_numpy(data.labels))
        return Samples(images.contiguous(), labels, DIGIT_NAMES)

    def fetch(root: Path) -> None:
        for url, name, md5 in splits.values():
            download_url(url, root, name, md5)

    return Archive("", tuple(name for _, name, _ in splits.values()), read, fetch)


def _cifar(kind: Any) -> Archive:
    listed = [name for name, _ in (*kind.train_list, *kind.test_list)]
    files = tuple(f"{kind.base_folder}/{name}" for name in (*listed, kind.meta["filename"]))

    def read(data_dir: Path, train: bool) -> Samples:
        # Its integrity check reads every listed file; what is not listed stays unread.
        unlisted: dict[str, Any] = {"test_list" if train else "train_list": []}
        reader = type(kind.__name__, (kind,), unlisted)
        data = _verified(kind.base_folder, lambda: reader(data_dir, train=train))
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return Samples(images, class_numbers(torch.tensor(data.targets)), tuple(data.classes))

    return Archive(kind.base_folder, files, read, lambda root: kind(root, download=True))


def _tiny(spec: DatasetSpec) -> Archive:
    """TinyImageNet in its official layout; classes are the sorted WordNet ids."""
    files = tuple(
        f"{TINY_FOLDER}/{name}" for name in ("wnids.txt", "train", "val/val_annotations.txt", "val/images")
    )
    fetch = partial(download_and_extract_archive, TINY_URL, remove_finished=True)

    def read(data_dir: Path, train: bool) -> Samples:
        root = data_dir / TINY_FOLDER
        wnids = sorted((root / "wnids.txt").read_text(encoding="utf-8").split())
        label_of = {wnid: label for label, wnid in enumerate(wnids)}
        pairs = _tiny_train(root, wnids) if train else _tiny_val(root)
        images = [file for file, _ in pairs]
        labels = torch.tensor([label_of[wnid] for _, wnid in pairs])
        cache = cache_file(data_dir, spec, train, contents(root, map(str, images), data_dir))
        return Samples(decode(images, None, cache), labels, tuple(wnids))

    return Archive(TINY_FOLDER, files, read, fetch)


def _tiny_train(root: Path, wnids: list[str]) -> list[tuple[Path, str]]:
    pairs: list[tuple[Path, str]] = []
    for wnid in wnids:
        files = sorted((root / "train" / wnid / "images").glob("*.JPEG"))
        if not files:
            raise FileNotFoundError(f"there is no image in {TINY_FOLDER}/train/{wnid}/images")
        pairs += [(file, wnid) for file in files]
    return pairs


def _tiny_val(root: Path) -> list[tuple[Path, str]]:
    lines = (root / "val" / "val_annotations.txt").read_text(encoding="utf-8").splitlines()
    return [(root / "val" / "images" / name, wnid) for name, wnid, *_ in (line.split("\t") for line in lines)]
