"""What shows that methods are their authors': golden tests that pass, and departures that are known.

Outcomes come from `data/fidelity.json`, which `pytest --fidelity` writes and `pytest --fidelity-check`
compares with what its tests show; departures from the headers of the method files.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

import methods
from harness.core.errors import UserError
from harness.core.packaged import packaged
from harness.core.text import MISSING, table

FIDELITY_JSON = packaged("harness.report", "data", "fidelity.json")
ALL_METHODS = "*"
DEPARTURES = re.compile(
    r"Departures from the authors' code\s*(?:\((?P<source>[^)]*)\))?\s*:\s*(?P<text>.*)", re.S
)

INTRODUCTION = """\
## Fidelity

The authors' own code was run on small fixed inputs; [tests/golden](tests/golden/README.md) keeps what went in
and what came out, a file for each loss, selection, augmentation or whole iteration. A golden test feeds the
same inputs and draws to the code that runs here and wants the same outputs but for the rounding of float32.
The table says how many of the tests on each file pass. `pytest --fidelity` writes the outcomes, and
`make test` compares them with what it sees."""

DEPARTURES_HEADING = """\
### Known departures

What a method does otherwise than its authors' code, as its file under `methods/` says. A variant is named,
never silent."""


class GoldenCounts(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Numbers of golden tests that passed and failed."""

    passed: int
    failed: int

    @property
    def text(self) -> str:
        """`3 of 3`; bold where tests failed."""
        counts = f"{self.passed} of {self.passed + self.failed}"
        return f"**{counts}**" if self.failed else counts


@dataclass(frozen=True)
class Departures:
    """Where the authors' code lies, if the header says so, and what is done otherwise, each in one line."""

    source: str
    text: str


@dataclass(frozen=True)
class Fidelity:
    """What the page says of the golden tests and of known departures.

    outcomes: by golden item and method ("*" for all of them); None if there is no file of them.
    departures: by name of a method; None for one whose header has no such paragraph.
    """

    outcomes: Mapping[str, Mapping[str, GoldenCounts]] | None = None
    departures: Mapping[str, Departures | None] = field(default_factory=dict)


def load_fidelity(path: Path = FIDELITY_JSON, folder: Path | None = None) -> Fidelity:
    """The outcomes on file and the headers of the methods in `folder`; UserError for an unreadable file."""
    return Fidelity(_outcomes(path), _departures(folder or packaged("methods")))


def fidelity_markdown(fidelity: Fidelity) -> str:
    """The section: outcomes by method, items that no test uses, departures."""
    parts = [INTRODUCTION]
    if fidelity.outcomes is None:
        parts.append(
            "No outcomes are on file; `pytest --fidelity=harness/report/data/fidelity.json` writes them."
        )
    else:
        parts += [_table(fidelity.outcomes, list(fidelity.departures)), _unclaimed(fidelity.outcomes)]
    if fidelity.departures:
        parts += [DEPARTURES_HEADING, _list(fidelity)]
    return "\n\n".join(part for part in parts if part)


def _outcomes(path: Path) -> dict[str, dict[str, GoldenCounts]] | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, GoldenCounts]])
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; write it with `pytest --fidelity={path}`") from None


def _departures(folder: Path) -> dict[str, Departures | None]:
    """By the name of each method that can be used; the paragraph of its file speaks of its variants too."""
    names = [
        info.name for info in methods.discover(folder).values() if not info.breaches and "@" not in info.name
    ]
    return {name: departures_in((folder / f"{name}.py").read_bytes()) for name in names}


def departures_in(source: bytes) -> Departures | None:
    """The paragraph of a file's header that begins so; None if there is none."""
    for paragraph in re.split(r"\n\s*\n", ast.get_docstring(ast.parse(source)) or ""):
        if found := DEPARTURES.match(" ".join(paragraph.split())):
            return Departures(found["source"] or "", found["text"])
    return None


def _table(outcomes: Mapping[str, Mapping[str, GoldenCounts]], known: list[str]) -> str:
    """A row for what all methods share, then one for each method, its variants after it."""
    claimed = {method for by_method in outcomes.values() for method in by_method}
    names = dict.fromkeys([ALL_METHODS, *sorted(claimed | set(known))])
    rows = [
        [_row_name(name), _items(outcomes, name)] for name in names if name != ALL_METHODS or name in claimed
    ]
    return table(["method", "golden files: tests passed"], rows, text_columns=2)


def _row_name(method: str) -> str:
    return "all methods" if method == ALL_METHODS else method


def _items(outcomes: Mapping[str, Mapping[str, GoldenCounts]], method: str) -> str:
    found = [
        f"{item} {by_method[method].text}" for item, by_method in outcomes.items() if method in by_method
    ]
    return ", ".join(found) or MISSING


def _unclaimed(outcomes: Mapping[str, Mapping[str, GoldenCounts]]) -> str:
    unused = [item for item, by_method in outcomes.items() if not by_method]
    return f"Files without a test: {', '.join(unused)}." if unused else ""


def _list(fidelity: Fidelity) -> str:
    tested = {method for by_method in (fidelity.outcomes or {}).values() for method in by_method}
    return "\n".join(
        f"- **{name}**{_departure(departures, tested=name in tested)}"
        for name, departures in fidelity.departures.items()
    )


def _departure(departures: Departures | None, *, tested: bool) -> str:
    if departures is not None:
        source = f" ({departures.source})" if departures.source else ""
        return f"{source}: {departures.text}"
    return ": none is known." if tested else ": there is no authors' code to depart from."
