"""`python -m harness logs TRIAL`: what a trial's process said."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.commands.arguments import add_results
from harness.core.errors import UserError
from harness.launch.tracking import logs_of

MOST = 20  # trials that are listed where a name fits several


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "trial", metavar="TRIAL", help='begin of a trial\'s id, or words of its name: "bacon digits"'
    )
    add_results(parser)
    parser.add_argument("--path", action="store_true", help="print where the logs are, not what they say")
    parser.add_argument("--tail", type=int, metavar="N", help="print the last N lines only")


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    return command(arguments.results, arguments.trial, path_only=arguments.path, tail=arguments.tail)


def command(results: Path, words: str, *, path_only: bool, tail: int | None) -> int:
    """Print the log of the one trial that `words` names, or the paths of all of them; returns 0.

    UserError if no log fits, or several do and contents are asked for.
    """
    if tail is not None and tail < 1:
        raise UserError(f"--tail {tail} is impossible; expected a whole number from 1 up")
    found = logs_of(results, words)
    if not found:
        raise UserError(
            f"no log of a trial {words!r} under {results}; expected the begin of an id as `status --trials` "
            "lists them, or words of a name such as 'bacon digits'"
        )
    if path_only:
        print("\n".join(str(path) for _, path in found))
        return 0
    if len(found) > 1:
        shown = "; ".join(f"{trial.id} {trial.label}" for trial, _ in found[:MOST])
        raise UserError(f"{len(found)} trials fit {words!r}, type the id of one, or --path: {shown}")
    path = found[0][1]
    print(path, file=sys.stderr)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    print("\n".join(lines if tail is None else lines[-tail:]))
    return 0
