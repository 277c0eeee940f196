"""The command line: parses arguments and hands over. What takes long to import is imported by its command."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TextIO

from harness import __version__, faults, imports
from harness.errors import UnknownNameError, UserError
from harness.options import Options, flag, nearest_flag_error, option_infos, parse_options
from harness.terminal import replace_what_it_lacks

USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141

Command = Callable[[argparse.Namespace], int]


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
        return _ended(fault)
    return status


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
    parser, commands = build_parser()
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        raise UnknownNameError("command", argv[0], commands)
    arguments, surplus = parser.parse_known_args(argv, argparse.Namespace(again=_again(argv)))
    if surplus:
        flags = re.findall(r"--[a-z-]+", commands[arguments.command].format_usage())
        raise nearest_flag_error(next((word for word in surplus if word.startswith("-")), surplus[0]), flags)
    run: Command = arguments.handler
    return run(arguments)


def _again(argv: Sequence[str]) -> str:
    """The command to type to do the same again: as it was typed, whichever Python and program that was."""
    typed = sys.orig_argv if argv == sys.argv[1:] else ["python", "-m", "harness", *argv]
    return shlex.join(typed)


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser and, by name, those of its commands."""
    parser = Parser(
        prog="python -m harness",
        description="Benchmark of dataset distillation: distil, evaluate and compare under one protocol.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"distillation-harness {__version__}")
    group = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands = {
        name: group.add_parser(name, help=about, description=about, allow_abbrev=False)
        for name, (about, _, _) in COMMANDS.items()
    }
    for name, (_, add_arguments, handler) in COMMANDS.items():
        add_arguments(commands[name])
        commands[name].set_defaults(handler=handler)
    return parser, commands


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sweep",
        nargs="?",
        type=Path,
        metavar="SWEEP.toml",
        help="file with the same options; those typed win",
    )
    _add_options(parser)


def _add_options(
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


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser)
    parser.add_argument("--no-estimate", action="store_true", help="do not time any steps")


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="methods|datasets|archs|protocols", help="what to list")
    parser.add_argument("name", nargs="?", metavar="METHOD", help="a method, to list its settings")
    _add_json(parser)


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    _add_results(parser)
    _add_json(parser)
    parser.add_argument("--trials", action="store_true", help="list each trial of the open sweeps")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=5.0,
        metavar="SECONDS",
        help="show it again every so often (5 s) until nothing is open",
    )


def _cancel_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sweep", nargs="?", metavar="SWEEP", help="id of a sweep, see `status`; the one with jobs without it"
    )
    _add_results(parser)


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "trial", metavar="TRIAL", help='begin of a trial\'s id, or words of its name: "bacon digits"'
    )
    _add_results(parser)
    parser.add_argument("--path", action="store_true", help="print where the logs are, not what they say")
    parser.add_argument("--tail", type=int, metavar="N", help="print the last N lines only")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise ValueError
    return seconds


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    _add_results(parser)
    parser.add_argument("--check", action="store_true", help="fail unless BENCHMARKS.md fits the records")
    parser.add_argument(
        "--benchmarks",
        type=Path,
        metavar="FILE",
        help="the page to write or check (beside the results folder)",
    )
    parser.add_argument(
        "--site", type=Path, metavar="FOLDER", help="write the web leaderboard into this folder instead"
    )
    _add_filters(parser)
    _add_json(parser)


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "method", nargs="?", metavar="METHOD", help="name of a method, see `list methods`; all without one"
    )
    parser.add_argument("--quick", action="store_true", help="leave out the shapes of the real datasets")


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="distilled sets (.safetensors)")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PICTURE", help="the PNG to write"
    )


def _paper_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--missing",
        action="store_true",
        help="print the commands that fill the empty cells, with estimated GPU-hours",
    )
    parser.add_argument(
        "--run", metavar="TABLE", help="run what a table lacks: main, cross, terms, lambda or cost"
    )
    decided = ("scale", "set", "arch", "protocol", "budget", "zca", "image_size", "precision", "curve")
    only = "only cells of these"
    filters = {"methods": f"{only} methods", "dataset": f"{only} datasets", "ipc": f"{only} images per class"}
    _add_options(parser, decided, filters)


