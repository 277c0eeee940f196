"""Random real images: the floor that every distillation method has to beat.

`ipc` training images of each class, uniformly and without replacement. Reported on CIFAR-10 (ConvNet): 14.4,
26.0, 43.4 % at ipc 1, 10, 50 in the tables of the DC line; 15.4, 31.0, 50.6 % in DC-BENCH.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from methods.shared.coresets import selected


@dataclass(frozen=True)
class Config:
    """Random selection has no settings."""


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Select `ipc` random training images per class."""
    context = context or Context()
    data = context.dataset(dataset)
    indices = data.index.balanced(ipc, context.generator("select"))
    return selected(data, indices, "random", config or Config())
