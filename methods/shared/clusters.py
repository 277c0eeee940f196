"""K-means in feature space, for methods that choose or start from representative images.

Lloyd's iterations from a k-means++ start (Arthur & Vassilvitskii, SODA 2007), once, on the features' device
and by matrix products alone: they are counted as compute like all else, and a sum has one order.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 1e-4  # of the centroids' squared movement, in units of the features' mean variance


@torch.no_grad()
def centroids(features: Tensor, k: int, generator: torch.Generator, *, iterations: int = 100) -> Tensor:
    """Centroids (min(k, n), D) of features (n, D), on their device, after at most so many Lloyd iterations.

    `generator` may live on any device. Equal features may give equal centroids.
    """
    # Seen from their mean, the squares below are small and lose few digits.
    origin = features.float().mean(dim=0)
    features = features.float() - origin
    means = features[_spread_out(features, min(k, len(features)), generator)]
    enough = TOLERANCE * features.square().mean().double()
    for _ in range(iterations):
        nearest = _squared_gaps(means, features).argmin(dim=0)
        members = F.one_hot(nearest, len(means)).T.to(features.dtype)
        sizes = members.sum(dim=1, keepdim=True)
        moved = torch.where(sizes > 0, members @ features / sizes.clamp_min(1), means)
        movement = (moved - means).square().sum().double()
        means = moved
        if movement <= enough:
            break
    return means + origin


@torch.no_grad()
def nearest_samples(features: Tensor, centroids: Tensor) -> Tensor:
    """Row (k,) of features (n, D) that is nearest to each centroid (k, D).

    Two centroids may share their nearest sample: the rows can hold duplicates.
    """
    return torch.cdist(centroids, features).argmin(dim=1)


def _spread_out(features: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Rows (k,) of features (n, D), each drawn in proportion to its squared gap to the nearest one before.

    Of a few draws the one that lowers the sum of gaps most is kept, as scikit-learn does.
    """
    trials = 2 + int(math.log(k))
    draws = torch.rand(k, trials, generator=generator, device=generator.device, dtype=torch.float64)
    draws = draws.to(features.device)
    rows = [(draws[0, 0] * len(features)).long()]
    gaps = _squared_gaps(features.index_select(0, rows[0][None]), features)[0]
    for draw in draws[1:]:
        chances = gaps.double().cumsum(dim=0)
        tried = torch.searchsorted(chances, draw * chances[-1]).clamp_max(len(features) - 1)
        gaps_then = _squared_gaps(features[tried], features).minimum(gaps)
        best = gaps_then.sum(dim=1).argmin()
        rows.append(tried.index_select(0, best[None])[0])
        gaps = gaps_then.index_select(0, best[None])[0]
    return torch.stack(rows)


def _squared_gaps(centres: Tensor, features: Tensor) -> Tensor:
    """Squared distances (k, n) of centres (k, D) and features (n, D)."""
    squares = features.square().sum(dim=1) + centres.square().sum(dim=1, keepdim=True)
    return torch.addmm(squares, centres, features.T, alpha=-2).clamp_min_(0)
