"""Where the trials of sweeps stand, by records, the queue and signs of life: for `status`, `logs`, `cancel`.

Nothing here needs the process that started a sweep, nor Slurm's accounting.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.core.clock import now
from harness.core.errors import UserError
from harness.engine.claim import BusyError, claimed
from harness.engine.records import Trial
from harness.engine.settings import log_name
from harness.engine.worker import PROGRESS_NAME, Snapshot
from harness.launch import queue
from harness.launch.queue import QueuedJob
from harness.launch.sweep import Submission, Sweep, sweeps

# Without a record: in a job that runs, in one that waits; begun and not under way; in a job that was
# cancelled or is gone; not begun; in a job of which Slurm, silent just now, would have to tell.
OPEN_STATES = ("running", "pending", "stopped", "cancelled", "lost", "waiting", "unknown")


@dataclass(frozen=True)
class TrialState:
    """One trial of a sweep: the status of its record, or one of OPEN_STATES; its job and what is known."""

    id: str
    label: str
    state: str
    job: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class SweepState:
    """A sweep and its trials; `jobs` are the arrays that were submitted for it."""

    id: str
    launcher: str
    created_at: str
    jobs: tuple[str, ...]
    trials: tuple[TrialState, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """Trials in each state."""
        return Counter(trial.state for trial in self.trials)

    @property
    def open(self) -> bool:
        """Whether a trial has no record yet."""
        return any(trial.state in OPEN_STATES for trial in self.trials)


def standings(results: Path, statuses: Mapping[str, str]) -> list[SweepState]:
    """All sweeps under a results folder, the oldest first; `statuses` are those of the records, by id."""
    found = list(sweeps(results))
    submitted = {sweep.id: sweep.submissions() for sweep in found}
    jobs = _queue() if any(submitted.values()) else {}
    return [_standing(sweep, submitted[sweep.id], jobs, results, statuses) for sweep in found]


def sweep_named(results: Path, name: str | None) -> Sweep:
    """The sweep whose id begins with `name`, or without one the only one that has jobs in the queue."""
    found = list(sweeps(results))
    if name is not None:
        matching = [sweep for sweep in found if sweep.id.startswith(name)]
    else:
        jobs = queue.queue()
        matching = [sweep for sweep in found if active_jobs(sweep, jobs)]
    if len(matching) == 1:
        return matching[0]
    ids = ", ".join(sweep.id for sweep in (matching or found)) or "none"
    if name is None and not matching:
        raise UserError(f"no sweep under {results} has jobs in Slurm's queue; sweeps: {ids}")
    raise UserError(f"which sweep under {results}? expected the id of one of: {ids}")


def active_jobs(sweep: Sweep, jobs: Mapping[tuple[str, int], QueuedJob]) -> list[QueuedJob]:
    """Jobs of a sweep that wait or run, also of a submission whose job id was not written down."""
    submissions = sweep.submissions()
    ids = {submission.job_id for submission in submissions}
    names = {submission.name for submission in submissions}
    return [job for job in jobs.values() if job.active and (job.job_id in ids or job.name in names)]


def cancel(sweep: Sweep) -> int:
    """End the jobs of a sweep, and of no other; returns how many there were."""
    active = active_jobs(sweep, queue.queue())
    queue.cancel({job.job_id for job in active})
    ended = {job.job_id for job in active}
    names = {job.name for job in active}
    for submission in sweep.submissions():
        if submission.job_id in ended or submission.name in names:
            sweep.write(msgspec.structs.replace(submission, cancelled_at=now()))
    return len(active)


def logs_of(results: Path, words: str) -> list[tuple[Trial, Path]]:
    """Trials that `words` names, by the begin of the id or by parts of the label, with their latest logs."""
    found: dict[str, tuple[Trial, Path]] = {}
    for sweep in sweeps(results):
        for trial in sweep.manifest.trials:
            path = sweep.logs / log_name(trial)
            if _names(words, trial) and path.is_file():
                earlier = found.get(trial.id)
                if earlier is None or earlier[1].stat().st_mtime < path.stat().st_mtime:
                    found[trial.id] = (trial, path)
    return list(found.values())


def _names(words: str, trial: Trial) -> bool:
    return trial.id.startswith(words) or all(word in trial.label.split(" ") for word in words.split())


def _queue() -> Mapping[tuple[str, int], QueuedJob] | None:
    """The queue, or None while Slurm does not answer or is not on this machine."""
    try:
        return queue.queue()
    except UserError:
        return None


def _standing(
    sweep: Sweep,
    submissions: Sequence[Submission],
    jobs: Mapping[tuple[str, int], QueuedJob] | None,
    results: Path,
    statuses: Mapping[str, str],
) -> SweepState:
    places = {
        key: (submission, index)
        for submission in submissions
        for index, pack in enumerate(submission.packs)
        for key in pack
    }
    by_name = {job.name: job.job_id for job in (jobs or {}).values()}
    trials = []
    for trial in sweep.manifest.trials:
        status = statuses.get(trial.id)
        if status is not None:
            trials.append(TrialState(trial.id, trial.label, status))
        elif trial.id in places:
            submission, index = places[trial.id]
            job_id = submission.job_id or by_name.get(submission.name)
            trials.append(_submitted(trial, submission, (job_id or "", index), jobs, results))
        else:
            trials.append(_unsubmitted(trial, results))
    ids = tuple(submission.job_id or submission.name for submission in submissions)
    manifest = sweep.manifest
    return SweepState(sweep.id, manifest.launcher, manifest.created_at, ids, tuple(trials))


def _submitted(
    trial: Trial,
    submission: Submission,
    key: tuple[str, int],
    jobs: Mapping[tuple[str, int], QueuedJob] | None,
    results: Path,
) -> TrialState:
    """A trial without a record that a job was submitted for."""
    name = f"{key[0]}_{key[1]}"
    if jobs is None:
        return TrialState(trial.id, trial.label, "unknown", name, "Slurm does not answer")
    job = jobs.get(key)
    if job is not None and job.active:
        progress = _progress(trial, results)
        if job.state == "RUNNING" and progress is not None:
            return TrialState(trial.id, trial.label, "running", name, f"{progress} on {job.node}")
        detail = job.reason if job.state == "PENDING" else f"its job is {job.state} on {job.node}"
        return TrialState(trial.id, trial.label, "pending", name, detail)
    if submission.cancelled_at is not None or (job is not None and job.state == "CANCELLED"):
        return TrialState(trial.id, trial.label, "cancelled", name)
    ended = f"its job ended: {job.state}" if job is not None else "its job is not in the queue"
    return TrialState(trial.id, trial.label, "lost", name, ended)


def _unsubmitted(trial: Trial, results: Path) -> TrialState:
    """A trial without a record that runs, ran or is to run in a process of the local launcher."""
    progress = _progress(trial, results)
    if not trial.work_folder(results).is_dir():
        return TrialState(trial.id, trial.label, "waiting")
    try:
        with claimed(trial, results):
            return TrialState(trial.id, trial.label, "stopped", detail=progress or "")
    except BusyError:
        return TrialState(trial.id, trial.label, "running", detail=progress or "starting")
    except OSError:
        return TrialState(trial.id, trial.label, "unknown", detail=progress or "")


def _progress(trial: Trial, results: Path) -> str | None:
    """`distill 30 of 200, 4 s ago`, or None before there is any."""
    work = trial.work_folder(results)
    snapshot = Snapshot.read(work)
    try:
        age = max(0.0, time.time() - (work / PROGRESS_NAME).stat().st_mtime)
    except OSError:
        return None
    if snapshot is None:
        return None
    return f"{snapshot.phase} {snapshot.step} of {snapshot.total}, {age:.0f} s ago"
