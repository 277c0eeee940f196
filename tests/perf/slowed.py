"""A pytest plugin that makes distances and the pool's training step 1.3 times as slow: `-p slowed`.

Real time is added to the real code, forward and backward, to show that the gate notices.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from methods import bacon
from methods.shared import matching, pool
from methods.shared.matching import ClassLoss, DistanceTo, Seen

EXTRA = 0.3


def stretched(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, 1.3 times as slow."""

    @functools.wraps(function)
    def slow(*args: Any, **named: Any) -> Any:
        with stretching():
            return function(*args, **named)

    return slow


@contextmanager
def stretching() -> Iterator[None]:
    """Make the block 1.3 times as slow."""
    start = time.perf_counter()
    yield
    spin(start)


def spin(start: float) -> None:
    """Work for 0.3 times as long as has passed since `start`."""
    end = time.perf_counter() + EXTRA * (time.perf_counter() - start)
    while time.perf_counter() < end:
        pass


def slow_distance_to(distance_to: DistanceTo) -> DistanceTo:
    """The same distance, prepared, called and differentiated 1.3 times as slowly."""

    def prepare(real: Tensor, sizes: tuple[int, ...]) -> ClassLoss:
        with stretching():
            distance = distance_to(real, sizes)

        def slow(seen: Seen) -> Tensor:
            started: list[float] = []
            inner = seen.embeddings.view_as(seen.embeddings)
            with stretching():
                value = distance(seen._replace(embeddings=inner))
            value.register_hook(lambda gradient: started.append(time.perf_counter()))
            inner.register_hook(lambda gradient: spin(started.pop()))
            return value

        return slow

    return prepare


matching.MeanDistance.to = slow_distance_to(matching.MeanDistance.to)  # type: ignore[method-assign, assignment]
_bacon_distance_to = bacon.distance_to
bacon.distance_to = lambda weights: slow_distance_to(_bacon_distance_to(weights))
pool.NetworkPool.train_member = stretched(pool.NetworkPool.train_member)  # type: ignore[method-assign]
