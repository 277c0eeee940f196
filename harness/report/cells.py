"""Cells of the tables as flat rows, for a spreadsheet: one for each track, method and ipc, in plain units."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.engine.records import CEILING, ran_on
from harness.report.reported import ReportedFigures
from harness.report.standing import Costs, Ranking, Scored, costs_of, settings_of
from harness.report.stats import Difference, Estimate, estimate
from harness.report.tables import reported_for
from harness.report.tracks import Cell, Row, Track

DIGITS = 6  # of fractions: far more than the data have, and the same bytes on every machine

TRACK_FIELDS = tuple(field.name for field in dataclasses.fields(Track))
COLUMNS = (
    *TRACK_FIELDS,
    *("method", "differing_settings", "ipc", "status", "seeds", "networks"),
    *("accuracy_mean", "accuracy_std", "accuracy_low", "accuracy_high", "best", "tied"),
    *("behind", "behind_low", "behind_high", "rank_first", "rank_last", "ranked"),
    *("gap", "gap_low", "gap_high", "drop", "drop_low", "drop_high"),
    *("reported_percent", "settings_source", "hardware", "code"),
    *Costs._fields,
)


def cells_csv(tracks: Iterable[Scored], reported: ReportedFigures, drops: Mapping[str, Difference]) -> str:
    """A row for each cell; accuracies and differences are fractions, unknown is nothing.

    The ceiling has a row of its own with an empty ipc. `behind` and `gap` say how far below the best of the
    column and below the ceiling a cell lies, `drop` how far below the same sets on the network that distilled
    them (`drops`, by the ids of records), `code` of which code its records are.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for found in tracks:
        writer.writerows(_rows(found, reported, drops))
    return text.getvalue()


def _rows(
    found: Scored, reported: ReportedFigures, drops: Mapping[str, Difference]
) -> Iterator[dict[str, Any]]:
    track = dataclasses.asdict(found.track)
    figures = reported_for(found.track, reported)
    for (row, ipc), cell in found.cells.items():
        figure = figures.get((row.method, found.track.dataset, ipc))
        printed = figure.text if figure else None
        standing = _standing(cell, found.rankings.get((row, ipc)))
        facts = {"reported_percent": printed, "code": "; ".join(found.code_of(cell))}
        yield track | _cell(row, ipc, cell) | standing | _drop(cell, drops) | facts
    if found.ceiling.done or found.ceiling.missed:
        standing = _standing(found.ceiling, None)
        facts = {"code": "; ".join(found.code_of(found.ceiling))}
        drop = _drop(found.ceiling, drops)
        yield track | _cell(Row(CEILING, ""), None, found.ceiling) | standing | drop | facts


def _cell(row: Row, ipc: int | None, cell: Cell) -> dict[str, Any]:
    places = sorted({ran_on(record) for record in cell.done})
    return {
        "method": row.method,
        "differing_settings": row.settings,
        "ipc": ipc,
        "status": "; ".join([*(["done"] if cell.done else []), *cell.missing]),
        "settings_source": settings_of([*cell.done, *cell.missed]),
        "hardware": "; ".join(places),
        **(costs_of(cell.done)._asdict() if len(places) == 1 else {}),
    }


def _drop(cell: Cell, drops: Mapping[str, Difference]) -> dict[str, Any]:
    """The drop from home of a cell whose records have one, which then is the same for all of them."""
    found = [drops[record.id] for record in cell.done if record.id in drops]
    return _difference("drop", found[0]) if found else {}


def _standing(cell: Cell, ranking: Ranking | None) -> dict[str, Any]:
    """Accuracy of a cell that was measured, and its place if it competes."""
    if ranking is None:
        return _accuracy(estimate(cell.groups)) if cell.groups else {}
    first, last = ranking.rank
    return {
        **_accuracy(ranking.estimate),
        "best": ranking.best,
        "tied": ranking.tied,
        **_difference("behind", ranking.behind),
        "rank_first": first,
        "rank_last": last,
        "ranked": ranking.ranked,
        **_difference("gap", ranking.gap),
    }


def _accuracy(found: Estimate) -> dict[str, Any]:
    return {
        "seeds": found.seeds,
        "networks": found.networks,
        "accuracy_mean": _rounded(found.mean),
        "accuracy_std": _rounded(found.std),
        "accuracy_low": _rounded(found.low),
        "accuracy_high": _rounded(found.high),
    }


def _difference(name: str, found: Difference | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        name: _rounded(found.mean),
        f"{name}_low": _rounded(found.low),
        f"{name}_high": _rounded(found.high),
    }


def _rounded(fraction: float | None) -> float | None:
    return None if fraction is None else round(fraction, DIGITS) + 0.0
