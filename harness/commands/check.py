"""`python -m harness check METHOD`: whether a method keeps its contract, on made-up data."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "method", nargs="?", metavar="METHOD", help="name of a method, see `list methods`; all without one"
    )
    parser.add_argument("--quick", action="store_true", help="leave out the shapes of the real datasets")


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    from harness.commands.conformance import command

    return command(arguments.method, quick=arguments.quick)
