"""What the person sees while trials run: a live table on a terminal, else a line for each event.

Everything goes to stderr; stdout is for results.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.core.text import mean_and_std, memory, percent
from harness.engine.records import Record, Trial
from harness.engine.worker import Snapshot
from harness.launch.base import Watcher

HEARTBEAT_SECONDS = 60.0  # between two lines on a trial that is under way, where there is no live table


class Display(Watcher, Protocol):
    """A watcher that people read; a context manager around the whole launch."""

    def note(self, text: str) -> None:
        """Say something in a line of its own."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass
class TrialProgress:
    """Which trials are under way, how many are over, and how long they took.

    `elsewhere` says of a trial that was not seen under way where its record comes from.
    """

    total: int
    over: int
    slots: int
    waiting: list[Trial]
    elsewhere: str = "by another run"
    started: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def start(self, trial: Trial) -> None:
        """A trial takes a slot."""
        self.started[trial.id] = time.monotonic()

    def put_off(self, trial: Trial) -> None:
        """A trial gives its slot back and is still to be done."""
        del self.started[trial.id]

    def end(self, trial: Trial, record: Record) -> str:
        """A trial is over; returns the line that says so. One that another run did took us no time."""
        begun = self.started.pop(trial.id, None)
        self.waiting = [other for other in self.waiting if other.id != trial.id]
        self.over += 1
        if begun is None:
            return f"{self._count()} {record.status} {trial.label}: {result(record)}, {self.elsewhere}"
        elapsed = time.monotonic() - begun
        if record.status == "done":
            self.seconds[trial.cell].append(elapsed)
        return f"{self._count()} {record.status} {trial.label}: {result(record)} in {duration(elapsed)}"

    def elapsed(self, trial: Trial) -> float:
        """Seconds since the trial took its slot."""
        return time.monotonic() - self.started[trial.id]

    def seconds_left(self) -> float | None:
        """Estimate from the trials that this launch finished; None before there are any.

        A trial is taken to last as long as those that differ from it by the seed only, else as the mean.
        """
        if not self.seconds:
            return None
        overall = statistics.fmean(time for times in self.seconds.values() for time in times)
        left = 0.0
        for trial in self.waiting:
            known = self.seconds.get(trial.cell)
            spent = self.elapsed(trial) if trial.id in self.started else 0.0
            left += max(0.0, (statistics.fmean(known) if known else overall) - spent)
        return left / self.slots

    def outlook(self) -> str:
        """`3 of 20 over, about 4 min left`."""
        left = self.seconds_left()
        return f"{self.over} of {self.total} over" + (
            "" if left is None else f", about {duration(left)} left"
        )

    def _count(self) -> str:
        return f"[{self.over}/{self.total}]"


class SilentDisplay:
    """Says nothing."""

    def __enter__(self) -> SilentDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def note(self, text: str) -> None:
        """See `Display`."""

    def started(self, trial: Trial) -> None:
        """See `Watcher`."""

    def progressed(self, trial: Trial, snapshot: Snapshot) -> None:
        """See `Watcher`."""

    def put_off(self, trial: Trial) -> None:
        """See `Watcher`."""

    def ended(self, trial: Trial, record: Record) -> None:
        """See `Watcher`."""


class LineDisplay(SilentDisplay):
    """A line when a trial ends, and one a minute for each that is under way."""

    def __init__(self, ledger: TrialProgress, stream: TextIO) -> None:
        self._ledger = ledger
        self._stream = stream
        self._told: dict[str, float] = {}

    def note(self, text: str) -> None:
        """See `Display`."""
        print(text, file=self._stream, flush=True)

    def started(self, trial: Trial) -> None:
        """See `Watcher`."""
        self._ledger.start(trial)
        self._told[trial.id] = 0.0

    def progressed(self, trial: Trial, snapshot: Snapshot) -> None:
        """See `Watcher`."""
        elapsed = self._ledger.elapsed(trial)
        if elapsed - self._told[trial.id] >= HEARTBEAT_SECONDS:
            self._told[trial.id] = elapsed
            self.note(f"{trial.label}: {_standing(snapshot)} after {duration(elapsed)}")

    def put_off(self, trial: Trial) -> None:
        """See `Watcher`."""
        self._ledger.put_off(trial)

    def ended(self, trial: Trial, record: Record) -> None:
        """See `Watcher`."""
        self.note(self._ledger.end(trial, record))


