"""Digests of this code that were computed before, in the user's cache folder: to compute one takes a second.

A digest follows from the text of the source files, and is kept with a digest of all of that. The file holds
those of one state of the code; with another it begins anew. One that cannot be read or written costs time and
nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from harness.core.files import replacing
from harness.core.user_cache import folder

NAME = "digests.json"


class Kept(msgspec.Struct, frozen=True):
    """The content of the file: digests by what they are of, in the code whose text has the digest `text`."""

    text: str
    digests: dict[str, str]


def text_digest(root: Path, folders: Iterable[str]) -> str:
    """Digest of all source files in folders of `root`, and of the version of Python that parses them."""
    hashed = hashlib.sha256(sys.version.encode())
    for path in sorted(path for name in folders for path in (root / name).rglob("*.py")):
        content = path.read_bytes()
        hashed.update(f"\n{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        hashed.update(content)
    return hashed.hexdigest()


def look_up(text: str, subject: str) -> str | None:
    """The digest that was kept for a subject and this text; None if there is none."""
    return _read(text).digests.get(subject)


def keep(text: str, subject: str, digest: str) -> None:
    """Keep a digest for later processes. Of two that write at once, one may lose."""
    kept = Kept(text, _read(text).digests | {subject: digest})
    with contextlib.suppress(OSError, RuntimeError), replacing(folder() / NAME, durable=False) as aside:
        aside.write_bytes(msgspec.json.encode(kept))


def _read(text: str) -> Kept:
    # RuntimeError: there is no home folder.
    with contextlib.suppress(OSError, RuntimeError, msgspec.DecodeError):
        kept = msgspec.json.decode((folder() / NAME).read_bytes(), type=Kept)
        if kept.text == text:
            return kept
    return Kept(text, {})
