"""What may stand in one table: records of one track, gathered into cells of method x ipc."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

from harness.core.text import count, plural
from harness.engine.protocol import regime_named
from harness.engine.records import Record, Trial
from harness.engine.scales import SCALES


@dataclass(frozen=True)
class Track:
    """Everything that must be equal for two accuracies to be comparable; one table each, never mixed.

    `data` are the fingerprints of the images, where records of one dataset disagree about them; else "".
    `soft_labels`: a protocol that trains on the labels as a set has them was given soft ones.
    """

    scale: str
    dataset: str
    arch: str
    protocol: str
    protocol_version: str
    precision: str
    zca: bool
    image_size: int | None
    budget_flops: float | None
    dataset_source: str
    listing: str
    curve: int = 0
    eval_arch: str = ""
    data: str = ""
    soft_labels: bool = False

    @property
    def network(self) -> str:
        """The network that is trained on the sets."""
        return self.eval_arch or self.arch

    @property
    def heading(self) -> str:
        """`digits · cpu scale · dc-cpu 1.0 · ConvNetW32`, then whatever is not the default."""
        extras = {
            self.precision: self.precision != "fp32",
            "ZCA": self.zca,
            f"{self.image_size} px": self.image_size is not None,
            "distilled from nine tenths of train": self.curve > 0,
            f"equal compute: {count(self.budget_flops)}FLOPs a distillation": self.budget_flops is not None,
            f"data {self.data}": self.data != "",
            "soft labels of the sets": self.soft_labels,
        }
        protocol = f"{self.protocol} {self.protocol_version}"
        networks = f"{self.eval_arch} on sets by {self.arch}" if self.eval_arch else self.arch
        parts = [self.dataset, f"{self.scale} scale", protocol, networks]
        return " · ".join(parts + [text for text, present in extras.items() if present])

    @property
    def at_paper_scale(self) -> bool:
        """Whether trials are as long as the papers' own."""
        return self.scale == "paper"

    @property
    def as_in_papers(self) -> bool:
        """Whether papers speak of the same: the dataset itself, at its size, with the field's network."""
        itself = self.dataset_source == self.dataset and self.image_size is None and not self.zca
        usual = self.arch.startswith("ConvNet") and not self.eval_arch
        return itself and self.budget_flops is None and usual

    @property
    def order(self) -> tuple[object, ...]:
        """Sorting key: scales as `harness.engine.scales` lists them, then by name.

        Of a dataset the track comes first in which every set is asked: the scale's own protocol, at home.
        """
        scales = list(SCALES)
        rank = scales.index(self.scale) if self.scale in SCALES else len(scales)
        usual = self.scale in SCALES and self.protocol == SCALES[self.scale].protocol
        special = bool(self.eval_arch) or self.soft_labels or not usual
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return rank, self.dataset, special, *(0 if value is None else value for value in values)


class Row(NamedTuple):
    """A row of a table: a method, and the settings that tell it from its other rows ("" if it has none)."""

    method: str
    settings: str

    @property
    def label(self) -> str:
        """`dm`, or `dm (lr_img=10.0)`."""
        return f"{self.method} ({self.settings})" if self.settings else self.method


@dataclass(frozen=True)
class Cell:
    """Records of one method (in one configuration) at one ipc, one for each distillation seed."""

    done: tuple[Record, ...]
    missed: tuple[Record, ...]

    @cached_property
    def groups(self) -> Mapping[int, Sequence[float]]:
        """Accuracies in [0, 1] of the networks of each seed; empty where nothing was measured."""
        return {record.trial.seed: record.accuracies for record in self.done if record.accuracies}

    @property
    def counts(self) -> str:
        """`seeds×networks`, or both spelled out where seeds differ in their number of networks."""
        networks = [len(accuracies) for accuracies in self.groups.values()]
        if len(set(networks)) == 1:
            return f"{len(networks)}×{networks[0]}"
        return f"{plural(len(networks), 'seed')}, {plural(sum(networks), 'network')}"

    @property
    def missing(self) -> Mapping[str, int]:
        """How many seeds ended in each status other than done."""
        return Counter(sorted(record.status for record in self.missed))


EMPTY = Cell((), ())
ROOT_BITS = 128  # added to a root's whole part: far more than a float holds

Grid: TypeAlias = Mapping[tuple[Row, int], Cell]

_OF_RECORDS = ("data", "soft_labels")  # the last of a track's facts, which no trial tells beforehand
_TRACK_FACTS = attrgetter(
    *(field.name for field in dataclasses.fields(Track) if field.name not in _OF_RECORDS)
)
# What decides which images a trial sees; records that agree in these should agree in their fingerprints.
_DATA_FACTS = attrgetter("dataset", "dataset_source", "listing", "image_size", "curve")
UNKNOWN_DATA = "not recorded"


def typed_dataset(facts: Track | Trial) -> str:
    """A dataset as it is typed after `--dataset`; of an image folder only the name is known, not the path."""
    return f"folder:{facts.dataset}" if facts.dataset_source == "folder" else facts.dataset


