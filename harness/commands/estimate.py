"""How long trials take: from earlier records of the same work, else measured here, within a minute.

Without records, the FLOPs of a trial's steps are counted while nothing is computed (`core/hollow.py`). Where
a few real steps are quick, they are timed; where they are not, a piece of work that is (a training step of
the same network on a few images) tells how many FLOPs a second this machine makes.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import methods
from harness.core import clock, processor
from harness.core.data.catalog import parse
from harness.core.text import plural
from harness.engine import surroundings
from harness.engine.protocol import protocol_named
from harness.engine.records import Provenance, Record, Trial, ran_on
from harness.engine.settings import RunSettings

if TYPE_CHECKING:
    from harness.core.context import Context
    from harness.core.data import Dataset
    from harness.core.distilled import Distilled
    from harness.core.learned_steps import LearnedSteps

LIMIT_SECONDS = 50.0  # for measuring, so that a plan, start included, takes a minute at most
LEAST_SECONDS = 2.0  # for one cell; no other is begun when less is left
FAIR_SHARES = 3  # of the seconds left that one cell may take: the first ones warm up for all
STEPS = 3  # real steps timed: the first one warms up
TIMED_SHARE = 0.3  # of a cell's seconds that its real steps may take
PIECE_ROWS = 64  # images in the piece of work that tells the speed, at most
LEARNED_BATCHES = 10  # of a set that keeps steps, one for each step in turn
PIECE_SECONDS = 1.0  # for which it is repeated
# How far off a time may be: factors either way, found beside whole trials.
TIMED_OFF_BY = 1.3
COUNTED_OFF_BY = 2.0


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds that one trial takes, without the start of its process, and where the figure comes from.

    `places` names the hardware of earlier records; empty for what was measured here and now. `off_by` is the
    factor by which the truth may lie above or below; None where nothing tells, as with a single record.
    `evaluating` are those of the seconds that a trial takes whose set is there already; `flops` those of its
    distillation, a teacher's included; None where none are known.
    """

    seconds: float
    source: str
    places: frozenset[str] = frozenset()
    off_by: float | None = None
    evaluating: float = 0.0
    flops: float | None = None


def from_records(
    records: Iterable[Record], device: str, like: Callable[[Provenance], bool] | None = None
) -> dict[str, TimeEstimate]:
    """Mean cost of the finished trials of each cell that ran on such a device, by `Trial.cell`.

    Of processes that are not `like` the ones to come only where there are no others: theirs took other times.
    """
    made: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.distill is None or record.evaluate is None or record.provenance is None:
            continue
        if all((run.device == "cpu") == (device == "cpu") for run in _runs(record)):
            made[record.trial.cell].append(record)
    chosen = {
        key: [record for record in found if like is not None and all(map(like, _runs(record)))]
        for key, found in made.items()
    }
    return {key: _mean_of(chosen[key] or found) for key, found in made.items()}


def on_this_cpu(threads: int | None) -> Callable[[Provenance], bool]:
    """Whether a trial ran as this machine's would with so many threads; None: as many as torch takes."""
    cpu, keeps_memory = processor.model(), surroundings.will_keep_memory(os.environ)

    def ran_so(provenance: Provenance) -> bool:
        alike = (provenance.cpu, provenance.keeps_memory) == (cpu, keeps_memory)
        return alike and provenance.threads == (threads or provenance.threads)

    return ran_so


def _runs(record: Record) -> list[Provenance]:
    """Circumstances of both phases, as far as they are known."""
    return [run for run in (record.made_in, record.provenance) if run is not None]


def _mean_of(records: Sequence[Record]) -> TimeEstimate:
    """What records of one cell tell, each of them with both costs."""
    pairs = [(record.distill, record.evaluate) for record in records if record.distill and record.evaluate]
    seconds = [distill.seconds + evaluate.seconds for distill, evaluate in pairs]
    flops = [distill.flops for distill, _ in pairs if distill.flops is not None]
    return TimeEstimate(
        statistics.fmean(seconds),
        plural(len(seconds), "record"),
        frozenset(map(ran_on, records)),
        _spread(seconds),
        statistics.fmean(evaluate.seconds for _, evaluate in pairs),
        statistics.fmean(flops) if flops else None,
    )


