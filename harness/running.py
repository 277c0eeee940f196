"""`python -m harness run`: plan, launch, and the table that the user came for."""

from __future__ import annotations

import sys

import msgspec

from harness.launch import Summary, launch
from harness.options import Options
from harness.plan import make_plan
from harness.preview import advice, headline, launch_options, preview
from harness.report import summary_markdown


def command(options: Options) -> int:
    """Run the trials that are not done yet; returns 0 only if all of the plan's trials are done."""
    plan = make_plan(options)
    if not options.json:
        for line in (headline(preview(plan, options, timing=False)), *advice(options)):
            print(line, file=sys.stderr)
    summary = launch(plan.trials, launch_options(options, plan))
    print(as_json(summary, options) if options.json else as_text(summary, options))
    return summary.exit_status


def as_text(summary: Summary, options: Options) -> str:
    """The tables, where the files are and what to type next."""
    done = summary_markdown(summary.records) if summary.records else "no records yet"
    return "\n".join(
        [
            done.rstrip("\n"),
            "",
            f"Records and distilled sets: {options.results}/",
            f"Report: python -m harness report --results {options.results}",
        ]
    )


def as_json(summary: Summary, options: Options) -> str:
    """One JSON object with the records."""
    content = {
        "results": str(options.results),
        "counts": dict(summary.counts),
        "exit_status": summary.exit_status,
        "records": summary.records,
    }
    return msgspec.json.encode(content).decode()
