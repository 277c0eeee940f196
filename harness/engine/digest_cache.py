"""Digests of this code that were computed before, in the user's cache folder: to compute some takes a second.

A digest follows from the text of the source files, and is kept with a digest of all of that. The file holds
those of the last few states of the code. One that cannot be read or written costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from harness.core.files import replacing
from harness.core.user_cache import folder

NAME = "digests.json"
STATES = 5  # of the code, for several checkouts and for edits that are taken back


class State(msgspec.Struct, frozen=True):
    """Digests by what they are of, in the code whose text has the digest `text`; None: it cannot run that."""

    text: str
    digests: dict[str, str | None]


def text_digest(root: Path, folders: Iterable[str]) -> str:
    """Digest of all source files in folders of `root`, and of the version of Python that parses them."""
    hashed = hashlib.sha256(sys.version.encode())
    for path in sorted(path for name in folders for path in (root / name).rglob("*.py")):
        content = path.read_bytes()
        hashed.update(f"\n{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        hashed.update(content)
    return hashed.hexdigest()


def load(text: str) -> dict[str, str | None]:
    """The digests that were kept for this text."""
    return _of_text(text, _states())


def keep(text: str, digests: Mapping[str, str | None]) -> None:
    """Keep digests of this text for later processes. Of two that write at once, one may lose."""
    states = _states()
    state = State(text, _of_text(text, states) | dict(digests))
    others = [other for other in states if other.text != text]
    with contextlib.suppress(OSError, RuntimeError), replacing(folder() / NAME, durable=False) as aside:
        aside.write_bytes(msgspec.json.encode([state, *others][:STATES]))


def _of_text(text: str, states: Iterable[State]) -> dict[str, str | None]:
    return next((state.digests for state in states if state.text == text), {})


def _states() -> list[State]:
    """All that are kept, the last written first."""
    # RuntimeError: there is no home folder.
    with contextlib.suppress(OSError, RuntimeError, msgspec.DecodeError):
        return msgspec.json.decode((folder() / NAME).read_bytes(), type=list[State])
    return []