@surroundings.adopted()
def measure(trials: Sequence[Trial], settings: RunSettings) -> dict[str, TimeEstimate]:
    """An estimate for each cell of these trials as far as `LIMIT_SECONDS` allow; stderr says what is done.

    The settings are those that a trial will have, with its number of CPU threads.
    """
    ends = time.perf_counter() + LIMIT_SECONDS
    waiting = {trial.cell: trial for trial in trials}
    _say(f"estimating the time of {plural(len(waiting), 'cell')}, in less than a minute ...")
    with surroundings.with_threads(settings.threads):
        return _measured(waiting, settings, ends)


def _measured(waiting: dict[str, Trial], settings: RunSettings, ends: float) -> dict[str, TimeEstimate]:
    """Estimates by cell, until the clock says `ends`."""
    from harness.core.data import load

    estimates: dict[str, TimeEstimate] = {}
    for name, text in settings.datasets.items():
        cells = {key: trial for key, trial in waiting.items() if trial.dataset == name}
        if not cells:
            continue
        # Whitened or not, images take as long to train on, and the whitening itself takes long.
        spec = parse(text, settings.data_dir, next(iter(cells.values())).image_size, False)
        bench = _Bench(load(spec, settings.data_dir), settings.device)
        for key, trial in cells.items():
            left = ends - time.perf_counter()
            if left < LEAST_SECONDS:
                _say(f"the minute is over: {plural(len(waiting), 'cell')} left without an estimate")
                return estimates
            _say(f"counting and timing pieces of {trial.label} ...")
            estimate = bench.estimate(trial, min(left, max(LEAST_SECONDS, FAIR_SHARES * left / len(waiting))))
            if estimate is not None:
                estimates[key] = estimate
            del waiting[key]
    return estimates


@dataclass(frozen=True)
class _Phase:
    """One loop of a trial to be estimated, made `repeats` times; `run` enters it in a context.

    arch: the network that it is about.
    """

    run: Callable[[Context], object]
    precision: str
    arch: str
    repeats: int = 1


@dataclass(frozen=True)
class _Work:
    """FLOPs of a phase in all and of one step of its loop; 0 for a step where there is no loop."""

    flops: float
    step_flops: float


@dataclass
class _Bench:
    """Where the cells of one dataset are estimated; speeds, in FLOPs a second, are measured once each."""

    data: Dataset  # on the CPU, where FLOPs are counted
    device: str
    speeds: dict[tuple[str, str], float] = field(default_factory=dict)

    def estimate(self, trial: Trial, seconds: float) -> TimeEstimate | None:
        """Estimate a trial within about so many seconds; None if that is too short to count its steps."""
        from harness.core.data import sealed
        from harness.core.hollow import TooLongError

        parts: list[float] = []
        flops: list[float] = []
        counted = False
        with sealed("estimating"):
            for make_phase in (_distillation, _evaluation):
                phase = make_phase(trial, self.data)
                try:
                    work = self._count(phase, trial, seconds)
                except TooLongError:
                    return None
                flops.append(work.flops)
                if self._is_quick(work, trial, phase, seconds):
                    parts.append(phase.repeats * self._time(make_phase(trial, self._there()), trial))
                else:
                    parts.append(phase.repeats * work.flops / self._speed(phase.arch, phase.precision))
                    counted = True
        source = "FLOPs counted, a piece timed" if counted else f"{STEPS} steps timed"
        off_by = COUNTED_OFF_BY if counted else TIMED_OFF_BY
        return TimeEstimate(sum(parts), source, off_by=off_by, evaluating=parts[-1], flops=flops[0])

    def _there(self) -> Dataset:
        return self.data.to(self.device)

    def _context(self, trial: Trial, phase: _Phase, device: str, steps: int) -> Context:
        from harness.core.context import Context

        return Context(
            trial.seed,
            arch=phase.arch,
            device=device,
            precision=phase.precision,
            budget_flops=trial.budget_flops,
            stop_after=steps,
            compile_loops=False,
        )

    def _count(self, phase: _Phase, trial: Trial, seconds: float) -> _Work:
        from harness.core.hollow import Hollow
        from harness.core.loop import StoppedEarly

        context = self._context(trial, phase, "cpu", 1)
        try:
            with Hollow(seconds):
                phase.run(context)
        except StoppedEarly as stopped:
            return _Work(stopped.flops, stopped.flops_per_step)
        return _Work(context.cost().flops, 0.0)

    def _is_quick(self, work: _Work, trial: Trial, phase: _Phase, seconds: float) -> bool:
        """Whether real steps may be timed: they are short, and the trial makes them uncompiled as well."""
        from harness.core.loop import COMPILE_PAYS_FLOPS

        if work.flops > COMPILE_PAYS_FLOPS[self.device.partition(":")[0]]:
            return False
        steps_flops = STEPS * work.step_flops
        return steps_flops / self._speed(phase.arch, phase.precision) < TIMED_SHARE * seconds

    def _time(self, phase: _Phase, trial: Trial) -> float:
        from harness.core.loop import StoppedEarly

        started = clock.read(self.device)
        try:
            phase.run(self._context(trial, phase, self.device, STEPS))
        except StoppedEarly as stopped:
            return stopped.seconds
        return clock.read(self.device) - started

    def _speed(self, arch: str, precision: str) -> float:
        if (arch, precision) not in self.speeds:
            self.speeds[arch, precision] = _speed(arch, precision, self._there())
        return self.speeds[arch, precision]


