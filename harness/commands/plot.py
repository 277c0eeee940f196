"""`python -m harness plot`: the figures of the records."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.arguments import add_results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    add_results(parser)
    parser.add_argument(
        "--kind",
        default="",
        metavar="NAMES",
        help="of ipc, flops, seconds, memory, curve, classes, networks, gallery, compare and nearest (all)",
    )
    parser.add_argument("--dataset", default="", metavar="A,B", help="of these datasets only")
    parser.add_argument("--methods", default="", metavar="A,B", help="of these methods only")
    parser.add_argument("--scale", default="", metavar="A,B", help="of these scales only")
    parser.add_argument("--ipc", default="", metavar="N,N", help="of these images per class only")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where datasets lie, for the nearest images")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="where figures go (DIR/report/plots)"
    )


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    from harness.report.plots import command, selection_of

    typed = {name: getattr(arguments, name) for name in ("kind", "dataset", "methods", "scale", "ipc")}
    return command(selection_of(**typed), arguments.results, arguments.output, arguments.data)
