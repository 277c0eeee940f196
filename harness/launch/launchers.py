"""The launchers, by the names that `--launcher` takes; what runs the trials is imported where it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from harness.core.errors import UserError
from harness.engine import devices
from harness.engine.devices import Device
from harness.engine.options import Options, flag
from harness.engine.plan import Plan
from harness.engine.records import Trial
from harness.engine.settings import RunSettings
from harness.launch.base import Launcher, Layout, PlannedArray, Runner, layout
from harness.launch.resources import arrays, check_resources, resources_of
from harness.launch.sweep import sweep_of


def launcher_of(options: Options) -> Launcher:
    """The launcher that the options name."""
    kinds: Mapping[str, Callable[[Options], Launcher]] = {"inline": Inline, "local": Local, "slurm": Slurm}
    return kinds[options.launcher](options)


def run_settings(options: Options, plan: Plan, device: str) -> RunSettings:
    """The settings that the trials of a plan run with, on this device."""
    return RunSettings(
        results=options.results,
        data_dir=options.data_dir,
        datasets=plan.datasets,
        device=device,
        threads=options.threads,
        slots=options.slots,
        slots_per_gpu=options.slots_per_gpu,
        retries=options.retries,
        retry_failed=options.retry == "failed",
        quiet=options.json,
        logs=sweep_of(plan.trials, options.results).logs,
    )


@dataclass(frozen=True)
class Local:
    """A process for each trial, on this machine. See `Launcher`."""

    asked: Options
    here: ClassVar[bool] = True
    elsewhere: ClassVar[str] = "by another run"

    def check(self) -> None:
        """UserError for options that only Slurm has a use for, and for a device that is not here."""
        for part in fields(self.asked):
            if part.metadata["info"].slurm and getattr(self.asked, part.name) != part.default:
                raise UserError(
                    f"{flag(part.name)} is for jobs of a cluster; add --launcher slurm, or leave it out"
                )
        devices.check_device(self.asked.device)

    def device(self, *, needed: bool) -> Device:
        """The device of this machine that `--device` stands for."""
        return devices.choose(self.asked.device, needed=needed)

    def layout(self, settings: RunSettings, trials: Sequence[Trial]) -> Layout:
        """A share of this machine for each slot."""
        return layout(settings, len(trials))

    def runner(self, settings: RunSettings, trials: Sequence[Trial], due: Sequence[Trial]) -> Runner:
        """To share out GPUs torch is asked for them, which nobody should wait for who has nothing to run."""
        from harness.launch.local import LocalRunner

        return LocalRunner(settings, self.layout(settings, trials) if due else Layout(1, 1))

    def planned(self, _trials: Sequence[Trial], _due: Sequence[Trial]) -> Sequence[PlannedArray]:
        """There are no jobs."""
        return ()

    def following(self) -> list[str]:
        """Nothing: all ends with the command."""
        return []


@dataclass(frozen=True)
class Inline(Local):
    """One trial after the other in this process. See `Launcher`."""

    def check(self) -> None:
        """UserError for `--slots` as well."""
        if self.asked.slots is not None:
            raise UserError(
                "--slots says how many trials run at a time, --launcher inline runs one in this process; "
                "drop one"
            )
        super().check()

    def layout(self, settings: RunSettings, _trials: Sequence[Trial]) -> Layout:
        """One at a time, with as many threads as torch likes."""
        return Layout(1, settings.threads)

    def runner(self, settings: RunSettings, _trials: Sequence[Trial], _due: Sequence[Trial]) -> Runner:
        """See `InlineRunner`."""
        from harness.launch.inline import InlineRunner

        return InlineRunner(settings)


@dataclass(frozen=True)
class Slurm:
    """Jobs of a cluster, whose cores and GPUs are not ours to share out. See `Launcher`."""

    asked: Options
    here: ClassVar[bool] = False
    elsewhere: ClassVar[str] = "in a job"

    def check(self) -> None:
        """UserError for options of jobs that contradict one another."""
        asked = self.asked
        if asked.for_ is not None:
            raise UserError(
                "--for limits a run on this machine; jobs of a cluster have --time, after which they go on "
                "by themselves: drop --for"
            )
        if asked.device == "cpu" and asked.gpus:
            raise UserError(f"--gpus {asked.gpus} asks for GPUs that --device cpu leaves idle; drop one")
        if asked.device.startswith("cuda:"):
            raise UserError(
                f"--device {asked.device} names a GPU, but Slurm chooses those of a job; type --device cuda"
            )
        if asked.slots_per_gpu is not None and not asked.gpus:
            raise UserError("--slots-per-gpu needs jobs with GPUs; add --gpus 1")
        check_resources(asked)

    def device(self, *, needed: bool) -> Device:
        """The device of each job, wherever it runs: a login node need not have it."""
        name = devices.of_job(self.asked.device, self.asked.gpus or 0)
        return Device(name, "as the jobs have it" if self.asked.device == devices.AUTO else "as asked")

    def layout(self, _settings: RunSettings, trials: Sequence[Trial]) -> Layout:
        """With room in the cluster for as many jobs as may run; threads are those of the first method."""
        from harness.launch.submission import shares

        slots, threads = shares(resources_of(trials[0].method, self.asked), self.asked)
        jobs = -(-len(trials) // self.asked.trials_per_job)
        return Layout(slots * min(jobs, self.asked.array_parallelism), threads)

    def runner(self, settings: RunSettings, trials: Sequence[Trial], due: Sequence[Trial]) -> Runner:
        """What submits jobs, once the cluster has agreed to run them; UserError in its own words if not."""
        from harness.launch.queue import array_limit
        from harness.launch.slurm import SlurmRunner
        from harness.launch.submission import check_cluster

        sweep = sweep_of(trials, settings.results)
        if due:
            check_cluster(arrays(due, self.asked, array_limit()), sweep, settings.results)
        return SlurmRunner(settings, self.asked, sweep, self.layout(settings, trials).slots)

    def planned(self, trials: Sequence[Trial], due: Sequence[Trial]) -> Sequence[PlannedArray]:
        """Needs no Slurm on this machine."""
        from harness.launch.queue import array_limit
        from harness.launch.submission import planned

        sweep = sweep_of(trials, self.asked.results)
        submitted = arrays(due, self.asked, array_limit())
        return [planned(sweep, array, number) for number, array in enumerate(submitted, start=1)]

    def following(self) -> list[str]:
        """Jobs go on without the command that submitted them."""
        where = f"--results {self.asked.results}"
        return [
            f"Jobs go on without this command; follow them: python -m harness status --watch {where}",
            f"End them: python -m harness cancel {where}",
        ]
