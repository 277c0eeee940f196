"""Trials on this machine, several at a time, each in a process of its own with pinned threads."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core import clock
from harness.core.errors import UserError
from harness.core.faults import passing_line
from harness.engine.claim import BusyError, claimed
from harness.engine.record_files import existing_path, existing_record, write_record
from harness.engine.records import Record, Trial
from harness.engine.settings import RunSettings
from harness.engine.surroundings import for_training
from harness.engine.worker import BUSY, STOPPED, Job, Snapshot, last_words
from harness.launch.base import Layout, Watcher, failed_record, give_up, set_is_there, unwritten
from harness.launch.deaths import KILLED_BY_KERNEL, Death, death_record, deaths, note_death, oom_kills
from harness.launch.processes import Forked, Process, Starter, heard

POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL
PATIENT_SECONDS = 60.0  # between them when the time is up: nobody waits, and a step may take long
# A worker that SIGTERM ended, though not from here, may be the first of a whole job that a cluster ends. This
# process then gets the signal as well, or SIGKILL after the 30 seconds that are Slurm's default.
TERM_PATIENCE_SECONDS = 40.0
REAP_SECONDS = 5.0  # for the kernel to end what got SIGKILL
# Every library that keeps threads of its own has its own variable for their number.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass
class _Worker:
    """A process and the slot that it takes.

    kills_before: OOM kills that the kernel counted before it began.
    makes_set: whether the set that its trial asks about was not there when it began.
    patience_ends: until when its end by SIGTERM may turn out to be everybody's.
    """

    trial: Trial
    slot: int
    process: Process
    kills_before: int | None
    makes_set: bool = False
    patience_ends: float | None = None


class LocalRunner:
    """Keeps each slot busy with a worker; one that dies is replaced, and costs at most its own trial."""

    def __init__(self, settings: RunSettings, layout: Layout) -> None:
        self._settings = settings
        self._layout = layout
        self._running: list[_Worker] = []
        self._stopping = False
        self._grace_seconds = GRACE_SECONDS
        self._kills_explained = 0

    @property
    def slots(self) -> int:
        """Trials at a time."""
        return self._layout.slots

    def run(self, trials: Sequence[Trial], watcher: Watcher) -> list[Trial]:
        """See `Runner.run`. Whatever ends this early, Ctrl-C above all, stops the workers.

        A trial whose worker died goes on from its checkpoint before others begin, so long as it has retries.
        Returned as well are the trials that `stop` left undone, or the time that was up.
        """
        waiting, free = deque(trials), deque(range(self._layout.slots))
        starter = starter_of(self._environment(), watcher)
        left: list[Trial] = []
        try:
            while self._running or (waiting and not self._stopping):
                self._heed_time(watcher)
                self._fill(waiting, free, starter, watcher)
                time.sleep(POLL_SECONDS)
                for worker in self._gone(watcher):
                    self._running.remove(worker)
                    free.append(worker.slot)
                    left += self._finish(worker, waiting, watcher)
        finally:
            _end(self._running, GRACE_SECONDS)
            self._running.clear()
            starter.close()
        return [*left, *waiting]

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """End the workers, each after its present step, and let `run` return what is undone as not done here.

        May be called while `run` is under way, from a signal handler or another thread. It returns when the
        workers are gone, those that took longer than the grace by SIGKILL; afterwards none is ever started.
        """
        self._stopping, self._grace_seconds = True, grace_seconds
        _end(self._running, grace_seconds)

    def _heed_time(self, watcher: Watcher) -> None:
        """Stop once the time is up."""
        if self._settings.time_is_up and not self._stopping:
            if self._running:
                watcher.note("the time is up: stopping after the present step")
            self.stop(PATIENT_SECONDS)

    def _fill(self, waiting: deque[Trial], free: deque[int], starter: Starter, watcher: Watcher) -> None:
        """Start workers in the free slots, but none while it is open whether all is being ended."""
        patient = any(worker.patience_ends is not None for worker in self._running)
        while waiting and free and not patient and not self._stopping:
            trial = self._next(waiting)
            if trial is None or not starter.ready():
                break  # the sets of all that wait are being made, or torch is being imported
            waiting.remove(trial)
            self._running.append(self._start(trial, free.popleft(), starter))
            watcher.started(self._running[-1].trial)
        if self._stopping:
            # `stop` may have been called in the middle of a start.
            _end(self._running, self._grace_seconds)

    def _next(self, waiting: Iterable[Trial]) -> Trial | None:
        """The first of the waiting trials whose set no worker is making."""
        results = self._settings.results
        made_now = {
            worker.trial.distillation.id
            for worker in self._running
            if worker.makes_set and not set_is_there(worker.trial, results)
        }
        return next((trial for trial in waiting if trial.distillation.id not in made_now), None)

    def _start(self, trial: Trial, slot: int, starter: Starter) -> _Worker:
        kills_before, makes_set = oom_kills(), not set_is_there(trial, self._settings.results)
        process = starter.start(self._environment(slot), self._job(trial).encode())
        return _Worker(trial, slot, process, kills_before, makes_set)

    def _job(self, trial: Trial) -> Job:
        settings = self._settings.for_one(trial, self._layout.threads)
        attempt = len(deaths(trial.work_folder(settings.results))) + 1
        return Job(trial, settings, parent=os.getpid(), attempt=attempt)

    def _environment(self, slot: int | None = None) -> dict[str, str]:
        """What a worker in a slot finds; without one, what is the same in all of them."""
        variables = dict.fromkeys(THREAD_VARIABLES, str(self._layout.threads))
        if self._settings.device == "cpu":
            # torch.compile saves the state of every visible GPU's generator, which takes up memory on each.
            variables["CUDA_VISIBLE_DEVICES"] = ""
        elif self._layout.gpus and slot is not None:
            variables["CUDA_VISIBLE_DEVICES"] = self._layout.gpus[slot % len(self._layout.gpus)]
        return for_training(os.environ) | variables

    def _gone(self, watcher: Watcher) -> list[_Worker]:
        """The workers that ended and are to be dealt with now."""
        gone = []
        for worker in self._running:
            if worker.process.poll() is None:
                self._report_progress(worker, watcher)
            elif not self._waits_with(worker, watcher):
                gone.append(worker)
        return gone

    def _waits_with(self, worker: _Worker, watcher: Watcher) -> bool:
        """Whether to wait and see if the signal that ended a worker was meant for this process as well."""
        returncode, recorded = worker.process.returncode, existing_path(worker.trial, self._settings.results)
        ends_jobs = (STOPPED, -signal.SIGTERM, -signal.SIGUSR1, -signal.SIGUSR2)
        if self._stopping or returncode not in ends_jobs or recorded is not None:
            return False
        if worker.patience_ends is None:
            worker.patience_ends = time.monotonic() + TERM_PATIENCE_SECONDS
            watcher.note(
                f"{worker.trial.label}: {cause_of_death(returncode, self._settings.log_of(worker.trial))}; "
                f"waiting {TERM_PATIENCE_SECONDS:.0f} s in case this whole run is being ended"
            )
        return time.monotonic() < worker.patience_ends

    def _report_progress(self, worker: _Worker, watcher: Watcher) -> None:
        snapshot = Snapshot.read(worker.trial.work_folder(self._settings.results))
        if snapshot is not None:
            watcher.progressed(worker.trial, snapshot)

    def _finish(self, worker: _Worker, waiting: deque[Trial], watcher: Watcher) -> list[Trial]:
        """Pass on what a worker left, or queue its trial again; returns the trial if it is left undone."""
        trial, death = worker.trial, self._death(worker)
        taken = worker.process.returncode == BUSY
        found = None if taken else outcome(trial, self._settings, death)
        if isinstance(found, Record):
            watcher.ended(trial, found)
            for other in give_up(found, waiting, self._settings):
                waiting.remove(other.trial)
                watcher.ended(other.trial, other)
            return []
        watcher.put_off(trial)
        if death is None or found is None:
            return [trial]
        waiting.appendleft(trial)
        watcher.note(f"{trial.label}: {death.reason}; tried again ({found} of {self._settings.retries})")
        return []

    def _death(self, worker: _Worker) -> Death | None:
        """What a worker died of, if it has no record to show; None if it was told to stop."""
        if self._stopping:
            return None
        returncode = worker.process.returncode
        reason = cause_of_death(returncode, self._settings.log_of(worker.trial), heard(worker.process))
        if returncode == -signal.SIGKILL and self._killed_for_memory(worker):
            reason = KILLED_BY_KERNEL
        return Death(reason, clock.now())

    def _killed_for_memory(self, worker: _Worker) -> bool:
        """Whether the kernel counted a kill in the worker's lifetime that explains no other worker's end."""
        kills = oom_kills()
        if kills is None or worker.kills_before is None:
            return False
        explained = max(worker.kills_before, self._kills_explained)
        if kills <= explained:
            return False
        self._kills_explained = explained + 1
        return True


def starter_of(environment: dict[str, str], watcher: Watcher) -> Starter:
    """How workers begin; the environment is what they have in common."""
    return Forked(environment, watcher.note)


def outcome(trial: Trial, settings: RunSettings, death: Death | None) -> Record | int | None:
    """What became of a trial whose worker is gone: its record, if it has one.

    Without one, `death` is noted. Returned is the number of deaths so far while the trial is to be tried
    again, and the failed record, now written, once there are no retries left. None: another process has the
    trial, or nobody died.
    """
    try:
        with claimed(trial, settings.results):
            record = existing_record(trial, settings.results)
            if record is not None:
                return record
            if death is None:
                return None
            if death.passes:
                record = failed_record(trial, death.reason)
                write_record(record, settings.results)
                return record
            count = note_death(trial.work_folder(settings.results), death)
            if count <= settings.retries:
                return count
            record = death_record(trial, death, count)
            write_record(record, settings.results)
            return record
    except BusyError:
        return None
    except (UserError, OSError) as error:
        return unwritten(trial, error)


def cause_of_death(returncode: int, log: Path, said: str = "") -> str:
    """Why a worker ended without a record, in one line; `said` is what it told its launcher alone."""
    if returncode == -signal.SIGKILL:
        return "killed by SIGKILL, perhaps by the kernel for want of memory"
    if returncode == STOPPED:
        return "stopped by SIGTERM"
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    last = next(iter(last_words(log, 1)), said or "its log is empty")
    if passing_line(said) is not None:
        last = said  # what the log had no room for
    return f"the worker ended with exit status {returncode}: {last.strip()}"


def _end(workers: Sequence[_Worker], grace_seconds: float) -> None:
    """End the workers: politely first, so that they keep what they have and remove what they were writing.

    It polls, as a signal handler must: `Popen.wait` would wait for a lock that the interrupted code may have.
    """
    processes = [worker.process for worker in workers]
    try:
        for process in processes:
            process.terminate()
        _await(processes, grace_seconds)
    finally:
        for process in processes:
            process.kill()
        _await(processes, REAP_SECONDS)


def _await(processes: Sequence[Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
