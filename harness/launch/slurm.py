"""Trials as arrays of Slurm jobs, submitted through submitit and followed by their records.

Nothing that a sweep needs lives in this process. Jobs write the records themselves; the queue tells which
jobs there still are; files under the sweep's folder tell which trials each job has. A driver that is killed
and started again, or a second one, reads all three and goes on. submitit's own results and states are not
used: they are stale, or never come, once a controller restarts.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

import msgspec
from filelock import FileLock

from harness.core import clock
from harness.core.errors import UserError
from harness.core.faults import passing_line
from harness.core.text import plural
from harness.engine.claim import BusyError, claimed
from harness.engine.devices import of_job
from harness.engine.options import Options
from harness.engine.provenance import Code
from harness.engine.record_files import existing_path, existing_record, write_record
from harness.engine.records import WORK_FOLDER, Record, Status, Trial
from harness.engine.settings import RunSettings
from harness.engine.worker import Snapshot, last_words
from harness.launch import queue
from harness.launch.array_job import ArrayJob
from harness.launch.base import Watcher, failed_record, unwritten
from harness.launch.deaths import Death, death_record, note_death
from harness.launch.queue import QueuedJob, SlurmUnreachableError
from harness.launch.resources import Array, Resources, arrays, as_words
from harness.launch.submission import make_executor, quiet_submitit, shares
from harness.launch.sweep import Submission, Sweep, Work, sweeps

POLL_SECONDS = 5.0  # between two looks at the queue
# A job may leave the queue before its last record is seen on another node's file system, or be in it only a
# moment after its submission: what is missing counts as lost only after so long.
LOST_SECONDS = 15.0
FAULT_LINES = 5  # of a failed job's output that are searched for a fault that passes
STATUS_OF_STATE: Mapping[str, Status] = {"OUT_OF_MEMORY": "oom", "TIMEOUT": "timeout", "DEADLINE": "timeout"}
REASON_OF_STATE = {
    "OUT_OF_MEMORY": "out of memory: Slurm ended the job",
    "TIMEOUT": "the job reached its time limit",
    "NODE_FAIL": "a node failed",
    "BOOT_FAIL": "a node did not start",
    "PREEMPTED": "the job was preempted and not requeued",
    "CANCELLED": "the job was cancelled",
    "FAILED": "the job failed",
    "COMPLETED": "the job ended without its record",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LastSubmission:
    """Where a trial was last submitted."""

    sweep: Sweep
    submission: Submission
    index: int

    @property
    def key(self) -> tuple[str | None, int]:
        """The job, as the queue calls it."""
        return self.submission.job_id, self.index

    @property
    def age(self) -> float:
        """Seconds since the submission was written down."""
        submitted = datetime.fromisoformat(self.submission.submitted_at)
        return (datetime.now(timezone.utc) - submitted).total_seconds()


@dataclass
class SlurmRunner:
    """Submits what no job has yet, then watches records and the queue.

    A job that ends without its trials' records is made up for: its trials are submitted again, as often as
    `retries` says, then recorded as failed with the reason that Slurm gives. `slots` trials run at a time
    if the cluster has room for all jobs that may.
    """

    settings: RunSettings
    asked: Options
    sweep: Sweep
    slots: int = 1
    _absent_since: dict[tuple[str | None, int], float] = field(default_factory=dict)
    _running: set[str] = field(default_factory=set)

    def run(self, trials: Sequence[Trial], watcher: Watcher) -> list[Trial]:
        """See `Runner.run`; whatever ends this early leaves the jobs to themselves."""
        pending = {trial.id: trial for trial in trials}
        self.submit(trials, watcher)
        while pending and not self.asked.detach:
            for trial in self._recorded(pending.values()):
                record = _read(trial, self.settings.results)
                self._running.discard(trial.id)
                del pending[trial.id]
                watcher.ended(trial, record)
            if not pending:
                break
            began = time.monotonic()
            self._look(pending, watcher)
            # Thousands of trials on a slow file system: looking must not become all that this does.
            time.sleep(max(POLL_SECONDS, 4 * (time.monotonic() - began)))
        return []

    def submit(self, trials: Sequence[Trial], watcher: Watcher) -> list[Submission]:
        """Submit those of the trials that have no record and no job, of this or of another sweep."""
        with _submitting(self.settings.results):
            listed = queue.queue()
            places = recover(places_of(self.settings.results, trials), listed)
            due = [
                trial
                for trial in trials
                if existing_path(trial, self.settings.results) is None
                and not self._has_job(places.get(trial.id), listed)
            ]
            made: list[Submission] = []
            for array in arrays(due, self.asked, queue.array_limit()):
                made.append(self._submit_array(array, made[-1].job_id if array.chained else None))
                watcher.note(_submitted(made[-1]))
        return made

    def _has_job(self, place: LastSubmission | None, listed: Mapping[tuple[str, int], QueuedJob]) -> bool:
        """Whether a job has the trial, or had it a moment ago and is still to be judged."""
        if place is None:
            return False
        if place.submission.job_id is None:
            return place.age < LOST_SECONDS
        job = listed.get((place.submission.job_id, place.index))
        return job is not None and job.active

    def _submit_array(self, array: Array, after: str | None) -> Submission:
        number = 1 + max((one.number for one in self.sweep.submissions()), default=0)
        submission = Submission(
            number=number,
            name=self.sweep.job_name(number),
            submitted_at=datetime.now(timezone.utc).isoformat(),
            resources=as_words(array.resources),
            packs=tuple(tuple(trial.id for trial in pack) for pack in array.packs),
            work=self._work(array.resources, [trial for pack in array.packs for trial in pack]),
        )
        self.sweep.write(submission)
        executor = make_executor(self.sweep, array, submission.name, after)
        try:
            with quiet_submitit(), executor.batch():
                jobs = [
                    executor.submit(ArrayJob(str(self.sweep.folder), number, index))
                    for index in range(len(array.packs))
                ]
        except Exception as error:  # noqa: BLE001 - submitit raises its own and subprocess's
            (self.sweep.folder / f"submission-{number}.json").unlink(missing_ok=True)
            raise UserError(f"Slurm took no job: {_last_line(error)}") from None
        submission = msgspec.structs.replace(submission, job_id=jobs[0].job_id.partition("_")[0])
        self.sweep.write(submission)
        return submission

    def _work(self, resources: Resources, trials: Iterable[Trial]) -> Work:
        slots, threads = shares(resources, self.asked)
        here = Code.here()
        digests = {trial.id: here.digest(trial) for trial in trials}
        return Work(
            results=str(self.settings.results.absolute()),
            data_dir=str(self.settings.data_dir.absolute()),
            datasets=dict(self.settings.datasets),
            device=of_job(self.asked.device, resources.gpus),
            slots=slots,
            threads=threads,
            retries=self.settings.retries,
            code_digests={key: digest for key, digest in digests.items() if digest is not None},
        )

    def _recorded(self, trials: Iterable[Trial]) -> list[Trial]:
        return [trial for trial in trials if existing_path(trial, self.settings.results) is not None]

    def _look(self, pending: Mapping[str, Trial], watcher: Watcher) -> None:
        """Show how running trials are getting on, and make up for jobs that are gone."""
        try:
            listed = queue.queue()
        except SlurmUnreachableError as error:
            # A controller that restarts: jobs go on without it, and nothing is judged before it answers.
            logger.info("%s", error)
            return
        places = recover(places_of(self.settings.results, pending.values()), listed)
        lost: dict[tuple[str | None, int], list[Trial]] = {}
        for trial in pending.values():
            place = places.get(trial.id)
            job = listed.get((place.submission.job_id or "", place.index)) if place is not None else None
            if place is not None and job is not None and job.active:
                self._absent_since.pop(place.key, None)
                self._show(trial, job, watcher)
            elif place is None or self._is_lost(place):
                lost.setdefault(place.key if place else (None, 0), []).append(trial)
        for members in lost.values():
            self._settle(members, places.get(members[0].id), listed, watcher)
        if lost:
            self._submit_again([trial for members in lost.values() for trial in members], watcher)

    def _submit_again(self, trials: Sequence[Trial], watcher: Watcher) -> None:
        try:
            self.submit(trials, watcher)
        except UserError as error:
            # Those that run are not to be left alone for it, and the next look tries again.
            watcher.note(f"not submitted again yet: {error}")

    def _is_lost(self, place: LastSubmission) -> bool:
        """Whether a job has been away from the queue for long enough to be sure."""
        since = self._absent_since.setdefault(place.key, time.monotonic())
        return time.monotonic() - since >= LOST_SECONDS and place.age >= LOST_SECONDS

    def _show(self, trial: Trial, job: QueuedJob, watcher: Watcher) -> None:
        snapshot = Snapshot.read(trial.work_folder(self.settings.results))
        if job.state != "RUNNING" or snapshot is None:
            if trial.id in self._running:
                self._running.discard(trial.id)
                watcher.put_off(trial)
            return
        if trial.id not in self._running:
            self._running.add(trial.id)
            watcher.started(trial)
        watcher.progressed(trial, snapshot)

    def _settle(
        self,
        trials: Sequence[Trial],
        place: LastSubmission | None,
        listed: Mapping[tuple[str, int], QueuedJob],
        watcher: Watcher,
    ) -> None:
        """Judge the trials that a lost job left without a record: noted as dead, or failed for good."""
        for trial in trials:
            if trial.id in self._running:
                self._running.discard(trial.id)
                watcher.put_off(trial)
        if place is None or place.submission.job_id is None:
            return
        job_id, index = place.submission.job_id, place.index
        job = listed.get((job_id, index))
        state = job.state if job is not None else queue.final_state(job_id, index) or "unknown to Slurm"
        words = REASON_OF_STATE.get(state, "the job is gone")
        reason = f"{words} (job {job_id}_{index}: {state}{_output_of(place)}){_fault_of(place, state)}"
        begun = [trial for trial in trials if (trial.work_folder(self.settings.results)).is_dir()]
        for trial in begun or trials:
            self._judge(trial, state, Death(reason, clock.now(), f"{job_id}_{index}"), watcher)

    def _judge(self, trial: Trial, state: str, death: Death, watcher: Watcher) -> None:
        """Note that a trial's job died; a record says so if it was cancelled or is not to be tried again."""
        results, retries = self.settings.results, self.settings.retries
        try:
            with claimed(trial, results):
                if existing_path(trial, results) is not None or state == "PREEMPTED":
                    return  # making room is no failure, however often it happens
                if state == "CANCELLED" or death.passes:
                    write_record(failed_record(trial, death.reason), results)
                    return
                with _not_waiting(trial, state, results):
                    deaths = note_death(trial.work_folder(results), death)
                if deaths > retries:
                    record = death_record(trial, death, deaths)
                    status = STATUS_OF_STATE.get(state, "failed")
                    write_record(msgspec.structs.replace(record, status=status), results)
                else:
                    again = f"submitted again ({deaths} of {retries})"
                    watcher.note(f"{trial.label}: {death.reason}; {again}")
        except BusyError:
            return