class LiveDisplay(SilentDisplay):
    """A table of the trials that are under way, redrawn in place, below the lines of those that are over."""

    def __init__(self, ledger: TrialProgress, console: Console) -> None:
        self._ledger = ledger
        self._console = console
        # Both are replaced and never changed: rich draws the table in a thread of its own.
        self._rows: dict[str, tuple[Trial, Snapshot | None]] = {}
        self._outlook = ledger.outlook()
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        """See `Display`."""
        self._console.print(Text(text))

    def started(self, trial: Trial) -> None:
        """See `Watcher`."""
        self._ledger.start(trial)
        self._rows = {**self._rows, trial.id: (trial, None)}

    def progressed(self, trial: Trial, snapshot: Snapshot) -> None:
        """See `Watcher`."""
        self._rows = {**self._rows, trial.id: (trial, snapshot)}
        self._outlook = self._ledger.outlook()

    def put_off(self, trial: Trial) -> None:
        """See `Watcher`."""
        self._drop(trial)
        self._ledger.put_off(trial)

    def ended(self, trial: Trial, record: Record) -> None:
        """See `Watcher`."""
        self._drop(trial)
        self.note(self._ledger.end(trial, record))
        self._outlook = self._ledger.outlook()

    def _drop(self, trial: Trial) -> None:
        self._rows = {key: row for key, row in self._rows.items() if key != trial.id}

    def _table(self) -> Table:
        table = Table(title=self._outlook, title_justify="left", box=None, pad_edge=False)
        table.add_column("trial", no_wrap=True)
        table.add_column("phase", no_wrap=True)
        for heading in ("step", "loss", "memory", "time"):
            table.add_column(heading, justify="right", no_wrap=True)
        for trial, snapshot in self._rows.values():
            begun = self._ledger.started.get(trial.id, time.monotonic())
            elapsed = duration(time.monotonic() - begun)
            table.add_row(trial.label, *_cells(snapshot), elapsed)
        return table


def make_display(ledger: TrialProgress, *, quiet: bool) -> Display:
    """The display that suits stderr."""
    if quiet:
        return SilentDisplay()
    console = Console(stderr=True, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveDisplay(ledger, console)
    return LineDisplay(ledger, sys.stderr)


def result(record: Record) -> str:
    """`71.2 ± 0.8 % (n=3)`, or why there is none."""
    if not record.accuracies:
        return record.reason or "no accuracy"
    several = len(record.accuracies) > 1
    std = statistics.stdev(record.accuracies) if several else None
    kernel = "" if record.kernel_accuracy is None else f", its kernel {percent(record.kernel_accuracy)} %"
    return f"{mean_and_std(statistics.fmean(record.accuracies), std)} % (n={len(record.accuracies)}){kernel}"


def duration(seconds: float) -> str:
    """`12 s`, `3 min 20 s`, `5 h 3 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _cells(snapshot: Snapshot | None) -> tuple[str, str, str, str]:
    """Phase, step, loss and memory as the table shows them."""
    if snapshot is None:
        return "starting", "", "", ""
    loss = "" if snapshot.loss is None else f"{snapshot.loss:.4g}"
    size = "" if snapshot.host_bytes is None else memory(snapshot.host_bytes)
    return snapshot.phase, f"{snapshot.step}/{snapshot.total}", loss, size


def _standing(snapshot: Snapshot) -> str:
    phase, step, loss, size = _cells(snapshot)
    parts = [f"{phase} {step}", f"loss {loss}" if loss else "", size]
    return ", ".join(part for part in parts if part)
