"""What lies under a results folder as a plan: which of it is wanted, and what the present code can repeat."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import methods
from harness.core.data.catalog import FOLDER_PREFIX, parse
from harness.core.errors import UserError
from harness.engine.options import Options
from harness.engine.plan import (
    DatasetFacts,
    Plan,
    check_consistency,
    check_network,
    check_writable,
    dataset_facts,
    worker_text,
)
from harness.engine.records import Distillation, Trial
from harness.launch.launchers import launcher_of
from harness.report.filters import refuse_unknown

# What is said of a set by these options of `run`.
FILTERS = ("methods", "dataset", "ipc", "scale", "arch")


@dataclass(frozen=True)
class SetFilter:
    """Which sets are meant: values by the names of `FILTERS` as typed, nothing for all of them."""

    values: Mapping[str, Sequence[str]]

    def takes(self, made: Distillation) -> bool:
        """Whether a set is meant."""
        facts = _facts(made)
        return all(facts[name] in map(_dataset_name, values) for name, values in self.values.items())

    def check(self, there: Iterable[Distillation]) -> None:
        """UnknownNameError for a value that none of the sets has that are there, if there are any."""
        facts = [_facts(made) for made in there]
        for name, values in self.values.items() if facts else ():
            refuse_unknown(name, map(_dataset_name, values), {one[name] for one in facts})

    @property
    def folders(self) -> dict[str, str]:
        """Datasets that were named with the place where they lie, by their names in results."""
        typed = (text for text in self.values.get("dataset", ()) if text.lower().startswith(FOLDER_PREFIX))
        return {_dataset_name(text): text for text in typed}


def wanted_from(typed: Mapping[str, str | list[str]]) -> SetFilter:
    """From what was typed: `--methods dm,idm --dataset folder:cifar10-jpeg`."""
    values = {}
    for name in FILTERS:
        if name in typed:
            given = typed[name]
            texts = ",".join(given if isinstance(given, list) else [given]).split(",")
            values[name] = [text.strip() for text in texts if text.strip()]
    return SetFilter(values)


def plan_of(
    trials: Sequence[Trial], options: Options, folders: Mapping[str, str], *, repeated: bool = True
) -> Plan:
    """These trials as a plan; left out, and named, are those that the present code or data cannot repeat.

    `folders` says where image folders lie, by their names; others are looked up as `run` does it. `repeated`:
    whether their methods are to run.
    """
    launcher_of(options).check()
    check_consistency(options)
    check_writable(options.results)
    groups: dict[tuple[str, str, str, int | None, bool], list[Trial]] = defaultdict(list)
    for trial in trials:
        data = (trial.dataset, trial.dataset_source, trial.listing, trial.image_size, trial.zca)
        groups[data].append(trial)
    kept: list[Trial] = []
    datasets: dict[str, str] = {}
    for (name, source, listing, size, zca), members in groups.items():
        text = folders.get(name, f"{FOLDER_PREFIX}{name}" if source == "folder" else name)
        spec = parse(text, options.data_dir, size, zca)
        if (spec.source, spec.listing) != (source, listing):
            leave_out(members, f"their images were others than those that are now in {spec.path}")
            continue
        ipcs = {trial.ipc for trial in members}
        facts = dataset_facts(spec, options.data_dir, ipcs)
        fitting = _fitting(members, facts)
        datasets[name] = worker_text(spec)
        kept += _repeatable(fitting) if repeated else fitting
    return Plan(tuple(kept), datasets)


def _fitting(trials: Sequence[Trial], facts: DatasetFacts) -> list[Trial]:
    """Those whose network takes the dataset's images; the others are named."""
    unfit = set()
    for network in dict.fromkeys(trial.network for trial in trials):
        try:
            check_network(network, facts)
        except UserError as error:
            unfit.add(network)
            leave_out([trial for trial in trials if trial.network == network], str(error))
    return [trial for trial in trials if trial.network not in unfit]


def _repeatable(trials: Sequence[Trial]) -> Iterator[Trial]:
    for trial in trials:
        try:
            methods.config_from(trial.method, trial.config)
        except UserError as error:
            leave_out([trial], str(error))
        else:
            yield trial


def leave_out(trials: Sequence[Trial | Distillation], reason: str) -> None:
    """Say on stderr what is not done, and why."""
    first, rest = trials[0].label, len(trials) - 1
    print(f"left out: {first}{f' and {rest} more' if rest else ''}: {reason}", file=sys.stderr)


def _facts(made: Distillation) -> dict[str, str]:
    """What filters look at in a set, by their names."""
    values = (made.method, made.dataset, made.ipc, made.scale, made.arch)
    return dict(zip(FILTERS, map(str, values), strict=True))


def _dataset_name(text: str) -> str:
    return Path(text[len(FOLDER_PREFIX) :]).name if text.lower().startswith(FOLDER_PREFIX) else text
