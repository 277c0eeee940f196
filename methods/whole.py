"""All training images: the ceiling that distilled sets are measured against.

The whole train split, class after class, as it is. `ipc` is ignored: there is one such set, however many
images a class holds, so it is run once, at ipc 1, and tables show it beside every ipc. Its networks are
trained under the protocol of all other sets and with the same augmentation: the gap to it is what distilling
costs. It stores every image, and is no competitor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.settings import values_of

IGNORES_IPC = True  # one trial; `harness check` expects the images of the train split, class after class


@dataclass(frozen=True)
class Config:
    """The whole train split has no settings."""


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Return every training image, class after class; `ipc` is noted in the set and has no effect."""
    data = (context or Context()).dataset(dataset)
    order = data.labels.argsort(stable=True)
    return Distilled(
        images=data.batch(order),
        labels=data.labels[order].to(torch.int64),
        ipc=ipc,
        dataset=data.name,
        class_names=data.class_names,
        transform=data.transform,
        method="whole",
        config=values_of(config or Config()),
        augmentation=usual_strategy(data.name),
    )
