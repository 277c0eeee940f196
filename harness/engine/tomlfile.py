"""TOML files as people's editors write them, and what to type where they are none."""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.core.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

BACKSLASH_IN_QUOTES = re.compile(r'"[^"\n]*\\')
MANGLED_PATH = re.compile(r"\b[A-Za-z]:[\b\t\n\f\r]")  # what "C:\temp" means in TOML
SINGLE_QUOTES = (
    r"a backslash in double quotes begins an escape; write paths of Windows in single quotes: 'C:\Users\me'"
)


def read_toml(file: Path) -> dict[str, Any]:
    """What a TOML file of options holds; it may begin with the byte-order mark that editors on Windows write.

    UserError in one line for a file that cannot be read or is no TOML, or a path that escapes have destroyed.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; expected a TOML file with options") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{file} is in UTF-16, and TOML is in UTF-8; save it with the encoding UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        where = f"byte 0x{byte:02x} in line {line}"
        raise UserError(f"{file} is not in UTF-8, as TOML is: {where}; save it with that encoding") from None
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        complained_of = text.splitlines()[int(found[1]) - 1] if found else text
        advice = f"; {SINGLE_QUOTES}" if BACKSLASH_IN_QUOTES.search(complained_of) else ""
        raise UserError(f"{file} is not TOML: {error}{advice}") from None
    for key, value in table.items():
        if any(MANGLED_PATH.search(part) for part in _strings(value)):
            raise UserError(f"{file}: {key} = {value!r} is no path; {SINGLE_QUOTES}")
    return table


def _strings(value: Any) -> Iterator[str]:
    """All strings within a TOML value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)
