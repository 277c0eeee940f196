"""What `plan` and the beginning of `run` say: what would run, what is there already, how long it may take."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from harness.commands.arguments import (
    add_run_arguments,
    options_from,
)
from harness.commands.estimate import TimeEstimate, from_records, measure, roughly
from harness.core.text import MISSING, plural, table
from harness.engine import devices, provenance
from harness.engine.devices import Device
from harness.engine.options import Options
from harness.engine.plan import Plan, check_data, finished, make_plan
from harness.engine.records import Record, Trial, collect
from harness.launch.base import LaunchOptions, layout
from harness.launch.check import check_launch
from harness.launch.sweep import sweep_of

STATES = ("done", "failed", "to run")


@dataclass(frozen=True)
class Preview:
    """A plan against what lies under the results folder; estimates are by `cell`, slots trials at a time."""

    plan: Plan
    states: Mapping[str, str]
    estimates: Mapping[str, TimeEstimate]
    device: Device
    slots: int = 1
    measuring_seconds: float = 0.0

    @property
    def waiting(self) -> list[Trial]:
        """Trials that `run` would start now."""
        return [trial for trial in self.plan.trials if self.states[trial.id] == "to run"]

    @property
    def seconds(self) -> float | None:
        """Seconds for all waiting trials one after another; None unless each has an estimate."""
        estimates = [self.estimates.get(trial.cell) for trial in self.waiting]
        known = [estimate.seconds for estimate in estimates if estimate is not None]
        return sum(known) if len(known) == len(estimates) else None


def preview(plan: Plan, options: Options, *, timing: bool) -> Preview:
    """Compare a plan with earlier records; with `timing`, time cells for which there are none.

    Not so for jobs of a cluster: steps on a login node tell nothing of those on its nodes.
    """
    known = collect(options.results).records
    records = finished(plan.trials, options.results, known)
    check_data(plan, records.values())
    states = {trial.id: _state(records.get(trial.id), options.retry) for trial in plan.trials}
    waiting = [trial for trial in plan.trials if states[trial.id] == "to run"]
    device = _device(options, needed=bool(waiting))
    estimates = from_records(known, device.name)
    unknown = [trial for trial in waiting if trial.cell not in estimates]
    options = settled(options, device)
    slots, threads = _shares(plan, options) if waiting else (1, None)
    if not (timing and unknown) or options.launcher == "slurm":
        return Preview(plan, states, estimates, device, slots)
    started = time.perf_counter()
    estimates |= measure(unknown, plan, options, threads)
    return Preview(plan, states, estimates, device, slots, time.perf_counter() - started)


def settled(options: Options, device: Device) -> Options:
    """The options with the device that `auto` stands for; jobs of a cluster have one of their own each."""
    return options if options.launcher == "slurm" else dataclasses.replace(options, device=device.name)


def _device(options: Options, *, needed: bool) -> Device:
    if options.launcher != "slurm":
        return devices.choose(options.device, needed=needed)
    name = devices.of_job(options.device, options.gpus or 0)
    return Device(name, "as the jobs have it" if options.device == devices.AUTO else "as asked")


def headline(view: Preview) -> str:
    """One line: how many trials there are in which state, and how long the rest may take."""
    counts = Counter(view.states.values())
    failed = "" if not counts["failed"] else f", {counts['failed']} failed (again with --retry failed)"
    line = f"{plural(len(view.states), 'trial')}: {counts['done']} done{failed}, {counts['to run']} to run"
    if view.seconds is None or not view.waiting:
        return line
    slots = min(view.slots, len(view.waiting))
    shared = f", {roughly(view.seconds / slots)} if {slots} at a time do not slow one another"
    return f"{line}, about {roughly(view.seconds)} one after another{shared if slots > 1 else ''}"


def warnings(plan: Plan) -> list[str]:
    """Lines about data that are read, but perhaps not as their owner thinks."""
    return [f"warning: {remark}" for remark in plan.remarks]


def advice(options: Options) -> list[str]:
    """Lines about wishes that can be had but will disappoint on this machine; the device is a settled one."""
    if options.precision == "bf16" and options.device == "cpu" and provenance.multiplies_bf16() is False:
        return [
            "note: this CPU has no instructions for bfloat16 (AMX, AVX-512 BF16), so --precision bf16 may "
            "well be slower than fp32; `python -m harness perf step` tells"
        ]
    return []


def as_text(view: Preview) -> str:
    """The plan for people: a row for each cell, where settings and times come from, the headline."""
    groups: dict[str, list[Trial]] = {}
    for trial in view.plan.trials:
        groups.setdefault(trial.cell, []).append(trial)
    headers = ("dataset", "method", "ipc", "seeds", *STATES, "time a trial", "time from")
    rows = [_row(view, key, trials) for key, trials in groups.items()]
    return "\n".join(
        [
            *(table(headers, rows, text_columns=2), "", *_settings(view.plan), *_about_times(view)),
            *(str(view.device), headline(view)),
        ]
    )


def as_json(view: Preview, jobs: Sequence[PlannedArray] = ()) -> str:
    """The plan as one JSON object, with the arrays of a cluster's jobs."""
    content = {
        "arrays": [dataclasses.asdict(array) for array in jobs],
        "trials": [_entry(view, trial) for trial in view.plan.trials],
        "seconds": view.seconds,
        "device": view.device.name,
        "slots": view.slots,
        "measuring_seconds": view.measuring_seconds,
    }
    return msgspec.json.encode(content).decode()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    add_run_arguments(parser)
    parser.add_argument("--no-estimate", action="store_true", help="do not time any steps")


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    options = options_from(arguments)
    check_launch(options)
    return command(make_plan(options), options, timing=not arguments.no_estimate)


