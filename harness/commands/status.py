"""`python -m harness status`: what lies under a results folder and what is being done about the rest.

Free of torch, so it answers at once; from any shell that sees the folder, and the queue for jobs of Slurm.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from harness.commands.arguments import add_json, add_results
from harness.core.errors import UserError
from harness.core.text import plural, roughly, table
from harness.engine.provenance import CODE_WORDS, CURRENT, CodeState, Lineage, renewal
from harness.engine.record_files import collect
from harness.engine.records import WORK_FOLDER, Record
from harness.engine.worker import PROGRESS_NAME, Snapshot
from harness.launch.tracking import OPEN_STATES, SweepState, standings
from harness.report.frames import print_problems

STATES = ("done", "failed", "oom", "timeout")


@dataclass(frozen=True)
class StatusRow:
    """Records of one method on one dataset at one scale: how many in each state, how many of other code.

    code: how many of each `CodeState`; stale: those of any other than the present code.
    """

    scale: str
    dataset: str
    method: str
    counts: dict[str, int]
    code: dict[CodeState, int]
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    add_results(parser)
    add_json(parser)
    parser.add_argument("--trials", action="store_true", help="list each trial of the open sweeps")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=5.0,
        metavar="SECONDS",
        help="show it again every so often (5 s) until nothing is open",
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise ValueError
    return seconds


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    return command(arguments.results, as_json=arguments.json, trials=arguments.trials, watch=arguments.watch)


def command(results: Path, *, as_json: bool, trials: bool = False, watch: float | None = None) -> int:
    """Print what is there; returns 1 if a file in the place of a record is none, else 0.

    `trials` lists each trial of the open sweeps; `watch` prints again every so many seconds until no sweep is
    open.
    """
    if not results.is_dir():
        raise UserError(f"no results folder {results}; `run` makes one, --results names another")
    if watch is not None and as_json:
        raise UserError("--watch is for people and --json for programs; drop one")
    status = look(results)
    while watch is not None and any(sweep.open for sweep in status.sweeps):
        _show(_as_text(status, trials=True))
        time.sleep(watch)
        status = look(results)
    if as_json:
        print(status.as_json())
    else:
        _show(_as_text(status, trials), clear=watch is not None)
        print_problems(status.problems)
    return int(bool(status.problems))


@dataclass(frozen=True)
class Status:
    """What a results folder tells at one moment."""

    results: Path
    rows: list[StatusRow]
    sweeps: list[SweepState]
    unfinished: list[Unfinished]
    problems: list[str]

    def as_json(self) -> str:
        """Everything as one JSON object."""
        content = {
            "rows": [asdict(row) for row in self.rows],
            "sweeps": [asdict(sweep) | {"counts": dict(sweep.counts)} for sweep in self.sweeps],
            "unfinished": [asdict(trial) for trial in self.unfinished],
            "unreadable": self.problems,
        }
        return msgspec.json.encode(content).decode()


def look(results: Path) -> Status:
    """Read the records, the sweeps and Slurm's queue."""
    records, problems = collect(results)
    statuses = {record.id: record.status for record in records}
    sweeps = standings(results, statuses)
    known = {*statuses, *(trial.id for sweep in sweeps for trial in sweep.trials)}
    return Status(results, summarise(records, results), sweeps, list(in_progress(results, known)), problems)


def _show(text: str, *, clear: bool = True) -> None:
    """Print, on a terminal in place of what stood there."""
    if clear and sys.stdout.isatty():
        print("\033[H\033[2J", end="")
    print(text, flush=True)


def summarise(records: Sequence[Record], results: Path | None = None) -> list[StatusRow]:
    """A row for each (scale, dataset, method), sorted."""
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.trial.scale, record.trial.dataset, record.trial.method].append(record)
    states = Lineage(results).states(records)
    rows = []
    for key, members in sorted(groups.items()):
        code = Counter(states[record.id] for record in members)
        counts: dict[str, int] = dict(Counter(record.status for record in members))
        rows.append(StatusRow(*key, counts, dict(sorted(code.items())), code.total() - code[CURRENT]))
    return rows


