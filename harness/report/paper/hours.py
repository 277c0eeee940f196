"""GPU-hours of trials at paper scale, from what was measured on a GPU; unknown where nothing measured says.

FLOPs of a distillation follow from its settings where the loop is simple: real images pass the network
forwards (F each), synthetic ones forwards and backwards to the pixels (2 F), training images forwards and
backwards to the weights (3 F less the first layer's). Other loops say themselves what they do. None of this
is taken on trust: the formula must give what a method's records counted, at any scale, to `TOLERANCE`.
Seconds then come from

1. records of the same cell at paper scale on a GPU: other seeds take as long;
2. a kept step on a GPU (in `report/data/steps`, CIFAR-10 at ipc 10), times the ratio of FLOPs: its own, or
   else of another whose FLOPs the formula gives as well, which is then named;
3. records of smaller work on a GPU, times the ratio of FLOPs: the same method at another scale, on images of
   the same shape, at no higher ipc. Small work leaves a GPU idle, so this is an upper bound on that GPU.

An evaluation trains networks on so many images of a shape, whichever method made them: it comes from 1, or
as in 3 from the largest such training at another scale that is no larger than the wanted one. Which network
is evaluated does not change the distillation, which is by the ConvNet.
Asking for settings imports the methods, and so torch.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import methods
from harness.core.clock import Cost
from harness.core.data.catalog import KNOWN
from harness.core.errors import UserError
from harness.core.nets.names import convnet_spec
from harness.core.settings import Steps
from harness.core.text import plural
from harness.engine.parts import SetSize
from harness.engine.protocol import protocol_named
from harness.engine.records import Provenance, Record, Trial, hardware
from harness.perf.steps import StepSheet
from harness.report.paper.cells import (
    SCALE,
    Spec,
    copy_of,
    has_settings,
    is_here,
    network_of,
    published,
    regime_of,
)

TOLERANCE = 0.02  # of FLOPs by formula against those that records counted
STEP_CELL = ("cifar10", 10)  # at whose settings kept steps are measured
NO_FORMULA = "no formula for its FLOPs that records of it confirm"
NO_NETWORK = "no formula for the FLOPs of the network"
NO_TEACHER = "no formula for what a teacher adds"


@dataclass(frozen=True)
class Hours:
    """GPU-hours of one phase of one trial and where they come from; None with the reason in `source`.

    bound: whether they are an upper bound only.
    """

    hours: float | None
    source: str
    bound: bool = False


@dataclass(frozen=True)
class TrialHours:
    """GPU-hours of one trial, by phase."""

    distillation: Hours
    evaluation: Hours


@dataclass(frozen=True)
class Phase:
    """One of a trial's two, which may have run on different machines: its cost and its circumstances."""

    cost: Callable[[Record], Cost | None]
    ran: Callable[[Record], Provenance | None]

    def on_gpu(self, record: Record) -> bool:
        """Whether it ran on one."""
        ran = self.ran(record)
        return ran is not None and ran.device != "cpu"


DISTILLATION = Phase(lambda record: record.distill, lambda record: record.made_in)
EVALUATION = Phase(lambda record: record.evaluate, lambda record: record.provenance)


@dataclass(frozen=True)
class Pass:
    """FLOPs of one image through a network: forwards, and of the first layer alone."""

    forward: float
    first: float

    @property
    def train(self) -> float:
        """Forwards and backwards to the weights; nothing asks for the gradient of the pixels."""
        return 3 * self.forward - self.first


