"""The command line: parses and hands over. A command's file is imported when its name is typed."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn, TextIO

from harness import __version__
from harness.commands.terminal import replace_what_it_lacks
from harness.core import faults, imports
from harness.core.errors import UnknownNameError, UserError

PROGRAM = "python -m harness"
USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141

# Each has a file of its name here, with `add_arguments(parser)` and `handle(arguments)`.
COMMANDS = {
    "run": "Distil, evaluate and print the table; goes on where an earlier run stopped.",
    "plan": "Say what a run would do, what is done already and how long it takes.",
    "evaluate": "Ask sets that were distilled how well they serve other networks and protocols.",
    "list": "List methods, datasets, networks, protocols or scales.",
    "status": "Say what lies under a results folder.",
    "cancel": "End the jobs of a sweep on a cluster.",
    "logs": "Print the log of a trial.",
    "renew": "Measure anew what is not of the present code; keeps the old.",
    "report": "Print and write the tables; rewrite or check BENCHMARKS.md.",
    "compare": "Compare two methods, results folders or git revisions: differences with intervals, costs.",
    "paper": "Print the BACON paper's tables, ours beside the printed figures; list or run what is missing.",
    "check": "Check that a method keeps its contract, on made-up data.",
    "show": "Draw distilled sets as a picture.",
    "plot": "Draw the figures of the records as PNG and SVG.",
    "submit": "Check and evaluate a distilled set that somebody else made, its claim beside our measurement.",
    "export": "Write distilled sets as other benchmarks' evaluators read them: submit the other way round.",
    "perf": "Compare the speed of this code with earlier code, or of whole steps with plain loops.",
}

# Commands whose help says of options that their values come "from the scale", and where to look these up.
FROM_SCALE = f"(from the scale): `{PROGRAM} list scales` shows what each scale asks for."
SCALED = dict.fromkeys(("run", "plan", "evaluate", "paper", "submit"), FROM_SCALE)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UserError instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        """Turn argparse's complaint into ours."""
        raise UserError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Mistakes and circumstances are one line on stderr."""
    replace_what_it_lacks()
    try:
        imports.claim()
        status = _dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except UserError as error:
        return _ended(" ".join(str(error).split()))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _silence(sys.stdout)
        return BROKEN_PIPE
    except OSError as error:
        return _ended(f"{error.strerror or error}: {error.filename or 'writing'}")
    except Exception as error:
        fault = faults.passing(error)
        if fault is None:
            raise
        return _ended(fault + _where_it_is(error))
    return status


def _where_it_is(error: Exception) -> str:
    """What to type where a package is missing in a checkout: most likely this is not its own Python."""
    if not isinstance(error, ModuleNotFoundError) or not (imports.ROOT / "Makefile").is_file():
        return ""
    return "; is this the Python of .venv? `make .venv/installed`, then `.venv/bin/python -m harness ...`"


def _ended(reason: str) -> int:
    """Say in one line why the command ended; the disk that is full may be the one that stderr goes to."""
    for stream, text in ((sys.stderr, f"error: {reason}\n"), (sys.stdout, "")):
        try:
            stream.write(text)
            stream.flush()
        except OSError:
            _silence(stream)
    return USER_ERROR


def _silence(stream: TextIO) -> None:
    """Drop what cannot be written: Python would complain once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _dispatch(argv: Sequence[str]) -> int:
    command, arguments = parse(argv)
    status: int = command.handle(arguments)
    return status


def parse(argv: Sequence[str]) -> tuple[ModuleType, argparse.Namespace]:
    """The command's module and its arguments; UserError for mistakes, SystemExit after help or version."""
    name = argv[0] if argv else ""
    if name and not name.startswith("-") and name not in COMMANDS:
        raise UnknownNameError("command", name, COMMANDS)
    parser, commands = build_parser()
    if name not in COMMANDS:
        parser.parse_args(argv)  # prints the help or the version, or says that a command is missing
    command = importlib.import_module(f"harness.commands.{name}")
    command.add_arguments(commands[name])
    arguments, surplus = parser.parse_known_args(argv, argparse.Namespace(again=_again(argv)))
    if surplus:
        from harness.engine.options import nearest_flag_error  # reads TOML, which Python 3.10 cannot alone

        flags = re.findall(r"--[a-z-]+", commands[name].format_usage())
        raise nearest_flag_error(next((word for word in surplus if word.startswith("-")), surplus[0]), flags)
    return command, arguments


def _again(argv: Sequence[str]) -> str:
    """The command to type to do the same again: as it was typed, whichever Python and program that was."""
    typed = sys.orig_argv if argv == sys.argv[1:] else ["python", "-m", "harness", *argv]
    return shlex.join(typed)


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser and, by name, those of its commands, which have no arguments yet."""
    parser = Parser(
        prog=PROGRAM,
        description="Benchmark of dataset distillation: distil, evaluate and compare under one protocol.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"distillation-harness {__version__}")
    group = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    return parser, {
        name: group.add_parser(
            name, help=about, description=about, epilog=SCALED.get(name), allow_abbrev=False
        )
        for name, about in COMMANDS.items()
    }
