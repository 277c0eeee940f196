"""`--priority value`: the trials first that fill most of the BACON paper's tables an estimated hour.

An entry of a table (`python -m harness paper`) is worth 1 to its first seed, 1/2 to the second, 1/k to the
k-th. A trial is worth that for each entry that it stands in; what stands in none comes behind, in the plan's
order. What a trial takes is the mean of the records of its cell on such a device, else an estimate by
FLOPs (where another trial makes the set, or it is there, what the evaluation takes, and such a trial does
not go before the one that makes the set):

- distillation: those that the nearest record of its method counted at any scale, in proportion to the formula
  of `paper --missing` (iterations, batches, images, network), or the formula alone where there is no record;
- evaluation: networks × images of all their batches × a pass forwards and backwards;
- divided by the FLOPs a second of all records at hand on such a device, or a nominal speed without any.

Only the order comes of it, so a rough estimate does. Where not even that can be had (networks other than
ConvNets), trials follow those that have one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from harness.commands.estimate import TimeEstimate
from harness.core.data.catalog import KNOWN
from harness.engine.parts import SetSize
from harness.engine.protocol import protocol_named
from harness.engine.provenance import ROOT
from harness.engine.record_files import collect
from harness.engine.records import Record, Trial
from harness.report.paper.cells import SCALE, PaperCell, Spec, has_settings, network_of, published
from harness.report.paper.hours import image_pass, original, step_flops, steps_in, stored_images
from harness.report.paper.tables import CellFilter, make_tables
from harness.report.reported import load_by_network

NOMINAL_SPEED = {True: 1e13, False: 1e11}  # FLOPs a second of a GPU and of a CPU


def by_value(
    waiting: Sequence[Trial],
    estimates: Mapping[str, TimeEstimate],
    results: Path,
    *,
    on_gpu: bool,
    making: Collection[str] | None = None,
) -> list[Trial]:
    """Those of the waiting trials that fill the paper's tables, best first; `estimates` are by cell.

    making: ids of the trials that make a set which is not there yet; None: no set is there.
    """
    own = collect(results).records
    costs = _Costs([*own, *_committed(results)], estimates, on_gpu)
    worth = _worth(waiting, own)
    unmade = {trial.distillation.id for trial in waiting if making is None or trial.id in making}
    rates: dict[str, float] = {}
    limits: dict[str, float] = {}  # by set, the rate of the trial that makes it: others have to wait for that
    for trial in (trial for trial in waiting if trial.id in worth):
        made = trial.distillation.id
        makes = made in unmade and made not in limits
        seconds = costs.seconds(trial, makes=makes)
        rate = 0.0 if seconds is None else worth[trial.id] / max(seconds, 1.0)
        rates[trial.id] = min(rate, limits.get(made, rate))
        if makes and rate:
            limits[made] = rate
    return sorted((trial for trial in waiting if trial.id in rates), key=lambda trial: -rates[trial.id])


def _committed(results: Path) -> list[Record]:
    """Records of this checkout, which tell of costs whatever folder is written to."""
    folder = ROOT / "results"
    return collect(folder).records if folder.resolve() != results.resolve() else []


def _worth(waiting: Sequence[Trial], records: Sequence[Record]) -> dict[str, float]:
    """What each trial adds to the tables, by id; trials that stand in none are left out."""
    entries: dict[Spec, list[PaperCell]] = defaultdict(list)
    for cells in make_tables(records, load_by_network(), CellFilter()).cells.values():
        for _, cell in cells:
            entries[cell.spec].append(cell)
    seeds: Counter[Spec] = Counter({spec: len(cells[0].done) for spec, cells in entries.items()})
    worth: dict[str, float] = {}
    for trial in waiting:
        spec = next((spec for spec in entries if _stands_for(trial, spec)), None)
        if spec is not None:
            seeds[spec] += 1
            worth[trial.id] = len(entries[spec]) / seeds[spec]
    return worth


def _stands_for(trial: Trial, spec: Spec) -> bool:
    place = trial.method, trial.dataset, trial.ipc, network_of(trial)
    return (
        place == (spec.method, spec.dataset, spec.ipc, spec.arch)
        and trial.scale == SCALE.name
        and published(trial)
        and has_settings(trial, spec)
    )


class _Costs:
    """Seconds of trials by what records tell."""

    def __init__(
        self, records: Iterable[Record], estimates: Mapping[str, TimeEstimate], on_gpu: bool
    ) -> None:
        self._estimates = estimates
        self._kin: dict[str, list[Record]] = defaultdict(list)
        flops = seconds = 0.0
        for record in records:
            if record.status != "done" or record.distill is None or record.evaluate is None:
                continue
            self._kin[record.trial.method].append(record)
            if record.provenance is not None and (record.provenance.device != "cpu") == on_gpu:
                flops += record.distill.flops + record.evaluate.flops
                seconds += record.distill.seconds + record.evaluate.seconds
        self._speed = flops / seconds if flops and seconds else NOMINAL_SPEED[on_gpu]

    def seconds(self, trial: Trial, *, makes: bool = True) -> float | None:
        """What a trial takes, roughly, its set included if it `makes` that.

        None for a network of which no formula is known.
        """
        known = self._estimates.get(trial.cell)
        if known is not None:
            return known.seconds if makes else known.evaluating
        formula, evaluation = _distillation(trial) if makes else 0.0, _evaluation(trial)
        if formula is None or evaluation is None:
            return None
        return (formula * self._correction(trial) + evaluation) / self._speed

    def _correction(self, trial: Trial) -> float:
        """What the method's nearest record counted over what the formula gives for it; 1 without any."""
        near = min(
            self._kin[trial.method], key=lambda record: abs(record.trial.ipc - trial.ipc), default=None
        )
        formula = None if near is None else _distillation(near.trial)
        if near is None or near.distill is None or not formula:
            return 1.0
        return near.distill.flops / formula


def _distillation(trial: Trial) -> float | None:
    """FLOPs of a distillation by the formula of distribution matching."""
    dataset, steps = original(trial.dataset), steps_in(trial)
    one = image_pass(dataset, trial.arch)
    if one is None or steps is None:
        return None
    return steps.count * step_flops(steps, dataset, trial.ipc, one)


def _evaluation(trial: Trial) -> float | None:
    """FLOPs of training a trial's networks, as long as on sets that call for augmentation."""
    dataset, steps = original(trial.dataset), steps_in(trial)
    one = image_pass(dataset, trial.network)
    if one is None or steps is None:
        return None
    protocol = protocol_named(trial.protocol)
    stored = stored_images(trial.method, dataset, trial.ipc)
    size = SetSize(KNOWN[dataset].classes, trial.ipc, stored, stored * steps.factor**2)
    images = protocol.networks(trial.evals) * protocol.course(size).images(size.decoded)
    return images * (one.train + (one.forward if protocol.regime == "teacher" else 0.0))
