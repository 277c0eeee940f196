"""`python -m harness perf check|step`: the speed gate, and whole steps beside plain loops."""

from __future__ import annotations

import argparse

from harness.core.text import comma_separated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "what",
        metavar="check|step",
        help="the gate: fail if this code is slower than earlier code; or whole steps beside plain loops",
    )
    parser.add_argument(
        "--against",
        metavar="REV",
        help="git revision that the gate compares with (default: the commit in tests/perf/REFERENCE)",
    )
    parser.add_argument(
        "--cases",
        type=comma_separated,
        default=(),
        metavar="A,B",
        help="only these of the gate's cases, such as pool or 'descend-bacon-*'",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda, for whole steps (auto)")
    parser.add_argument("--methods", default="", metavar="NAMES", help="whose steps, comma-separated")
    parser.add_argument("--precision", default="", metavar="NAMES", help="fp32, bf16 or both (default both)")
    parser.add_argument("--profile", action="store_true", help="show where the time of each step goes")
    parser.add_argument("--keep", action="store_true", help="keep the figures of steps for BENCHMARKS.md")


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    from harness.perf import command

    return command(
        arguments.what,
        device=arguments.device,
        methods=tuple(filter(None, arguments.methods.split(","))),
        precisions=tuple(filter(None, arguments.precision.split(","))),
        keep=arguments.keep,
        profiled=arguments.profile,
        against=arguments.against,
        cases=arguments.cases,
    )
