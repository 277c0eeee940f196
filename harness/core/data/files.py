"""Which files make an image folder, and what identifies them: their contents. Free of torch and numpy.

Reading tens of thousands of files takes seconds, so what each held is kept, and one is read again only when
its size, times or inode are others than they were.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

from harness.core.errors import DataError
from harness.core.files import replacing

# What torchvision's ImageFolder takes for an image, so that both see the same files in the same order.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SPLITS = ("train", "test")

Splits: TypeAlias = Mapping[str, Mapping[str, Sequence[str]]]

_SCHEME = "contents 1\n"  # at the head of what is hashed
_LETTERS = 16
_CHUNK = 2**20
_SHARE = 256  # files that a thread reads before it reports
_READERS = 8
_SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system in use
_PATIENCE, _PAUSE = 2.0, 10.0  # seconds before the first word about reading, and between words


class Stamp(NamedTuple):
    """What changes when a file does; the time of change, unlike that of modification, cannot be set back."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int


class _Entry(NamedTuple):
    """What a file held when it bore that stamp: the SHA-256 of its bytes."""

    stamp: Stamp
    digest: bytes


_Index: TypeAlias = dict[str, _Entry]


def folder_splits(path: Path) -> dict[str, dict[str, list[str]]]:
    """Image files of "train" and "test" by class, see `class_files`.

    Raises DataError unless both exist with the same class folders, two at least, under names that can be
    written down.
    """
    splits = {split: class_files(path / split) for split in SPLITS}
    unpaired = splits["train"].keys() ^ splits["test"].keys()
    if unpaired:
        raise DataError(
            f"train and test of {path} must have the same classes; {min(unpaired)!r} is in one of them only"
        )
    if len(splits["train"]) == 1:
        (only,) = splits["train"]
        raise DataError(
            f"{path} has a single class, {only!r}, and one class leaves nothing to tell apart; "
            "add a second class folder to train and test"
        )
    for file in (str(path), *_files(splits)):
        _check_writable(file)
    return splits


def class_files(split: Path) -> dict[str, list[str]]:
    """Image files of each class of `split`/<class>/..., in the order of torchvision's ImageFolder.

    Folders and files whose names begin with a dot are left out. Links to folders are followed, each real
    folder and file once in a class. Paths are strings: making a `Path` of each takes longer than all else
    that listing them takes. Raises DataError for a missing folder or a class without images.
    """
    classes = sorted(_classes(split))
    if not classes:
        raise DataError(
            f"no class folders in {split}; expected images at {split}{os.sep}<class>{os.sep}*.png or .jpg"
        )
    files = {name: [file for file in _below(split / name) if _is_image(file)] for name in classes}
    for name, found in files.items():
        if not found:
            raise DataError(
                f"class folder {split / name} holds no image; add some or remove it from train and test"
            )
    return files


def beside_images(path: Path) -> list[str]:
    """Files of a folder dataset that are no images of a class, relative to `path`; hidden ones left out."""
    found: list[str] = []
    for split in SPLITS:
        found += (entry.path for entry in _scan(path / split) if not _is_folder(entry))
        for name in sorted(_classes(path / split)):
            found += (file for file in _below(path / split / name) if not _is_image(file))
    return [os.path.relpath(file, path) for file in found]


def folder_contents(path: Path, splits: Splits, data_dir: Path) -> str:
    """16 hex characters that identify the images of a folder dataset, the same on every machine."""
    return contents(path, _files(splits), data_dir)


def contents(root: Path, files: Iterable[str], data_dir: Path) -> str:
    """16 hex characters that identify files by their names relative to `root` and their bytes.

    What was read is remembered under `data_dir`; where that cannot be written it only costs time. Raises
    DataError for a file that cannot be read.
    """
    place = _index_file(root, data_dir)
    known = _load(place)
    started_ns = time.time_ns()
    try:
        index = _indexed(root, files, known)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}; restore or remove it") from error
    if index is not known:
        with suppress(OSError):
            _store(place, _settled(index, started_ns))
    lines = sorted(f"{name.replace(os.sep, '/')}\t{entry.digest.hex()}\n" for name, entry in index.items())
    return hashlib.sha256((_SCHEME + "".join(lines)).encode("utf-8", "surrogateescape")).hexdigest()[
        :_LETTERS
    ]


