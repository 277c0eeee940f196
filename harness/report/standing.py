"""Where each cell of a track stands: interval, distance to the best, rank, gap to the ceiling, and costs.

The ceiling is the method `whole`, which trains on all images: one set whatever the ipc, and no competitor.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, TypeVar

from harness.engine.protocol import protocol_named, without_augmentation
from harness.engine.provenance import CodeState
from harness.engine.records import CEILING, CurvePoint, Record
from harness.report.paper.cells import info_of
from harness.report.stats import Difference, Estimate, Groups, differences, estimates, rank_intervals
from harness.report.tracks import EMPTY, Cell, Grid, Row, Track, by_track, cell_of, grid_of

T = TypeVar("T")
K = TypeVar("K")
Key: TypeAlias = tuple[Row, int]

OVERSPENT = 1.01  # times the budget: a step more or less is no matter


@dataclass(frozen=True)
class Ranking:
    """What is known of one cell among those of its column.

    best: whether its mean, as shown, is that of the `foremost` of several. behind: the best one's accuracy
    less this one's; None for the best one itself. rank: the ranks left open among `ranked` cells. gap: the
    ceiling's accuracy less this one's, None if the ceiling was not measured.
    """

    estimate: Estimate
    best: bool
    behind: Difference | None
    rank: tuple[int, int]
    ranked: int
    gap: Difference | None

    @property
    def tied(self) -> bool:
        """Whether the interval of its difference to the best one contains 0."""
        return self.behind is not None and self.behind.low is not None and not self.behind.clear


@dataclass(frozen=True)
class Scored:
    """All that the tables of a track are made of; the ceiling is in no `grid`.

    rankings: of the cells that were measured and kept to the track's budget, if it has one.
    varied: cells of settings set by hand, of methods whose own settings are in the grid; they are not ranked.
    code: of which code the records are, by their ids; nothing where nobody asked. plain: the records of the
    same sets under the same evaluation without augmentation, by the ids of the sets.
    """

    track: Track
    records: Sequence[Record]
    grid: Grid
    ceiling: Cell
    rankings: Mapping[Key, Ranking]
    varied: Grid
    code: Mapping[str, CodeState] = field(default_factory=dict)
    plain: Mapping[str, Record] = field(default_factory=dict)

    def code_of(self, cell: Cell) -> list[CodeState]:
        """Of which code the finished records of a cell are."""
        return sorted({self.code[record.id] for record in cell.done if record.id in self.code})

    @property
    def cells(self) -> Grid:
        """All cells but the ceiling."""
        return {**self.grid, **self.varied}

    @property
    def ipcs(self) -> list[int]:
        """Columns: images per class of the competitors, or of the ceiling if it stands alone."""
        alone = {record.trial.ipc for record in (*self.ceiling.done, *self.ceiling.missed)}
        return sorted({ipc for _, ipc in self.grid} or alone)


class Costs(NamedTuple):
    """Cost of one trial: means over its seeds, memory the highest, unknown None.

    Memory, FLOPs and images forwarded are those of distillation; FLOPs as `told_cost` has them.
    """

    distill_seconds: float | None
    evaluate_seconds: float | None
    peak_host_bytes: float | None
    peak_device_bytes: float | None
    flops: float | None
    images_forwarded: float | None
    stored_bytes: float | None
    decoded_images: float | None


def scored(records: Iterable[Record], code: Mapping[str, CodeState] | None = None) -> list[Scored]:
    """The tracks of these records, in the order in which they are shown; `code` as in `Scored`."""
    tracks = by_track(records)
    return [_score(track, members, code or {}, _plain(track, tracks)) for track, members in tracks.items()]


def costs_of(records: Sequence[Record]) -> Costs:
    """Costs of these finished trials."""
    distill = [record.distill for record in records]
    evaluate = [record.evaluate for record in records]
    return Costs(
        distill_seconds=_mean(distill, lambda cost: cost.seconds),
        evaluate_seconds=_mean(evaluate, lambda cost: cost.seconds),
        peak_host_bytes=_highest(distill, lambda cost: cost.peak_host_bytes),
        peak_device_bytes=_highest(distill, lambda cost: cost.peak_device_bytes),
        flops=_mean(records, lambda record: told_cost(record, "flops")),
        images_forwarded=_mean(distill, lambda cost: cost.images_forwarded),
        stored_bytes=_mean(records, lambda record: record.stored_bytes),
        decoded_images=_mean(records, lambda record: record.decoded_images),
    )


def uncounted(method: str) -> str:
    """What FLOPs leave out of a method's steps, as its file says; empty if nothing, or if it is not here."""
    info = info_of(method)
    return info.uncounted if info else ""


