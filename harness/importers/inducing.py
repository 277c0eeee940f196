"""`.npz` of KIP (google-research/kip): arrays `images`, channels last, and `labels`, rows of numbers.

KIP's labels are one-hot rows less their mean, or learned; `--labels hard` takes the highest.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from harness.errors import UserError
from harness.importers.common import Imported, array_bytes, as_tensor, refuse_large
from harness.importers.restricted import BROKEN

PARTS = ("images", "labels")


def read(path: Path, limit: int) -> list[Imported]:
    """The one set in the file; objects in it are not read, sizes are checked before."""
    refuse_large(path, path.stat().st_size, limit, "the file")
    try:
        _check_sizes(path, limit)
        with np.load(path, allow_pickle=False) as file:
            images, labels = (as_tensor(file[part], part, path) for part in PARTS)
    except BROKEN as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path} is damaged or no .npz of numbers ({reason})") from None
    return [Imported("kip", images, labels)]


def _check_sizes(path: Path, limit: int) -> None:
    """UserError unless both arrays are there and small enough by what the archive and their headers say."""
    with zipfile.ZipFile(path) as archive:
        names = [part.filename for part in archive.infolist()]
        missing = [part for part in PARTS if f"{part}.npy" not in names]
        if missing:
            found = ", ".join(name.removesuffix(".npy") for name in names[:8]) or "nothing"
            raise UserError(f"{path}: expected arrays 'images' and 'labels', found {found}")
        refuse_large(path, sum(part.file_size for part in archive.infolist()), limit, "its content")
        for part in PARTS:
            with archive.open(f"{part}.npy") as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0
                shape, _, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
            refuse_large(path, array_bytes(shape, dtype.itemsize), limit, part)