def in_progress(results: Path, recorded: set[str]) -> Iterator[Unfinished]:
    """Trials whose work folder tells of progress but that have no record yet, running or interrupted."""
    for path in sorted((results / WORK_FOLDER).glob(f"*/{PROGRESS_NAME}")):
        if path.parent.name in recorded:
            continue
        try:
            progress = msgspec.json.decode(path.read_bytes(), type=Snapshot)
            age = time.time() - path.stat().st_mtime
        except (OSError, msgspec.DecodeError):
            # Moved or finished while this looked at it.
            continue
        name, seconds_ago = path.parent.name, max(0.0, age)
        yield Unfinished(name, progress.label, progress.phase, progress.step, progress.total, seconds_ago)


def _as_text(status: Status, trials: bool) -> str:
    totals: Counter[str] = Counter()
    for row in status.rows:
        totals.update(row.counts)
    shown = [state for state in STATES if state == "done" or totals[state]]
    states = ", ".join(f"{totals[state]} {state}" for state in shown)
    open_trials = sum(trial.state in OPEN_STATES for sweep in status.sweeps for trial in sweep.trials)
    unfinished = open_trials + len(status.unfinished)
    lines = [f"{status.results}: {plural(totals.total(), 'record')}, {states}; {unfinished} unfinished"]
    if status.rows:
        lines += ["", _table(status.rows, shown)]
    if any(row.stale for row in status.rows):
        lines += ["", *(f"{state}: {CODE_WORDS[state]}" for state in _code_shown(status.rows))]
        lines.append(f"measure them anew, the old records are kept: {renewal(status.results)}")
    lines += [line for sweep in status.sweeps if sweep.open for line in _about(sweep, trials)]
    if status.unfinished:
        lines.append("\nunfinished, running or to be gone on with by the same command:")
        lines += [
            f"  {trial.id}  {trial.label}: {trial.phase} {trial.step} of {trial.total}, "
            f"last sign of life {roughly(trial.seconds_ago)} ago"
            for trial in status.unfinished
        ]
    return "\n".join(lines)


def _table(rows: Sequence[StatusRow], shown: Sequence[str]) -> str:
    states = _code_shown(rows)
    headers = ("scale", "dataset", "method", *shown, *states)
    cells = [
        [
            *(row.scale, row.dataset, row.method),
            *(str(row.counts.get(state, 0)) for state in shown),
            *(str(row.code.get(state, 0)) for state in states),
        ]
        for row in rows
    ]
    return table(headers, cells, text_columns=3)


def _code_shown(rows: Sequence[StatusRow]) -> list[CodeState]:
    """Those states other than current that any record is in."""
    return [state for state in CODE_WORDS if any(row.code.get(state) for row in rows)]


def _about(sweep: SweepState, trials: bool) -> Iterator[str]:
    """The lines on an open sweep: its counts, what runs, and each other open trial if `trials`."""
    counts = ", ".join(f"{number} {state}" for state, number in sorted(sweep.counts.items()))
    jobs = f", {plural(len(sweep.jobs), 'array')} {' '.join(sweep.jobs)}" if sweep.jobs else ""
    yield f"\nsweep {sweep.id} ({sweep.launcher}, {sweep.created_at}{jobs}): {counts}"
    for trial in sweep.trials:
        if trial.state == "running" or (trials and trial.state in OPEN_STATES):
            words = ", ".join(filter(None, (trial.detail, f"job {trial.job}" if trial.job else "")))
            yield f"  {trial.id}  {trial.label}: {trial.state}{f' ({words})' if words else ''}"
    if not sweep.counts.keys().isdisjoint(("lost", "stopped", "waiting", "cancelled")):
        yield "  the same command goes on with what is lost, stopped, cancelled or waiting"
