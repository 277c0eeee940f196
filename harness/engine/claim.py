"""A claim on a piece of work, so that of all processes only one is at it. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.engine.records import WORK_FOLDER, Distillation, Trial


class BusyError(Exception):
    """Another process is working on the trial."""


@contextmanager
def claimed(work: Trial | Distillation, results: Path) -> Iterator[None]:
    """Hold the work's lock, which the kernel frees when the process dies; BusyError if another has it."""
    folder = results / WORK_FOLDER / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{work.id}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BusyError(f"{work.label} is being run by another process") from None
    try:
        yield
    finally:
        lock.release()
