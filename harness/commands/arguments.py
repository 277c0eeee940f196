"""Options that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.engine.options import Options, flag, option_infos, parse_options

METAVARS = {
    "methods": "A,B",
    "ipc": "N,N",
    "dataset": "A,B",
    "seeds": "N",
    "evals": "N",
    "arch": "NAME",
    "eval_arch": "A,B",
    "protocol": "A,B",
    "budget": "FLOPS",
    "set": "METHOD.KEY=VALUE",
    "image_size": "PIXELS",
    "slots": "N",
    "threads": "N",
    "results": "DIR",
    "data": "DIR",
    "retry": "failed",
    "retries": "N",
    "for_": "TIME",
    "priority": "plan|value",
    "curve": "N",
    "slots_per_gpu": "N",
    "profile": "NAME",
    "partition": "NAME",
    "time": "TIME",
    "gpus": "N",
    "cpus": "N",
    "mem": "SIZE",
    "account": "NAME",
    "qos": "NAME",
    "array_parallelism": "N",
    "trials_per_job": "N",
    "setup": "COMMAND",
    "slurm": "KEY=VALUE",
    "resources": "METHOD.KEY=VALUE",
}


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """A file of options, and all options of `run`."""
    parser.add_argument(
        "sweep",
        nargs="?",
        type=Path,
        metavar="SWEEP.toml",
        help="file with the same options; those typed win",
    )
    add_options(parser)


def add_options(
    parser: argparse.ArgumentParser,
    leave_out: Sequence[str] = (),
    other_help: Mapping[str, str] | None = None,
) -> None:
    """Add the options of `run` but for some, described otherwise where they mean something else."""
    for name, info in option_infos().items():
        if name in leave_out:
            continue
        about = (other_help or {}).get(name, info.help)
        if info.switch:
            switch = argparse.BooleanOptionalAction
            parser.add_argument(flag(name), action=switch, dest=name, default=argparse.SUPPRESS, help=about)
        else:
            parser.add_argument(
                flag(name),
                action="append" if info.repeatable else "store",
                dest=name,
                default=argparse.SUPPRESS,
                metavar=METAVARS.get(name, name.upper()),
                help=about,
            )


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add `--results`, the folder of the records."""
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="where records lie"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def typed_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of `run` that were typed, by name."""
    known = option_infos()
    return {name: value for name, value in vars(arguments).items() if name in known}


def options_from(arguments: argparse.Namespace) -> Options:
    """The options that were typed and those of the file that was named."""
    return parse_options(typed_options(arguments), arguments.sweep)
