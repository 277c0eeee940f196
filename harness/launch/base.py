"""What launchers have in common: what they are asked, what they tell a watcher, what they return."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from harness.core.errors import UserError
from harness.core.text import plural
from harness.engine.devices import Device, visible_gpus
from harness.engine.outcomes import failure
from harness.engine.record_files import find_set, write_record
from harness.engine.records import Record, Trial
from harness.engine.settings import RunSettings
from harness.engine.worker import Snapshot

# Exit statuses of a run that left something to be gone on with: when its time was up (EX_TEMPFAIL of
# sysexits.h), or when it was interrupted, as shells have it.
TIME_UP, INTERRUPTED = 75, 130
ENDED_EARLY = (TIME_UP, INTERRUPTED)
BUSY_FROM = 1.25  # times as many busy threads as cores, from which a machine is called busy


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


class Runner(Protocol):
    """What runs trials, `slots` at a time."""

    @property
    def slots(self) -> int:
        """Trials that may run at a time."""

    def run(self, trials: Sequence[Trial], watcher: Watcher) -> list[Trial]:
        """Run the trials; returns those that another process is working on. One failure stops no other."""


@dataclass(frozen=True)
class Layout:
    """How a machine is shared out: `slots` trials at a time, `threads` CPU threads each (None: torch's).

    `gpus` holds what CUDA_VISIBLE_DEVICES is for each slot, in turn, so that neighbours are on different
    devices; empty leaves the devices to the launcher's own environment.
    """

    slots: int
    threads: int | None
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Load:
    """What other processes leave of a machine.

    average: threads that were running or about to, over the last minute. cores: what this process may use,
    used: how many of them a run would keep busy.
    """

    average: float
    cores: int
    used: int

    @property
    def slowdown(self) -> float:
        """How many times longer trials take than alone, if all that runs goes on and shares evenly."""
        return max(1.0, (self.average + self.used) / self.cores)

    def as_lines(self) -> list[str]:
        """One line if the machine is busy, for people who see how long trials may take."""
        if self.slowdown < BUSY_FROM:
            return []
        return [
            f"this machine is busy: load {self.average:.1f} on {plural(self.cores, 'core')}, of which this "
            f"run would use {self.used}; times from records may become {self.slowdown:.1f} times as long, "
            "those measured now have it in them"
        ]


def load(shared: Layout) -> Load:
    """The load of this machine at present; 0 where the system tells none."""
    cores = _cores()
    try:
        average = os.getloadavg()[0]
    except (AttributeError, OSError):
        average = 0.0
    return Load(average, cores, min(cores, shared.slots * (shared.threads or cores)))


class Launcher(Protocol):
    """A way of running trials that was chosen by its name; it knows the options of the run."""

    @property
    def here(self) -> bool:
        """Whether trials run on this machine, so that its device counts and its speed tells."""

    @property
    def elsewhere(self) -> str:
        """Where the record of a trial comes from that was not seen under way."""

    def check(self) -> None:
        """UserError for options that it has no use for or that contradict it, before anything is planned."""

    def device(self, *, needed: bool) -> Device:
        """The device that trials have; what is not `needed` is not asked for."""

    def layout(self, settings: RunSettings, trials: Sequence[Trial]) -> Layout:
        """How many of a plan's trials run at a time."""

    def runner(self, settings: RunSettings, trials: Sequence[Trial], due: Sequence[Trial]) -> Runner:
        """What runs those of a plan's trials that are `due`; UserError if that cannot be."""

    def planned(self, trials: Sequence[Trial], due: Sequence[Trial]) -> Sequence[PlannedArray]:
        """The arrays of jobs that the `due` ones would be submitted in."""

    def following(self) -> list[str]:
        """Lines on what to type while trials run on without this command."""


@dataclass(frozen=True)
class PlannedArray:
    """An array that a run would submit: how many jobs and trials, what each job asks for, the script."""

    jobs: int
    trials: int
    parallel: int
    resources: str
    script: str

    def as_lines(self) -> list[str]:
        """For people."""
        head = (
            f"array of {plural(self.jobs, 'job')} with {plural(self.trials, 'trial')}, "
            f"at most {self.parallel} at a time, each with {self.resources}:"
        )
        return ["", head, "", *(f"    {line}" for line in self.script.rstrip().splitlines())]


def layout(settings: RunSettings, trials: int) -> Layout:
    """Share this machine among a plan's trials.

    It depends on the whole plan and not on what is left of it: a run that goes on must use as many threads
    as it began with, or its bytes would differ.
    """
    cores = _cores()
    gpus = visible_gpus() if settings.device == "cuda" else ()
    if settings.slots is not None:
        slots = settings.slots
    elif settings.device.startswith("cuda"):
        slots = max(1, len(gpus)) * (settings.slots_per_gpu or 1)
    else:
        slots = max(1, cores // (settings.threads or 1))
    slots = max(1, min(slots, trials))
    return Layout(slots, settings.threads or max(1, cores // slots), gpus)


def unwritten(trial: Trial, error: Exception) -> Record:
    """Stands for a record that could not be read or written."""
    return failed_record(trial, failure(error)[1])


def failed_record(trial: Trial, reason: str) -> Record:
    """Record of a trial that ended without leaving one; the same command goes on with it."""
    return Record(id=trial.id, status="failed", reason=reason, resumable=True, trial=trial)


def set_is_there(trial: Trial, results: Path) -> bool:
    """Whether the set that a trial asks about need not be made."""
    try:
        found = find_set(trial.distillation, results)
    except (UserError, OSError):
        return False  # whoever runs the trial will say what is wrong
    return found is not None and found.path(results).exists()


def give_up(failed: Record, waiting: Iterable[Trial], settings: RunSettings) -> list[Record]:
    """Records of the waiting trials whose set could not be made, as another trial found out."""
    made = failed.trial.distillation
    if failed.status == "done" or set_is_there(failed.trial, settings.results):
        return []
    ended = []
    for trial in waiting:
        if trial.distillation.id != made.id:
            continue
        record = msgspec.structs.replace(
            failed, id=trial.id, trial=trial, reason=f"there is no set to evaluate: {failed.reason}"
        )
        try:
            write_record(record, settings.results)
        except (UserError, OSError) as error:
            record = unwritten(trial, error)
        ended.append(record)
    return ended


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
