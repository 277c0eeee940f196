"""What a handful of runs says about a method: means, intervals, differences and ranks, with honest n.

Networks trained on one distilled set are nested in the seed that made it: they are no independent trials of
the method. So every interval comes from the means of the seeds (clusters), never from the single networks.

Which interval: with fewer than `FEW_SEEDS` seeds Student's t interval over the seeds' means, otherwise a
cluster bootstrap, which resamples whole seeds (percentiles of `RESAMPLES` resamples). A bootstrap of two or
three means has next to no distinct resamples: on simulated nested data it covers the truth in 49 % of the
cases with two seeds, in 74 % with three and in 93 % with twenty where 95 % are wanted, the t interval in 95 %
at any number (tests/report/test_stats.py repeats that); from `FEW_SEEDS` on the two agree, and the bootstrap
does not lean on a normal distribution. The price of few seeds is a wide interval, as it should be.

Accuracies are fractions in [0, 1]; an interval is not clipped to that range. Everything is deterministic.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from harness.core.text import mean_and_std
from harness.report.tracks import sample_std

CONFIDENCE = 0.95
FEW_SEEDS = 50
RESAMPLES = 1999
BATCH = 64  # resamples held at a time, so that many cells at once need little memory
ONE_SEED = "one seed: nothing shows how much seeds differ"
# Student's t at (1 + CONFIDENCE) / 2 for 1, 2, ... degrees of freedom, as scipy gives it: the import of
# scipy.special takes longer than a report on hundreds of records.
# fmt: off
QUANTILES = (
    12.706204736174694, 4.302652729749462, 3.1824463052837078, 2.7764451051977934, 2.5705818356363146,
    2.4469118511449786, 2.364624251592784, 2.306004135204166, 2.262157162798205, 2.228138851986274,
    2.200985160091639, 2.1788128296672284, 2.1603686564627913, 2.144786687917804, 2.131449545559776,
    2.1199052992212546, 2.1098155778333156, 2.1009220402410382, 2.0930240544083087, 2.085963447265864,
    2.0796138447276795, 2.0738730679040254, 2.0686576104190486, 2.0638985616280245, 2.0595385527532972,
    2.0555294386428735, 2.0518305164802846, 2.0484071417952454, 2.045229642132703, 2.0422724563012378,
    2.039513446396408, 2.0369333434601016, 2.0345152974493383, 2.0322445093177186, 2.030107928250343,
    2.0280940009804502, 2.0261924630291093, 2.0243941639119694, 2.022690920036761, 2.021075390306273,
    2.019540970441376, 2.0180817028184443, 2.016692199227824, 2.0153675744437636, 2.014103388880846,
    2.012895598919429, 2.0117405137297655, 2.010634757624232,
)
# fmt: on

K = TypeVar("K", bound=Hashable)
Groups: TypeAlias = Mapping[int, Sequence[float]]
Means: TypeAlias = Mapping[int, float]
Interval: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """Accuracy of a method, from `networks` networks in all over `seeds` seeds.

    mean: mean of the seeds' means. std: sample standard deviation over all networks, None for a single one.
    low, high: 95 % interval of the mean over seeds; None with one seed, and then `note` says why.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    seeds: int
    networks: int
    note: str

    @property
    def text(self) -> str:
        """Mean and deviation in percent, `41.3 ± 1.2`."""
        return mean_and_std(self.mean, self.std)


