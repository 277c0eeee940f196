"""Trials one after the other in this process: for debuggers, profilers and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from harness.core.errors import UserError
from harness.engine.claim import BusyError
from harness.engine.records import Record, Trial
from harness.engine.settings import RunSettings
from harness.engine.trial import run_trial
from harness.engine.worker import Snapshot
from harness.launch.base import Watcher, give_up, unwritten

if TYPE_CHECKING:
    from harness.core.progress import Progress


class InlineRunner:
    """Runs each trial here; what kills one kills all."""

    slots = 1

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings

    def run(self, trials: Sequence[Trial], watcher: Watcher) -> list[Trial]:
        """See `Runner.run`; returned are those as well for which the time was up."""
        undone: list[Trial] = []
        ended: set[str] = set()
        for number, trial in enumerate(trials, start=1):
            if trial.id in ended:
                continue
            if self._settings.time_is_up:
                undone.append(trial)
                continue
            watcher.started(trial)
            record = self._run_one(trial, watcher)
            if record is None:
                watcher.put_off(trial)
                undone.append(trial)
            else:
                watcher.ended(trial, record)
                for other in give_up(record, trials[number:], self._settings):
                    ended.add(other.id)
                    watcher.ended(other.trial, other)
        return undone

    def _run_one(self, trial: Trial, watcher: Watcher) -> Record | None:
        """The trial's record; None if another process has it, or if it stopped since the time was up."""
        from harness.core.loop import Stopped

        tell = partial(_pass_on, watcher, trial)
        alone = self._settings.for_one(trial, self._settings.threads)
        try:
            return run_trial(trial, alone, tell, lambda: self._settings.time_is_up)
        except (BusyError, Stopped):
            return None
        except (UserError, OSError) as error:
            return unwritten(trial, error)


def _pass_on(watcher: Watcher, trial: Trial, progress: Progress) -> None:
    watcher.progressed(trial, Snapshot.of(progress, trial))
