"""`python -m harness run`: plan, launch, and the table that the user came for."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import methods
from harness.commands.arguments import add_run_arguments, options_from
from harness.commands.plan import Preview, advice, beyond_budget, headline, preview, warnings
from harness.core.errors import UserError
from harness.core.text import plural
from harness.engine.options import Options, given_options
from harness.engine.plan import Plan, make_plan
from harness.engine.records import Trial
from harness.launch.base import Summary
from harness.launch.launchers import launcher_of
from harness.launch.sweep import open_sweep

SHOWN = 3  # trials that are named

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Outcome:
    """What a run planned and what became of it; `following` says how to see what still goes on."""

    plan: Plan
    summary: Summary
    following: Sequence[str] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    add_run_arguments(parser)


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    return command(options_from(arguments), arguments.again)


def command(options: Options, again: str, deadline: float | None = None) -> int:
    """Run the trials that are not done yet; returns 0 only if all of the plan's trials are done.

    `again` is what to type to go on. `deadline`, as `time.monotonic` has it, stands for that of `--for`.
    """
    return finish(
        carry_out(options, deadline_in(options.for_) if deadline is None else deadline), options, again
    )


def finish(outcome: Outcome, options: Options, again: str) -> int:
    """Print what came of a run, and the command that goes on; returns the exit status."""
    summary = outcome.summary
    if options.json:
        print(as_json(summary, options.results))
    else:
        show(outcome, options.results)
    if summary.left and not options.json:
        sys.stdout.flush()
        print(f"{left_line(outcome, options.results)}; go on: {again}", file=sys.stderr)
    return summary.exit_status


def deadline_in(seconds: float | None) -> float | None:
    """When the time of `--for` is up if it begins now; None: never."""
    return None if seconds is None else time.monotonic() + seconds


def carry_out(options: Options, deadline: float | None = None, plan: Plan | None = None) -> Outcome:
    """Run a plan, by default that of the options; stderr tells how it goes unless JSON alone is asked for."""
    from harness.launch.driver import launch

    launcher = launcher_of(options)
    launcher.check()
    plan = plan or make_plan(options)
    view = preview(plan, options, launcher, timing=False)
    for name in sorted({trial.method for trial in view.waiting if trial.id in view.making}):
        methods.load(name)  # a plan to renew is made from records alone: a broken file is found out here
    by_value = options.priority == "value"
    first = _most_valuable(view) if by_value else []
    about_device = advice(options.precision, view.device.name) if launcher.here else []
    notes = (*about_device, *beyond_budget(view))
    about = (str(view.device), headline(view), *(_about_order(first) if by_value else ()), *notes)
    for line in (*warnings(plan), *(() if options.json else about)):
        print(line, file=sys.stderr)
    open_sweep(plan.trials, options.results, options.launcher)
    summary = launch(plan.trials, replace(view.settings, deadline=deadline), launcher, first)
    return Outcome(plan, summary, launcher.following())


def sweep_frame(given: Mapping[str, Any], file: str | os.PathLike[str] | None) -> pd.DataFrame:
    """Run a sweep in this process and return its records as a frame; see `harness.run`."""
    from harness.report.frames import trials_frame

    options = given_options(given, None if file is None else Path(file))
    if options.json:
        raise UserError("json is for the command line: what is returned here is a frame; leave it out")
    outcome = carry_out(options, deadline_in(options.for_))
    if outcome.summary.interrupted:
        raise KeyboardInterrupt
    if outcome.summary.left:
        print(f"{left_line(outcome, options.results)}; the same call goes on", file=sys.stderr)
    return trials_frame(outcome.plan.trials, outcome.summary.records)


def left_line(outcome: Outcome, results: Path) -> str:
    """What a run left when its time was up: `left: 3 of 4 trials, 1 of them begun`."""
    left = outcome.summary.left
    begun = sum(trial.work_folder(results).is_dir() for trial in left)
    return f"left: {len(left)} of {plural(len(outcome.plan.trials), 'trial')}, {begun} of them begun"


def _most_valuable(view: Preview) -> list[Trial]:
    """The waiting trials that `--priority value` begins before the others, in order."""
    if not view.waiting:
        return []
    from harness.commands.priority import by_value

    return by_value(
        view.waiting,
        view.estimates,
        view.settings.results,
        on_gpu=view.device.name != "cpu",
        making=view.making,
    )


def _about_order(first: Sequence[Trial]) -> list[str]:
    if not first:
        return [
            "order: no waiting trial fills a cell of the paper's tables, so the plan's (cheap ones first)"
        ]
    shown = ", ".join(trial.label for trial in first[:SHOWN])
    return [f"order: by value, {len(first)} that fill the paper's tables first: {shown}, ..."]


def show(outcome: Outcome, results: Path) -> None:
    """Print the table, where the files are and what to type next."""
    from harness.report.compact import print_summary

    where = [
        f"Records and distilled sets: {results}/",
        f"Costs, intervals, ranks: python -m harness report --results {results}",
        *outcome.following,
    ]
    print_summary(outcome.summary.records, results, where)


def as_json(summary: Summary, results: Path) -> str:
    """One JSON object with the records."""
    content = {
        "results": str(results),
        "counts": dict(summary.counts),
        "exit_status": summary.exit_status,
        "records": summary.records,
    }
    return msgspec.json.encode(content).decode()
