"""Trials one after the other in this process: for debuggers, profilers and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.launch.base import LaunchOptions, Watcher, unwritten
from harness.records import Record, Trial
from harness.trial import BusyError, run_trial
from harness.worker import Snapshot

if TYPE_CHECKING:
    from harness.loop import Progress


class InlineLauncher:
    """Runs each trial here; what kills one kills all."""

    def __init__(self, options: LaunchOptions) -> None:
        self._options = options

    def run(self, trials: Sequence[Trial], watcher: Watcher) -> list[Trial]:
        """See `Launcher.run`."""
        busy = []
        for trial in trials:
            watcher.started(trial)
            try:
                record = self._run_one(trial, watcher)
            except BusyError:
                watcher.put_off(trial)
                busy.append(trial)
            else:
                watcher.ended(trial, record)
        return busy

    def _run_one(self, trial: Trial, watcher: Watcher) -> Record:
        settings = self._options.settings(trial, self._options.threads)
        try:
            return run_trial(trial, settings, partial(_pass_on, watcher, trial))
        except (UserError, OSError) as error:
            return unwritten(trial, error)


def _pass_on(watcher: Watcher, trial: Trial, progress: Progress) -> None:
    watcher.progressed(trial, Snapshot.of(progress, trial))
