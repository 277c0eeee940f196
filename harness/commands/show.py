"""`python -m harness show SETS`: distilled sets as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="distilled sets (.safetensors)")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PICTURE", help="the PNG to write"
    )


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    from harness.report.gallery import command

    return command(arguments.files, arguments.output)
