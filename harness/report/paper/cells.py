"""Cells of the paper's tables, and what fills them: records of scale paper with published settings."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import methods
from harness.core.errors import UserError
from harness.core.regime import REGIMES, Regime
from harness.core.text import MISSING
from harness.engine.protocol import PROTOCOLS, TUNED
from harness.engine.records import Record, Trial
from harness.engine.scales import SCALES, Scale
from harness.report.reported import FiguresByNetwork, NetworkKey, ReportedFigure, z_text
from harness.report.stats import Estimate, estimate
from harness.report.tracks import data_of
from methods import MethodInfo

SCALE = SCALES["paper"]
DATASETS = ("svhn", "cifar10", "cifar100", "tinyimagenet", "mnist", "fashionmnist")
IPCS = (1, 10, 50)
NOT_RUN = "not run"
NOT_HERE = "not implemented here"
OTHER_DATA = "other images only"


@dataclass(frozen=True)
class Spec:
    """What a cell of the paper is: a method on a dataset at an ipc; `settings` differ from the published.

    `arch` is the network that is trained on the set; what distils it is the ConvNet, as in the paper.
    `regime` is what that network is told, by the method's own protocol or the scale's for it.
    """

    method: str
    dataset: str
    ipc: int
    arch: str = SCALE.arch
    settings: tuple[tuple[str, float], ...] = ()
    regime: Regime = "hard"

    @property
    def label(self) -> str:
        """`bacon`, or `bacon (tv_weight=0.0)`."""
        changes = ", ".join(f"{name}={value}" for name, value in self.settings)
        return f"{self.method} ({changes})" if changes else self.method

    @property
    def home(self) -> Spec:
        """The cell of the same sets with the network that distilled them."""
        return dataclasses.replace(self, arch=SCALE.arch)

    @property
    def protocol(self) -> str:
        """What the network is trained by, at a fixed rate."""
        return protocol_of(self.method, SCALE, self.regime)

    @property
    def unasked(self) -> bool:
        """Whether `run` takes that protocol where none is named."""
        info = info_of(self.method)
        return self.regime == ("hard" if info is None else info.regime)

    @property
    def key(self) -> NetworkKey:
        """Key of its printed figure, if there is one."""
        return self.method, self.dataset, self.ipc, self.arch


@dataclass(frozen=True)
class Completeness:
    """What makes a cell complete: distillation seeds, and networks trained on each distilled set."""

    seeds: tuple[int, ...] = tuple(range(SCALE.seeds))
    evals: int = SCALE.evals


@dataclass(frozen=True)
class PaperCell:
    """A cell with what was measured and what is printed.

    done: finished records at paper scale, one for each seed. missed: statuses of the others. elsewhere:
    `cpu scale`, and the dataset if it is a copy of another name, for what ran at another scale only. tuned:
    the same with a learning rate that was chosen for the network. here: whether this harness has the method.
    """

    spec: Spec
    figure: ReportedFigure | None
    done: tuple[Record, ...] = ()
    missed: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    tuned: PaperCell | None = None
    here: bool = True

    @cached_property
    def measured(self) -> Estimate | None:
        """Accuracy as a fraction with its spread and n; None if nothing was measured at paper scale."""
        groups = {record.trial.seed: record.accuracies for record in self.done if record.accuracies}
        return estimate(groups) if groups else None

    @property
    def gap(self) -> float | None:
        """Measured less printed accuracy, a fraction; None where one is not known."""
        if self.measured is None or self.figure is None:
            return None
        return self.measured.mean - self.figure.mean

    @property
    def z(self) -> float | None:
        """The gap in standard deviations that the paper prints; None where it prints none."""
        if self.measured is None or self.figure is None:
            return None
        return self.figure.z(self.measured.mean)

    @property
    def state(self) -> str:
        """`measured`, the status of trials that brought nothing, `cpu scale only`, `not run`, or why not."""
        if self.measured is not None:
            return "measured"
        if self.missed:
            return ", ".join(self.missed)
        return "; ".join(self.elsewhere) or (NOT_RUN if self.here else NOT_HERE)

    @property
    def text(self) -> str:
        """`45.1 ± 0.3 (5×5)`: percent, sample deviation over all networks, seeds × networks; or the state."""
        found = self.measured
        if found is None:
            return f"*{self.state}*"
        return f"{found.text} ({counts(self.done)})"

    @property
    def gap_text(self) -> str:
        """`-0.5`, with `(z -1.7)` behind it where the paper prints a spread."""
        if self.gap is None:
            return MISSING
        return f"{100 * self.gap:+.1f}{z_text(self.z)}"

    def lacking(self, wanted: Completeness) -> tuple[int, ...]:
        """Those of the wanted seeds that are not done with enough networks."""
        there = {record.trial.seed for record in self.done if len(record.accuracies) >= wanted.evals}
        return tuple(seed for seed in wanted.seeds if seed not in there)


class RecordIndex:
    """Records by what the paper's cells ask for."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._found: dict[tuple[str, int, str | None, Regime, bool], list[Record]] = defaultdict(list)
        prints: dict[str, Counter[str]] = defaultdict(Counter)
        for record in records:
            trial = record.trial
            regime, tuned = regime_of(trial), trial.protocol.endswith(TUNED)
            if regime is not None and published(trial, regime, tuned=tuned):
                self._found[trial.method, trial.ipc, network_of(trial), regime, tuned].append(record)
                if _at_paper_scale(trial, trial.dataset) and data_of(record):
                    prints[trial.dataset][data_of(record)] += 1
        # Of one dataset there is one set of images in all tables: that of most records.
        self._data = {name: max(sorted(found), key=found.__getitem__) for name, found in prints.items()}

    def cell(self, spec: Spec, figures: FiguresByNetwork) -> PaperCell:
        """The cell of this spec."""
        figure = None if spec.settings else figures.get(spec.key)
        tuned = self._measured(spec, tuned=True)
        found = self._measured(spec, tuned=False)
        return dataclasses.replace(found, figure=figure, tuned=tuned, here=is_here(spec.method))

    def _measured(self, spec: Spec, *, tuned: bool) -> PaperCell:
        """The cell under the fixed or the chosen rate, with nothing that is printed."""
        near = self._found.get((spec.method, spec.ipc, spec.arch, spec.regime, tuned), [])
        here = [
            record
            for record in near
            if copy_of(record.trial.dataset, spec.dataset) and has_settings(record.trial, spec)
        ]
        same = {"", self._data.get(spec.dataset, "")}
        at_scale = [record for record in here if _at_paper_scale(record.trial, spec.dataset)]
        others = [record for record in at_scale if data_of(record) not in same]
        at_scale = [record for record in at_scale if data_of(record) in same]
        done = best_by_seed(record for record in at_scale if record.status == "done")
        return PaperCell(
            spec=spec,
            figure=None,
            done=done,
            missed=tuple(sorted({record.status for record in at_scale if record.status != "done"})),
            elsewhere=(*([OTHER_DATA] if others else []), *_elsewhere(here, spec.dataset)),
        )


