"""How long trials take, measured: from earlier records of the same work, else from a few real steps."""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import methods
from harness import meter
from harness.data.catalog import parse
from harness.options import Options
from harness.plan import Plan
from harness.protocol import protocol_named
from harness.records import Record, Trial
from harness.report.markdown import plural
from harness.report.tables import hardware

if TYPE_CHECKING:
    from harness.data import Dataset
    from methods.api import Distilled

# The first step warms up, the second may compile; so three is the least that leaves one to time.
STEPS = 3
EPOCHS = 6


@dataclass(frozen=True)
class Estimate:
    """Seconds that one trial takes, without the start of its process, and where the figure comes from.

    `places` names the hardware of earlier records; empty for steps timed here and now.
    """

    seconds: float
    source: str
    places: frozenset[str] = frozenset()


def cell(trial: Trial) -> str:
    """Identity of a trial but for its seed: trials of one cell take the same time."""
    return trial.cell


def from_records(records: Iterable[Record], device: str) -> dict[str, Estimate]:
    """Mean cost of the finished trials of each cell that ran on such a device, by `cell`."""
    costs: dict[str, list[float]] = defaultdict(list)
    places: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.distill is None or record.evaluate is None or record.provenance is None:
            continue
        if (record.provenance.device == "cpu") == (device == "cpu"):
            key = cell(record.trial)
            costs[key].append(record.distill.seconds + record.evaluate.seconds)
            places[key].add(hardware(record.provenance))
    return {
        key: Estimate(statistics.fmean(seconds), plural(len(seconds), "record"), frozenset(places[key]))
        for key, seconds in costs.items()
    }


def measure(
    trials: Sequence[Trial], plan: Plan, options: Options, threads: int | None
) -> dict[str, Estimate]:
    """Time a few real steps of one trial of each cell, in this process; says on stderr what it is timing.

    `threads` is the number of CPU threads that a trial will have; None leaves torch's own choice.
    """
    import torch

    from harness.data import load

    if threads is not None:
        torch.set_num_threads(threads)
    representatives = {cell(trial): trial for trial in trials}
    estimates: dict[str, Estimate] = {}
    for name, text in plan.datasets.items():
        cells = {key: trial for key, trial in representatives.items() if trial.dataset == name}
        if not cells:
            continue
        # Whitened or not, images take as long to train on, and the whitening itself takes long.
        spec = parse(text, options.data_dir, next(iter(cells.values())).image_size, False)
        data = load(spec, options.data_dir, device=options.device)
        for key, trial in cells.items():
            print(f"timing a few steps of {trial.label} ...", file=sys.stderr)
            estimates[key] = _time_trial(trial, data, options)
    return estimates


def roughly(seconds: float) -> str:
    """Two significant parts: `45 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for unit, size in (("days", 86_400.0), ("h", 3600.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.3g} s"


def _time_trial(trial: Trial, data: Dataset, options: Options) -> Estimate:
    from harness.data import sealed

    with sealed("timing a few steps"):
        distillation = _distillation_seconds(trial, data, options.device)
        evaluation = _evaluation_seconds(trial, data, options.device)
    return Estimate(distillation + evaluation, f"{STEPS} steps timed")


def _distillation_seconds(trial: Trial, data: Dataset, device: str) -> float:
    from harness.loop import StoppedEarly
    from methods.api import Context

    config = methods.config_from(trial.method, trial.config)
    context = Context(
        trial.seed,
        arch=trial.arch,
        device=device,
        precision=trial.precision,
        budget_flops=trial.budget_flops,
        stop_after=STEPS,
    )
    started = meter.clock(device)
    try:
        methods.load(trial.method).distill(data, trial.ipc, config=config, context=context)
    except StoppedEarly as stopped:
        return stopped.seconds
    return meter.clock(device) - started


def _evaluation_seconds(trial: Trial, data: Dataset, device: str) -> float:
    from harness.evaluate import train_network, training_set_of
    from harness.loop import StoppedEarly
    from methods.api import Context

    protocol = protocol_named(trial.protocol)
    context = Context(trial.seed, arch=trial.arch, device=device, stop_after=EPOCHS)
    training_set = training_set_of(_stand_in(trial, data, device), protocol, context.device)
    try:
        train_network(context.network(data), training_set, protocol, context)
    except StoppedEarly as stopped:
        return trial.evals * stopped.seconds
    raise AssertionError("a protocol without epochs")


def _stand_in(trial: Trial, data: Dataset, device: str) -> Distilled:
    """Real images in the number and form that the method will leave: they take as long to train on."""
    from methods.api import Context

    context = Context(trial.seed, device=device)
    distilled: Distilled = methods.load("random").distill(data, trial.ipc, context=context)
    strategy = trial.config.get("strategy")
    return dataclasses.replace(
        distilled,
        factor=trial.config.get("factor", distilled.factor),
        augmentation=distilled.augmentation if strategy is None else strategy,
    )
