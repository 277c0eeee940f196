"""What the page of a method shows: its file's header, its golden tests, its cells beside reported ones."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import dedent
from typing import NamedTuple

import methods
from harness.core.packaged import packaged
from harness.core.text import MISSING
from harness.report.fidelity import ALL_METHODS, Fidelity
from harness.report.reported import ALL_IMAGES
from harness.report.site.data import LeaderboardRow
from harness.report.site.detail import Fact


class Passage(NamedTuple):
    """A paragraph of a method's header; a formula keeps its lines."""

    text: str
    formula: bool


class MethodCell(NamedTuple):
    """A line of the table: measured in a track, reported by papers, or both; `id` is of its first record.

    track: all of it but the dataset, which has a column of its own.
    """

    label: str
    dataset: str
    ipc: str
    track: str
    measured: str
    reported: str
    source: str
    url: str
    id: str


@dataclass(frozen=True)
class MethodPage:
    """A method with its variants; golden: outcomes of tests by item, shown: ids of records with pictures."""

    name: str
    summary: str
    header: tuple[Passage, ...]
    golden: tuple[Fact, ...]
    cells: tuple[MethodCell, ...]
    shown: tuple[str, ...]


def pages(
    measured: Iterable[LeaderboardRow], reported: Iterable[LeaderboardRow], fidelity: Fidelity
) -> list[MethodPage]:
    """A page for each method whose file can be used, by name; methods that only records name have none."""
    rows, printed = _by_base(measured), _by_base(reported)
    return [
        MethodPage(
            name=info.name,
            summary=info.summary,
            header=header_of((packaged("methods") / f"{info.name}.py").read_bytes()),
            golden=_golden(info.name, fidelity),
            cells=_cells(rows.get(info.name, ()), printed.get(info.name, ())),
            shown=_first_seeds(rows.get(info.name, ())),
        )
        for info in methods.discover().values()
        if not info.breaches and "@" not in info.name
    ]


def header_of(source: bytes) -> tuple[Passage, ...]:
    """The paragraphs of a file's header but its first line; indented ones are formulas."""
    _, _, text = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    blocks = [block for block in text.split("\n\n") if block.strip()]
    return tuple(
        Passage(dedent(block).strip(), True)
        if all(line.startswith("  ") for line in block.strip("\n").splitlines())
        else Passage(" ".join(block.split()), False)
        for block in blocks
    )


def base_of(method: str) -> str:
    """The method that a variant is of."""
    return method.partition("@")[0]


def _by_base(rows: Iterable[LeaderboardRow]) -> Mapping[str, list[LeaderboardRow]]:
    found: dict[str, list[LeaderboardRow]] = defaultdict(list)
    for row in rows:
        found[base_of(row.method)].append(row)
    return found


def _golden(name: str, fidelity: Fidelity) -> tuple[Fact, ...]:
    """How many tests pass on each item, `3 of 3`; those of its variants are named."""
    return tuple(
        Fact(
            item if method == name else f"{item} ({method})",
            f"{counts.passed} of {counts.passed + counts.failed}",
        )
        for item, by_method in (fidelity.outcomes or {}).items()
        for method, counts in by_method.items()
        if method != ALL_METHODS and base_of(method) == name
    )


def _cells(measured: Sequence[LeaderboardRow], reported: Sequence[LeaderboardRow]) -> tuple[MethodCell, ...]:
    """Measured cells with what is reported for the same dataset and ipc, then what is reported alone."""
    printed = {(row.method, row.dataset, row.ipc): row for row in reported}
    cells = [_cell(row, printed.get((row.method, row.dataset, row.ipc))) for row in measured]
    met = {(row.method, row.dataset, row.ipc) for row in measured}
    alone = [_cell(row, row) for key, row in printed.items() if key not in met]
    return tuple(cells + alone)


def _cell(row: LeaderboardRow, printed: LeaderboardRow | None) -> MethodCell:
    own = row is not printed
    return MethodCell(
        label=row.label,
        dataset=row.dataset,
        ipc="all" if row.ipc == ALL_IMAGES else str(row.ipc),
        track=row.track.removeprefix(f"{row.dataset} · ") if own else "",
        measured=f"{row.figure} ({row.counts})" if own and row.counts else row.figure if own else "not run",
        reported=printed.figure if printed else MISSING,
        source=printed.source if printed else "",
        url=printed.url if printed else "",
        id=row.records[0].id if own and row.records else "",
    )


def _first_seeds(rows: Iterable[LeaderboardRow]) -> tuple[str, ...]:
    """The first record of each dataset and ipc, whose set is shown."""
    found: dict[tuple[str, str, int], str] = {}
    for row in rows:
        if row.records:
            found.setdefault((row.method, row.dataset, row.ipc), row.records[0].id)
    return tuple(found.values())