@cache
def info_of(method: str) -> MethodInfo | None:
    """What a method's file says of itself; None for those that this harness lacks or cannot use."""
    try:
        return methods.find(method)
    except UserError:
        return None


def is_here(method: str) -> bool:
    """Whether this harness has a method; papers print figures of others too."""
    return info_of(method) is not None


def protocol_of(method: str, scale: Scale, regime: Regime) -> str:
    """The protocol that a method's sets are asked by in a regime, or would be if the method were here."""
    info = info_of(method)
    return scale.protocols[regime] if info is None else scale.protocol_for(info, regime)


def regime_of(trial: Trial) -> Regime | None:
    """The regime whose protocol for its method and scale, at any rate, asked a trial; None for others."""
    scale = SCALES.get(trial.scale)
    if scale is None:
        return None
    asked = trial.protocol.removesuffix(TUNED)
    return next((regime for regime in REGIMES if protocol_of(trial.method, scale, regime) == asked), None)


def published(trial: Trial, regime: Regime = "hard", *, tuned: bool = False) -> bool:
    """Whether a trial ran as papers' do: its method's protocol in this version, fp32, no budget.

    `tuned`: but with a learning rate that is chosen for the network.
    """
    scale = SCALES.get(trial.scale)
    if scale is None:
        return False
    protocol = protocol_of(trial.method, scale, regime)
    return (
        scale.leaderboard
        and trial.protocol == f"{protocol}{TUNED if tuned else ''}"
        and trial.protocol_version == PROTOCOLS[protocol].version
        and trial.precision == "fp32"
        and trial.budget_flops is None
        and trial.image_size is None
        and trial.curve == 0
        and trial.zca == bool(trial.config.get("zca", False))
    )


def has_settings(trial: Trial, spec: Spec) -> bool:
    """Whether a trial has the published settings but for those that the spec changes."""
    wanted: Mapping[str, Any] = dict(spec.settings)
    return set(trial.source.overrides) == set(wanted) and all(
        trial.config.get(name) == wanted[name] for name in wanted
    )


def copy_of(dataset: str, original: str) -> bool:
    """Whether a dataset is that of this name, or a copy with other bytes: `cifar10-jpeg` of `cifar10`."""
    return dataset == original or dataset.startswith(f"{original}-")


def best_by_seed(records: Iterable[Record]) -> tuple[Record, ...]:
    """One record for each seed, that with the most networks."""
    chosen: dict[int, Record] = {}
    for record in sorted(records, key=lambda r: (len(r.accuracies), r.id)):
        chosen[record.trial.seed] = record
    return tuple(chosen[seed] for seed in sorted(chosen))


def counts(records: Sequence[Record]) -> str:
    """`seeds×networks`, or `3 seeds, 14 networks` where seeds differ in their networks."""
    networks = [len(record.accuracies) for record in records]
    if len(set(networks)) == 1:
        return f"{len(networks)}×{networks[0]}"
    return f"{len(networks)} seeds, {sum(networks)} networks"


def network_of(trial: Trial) -> str | None:
    """The evaluated network in the paper's name, in which a scale's own network stands for the paper's.

    None for sets by another network than the scale's: the paper has none.
    """
    own = SCALES[trial.scale].arch
    if trial.arch != own:
        return None
    return SCALE.arch if trial.network == own else trial.network


def _at_paper_scale(trial: Trial, dataset: str) -> bool:
    return trial.scale == SCALE.name and trial.dataset == dataset == trial.dataset_source


def _elsewhere(records: Iterable[Record], dataset: str) -> tuple[str, ...]:
    """Where else the cell was measured: `cpu scale only`, `cpu scale only (cifar10-jpeg)`."""
    places = set()
    for record in records:
        trial = record.trial
        if record.status == "done" and not _at_paper_scale(trial, dataset):
            places.add(
                f"{trial.scale} scale only" + (f" ({trial.dataset})" if trial.dataset != dataset else "")
            )
    return tuple(sorted(places))