def sample_std(values: Sequence[float]) -> float:
    """Sample standard deviation of two or more numbers, correctly rounded.

    The same as `statistics.stdev`, whose fractions take ten times as long.
    """
    count = len(values)
    ratios = [value.as_integer_ratio() for value in values]
    unit = max(denominator for _, denominator in ratios)  # all are powers of two
    whole = [numerator * (unit // denominator) for numerator, denominator in ratios]
    total = sum(whole)
    deviations = count * sum(number * number for number in whole) - total * total
    square, rest = divmod(deviations << 2 * ROOT_BITS, count * (count - 1))
    root = math.isqrt(square)
    # Rounded to odd if it is not exact, so that rounding it once more, to a float, rounds as if once.
    return (root | (rest > 0 or root * root < square)) / (unit << ROOT_BITS)


def by_track(records: Iterable[Record], among: Iterable[Record] | None = None) -> dict[Track, list[Record]]:
    """Records of each track, tracks in the order in which they are shown.

    Those of one dataset that were made from other images, as their fingerprints tell, are in other tracks.
    `among` are the records beside which these stand, the same ones unless given.
    """
    records = list(records)
    disputed = _disputed(records if among is None else among)
    tracks: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        data = data_of(record) or UNKNOWN_DATA if _DATA_FACTS(record.trial) in disputed else ""
        facts = (*_TRACK_FACTS(record.trial), data, took_soft_labels(record))
        tracks[facts].append(record)
    members = {Track(*facts): found for facts, found in tracks.items()}
    return dict(sorted(members.items(), key=lambda item: item[0].order))


def took_soft_labels(record: Record) -> bool:
    """Whether its networks learned from the set's soft labels where the protocol does not ask for any."""
    return record.regime == "stored" and regime_named(record.trial.protocol) == "hard"


def data_of(record: Record) -> str:
    """Fingerprints of the train and test images that a record was made from; "" if it has none."""
    prints = record.dataset_fingerprint, record.test_fingerprint
    return "" if prints == (None, None) else " and ".join(one or "unknown" for one in prints)


def _disputed(records: Iterable[Record]) -> set[tuple[Any, ...]]:
    """Datasets of which records hold different fingerprints."""
    prints: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for record in records:
        if data := data_of(record):
            prints[_DATA_FACTS(record.trial)].add(data)
    return {facts for facts, found in prints.items() if len(found) > 1}


def grid_of(records: Sequence[Record]) -> Grid:
    """Cells of one track by row and ipc, sorted; a row for each configuration of a method, see `rows_of`."""
    gathered: dict[tuple[Row, int], list[Record]] = defaultdict(list)
    for row, record in zip(rows_of(records), records, strict=True):
        gathered[row, record.trial.ipc].append(record)
    return {key: cell_of(gathered[key]) for key in sorted(gathered)}


def rows_of(records: Sequence[Record]) -> list[Row]:
    """The row of each record among these, which tells configurations of a method apart.

    Averaging over them would show an accuracy that no configuration has. Those with settings set by hand are
    labelled with these, and the method's own settings with nothing, also where somebody typed them. Where
    that leaves configurations of one ipc with the same label, all are labelled with the settings that differ.
    """
    trials = [record.trial for record in records]
    ran = [Configuration(trial.method, trial.ipc, repr(trial.config)) for trial in trials]
    own = {one for one, trial in zip(ran, trials, strict=True) if not trial.source.overrides}
    differing = _differing_settings(dict(zip(ran, trials, strict=True)))
    changed = [
        {*trial.source.overrides} if one not in own else set() for one, trial in zip(ran, trials, strict=True)
    ]
    by_hand = [_row(trial, names) for trial, names in zip(trials, changed, strict=True)]
    unclear = _put_together(
        (row, one) for row, one in zip(by_hand, ran, strict=True) if row.method in differing
    )
    return [
        _row(trial, differing[row.method] | names) if row.method in unclear else row
        for row, trial, names in zip(by_hand, trials, changed, strict=True)
    ]


class Configuration(NamedTuple):
    """A method as it ran at an ipc; `config` holds its settings in words."""

    method: str
    ipc: int
    config: str


def _differing_settings(ran: Mapping[Configuration, Trial]) -> Mapping[str, set[str]]:
    """For each method, settings that take several values at one ipc, from a trial of each configuration."""
    configs: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for one, trial in ran.items():
        configs[one.method, one.ipc].append(trial.config)
    differing: dict[str, set[str]] = defaultdict(set)
    for (method, _), found in configs.items():
        if len(found) > 1:
            # One that is left out, since it came later and has its default, is a value like another.
            for name in set().union(*found):
                values = {repr(config[name]) if name in config else None for config in found}
                if len(values) > 1:
                    differing[method].add(name)
    return differing


def _put_together(placed: Iterable[tuple[Row, Configuration]]) -> set[str]:
    """Methods of which a row holds several configurations of one ipc."""
    configs: dict[tuple[Row, int], set[Configuration]] = defaultdict(set)
    for row, one in placed:
        configs[row, one.ipc].add(one)
    return {row.method for (row, _), found in configs.items() if len(found) > 1}


def _row(trial: Trial, names: set[str]) -> Row:
    """That of a trial, labelled with those of these settings that it has."""
    return Row(
        trial.method,
        ", ".join(f"{name}={trial.config[name]}" for name in sorted(names & trial.config.keys())),
    )


def cell_of(records: Iterable[Record]) -> Cell:
    """One record for each seed: where a seed was evaluated twice, that with the most networks."""
    chosen: dict[int, Record] = {}
    for record in sorted(records, key=lambda r: (r.status == "done", len(r.accuracies), r.id)):
        chosen[record.trial.seed] = record
    ordered = [chosen[seed] for seed in sorted(chosen)]
    return Cell(
        done=tuple(record for record in ordered if record.status == "done"),
        missed=tuple(record for record in ordered if record.status != "done"),
    )
