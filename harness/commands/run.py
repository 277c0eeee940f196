"""`python -m harness run`: plan, launch, and the table that the user came for."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import methods
from harness.commands.arguments import (
    add_options,
    options_from,
)
from harness.commands.plan import Preview, advice, headline, launch_options, preview, settled, warnings
from harness.core.errors import UserError
from harness.core.text import plural
from harness.engine.options import Options, given_options
from harness.engine.plan import Plan, make_plan
from harness.engine.records import Trial
from harness.launch.base import LaunchOptions, Summary
from harness.launch.check import check_launch
from harness.launch.sweep import Sweep, open_sweep

SHOWN = 3  # trials that are named

if TYPE_CHECKING:
    import pandas as pd

    from harness.launch.slurm import SlurmLauncher


@dataclass(frozen=True)
class Outcome:
    """What a run planned and what became of it."""

    plan: Plan
    summary: Summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "sweep",
        nargs="?",
        type=Path,
        metavar="SWEEP.toml",
        help="file with the same options; those typed win",
    )
    add_options(parser)


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    return command(options_from(arguments), arguments.again)


def command(options: Options, again: str, deadline: float | None = None) -> int:
    """Run the trials that are not done yet; returns 0 only if all of the plan's trials are done.

    `again` is what to type to go on. `deadline`, as `time.monotonic` has it, stands for that of `--for`.
    """
    outcome = carry_out(options, deadline_of(options) if deadline is None else deadline)
    summary = outcome.summary
    if options.json:
        print(as_json(summary, options))
    else:
        show(summary, options)
    if summary.left and not options.json:
        sys.stdout.flush()
        print(f"{left_line(outcome, options)}; go on: {again}", file=sys.stderr)
    return summary.exit_status


def deadline_of(options: Options) -> float:
    """When the time of `--for` is up if it begins now."""
    return math.inf if options.for_ is None else time.monotonic() + options.for_


def carry_out(options: Options, deadline: float = math.inf, plan: Plan | None = None) -> Outcome:
    """Run a plan, by default that of the options; stderr tells how it goes unless JSON alone is asked for."""
    from harness.launch.driver import launch

    check_launch(options)
    plan = plan or make_plan(options)
    view = preview(plan, options, timing=False)
    for name in sorted({trial.method for trial in view.waiting}):
        methods.load(name)  # a plan to renew is made from records alone: a broken file is found out here
    options = settled(options, view.device)
    first = _first(view, options)
    about = (str(view.device), headline(view), *_about_order(first, options), *advice(options))
    for line in (*warnings(plan), *(() if options.json else about)):
        print(line, file=sys.stderr)
    settings = replace(launch_options(options, plan), deadline=deadline)
    sweep = open_sweep(plan.trials, options.results, options.launcher)
    summary = launch(plan.trials, settings, _cluster(view, settings, options, sweep), first)
    return Outcome(plan, summary)


def sweep_frame(given: Mapping[str, Any], file: str | os.PathLike[str] | None) -> pd.DataFrame:
    """Run a sweep in this process and return its records as a frame; see `harness.run`."""
    from harness.report.frames import trials_frame

    options = given_options(given, None if file is None else Path(file))
    if options.json:
        raise UserError("json is for the command line: what is returned here is a frame; leave it out")
    outcome = carry_out(options, deadline_of(options))
    if outcome.summary.interrupted:
        raise KeyboardInterrupt
    if outcome.summary.left:
        print(f"{left_line(outcome, options)}; the same call goes on", file=sys.stderr)
    return trials_frame(outcome.plan.trials, outcome.summary.records)


def left_line(outcome: Outcome, options: Options) -> str:
    """What a run left when its time was up: `left: 3 of 4 trials, 1 of them begun`."""
    left = outcome.summary.left
    begun = sum(trial.work_folder(options.results).is_dir() for trial in left)
    return f"left: {len(left)} of {plural(len(outcome.plan.trials), 'trial')}, {begun} of them begun"


def _first(view: Preview, options: Options) -> list[Trial]:
    """The waiting trials that are to be begun before the others, in order."""
    if options.priority != "value" or not view.waiting:
        return []
    from harness.commands.priority import by_value

    return by_value(view.waiting, view.estimates, options.results, on_gpu=view.device.name != "cpu")


def _about_order(first: Sequence[Trial], options: Options) -> list[str]:
    if options.priority != "value":
        return []
    if not first:
        return [
            "order: no waiting trial fills a cell of the paper's tables, so the plan's (cheap ones first)"
        ]
    shown = ", ".join(trial.label for trial in first[:SHOWN])
    return [f"order: by value, {len(first)} that fill the paper's tables first: {shown}, ..."]


def _cluster(view: Preview, settings: LaunchOptions, options: Options, sweep: Sweep) -> SlurmLauncher | None:
    """The launcher of jobs, once the cluster has agreed to run them; None for a launcher of this machine."""
    if options.launcher != "slurm":
        return None
    from harness.launch.queue import array_limit
    from harness.launch.resources import arrays
    from harness.launch.slurm import SlurmLauncher
    from harness.launch.submission import check_cluster

    if view.waiting:
        check_cluster(arrays(view.waiting, options, array_limit()), sweep, options.results)
    return SlurmLauncher(settings, options, sweep)


def show(summary: Summary, options: Options) -> None:
    """Print the table, where the files are and what to type next."""
    from harness.report.compact import print_summary

    where = [
        f"Records and distilled sets: {options.results}/",
        f"Costs, intervals, ranks: python -m harness report --results {options.results}",
        *(_following(options) if options.launcher == "slurm" else []),
    ]
    print_summary(summary.records, options.results, where)


def _following(options: Options) -> list[str]:
    where = f"--results {options.results}"
    return [
        f"Jobs go on without this command; follow them: python -m harness status --watch {where}",
        f"End them: python -m harness cancel {where}",
    ]


def as_json(summary: Summary, options: Options) -> str:
    """One JSON object with the records."""
    content = {
        "results": str(options.results),
        "counts": dict(summary.counts),
        "exit_status": summary.exit_status,
        "records": summary.records,
    }
    return msgspec.json.encode(content).decode()
