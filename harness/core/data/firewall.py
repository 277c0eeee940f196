"""The test-set firewall: while distillation or training goes on, nothing may look at a test split.

The seal holds for the whole process, not for a context or thread: a loop that hands work to a thread must
not thereby get at the test split, and a contextvar would be empty in a new thread. It guards against
mistakes, not against malice: a spawned process starts unsealed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from harness.core.errors import FirewallError


class _Seals:
    """The reasons for which the process is sealed just now; several may overlap, also across threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons: dict[object, str] = {}

    def add(self, reason: str) -> object:
        token = object()
        with self._lock:
            self._reasons[token] = reason
        return token

    def remove(self, token: object) -> None:
        with self._lock:
            del self._reasons[token]

    def latest(self) -> str | None:
        with self._lock:
            return next(reversed(self._reasons.values()), None)


# State on purpose: "this process is distilling" is a fact about the process, see the module's docstring.
_SEALS = _Seals()


@contextmanager
def sealed(reason: str) -> Iterator[None]:
    """Make every look at any test split raise FirewallError until the block ends, also by an exception.

    `reason` completes "sealed while ...", e.g. "distilling bacon". Seals nest: the outermost one opens last.
    """
    token = _SEALS.add(reason)
    try:
        yield
    finally:
        _SEALS.remove(token)


def check(dataset: str) -> None:
    """Raise FirewallError if the process is sealed; `dataset` is the name for the message."""
    reason = _SEALS.latest()
    if reason is not None:
        raise FirewallError(
            f"the test split of {dataset!r} is sealed while {reason}; "
            "look at it only after the last step, and hold out a slice of train for choices made before"
        )
