"""Faults that pass: a disk that is full, a library that is missing, and what else is not a trial's own doing.

Once they are mended, the same command goes on. One and the same fault comes as an OSError, as some library's
own error, as a line in a compiler's output or as the last words of a process; here they are told apart from
failures that would come again.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from harness.core import imports

PASSING_ERRNOS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EACCES,
        errno.EIO,
        errno.ESTALE,
        errno.ENOLCK,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EMFILE,
        errno.ENFILE,
    }
)
NUMBERED = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")  # by Rust and by Python
# What does not give its number.
SIGNS = re.compile(
    "|".join(
        (
            *(re.escape(os.strerror(number)) for number in sorted(PASSING_ERRNOS)),
            r"inline_container\.cc.*(?:unexpected pos|file write failed)",  # torch.save
            r"iostream error",
            r"\b\d+ requested and \d+ written",  # NumPy
            r"No usable temporary directory found",
            r"Bus error|SIGBUS",  # a page of a mapped file that the disk has no room for
            r"cannot open shared object file|undefined symbol: |DLL load failed|Library not loaded",
            r"(?:^|: )(?:ModuleNotFoundError|ImportError): ",
            r"No CUDA GPUs are available|no CUDA-capable device is detected",
            r"CUDA-capable device\(s\) is/are busy or unavailable|uncorrectable ECC error",
            r"CUDA driver version is insufficient",
        )
    ),
    re.MULTILINE,
)
LONGEST = 300  # characters of a line that is quoted


def passing(error: BaseException) -> str | None:
    """The fault that passes which an error comes from, in one line; None if the error has no such origin.

    Looked at are all the errors that it was raised from or in the course of, and what they say.
    """
    links = list(_links(error))
    for link in links:
        if isinstance(link, OSError) and link.errno in PASSING_ERRNOS:
            said = ": ".join(str(part) for part in (link.strerror, link.filename) if part)
            return said if link is error else f"{said} ({type(error).__name__})"
    if _is_installation(error):
        return f"{type(error).__name__}: {_one_line(str(error))}"
    return next(filter(None, (passing_line(text) for link in links for text in _texts(link))), None)


def number_of(error: BaseException) -> int | None:
    """The system's number of the fault behind an error, where one is told."""
    for link in _links(error):
        if isinstance(link, OSError) and link.errno in PASSING_ERRNOS:
            return link.errno
    numbers = (number for link in _links(error) for text in _texts(link) for number in _numbers(text))
    return next((number for number in numbers if number in PASSING_ERRNOS), None)


def passing_line(text: str) -> str | None:
    """The first line of a text that tells of a fault that passes; None if none does."""
    for line in text.splitlines():
        if SIGNS.search(line) or any(number in PASSING_ERRNOS for number in _numbers(line)):
            return _one_line(line)
    return None


def _links(error: BaseException) -> Iterator[BaseException]:
    """An error and those behind it, each once."""
    waiting, seen = [error], set()
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        behind = (link.__cause__, link.__context__, *getattr(link, "exceptions", ()))
        waiting += [other for other in behind if isinstance(other, BaseException)]


def _texts(link: BaseException) -> Iterator[str]:
    """What an error says, and what the process said that it tells of."""
    yield str(link)
    for name in ("output", "stderr"):
        said = getattr(link, name, None)
        if isinstance(said, bytes):
            yield said.decode(errors="replace")
        elif isinstance(said, str):
            yield said


def _numbers(text: str) -> Iterator[int]:
    return (int(first or second) for first, second in NUMBERED.findall(text))


def _is_installation(error: BaseException) -> bool:
    """Whether a package or a library is missing here, as against a name in this harness's own code."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, ImportError):
        link = link.__cause__
    if link is None:
        return False
    package = (link.name or "").partition(".")[0]
    return package not in imports.OWN or imports.shadow(package) is not None


def _one_line(text: str) -> str:
    """The text without line ends, cut where it gets long."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 4] + " ..."