def _not_waiting(trial: Trial, state: str, results: Path) -> AbstractContextManager[None]:
    """BusyError if all that a job may have done is wait for another process that makes the trial's set.

    A job that failed, or took too much memory, did so by itself, and would again each time it was submitted.
    """
    by_itself = state in ("FAILED", "OUT_OF_MEMORY")
    return contextlib.nullcontext() if by_itself else claimed(trial.distillation, results)


def places_of(results: Path, trials: Iterable[Trial]) -> dict[str, LastSubmission]:
    """Where each of the trials was last submitted, by any sweep under this results folder."""
    wanted = {trial.id for trial in trials}
    places: dict[str, LastSubmission] = {}
    for sweep in sweeps(results):
        for submission in sweep.submissions():
            for index, pack in enumerate(submission.packs):
                for key in wanted.intersection(pack):
                    earlier = places.get(key)
                    if earlier is None or earlier.submission.submitted_at < submission.submitted_at:
                        places[key] = LastSubmission(sweep, submission, index)
    return places


def recover(
    places: Mapping[str, LastSubmission], listed: Mapping[tuple[str, int], QueuedJob]
) -> dict[str, LastSubmission]:
    """The places with the job ids that a driver did not live to write down, known by the jobs' names."""
    by_name = {job.name: job.job_id for job in listed.values()}
    found = dict(places)
    for key, place in places.items():
        submission = place.submission
        if submission.job_id is None and submission.name in by_name:
            submission = msgspec.structs.replace(submission, job_id=by_name[submission.name])
            place.sweep.write(submission)
            found[key] = replace(place, submission=submission)
    return found


