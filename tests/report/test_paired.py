"""Paired tests of two methods' predictions: against scipy, made-up networks of known truth, and edges."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.core.errors import UserError
from harness.engine.predictions import Predictions
from harness.report.paired import (
    FEW_DISCORDANT,
    ONE_SEED,
    RESAMPLES,
    BySeed,
    agreement,
    compare_predictions,
    majority,
    mcnemar,
    resampled,
    shared_errors,
)

CLASSES = 10


def of(predicted: npt.ArrayLike, labels: npt.ArrayLike, fingerprint: str = "f") -> Predictions:
    return Predictions.of(predicted, np.full(np.shape(predicted), 0.5), labels, fingerprint)


def simulated(
    numbers: np.random.Generator,
    accuracy_logit: float,
    hard: npt.NDArray[np.float64],
    seeds: int,
    spread: float,
) -> BySeed:
    """Two networks for each seed, right by chance: images are more or less hard, seeds more or less good."""
    labels = np.arange(hard.size) % CLASSES
    own = hard + 0.7 * numbers.normal(size=hard.size)
    found = {}
    for seed in range(seeds):
        chance = 1 / (1 + np.exp(-(accuracy_logit + own + spread * numbers.normal())))
        right = numbers.random((2, hard.size)) < chance
        wrong = (labels + numbers.integers(1, CLASSES, (2, hard.size))) % CLASSES
        found[seed] = of(np.where(right, labels, wrong), labels)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "spread", "least", "most"),
    [
        (1, 0.0, 0.90, 0.98),
        (2, 0.0, 0.96, 1.0),
        (2, 0.3, 0.84, 0.96),
        (3, 0.3, 0.9, 0.98),
        (6, 0.2, 0.93, 0.99),
    ],
)
def test_equal_methods_differ_significantly_about_as_often_as_chance_allows(
    seeds: int, spread: float, least: float, most: float
) -> None:
    numbers, tests = np.random.default_rng(7), 300
    covered, values = [], []
    for _ in range(200):
        hard = 1.5 * numbers.normal(size=tests)
        found = [
            np.stack([one.right.mean(0) for one in simulated(numbers, 0, hard, seeds, spread).values()])
            for _ in "ab"
        ]
        seen = resampled(found[0] - found[1])
        assert seen.low is not None
        assert seen.high is not None
        assert seen.p is not None
        covered.append(seen.low <= 0 <= seen.high)
        values.append(seen.p)
        assert (seen.p < 0.05) != covered[-1], "the interval and p say the same"
    assert least <= np.mean(covered) <= most
    assert 0.4 < np.mean(values) < 0.7, "p of equal methods is spread over [0, 1], or rather too high"
    assert np.mean(np.array(values) < 0.5) == pytest.approx(0.5, abs=0.25)


def test_a_known_difference_is_found_and_covered() -> None:
    numbers = np.random.default_rng(3)
    hard = 1.5 * numbers.normal(size=2000)
    a, b = simulated(numbers, 0.4, hard, 3, 0.02), simulated(numbers, 0, hard, 3, 0.02)
    found = compare_predictions(a, b)
    assert (found.seeds, found.networks, found.tests) == (3, (6, 6), 2000)
    assert found.resampled.p is not None
    assert found.resampled.p < 0.05
    assert found.resampled.low is not None
    assert found.resampled.high is not None
    assert 0 < found.resampled.low < 0.07 < found.resampled.high, "0.4 on this scale is about seven points"
    assert found.mcnemar.p < 0.05
    assert found.mcnemar.only_a > found.mcnemar.only_b


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 5))
def test_mcnemar_is_scipys_binomial_or_chi_squared(only_a: int, only_b: int, both: int) -> None:
    a = np.array([True] * only_a + [False] * only_b + [True] * both)
    b = np.array([False] * only_a + [True] * only_b + [True] * both)
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (only_a, only_b)
    discordant = only_a + only_b
    if discordant < FEW_DISCORDANT:
        expected = stats.binomtest(only_a, discordant).pvalue if discordant else 1.0
        assert found.test == "exact"
    else:
        expected = stats.chi2.sf(max(abs(only_a - only_b) - 1, 0) ** 2 / discordant, 1)
        assert found.test == "chi-squared"
    assert found.p == pytest.approx(expected)
    assert mcnemar(b, a).p == found.p


def test_equal_classifiers_pass_mcnemar_in_95_percent() -> None:
    numbers = np.random.default_rng(0)
    values = [mcnemar(numbers.random(400) < 0.6, numbers.random(400) < 0.6).p for _ in range(1000)]
    assert 0.93 < np.mean(np.array(values) > 0.05) < 0.98
    assert 0.45 < np.mean(values) < 0.6


def test_the_majority_decides_then_the_surer_then_the_lower_class() -> None:
    predicted = np.array([[1, 5, 3, 2], [1, 4, 3, 0], [0, 4, 1, 1], [2, 5, 1, 3]])
    probability = np.array(
        [[0.1, 0.9, 0.3, 0.5], [0.1, 0.3, 0.4, 0.5], [1.0, 0.3, 0.3, 0.5], [1.0, 0.9, 0.4, 0.5]]
    )
    assert majority(predicted, probability).tolist() == [1, 5, 1, 0]
    assert majority(predicted[:1], probability[:1]).tolist() == [1, 5, 3, 2]


def test_agreement_and_kappa_by_hand() -> None:
    labels = [0, 0, 1, 1]
    one, other = of([[0, 0, 1, 1]], labels), of([[0, 1, 1, 1]], labels)
    found = agreement([(one, other)])
    assert found.share == 0.75
    assert found.kappa == pytest.approx((0.75 - 0.5) / (1 - 0.5)), "by chance 1/2·1/4 + 1/2·3/4"
    constant = of([[1, 1, 1, 1]], labels)
    assert agreement([(constant, constant)]).kappa is None


def test_shared_errors_by_hand() -> None:
    labels = [0, 0, 0, 0, 0]
    one, other = of([[1, 1, 1, 1, 0]], labels), of([[1, 2, 0, 2, 1]], labels)
    found = shared_errors([(one, other)])
    assert (found.shared, found.same_class) == (3 / 4, 1 / 4)
    back = shared_errors([(other, one)])
    assert (back.shared, back.same_class) == (3 / 4, 1 / 4)
    assert shared_errors([(of([labels], labels), other)]).shared is None


def test_identical_predictions_differ_by_nothing() -> None:
    found = simulated(np.random.default_rng(1), 0, np.zeros(50), 2, 0.1)
    same = compare_predictions(found, found)
    assert (same.resampled.difference, same.resampled.low, same.resampled.high, same.resampled.p) == (
        0,
        0,
        0,
        1,
    )
    assert (same.mcnemar.only_a, same.mcnemar.only_b, same.mcnemar.p) == (0, 0, 1)


def test_two_that_are_always_right_agree_and_err_in_nothing() -> None:
    labels = list(range(10))
    right = {0: of([labels], labels), 1: of([labels], labels)}
    found = compare_predictions(right, right)
    assert found.agreement.share == found.agreement.kappa == 1
    assert (found.errors.shared, found.errors.same_class) == (None, None)
    wrong = {seed: of([labels[1:] + labels[:1]], labels) for seed in (0, 1)}
    worst = compare_predictions(wrong, right).resampled
    assert (worst.difference, worst.low, worst.high, worst.p) == (-1, -1, -1, 1 / (RESAMPLES + 1))


def test_one_seed_says_that_seeds_are_not_in_the_interval() -> None:
    numbers = np.random.default_rng(2)
    a, b = (simulated(numbers, 0, np.zeros(100), 1, 0.1) for _ in "ab")
    found = compare_predictions(a, b).resampled
    assert found.note == ONE_SEED
    assert found.low is not None


def test_one_image_gives_no_interval() -> None:
    found = compare_predictions({0: of([[1]], [1])}, {0: of([[0]], [1])})
    assert (found.resampled.low, found.resampled.p) == (None, None)
    assert found.resampled.note


def test_only_shared_seeds_count_and_votes_have_as_many_networks() -> None:
    labels = [0, 1]
    a = {0: of([[0, 0], [0, 1], [0, 1]], labels), 7: of([[1, 0]], labels)}
    found = compare_predictions(a, {0: of([[0, 1]], labels), 8: of([[1, 0]], labels)})
    assert (found.seeds, found.networks) == (1, (3, 1))
    assert (found.mcnemar.only_a, found.mcnemar.only_b) == (0, 1), "one network of A votes, as of B"


def test_the_same_predictions_give_the_same_numbers() -> None:
    numbers = np.random.default_rng(4)
    a, b = (simulated(numbers, 0, np.zeros(200), 2, 0.1) for _ in "ab")
    assert compare_predictions(a, b) == compare_predictions(a, b)
    there, back = compare_predictions(a, b).resampled, compare_predictions(b, a).resampled
    assert (there.difference, there.p) == pytest.approx((-back.difference, back.p))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({0: of([[0, 1]], [0, 1], "g")}, "different test images .fingerprints f and g"),
        ({0: of([[0, 1]], [1, 0])}, "different labels"),
        ({0: of([[0, 1, 1]], [0, 1, 1])}, "different labels"),
        ({1: of([[0, 1]], [0, 1])}, r"no seed has predictions of both: 1 seed \(0\) and 1 seed \(1\)"),
        ({}, "and none"),
    ],
)
def test_what_does_not_compare_is_refused_in_one_line(other: BySeed, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        compare_predictions({0: of([[0, 1]], [0, 1])}, other)
    assert "\n" not in str(caught.value)