def told_cost(record: Record, name: str) -> float | None:
    """A cost of a distillation by its name; FLOPs unknown where they leave out what its steps take."""
    hidden = name == "flops" and uncounted(record.trial.method)
    return None if hidden else getattr(record.distill, name, None)


def told_curve(record: Record) -> Sequence[CurvePoint]:
    """The looks at a set during distillation by FLOPs; none where these are not told."""
    return () if told_cost(record, "flops") is None else record.curve


def overspent(budget: float | None, cell: Cell) -> float | None:
    """FLOPs of a cell's distillations where they are beyond the budget, by more than a step may be.

    A budget cuts the steps on the synthetic images, not what has to be there first: a teacher, say.
    """
    if budget is None:
        return None
    flops = costs_of(cell.done).flops
    return flops if is_overspent(budget, flops) else None


def is_overspent(budget: float | None, flops: float | None) -> bool:
    """Whether so many FLOPs of a distillation are beyond its budget; not if either is None."""
    return budget is not None and flops is not None and flops > OVERSPENT * budget


def settings_of(records: Iterable[Record]) -> str:
    """Where the settings of these trials come from."""
    return " / ".join(sorted({record.trial.source_sentence for record in records}))


def _plain(track: Track, tracks: Mapping[Track, Sequence[Record]]) -> Mapping[str, Record]:
    """What `Scored.plain` holds for a track among these."""
    name = without_augmentation(track.protocol)
    if name is None:
        return {}
    other = dataclasses.replace(track, protocol=name, protocol_version=protocol_named(name).version)
    return {
        record.trial.distillation.id: record for record in tracks.get(other, ()) if record.status == "done"
    }


def _score(
    track: Track, records: Sequence[Record], code: Mapping[str, CodeState], plain: Mapping[str, Record]
) -> Scored:
    cells = grid_of([record for record in records if record.trial.method != CEILING])
    varied = {key: cell for key, cell in cells.items() if key[0].settings and own_key(key) in cells}
    grid = {key: cell for key, cell in cells.items() if key not in varied}
    whole = [record for record in records if record.trial.method == CEILING]
    ceiling = cell_of(whole) if whole else EMPTY
    ranked = {key: cell for key, cell in grid.items() if not overspent(track.budget_flops, cell)}
    return Scored(track, records, grid, ceiling, _rankings(ranked, ceiling.groups), varied, code, plain)


def own_key(key: Key) -> Key:
    """The cell of the same method with its own settings."""
    return Row(key[0].method, ""), key[1]


def _rankings(grid: Grid, ceiling: Groups) -> Mapping[Key, Ranking]:
    """Of all cells that were measured; the statistics of all are taken at once, which is much quicker."""
    measured = {key: cell.groups for key, cell in grid.items() if cell.groups}
    found = estimates(measured)
    columns: dict[int, list[Key]] = defaultdict(list)
    for key in measured:
        columns[key[1]].append(key)
    ranks: dict[Key, tuple[int, int]] = {}
    for keys in columns.values():
        ranks |= rank_intervals({key: measured[key] for key in keys})
    leaders = {
        ipc: foremost({key: ranks[key] for key in keys}, {key: found[key].mean for key in keys})
        for ipc, keys in columns.items()
    }
    followers = [key for key in measured if leaders[key[1]] != key]
    behind = differences({key: (measured[leaders[key[1]]], measured[key]) for key in followers})
    gaps = differences({key: (ceiling, groups) for key, groups in measured.items()}) if ceiling else {}
    return {
        key: Ranking(
            estimate=found[key],
            best=len(columns[key[1]]) > 1 and _shown(found[key]) == _shown(found[leaders[key[1]]]),
            behind=behind.get(key),
            rank=ranks[key],
            ranked=len(columns[key[1]]),
            gap=gaps.get(key),
        )
        for key in measured
    }


def foremost(ranks: Mapping[K, tuple[int, int]], means: Mapping[K, float]) -> K:
    """The most accurate of those that none beats clearly in the seeds that they share.

    With unequal seeds the highest mean may be that of one that another beats in each of them.
    """
    return max(ranks, key=lambda one: (ranks[one][0] == 1, means[one]))


def _shown(estimate: Estimate) -> float:
    """Percent as tables round it: what looks equal there is equally bold."""
    return round(100 * estimate.mean, 1)


def _mean(parts: Iterable[T | None], fact: Callable[[T], float | None]) -> float | None:
    """Mean of a fact over the parts that know it; None if none does."""
    known = _known(parts, fact)
    return statistics.fmean(known) if known else None


def _highest(parts: Iterable[T | None], fact: Callable[[T], float | None]) -> float | None:
    return max(_known(parts, fact), default=None)


def _known(parts: Iterable[T | None], fact: Callable[[T], float | None]) -> list[float]:
    facts = (fact(part) for part in parts if part is not None)
    return [value for value in facts if value is not None]