@dataclass(frozen=True)
class Difference:
    """One method's accuracy less another's.

    paired: whether it is the mean of the differences within `seeds` shared seeds; else that of two sets of
    seeds, of which `seeds` is the smaller number. low, high: 95 % interval, None where `note` says why.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int
    paired: bool
    note: str

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0; an unknown interval excludes nothing."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def estimate(groups: Groups) -> Estimate:
    """The estimate from accuracies of networks by seed; ValueError without any accuracy."""
    return estimates({0: groups})[0]


def estimates(cells: Mapping[K, Groups]) -> dict[K, Estimate]:
    """`estimate` of many cells at once, which takes little longer than one."""
    means = {key: _seed_means(groups) for key, groups in cells.items()}
    intervals = _intervals([list(seeds.values()) for seeds in means.values()])
    return {
        key: _estimate(cells[key], means[key], interval)
        for key, interval in zip(means, intervals, strict=True)
    }


def difference(a: Groups, b: Groups) -> Difference:
    """How much better `a` is than `b`, paired by seed where two or more seeds are shared.

    Otherwise, with two or more seeds each, Welch's interval over the two sets of seeds' means. ValueError if
    either holds no accuracy.
    """
    return differences({0: (a, b)})[0]


def differences(pairs: Mapping[K, tuple[Groups, Groups]]) -> dict[K, Difference]:
    """`difference` of many pairs at once, which takes little longer than one."""
    means = [(_seed_means(a), _seed_means(b)) for a, b in pairs.values()]
    return dict(zip(pairs, _differences(means), strict=True))


def rank_intervals(cells: Mapping[K, Groups]) -> dict[K, tuple[int, int]]:
    """Best and worst rank that the data leave open for each method; 1 is best.

    A method ranks behind all that are clearly better and before all that are clearly worse: those whose
    95 % interval of the difference excludes 0, each pair taken by itself.
    """
    means = {name: _seed_means(groups) for name, groups in cells.items()}
    pairs = list(itertools.combinations(means, 2))
    better = dict.fromkeys(means, 0)
    worse = dict.fromkeys(means, 0)
    for (a, b), found in zip(pairs, _differences([(means[a], means[b]) for a, b in pairs]), strict=True):
        if found.clear:
            winner, loser = (a, b) if found.mean > 0 else (b, a)
            worse[winner] += 1
            better[loser] += 1
    return {name: (1 + better[name], len(means) - worse[name]) for name in means}


def _seed_means(groups: Groups) -> Means:
    means = {seed: statistics.fmean(values) for seed, values in sorted(groups.items()) if len(values)}
    if not means:
        raise ValueError("no accuracies to estimate from")
    return means


def _estimate(groups: Groups, means: Means, interval: Interval | None) -> Estimate:
    networks = [value for values in groups.values() for value in values]
    low, high = interval or (None, None)
    return Estimate(
        mean=statistics.fmean(means.values()),
        std=sample_std(networks) if len(networks) > 1 else None,
        low=low,
        high=high,
        seeds=len(means),
        networks=len(networks),
        note="" if interval else ONE_SEED,
    )


def _differences(pairs: Sequence[tuple[Means, Means]]) -> list[Difference]:
    within = [[a[seed] - b[seed] for seed in a if seed in b] for a, b in pairs]
    return [
        _paired(sample, interval) if interval or len(a) == len(b) == len(sample) == 1 else _unpaired(a, b)
        for (a, b), sample, interval in zip(pairs, within, _intervals(within), strict=True)
    ]


def _paired(sample: Sequence[float], interval: Interval | None) -> Difference:
    low, high = interval or (None, None)
    note = "" if interval else ONE_SEED
    return Difference(statistics.fmean(sample), low, high, len(sample), True, note)


def _unpaired(a: Means, b: Means) -> Difference:
    gap = statistics.fmean(a.values()) - statistics.fmean(b.values())
    seeds = min(len(a), len(b))
    if seeds < 2:
        return Difference(gap, None, None, seeds, False, ONE_SEED)
    low, high = _welch(list(a.values()), list(b.values()), gap)
    return Difference(gap, low, high, seeds, False, "different seeds: not paired")


def _welch(a: Sequence[float], b: Sequence[float], gap: float) -> Interval:
    """What `scipy.stats.ttest_ind(equal_var=False)` gives, without the import of scipy.stats."""
    parts = [(statistics.variance(sample) / len(sample), len(sample) - 1) for sample in (a, b)]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return gap, gap  # the degrees of freedom are 0/0 then
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    half = _quantile(freedom) * variance**0.5
    return gap - half, gap + half


def _quantile(freedom: float) -> float:
    """Student's t at (1 + CONFIDENCE) / 2."""
    if freedom in range(1, len(QUANTILES) + 1):
        return QUANTILES[int(freedom) - 1]
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def _intervals(samples: Sequence[Sequence[float]]) -> list[Interval | None]:
    """The 95 % interval of the mean of each sample; None for those of fewer than two numbers."""
    found: list[Interval | None] = [None] * len(samples)
    by_size: dict[int, list[int]] = defaultdict(list)
    for place, sample in enumerate(samples):
        by_size[len(sample)].append(place)
    for size, places in by_size.items():
        if size > 1:
            bounds = _bounds([samples[place] for place in places], size)
            for place, interval in zip(places, bounds, strict=True):
                found[place] = interval
    return found


def _bounds(samples: Sequence[Sequence[float]], size: int) -> Iterable[Interval]:
    """Intervals of samples of one size, by the rule that the module's header gives."""
    return map(_t_interval, samples) if size < FEW_SEEDS else _bootstrap(samples)


def _t_interval(sample: Sequence[float]) -> Interval:
    """What `scipy.stats.t.interval` gives."""
    mean = statistics.fmean(sample)
    variance = math.fsum((value - mean) ** 2 for value in sample) / (len(sample) - 1)
    half = _quantile(len(sample) - 1) * math.sqrt(variance / len(sample))
    return mean - half, mean + half


def _bootstrap(samples: Sequence[Sequence[float]]) -> Iterable[Interval]:
    """What `scipy.stats.bootstrap` gives with percentiles, without the import of scipy.stats."""
    import numpy as np

    numbers, measured = np.random.default_rng(0), np.array(samples)
    size = measured.shape[-1]
    means = [
        measured[:, numbers.integers(0, size, (min(BATCH, RESAMPLES - begin), size))].mean(axis=-1)
        for begin in range(0, RESAMPLES, BATCH)
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means, axis=-1), [tail, 1 - tail], axis=-1)
    return zip(low.tolist(), high.tolist(), strict=True)
