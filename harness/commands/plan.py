"""What `plan` and the beginning of `run` say: what would run, what is there already, how long it may take."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness.commands.arguments import add_run_arguments, options_from
from harness.commands.estimate import TimeEstimate, from_records, measure, on_this_cpu
from harness.core import processor
from harness.core.text import MISSING, in_flops, plural, roughly, table
from harness.engine.devices import Device
from harness.engine.options import Options
from harness.engine.plan import Plan, check_data, finished, make_plan
from harness.engine.record_files import collect
from harness.engine.records import Record, Trial
from harness.engine.settings import RunSettings
from harness.launch.base import Launcher, Layout, Load, PlannedArray, load, set_is_there
from harness.launch.launchers import launcher_of, run_settings
from harness.report.standing import is_overspent, uncounted

STATES = ("done", "failed", "to run")


@dataclass(frozen=True)
class Preview:
    """A plan against what lies under the results folder; estimates are by `cell`, slots trials at a time.

    `settings` are those that its trials would run with; `making` are the ids of the waiting trials that make
    the sets they ask about, which others that wait share with them. `load` is what this machine had to do
    before anything was timed; None if trials run elsewhere.
    """

    plan: Plan
    states: Mapping[str, str]
    estimates: Mapping[str, TimeEstimate]
    device: Device
    settings: RunSettings
    slots: int = 1
    measuring_seconds: float = 0.0
    making: frozenset[str] = frozenset()
    load: Load | None = None

    @property
    def waiting(self) -> list[Trial]:
        """Trials that `run` would start now."""
        return [trial for trial in self.plan.trials if self.states[trial.id] == "to run"]

    @property
    def seconds(self) -> float | None:
        """Seconds for all waiting trials one after another; None unless each has an estimate."""
        known = [seconds for trial in self.waiting if (seconds := self.seconds_of(trial)) is not None]
        return sum(known) if len(known) == len(self.waiting) else None

    def seconds_of(self, trial: Trial) -> float | None:
        """Seconds that a waiting trial may take, its set included if it makes that; None without estimate."""
        estimate = self.estimates.get(trial.cell)
        if estimate is None:
            return None
        return estimate.seconds if trial.id in self.making else estimate.evaluating


def preview(plan: Plan, options: Options, launcher: Launcher, *, timing: bool) -> Preview:
    """Compare a plan with earlier records; with `timing`, time cells for which there are none.

    Not so for jobs of a cluster: steps on a login node tell nothing of those on its nodes.
    """
    known = collect(options.results).records
    records = finished(plan.trials, options.results, known)
    check_data(plan, records.values())
    states = {trial.id: _state(records.get(trial.id), options.retry) for trial in plan.trials}
    waiting = [trial for trial in plan.trials if states[trial.id] == "to run"]
    device = launcher.device(needed=bool(waiting))
    settings = run_settings(options, plan, device.name)
    shared = launcher.layout(settings, plan.trials) if waiting else Layout(1, None)
    on_cpu = launcher.here and device.name == "cpu"
    estimates = from_records(known, device.name, on_this_cpu(shared.threads) if on_cpu else None)
    unknown = [trial for trial in waiting if trial.cell not in estimates]
    took, busy = 0.0, load(shared) if waiting and launcher.here else None
    if timing and unknown and launcher.here:
        started = time.perf_counter()
        estimates |= measure(unknown, dataclasses.replace(settings, threads=shared.threads))
        took = time.perf_counter() - started
    making = _making(waiting, options.results)
    return Preview(plan, states, estimates, device, settings, shared.slots, took, making, busy)


def _making(waiting: Sequence[Trial], results: Path) -> frozenset[str]:
    """Ids of the waiting trials that make a set: the first for each that is not there."""
    first: dict[str, Trial] = {}
    for trial in waiting:
        first.setdefault(trial.distillation.id, trial)
    return frozenset(trial.id for trial in first.values() if not set_is_there(trial, results))


def headline(view: Preview) -> str:
    """One line: how many trials there are in which state, and how long the rest may take."""
    counts = Counter(view.states.values())
    failed = "" if not counts["failed"] else f", {counts['failed']} failed (again with --retry failed)"
    line = f"{plural(len(view.states), 'trial')}: {counts['done']} done{failed}, {counts['to run']} to run"
    line += f" ({' and '.join(view.plan.along)} planned along for gains)" if view.plan.along else ""
    sets = len({trial.distillation.id for trial in view.plan.trials})
    if sets < len(view.plan.trials) or len(view.making) < len(view.waiting):
        line += f" ({plural(sets, 'set')}: {sets - len(view.making)} there, {len(view.making)} to distil)"
    if view.seconds is None or not view.waiting:
        return line
    slots = min(view.slots, len(view.waiting))
    shared = f", {roughly(view.seconds / slots)} if {slots} at a time do not slow one another"
    return f"{line}, about {roughly(view.seconds)} one after another{shared if slots > 1 else ''}"


def warnings(plan: Plan) -> list[str]:
    """Lines about data that are read, but perhaps not as their owner thinks."""
    return [f"warning: {remark}" for remark in plan.remarks]


def advice(precision: str, device: str) -> list[str]:
    """Lines about wishes that can be had but will disappoint on this machine's device."""
    if precision == "bf16" and device == "cpu" and processor.multiplies_bf16() is False:
        return [
            "note: this CPU has no instructions for bfloat16 (AMX, AVX-512 BF16), so --precision bf16 may "
            "well be slower than fp32; `python -m harness perf step` tells"
        ]
    return []


