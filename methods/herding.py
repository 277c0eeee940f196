"""Herding: the real images whose running mean stays closest to the class mean, in feature space.

Welling, "Herding Dynamical Weights to Learn", ICML 2009, as a coreset baseline of the DC line. In the
features of a network trained on the whole set, with class mean mu, step k = 0, 1, ... chooses

    the image not yet chosen nearest to (k + 1) mu - sum of the chosen.

Reported on CIFAR-10 (ConvNet): 21.5, 31.6, 40.4 % at ipc 1, 10, 50. Selection as in
snu-mllab/Efficient-Dataset-Condensation `coreset.py`; DeepCore's takes the farthest image, which is not
herding.

Departures from the authors' code (snu-mllab/Efficient-Dataset-Condensation `coreset.py`): features are those
of the network that `coresets.py` trains; how the published rows trained theirs is not known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from methods import resolve
from methods.shared import coresets

Config = coresets.FeatureConfig
SCALED = coresets.SCALED


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Select `ipc` training images per class by herding."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("herding", data.name, ipc).config
    indices = coresets.select_by_class(data, ipc, config, context, herd)
    return coresets.selected(data, indices, "herding", config)


def herd(features: Tensor, count: int) -> Tensor:
    """Rows (count,) of features (n, D) in the order of their choice."""
    mean = features.mean(dim=0)
    chosen: list[Tensor] = []
    total = torch.zeros_like(mean)
    taken = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    for k in range(count):
        gap = (features - ((k + 1) * mean - total)).norm(dim=1)
        nearest = gap.masked_fill(taken, float("inf")).argmin()
        chosen.append(nearest)
        taken[nearest] = True
        total = total + features[nearest]
    return torch.stack(chosen)
