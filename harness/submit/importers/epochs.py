"""Soft labels of every epoch, as SRe2L's family and CV-DD store them: recognised and refused."""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import UserError
from harness.core.text import memory, plural

FOLDERS = ("epoch_*", "*/epoch_*")


def refuse_folder(path: Path) -> None:
    """UserError for a folder that has folders `epoch_0`, `epoch_1`, ... or one of them beside its classes."""
    epochs = [one for pattern in FOLDERS for one in sorted(path.glob(pattern)) if one.is_dir()]
    if epochs:
        size = sum(file.stat().st_size for one in epochs for file in one.rglob("*") if file.is_file())
        raise refusal(str(epochs[0].parent), len(epochs), size)


def refusal(where: str, epochs: int, size: int) -> UserError:
    """Why labels of that many epochs, of `size` bytes in all, are not read, and what to do instead."""
    what = f"{where} holds labels of each of {plural(epochs, 'epoch')} ({memory(size)})"
    return UserError(
        f"{what}, which belong to the batches of one student: too large to be part of a set, and of no use"
        " to other batches; give one row for each image, or ask the images under a teacher,"
        " --protocol kd-bssl (which asks it as such labels are made), kd-300 or a short form of theirs"
    )
