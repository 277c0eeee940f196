"""Tiny datasets in the true file formats, and the way to the real ones where a machine has them."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import pickle
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision import datasets

from harness.core.data.catalog import KNOWN

torch.set_num_threads(1)
TRAIN, TEST = 20, 10


@dataclass(frozen=True)
class Written:
    """What a writer put on disk: pixels uint8 (N, C, H, W) and labels (N,) of both splits."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    files: dict[str, list[Path]]


def _draw(shape: tuple[int, int, int], classes: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    generator = np.random.default_rng(0)

    def split(least: int) -> tuple[np.ndarray, np.ndarray]:
        count = max(least, classes)
        return generator.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % classes

    return split(TRAIN), split(TEST)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_idx(root: Path, kind: str = "MNIST", packed: bool = False) -> Written:
    """Big-endian idx files: magic, sizes, bytes; gzipped as published if `packed`."""
    train, test = _draw((1, 28, 28), 10)
    raw = root / kind / "raw"
    raw.mkdir(parents=True)
    files: dict[str, list[Path]] = {}
    for split, prefix, (pixels, labels) in (("train", "train", train), ("test", "t10k", test)):
        count = len(labels)
        images_bytes = struct.pack(">IIII", 0x803, count, 28, 28) + pixels.tobytes()
        labels_bytes = struct.pack(">II", 0x801, count) + labels.astype(np.uint8).tobytes()
        files[split] = [raw / f"{prefix}-images-idx3-ubyte", raw / f"{prefix}-labels-idx1-ubyte"]
        for file, content in zip(files[split], (images_bytes, labels_bytes), strict=True):
            if packed:
                Path(f"{file}.gz").write_bytes(gzip.compress(content))
            else:
                file.write_bytes(content)
    return Written(train, test, files)


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> Written:
    """Pickled batches, the channel planes of an image in one row; torchvision's checksums follow."""
    reader = getattr(datasets, kind)
    fine = kind == "CIFAR100"
    classes = 100 if fine else 10
    train, test = _draw((3, 32, 32), classes)
    folder = root / reader.base_folder
    folder.mkdir(parents=True)

    def write(names: list[str], pixels: np.ndarray, labels: np.ndarray) -> list[list[str]]:
        key = "fine_labels" if fine else "labels"
        for name, rows in zip(names, np.array_split(np.arange(len(labels)), len(names)), strict=True):
            batch = {"data": pixels[rows].reshape(len(rows), -1), key: labels[rows].tolist()}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        return [[name, _md5(folder / name)] for name in names]

    names = {"train": [n for n, _ in reader.train_list], "test": [n for n, _ in reader.test_list]}
    monkeypatch.setattr(reader, "train_list", write(names["train"], *train))
    monkeypatch.setattr(reader, "test_list", write(names["test"], *test))
    meta = folder / reader.meta["filename"]
    meta.write_bytes(pickle.dumps({reader.meta["key"]: [f"c{i}" for i in range(classes)]}, protocol=2))
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": _md5(meta)})
    return Written(train, test, {split: [folder / n for n in names[split]] for split in names})


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Matlab files with X (H, W, C, N) and y (N, 1), where the digit 0 has the label 10."""
    splits = dict(zip(("train", "test"), _draw((3, 32, 32), 10), strict=True))
    root.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[Path]] = {}
    for split, (pixels, labels) in splits.items():
        url, name, _ = datasets.SVHN.split_list[split]
        stored = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        scipy.io.savemat(root / name, {"X": pixels.transpose(2, 3, 1, 0), "y": stored})
        monkeypatch.setitem(datasets.SVHN.split_list, split, [url, name, _md5(root / name)])
        files[split] = [root / name]
    return Written(splits["train"], splits["test"], files)


def write_tiny(root: Path) -> Written:
    """The official layout: 3 classes, one grey-scale file; images are flat, so that JPEG keeps them."""
    wnids = ["n02", "n03", "n01"]
    folder = root / "tiny-imagenet-200"
    files: dict[str, list[Path]] = {"train": [], "test": []}

    def save(path: Path, grey: int) -> int:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("L", (64, 64), grey)
        (image if grey == 30 else image.convert("RGB")).save(path, format="JPEG", quality=95)
        return grey

    train, test, lines = [], [], []
    for label, wnid in enumerate(sorted(wnids)):
        for number in range(2):
            file = folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG"
            train.append((save(file, 30 + 60 * label + 10 * number), label))
            files["train"].append(file)
    for number, wnid in enumerate(["n03", "n01", "n02", "n03"]):
        file = folder / "val" / "images" / f"val_{number}.JPEG"
        test.append((save(file, 40 + 50 * number), sorted(wnids).index(wnid)))
        files["test"].append(file)
        lines.append(f"{file.name}\t{wnid}\t0\t0\t62\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(wnids))

    def arrays(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        values = np.array([value for value, _ in rows], dtype=np.uint8)
        pixels = np.broadcast_to(values[:, None, None, None], (len(rows), 3, 64, 64))
        return pixels, np.array([label for _, label in rows])

    return Written(arrays(train), arrays(test), files)


def zip_folder(folder: Path, target: Path) -> Path:
    """Pack `folder` under its own name."""
    with zipfile.ZipFile(target, "w") as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, file.relative_to(folder.parent))
    return target


Writer = Callable[[str, Path], Written]


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> Writer:
    """Give a function (name, data_dir) that writes a tiny version of a published dataset.

    While the test runs the catalogue holds that version's counts: with its own it would be refused.
    """

    def writer(name: str, root: Path) -> Written:
        writers: dict[str, Callable[[], Written]] = {
            "mnist": lambda: write_idx(root),
            "mnist.gz": lambda: write_idx(root, packed=True),
            "fashionmnist": lambda: write_idx(root, "FashionMNIST"),
            "svhn": lambda: write_svhn(root, monkeypatch),
            "cifar10": lambda: write_cifar(root, monkeypatch, "CIFAR10"),
            "cifar100": lambda: write_cifar(root, monkeypatch, "CIFAR100"),
            "tinyimagenet": lambda: write_tiny(root),
        }
        written = writers[name]()
        counts = {split: len(getattr(written, split)[1]) for split in ("train", "test")}
        known = name.removesuffix(".gz")
        classes = len(np.unique(written.train[1]))
        monkeypatch.setitem(KNOWN, known, dataclasses.replace(KNOWN[known], classes=classes, **counts))
        return written

    return writer


@pytest.fixture
def pack() -> Callable[[Path, Path], Path]:
    """Give a function (folder, target) that zips a folder under its own name."""
    return zip_folder


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which a server on this machine offers its files."""
    folder = tmp_path / "server"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder dataset of 2 classes, 3 train and 2 test images each, 10x8 PNG, one of them in a subfolder."""
    root = tmp_path / "data" / "pets"
    generator = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for name in ("dog", "cat"):
            for number in range(count):
                parent = root / split / name / ("more" if number == 2 else "")
                parent.mkdir(parents=True, exist_ok=True)
                pixels = generator.integers(0, 256, (8, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(parent / f"{number}.png")
    return root


@pytest.fixture
def real_data() -> Path:
    """The folder with the real datasets, from the environment variable HARNESS_DATA."""
    folder = os.environ.get("HARNESS_DATA")
    if not folder:
        pytest.skip("HARNESS_DATA does not name a folder with real datasets")
    return Path(folder)