def command(plan: Plan, options: Options, *, timing: bool) -> int:
    """Print the plan; returns the exit status 0."""
    view = preview(plan, options, timing=timing)
    for line in (*warnings(plan), *advice(settled(options, view.device))):
        print(line, file=sys.stderr)
    jobs = planned_jobs(view, options) if options.launcher == "slurm" else []
    if options.json:
        print(as_json(view, jobs))
    else:
        print("\n".join([as_text(view), *(line for array in jobs for line in array.as_lines())]))
    return 0


@dataclass(frozen=True)
class PlannedArray:
    """An array that a run would submit: how many jobs and trials, what each job asks for, the script."""

    jobs: int
    trials: int
    parallel: int
    resources: str
    script: str

    def as_lines(self) -> list[str]:
        """The array as lines for people."""
        head = (
            f"array of {plural(self.jobs, 'job')} with {plural(self.trials, 'trial')}, "
            f"at most {self.parallel} at a time, each with {self.resources}:"
        )
        return ["", head, "", *(f"    {line}" for line in self.script.rstrip().splitlines())]


def planned_jobs(view: Preview, options: Options) -> list[PlannedArray]:
    """The arrays that a run would submit for the waiting trials; needs no Slurm on this machine."""
    from harness.launch import queue
    from harness.launch.resources import arrays, as_words
    from harness.launch.submission import batch_script

    sweep = sweep_of(view.plan.trials, options.results)
    planned = arrays(view.waiting, options, queue.array_limit())
    return [
        PlannedArray(
            jobs=len(array.packs),
            trials=sum(map(len, array.packs)),
            parallel=array.parallel,
            resources=as_words(array.resources),
            script=batch_script(sweep, array, sweep.job_name(number)),
        )
        for number, array in enumerate(planned, start=1)
    ]


def launch_options(options: Options, plan: Plan) -> LaunchOptions:
    """What the launcher needs to know of the options."""
    return LaunchOptions(
        results=options.results,
        data_dir=options.data_dir,
        datasets=plan.datasets,
        launcher=options.launcher,
        slots=options.slots,
        threads=options.threads,
        device=options.device,
        slots_per_gpu=options.slots_per_gpu,
        retries=options.retries,
        logs=sweep_of(plan.trials, options.results).logs,
        retry_failed=options.retry == "failed",
        quiet=options.json,
    )


def _state(record: Record | None, retry: str | None) -> str:
    if record is None:
        return "to run"
    if record.status == "done":
        return "done"
    return "to run" if record.resumable or retry == "failed" else "failed"


def _shares(plan: Plan, options: Options) -> tuple[int, int | None]:
    """Trials at a time and CPU threads of each, as the launcher will have it; None is torch's own choice."""
    if options.launcher == "inline":
        return 1, options.threads
    if options.launcher == "slurm":
        return _cluster_shares(plan, options)
    shares = layout(launch_options(options, plan), len(plan.trials))
    return shares.slots, shares.threads


def _cluster_shares(plan: Plan, options: Options) -> tuple[int, int]:
    """The same if the cluster has room for as many jobs as may run; threads are those of the first method."""
    from harness.launch.resources import resources_of
    from harness.launch.submission import shares

    slots, threads = shares(resources_of(plan.trials[0].method, options), options)
    jobs = -(-len(plan.trials) // options.trials_per_job)
    return slots * min(jobs, options.array_parallelism), threads


def _row(view: Preview, key: str, trials: Sequence[Trial]) -> list[str]:
    first = trials[0]
    counts = Counter(view.states[trial.id] for trial in trials)
    estimate = view.estimates.get(key)
    return [
        first.dataset,
        first.method,
        str(first.ipc),
        ",".join(str(trial.seed) for trial in trials),
        *(str(counts[state]) for state in STATES),
        MISSING if estimate is None else roughly(estimate.seconds),
        MISSING if estimate is None else estimate.source,
    ]


def _settings(plan: Plan) -> list[str]:
    """One line for each origin of settings: which methods, datasets and ipc take theirs from it."""
    ipcs: dict[tuple[str, str, str], dict[int, None]] = {}
    for trial in plan.trials:
        ipcs.setdefault((trial.method, trial.dataset, trial.source_sentence), {})[trial.ipc] = None
    return [
        f"settings of {method} on {dataset}, ipc {','.join(map(str, values))}: {source}"
        for (method, dataset, source), values in ipcs.items()
    ]


def _about_times(view: Preview) -> list[str]:
    shown = [estimate for trial in view.plan.trials if (estimate := view.estimates.get(trial.cell))]
    places = sorted(frozenset[str]().union(*(estimate.places for estimate in shown)))
    lines = [f"records were made on {'; '.join(places)}"] if places else []
    if view.measuring_seconds > 0:
        lines.append(f"estimating took {roughly(view.measuring_seconds)}")
    off_by = {estimate.source: estimate.off_by for estimate in shown if not estimate.places}
    lines += [
        f"times from {source} may be off by a factor of {factor:g}" for source, factor in off_by.items()
    ]
    missing = {trial.cell for trial in view.waiting} - view.estimates.keys()
    if view.measuring_seconds > 0 and missing:
        lines.append(f"{plural(len(missing), 'cell')} without a time: the minute for estimating was over")
    if shown:
        lines.append("times leave out the start of each process and the one look at the test split")
    return lines


def _entry(view: Preview, trial: Trial) -> dict[str, Any]:
    estimate = view.estimates.get(trial.cell)
    return {
        "id": trial.id,
        "state": view.states[trial.id],
        "seconds": None if estimate is None else estimate.seconds,
        "seconds_from": None if estimate is None else estimate.source,
        "seconds_off_by": None if estimate is None else estimate.off_by,
        "trial": msgspec.to_builtins(trial),
    }
