"""Errors that a person can act on, in one line: what was wrong, what was expected, what to type."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """A mistake or a circumstance the user can mend; the command line prints it without a traceback."""


class UnknownNameError(UserError):
    """A name that is not one of the choices; the message gives the nearest one and the whole list."""

    def __init__(self, kind: str, name: str, choices: Iterable[str]) -> None:
        available = sorted(choices)
        nearest = _nearest(name, available)
        hint = f"did you mean {nearest!r}? " if nearest else ""
        super().__init__(f"unknown {kind} {name!r}; {hint}available: {', '.join(available)}")


def _nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that a name spells as papers do ("Fashion-MNIST"), else the most alike; None if none is."""
    lower = {choice.lower(): choice for choice in choices}
    spelt = {re.sub("[-_ ]", "", choice): choice for choice in lower}
    same = spelt.get(re.sub("[-_ ]", "", name.lower()))
    like = [same] if same else difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    return lower[like[0]] if like else None


class DataError(UserError):
    """A dataset that is absent, incomplete or not what its name says."""


class CircumstanceError(UserError):
    """What keeps a trial from running and is not its own doing: once mended, the same command goes on."""


class FirewallError(Exception):
    """The test split was touched while distillation or training was still going on."""


class DivergedError(UserError):
    """A loss or an image stopped being a finite number."""
