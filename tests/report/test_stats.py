"""Intervals, differences and ranks: what scipy gives, what symmetry demands, and how often they are right."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness.report.stats import (
    BATCH,
    CONFIDENCE,
    FEW_SEEDS,
    ONE_SEED,
    QUANTILES,
    RESAMPLES,
    Difference,
    Estimate,
    difference,
    differences,
    estimate,
    estimates,
    rank_intervals,
)

accuracy = st.floats(0, 1, allow_subnormal=False)


def nested(seeds: st.SearchStrategy[int]) -> st.SearchStrategy[dict[int, list[float]]]:
    """Accuracies of as many networks for each of some seeds."""
    sizes = st.tuples(seeds, st.integers(1, 4))
    return sizes.flatmap(
        lambda size: st.lists(
            st.lists(accuracy, min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0]
        ).map(lambda rows: dict(enumerate(rows)))
    )


def moved(groups: dict[int, list[float]], scale: float, shift: float) -> dict[int, list[float]]:
    return {seed: [scale * value + shift for value in values] for seed, values in groups.items()}


@pytest.mark.slow
@given(nested(st.integers(2, FEW_SEEDS - 1)))
def test_few_seeds_give_scipys_t_interval_of_their_means(groups: dict[int, list[float]]) -> None:
    means = [np.mean(values) for values in groups.values()]
    found = estimate(groups)
    assert found.mean == pytest.approx(np.mean(means), abs=1e-12)
    assert (found.seeds, found.networks) == (len(groups), sum(map(len, groups.values())))
    assert found.note == ""
    spread = scipy_stats.sem(means)
    if spread > 1e-12:
        low, high = scipy_stats.t.interval(CONFIDENCE, len(means) - 1, np.mean(means), spread)
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    else:
        assert found.low == pytest.approx(found.high, abs=1e-9)


def test_quantiles_are_scipys() -> None:
    assert len(QUANTILES) == FEW_SEEDS - 2
    for freedom, quantile in enumerate(QUANTILES, start=1):
        assert quantile == pytest.approx(scipy_stats.t.ppf((1 + CONFIDENCE) / 2, freedom), rel=1e-12)


def test_many_seeds_give_scipys_bootstrap_of_their_means() -> None:
    numbers = np.random.default_rng(1)
    groups = {seed: list(numbers.uniform(size=3)) for seed in range(FEW_SEEDS)}
    means = np.array([np.mean(values) for values in groups.values()])
    found = estimate(groups)
    others = scipy_stats.bootstrap(
        (means,), np.mean, method="percentile", n_resamples=20_000, random_state=np.random.default_rng(2)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((others.low, others.high), abs=0.01)
    same = scipy_stats.bootstrap(
        (means,),
        np.mean,
        method="percentile",
        n_resamples=RESAMPLES,
        batch=BATCH,
        random_state=np.random.default_rng(0),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((same.low, same.high), rel=1e-12), "of the same draws"
    assert estimate(groups) == found, "the same records must give the same page"


@given(nested(st.integers(2, 6)), st.floats(0.1, 1), st.floats(-1, 1))
def test_estimates_move_with_the_accuracies(
    groups: dict[int, list[float]], scale: float, shift: float
) -> None:
    before, after = estimate(groups), estimate(moved(groups, scale, shift))
    for name in ("mean", "low", "high"):
        expected = scale * getattr(before, name) + shift
        assert getattr(after, name) == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
@given(nested(st.integers(2, 6)), nested(st.integers(2, 6)))
def test_differences_are_antisymmetric(a: dict[int, list[float]], b: dict[int, list[float]]) -> None:
    there, back = difference(a, b), difference(b, a)
    assert there.mean == pytest.approx(-back.mean, abs=1e-12)
    assert (there.low, there.high) == pytest.approx((-(back.high or 0), -(back.low or 0)), abs=1e-9)
    assert (there.seeds, there.paired, there.clear) == (back.seeds, back.paired, back.clear)


@pytest.mark.slow
@given(nested(st.integers(1, 30)))
def test_a_method_differs_from_itself_by_nothing(groups: dict[int, list[float]]) -> None:
    found = difference(groups, groups)
    assert (found.mean, found.paired, found.clear) == (0, True, False)
    assert (found.low, found.high) == ((0, 0) if len(groups) > 1 else (None, None))


def test_pairing_takes_out_what_seeds_have_in_common() -> None:
    a = {0: [0.50, 0.52], 1: [0.70, 0.72], 2: [0.30, 0.32]}
    b = {0: [0.49, 0.50], 1: [0.68, 0.70], 2: [0.28, 0.31], 9: [0.99]}
    found = difference(a, b)
    within = [0.015, 0.02, 0.015]
    low, high = scipy_stats.t.interval(CONFIDENCE, 2, np.mean(within), scipy_stats.sem(within))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(within), low, high))
    assert (found.seeds, found.paired, found.clear) == (3, True, True)


def test_without_shared_seeds_it_is_welchs_interval() -> None:
    a, b = {0: [0.5], 1: [0.6], 2: [0.7]}, {7: [0.2], 8: [0.25]}
    found = difference(a, b)
    theirs = scipy_stats.ttest_ind([0.5, 0.6, 0.7], [0.2, 0.25], equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert (found.seeds, found.paired) == (2, False)
    assert difference({0: [0.5], 1: [0.5]}, {2: [0.25], 3: [0.25]}).low == 0.25


@pytest.mark.parametrize("b", [{0: [0.1, 0.2]}, {5: [0.1, 0.2]}, {5: [0.1], 0: [0.2], 7: []}])
def test_one_seed_gives_no_interval_and_says_why(b: dict[int, list[float]]) -> None:
    one = {0: [0.5, 0.6, 0.7]}
    assert (estimate(one).low, estimate(one).high, estimate(one).note) == (None, None, ONE_SEED)
    assert estimate(one).std == pytest.approx(0.1)
    found = difference(one, b)
    assert (found.low, found.high, found.note, found.clear) == (None, None, ONE_SEED, False)


def test_a_single_network_has_no_spread() -> None:
    assert estimate({0: [0.5]}).std is None


def test_nothing_gives_no_estimate() -> None:
    with pytest.raises(ValueError, match="no accuracies"):
        estimate({0: []})


def test_many_at_once_equal_one_at_a_time() -> None:
    numbers = np.random.default_rng(3)
    cells = {
        (size, k): {seed: list(numbers.uniform(size=2)) for seed in range(size)}
        for size in (1, 2, 3, FEW_SEEDS)
        for k in range(3)
    }
    for key, found in estimates(cells).items():
        assert dataclasses.astuple(found) == close_to(estimate(cells[key]))
    pairs = {(a, b): (cells[a], cells[b]) for a in cells for b in cells if a[0] == b[0]}
    for names, gap in differences(pairs).items():
        assert dataclasses.astuple(gap) == close_to(difference(*pairs[names]))


def close_to(found: Estimate | Difference) -> tuple[object, ...]:
    """The same but for the rounding of sums."""
    facts = dataclasses.astuple(found)
    return tuple(pytest.approx(fact, abs=1e-12) if isinstance(fact, float) else fact for fact in facts)


def test_a_clearly_better_method_has_one_rank() -> None:
    cells = {
        "bad": {0: [0.1, 0.12], 1: [0.11], 2: [0.1]},
        "good": {0: [0.9], 1: [0.91], 2: [0.9]},
        "fair": {0: [0.5], 1: [0.6], 2: [0.55]},
        "as fair": {0: [0.6], 1: [0.5], 2: [0.56]},
        "unknown": {0: [0.5]},
    }
    assert rank_intervals(cells) == {
        "good": (1, 2),
        "fair": (2, 4),
        "as fair": (2, 4),
        "bad": (4, 5),
        "unknown": (1, 5),
    }


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=3), nested(st.integers(1, 4)), min_size=1, max_size=5))
def test_ranks_hold_the_order_of_the_means(cells: dict[str, dict[int, list[float]]]) -> None:
    ranks = rank_intervals(cells)
    assert all(1 <= first <= last <= len(cells) for first, last in ranks.values())
    assert min(first for first, _ in ranks.values()) == 1
    assert max(last for _, last in ranks.values()) == len(cells)


@pytest.mark.parametrize(("seeds", "least"), [(2, 0.93), (3, 0.93), (5, 0.93), (FEW_SEEDS, 0.92)])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds: int, least: float) -> None:
    """On nested data, where networks of a seed share that seed's luck; the binomial error is up to 0.01."""
    assert least < coverage(seeds, clustered=True) < 0.97


