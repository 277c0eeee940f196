"""Two methods on the same test images: who is right where the other is wrong, and whether it is chance.

Four questions, from the predictions of the networks that either method trained under the same seeds:

- Is one more accurate? The paired bootstrap draws seeds anew, then test images, both methods with the same
  draws. Every seed is tested on the same images, so one draw of images serves all drawn seeds (the pigeonhole
  bootstrap of Owen, Annals of Applied Statistics 1, 2007): drawing them afresh for each seed would count one
  image as many. Of S seeds S - 1 are drawn, which makes the spread over few seeds as wide as it is on average
  (Rao and Wu, JASA 83, 1988). The interval is the difference ± Student's t times the standard error that
  the draws show; its degrees of freedom are Welch's and Satterthwaite's, from how much seeds and how much
  images differ. Of simulated networks it covers the truth in 89 to 99 % of the cases where 95 % are wanted:
  the least with two seeds that differ much more than images do, the most where seeds do not differ at all,
  since the chance of a single seed on a single image is in the draws more than once. It errs on the side of
  no difference then (tests/report/test_paired.py repeats that).
- Do the two differ as a pair of classifiers? McNemar's test (Psychometrika 12, 1947) of the majority votes of
  their networks, by the images of which one is right and the other wrong: exact binomial where these are
  fewer than `FEW_DISCORDANT`, else chi-squared with Edwards' continuity correction. It is about these
  networks and says nothing of other seeds.
- Do they say the same? Agreement: the share of equal predictions, over all pairs of a network of A and one
  of B under one seed; Cohen's kappa (1960) takes out what two independent guessers would agree in.
- Do they fail alike? Of A's errors, the share that B makes too, and the share with the same wrong class.

Shares and accuracies are fractions in [0, 1]. Everything is deterministic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, chdtrc, stdtr, stdtrit

from harness.core.errors import UserError
from harness.core.text import plural
from harness.engine.predictions import Predictions
from harness.report.stats import CONFIDENCE

FEW_DISCORDANT = 25
RESAMPLES = 999
BATCH = 64  # resamples held at a time
ONE_SEED = "one seed: only test images were drawn anew, and nothing shows how much seeds differ"
ONE_IMAGE = "one test image: nothing shows how much images differ"

Floats: TypeAlias = npt.NDArray[np.float64]
BySeed: TypeAlias = Mapping[int, Predictions]
McNemarTest: TypeAlias = Literal["exact", "chi-squared"]


@dataclass(frozen=True)
class Resampled:
    """A's accuracy less B's, by the paired bootstrap over seeds and test images.

    low, high: 95 % interval; p: two-sided, of no difference, at least what `RESAMPLES` draws can show. All
    three are None where nothing shows a spread; `note` says what is not in them.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    note: str = ""


@dataclass(frozen=True)
class McNemar:
    """Images that only A's, only B's majority vote gets right; p is two-sided, by the named test."""

    only_a: int
    only_b: int
    p: float
    test: McNemarTest


@dataclass(frozen=True)
class Agreement:
    """Share of equal predictions; kappa, None where both always say one and the same class."""

    share: float
    kappa: float | None


@dataclass(frozen=True)
class SharedErrors:
    """Of A's errors, the share that B makes too, and with the same wrong class; None if A makes none."""

    shared: float | None
    same_class: float | None


@dataclass(frozen=True)
class Paired:
    """What the predictions of A and B under the same `seeds` on the same `tests` images say."""

    seeds: int
    networks: tuple[int, int]
    tests: int
    resampled: Resampled
    mcnemar: McNemar
    agreement: Agreement
    errors: SharedErrors


def compare_predictions(a: BySeed, b: BySeed) -> Paired:
    """Compare two methods by their networks' predictions, over the seeds that both have.

    UserError, in one line, if they share no seed or were tested on different images.
    """
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise UserError(f"no seed has predictions of both: {_listed(a)} and {_listed(b)}")
    pairs = [(a[seed], b[seed]) for seed in shared]
    _check_same_images([one for pair in pairs for one in pair])
    labels = pairs[0][0].labels
    votes = _even_votes(pairs)
    return Paired(
        seeds=len(shared),
        networks=(
            sum(len(one.predicted) for one, _ in pairs),
            sum(len(other.predicted) for _, other in pairs),
        ),
        tests=labels.size,
        resampled=resampled(np.stack([one.right.mean(0) - other.right.mean(0) for one, other in pairs])),
        mcnemar=mcnemar(votes[0] == labels, votes[1] == labels),
        agreement=agreement(pairs),
        errors=shared_errors(pairs),
    )


def resampled(gaps: Floats) -> Resampled:
    """The paired bootstrap of (seeds, tests) gaps: A's share of right networks on an image less B's."""
    seeds, tests = gaps.shape
    difference = float(gaps.mean())
    if tests < 2:
        return Resampled(difference, None, None, None, ONE_IMAGE)
    error = float(np.std(_draws(gaps), ddof=1))
    note = "" if seeds > 1 else ONE_SEED
    if error == 0:
        same = np.ptp(gaps) == 0 and difference == 0
        return Resampled(difference, difference, difference, 1.0 if same else 1 / (RESAMPLES + 1), note)
    freedom = _degrees_of_freedom(gaps)
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    p = max(2 * float(stdtr(freedom, -abs(difference) / error)), 1 / (RESAMPLES + 1))
    return Resampled(difference, difference - half, difference + half, p, note)