def _renew_arguments(parser: argparse.ArgumentParser) -> None:
    recorded = ("seeds", "evals", "protocol", "budget", "set", "curve", "zca", "image_size", "precision")
    only = "only records of"
    filters = {
        "methods": f"{only} these methods",
        "dataset": f"{only} these datasets; folder:PATH says where one lies",
        "ipc": f"{only} these images per class",
        "arch": f"{only} this network",
        "scale": f"{only} this scale",
    }
    _add_options(parser, (*recorded, "json"), filters)


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    what = "a method, a results folder, or a git revision (REV or REV:FOLDER)"
    parser.add_argument("a", metavar="A", help=f"{what}; the baseline")
    parser.add_argument("b", metavar="B", help="another of the same kind; the candidate")
    _add_results(parser)
    _add_json(parser)
    parser.add_argument(
        "--fail-below",
        type=_points,
        metavar="POINTS",
        help="exit with 1 if the candidate B is worse than the baseline A by more than so many percentage "
        "points in any cell, with the whole 95 %% interval",
    )


def _points(text: str) -> float:
    try:
        points = float(text)
    except ValueError:
        points = -1.0
    if not 0 <= points <= 100:
        raise argparse.ArgumentTypeError(f"{text}: expected percentage points from 0 to 100, e.g. 1.0")
    return points


def _plot_arguments(parser: argparse.ArgumentParser) -> None:
    _add_results(parser)
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


def _submit_arguments(parser: argparse.ArgumentParser) -> None:
    from harness.submit.request import add_arguments

    add_arguments(parser)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sets", nargs="+", type=Path, metavar="SET", help="distilled sets of this harness (.safetensors)"
    )
    parser.add_argument(
        "--format",
        required=True,
        metavar="NAME",
        help="dc, npz, imagefolder or safetensors; dc holds several",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUTPUT", help="the file or folder to write"
    )
    parser.add_argument(
        "--labels", default="stored", metavar="HOW", help="stored, or hard: the highest of each row (stored)"
    )
    parser.add_argument(
        "--tiles", metavar="HOW", help="of images that are grids of several: decode them, or keep the grids"
    )


def _perf_arguments(parser: argparse.ArgumentParser) -> None:
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
        type=_names,
        default=(),
        metavar="A,B",
        help="only these of the gate's cases, such as pool or 'descend-bacon-*'",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda, for whole steps (auto)")
    parser.add_argument("--methods", default="", metavar="NAMES", help="whose steps, comma-separated")
    parser.add_argument("--precision", default="", metavar="NAMES", help="fp32, bf16 or both (default both)")
    parser.add_argument("--keep", action="store_true", help="keep the figures of steps for BENCHMARKS.md")


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="where records lie"
    )


def _add_filters(parser: argparse.ArgumentParser) -> None:
    """Options of reports on some of the records, which touch no page."""
    for name in ("dataset", "ipc", "methods", "arch", "scale"):
        parser.add_argument(
            flag(name),
            type=_names,
            default=(),
            metavar=METAVARS.get(name, "A,B"),
            help="only these: the tables go into report/filtered, and no page is touched",
        )


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in map(str.strip, text.split(",")) if name))


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def _options(arguments: argparse.Namespace) -> Options:
    known = option_infos()
    typed = {name: value for name, value in vars(arguments).items() if name in known}
    return parse_options(typed, arguments.sweep)


def _run(arguments: argparse.Namespace) -> int:
    from harness.running import command

    return command(_options(arguments), arguments.again)


