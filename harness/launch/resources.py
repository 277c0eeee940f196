"""What jobs ask of a cluster, and which trials share a job and an array."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.core.errors import UnknownNameError, UserError
from harness.core.text import plural
from harness.engine.options import Options, Setting, option_infos
from harness.engine.records import Trial
from harness.launch.base import set_is_there

DEFAULT_MINUTES, DEFAULT_CPUS = 240, 4
OF_A_METHOD = ("partition", "time", "gpus", "cpus", "mem")  # what `--resources` may change


@dataclass(frozen=True)
class Resources:
    """What one job asks for; None leaves it to the cluster. `time` in minutes, `mem` as "16G".

    extra: other options of sbatch; True stands for one without a value.
    setup: shell commands before the trials.
    """

    partition: str | None = None
    time: int = DEFAULT_MINUTES
    gpus: int = 0
    cpus: int = DEFAULT_CPUS
    mem: str | None = None
    account: str | None = None
    qos: str | None = None
    extra: tuple[tuple[str, str | bool], ...] = ()
    setup: tuple[str, ...] = ()


@dataclass(frozen=True)
class Array:
    """Jobs that ask for the same and are submitted together; each runs a few trials of one dataset.

    `parallel` of them may run at a time; one that is `chained` waits for the end of the array before it.
    """

    resources: Resources
    packs: tuple[tuple[Trial, ...], ...] = field(repr=False)
    parallel: int
    chained: bool = False


def resources_of(method: str, options: Options) -> Resources:
    """What a trial of this method asks for.

    That is the profile's or what was typed, and before both what is said of the method itself, by
    `--resources METHOD.KEY=VALUE` or in the profile.
    """
    general = Resources(
        partition=options.partition,
        time=options.time or DEFAULT_MINUTES,
        gpus=options.gpus or 0,
        cpus=options.cpus or DEFAULT_CPUS,
        mem=options.mem,
        account=options.account,
        qos=options.qos,
        extra=options.slurm,
        setup=options.setup,
    )
    return replace(general, **_own(method, options.resources))


def check_resources(options: Options) -> None:
    """Refuse `--resources` of methods that are not selected and of what cannot be changed for a method."""
    for method, key, _ in options.resources:
        if method not in options.methods:
            raise UserError(
                f"--resources {method}.{key}: method {method!r} is not selected; expected one of "
                f"{', '.join(options.methods)}"
            )
        if key not in OF_A_METHOD:
            raise UnknownNameError("resource", key, OF_A_METHOD)
    for method in options.methods:
        resources_of(method, options)


def arrays(trials: Sequence[Trial], options: Options, largest_array: int) -> list[Array]:
    """Pack trials of one dataset that need the same into jobs, and jobs that need the same into arrays.

    The arrays share `array_parallelism` in proportion to their jobs, at least one each. What exceeds the
    cluster's largest array is chained behind it.
    """
    groups: dict[Resources, list[tuple[Trial, ...]]] = {}
    asked = {method: resources_of(method, options) for method in {trial.method for trial in trials}}
    for (_, resources), members in _by_dataset_and_resources(trials, asked).items():
        groups.setdefault(resources, []).extend(_packs(members, options))
    jobs = sum(map(len, groups.values()))
    made = []
    for resources, packs in groups.items():
        parallel = max(1, math.floor(options.array_parallelism * len(packs) / jobs))
        for number, part in enumerate(_chunks(packs, largest_array)):
            made.append(Array(resources, part, min(parallel, len(part)), chained=number > 0))
    return made


def _packs(trials: Sequence[Trial], options: Options) -> Iterator[tuple[Trial, ...]]:
    """So many trials a job as asked for, but all in one that wait for the same set to be made."""
    bound: dict[str, list[Trial]] = {}
    for trial in trials:
        made = set_is_there(trial, options.results)
        bound.setdefault(trial.id if made else trial.distillation.id, []).append(trial)
    pack: list[Trial] = []
    for members in bound.values():
        if pack and len(pack) + len(members) > options.trials_per_job:
            yield tuple(pack)
            pack = []
        pack += members
    if pack:
        yield tuple(pack)


def _by_dataset_and_resources(
    trials: Sequence[Trial], asked: Mapping[str, Resources]
) -> dict[tuple[str, Resources], list[Trial]]:
    groups: dict[tuple[str, Resources], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.dataset, asked[trial.method]), []).append(trial)
    return groups


def _chunks(items: Sequence[Any], size: int) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(items), size):
        yield tuple(items[start : start + size])


def _own(method: str, typed: Iterable[Setting]) -> dict[str, Any]:
    """What is said of one method itself."""
    return {
        key: _parsed(key, value, f"--resources {name}")
        for name, key, value in typed
        if name == method and key in OF_A_METHOD
    }


def _parsed(key: str, value: Any, where: str) -> Any:
    """A resource, read as the option of the same name is."""
    info = option_infos()[key]
    try:
        return info.parse(value)
    except ValueError:
        raise UserError(f"{where}.{key}={value}: expected {info.expects}") from None


def as_words(resources: Resources) -> str:
    """`partition gpu, 4 CPUs, 1 GPU, 16G, 240 min`."""
    parts = [f"partition {resources.partition}" if resources.partition else "", plural(resources.cpus, "CPU")]
    parts += [plural(resources.gpus, "GPU") if resources.gpus else "", resources.mem or ""]
    parts += [f"{resources.time} min"]
    return ", ".join(filter(None, parts))
