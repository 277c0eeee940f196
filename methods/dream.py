"""DREAM: IDC with representative real images, the nearest to the centroids of each class's clusters.

Liu et al., "DREAM: Efficient Dataset Distillation by Representative Matching", ICCV 2023 (arXiv 2302.14416).
Before every tenth image update the images of each class c are cut into k clusters by k-means, with centroids
m_1, ..., m_k, in the features phi of the network that is about to be matched; until the next clustering

    B_c = { argmin_x || phi(x) - m_j || : j = 1, ..., k }

is the batch of real images that IDC's objective is computed on, under a new augmentation at each update. The
synthetic images start from the images nearest to as many centroids as there are tiles, in a fresh network.
Reported on CIFAR-10 (ConvNet): 51.1, 69.4, 74.8 % at ipc 1, 10, 50, at the best epoch.

Departures from the authors' code (lyq312318224/DREAM `condense.py`): gradients are matched, though its
default `bi_match` is one that this script does not know; k-means is our own (`clusters`); it sees at most
`cluster_pool` images of a class, drawn at random for each clustering, where that is given, which only the
settings for shorter scales do. Two centroids may share their nearest image, as in theirs, which then counts
twice. `per_cluster` and `choice` are the two other selections of their repository, made for DREAM+ and
TinyImageNet. The rest is said in `idc.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.data import ClassBatch, Dataset
from harness.core.distilled import Distilled
from harness.core.nets import Network
from harness.core.settings import setting
from harness.core.siamese import Siamese
from methods import idc, resolve
from methods.shared.clusters import centroids, nearest_samples
from methods.shared.matching import ClassMatcher


@dataclass(frozen=True)
class Config(idc.Config):
    """Settings of DREAM: IDC's, and those of the clustering; the defaults are those for CIFAR-10."""

    batch_real: int = setting(128, "real images per class and update")
    per_cluster: int = setting(
        1, "images of each cluster in the batch; there are batch_real / per_cluster clusters"
    )
    choice: Literal["each", "any"] = setting(
        "each", "what a batch holds: the images nearest to each centroid in turn, or those nearest to any"
    )
    interval: int = setting(10, "image updates between two clusterings")
    cluster_pool: int | None = setting(None, "images of each class that are clustered; None: all")
    cluster_iterations: int = setting(100, "most Lloyd iterations of a clustering")


_TINY: dict[str, Any] = {"batch_real": 64, "n_data": 1000}
PAPER = idc.PAPER | {("tinyimagenet", ipc): _TINY for ipc in (1, 10)}
PAPER |= {("tinyimagenet", 50): _TINY | {"lr_img": 1e-6}}
UNPUBLISHED = idc.UNPUBLISHED

SCALED = {
    "cpu": idc.SCALED["cpu"] | {"cluster_pool": 64, "cluster_iterations": 10},
    "smoke": idc.SCALED["smoke"] | {"interval": 5, "cluster_pool": 64, "cluster_iterations": 10},
}
steps_of = idc.steps_of


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` multi-formation images per class by gradient matching with representative images."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("dream", data.name, ipc).config
    return idc.synthesise(data, ipc, config, context, RepresentativeBatches(data, config, context), "dream")


class RepresentativeBatches:
    """Real images nearest to the centroids of their class, for `interval` updates each."""

    def __init__(self, data: Dataset, config: Config, context: Context) -> None:
        self.interval = config.interval
        self._data, self._config, self._context = data, config, context
        self._first_net = context.network(data, "init")
        self._matcher = ClassMatcher(context, data, self._first_net)
        self._batch = ClassBatch(data.labels[:0], ())

    def initial(self, ipc: int, parts: int) -> list[Tensor]:
        """The nearest images to ipc * parts centroids of each class; a small class gives some twice."""
        wanted = ipc * parts
        chosen = self._chosen(self._first_net, wanted, nearest_samples)
        rows = [members.repeat(-(-wanted // len(members)))[:wanted] for members in chosen]
        return [part.flatten() for part in torch.stack(rows).chunk(parts, dim=1)]

    def refresh(self, net: Network) -> None:
        """Cluster all classes in the features of this network."""
        config = self._config

        def select(features: Tensor, centres: Tensor) -> Tensor:
            if config.choice == "any":
                return nearest_to_any(features, centres, config.batch_real)
            return nearest_to_each(features, centres, config.per_cluster)

        chosen = self._chosen(net, config.batch_real // config.per_cluster, select)
        self._batch = ClassBatch(torch.cat(chosen), tuple(len(members) for members in chosen))

    def draw(self) -> ClassBatch:
        """The images chosen at the last clustering."""
        return self._batch

    def _chosen(
        self, net: Network, clusters: int, select: Callable[[Tensor, Tensor], Tensor]
    ) -> list[Tensor]:
        """For each class the indices of images that `select` takes by their features and the centroids."""
        index, config = self._data.index, self._config
        pool = max(index.counts) if config.cluster_pool is None else max(config.cluster_pool, clusters)
        members = index.draw(pool, self._context.generator("pool"))
        generator = self._context.generator("cluster")
        chosen = []
        for indices in members.indices.split(list(members.sizes)):
            features = self._embedded(net, indices)
            means = centroids(features, clusters, generator, iterations=config.cluster_iterations)
            chosen.append(indices[select(features, means)])
        return chosen

    def _embedded(self, net: Network, indices: Tensor) -> Tensor:
        """Embeddings (n, D) of one class's training images as they are; all would fill the memory."""
        as_they_are = Siamese("", None)
        return self._matcher.real_features(net, ClassBatch(indices, (len(indices),)), as_they_are)


def nearest_to_each(features: Tensor, centres: Tensor, count: int) -> Tensor:
    """Rows (k * count,) of features (n, D): for each centroid (k, D) in turn the nearest, nearest first."""
    gaps = torch.cdist(centres, features)
    return gaps.topk(min(count, len(features)), dim=1, largest=False).indices.flatten()


def nearest_to_any(features: Tensor, centres: Tensor, count: int) -> Tensor:
    """Rows (count,) of features (n, D): those least distant from their nearest centroid (k, D), in order."""
    gaps = torch.cdist(centres, features).amin(dim=0)
    return gaps.topk(min(count, len(features)), largest=False).indices
