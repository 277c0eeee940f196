"""`python -m harness submit FILE`: check and evaluate a set that somebody else made."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    from harness.submit.request import add_arguments

    add_arguments(parser)


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    from harness.submit.command import command
    from harness.submit.request import request_from

    return command(request_from(arguments))
