"""Sets that somebody else distilled: the accuracy that was claimed beside the one measured here."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from harness.core.text import MISSING, plural
from harness.engine.records import Record
from harness.report.formats import Table, markdown, plain
from harness.report.stats import estimate
from harness.report.tracks import Cell, by_track, grid_of

HEADERS = ("submitted", "track", "ipc", "claimed", "measured", "95 % interval", "difference", "findings")


def claims_table(records: Iterable[Record]) -> Table | None:
    """All submitted sets among the records, a row for each; None if there are none."""
    submitted = [record for record in records if record.submission is not None]
    rows = [
        [plain(row.label), plain(track.heading), str(ipc), *_claim_cells(cell)]
        for track, members in by_track(submitted).items()
        for (row, ipc), cell in grid_of(members).items()
    ]
    return Table(HEADERS, rows, text_columns=2) if rows else None


def claims_markdown(records: Iterable[Record]) -> str:
    """That table as Markdown, or a line that says that there is nothing to show."""
    table = claims_table(records)
    return "nothing was submitted" if table is None else markdown([table]).rstrip("\n")


def claimed_of(records: Iterable[Record]) -> float | None:
    """Mean of the accuracies in [0, 1] claimed for these seeds; None unless there is one for each."""
    claims = [record.submission.claimed_accuracy for record in records if record.submission is not None]
    known = [claim for claim in claims if claim is not None]
    return statistics.fmean(known) if known and len(known) == len(claims) else None


def _claim_cells(cell: Cell) -> list[str]:
    """Claimed, measured, its interval over the seeds, measured less claimed, and the number of findings."""
    if not cell.groups:
        return [MISSING] * 5
    found, claimed = estimate(cell.groups), claimed_of(cell.done)
    interval = MISSING if found.seeds > 1 else "one seed"
    if found.low is not None and found.high is not None:
        interval = f"{100 * max(0, found.low):.1f} ... {100 * min(1, found.high):.1f}"
    findings = [one for record in cell.done if record.submission for one in record.submission.found]
    errors = sum(one.level == "error" for one in findings)
    return [
        MISSING if claimed is None else f"{100 * claimed:.1f}",
        f"{found.text} ({cell.counts})",
        interval,
        MISSING if claimed is None else f"{100 * (found.mean - claimed):+.1f}",
        f"{plural(errors, 'error')}, {plural(len(findings) - errors, 'warning')}" if findings else "none",
    ]
