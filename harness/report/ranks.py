"""One rank over many cells: mean rank, Borda count and win rate of each method, and how sure they are.

A cell is one condition in which methods are compared, such as a dataset at one ipc under one protocol. Within
a cell methods are ranked by their mean accuracy over seeds; 1 is best, and equal ones share the mean of their
ranks. Over the cells, with N methods:

    mean rank = mean over cells of the rank
    Borda     = sum over cells of (N - rank), the number of methods beaten, a tie counting one half
    win rate  = (N - mean rank) / (N - 1), the share of all comparisons won

Every ranked method has every counted cell, so the three order methods alike. Which are these: the block of
methods x cells, all measured, with the most entries, found by adding the cell that keeps the most methods
again and again. Nothing is imputed, and means over different cells would compare datasets instead of
methods: so methods that lack a counted cell are named and not ranked, and cells that ranked methods lack are
named and not counted.

Two intervals of the mean rank (95 %), since they answer two questions:

- `over seeds`: these cells, other seeds. A residual bootstrap: to each mean are added residuals drawn from
  all methods of the cell, without what a seed does to all of them, and ranks are taken anew. Pooling makes up
  for the few seeds of any one method; it supposes that the seeds of all methods of a cell differ about as
  much. Noise moves ranks to the middle, once in the data and again in the resamples, so the interval spans
  the percentiles and their mirror image about the mean rank. On made-up boards it covers the ranks of the
  true means in 93 to 99 %; in 89 % with a dozen cells in which neighbours differ by a third of the deviation
  between seeds (tests/report/test_ranks.py repeats that).
- `over cells`: other datasets and ipc as well. Student's t over the cells' ranks, from 50 cells on a
  bootstrap of cells, which over a handful has too few distinct resamples (`harness.report.stats`); and all
  that other seeds leave open in these cells, since a few cells may agree by chance. None below
  `FEWEST_CELLS`.

Sources: Demšar, Journal of Machine Learning Research 7, 2006, on mean ranks over datasets; Davison and
Hinkley, Bootstrap Methods and Their Application, 1997, on residuals and on why whole cells are drawn without
drawing seeds again. Everything is deterministic.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from harness.report.stats import CONFIDENCE, RESAMPLES, Groups, Interval, estimates

if TYPE_CHECKING:
    import numpy as np

    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

C = TypeVar("C", bound=Hashable)
Scores: TypeAlias = Mapping[C, Mapping[str, Groups]]
FEWEST_CELLS = 3
DIGITS = 9  # accuracies that differ by less are equal: they differ by rounding alone


@dataclass(frozen=True)
class Standing:
    """Where one method stands among `methods` methods over `cells` cells.

    place: 1 for the best mean rank, the same for equal ones. Intervals are None where nothing shows one.
    """

    method: str
    place: int
    rank: float
    over_seeds: Interval | None
    over_cells: Interval | None
    methods: int
    cells: int

    @property
    def borda(self) -> float:
        """Methods beaten, summed over the cells."""
        return self.cells * (self.methods - self.rank)

    @property
    def win_rate(self) -> float:
        """Share of all comparisons with another method in a cell that it wins, a tie counting one half."""
        return (self.methods - self.rank) / (self.methods - 1)


@dataclass(frozen=True)
class Ranks(Generic[C]):
    """Standings, best first, over `cells`, and what had no part in them.

    lacking: for each method that is not ranked the counted cells that it lacks. left_out: for each cell that
    is not counted the ranked methods that lack it.
    """

    standings: Sequence[Standing]
    cells: Sequence[C]
    lacking: Mapping[str, Sequence[C]]
    left_out: Mapping[C, Sequence[str]]


def ranks(scores: Scores[C]) -> Ranks[C]:
    """Rank methods over cells, from accuracies in [0, 1] by cell, method and seed.

    No standings if no two methods share a cell. Cells keep their order.
    """
    measured = {
        cell: {method: groups for method, groups in found.items() if any(map(len, groups.values()))}
        for cell, found in scores.items()
    }
    methods, counted = block({cell: set(found) for cell, found in measured.items()})
    everyone = sorted({method for found in measured.values() for method in found})
    return Ranks(
        standings=_standings(methods, [measured[cell] for cell in counted]),
        cells=counted,
        lacking={
            method: [cell for cell in counted if method not in measured[cell]]
            for method in everyone
            if method not in methods
        },
        left_out={
            cell: [method for method in methods if method not in found]
            for cell, found in measured.items()
            if cell not in counted
        },
    )


def block(measured: Mapping[C, set[str]]) -> tuple[list[str], list[C]]:
    """Methods, sorted, and cells such that every method was measured in every cell, as many pairs as can be.

    Cells are added one by one, each the one that keeps the most methods; two methods at least.
    """
    kept = set().union(*measured.values())
    waiting, chosen = list(measured), list[C]()
    best: tuple[set[str], list[C]] = (set(), [])
    while waiting:
        cell = max(waiting, key=lambda one: len(kept & measured[one]))
        kept = kept & measured[cell]
        if len(kept) < 2:
            break
        waiting.remove(cell)
        chosen.append(cell)
        if len(kept) * len(chosen) >= len(best[0]) * len(best[1]):
            best = kept, list(chosen)
    return sorted(best[0]), [cell for cell in measured if cell in best[1]]


def _standings(methods: Sequence[str], cells: Sequence[Mapping[str, Groups]]) -> list[Standing]:
    if not methods:
        return []
    import numpy as np

    means = [[_by_seed(found[method]) for method in methods] for found in cells]
    accuracies = np.array([[statistics.fmean(seeds.values()) for seeds in cell] for cell in means])
    by_cell = mean_ranks(accuracies)
    found = by_cell.mean(axis=0)
    over_seeds = _over_seeds(means, accuracies, found)
    over_cells = _over_cells(by_cell, over_seeds)
    order = sorted(range(len(methods)), key=lambda place: (round(found[place], DIGITS), methods[place]))
    return [
        Standing(
            method=methods[one],
            place=1 + int(np.sum(found < found[one] - 10.0**-DIGITS)),
            rank=float(found[one]),
            over_seeds=over_seeds[one],
            over_cells=over_cells[one],
            methods=len(methods),
            cells=len(cells),
        )
        for one in order
    ]


def mean_ranks(accuracies: Floats) -> Floats:
    """Ranks within the last axis, 1 for the highest accuracy, equal ones sharing the mean of theirs."""
    import numpy as np

    rounded = np.round(accuracies, DIGITS)
    found = np.empty(rounded.shape)
    for place in range(rounded.shape[-1]):
        one = rounded[..., place, None]
        found[..., place] = (rounded > one).sum(-1) + ((rounded == one).sum(-1) + 1) / 2
    return found


def _by_seed(groups: Groups) -> dict[int, float]:
    return {seed: statistics.fmean(values) for seed, values in sorted(groups.items()) if len(values)}


def _over_seeds(
    means: Sequence[Sequence[Mapping[int, float]]], accuracies: Floats, found: Floats
) -> list[Interval | None]:
    """Intervals of the mean ranks `found`; None for all if some cell has no method with two seeds."""
    import numpy as np

    numbers = np.random.default_rng(0)
    total = np.zeros((RESAMPLES, len(found)))
    for cell, seeds in zip(accuracies, means, strict=True):
        pool = _residuals(seeds)
        if not pool.size:
            return [None] * len(found)
        noise = [numbers.choice(pool, (RESAMPLES, len(own))).mean(axis=1) for own in seeds]
        total += mean_ranks(cell + np.stack(noise, axis=1))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(total / len(means), [tail, 1 - tail], axis=0)
    return _within(np.minimum(low, 2 * found - high), np.maximum(high, 2 * found - low), len(found))


def _residuals(methods: Sequence[Mapping[int, float]]) -> Floats:
    """How far the seeds of a cell lie from their method's mean, without what a seed does to all methods.

    Scaled so that their variance is that of one seed; empty if no method has two seeds.
    """
    import numpy as np

    several = [seeds for seeds in methods if len(seeds) > 1]
    away = [
        {seed: value - statistics.fmean(seeds.values()) for seed, value in seeds.items()} for seeds in several
    ]
    count = sum(map(len, away))
    if not count:
        return np.empty(0)
    together = defaultdict(list)
    for seeds in away:
        for seed, value in seeds.items():
            together[seed].append(value)
    free = count - len(several) - (len(together) - 1)
    shared = {seed: statistics.fmean(values) for seed, values in together.items()} if free > 0 else {}
    found = [value - shared.get(seed, 0.0) for seeds in away for seed, value in seeds.items()]
    scale: float = (count / (free if free > 0 else count - len(several))) ** 0.5
    return np.array(found, dtype=np.float64) * scale


def _over_cells(by_cell: Floats, over_seeds: Sequence[Interval | None]) -> list[Interval | None]:
    """Intervals of the mean over cells of (cells, methods) ranks, nowhere within those over seeds."""
    cells, number = by_cell.shape
    if cells < FEWEST_CELLS:
        return [None] * number
    found = estimates({place: dict(enumerate(by_cell[:, [place]].tolist())) for place in range(number)})
    pairs = [(one.low or 0.0, one.high or 0.0) for one in found.values()]
    held = [
        pair if seeds is None else (min(pair[0], seeds[0]), max(pair[1], seeds[1]))
        for pair, seeds in zip(pairs, over_seeds, strict=True)
    ]
    return _within([low for low, _ in held], [high for _, high in held], number)


def _within(low: Iterable[float], high: Iterable[float], number: int) -> list[Interval | None]:
    """Intervals no further than ranks go."""
    return [(max(float(a), 1.0), min(float(b), float(number))) for a, b in zip(low, high, strict=True)]
