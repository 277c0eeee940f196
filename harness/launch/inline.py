"""Trials one after the other in this process: for debuggers, profilers and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from harness.core.errors import UserError
from harness.engine.records import Record, Trial
from harness.engine.trial import BusyError, run_trial
from harness.engine.worker import Snapshot
from harness.launch.base import LaunchOptions, Watcher, unwritten

if TYPE_CHECKING:
    from harness.core.progress import Progress


class InlineLauncher:
    """Runs each trial here; what kills one kills all."""

    def __init__(self, options: LaunchOptions) -> None:
        self._options = options

    def run(self, trials: Sequence[Trial], watcher: Watcher) -> list[Trial]:
        """See `Launcher.run`; returned are those as well for which the time was up."""
        undone = []
        for trial in trials:
            if self._options.time_is_up:
                undone.append(trial)
                continue
            watcher.started(trial)
            record = self._run_one(trial, watcher)
            if record is None:
                watcher.put_off(trial)
                undone.append(trial)
            else:
                watcher.ended(trial, record)
        return undone

    def _run_one(self, trial: Trial, watcher: Watcher) -> Record | None:
        """The trial's record; None if another process has it, or if it stopped since the time was up."""
        from harness.core.loop import Stopped

        settings = self._options.settings(trial, self._options.threads)
        try:
            return run_trial(
                trial, settings, partial(_pass_on, watcher, trial), lambda: self._options.time_is_up
            )
        except (BusyError, Stopped):
            return None
        except (UserError, OSError) as error:
            return unwritten(trial, error)


def _pass_on(watcher: Watcher, trial: Trial, progress: Progress) -> None:
    watcher.progressed(trial, Snapshot.of(progress, trial))
