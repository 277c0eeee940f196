"""K-means: the real images nearest to the centroids of their class's clusters, in feature space.

Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory 1982, as a coreset baseline. Each class is
cut into ipc clusters by k-means with centroids m_1, ..., m_ipc,

    minimise  sum_x min_j || phi(x) - m_j ||^2

in the features phi of a network trained on the whole set; the image nearest to each centroid is taken. No
image is taken twice: where two centroids share their nearest image, the later one gets the next nearest.
Reported on CIFAR-10 (ConvNet): 25.16, 41.49, 56 % at ipc 1, 10, 50 by DC-BENCH, under the name k-center.
How these rows trained their feature network is not known; ours is in `coresets.py`.

Departures from the authors' code (justincui03/dc_benchmark): written from its description, since it comes
with the chosen images rather than with the code that chose them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from methods import resolve
from methods.shared import coresets
from methods.shared.clusters import centroids

Config = coresets.FeatureConfig
SCALED = coresets.SCALED


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Select `ipc` training images per class by k-means."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("kmeans", data.name, ipc).config
    generator = context.generator("select", on_cpu=True)

    def choose(features: Tensor, count: int) -> Tensor:
        return nearest_distinct(features, centroids(features, count, generator))

    indices = coresets.select_by_class(data, ipc, config, context, choose)
    return coresets.selected(data, indices, "kmeans", config)


def nearest_distinct(features: Tensor, centres: Tensor) -> Tensor:
    """Rows (k,) of features (n, D), n >= k: for each centre (k, D) in turn the nearest not yet taken."""
    taken = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    chosen: list[Tensor] = []
    for gaps in torch.cdist(centres, features):
        nearest = gaps.masked_fill(taken, float("inf")).argmin()
        taken[nearest] = True
        chosen.append(nearest)
    return torch.stack(chosen)
