"""The learning rate of "@tuned" protocols: one network for each rate of a grid, tested on held-out images.

The test split plays no part: the images are a tenth of train, those of `Dataset.hold_out`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.core.errors import DivergedError
from harness.engine.scoring import accuracy
from harness.engine.training import Teacher, TrainingSet, train_network

if TYPE_CHECKING:
    from harness.core.context import Context
    from harness.core.data import Dataset
    from harness.engine.protocol import Protocol


@dataclass(frozen=True)
class Candidate:
    """A learning rate, and the held-out accuracy in [0, 1] of the network that took it.

    accuracy: None if its loss stopped being finite.
    """

    rate: float
    accuracy: float | None


def candidates(
    training_set: TrainingSet,
    data: Dataset,
    protocol: Protocol,
    context: Context,
    *,
    teacher: Teacher | None = None,
) -> list[Candidate]:
    """How each rate of the protocol's grid does; it multiplies the set's own rate or the protocol's.

    Nothing is trained for a protocol without a grid.
    """
    if not protocol.grid:
        return []
    _, held_out = data.hold_out()
    base = protocol.course(training_set.size(data.num_classes), lr=training_set.lr).schedule.lr
    found = []
    for factor in protocol.grid:
        rate, role = base * factor, f"tuning-{factor:g}-"
        net = context.network(data, role=f"{role}network")
        tried = dataclasses.replace(training_set, lr=rate)
        try:
            train_network(
                net, tried, protocol, context, name=f"learning rate {rate:g}", role=role, teacher=teacher
            )
        except DivergedError:
            found.append(Candidate(rate, None))
            continue
        found.append(Candidate(rate, accuracy(net, held_out, context)))
    return found


def chosen(tried: Sequence[Candidate]) -> float:
    """The rate of the highest accuracy; of equal ones the lowest. DivergedError if none could train."""
    trained = [one for one in tried if one.accuracy is not None]
    if not trained:
        rates = ", ".join(f"{one.rate:g}" for one in tried)
        raise DivergedError(f"no network could be trained at any learning rate of the grid ({rates})")
    return max(trained, key=lambda one: (one.accuracy or 0.0, -one.rate)).rate
