"""M3D: matching of all moments, by the maximum mean discrepancy with a Gaussian kernel.

Zhang, Li, Wang, Zeng & Ge, "M3D: Dataset Condensation by Minimizing Maximum Mean Discrepancy", AAAI 2024. DM
brings means of embeddings together; means in the reproducing kernel Hilbert space of a Gaussian kernel K hold
all moments. With a fresh random network phi at every iteration, one augmentation A for each class and T the
multi-formation, of embeddings r of A(B_c) and s of A(T(S_c))

    minimise  sum_c v/2 [ mean K(r, r') + mean K(s, s') - 2 mean K(r, s) ],    K(x, y) = exp(-|x - y|^2 / v)

over the synthetic images S by SGD with momentum. Reported on CIFAR-10 (ConvNet): 45.3, 63.5, 69.9 % at ipc 1,
10, 50.

The authors have published no code and this was written from their idea: "M3D-like", no more. Known are the
tiles (factor 2), IDC's augmentation, the fresh networks and iterations of the order of 10^4. Ours are: the
width v of the kernel, which is `bandwidth` times the mean squared distance of two real images of the batch
(so that it fits any network); the factor v/2, with which a wide kernel gives DM's very distance and learning
rates keep their meaning; and DM's rate, momentum and batches. An image is also paired with itself.

Departures from the authors' code (Hansong-Zhang/M3D, a README without code): there is no code to compare
with; whatever differs from theirs, the width of the kernel and the rates first of all, cannot be known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.core.augment import usual_strategy
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled
from harness.core.passes import pieces
from harness.core.settings import Steps, setting
from methods import dm, resolve
from methods.shared.composition import Criterion
from methods.shared.matching import DistanceTo, Seen

# Similarities of real images, which need no gradient, that are in memory at once.
_PAIRS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Weights:
    """The kernel of M3D's distance."""

    bandwidth: float = setting(1.0, "v in mean squared distances of real embeddings; unpublished")


@dataclass(frozen=True)
class Config(dm.Config, Weights):
    """Settings of M3D: DM's, and the kernel; all unpublished but `factor`."""

    iterations: int = setting(
        10_000, "image updates, one fresh network each; known to its order only", length=True
    )
    factor: int = setting(2, "multi-formation: each stored image is a grid of factor x factor tiles")
    strategy: str | None = setting(
        "color>crop>cutout", "augmentation of the matching; None: the usual one of the dataset"
    )


PAPER: dict[tuple[str, int], dict[str, Any]] = {("*", ipc): {} for ipc in (1, 10, 50)}
# Tiles of 4x4 pixels show no digit any more: 8x8 images are stored whole.
UNPUBLISHED = {"digits": {"factor": 1}}

# Four times the images of DM at the same ipc, in half the iterations.
SCALED = {
    "cpu": {"iterations": 150, "lr_img": 2.0, "batch_real": 32},
    "smoke": {"iterations": 20, "batch_real": 16},
}


def steps_of(config: Config) -> Steps:
    """Updates by real images of each class; no network is trained."""
    return Steps(config.iterations, real=config.batch_real, factor=config.factor)


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Distil `ipc` multi-formation images per class by the maximum mean discrepancy."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("m3d", data.name, ipc).config
    criterion = Criterion(distance_to(config))
    distilled = dm.condense(data, ipc, config, context, criterion, "m3d", factor=config.factor)
    # The augmentation of the matching is not the one that trainings on the set use.
    return replace(distilled, augmentation=usual_strategy(data.name))


def distance_to(weights: Weights) -> DistanceTo:
    """M3D's distance, for any loop of distribution matching."""
    return partial(Discrepancy.of, weights)


@dataclass(frozen=True)
class Discrepancy:
    """M3D's distance to real embeddings (C, n, D), padded, with shares (C, n) in their classes.

    scale: v, a scalar. among_real: mean similarity of two of them, (C,).
    """

    real: Tensor
    shares: Tensor
    scale: Tensor
    among_real: Tensor

    @classmethod
    def of(cls, weights: Weights, real: Tensor, sizes: tuple[int, ...]) -> Discrepancy:
        """To these embeddings (N, D), class after class."""
        scale = weights.bandwidth * mean_squared_distance(real)
        padded, shares = by_class(real, sizes)
        return cls(padded, shares, scale, similarity_within(padded, shares, scale))

    def __call__(self, seen: Seen) -> Tensor:
        """Of each class seen, (k,)."""
        synthetic, classes = seen.embeddings, seen.classes
        of_class, share = self.real[classes], self.shares[classes]
        across = (share[:, :, None] * kernel(of_class, synthetic, self.scale)).sum(dim=1).mean(dim=1)
        within = kernel(synthetic, synthetic, self.scale).mean(dim=(1, 2))
        return self.scale / 2 * (self.among_real[classes] + within - 2 * across)


def mean_squared_distance(features: Tensor) -> Tensor:
    """Mean of |x - y|^2 over all pairs of rows of features (N, D), positive, a scalar."""
    mean_square = 2 * features.var(dim=0, correction=0).sum()
    return mean_square.clamp_min(torch.finfo(features.dtype).eps)


def by_class(features: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Features (N, D), class after class, as (C, n_max, D), and each row's share in its class, (C, n_max)."""
    if len(set(sizes)) == 1:
        padded = features.view(len(sizes), sizes[0], -1)
    else:
        padded = pad_sequence(list(features.split(list(sizes))), batch_first=True)
    counts = torch.tensor(sizes).to(features.device, non_blocking=True)[:, None]
    inside = torch.arange(padded.shape[1], device=features.device) < counts
    return padded, inside.to(features.dtype) / counts


def similarity_within(padded: Tensor, shares: Tensor, scale: Tensor) -> Tensor:
    """Mean similarity of two images of a class, (C,), in pieces that bound the memory."""
    classes, n, _ = padded.shape
    means = [
        torch.einsum(
            "cn,cnm,cm->c", shares[piece], kernel(padded[piece], padded[piece], scale), shares[piece]
        )
        for piece in pieces(classes, max(1, _PAIRS_AT_ONCE // n**2))
    ]
    return torch.cat(means)


def kernel(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """exp(-|x - y|^2 / scale) of all pairs of rows of x (k, n, D) and y (k, m, D), (k, n, m)."""
    squares = x.square().sum(dim=2)[:, :, None] + y.square().sum(dim=2)[:, None, :]
    squared_distance = torch.baddbmm(squares, x, y.transpose(1, 2), alpha=-2)
    return (-squared_distance.clamp_min(0) / scale).exp()