def test_intervals_over_single_networks_would_claim_too_much() -> None:
    """Why seeds are the clusters: as if networks were independent, far fewer intervals hold the truth."""
    assert coverage(3, clustered=False) < 0.85


def coverage(seeds: int, *, clustered: bool, networks: int = 3, truth: float = 0.6) -> float:
    """Share of simulated methods whose interval holds the true accuracy."""
    numbers = np.random.default_rng(seeds)
    methods = 2000 if seeds < FEW_SEEDS else 500
    luck = numbers.normal(truth, 0.02, size=(methods, seeds, 1))
    drawn = numbers.normal(luck, 0.01, size=(methods, seeds, networks))
    if not clustered:
        drawn = drawn.reshape(methods, seeds * networks, 1)
    cells = {k: dict(enumerate(rows.tolist())) for k, rows in enumerate(drawn)}
    found = estimates(cells).values()
    return float(np.mean([(e.low or 1) <= truth <= (e.high or 0) for e in found]))


def test_a_bootstrap_of_few_seeds_would_claim_too_much() -> None:
    """The figures that the header of harness/report/stats.py gives."""
    numbers = np.random.default_rng(0)
    for seeds, share in ((2, 0.49), (3, 0.74)):
        means = numbers.normal(size=(1000, seeds))
        interval = scipy_stats.bootstrap(
            (means,), np.mean, axis=-1, n_resamples=499, batch=50, method="percentile", random_state=numbers
        ).confidence_interval
        held = float(np.mean((interval.low <= 0) & (interval.high >= 0)))
        assert held == pytest.approx(share, abs=0.05)


def test_scipys_statistics_are_imported_where_needed_only() -> None:
    """They take longer to import than a report takes to make."""
    code = (
        "import sys; from harness.report.stats import estimate; estimate({0: [.1], 1: [.2]});"
        "assert not {'numpy', 'scipy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
