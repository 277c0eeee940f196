"""`python -m harness cancel SWEEP`: end the jobs of a sweep on a cluster."""

from __future__ import annotations

import argparse

from harness.commands.arguments import add_results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "sweep", nargs="?", metavar="SWEEP", help="id of a sweep, see `status`; the one with jobs without it"
    )
    add_results(parser)


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    from harness.launch.tracking import cancel, sweep_named

    sweep = sweep_named(arguments.results, arguments.sweep)
    print(f"sweep {sweep.id}: ended {cancel(sweep)} jobs; records stay, the same command goes on")
    return 0