@contextlib.contextmanager
def _submitting(results: Path) -> Iterator[None]:
    """Only one driver at a time decides what to submit, so that none submits what another just did."""
    folder = results / WORK_FOLDER / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "submit.lock"):
        yield


def _output_of(place: LastSubmission) -> str:
    """Where a job's own output is, if it left any."""
    path = _output_file(place)
    return f", output: {path}" if path.is_file() else ""


def _fault_of(place: LastSubmission, state: str) -> str:
    """What a job that failed by itself says of a fault that passes, such as a full disk."""
    said = last_words(_output_file(place), FAULT_LINES) if state == "FAILED" else []
    fault = passing_line("\n".join(reversed(said)))
    return f": {fault}" if fault else ""


def _output_file(place: LastSubmission) -> Path:
    job_id, index = place.submission.job_id, place.index
    name = f"{job_id}_{index}" if len(place.submission.packs) > 1 else str(job_id)
    return place.sweep.jobs / f"{name}_0_log.out"


def _submitted(submission: Submission) -> str:
    trials = sum(map(len, submission.packs))
    jobs = len(submission.packs)
    return (
        f"submitted {plural(trials, 'trial')} as {plural(jobs, 'job')} {submission.job_id} "
        f"({submission.resources} each)"
    )


def _read(trial: Trial, results: Path) -> Record:
    try:
        record = existing_record(trial, results)
    except (UserError, OSError) as error:
        return unwritten(trial, error)
    return record or failed_record(trial, "its record was taken away")


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[-1] if lines else type(error).__name__)
