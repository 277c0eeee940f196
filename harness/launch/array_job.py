"""What a job of Slurm does: run its trials like the local launcher does, in the share of a node it was given.

submitit calls a `ArrayJob` and, when Slurm says that the job's time is up or that it has to make room, its
`checkpoint`. Nothing depends on that call: a job that is killed or requeued without notice begins again here,
skips the trials that have a record, and each of the others goes on from its own checkpoint.

Trials that another process has, or whose set it makes, are waited for: this job is all that they have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.engine.devices import visible_gpus
from harness.engine.record_files import existing_path, existing_record
from harness.engine.records import Trial
from harness.launch.base import Layout
from harness.launch.display import TrialProgress, make_display
from harness.launch.driver import Collector, run_all
from harness.launch.local import LocalRunner
from harness.launch.sweep import Submission, Sweep, Work

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

SIGNAL_SECONDS = 120  # before the end of its time, a job is told
STOP_SECONDS = 60.0  # of them are for the workers' checkpoints


@dataclass
class ArrayJob:
    """One job: the trials at place `index` of a submission. Its pickle holds nothing but where to look."""

    folder: str
    number: int
    index: int
    _runner: LocalRunner | None = field(default=None, repr=False)
    _stopped: bool = field(default=False, repr=False)

    def __call__(self) -> str:
        """Bring the job's trials to their records; returns how they ended, for the log."""
        sweep = Sweep(Path(self.folder))
        submission = next(one for one in sweep.submissions() if one.number == self.number)
        trials = self._trials(sweep, submission)
        results = Path(submission.work.results)
        due = [trial for trial in trials if existing_path(trial, results) is None]
        self._runner = _runner(submission.work, sweep.logs)
        ledger = TrialProgress(len(trials), len(trials) - len(due), self._runner.slots, list(due))
        display = make_display(ledger, quiet=False)
        with display:
            run_all(due, self._runner, Collector(display, {}), results, lambda: self._stopped)
        return _outcome(trials, results)

    def checkpoint(self) -> DelayedSubmission:
        """Stop the workers, which write their checkpoints, and ask to be called again."""
        from submitit.helpers import DelayedSubmission

        self._stopped = True
        if self._runner is not None:
            self._runner.stop(STOP_SECONDS)
        return DelayedSubmission(ArrayJob(self.folder, self.number, self.index))

    def _trials(self, sweep: Sweep, submission: Submission) -> list[Trial]:
        by_id = {trial.id: trial for trial in sweep.manifest.trials}
        return [by_id[key] for key in submission.packs[self.index]]


def _runner(work: Work, logs: Path) -> LocalRunner:
    """What runs trials in this job's share: its slots and threads were decided when it was submitted."""
    gpus = visible_gpus() if work.device == "cuda" else ()
    return LocalRunner(work.settings(logs), Layout(work.slots, work.threads, gpus))


def _outcome(trials: Sequence[Trial], results: Path) -> str:
    records = (existing_record(trial, results) for trial in trials)
    counts = Counter("left" if record is None else record.status for record in records)
    return ", ".join(f"{number} {status}" for status, number in counts.items())
