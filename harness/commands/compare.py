"""`python -m harness compare A B`: two methods, two results folders or two git revisions."""

from __future__ import annotations

import argparse

from harness.commands.arguments import add_json, add_results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    what = "a method, a results folder, or a git revision (REV or REV:FOLDER)"
    parser.add_argument("a", metavar="A", help=f"{what}; differences are A - B")
    parser.add_argument("b", metavar="B", help="another of the same kind")
    add_results(parser)
    add_json(parser)
    parser.add_argument(
        "--fail-below",
        type=_points,
        metavar="POINTS",
        help="a gate, A the baseline and B the candidate: exit with 1 if B is worse than A by more than so "
        "many percentage points in any cell, with the whole 95 %% interval",
    )


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    from harness.report.compare import command

    return command(
        arguments.a,
        arguments.b,
        arguments.results,
        as_json=arguments.json,
        fail_below=arguments.fail_below,
    )


def _points(text: str) -> float:
    try:
        points = float(text)
    except ValueError:
        points = -1.0
    if not 0 <= points <= 100:
        raise argparse.ArgumentTypeError(f"{text}: expected percentage points from 0 to 100, e.g. 1.0")
    return points
