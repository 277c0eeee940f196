"""Files of NumPy: `.npz` archives (KIP, google-research/kip, and many more) and single `.npy` arrays.

Objects in them are never read, and sizes are checked before anything is.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from harness.core.errors import UserError
from harness.submit.importers.common import NUMBERS, array_bytes, refuse_large
from harness.submit.importers.restricted import BROKEN
from harness.submit.importers.sniff import damaged

TEXT = "U"


class UnreadArray:
    """Stands for an array of Python objects, or of numbers that NumPy itself does not know."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype


def load_npz(path: Path, limit: int) -> Mapping[str, Any]:
    """All arrays of numbers and text by their names; the others as `Unread`."""
    refuse_large(path, path.stat().st_size, limit, "the file")
    try:
        types = _checked_types(path, limit)
        with np.load(path, allow_pickle=False) as file:
            return {
                name: file[name] if dtype.kind in NUMBERS + TEXT else UnreadArray(dtype)
                for name, dtype in types.items()
            }
    except BROKEN as error:
        raise damaged(path, error) from None


def load_npy(path: Path, limit: int) -> Any:
    """The one array of a file."""
    refuse_large(path, path.stat().st_size, limit, "the file")
    try:
        with path.open("rb") as file:
            shape, dtype = _header(file)
        if dtype.kind not in NUMBERS:
            raise UserError(f"{path} is an array of {dtype}; expected one of numbers")
        refuse_large(path, array_bytes(shape, dtype.itemsize), limit, "the array")
        return np.load(path, allow_pickle=False)
    except BROKEN as error:
        raise damaged(path, error) from None


def _checked_types(path: Path, limit: int) -> dict[str, np.dtype[Any]]:
    """Type of each array, each small enough by what the archive and its own header say."""
    with zipfile.ZipFile(path) as archive:
        refuse_large(path, sum(part.file_size for part in archive.infolist()), limit, "its content")
        types = {}
        for name in archive.namelist():
            with archive.open(name) as file:
                shape, dtype = _header(file)
            refuse_large(path, array_bytes(shape, dtype.itemsize), limit, name.removesuffix(".npy"))
            types[name.removesuffix(".npy")] = dtype
        return types


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype
