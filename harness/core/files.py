"""How files and folders are written: aside and then moved, so that a reader meets the whole or nothing."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core import faults


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A place to write to, which is moved to `path` in the end; what was there before stays until then.

    Several processes and threads may write the same path at once: the last to finish wins. `durable`: a file
    is on the disk before it is moved; a folder cannot be. If anything fails, nothing is left of it. A fault
    that passes, such as a full disk, is raised as an OSError that names `path`, whatever library met with it.
    """
    aside = path.with_name(f".{path.name}.{_mark()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        if durable:
            with aside.open("rb+") as file:
                os.fsync(file.fileno())
        aside.replace(path)
    except Exception as error:
        other = error.filename if isinstance(error, OSError) else None
        fault = faults.passing(error)
        if fault is None or other not in (None, str(aside)):
            raise
        number = faults.number_of(error)
        said = fault if number is None else os.strerror(number)
        raise OSError(number or errno.EIO, said, str(path)) from error
    finally:
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink(missing_ok=True)


def _mark() -> str:
    """What tells one writer of a path from another."""
    return os.urandom(4).hex()
