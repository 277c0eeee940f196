"""`python -m harness report --summary`: one rank over everything that was measured, for each scale."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from harness.core.errors import UserError
from harness.core.text import MISSING, in_flops, percent, plural
from harness.engine.record_files import collect
from harness.report.filters import Filters
from harness.report.formats import Block, Heading, Items, Paragraph, Table, code, markdown, plain, strong
from harness.report.frames import print_problems
from harness.report.ranks import FEWEST_CELLS, Ranks, Standing, ranks
from harness.report.standing import Scored, overspent, scored
from harness.report.stats import CONFIDENCE, Groups, Interval
from harness.report.tracks import Cell, Row, Track

K = TypeVar("K")
V = TypeVar("V")

COMMAND = "python -m harness report --summary"
SURE = f"{100 * CONFIDENCE:g} %"
HEADERS = ("place", "method", "mean rank", f"{SURE} over seeds", f"{SURE} over cells", "Borda", "win rate")
LEGEND = (
    "In each cell (one dataset, ipc and protocol) methods are ranked by mean test accuracy; 1 is best."
    " The mean rank is over the cells below; Borda counts the methods beaten there, the win rate is"
    f" their share (a tie is half). The {SURE} intervals of the mean rank say what other seeds, and what"
    " other datasets and ipc as well, leave open: methods whose intervals overlap are hardly told apart."
)
NOTHING = (
    "No ranks: no two methods were measured in the same cell (dataset, ipc and protocol)."
    " Run several methods on one: `python -m harness run --methods random,dm --dataset digits --ipc 1`."
)


@dataclass(frozen=True)
class BoardCell:
    """One condition in which methods are compared."""

    track: Track
    ipc: int


@dataclass(frozen=True)
class Summary:
    """The ranks of one scale, under one budget if there was any.

    Not ranked are methods with several configurations, `ambiguous`, and those that spent more than the
    budget, `beyond`, by the cells of these.
    """

    scale: str
    budget_flops: float | None
    ranks: Ranks[BoardCell]
    ambiguous: Mapping[str, Sequence[BoardCell]]
    beyond: Mapping[str, Sequence[BoardCell]]


def command(results: Path, filters: Filters, *, as_json: bool) -> int:
    """Print the ranks of the records under `results`, as Markdown or JSON; returns the exit status.

    Writes nothing. Files that are no records are named on stderr and make the status 1. UserError: no
    records, or filters that none fits.
    """
    records, problems = collect(results)
    print_problems(problems)
    if not records:
        raise UserError(f"no readable records under {results}; run `python -m harness run ...` first")
    if filters.active:
        records = filters.select(records)
    found = summaries(scored(records))
    if as_json:
        sys.stdout.write(msgspec.json.encode([_facts(summary) for summary in found]).decode() + "\n")
    else:
        sys.stdout.write(markdown(as_blocks(found)))
    return int(bool(problems))


def summaries(tracks: Iterable[Scored]) -> list[Summary]:
    """The ranks of each scale and budget, in the order of the tracks; the ceiling has no part in them."""
    together: dict[tuple[str, float | None], list[Scored]] = defaultdict(list)
    for found in tracks:
        together[found.track.scale, found.track.budget_flops].append(found)
    return [_summary(*alike, members) for alike, members in together.items()]


def as_blocks(found: Iterable[Summary], *, most: int | None = None, level: int = 2) -> list[Block]:
    """A section for each scale, the legend in the first that has a table.

    With `most` only so many methods of each, and how many are not ranked instead of their names.
    """
    blocks: list[Block] = []
    for summary in found:
        blocks.append(Heading(_title(summary), level))
        if not summary.ranks.standings:
            blocks.append(Paragraph(NOTHING))
            continue
        blocks.append(standings_table(summary.ranks.standings[:most]))
        if Paragraph(LEGEND) not in blocks:
            blocks.append(Paragraph(LEGEND))
        left_out = _left_out_by_name(summary) if most is None else _left_out_by_number(summary)
        blocks.append(Items([*_counted(summary), *left_out]))
    return blocks


def standings_table(standings: Sequence[Standing]) -> Table:
    """Places, mean ranks with both intervals, Borda counts and win rates."""
    rows = [
        [
            str(one.place),
            plain(one.method),
            f"{one.rank:.1f}",
            _interval(one.over_seeds),
            _interval(one.over_cells),
            f"{one.borda:g}",
            f"{percent(one.win_rate)} %",
        ]
        for one in standings
    ]
    return Table(HEADERS, rows, text_columns=2)


def _counted(summary: Summary) -> list[str]:
    """Which cells count, and why there are no intervals where there are none."""
    found = summary.ranks
    lines = [f"{strong('Cells')}: {_listed(found.cells)}."]
    if any(one.over_seeds is None for one in found.standings):
        lines.append(
            "No intervals over seeds: in some cell no method has two, so nothing shows how they differ."
        )
    if any(one.over_cells is None for one in found.standings):
        lines.append(f"No intervals over cells: fewer than {FEWEST_CELLS} do not show how cells differ.")
    return lines


def _left_out_by_name(summary: Summary) -> list[str]:
    """Who is not ranked or what does not count, and why."""
    lines = []
    for lacked, unranked in _inverted(_lacking(summary)).items():
        lack = "which lacks" if len(unranked) == 1 else "which lack"
        lines.append(f"{strong('Not ranked')}: {', '.join(map(plain, unranked))}, {lack} {_listed(lacked)}.")
    for method, cells in summary.ambiguous.items():
        lines.append(
            f"{strong('Not ranked')} in {_listed(cells)}: {plain(method)}, which ran there with several"
            " settings, none or more than one of them its own."
        )
    for method, cells in summary.beyond.items():
        lines.append(f"{strong('Not ranked')} in {_listed(cells)}: {plain(method)}, which spent more there.")
    ranked = len(summary.ranks.standings)
    for names, cells in _inverted(summary.ranks.left_out).items():
        lines.append(
            f"{strong('Not counted')}: {_listed(cells)}, where {len(names)} of the {ranked} ranked methods"
            " were not measured and would lose their rank."
        )
    return lines


def _left_out_by_number(summary: Summary) -> list[str]:
    """How many methods are not ranked and how many cells not counted, in one line; nothing without any."""
    methods = {*_lacking(summary), *summary.ambiguous, *summary.beyond}
    cells = summary.ranks.left_out
    parts = []
    if methods:
        beyond = ", beyond the budget" if summary.beyond else ""
        why = f"not measured in each of these cells{beyond}, or with several settings"
        parts.append(f"{plural(len(methods), 'method')} {why}")
    if cells:
        parts.append(f"{plural(len(cells), 'cell')} in which some of the ranked methods were not measured")
    if not parts:
        return []
    return [f"{strong('Left out')}: {'; '.join(parts)}. {code(COMMAND)} names them."]


def _lacking(summary: Summary) -> dict[str, Sequence[BoardCell]]:
    """The cells that methods lack which are not ranked for that alone."""
    known = {*summary.ambiguous, *summary.beyond}
    return {name: cells for name, cells in summary.ranks.lacking.items() if name not in known}


def _summary(scale: str, budget: float | None, tracks: Sequence[Scored]) -> Summary:
    scores: dict[BoardCell, dict[str, Groups]] = {}
    ambiguous: dict[str, list[BoardCell]] = defaultdict(list)
    beyond: dict[str, list[BoardCell]] = defaultdict(list)
    for found in tracks:
        rows: dict[tuple[int, str], list[tuple[Row, Cell]]] = defaultdict(list)
        for (row, ipc), cell in found.grid.items():
            if overspent(budget, cell):
                beyond[row.method].append(BoardCell(found.track, ipc))
            elif cell.groups:
                rows[ipc, row.method].append((row, cell))
        for (ipc, method), configurations in sorted(rows.items()):
            place = BoardCell(found.track, ipc)
            scores.setdefault(place, {})
            if (own := _own(configurations)) is None:
                ambiguous[method].append(place)
            else:
                scores[place][method] = own.groups
    return Summary(scale, budget, ranks(scores), dict(ambiguous), dict(beyond))


def _own(configurations: Sequence[tuple[Row, Cell]]) -> Cell | None:
    """The only configuration, or the only one that nobody set by hand; None if the choice is arbitrary."""
    cells = [cell for _, cell in configurations]
    untouched = [cell for cell in cells if not any(record.trial.source.overrides for record in cell.done)]
    for choice in (cells, untouched):
        if len(choice) == 1:
            return choice[0]
    return None


def _title(summary: Summary) -> str:
    found = summary.ranks
    counted = f": {plural(len(found.standings), 'method')} over {plural(len(found.cells), 'cell')}"
    budget = summary.budget_flops
    within = "" if budget is None else f", {in_flops(budget)} for each distillation"
    return f"{summary.scale} scale{within}{counted if found.standings else ''}"


def _interval(found: Interval | None) -> str:
    return MISSING if found is None else f"{found[0]:.1f} to {found[1]:.1f}"


def _listed(cells: Iterable[BoardCell]) -> str:
    """`cifar10 ipc 1, 10 (dc-1000 1.0, ConvNet)`, tracks one after the other."""
    by_track: dict[Track, list[int]] = defaultdict(list)
    for cell in cells:
        by_track[cell.track].append(cell.ipc)
    return "; ".join(_in_words(track, ipcs) for track, ipcs in by_track.items())


def _in_words(track: Track, ipcs: Iterable[int]) -> str:
    dataset, _, *rest = track.heading.split(" · ")
    return f"{plain(dataset)} ipc {', '.join(map(str, sorted(ipcs)))} ({plain(', '.join(rest))})"


def _inverted(lists: Mapping[K, Sequence[V]]) -> dict[tuple[V, ...], list[K]]:
    """The keys of each list: cells that the same methods lack, methods that lack the same cells."""
    found: dict[tuple[V, ...], list[K]] = defaultdict(list)
    for key, values in lists.items():
        found[tuple(values)].append(key)
    return found


def _facts(summary: Summary) -> dict[str, object]:
    """The same for programs; win rates are fractions."""
    found = summary.ranks
    return {
        "scale": summary.scale,
        "budget_flops": summary.budget_flops,
        "standings": [
            asdict(one) | {"borda": one.borda, "win_rate": one.win_rate} for one in found.standings
        ],
        "cells": [asdict(cell) for cell in found.cells],
        "not_ranked": {method: [asdict(cell) for cell in cells] for method, cells in found.lacking.items()},
        "not_counted": [asdict(cell) | {"lacking": list(names)} for cell, names in found.left_out.items()],
        "several_settings": {
            method: [asdict(cell) for cell in cells] for method, cells in summary.ambiguous.items()
        },
    }
