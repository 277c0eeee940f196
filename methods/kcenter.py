"""K-center: real images that cover their class, chosen greedily farthest first in feature space.

Sener & Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018, as a
coreset baseline of the DC line. In the features of a network trained on the whole set, start from the image
nearest to the class mean and go on choosing

    the image with the largest distance to its nearest chosen one.

Reported on CIFAR-10 (ConvNet): 21.5, 14.7, 27.0 % at ipc 1, 10, 50; other tables that bear the name give
other figures (DC-BENCH's is k-means). Greedy step as in PatrickZH/DeepCore `kcentergreedy.py`, which starts
from a random image: that is the variant `kcenter@deepcore`. The start at the mean is that of the DM paper's
tables, from memory.

Departures from the authors' code (PatrickZH/DeepCore `kcentergreedy.py`): the start at the class mean; and
features are those of the network that `coresets.py` trains. How the published rows trained theirs is not
known.

Below `random` at ipc 10, in the papers' tables as well (26.0 % there; on FashionMNIST 54.7 %, where random
images give 73.8 %): the farthest images are the odd ones of a class, and it takes many to reach the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.settings import setting
from methods import resolve
from methods.shared import coresets


@dataclass(frozen=True)
class Config(coresets.FeatureConfig):
    """Settings of k-center: those of the features, and the first image."""

    start: Literal["mean", "random"] = setting(
        "mean", "the first image: nearest to the class mean, or random"
    )


VARIANTS = {"deepcore": {"start": "random"}}
SCALED = coresets.SCALED


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Select `ipc` training images per class by greedy k-center."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("kcenter", data.name, ipc).config
    generator = context.generator("select", on_cpu=True)

    def choose(features: Tensor, count: int) -> Tensor:
        if config.start == "mean":
            first = (features - features.mean(dim=0)).norm(dim=1).argmin()
        else:
            first = torch.randint(len(features), (), generator=generator).to(features.device)
        return cover(features, first.view(1), count - 1)

    indices = coresets.select_by_class(data, ipc, config, context, choose)
    return coresets.selected(data, indices, "kcenter", config)


def cover(features: Tensor, start: Tensor, more: int) -> Tensor:
    """Rows of features (n, D): those of `start`, then `more` of them, each the farthest from all before."""
    chosen = start
    gap = torch.cdist(features, features[start]).amin(dim=1)
    for _ in range(more):
        farthest = gap.argmax().view(1)
        chosen = torch.cat([chosen, farthest])
        gap = torch.minimum(gap, (features - features[farthest]).norm(dim=1))
    return chosen
