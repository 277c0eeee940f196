"""`python -m harness run`: plan, launch, and the table that the user came for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

import methods
from harness.launch.base import LaunchOptions, Summary
from harness.launch.driver import launch
from harness.launch.sweep import Sweep, open_sweep
from harness.options import Options
from harness.plan import Plan, make_plan
from harness.preview import Preview, advice, headline, launch_options, preview, warnings
from harness.report import summary_markdown

if TYPE_CHECKING:
    from harness.launch.slurm import SlurmLauncher


def command(options: Options) -> int:
    """Run the trials that are not done yet; returns 0 only if all of the plan's trials are done."""
    summary = carry_out(options, make_plan(options))
    print(as_json(summary, options) if options.json else as_text(summary, options))
    return summary.exit_status


def carry_out(options: Options, plan: Plan) -> Summary:
    """Run a plan and tell on stderr how it goes, unless JSON alone is asked for."""
    view = preview(plan, options, timing=False)
    for name in sorted({trial.method for trial in view.waiting}):
        methods.load(name)  # planning reads settings alone: a file that cannot be imported is found out here
    for line in warnings(plan) if options.json else (*warnings(plan), headline(view), *advice(options)):
        print(line, file=sys.stderr)
    settings = launch_options(options, plan)
    sweep = open_sweep(plan.trials, options.results, options.launcher)
    return launch(plan.trials, settings, _cluster(view, settings, options, sweep))


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


def as_text(summary: Summary, options: Options) -> str:
    """The tables, where the files are and what to type next."""
    done = summary_markdown(summary.records) if summary.records else "no records yet"
    return "\n".join(
        [
            done.rstrip("\n"),
            "",
            f"Records and distilled sets: {options.results}/",
            f"Report: python -m harness report --results {options.results}",
            *(_following(options) if options.launcher == "slurm" else []),
        ]
    )


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