def _indexed(root: Path, files: Iterable[str], known: _Index) -> _Index:
    """What the files hold, those read that are not `known`; itself if all are."""
    # Path.relative_to takes most of a second for the 60 000 files of CIFAR-10; all files lie below root.
    start = len(os.path.join(root, ""))
    stamps = {file[start:]: _stamp(file) for file in files}
    unread = [name for name, stamp in stamps.items() if name not in known or known[name].stamp != stamp]
    if not unread and len(stamps) == len(known):
        return known
    digests = dict(zip(unread, _read(root, unread), strict=True))
    return {name: _Entry(stamp, digests.get(name) or known[name].digest) for name, stamp in stamps.items()}


def _settled(index: _Index, now_ns: int) -> _Index:
    """Without files that changed just now: they may once more, which their times would not tell."""
    old = now_ns - _SETTLED_NS
    return {
        name: entry
        for name, entry in index.items()
        if max(entry.stamp.modified_ns, entry.stamp.changed_ns) < old
    }


def _files(splits: Splits) -> Iterator[str]:
    return (file for split in splits.values() for files in split.values() for file in files)


def _check_writable(name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise DataError(
            f"the name '{shown}' is not valid UTF-8, so no record can hold it; rename the file or folder"
        ) from None


def _is_image(file: str) -> bool:
    return file.lower().endswith(IMAGE_SUFFIXES)


def _classes(split: Path) -> list[str]:
    return [entry.name for entry in _scan(split) if _is_folder(entry)] if split.is_dir() else []


def _scan(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder and is not hidden, by name; DataError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}; restore or remove it") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link that leads back to itself makes `is_dir` of the entry raise.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _below(top: Path) -> list[str]:
    """All files at and below a class folder, folder by folder, each real one once."""
    plain: list[tuple[str, str, str]] = []
    links: list[tuple[str, str, str]] = []
    for folder, real in _folders_below(top):
        for entry in _scan(folder):
            if not _is_folder(entry):
                (links if entry.is_symlink() else plain).append((folder, entry.name, real))
    if links:
        seen = {os.path.join(real, name) for _, name, real in plain}
        for link in links:
            target = os.path.realpath(os.path.join(link[0], link[1]))
            if target not in seen:
                seen.add(target)
                plain.append(link)
    return [os.path.join(folder, name) for folder, name, _ in sorted(plain)]


def _folders_below(top: Path) -> list[tuple[str, str]]:
    """A class folder and all folders below it, each with its real place, once each and real ones first.

    A link that leads to where it lies, or to a folder around it, would bring in the whole dataset: it is not
    followed.
    """
    around = {os.path.realpath(folder) for folder in top.absolute().parents}
    found: dict[str, str] = {}
    folders, links = [str(top)], list[str]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(folder)
        if real in found or real in around or _encloses(real, os.path.dirname(folder)):
            continue
        found[real] = folder
        for entry in _scan(folder):
            if _is_folder(entry):
                (links if entry.is_symlink() else folders).append(entry.path)
    return [(folder, real) for real, folder in found.items()]


def _encloses(real: str, folder: str) -> bool:
    """Whether a real folder is another one or lies around it."""
    return os.path.join(os.path.realpath(folder), "").startswith(os.path.join(real, ""))


def _stamp(file: str) -> Stamp:
    found = os.stat(file)
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def _read(root: Path, names: Sequence[str]) -> Iterator[bytes]:
    """SHA-256 of each file's bytes; says on stderr how far it is once it has taken seconds."""
    # Imported where needed, as msgspec below: the command line names datasets at its every start.
    from concurrent.futures import ThreadPoolExecutor

    shares = [names[start : start + _SHARE] for start in range(0, len(names), _SHARE)]
    due, told, done = time.monotonic() + _PATIENCE, False, 0
    with ThreadPoolExecutor(_READERS) as readers:
        for digests in readers.map(
            lambda share: [_digest(os.path.join(root, name)) for name in share], shares
        ):
            yield from digests
            done += len(digests)
            if time.monotonic() > due or (told and done == len(names)):
                line = f"{root}: {done:,} of {len(names):,} files read, to know them by their contents"
                print(line, file=sys.stderr, flush=True)
                due, told = time.monotonic() + _PAUSE, True


def _digest(file: str) -> bytes:
    content = hashlib.sha256()
    with open(file, "rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK):
            content.update(chunk)
    return content.digest()


def _index_file(root: Path, data_dir: Path) -> Path:
    place = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:_LETTERS]
    return data_dir / ".contents" / f"{place}.msgpack"


def _load(place: Path) -> _Index:
    import msgspec

    try:
        return msgspec.msgpack.decode(place.read_bytes(), type=_Index)
    except (OSError, msgspec.DecodeError):
        return {}


def _store(place: Path, index: _Index) -> None:
    import msgspec

    with replacing(place, durable=False) as aside:
        aside.write_bytes(msgspec.msgpack.encode(index))