def beyond_budget(view: Preview) -> list[str]:
    """A line about methods that will spend more than the budget, so far as estimates tell; else none."""
    spent: dict[str, float] = {}
    for trial in view.waiting:
        estimate = view.estimates.get(trial.cell)
        if trial.id in view.making and estimate and is_overspent(trial.budget_flops, estimate.flops):
            spent[trial.method] = max(estimate.flops or 0.0, spent.get(trial.method, 0.0))
    if not spent:
        return []
    told = ", ".join(f"{method} ({in_flops(flops)})" for method, flops in spent.items())
    return [
        f"note: beyond --budget, which does not cut what has to be there before the first step (a teacher, "
        f"say): {told}; tables will name them and not rank them"
    ]


def as_text(view: Preview) -> str:
    """The plan for people: a row for each cell, where settings and times come from, the headline."""
    groups: dict[str, list[Trial]] = {}
    for trial in view.plan.trials:
        groups.setdefault(trial.cell, []).append(trial)
    asked = _asked(view.plan.trials)
    headers = ("dataset", "method", *asked, "ipc", "seeds", *STATES, "time a trial", "time from")
    rows = [_row(view, key, trials, asked) for key, trials in groups.items()]
    return "\n".join(
        [
            *(
                table(headers, rows, text_columns=2 + len(asked)),
                "",
                *_settings(view.plan),
                *_about_times(view),
            ),
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
        "slowdown": None if view.load is None else view.load.slowdown,
    }
    return msgspec.json.encode(content).decode()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    add_run_arguments(parser)
    parser.add_argument("--no-estimate", action="store_true", help="do not time any steps")


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    options = options_from(arguments)
    launcher = launcher_of(options)
    launcher.check()
    plan = make_plan(options)
    view = preview(plan, options, launcher, timing=not arguments.no_estimate)
    about_device = advice(options.precision, view.device.name) if launcher.here else []
    for line in (*warnings(plan), *about_device, *beyond_budget(view)):
        print(line, file=sys.stderr)
    jobs = launcher.planned(plan.trials, view.waiting)
    if options.json:
        print(as_json(view, jobs))
    else:
        print("\n".join([as_text(view), *(line for array in jobs for line in array.as_lines())]))
    return 0


def _state(record: Record | None, retry: str | None) -> str:
    if record is None:
        return "to run"
    if record.status == "done":
        return "done"
    return "to run" if record.resumable or retry == "failed" else "failed"


def _asked(trials: Sequence[Trial]) -> dict[str, Callable[[Trial], str]]:
    """What is asked of the sets, so far as trials differ in it, by the heading of its column."""
    facts: dict[str, Callable[[Trial], str]] = {
        "network": lambda trial: trial.network,
        "protocol": lambda trial: trial.protocol,
    }
    return {name: fact for name, fact in facts.items() if len(set(map(fact, trials))) > 1}


def _row(
    view: Preview, key: str, trials: Sequence[Trial], asked: Mapping[str, Callable[[Trial], str]]
) -> list[str]:
    first = trials[0]
    counts = Counter(view.states[trial.id] for trial in trials)
    estimate = view.estimates.get(key)
    return [
        first.dataset,
        first.method,
        *(fact(first) for fact in asked.values()),
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
    if view.load is not None:
        lines += view.load.as_lines()
    return lines


def _entry(view: Preview, trial: Trial) -> dict[str, Any]:
    estimate = view.estimates.get(trial.cell)
    return {
        "id": trial.id,
        "state": view.states[trial.id],
        "seconds": None if estimate is None else estimate.seconds,
        "makes_set": trial.id in view.making,
        "seconds_from": None if estimate is None else estimate.source,
        "seconds_off_by": None if estimate is None else estimate.off_by,
        "distill_flops": None if estimate is None or uncounted(trial.method) else estimate.flops,
        "trial": msgspec.to_builtins(trial),
    }