class Evidence:
    """What records and kept steps say about time on a GPU."""

    def __init__(self, records: Iterable[Record], sheets: Iterable[StepSheet]) -> None:
        self._done = [r for r in records if r.status == "done" and r.distill and r.evaluate]
        self._made_on_gpu = list(filter(DISTILLATION.on_gpu, self._done))
        self._asked_on_gpu = list(filter(EVALUATION.on_gpu, self._done))
        self._sheets = [sheet for sheet in sheets if sheet.device != "cpu"]
        self._formula: dict[str, bool] = {}

    def hours(self, spec: Spec) -> TrialHours:
        """Hours of one trial of a cell at paper scale."""
        return TrialHours(self._distillation(spec), self._evaluation(spec))

    def _distillation(self, spec: Spec) -> Hours:
        """Hours of making the set, which is by the ConvNet whatever network is evaluated."""
        if own := [record for record in self._made_on_gpu if _has_set(record, spec)]:
            return _mean_hours(own, DISTILLATION, "other seeds")
        near = _nearest(
            (
                record
                for record in filter(_at_other_scale, self._made_on_gpu)
                if record.trial.method == spec.method
                and record.trial.ipc <= spec.ipc
                and _same_shape(record, spec)
            ),
            lambda record: (record.trial.dataset == spec.dataset, record.trial.ipc),
        )
        if near and all(record.distill and record.distill.flops == 0 for record in near):
            return _mean_hours(near, DISTILLATION, "nothing is trained")
        flops = self._flops(spec)
        if flops is None:
            known = image_pass(spec.dataset, SCALE.arch) is not None
            return Hours(None, NO_FORMULA if known else NO_NETWORK)
        return self._by_step(spec, flops) or (
            _by_ratio(near, flops, DISTILLATION)
            if near
            else Hours(None, "no smaller work of it and no step of it was measured on a GPU")
        )

    def _by_step(self, spec: Spec, flops: float) -> Hours | None:
        """Hours by a step that was kept on a GPU, the method's own if there is one; None without any."""
        kept = [
            (step, sheet)
            for sheet in self._sheets
            for step in sheet.steps
            if step.variant == "fp32" and is_here(step.method)
        ]
        for step, sheet in sorted(kept, key=lambda pair: pair[0].method != spec.method):
            cell = Spec(step.method, *STEP_CELL)
            one = self._flops(cell)
            if one:
                seconds = step.seconds * flops / (one / steps_at(cell).count)
                return Hours(seconds / 3600, f"a step of {step.method} on {sheet.device}")
        return None

    def _evaluation(self, spec: Spec) -> Hours:
        """Hours of training a trial's networks: of other seeds, or by FLOPs from a smaller evaluation."""
        if own := [r for r in self._asked_on_gpu if _has_set(r, spec) and network_of(r.trial) == spec.arch]:
            return _mean_hours(own, EVALUATION, "other seeds", lambda r: SCALE.evals / r.trial.evals)
        if spec.regime == "teacher":
            return Hours(None, NO_TEACHER)
        one = image_pass(spec.dataset, spec.arch)
        kin = [r for r in self._done if r.trial.method == spec.method and r.stored_images]
        kin = [record for record in kin if published(record.trial, spec.regime)]
        if one is None or not kin or not kin[0].decoded_images or not kin[0].stored_images:
            return Hours(None, NO_NETWORK if one is None else "no record says how many images it decodes to")
        tiles = kin[0].decoded_images / kin[0].stored_images
        stored = stored_images(spec.method, spec.dataset, spec.ipc)
        images = round(stored * tiles)
        size = SetSize(KNOWN[spec.dataset].classes, spec.ipc, stored, images, _augmented(kin[0]))
        forwarded = protocol_named(spec.protocol).course(size).images(images)
        near = _nearest(
            (
                r
                for r in filter(_at_other_scale, self._asked_on_gpu)
                if _same_shape(r, spec) and 0 < _decoded(r) <= images and published(r.trial, spec.regime)
            ),
            _decoded,
        )
        if not near:
            return Hours(None, "no smaller evaluation was measured on a GPU")
        return _by_ratio(near, SCALE.evals * forwarded * one.train, EVALUATION)

    def _flops(self, spec: Spec) -> float | None:
        """FLOPs of one distillation; None unless the formula is confirmed."""
        one = image_pass(spec.dataset, SCALE.arch)
        if one is None or not self._confirmed(spec.method):
            return None
        steps = steps_at(spec)
        return steps.count * step_flops(steps, spec.dataset, spec.ipc, one)

    def _confirmed(self, method: str) -> bool:
        """Whether the formula gives the FLOPs that records of the method counted, all of them."""
        if method not in self._formula:
            kin = (record for record in self._done if record.trial.method == method)
            ratios = [ratio for record in kin if (ratio := _ratio(record)) is not None]
            self._formula[method] = bool(ratios) and all(abs(ratio - 1) <= TOLERANCE for ratio in ratios)
        return self._formula[method]


def stored_images(method: str, dataset: str, ipc: int) -> int:
    """How many images a method's set of a known dataset holds: all of train's where ipc is ignored."""
    known = KNOWN[dataset]
    return known.train if methods.load(method).IGNORES_IPC else known.classes * ipc


def steps_at(spec: Spec) -> Steps:
    """What the loop of a cell does at paper scale, by its published settings and the spec's own."""
    resolved = methods.resolve(spec.method, spec.dataset, spec.ipc, SCALE.name, dict(spec.settings))
    return methods.load(spec.method).steps_of(resolved.config)


def steps_in(trial: Trial) -> Steps | None:
    """What the loop of a trial does; None if its method has no such settings any more."""
    try:
        return methods.steps_of(trial.method, trial.config)
    except UserError:
        return None


