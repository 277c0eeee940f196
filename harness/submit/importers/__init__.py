"""Readers of distilled sets in the forms that the field's repositories write; nothing in a file is run.

What a file is, is told from its first bytes (`sniff`), what stands where in it from its content (`layouts`),
and which files belong together from their names (`pairs`):

safetensors: this harness, or plain tensors `images` and `labels`; dc: what torch.save wrote (DC, DSA, DM and
kin); idm: pickles (IDM, BACON); mtt: several files (MTT, TESLA, FTD, DATM, DataDAM); kip: files of NumPy
(KIP); dd: steps of gradient descent (DD); folder: images by class. Importing this package imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.data.files import class_files
from harness.core.errors import UnknownNameError, UserError
from harness.submit.importers import epochs
from harness.submit.importers.pairs import files_of

if TYPE_CHECKING:
    from harness.core.data import Dataset
    from harness.submit.importers.common import Imported, SetFacts
    from harness.submit.importers.sniff import Container

FORMATS = ("safetensors", "dc", "idm", "mtt", "kip", "dd", "folder")
BY_CONTAINER: dict[Container, str] = {
    "safetensors": "safetensors",
    "torch": "dc",
    "pickle": "idm",
    "npz": "kip",
    "npy": "kip",
}
# Which containers a stated format allows: torch and pickle files hold the same layouts.
ALLOWED: dict[str, tuple[Container, ...]] = {
    "safetensors": ("safetensors",),
    "dc": ("torch", "pickle"),
    "idm": ("torch", "pickle"),
    "dd": ("torch", "pickle"),
    "kip": ("npz", "npy"),
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
    """What lies at `path`, to be read as the `chosen` format, or as the one that its first bytes tell."""
    if chosen is not None and chosen not in FORMATS:
        raise UnknownNameError("format", chosen, FORMATS)
    if not path.exists():
        raise UserError(f"no file or folder {path}")
    kind = _format_of(path) if chosen is None else chosen
    if kind not in ("mtt", "folder"):
        _check_container(path, kind)
    elif kind == "folder" and not path.is_dir():
        raise UserError(f"{path} is a file, --format folder reads a folder")
    else:
        epochs.refuse_folder(path)
    return Source(path, kind, _digest(path, list(_files(path, kind))))


def read(source: Source, data: Dataset, ipc: int | None = None) -> list[Imported]:
    """The distilled sets in a source that is said to be for `data`, one for each of its experiments.

    `ipc` is the number of images per class where it is stated: files without labels need it. Raises UserError
    in one line for what is damaged, too large to be a distilled set, of another kind, or would run code.
    """
    from harness.submit.importers.common import SetFacts

    wanted = SetFacts(ipc, data.num_classes, size_limit(data))
    if source.format == "folder":
        from harness.submit.importers import folder

        return folder.read(source.path, data.class_names, data.shape[0], wanted.limit)
    if source.format == "mtt":
        from harness.submit.importers import trajectories

        return trajectories.read(source.path, files_of(source.path), wanted)
    return _read_file(source, wanted)


def _read_file(source: Source, wanted: SetFacts) -> list[Imported]:
    if source.format == "safetensors":
        from harness.submit.importers import own

        return own.read(source.path, wanted)
    from harness.submit.importers.contents import load
    from harness.submit.importers.layouts import from_content

    return from_content(load(source.path, wanted.limit), source.path, source.format, wanted)


def size_limit(data: Dataset) -> int:
    """Bytes beyond which a file is no distilled set of `data`: its train images as float32, or 64 MiB."""
    return max(LEAST_LIMIT, 4 * data.images.numel())


def _format_of(path: Path) -> str:
    # What reads archives and pickles is not imported for `--help`.
    from harness.submit.importers.sniff import container_of

    if files_of(path):
        return "mtt"
    return "folder" if path.is_dir() else BY_CONTAINER[container_of(path)]


def _check_container(path: Path, chosen: str) -> None:
    """UserError unless the file is of a kind that may hold the format."""
    from harness.submit.importers.sniff import CONTAINER_WORDS, container_of

    if path.is_dir():
        raise UserError(f"{path} is a folder, which is no {chosen!r} format")
    found = container_of(path)
    if found not in ALLOWED[chosen]:
        raise UserError(
            f"{path} is {CONTAINER_WORDS[found]}, which --format {chosen} does not read; leave --format out"
        )


def _files(path: Path, kind: str) -> Iterator[Path]:
    """All files that a source consists of, in a fixed order."""
    if kind == "folder":
        yield from (Path(file) for members in class_files(path).values() for file in members)
    elif kind == "mtt":
        yield from (file for part in files_of(path) for file in part.all)
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
