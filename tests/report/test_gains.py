"""Gains: formulas by hand, zero for random images, pairing over seeds, and what was not measured."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.report.gains import PARTS, Accuracies, Gains, gains, score
from harness.report.stats import ONE_SEED

fractions = st.floats(0, 1)
measured = st.dictionaries(st.integers(0, 5), st.lists(fractions, min_size=1, max_size=3), min_size=1)

FULL = Accuracies(
    own={0: [0.70, 0.72], 1: [0.66, 0.68]},
    random={0: [0.60], 1: [0.58]},
    hard={0: [0.50], 1: [0.52]},
    whole={0: [0.90], 1: [0.92]},
    plain={0: [0.64], 1: [0.65]},
    random_plain={0: [0.55], 1: [0.57]},
    steps=500,
)


def test_each_figure_by_hand() -> None:
    found = gains(FULL)
    assert found.ior.mean == pytest.approx((0.11 + 0.09) / 2)
    assert found.hlr.mean == pytest.approx(0.40)
    lrs = [(math.exp(a) - math.exp(-1)) / (math.e - math.exp(-1)) for a in (0.055 - 0.2, 0.045 - 0.2)]
    assert found.lrs.mean == pytest.approx(sum(lrs) / 2)
    ars = [(math.exp(b) - math.exp(-1)) / (math.e - math.exp(-1)) for b in (0.1, 0.085)]
    assert found.ars.mean == pytest.approx(sum(ars) / 2)
    assert found.per_step.mean == pytest.approx(0.1 / 500)


def test_intervals_are_students_t_within_seeds() -> None:
    found = gains(FULL).ior
    low, high = stats.t.interval(0.95, 1, 0.10, stats.sem([0.11, 0.09]))
    assert (found.low, found.high, found.seeds, found.note) == (
        pytest.approx(low),
        pytest.approx(high),
        2,
        "",
    )


def test_the_score_maps_minus_one_to_one_onto_zero_to_one() -> None:
    assert (score(-1), score(1)) == (0, pytest.approx(1))
    assert score(0) == pytest.approx(1 / (1 + math.e))


@given(measured)
def test_random_images_gain_nothing_over_themselves(groups: dict[int, list[float]]) -> None:
    found = gains(Accuracies(own=groups, random=groups, plain=groups, random_plain=groups, steps=3))
    assert (found.ior.mean, found.per_step.mean) == (0, 0)
    assert (found.ior.low, found.ior.high) == ((0, 0) if len(groups) > 1 else (None, None))
    assert found.ars.mean == pytest.approx(score(0))


@pytest.mark.slow
@given(measured, measured, measured, measured, fractions)
def test_scores_stay_in_zero_to_one(
    own: dict[int, list[float]],
    random: dict[int, list[float]],
    hard: dict[int, list[float]],
    whole: dict[int, list[float]],
    weight: float,
) -> None:
    found = gains(Accuracies(own, random, hard, whole, hard, whole), weight)
    for one in (found.lrs, found.ars):
        assert one.mean is None or -1e-12 <= one.mean <= 1 + 1e-12


def test_only_seeds_that_all_parts_share_count() -> None:
    found = gains(Accuracies(own={0: [0.5], 1: [0.6], 7: [0.9]}, random={1: [0.4], 7: [0.5], 9: [0.1]}))
    assert found.ior.mean == pytest.approx(0.3)
    assert found.ior.seeds == 2


def test_one_shared_seed_has_no_interval_and_says_why() -> None:
    found = gains(Accuracies(own={0: [0.5, 0.7]}, random={0: [0.4]})).ior
    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high, found.seeds, found.note) == (None, None, 1, ONE_SEED)


def test_no_shared_seed_is_said_and_not_compared() -> None:
    found = gains(Accuracies(own={0: [0.5]}, random={1: [0.4]})).ior
    assert found.mean is None
    assert found.note == f"no seed in common: {PARTS['own']}, {PARTS['random']}"


@pytest.mark.parametrize(
    ("lacking", "figures"),
    [
        ("random", {"ior", "lrs", "ars", "per_step"}),
        ("hard", {"hlr", "lrs"}),
        ("whole", {"hlr", "lrs"}),
        ("plain", {"ars"}),
        ("random_plain", {"ars"}),
        ("own", {"ior", "lrs", "ars", "per_step"}),
    ],
)
def test_a_part_that_was_not_measured_is_named_and_not_imputed(lacking: str, figures: set[str]) -> None:
    parts = {part: getattr(FULL, part) for part in PARTS} | {lacking: {0: []}}
    found = gains(Accuracies(**parts, steps=500))
    for name in Gains.__dataclass_fields__:
        one = getattr(found, name)
        assert (one.mean is None) == (name in figures)
        assert one.note == (f"not measured: {PARTS[lacking]}" if name in figures else "")


def test_without_steps_there_is_no_gain_per_step() -> None:
    found = gains(Accuracies(own=FULL.own, random=FULL.random)).per_step
    assert (found.mean, found.note) == (None, "not measured: optimiser steps of the evaluation")


def test_more_accuracy_under_hard_labels_is_less_to_recover() -> None:
    better = Accuracies(own=FULL.own, random=FULL.random, hard={0: [0.6], 1: [0.62]}, whole=FULL.whole)
    before, after = gains(FULL), gains(better)
    assert after.hlr.mean == pytest.approx(0.30)
    assert (after.lrs.mean or 0) > (before.lrs.mean or 1)


def test_the_weight_is_a_fraction() -> None:
    with pytest.raises(ValueError, match="expected a fraction"):
        gains(FULL, 1.5)
    alone = gains(FULL, 1.0).lrs
    assert alone.mean == pytest.approx((score(0.11) + score(0.09)) / 2)