def _plan(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    from harness.plan import make_plan
    from harness.preview import command

    return command(make_plan(options), options, timing=not arguments.no_estimate)


def _list(arguments: argparse.Namespace) -> int:
    from harness.listing import command

    return command(arguments.what, arguments.name, as_json=arguments.json)


def _status(arguments: argparse.Namespace) -> int:
    from harness.status import command

    return command(arguments.results, as_json=arguments.json, trials=arguments.trials, watch=arguments.watch)


def _cancel(arguments: argparse.Namespace) -> int:
    from harness.launch.tracking import cancel, sweep_named

    sweep = sweep_named(arguments.results, arguments.sweep)
    print(f"sweep {sweep.id}: ended {cancel(sweep)} jobs; records stay, the same command goes on")
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    from harness.logs import command

    return command(arguments.results, arguments.trial, path_only=arguments.path, tail=arguments.tail)


def _report(arguments: argparse.Namespace) -> int:
    from dataclasses import fields

    from harness.report import command
    from harness.report.filters import Filters

    filters = Filters(**{field.name: getattr(arguments, field.name) for field in fields(Filters)})
    if arguments.site is not None:
        from harness.report.site.build import command as build_site

        if arguments.check or arguments.benchmarks is not None or arguments.json:
            raise UserError("--site writes the web leaderboard only; leave out --check, --benchmarks, --json")
        return build_site(arguments.results, arguments.site, filters)
    return command(
        arguments.results,
        check=arguments.check,
        benchmarks=arguments.benchmarks,
        as_json=arguments.json,
        filters=filters,
    )


def _check(arguments: argparse.Namespace) -> int:
    from harness.conformance import command

    return command(arguments.method, quick=arguments.quick)


def _show(arguments: argparse.Namespace) -> int:
    from harness.report.gallery import command

    return command(arguments.files, arguments.output)


def _paper(arguments: argparse.Namespace) -> int:
    from harness.report.paper import Request, command

    known = option_infos()
    typed = {name: value for name, value in vars(arguments).items() if name in known}
    return command(Request(typed, arguments.missing, arguments.run, arguments.again))


def _renew(arguments: argparse.Namespace) -> int:
    from harness.renewing import FILTERS, command, wanted_from

    known = option_infos()
    typed = {name: value for name, value in vars(arguments).items() if name in known}
    placed = {name: value for name, value in typed.items() if name not in FILTERS}
    return command(parse_options(placed), wanted_from(typed))


def _compare(arguments: argparse.Namespace) -> int:
    from harness.report.compare import command

    return command(
        arguments.a,
        arguments.b,
        arguments.results,
        as_json=arguments.json,
        fail_below=arguments.fail_below,
    )


def _plot(arguments: argparse.Namespace) -> int:
    from harness.report.plots import command, selection_of

    typed = {name: getattr(arguments, name) for name in ("kind", "dataset", "methods", "scale", "ipc")}
    return command(selection_of(**typed), arguments.results, arguments.output, arguments.data)


def _submit(arguments: argparse.Namespace) -> int:
    from harness.submit.command import command
    from harness.submit.request import request_from

    return command(request_from(arguments))


def _export(arguments: argparse.Namespace) -> int:
    from harness.export import Request, command

    return command(
        Request(tuple(arguments.sets), arguments.format, arguments.output, arguments.labels, arguments.tiles)
    )


def _perf(arguments: argparse.Namespace) -> int:
    from harness.perf import command

    return command(
        arguments.what,
        device=arguments.device,
        methods=tuple(filter(None, arguments.methods.split(","))),
        precisions=tuple(filter(None, arguments.precision.split(","))),
        keep=arguments.keep,
        against=arguments.against,
        cases=arguments.cases,
    )


METAVARS = {
    "methods": "A,B",
    "ipc": "N,N",
    "dataset": "A,B",
    "seeds": "N",
    "evals": "N",
    "arch": "NAME",
    "protocol": "NAME",
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

# Name -> (what it does, what adds its arguments, what it hands over to).
COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Command]] = {
    "run": (
        "Distil, evaluate and print the table; goes on where an earlier run stopped.",
        _run_arguments,
        _run,
    ),
    "plan": ("Say what a run would do, what is done already and how long it takes.", _plan_arguments, _plan),
    "list": ("List methods, datasets, networks or protocols.", _list_arguments, _list),
    "status": ("Say what lies under a results folder.", _status_arguments, _status),
    "cancel": ("End the jobs of a sweep on a cluster.", _cancel_arguments, _cancel),
    "logs": ("Print the log of a trial.", _logs_arguments, _logs),
    "renew": ("Measure anew what is not of the present code; keeps the old.", _renew_arguments, _renew),
    "report": ("Print and write the tables; rewrite or check BENCHMARKS.md.", _report_arguments, _report),
    "compare": (
        "Compare two methods, two results folders or two git revisions: differences with intervals, costs.",
        _compare_arguments,
        _compare,
    ),
    "paper": (
        "Print the BACON paper's tables, ours beside the printed figures; list or run what is missing.",
        _paper_arguments,
        _paper,
    ),
    "check": ("Check that a method keeps its contract, on made-up data.", _check_arguments, _check),
    "show": ("Draw distilled sets as a picture.", _show_arguments, _show),
    "plot": ("Draw the figures of the records as PNG and SVG.", _plot_arguments, _plot),
    "submit": (
        "Check and evaluate a distilled set that somebody else made, its claim beside our measurement.",
        _submit_arguments,
        _submit,
    ),
    "export": (
        "Write distilled sets as other benchmarks' evaluators read them: the other way round of submit.",
        _export_arguments,
        _export,
    ),
    "perf": (
        "Compare the speed of this code with earlier code, or of whole steps with plain loops.",
        _perf_arguments,
        _perf,
    ),
}
