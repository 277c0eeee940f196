"""How a learning rate goes while a network is trained: the field's rules, and one rule at one rate.

A rule counts positions, which are epochs or optimiser steps, from 0; E positions are what a protocol is named
after. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Drops:
    """The rate falls to `decay` times the one before from each position of `at(E)` on.

    restarts: whether the optimiser is then built afresh, so that its momentum restarts. extra: positions
    beyond E; a loop over 0..E, both included, has one.
    """

    at: Callable[[int], tuple[int, ...]]
    decay: float
    restarts: bool = False
    extra: int = 0

    def share(self, position: int, length: int) -> float:
        """Part of the base rate at a position, for E = `length`."""
        return float(self.decay ** sum(drop <= position for drop in self.at(length)))


@dataclass(frozen=True)
class Cosine:
    """A half wave from 1 down to `floor`, after a linear climb.

    stretch: how many times E the half wave is long; 2 ends at half the rate. warmup: positions of the climb,
    which begins at the share `start`. extra: positions beyond E.
    """

    stretch: float = 1.0
    floor: float = 0.0
    warmup: int = 0
    start: float = 0.0
    extra: int = 0

    def share(self, position: int, length: int) -> float:
        """Part of the base rate at a position, for E = `length`."""
        if position < self.warmup:
            return self.start + (1 - self.start) * position / self.warmup
        wave = (position - self.warmup) / (self.stretch * max(length - self.warmup, 1))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * wave))


Rule = Drops | Cosine

# VICO-UoE/DatasetCondensation `utils.evaluate_synset`: after epoch index E // 2 + 1 has ended.
DC = Drops(lambda epochs: (epochs // 2 + 2,), decay=0.1, restarts=True, extra=1)
# snu-mllab/Efficient-Dataset-Condensation `train.train`; CIM's and DREAM's students too.
IDC = Drops(lambda epochs: (2 * epochs // 3, 5 * epochs // 6), decay=0.2)
# gszfwsb/NCFM: at each fifth.
FIFTHS = Drops(lambda epochs: tuple(fifth * epochs // 5 for fifth in range(1, 5)), decay=0.5)
# sunnytqin/no-distillation `softlabel.utils.evaluate_synset`: at each multiple of E // 4, up to E itself.
QUARTERS = Drops(
    lambda epochs: tuple(range(max(1, epochs // 4), epochs + 1, max(1, epochs // 4))), decay=0.3, extra=1
)
# VILA-Lab/SRe2L's students; LINs-lab/RDED's end at half the rate.
COSINE = Cosine()
CONSTANT = Drops(lambda epochs: (), decay=1.0)
HALF_COSINE = Cosine(stretch=2.0)


@dataclass(frozen=True)
class Schedule:
    """A rule over E = `length` positions at the base rate `lr`."""

    rule: Rule
    length: int
    lr: float

    @property
    def drops(self) -> tuple[int, ...]:
        """Positions from which on the rate is lower, of a rule with drops."""
        return self.rule.at(self.length) if isinstance(self.rule, Drops) else ()

    def lr_in(self, position: int) -> float:
        """Learning rate at a position."""
        return float(self.lr * self.rule.share(position, self.length))

    def restarts_between(self, before: int, now: int) -> bool:
        """Whether the optimiser is built afresh on the way from one position to a later one."""
        if not isinstance(self.rule, Drops) or not self.rule.restarts:
            return False
        return any(before < drop <= now for drop in self.drops)