def _speed(arch: str, precision: str, data: Dataset) -> float:
    """FLOPs a second of a training step of that network on a few images of the data."""
    import torch

    from harness.core.context import Context
    from harness.core.cost import FlopCounter
    from harness.core.passes import logits_forward, rows_per_piece, train_step
    from harness.core.sgd import SGD

    context = Context(arch=arch, device=data.device, precision=precision)
    net = context.network(data)
    optimizer = SGD(net.parameters(), lr=0.01)
    rows = torch.arange(min(PIECE_ROWS, len(data)), device=data.device)
    images, labels, at_once = data.batch(rows), data.labels[rows], rows_per_piece(net, data.shape)
    forward = logits_forward(context)
    counter = FlopCounter()
    with counter:
        train_step(forward, net, optimizer, images, labels, at_once)
    seconds: list[float] = []
    while len(seconds) < STEPS or sum(seconds) < PIECE_SECONDS:
        started = clock.read(data.device)
        train_step(forward, net, optimizer, images, labels, at_once)
        seconds.append(clock.read(data.device) - started)
    return counter.flops / statistics.median(seconds)


def _distillation(trial: Trial, data: Dataset) -> _Phase:
    config = methods.config_from(trial.method, trial.config)
    distill = methods.load(trial.method).distill
    return _Phase(
        lambda context: distill(data, trial.ipc, config=config, context=context), trial.precision, trial.arch
    )


def _evaluation(trial: Trial, data: Dataset) -> _Phase:
    from harness.core.teachers import teacher_network
    from harness.engine.training import train_network, training_set_of

    protocol = protocol_named(trial.protocol)
    training_set = training_set_of(_stand_in(trial, data), protocol, data.device)
    arch = teacher_network(trial.arch)

    def train(context: Context) -> float:
        teacher = None
        if protocol.regime == "teacher":
            teacher = context.network(data, role="teacher", arch=arch).eval()
        return train_network(context.network(data), training_set, protocol, context, teacher=teacher)

    return _Phase(train, "fp32", trial.network, protocol.networks(trial.evals))


def _stand_in(trial: Trial, data: Dataset) -> Distilled:
    """Real images in the number and form that the method will leave: they take as long to train on."""
    import torch.nn.functional as F

    from harness.core.context import Context

    context = Context(trial.seed, device=data.device)
    like = "whole" if methods.load(trial.method).IGNORES_IPC else "random"
    distilled = methods.load(like).distill(data, trial.ipc, context=context)
    steps = methods.steps_of(trial.method, trial.config)
    strategy = distilled.augmentation if steps.augmentation is None else steps.augmentation
    labels = distilled.labels
    if protocol_named(trial.protocol).regime == "stored":
        labels = F.one_hot(labels, data.num_classes).float()
    learned = _steps_like(len(distilled.images), steps.learned) if steps.learned else None
    return dataclasses.replace(
        distilled, labels=labels, factor=steps.factor, augmentation=strategy, steps=learned
    )


def _steps_like(images: int, count: int) -> LearnedSteps:
    """So many steps, each over a tenth of the images."""
    import torch

    from harness.core.learned_steps import LearnedSteps

    batch = -(-images // LEARNED_BATCHES)
    return LearnedSteps(torch.arange(batch)[None], torch.full((count,), 1e-3))


def _spread(seconds: Sequence[float]) -> float | None:
    """The factor between the mean and what is farthest from it; None for a single value."""
    if len(seconds) < 2 or min(seconds) <= 0:
        return None
    mean = statistics.fmean(seconds)
    return max(max(seconds) / mean, mean / min(seconds))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
