"""`python -m harness evaluate`: ask sets that were distilled how well they serve other networks."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import methods
from harness.commands.arguments import add_options, typed_options
from harness.commands.existing import FILTERS, SetFilter, leave_out, plan_of, wanted_from
from harness.commands.run import carry_out, deadline_in, finish
from harness.core.errors import UserError
from harness.core.text import plural
from harness.engine.options import Options, parse_options
from harness.engine.plan import (
    RATE_OF_RATE,
    asked_of,
    protocols_of,
    refuse_hard_labels,
    refuse_missing_steps,
    refuse_other_rates,
)
from harness.engine.provenance import SUBMITTED
from harness.engine.record_files import collect, found_sets
from harness.engine.records import Distillation, LabelKind, trial_of
from harness.engine.scales import scale_named

MADE_WITH = (
    "set",
    "gains",
    "budget",
    "curve",
    "precision",
    "zca",
    "image_size",
    "priority",
)  # decided long ago


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="only these .safetensors beside records",
    )
    only = "only sets"
    filters = {
        "methods": f"{only} of these methods",
        "dataset": f"{only} of these datasets; folder:PATH says where one lies",
        "ipc": f"{only} of these images per class",
        "arch": f"{only} distilled by this network",
        "scale": f"{only} of this scale",
        "seeds": f"{only} of these distillation seeds",
    }
    add_options(parser, MADE_WITH, filters)


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    typed = typed_options(arguments)
    options = parse_options({name: value for name, value in typed.items() if name not in FILTERS})
    return command(options, wanted_from(typed), arguments.files, arguments.again)


def command(options: Options, wanted: SetFilter, files: Sequence[Path], again: str) -> int:
    """Evaluate the wanted sets that are here and were made here; returns 0 if all is answered.

    UserError if there is no such set or none that can be asked, or a file is no set of a record under the
    results folder.
    """
    results = options.results
    if not results.is_dir():
        raise UserError(f"no results folder {results}; --results names another")
    chosen = list(_chosen(options, wanted, files))
    for made, kind in chosen:
        protocols = _protocols(made, options)
        refuse_hard_labels(f"the set of {made.label} has", kind, protocols)
        refuse_missing_steps(made.method, _learned(made), protocols)
        if RATE_OF_RATE in made.config:
            refuse_other_rates(f"the set of {made.label} keeps", protocols)
    trials = [trial_of(made, **asked) for made, _ in chosen for asked in _asked(made, options)]
    print(f"{plural(len(chosen), 'set')} to ask", file=sys.stderr)
    plan = plan_of(trials, options, wanted.folders, repeated=False)
    if not plan.trials:
        raise UserError(
            "none of these sets can be asked, see above; choose other sets or another --eval-arch"
        )
    status = finish(carry_out(options, deadline_in(options.for_), plan), options, again)
    return max(status, int(len(plan.trials) < len(trials)))


def _learned(made: Distillation) -> int:
    """How many steps of training a set keeps, by its method; 0 for one that is here no more."""
    try:
        return methods.steps_of(made.method, made.config).learned
    except UserError:
        return 0


def _protocols(made: Distillation, options: Options) -> tuple[str, ...]:
    """Those under which a set is to be asked."""
    return protocols_of(made.method, options, scale_named(made.scale))


def _asked(made: Distillation, options: Options) -> list[dict[str, Any]]:
    """What is to be asked of a set, as facts of a trial."""
    named = dataclasses.replace(options, protocol=_protocols(made, options))
    return asked_of(named, scale_named(made.scale))


def _chosen(
    options: Options, wanted: SetFilter, files: Sequence[Path]
) -> Iterator[tuple[Distillation, LabelKind | None]]:
    """The sets that are meant, each once, and the kind of their labels if that was recorded.

    Says which of them are not here, and which have to be handed in again instead.
    """
    results = options.results
    there = found_sets(results)
    asked_for = _named(files, {found.path(results).resolve() for _, found in there}, results)
    recorded = {
        record.trial.distillation.id: record.trial.distillation
        for record in collect(results).records
        if record.status == "done"
    }
    wanted.check([*(made for made, _ in there), *recorded.values()])
    chosen = [
        (made, found.label_kind)
        for made, found in there
        if _is_meant(made, wanted, options) and (not asked_for or found.path(results).resolve() in asked_for)
    ]
    if not asked_for:
        here = {made.id for made, _ in there}
        gone = [made for id_, made in recorded.items() if id_ not in here and not _is_from_elsewhere(made)]
        _say_gone([made for made in gone if _is_meant(made, wanted, options)], results, alone=not chosen)
    if not chosen:
        raise UserError(f"no distilled set under {results} fits; `status` lists what is there")
    for made, kind in chosen:
        if _is_from_elsewhere(made):
            leave_out([made], "it came from elsewhere; submit it again with --eval-arch and --protocol")
        else:
            yield made, kind


def _is_meant(made: Distillation, wanted: SetFilter, options: Options) -> bool:
    return wanted.takes(made) and (options.seeds is None or made.seed in options.seeds)


def _is_from_elsewhere(made: Distillation) -> bool:
    return made.method.endswith(SUBMITTED)


def _say_gone(gone: Sequence[Distillation], results: Path, *, alone: bool) -> None:
    """Name the sets whose records are here without them; UserError if there is nothing else to ask."""
    if gone and alone:
        raise UserError(
            f"{results} has records that fit, of {plural(len(gone), 'set')}, but not the sets; distil them "
            "into another folder, `run ... --results DIR`, and give evaluate the same --results"
        )
    if gone:
        leave_out(gone, "only the records are here, not the sets")


def _named(files: Sequence[Path], known: Set[Path], results: Path) -> set[Path]:
    """The files that were named; UserError for one that is not there or is no set of a record."""
    for path in files:
        if not path.exists():
            raise UserError(f"no such file: {path}; sets lie beside their records, under {results}")
        if path.resolve() not in known:
            raise UserError(
                f"{path} is no set with a record under {results}; evaluate a set from elsewhere by `submit "
                f"{path} --dataset NAME --method NAME`, which takes --eval-arch and --protocol as well"
            )
    return {path.resolve() for path in files}
