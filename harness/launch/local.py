"""Trials on this machine, several at a time, each in a process of its own with pinned threads."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.errors import UserError
from harness.launch.base import LaunchOptions, Layout, Watcher, failed_record, unwritten
from harness.meter import ROOT
from harness.records import Record, Trial, read_record, write_record
from harness.trial import LOG_NAME, BusyError, claimed
from harness.worker import BUSY, PROGRESS_NAME, Job, Snapshot

POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL
# Every library that keeps threads of its own has its own variable for their number.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class _Worker:
    """A process and the slot that it takes."""

    trial: Trial
    slot: int
    process: subprocess.Popen[bytes]


class LocalLauncher:
    """Keeps each slot busy with a worker; a worker that dies costs its trial and no other."""

    def __init__(self, options: LaunchOptions, layout: Layout) -> None:
        self._options = options
        self._layout = layout

    def run(self, trials: Sequence[Trial], watcher: Watcher) -> list[Trial]:
        """See `Launcher.run`. Whatever ends this early, Ctrl-C above all, stops the workers."""
        waiting, free = deque(trials), deque(range(self._layout.slots))
        running: list[_Worker] = []
        busy: list[Trial] = []
        try:
            while waiting or running:
                while waiting and free:
                    running.append(self._start(waiting.popleft(), free.popleft()))
                    watcher.started(running[-1].trial)
                time.sleep(POLL_SECONDS)
                for worker in list(running):
                    if worker.process.poll() is None:
                        self._report_progress(worker, watcher)
                        continue
                    running.remove(worker)
                    free.append(worker.slot)
                    busy += self._finish(worker, watcher)
        finally:
            _stop(running)
        return busy

    def _start(self, trial: Trial, slot: int) -> _Worker:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment(slot),
            # A Ctrl-C in the terminal is for the launcher, which stops the workers in its own way.
            start_new_session=True,
        )
        job = Job(trial, self._options.settings(trial, self._layout.threads), os.getpid())
        if process.stdin is not None:
            # A worker that died at once shows in its exit status.
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(job.encode())
        return _Worker(trial, slot, process)

    def _environment(self, slot: int) -> dict[str, str]:
        variables = dict.fromkeys(THREAD_VARIABLES, str(self._layout.threads))
        inherited = os.environ.get("PYTHONPATH")
        variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([inherited] if inherited else [])])
        if self._layout.gpus:
            variables["CUDA_VISIBLE_DEVICES"] = self._layout.gpus[slot % len(self._layout.gpus)]
        return os.environ | variables

    def _report_progress(self, worker: _Worker, watcher: Watcher) -> None:
        path = worker.trial.work_folder(self._options.results) / PROGRESS_NAME
        with contextlib.suppress(OSError, msgspec.DecodeError):
            watcher.progressed(worker.trial, msgspec.json.decode(path.read_bytes(), type=Snapshot))

    def _finish(self, worker: _Worker, watcher: Watcher) -> list[Trial]:
        """Pass on what a worker left; returns its trial if another process has that one."""
        record = outcome(worker.trial, self._options.results, worker.process.returncode)
        if record is None:
            watcher.put_off(worker.trial)
            return [worker.trial]
        watcher.ended(worker.trial, record)
        return []


def outcome(trial: Trial, results: Path, returncode: int) -> Record | None:
    """Record of a trial whose worker ended with `returncode`; None if another process has the trial.

    A worker that died without leaving a record gets one that says so.
    """
    if returncode == BUSY:
        return None
    try:
        with claimed(trial, results):
            path = trial.record_path(results)
            if path.exists():
                return read_record(path)
            record = failed_record(trial, cause_of_death(returncode, trial.work_folder(results) / LOG_NAME))
            write_record(record, results)
            return record
    except BusyError:
        return None
    except (UserError, OSError) as error:
        return unwritten(trial, error)


def cause_of_death(returncode: int, log: Path) -> str:
    """Why a worker ended without a record, in one line."""
    if returncode == -signal.SIGKILL:
        return "killed by SIGKILL, perhaps by the kernel for want of memory"
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    try:
        last_lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        last_lines = []
    last = next((line.strip() for line in reversed(last_lines) if line.strip()), "its log is empty")
    return f"the worker ended with exit status {returncode}: {last}"


def _stop(workers: Sequence[_Worker]) -> None:
    """End the workers: politely first, so that they remove what they were writing."""
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    try:
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