def step_flops(steps: Steps, dataset: str, ipc: int, one: Pass) -> float:
    """FLOPs of one such step in distribution matching, by the formula above, or by the method's own."""
    known = KNOWN[dataset]
    if steps.passes is not None:
        whole, first = steps.passes(known.classes, ipc)
        return whole * one.forward - first * one.first
    real = known.classes * min(steps.real, known.train // known.classes)
    synthetic = known.classes * ipc * steps.factor**2
    return one.forward * real + 2 * one.forward * synthetic + one.train * steps.trained


def image_pass(dataset: str, arch: str) -> Pass | None:
    """FLOPs of one image of a dataset through a ConvNet; None for other networks or datasets."""
    spec = convnet_spec(arch)
    if spec is None or dataset not in KNOWN:
        return None
    channels, side, _ = KNOWN[dataset].shape
    # One-channel images get a wider border, which brings 28 pixels to 32.
    side += 4 if channels == 1 else 0
    layers, inputs = [], channels
    for _ in range(spec.depth):
        layers.append(2.0 * 9 * inputs * spec.width * side * side)
        inputs, side = spec.width, side // 2
    linear = 2.0 * spec.width * side * side * KNOWN[dataset].classes
    return Pass(sum(layers) + linear, layers[0])


def _by_ratio(near: Sequence[Record], flops: float, phase: Phase) -> Hours:
    """An upper bound: seconds of records times the ratio of FLOPs."""

    def ratio(record: Record) -> float:
        cost = phase.cost(record)
        assert cost is not None
        assert cost.flops is not None
        return flops / cost.flops

    cells = {f"{r.trial.scale} scale, {r.trial.dataset}, ipc {r.trial.ipc}" for r in near}
    how = f"FLOPs ratio to {'; '.join(sorted(cells))}"
    return dataclasses.replace(_mean_hours(near, phase, how, ratio), bound=True)


def _mean_hours(
    records: Sequence[Record], phase: Phase, how: str, times: Callable[[Record], float] = lambda _: 1.0
) -> Hours:
    """The mean of what a phase of records took, each `times` as long."""
    seconds = [_seconds(phase.cost(record)) * times(record) for record in records]
    places = ", ".join(sorted({hardware(phase.ran(record)) for record in records}))
    return Hours(statistics.fmean(seconds) / 3600, f"{how} ({plural(len(records), 'record')}, {places})")


def _ratio(record: Record) -> float | None:
    """FLOPs by the formula over those counted; None for records that it says nothing about."""
    trial, distill = record.trial, record.distill
    dataset = original(trial.dataset)
    one = image_pass(dataset, trial.arch)
    if one is None or distill is None or not distill.flops or trial.image_size is not None:
        return None
    steps = steps_in(trial)
    return (
        None if steps is None else distill.steps * step_flops(steps, dataset, trial.ipc, one) / distill.flops
    )


def original(dataset: str) -> str:
    """The known dataset that this one is, or is a copy of; empty for others."""
    return next((name for name in KNOWN if copy_of(dataset, name)), "")


def _has_set(record: Record, spec: Spec) -> bool:
    """Whether a record is of a set of the cell, whichever network it asks."""
    trial = record.trial
    made = trial.method, trial.scale, trial.dataset, trial.ipc, trial.arch
    own = made == (spec.method, SCALE.name, spec.dataset, spec.ipc, SCALE.arch)
    return own and has_settings(trial, spec) and published(trial, spec.regime)


def _at_other_scale(record: Record) -> bool:
    """Whether a record is of work on a known dataset and networks at another scale."""
    trial, dataset = record.trial, original(record.trial.dataset)
    known = bool(dataset) and all(image_pass(dataset, arch) for arch in (trial.arch, trial.network))
    regime = regime_of(trial)
    return known and trial.scale != SCALE.name and regime is not None and published(trial, regime)


def _same_shape(record: Record, spec: Spec) -> bool:
    return KNOWN[original(record.trial.dataset)].shape == KNOWN[spec.dataset].shape


def _nearest(records: Iterable[Record], size: Callable[[Record], Any]) -> list[Record]:
    """The records of the largest work, and among them those of one dataset."""
    found = sorted(records, key=lambda record: (size(record), record.trial.dataset))
    return [r for r in found if (size(r), r.trial.dataset) == (size(found[-1]), found[-1].trial.dataset)]


def _decoded(record: Record) -> int:
    return record.decoded_images or 0


def _augmented(record: Record) -> bool:
    """Whether a record's networks were trained for the epochs of sets that call for augmentation."""
    stored, decoded = record.stored_images or 1, record.decoded_images or 1
    size = SetSize(max(1, stored // record.trial.ipc), record.trial.ipc, stored, decoded, augmented=False)
    plain = protocol_named(record.trial.protocol).course(size).passes
    return record.evaluate is not None and record.evaluate.steps != plain * len(record.accuracies)


def _seconds(cost: Cost | None) -> float:
    return 0.0 if cost is None else cost.seconds
