"""What was worked out from files and is kept beside results, so long as those files are what they were.

A cache may be lost, damaged, older than the code or impossible to write at any time, and several processes
may write it at once: then it is worked out again, in silence.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from harness.core.files import replacing

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("harness", "methods")
SEAL_BYTES = hashlib.sha256().digest_size
# A file that was written twice within a tick of its file system's clock cannot be told from itself; the
# coarsest ticks are of two seconds.
SETTLED_NS = 2 * 10**9

T = TypeVar("T")


class Stamp(NamedTuple):
    """What changes with a file, without reading it. Times are in nanoseconds; `changed` cannot be set."""

    written: int
    changed: int
    size: int
    inode: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Stamp:
        """That of a file from what the system says of it."""
        return cls(facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino)

    def is_settled(self, now: int) -> bool:
        """Whether what is written to the file from `now` on will change the stamp."""
        return max(self.written, self.changed) + SETTLED_NS < now


class CacheFile:
    """A file in a folder of a results folder that holds one value.

    `load` gives it back while the code is that which saved it: that of when this object is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._code = code_stamp()

    def load(self, kind: type[T]) -> T | None:
        """What was saved; None if there is nothing, or nothing that can be relied on."""
        if self._code is None:
            return None
        try:
            content = self._path.read_bytes()
        except OSError:
            return None
        body = memoryview(content)[SEAL_BYTES:]
        if content[:SEAL_BYTES] != self._seal(body):
            return None
        try:
            return msgspec.msgpack.decode(body, type=kind)
        except msgspec.MsgspecError:
            return None

    def save(self, value: object) -> None:
        """Write it, if it can be written; no results folder is made for it."""
        if self._code is None or not self._path.parent.parent.is_dir():
            return
        with suppress(OSError, OverflowError):  # the second for whole numbers of more than 64 bits
            body = msgspec.msgpack.encode(value)
            with replacing(self._path, durable=False) as aside:
                aside.write_bytes(self._seal(body) + body)

    def _seal(self, body: Any) -> bytes:
        """Digest of the code and of what is kept, which tells damage and other code alike."""
        digest = hashlib.sha256((self._code or "").encode())
        digest.update(body)
        return digest.digest()


def code_stamp(root: Path = ROOT) -> str | None:
    """What changes with any source of this program; None while one was written only just now."""
    now = time.time_ns()
    try:
        sources = sorted(source for folder in FOLDERS for source in _sources(root / folder))
    except OSError:
        return None
    if not all(stamp.is_settled(now) for _, stamp in sources):
        return None
    return hashlib.sha256(f"{sys.version} {sources}".encode()).hexdigest()


def _sources(folder: Path | str) -> Iterator[tuple[str, Stamp]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                yield entry.path, Stamp.of(entry.stat())
            elif entry.is_dir() and entry.name != "__pycache__":
                yield from _sources(entry.path)
