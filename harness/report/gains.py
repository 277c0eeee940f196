"""What a distilled set gains, beyond its accuracy: over random images, towards the whole data, per step.

With accuracies as fractions in [0, 1], "own" the evaluation that a method calls for (its labels and
augmentation) and "hard" one under hard labels:

    IOR = acc(method, own) - acc(random images of the same count, own)
          improvement over random: more is better
    HLR = acc(whole training set, hard) - acc(method, hard)
          hard label recovery: less is better
    LRS = (e^a - e^-1) / (e - e^-1),  a = w IOR - (1 - w) HLR
          label-robust score, in [0, 1]
    ARS = (e^b - e^-1) / (e - e^-1),  b = g IOR + (1 - g) (IOR without augmentation)
          augmentation-robust score, in [0, 1]
    gain per step = IOR / optimiser steps of the evaluation

w = g = 1/2. Source: DD-Ranking (Li and others, arXiv:2505.13300; package ddranking 0.2.0). We depart from its
code in three things: accuracies are fractions in the exponent, as its text says and its code does not do;
`random` and the whole set are evaluated like the method, without a learning rate that is chosen by test
accuracy for some of them; the accuracy is that of the last epoch, not the best of many looks.

Each figure is taken within a seed, between means over the networks of that seed, and then averaged over the
seeds that all of its parts share: a seed of the method and the same one of `random`. Intervals are Student's
t over these seeds (`harness.report.stats`). A part that was not measured is named; nothing is imputed. For a
method whose own evaluation is under hard labels LRS orders the methods of a cell as accuracy does.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from harness.report.stats import Groups, estimate

WEIGHT = 0.5  # of either side in the scores, as in DD-Ranking's leaderboard

Means: TypeAlias = Mapping[int, float]

PARTS = {
    "own": "the method under its own evaluation",
    "random": "random images under the same evaluation",
    "hard": "the method under hard labels",
    "whole": "the whole training set under hard labels",
    "plain": "the method without augmentation",
    "random_plain": "random images without augmentation",
}


@dataclass(frozen=True)
class Accuracies:
    """Accuracies in [0, 1] of networks by seed, all of one network and length of training.

    own: the method under its own evaluation; random: as many random images under the same; hard: the method
    under hard labels; whole: the whole training set under hard labels; plain, random_plain: own and random
    without augmentation. Empty is not measured. steps: optimiser steps of one network under `own`, None if
    not known.
    """

    own: Groups
    random: Groups = field(default_factory=dict)
    hard: Groups = field(default_factory=dict)
    whole: Groups = field(default_factory=dict)
    plain: Groups = field(default_factory=dict)
    random_plain: Groups = field(default_factory=dict)
    steps: int | None = None


@dataclass(frozen=True)
class Gain:
    """One figure, a fraction, with its 95 % interval over `seeds` shared seeds.

    mean is None where a part was not measured, low and high also with one seed; `note` says why.
    """

    mean: float | None
    low: float | None
    high: float | None
    seeds: int
    note: str = ""


@dataclass(frozen=True)
class Gains:
    """All figures of one method in one cell; see the module's header."""

    ior: Gain
    hlr: Gain
    lrs: Gain
    ars: Gain
    per_step: Gain


def gains(found: Accuracies, weight: float = WEIGHT) -> Gains:
    """All figures that these accuracies allow; `weight` in [0, 1] is that of IOR in LRS, of `own` in ARS."""
    if not 0 <= weight <= 1:
        raise ValueError(f"weight {weight}; expected a fraction from 0 to 1")

    def label_robust(own: float, random: float, hard: float, whole: float) -> float:
        return score(weight * (own - random) - (1 - weight) * (whole - hard))

    def augmentation_robust(own: float, random: float, plain: float, random_plain: float) -> float:
        return score(weight * (own - random) + (1 - weight) * (plain - random_plain))

    return Gains(
        ior=_gain(found, lambda own, random: own - random, "own", "random"),
        hlr=_gain(found, lambda whole, hard: whole - hard, "whole", "hard"),
        lrs=_gain(found, label_robust, "own", "random", "hard", "whole"),
        ars=_gain(found, augmentation_robust, "own", "random", "plain", "random_plain"),
        per_step=_per_step(found),
    )


def score(exponent: float) -> float:
    """DD-Ranking's map of [-1, 1] onto [0, 1]: (e^x - e^-1) / (e - e^-1)."""
    return (math.exp(exponent) - math.exp(-1)) / (math.e - math.exp(-1))


def _per_step(found: Accuracies) -> Gain:
    steps = found.steps
    if not steps:
        return Gain(None, None, None, 0, "not measured: optimiser steps of the evaluation")
    return _gain(found, lambda own, random: (own - random) / steps, "own", "random")


def _gain(found: Accuracies, figure: Callable[..., float], *parts: str) -> Gain:
    """The figure within each seed that all these parts share, and the mean of that over the seeds."""
    means = {part: _by_seed(getattr(found, part)) for part in parts}
    if missing := [PARTS[part] for part, seeds in means.items() if not seeds]:
        return Gain(None, None, None, 0, f"not measured: {', '.join(missing)}")
    shared = sorted(set.intersection(*(set(seeds) for seeds in means.values())))
    if not shared:
        return Gain(None, None, None, 0, f"no seed in common: {', '.join(PARTS[part] for part in parts)}")
    within = {seed: [figure(*(means[part][seed] for part in parts))] for seed in shared}
    whole = estimate(within)
    return Gain(whole.mean, whole.low, whole.high, whole.seeds, whole.note)


def _by_seed(groups: Groups) -> Means:
    return {seed: statistics.fmean(values) for seed, values in groups.items() if len(values)}