def mcnemar(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> McNemar:
    """McNemar's test of two classifiers, from whether each is right on (tests,) images."""
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    discordant = only_a + only_b
    if discordant < FEW_DISCORDANT:
        return McNemar(
            only_a, only_b, min(1.0, 2 * float(bdtr(min(only_a, only_b), discordant, 0.5))), "exact"
        )
    statistic = max(abs(only_a - only_b) - 1, 0) ** 2 / discordant
    return McNemar(only_a, only_b, float(chdtrc(1, statistic)), "chi-squared")


def majority(predicted: npt.NDArray[Any], probability: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """(tests,) the class that most of (networks, tests) predictions name for an image.

    Of classes with equal votes the one with the higher sum of probabilities; if these are equal, the lower.
    """
    networks, tests = predicted.shape
    classes = int(predicted.max()) + 1
    codes = np.arange(tests) * classes + predicted.astype(np.int64)
    named, place = np.unique(codes, return_inverse=True)
    # A vote is 1; the probabilities of all networks together decide ties and no more.
    votes = np.bincount(place.ravel(), 1 + probability.astype(np.float64).ravel() / (networks + 1))
    image, chosen = np.divmod(named, classes)
    order = np.lexsort((-chosen, votes, image))
    last = np.searchsorted(image[order], np.arange(tests), side="right") - 1
    found: npt.NDArray[np.int64] = chosen[order][last]
    return found


def agreement(pairs: Iterable[tuple[Predictions, Predictions]]) -> Agreement:
    """How often a network of A and one of B say the same, and Cohen's kappa of that."""
    shares, classes_a, classes_b = [], [], []
    for one, other in pairs:
        shares += [float(np.mean(a == b)) for a, b in _network_pairs(one, other)]
        classes_a.append(one.predicted.ravel())
        classes_b.append(other.predicted.ravel())
    share = float(np.mean(shares))
    by_chance = float(np.dot(*_frequencies(np.concatenate(classes_a), np.concatenate(classes_b))))
    return Agreement(share, None if by_chance >= 1 else (share - by_chance) / (1 - by_chance))


def shared_errors(pairs: Iterable[tuple[Predictions, Predictions]]) -> SharedErrors:
    """Of the errors of A's networks those that B's make too, over all pairs of a network of either."""
    errors = shared = same = 0
    for one, other in pairs:
        for a, b in _network_pairs(one, other):
            wrong = a != one.labels
            errors += int(wrong.sum())
            shared += int(np.sum(wrong & (b != one.labels)))
            same += int(np.sum(wrong & (a == b)))
    return SharedErrors(shared / errors, same / errors) if errors else SharedErrors(None, None)


def _check_same_images(found: Iterable[Predictions]) -> None:
    first, *others = found
    for other in others:
        if other.test_fingerprint != first.test_fingerprint:
            prints = f"{first.test_fingerprint} and {other.test_fingerprint}"
            raise UserError(f"predictions are of different test images (fingerprints {prints})")
        if not np.array_equal(other.labels, first.labels):
            raise UserError("predictions are of test images with different labels or in another order")


def _even_votes(
    pairs: Iterable[tuple[Predictions, Predictions]],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Majority votes of A's and of B's networks, the same number of either: a vote of more is better."""
    even = [(a, b, min(len(a.predicted), len(b.predicted))) for a, b in pairs]
    return _vote((a, number) for a, _, number in even), _vote((b, number) for _, b, number in even)


def _vote(found: Iterable[tuple[Predictions, int]]) -> npt.NDArray[np.int64]:
    """The majority vote of the first so many networks of each."""
    chosen = [(one.predicted[:number], one.probability[:number]) for one, number in found]
    return majority(
        np.concatenate([part for part, _ in chosen]), np.concatenate([part for _, part in chosen])
    )


def _draws(gaps: Floats) -> Floats:
    """(RESAMPLES,) mean gaps of drawn seeds on drawn images."""
    numbers = np.random.default_rng(0)
    seeds, tests = gaps.shape
    drawn = []
    for start in range(0, RESAMPLES, BATCH):
        size = min(BATCH, RESAMPLES - start)
        images = numbers.integers(0, tests, (size, tests)) + tests * np.arange(size)[:, None]
        counts = np.bincount(images.ravel(), minlength=size * tests).reshape(size, tests)
        by_seed = counts @ gaps.T / tests
        chosen = numbers.integers(0, seeds, (size, max(seeds - 1, 1)))
        drawn.append(np.take_along_axis(by_seed, chosen, axis=1).mean(axis=1))
    return np.concatenate(drawn)


def _degrees_of_freedom(gaps: Floats) -> float:
    """Welch's and Satterthwaite's, from the variances of the mean over seeds and over images."""
    parts = [
        (float(gaps.mean(axis=axis).var(ddof=1)) / gaps.shape[1 - axis], gaps.shape[1 - axis] - 1)
        for axis in (0, 1)
        if gaps.shape[1 - axis] > 1
    ]
    known = sum(part**2 / degrees for part, degrees in parts)
    return sum(part for part, _ in parts) ** 2 / known if known else float(gaps.shape[1] - 1)


def _network_pairs(
    one: Predictions, other: Predictions
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    return ((a, b) for a in one.predicted for b in other.predicted)


def _frequencies(*classes: npt.NDArray[Any]) -> list[Floats]:
    """How often each class occurs in each array, as shares."""
    number = max(int(part.max()) for part in classes) + 1
    return [np.bincount(part, minlength=number) / part.size for part in classes]


def _listed(found: BySeed) -> str:
    return f"{plural(len(found), 'seed')} ({', '.join(map(str, sorted(found)))})" if found else "none"
