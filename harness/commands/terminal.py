"""Output for any terminal: what its encoding lacks is replaced, and no command fails for a character."""

from __future__ import annotations

import codecs
import io
import json
import sys

REPLACED = "harness.replaced"  # the name of the error handler
PLAIN = {"±": "+-", "×": "x", "·": "-", "–": "-", "…": "...", "†": "+", "‡": "++"}


def replace_what_it_lacks() -> None:
    """Let characters be replaced that the encoding of stdout or stderr has not."""
    codecs.register_error(REPLACED, _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=REPLACED)


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    """In JSON the escape that means the same character, elsewhere one that looks alike, or else `?`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    if error.object.startswith(("{", "[")):
        return json.dumps(lacking)[1:-1], error.end
    return "".join(PLAIN.get(character, "?") for character in lacking), error.end
