"""Readers of distilled sets in the formats that the field's repositories write; nothing in a file is run.

safetensors: this harness; dc: DC, DSA, DM and kin; idm: IDM, BACON; mtt: MTT, TESLA, DATM; kip: KIP;
folder: images by class. Importing this package does not import torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data.files import class_files
from harness.errors import UnknownNameError, UserError

if TYPE_CHECKING:
    from harness.data import Dataset
    from harness.importers.common import Imported

FORMATS = ("safetensors", "dc", "idm", "mtt", "kip", "folder")
BY_SUFFIX = {
    ".safetensors": "safetensors",
    ".pt": "dc",
    ".pth": "dc",
    ".pkl": "idm",
    ".pickle": "idm",
    ".npz": "kip",
}
LEAST_LIMIT = 64 * 2**20
CHUNK = 2**20


@dataclass(frozen=True)
class Source:
    """A file or folder, the format it is read as, and a digest of all its bytes."""

    path: Path
    format: str
    digest: str


def find(path: Path, chosen: str | None = None) -> Source:
    """What lies at `path`, to be read as the `chosen` format, or as the one that its name tells."""
    if chosen is not None and chosen not in FORMATS:
        raise UnknownNameError("format", chosen, FORMATS)
    if not path.exists():
        raise UserError(f"no file or folder {path}")
    kind = chosen or _format_of(path)
    if (kind == "folder") != path.is_dir() and kind != "mtt":
        raise UserError(f"{path} is a {'folder' if path.is_dir() else 'file'}, which is no {kind!r} format")
    return Source(path, kind, _digest(path, list(_files(path, kind))))


def read(source: Source, data: Dataset) -> list[Imported]:
    """The distilled sets in a source that is said to be for `data`, one for each of its experiments.

    Raises UserError in one line for what is damaged, too large to be a distilled set, or would run code.
    """
    from harness.importers import condensation, folder, inducing, own, pickled, trajectories

    limit = size_limit(data)
    if source.format == "folder":
        return folder.read(source.path, data.class_names, data.shape[0], limit)
    readers = {
        "safetensors": own.read,
        "dc": condensation.read,
        "idm": pickled.read,
        "mtt": trajectories.read,
        "kip": inducing.read,
    }
    return readers[source.format](source.path, limit)


def size_limit(data: Dataset) -> int:
    """Bytes beyond which a file is no distilled set of `data`: its train images as float32, or 64 MiB."""
    return max(LEAST_LIMIT, 4 * data.images.numel())


def _format_of(path: Path) -> str:
    if _is_mtt(path):
        return "mtt"
    if path.is_dir():
        return "folder"
    if path.suffix.lower() not in BY_SUFFIX:
        raise UserError(
            f"{path}: its name does not tell the format; expected {', '.join(BY_SUFFIX)} or a folder, "
            f"or --format {'|'.join(FORMATS)}"
        )
    return BY_SUFFIX[path.suffix.lower()]


def _is_mtt(path: Path) -> bool:
    if path.is_dir():
        return (path / "images_best.pt").is_file()
    name = path.name
    labels = path.with_name(f"labels{name[len('images') :]}")
    return name.startswith("images") and path.suffix in (".pt", ".pth") and labels.is_file()


def _files(path: Path, kind: str) -> Iterator[Path]:
    """All files that a source consists of, in a fixed order."""
    if kind == "folder":
        yield from (Path(file) for members in class_files(path).values() for file in members)
    elif kind == "mtt":
        from harness.importers.trajectories import files_of

        yield from files_of(path)
    else:
        yield path


def _digest(root: Path, files: list[Path]) -> str:
    """SHA-256 in hex of the bytes of the only file, or of the names and bytes of several."""
    content = hashlib.sha256()
    for file in files:
        if len(files) > 1:
            name = file.relative_to(root if root.is_dir() else root.parent).as_posix()
            content.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                content.update(chunk)
    return content.hexdigest()
