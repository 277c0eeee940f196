"""`python -m harness report`: tables of the records, one rank over all, BENCHMARKS.md, the leaderboard."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.arguments import METAVARS, add_json, add_results
from harness.core.errors import UserError
from harness.core.text import comma_separated
from harness.engine.options import flag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    add_results(parser)
    parser.add_argument("--check", action="store_true", help="fail unless BENCHMARKS.md fits the records")
    parser.add_argument(
        "--benchmarks",
        type=Path,
        metavar="FILE",
        help="the page to write or check (beside the results folder)",
    )
    parser.add_argument(
        "--summary",
        action="store_true",
        help="print one rank over all datasets, ipc and protocols of a scale, and write nothing",
    )
    parser.add_argument(
        "--site", type=Path, metavar="FOLDER", help="write the web leaderboard into this folder instead"
    )
    add_filters(parser)
    add_json(parser)


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    from dataclasses import fields

    from harness.report.filters import Filters
    from harness.report.publish import command

    filters = Filters(**{field.name: getattr(arguments, field.name) for field in fields(Filters)})
    if arguments.summary:
        from harness.report.summary import command as summarise

        if arguments.check or arguments.benchmarks is not None or arguments.site is not None:
            raise UserError("--summary prints ranks only; leave out --check, --benchmarks and --site")
        return summarise(arguments.results, filters, as_json=arguments.json)
    if arguments.site is not None:
        from harness.report.site.build import command as build_site

        if arguments.check or arguments.benchmarks is not None or arguments.json:
            raise UserError("--site writes the web leaderboard only; leave out --check, --benchmarks, --json")
        return build_site(arguments.results, arguments.site, filters)
    return command(
        arguments.results,
        check=arguments.check,
        benchmarks=arguments.benchmarks,
        as_json=arguments.json,
        filters=filters,
    )


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Options of reports on some of the records, which touch no page."""
    for name in ("dataset", "ipc", "methods", "arch", "eval_arch", "protocol", "scale"):
        parser.add_argument(
            flag(name),
            type=comma_separated,
            default=(),
            metavar=METAVARS.get(name, "A,B"),
            help="only these: the tables go into report/filtered, and no page is touched",
        )
