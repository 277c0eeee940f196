"""What launchers have in common: their options, what they tell a watcher, what they return."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.engine.devices import visible_gpus
from harness.engine.records import Record, Trial
from harness.engine.trial import LOG_NAME, Settings, failure, log_name
from harness.engine.worker import Snapshot

# Exit statuses of a run that left something to be gone on with: when its time was up (EX_TEMPFAIL of
# sysexits.h), or when it was interrupted, as shells have it.
TIME_UP, INTERRUPTED = 75, 130
ENDED_EARLY = (TIME_UP, INTERRUPTED)


@dataclass(frozen=True)
class LaunchOptions:
    """Where and how trials run.

    datasets: for each dataset name of the trials what the user typed, such as "folder:PATH".
    launcher: "inline" for all in this process, else each trial has one of its own.
    slots: trials at a time; None: as many as the cores (or CUDA devices) allow.
    slots_per_gpu: trials at a time on each CUDA device, unless `slots` says how many in all; None: one.
    threads: CPU threads of each trial; None: an equal share of the cores.
    device: "cpu", "cuda" (all CUDA devices, a trial on each) or one of them, "cuda:1".
    retry_failed: run trials again that failed earlier.
    quiet: say nothing on stderr.
    checkpoint_seconds: least time between two checkpoints.
    retries: times that a trial whose worker died is tried again, over all launches together.
    logs: folder for the logs, which then outlive their trials; None: each in its trial's work folder.
    code_digests: for each trial's id the digest of its code when it was submitted; a worker that finds other
        code refuses. None, or a trial left out: whatever code is there.
    deadline: until when trials are begun and stepped, as `time.monotonic` has it.
    """

    results: Path
    data_dir: Path
    datasets: Mapping[str, str]
    launcher: str = "local"
    slots: int | None = None
    threads: int | None = None
    device: str = "cpu"
    retry_failed: bool = False
    quiet: bool = False
    checkpoint_seconds: float = 30.0
    retries: int = 2
    slots_per_gpu: int | None = None
    logs: Path | None = None
    code_digests: Mapping[str, str] | None = None
    deadline: float = math.inf

    @property
    def time_is_up(self) -> bool:
        """Whether trials are to stop and leave their checkpoints."""
        return time.monotonic() >= self.deadline

    def log_of(self, trial: Trial) -> Path:
        """Where a trial's log lies."""
        if self.logs is None:
            return trial.work_folder(self.results) / LOG_NAME
        return self.logs / log_name(trial)

    def settings(self, trial: Trial, threads: int | None) -> Settings:
        """What one trial needs of these."""
        return Settings(
            results=self.results.absolute(),
            data_dir=self.data_dir.absolute(),
            dataset=self.datasets[trial.dataset],
            device=self.device,
            threads=threads,
            checkpoint_seconds=self.checkpoint_seconds,
            log=None if self.logs is None else self.log_of(trial).absolute(),
        )


@dataclass(frozen=True)
class Summary:
    """How a launch ended: a record for each trial in the plan's order, fewer if it ended early.

    left: trials that were to be run and have no record since the time was up.
    """

    records: list[Record]
    interrupted: bool = False
    left: Sequence[Trial] = ()

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of records of each status."""
        return Counter(record.status for record in self.records)

    @property
    def failures(self) -> list[Record]:
        """Records of trials that were to be done and are not."""
        return [record for record in self.records if record.status != "done"]

    @property
    def exit_status(self) -> int:
        """0: all done; 1: something failed; 75: the time was up before all were run; 130: interrupted."""
        if self.interrupted:
            return INTERRUPTED
        if self.left:
            return TIME_UP
        return 1 if self.failures else 0


class Watcher(Protocol):
    """Whoever wants to know how the trials are getting on."""

    def started(self, trial: Trial) -> None:
        """A trial begins or goes on."""

    def progressed(self, trial: Trial, snapshot: Snapshot) -> None:
        """A running trial tells how far it is."""

    def put_off(self, trial: Trial) -> None:
        """A started trial gave up its slot without a record: it is tried again, or another process has it."""

    def ended(self, trial: Trial, record: Record) -> None:
        """A trial has its record."""

    def note(self, text: str) -> None:
        """Something else that a person should know, in one line."""


class Launcher(Protocol):
    """A way of running trials."""

    def run(self, trials: Sequence[Trial], watcher: Watcher) -> list[Trial]:
        """Run the trials; returns those that another process is working on. One failure stops no other."""


class ClusterLauncher(Launcher, Protocol):
    """A way of running trials on other machines, whose cores and GPUs are not ours to share out."""

    @property
    def slots(self) -> int:
        """Trials that may run at a time."""


@dataclass(frozen=True)
class Layout:
    """How a machine is shared out: `slots` trials at a time, `threads` CPU threads each.

    `gpus` holds what CUDA_VISIBLE_DEVICES is for each slot, in turn, so that neighbours are on different
    devices; empty leaves the devices to the launcher's own environment.
    """

    slots: int
    threads: int
    gpus: tuple[str, ...] = ()


def layout(options: LaunchOptions, trials: int) -> Layout:
    """Share this machine among a plan's trials.

    It depends on the whole plan and not on what is left of it: a run that goes on must use as many threads
    as it began with, or its bytes would differ.
    """
    cores = _cores()
    gpus = visible_gpus() if options.device == "cuda" else ()
    if options.slots is not None:
        slots = options.slots
    elif options.device.startswith("cuda"):
        slots = max(1, len(gpus)) * (options.slots_per_gpu or 1)
    else:
        slots = max(1, cores // (options.threads or 1))
    slots = max(1, min(slots, trials))
    return Layout(slots, options.threads or max(1, cores // slots), gpus)


def unwritten(trial: Trial, error: Exception) -> Record:
    """Stands for a record that could not be read or written."""
    return failed_record(trial, failure(error)[1])


def failed_record(trial: Trial, reason: str) -> Record:
    """Record of a trial that ended without leaving one; the same command goes on with it."""
    return Record(id=trial.id, status="failed", reason=reason, resumable=True, trial=trial)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
