"""The course of a launch: keep what is done, run the rest, wait for what others run, sum up."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from harness.core.errors import UserError
from harness.core.text import plural
from harness.engine.claim import BusyError, claimed
from harness.engine.record_files import existing_path, existing_record
from harness.engine.records import WORK_FOLDER, Record, Trial
from harness.engine.settings import RunSettings
from harness.engine.worker import last_words
from harness.launch.base import Launcher, Runner, Summary, unwritten
from harness.launch.deaths import forget_deaths
from harness.launch.display import Display, TrialProgress, make_display

WAIT_SECONDS = 1.0  # between two looks at trials that another run has
LAST_WORDS = 5  # lines shown of the log of a failed trial


def launch(
    trials: Sequence[Trial],
    settings: RunSettings,
    launcher: Launcher,
    first: Sequence[Trial] = (),
) -> Summary:
    """Bring all trials to a record, so far as that can be done, and tell on stderr how it goes.

    What is done is kept. A trial that was interrupted or killed goes on from its checkpoint; one that failed
    is listed, and run again with `retry_failed`. Raises UserError before anything runs if a planned record's
    place holds something else or the results folder cannot be written, or for what the launcher cannot run.
    `first` are some of the trials, to be begun before the others and in that order.
    """
    earlier = {trial.id: record for trial in trials if (record := existing_record(trial, settings.results))}
    ordered = {trial.id: trial for trial in (*first, *trials)}.values()
    to_run = [trial for trial in ordered if _is_due(earlier.get(trial.id), settings.retry_failed)]
    kept = {key: record for key, record in earlier.items() if key not in {trial.id for trial in to_run}}
    runner = launcher.runner(settings, trials, to_run)
    ledger = TrialProgress(len(trials), len(kept), runner.slots, list(to_run), launcher.elsewhere)
    collected = Collector(make_display(ledger, quiet=settings.quiet), kept)
    interrupted = False
    try:
        with _sigterm_interrupts():
            _discard(to_run, settings.results)
            with collected.display:
                run_all(to_run, runner, collected, settings.results, lambda: settings.time_is_up)
    except KeyboardInterrupt:
        interrupted = True
    found = (collected.records.get(trial.id) for trial in trials)
    undone = [trial for trial in trials if trial.id not in collected.records]
    summary = Summary(
        [record for record in found if record is not None], interrupted, undone if settings.time_is_up else ()
    )
    for line in _closing_lines(summary, len(trials), kept, settings):
        collected.display.note(line)
    return summary


class Collector:
    """Passes events on to the display and keeps the records."""

    def __init__(self, display: Display, records: dict[str, Record]) -> None:
        self.display = display
        self.records = dict(records)
        self.started = display.started
        self.progressed = display.progressed
        self.put_off = display.put_off
        self.note = display.note

    def ended(self, trial: Trial, record: Record) -> None:
        """See `Watcher`."""
        self.records[trial.id] = record
        self.display.ended(trial, record)


def _is_due(record: Record | None, retry_failed: bool) -> bool:
    if record is None:
        return True
    return record.status != "done" and (record.resumable or retry_failed)


def _discard(trials: Sequence[Trial], results: Path) -> None:
    """Take away the records of failures that are to be run again; a worker keeps any record it finds.

    Deaths that led to such a record no longer count.
    """
    try:
        (results / WORK_FOLDER).mkdir(parents=True, exist_ok=True)
        # The others are not even locked: a sweep may have thousands.
        for trial in (trial for trial in trials if existing_path(trial, results) is not None):
            with contextlib.suppress(BusyError), claimed(trial, results):
                record, path = existing_record(trial, results), existing_path(trial, results)
                if record is not None and path is not None and record.status != "done":
                    forget_deaths(trial.work_folder(results))
                    path.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to the results folder {results} ({error.strerror}); pass another with --results"
        ) from None


def run_all(
    trials: Sequence[Trial],
    runner: Runner,
    collected: Collector,
    results: Path,
    is_over: Callable[[], bool],
) -> None:
    """Run the trials, wait for those that other processes have, and run what these leave.

    Once it `is_over`, some are left undone.
    """
    busy = runner.run(trials, collected)
    if busy and not is_over():
        collected.display.note(f"waiting for {plural(len(busy), 'trial')} that another process is running")
    while busy and not is_over():
        time.sleep(WAIT_SECONDS)
        ours = []
        for trial in list(busy):
            try:
                # Another trial's process may be making the set.
                with claimed(trial, results), claimed(trial.distillation, results):
                    record = existing_record(trial, results)
            except BusyError:
                continue
            except (UserError, OSError) as error:
                record = unwritten(trial, error)
            busy.remove(trial)
            if record is None:
                # The other process made the set, or died: its checkpoint is ours.
                ours.append(trial)
            else:
                collected.ended(trial, record)
        busy += runner.run(ours, collected) if ours else []


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does; only the main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _closing_lines(
    summary: Summary, planned: int, kept: dict[str, Record], settings: RunSettings
) -> Iterator[str]:
    """What a person has to know at the end beyond the results: failures, and how to go on."""
    if summary.failures:
        yield f"{len(summary.failures)} of {plural(planned, 'trial')} failed:"
    for record in summary.failures:
        earlier = ", in an earlier run" if record.id in kept else ""
        log = settings.log_of(record.trial)
        where = f" (log: {log})" if log.exists() else ""
        yield f"  {record.trial.label}: {record.status}{earlier}: {record.reason}{where}"
        yield from (f"      {line}" for line in last_words(log, LAST_WORDS))
    if any(not record.resumable for record in summary.failures):
        yield "add --retry failed to the command to run failed trials again"
    if any(record.resumable for record in summary.failures):
        yield "the same command goes on with the trials that were cut off"
    if summary.interrupted:
        done = summary.counts.get("done", 0)
        yield f"stopped: {done} of {plural(planned, 'trial')} done; the same command goes on from there"
