"""The losses of evaluation protocols (`harness.engine.parts`) as sums over the rows of a piece of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from harness.engine.parts import KL, CrossEntropy, Loss, SoftCrossEntropy, SquaredError


class Targets(NamedTuple):
    """What a batch is trained towards.

    rows: (n,) classes, (n, classes) probabilities or, for losses with a temperature and for squared errors,
    logits. classes: (n,) hard classes, of the images before mixing.
    """

    rows: Tensor
    classes: Tensor

    def of(self, piece: slice) -> Targets:
        """Those of a piece of the batch."""
        return Targets(self.rows[piece], self.classes[piece])


# Logits (n, classes) and targets of n rows -> the sum of their losses.
SummedLoss = Callable[[Tensor, Targets], Tensor]


def summed(loss: Loss) -> SummedLoss:
    """The function that adds up a loss over rows."""
    match loss:
        case CrossEntropy():
            return lambda logits, targets: F.cross_entropy(logits, targets.rows, reduction="sum")
        case SoftCrossEntropy(temperature, scaled):
            return lambda logits, targets: _soft(logits, targets.rows, temperature, scaled=scaled)
        case KL(temperature, scaled):
            return lambda logits, targets: _divergence(logits, targets.rows, temperature, scaled=scaled)
        case SquaredError():
            return lambda logits, targets: _squares(logits, targets, loss)


def _soft(logits: Tensor, rows: Tensor, temperature: float, *, scaled: bool) -> Tensor:
    wanted = (rows / temperature).softmax(dim=1)
    found = F.cross_entropy(logits / temperature, wanted, reduction="sum")
    return found * temperature**2 if scaled else found


def _divergence(logits: Tensor, rows: Tensor, temperature: float, *, scaled: bool) -> Tensor:
    wanted = (rows / temperature).log_softmax(dim=1)
    had = (logits / temperature).log_softmax(dim=1)
    found = F.kl_div(had, wanted, reduction="sum", log_target=True)
    return found * temperature**2 if scaled else found


def _squares(logits: Tensor, targets: Targets, loss: SquaredError) -> Tensor:
    found = loss.weight * (logits - targets.rows).square().sum()
    if not loss.summed:
        found = found / logits.shape[1]
    if loss.hard_weight:
        hard = F.cross_entropy(logits, targets.classes, reduction="sum")
        found = found + loss.hard_weight * hard
    return found
