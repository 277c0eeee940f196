"""`python -m harness status`: what lies under a results folder; free of torch, so it answers at once."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import msgspec

from harness import meter
from harness.errors import UserError
from harness.estimate import duration
from harness.records import WORK_FOLDER, Record
from harness.report.frames import collect, print_problems
from harness.report.markdown import plural, table

STATES = ("done", "failed", "oom", "timeout", "skipped")


@dataclass(frozen=True)
class Row:
    """Records of one method on one dataset at one scale: how many in each state, how many of older code."""

    scale: str
    dataset: str
    method: str
    counts: dict[str, int]
    stale: int


@dataclass(frozen=True)
class Unfinished:
    """A trial without a record: the last it wrote of its progress, and how many seconds ago."""

    id: str
    label: str
    phase: str
    step: int
    total: int
    seconds_ago: float


class _Progress(msgspec.Struct, frozen=True):
    """What a worker's `progress.json` says, as far as it is shown here."""

    phase: str
    step: int
    total: int
    label: str = ""


def command(results: Path, *, as_json: bool) -> int:
    """Print what is there; returns 1 if a file in the place of a record is none, else 0."""
    if not results.is_dir():
        raise UserError(f"no results folder {results}; `run` makes one, --results names another")
    records, problems = collect(results)
    rows = summarise(records)
    unfinished = list(in_progress(results, {record.id for record in records}))
    if as_json:
        content = {
            "rows": [asdict(row) for row in rows],
            "unfinished": [asdict(trial) for trial in unfinished],
            "unreadable": problems,
        }
        print(msgspec.json.encode(content).decode())
    else:
        print(_as_text(results, rows, unfinished))
        print_problems(problems)
    return int(bool(problems))


def summarise(records: Sequence[Record]) -> list[Row]:
    """A row for each (scale, dataset, method), sorted."""
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.trial.scale, record.trial.dataset, record.trial.method].append(record)
    current_digest = cache(meter.code_digest)
    return [
        Row(
            *key,
            counts=dict(Counter(record.status for record in members)),
            stale=sum(_is_stale(record, current_digest(key[2])) for record in members),
        )
        for key, members in sorted(groups.items())
    ]


def in_progress(results: Path, recorded: set[str]) -> Iterator[Unfinished]:
    """Trials whose work folder tells of progress but that have no record yet, running or interrupted."""
    for path in sorted((results / WORK_FOLDER).glob("*/progress.json")):
        if path.parent.name in recorded:
            continue
        try:
            progress = msgspec.json.decode(path.read_bytes(), type=_Progress)
            age = time.time() - path.stat().st_mtime
        except (OSError, msgspec.DecodeError):
            # Moved or finished while this looked at it.
            continue
        name, seconds_ago = path.parent.name, max(0.0, age)
        yield Unfinished(name, progress.label, progress.phase, progress.step, progress.total, seconds_ago)


def _is_stale(record: Record, current: str) -> bool:
    return record.provenance is not None and record.provenance.code_digest != current


def _as_text(results: Path, rows: Sequence[Row], unfinished: Sequence[Unfinished]) -> str:
    totals: Counter[str] = Counter()
    for row in rows:
        totals.update(row.counts)
    shown = [state for state in STATES if state == "done" or totals[state]]
    states = ", ".join(f"{totals[state]} {state}" for state in shown)
    lines = [f"{results}: {plural(totals.total(), 'record')}, {states}; {len(unfinished)} unfinished"]
    if rows:
        headers = ("scale", "dataset", "method", *shown, "older code")
        cells = [
            [
                row.scale,
                row.dataset,
                row.method,
                *(str(row.counts.get(state, 0)) for state in shown),
                str(row.stale),
            ]
            for row in rows
        ]
        lines += ["", table(headers, cells, text_columns=3)]
    if any(row.stale for row in rows):
        lines.append(
            "\nolder code: measured by code that has changed since; remove those records to run them again"
        )
    if unfinished:
        lines.append("\nunfinished, running or to be gone on with by the same command:")
        lines += [
            f"  {trial.id}  {trial.label}: {trial.phase} {trial.step} of {trial.total}, "
            f"last sign of life {duration(trial.seconds_ago)} ago"
            for trial in unfinished
        ]
    return "\n".join(lines)
