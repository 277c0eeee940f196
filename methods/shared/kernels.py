"""The distances that methods minimise, batched over classes: pure functions of tensors.

Every function takes class statistics with the classes in the first dimension and returns one value per
class, (C,). The real side never carries a gradient; callers compute it under `torch.no_grad()`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def class_means(features: Tensor, sizes: Sequence[int]) -> Tensor:
    """Mean of each class (C, D) of features (N, D) that lie class after class, `sizes` rows each."""
    if len(set(sizes)) == 1:
        return features.view(len(sizes), sizes[0], -1).mean(dim=1)
    return torch.stack([part.mean(dim=0) for part in features.split(list(sizes))])


def class_moments(features: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of each class, both (C, D); a lone image has a deviation of 0."""
    means = class_means(features, sizes)
    parts = features.split(list(sizes))
    variances = [_variance(part, mean) for part, mean in zip(parts, means, strict=True)]
    return means, torch.stack(variances).sqrt_()


def mean_distance(real_mean: Tensor, synthetic_mean: Tensor) -> Tensor:
    """Squared distance of mean embeddings, sum over the D features (DM, arXiv 2110.04181, eq. 5; IDM)."""
    return (real_mean - synthetic_mean).square().sum(dim=-1)


def gaussian_nll(real_mean: Tensor, real_std: Tensor, synthetic_mean: Tensor) -> Tensor:
    """Negative log likelihood of the synthetic mean under N(real mean, exp(real std)), sum over features.

    BACON (arXiv 2406.01112) as its code computes it: the standard deviation itself is exponentiated, so
    sigma >= 1. In closed form: the authors take the logarithm of the density, which underflows in float32
    once a gap exceeds about 14 sigma.
    """
    scaled = (synthetic_mean - real_mean) * torch.exp(-real_std)
    return (0.5 * scaled.square() + real_std + HALF_LOG_TWO_PI).sum(dim=-1)


def half_total_variation(real_mean: Tensor, synthetic_mean: Tensor) -> Tensor:
    """Half the L1 distance of the mean embeddings, which BACON calls total variation."""
    return 0.5 * (synthetic_mean - real_mean).abs().sum(dim=-1)


def clip_prior(real: Tensor, synthetic: Tensor) -> Tensor:
    """BACON's CLIP term on softmax distributions of single images: real (C, n, D), synthetic (C, m, D).

    u = (mean_m p_s - mean_n p_r) / std_n(p_r) per feature; mean over features of (u - clamp(u, 0, 1))^2.
    The authors' loop hands it mean embeddings instead, for which it vanishes identically.
    """
    p_real, p_synthetic = real.softmax(dim=-1), synthetic.softmax(dim=-1)
    std = p_real.std(dim=-2).clamp_min(torch.finfo(p_real.dtype).tiny)
    gap = (p_synthetic.mean(dim=-2) - p_real.mean(dim=-2)) / std
    return (gap - gap.clamp(0, 1)).square().mean(dim=-1)


def _variance(features: Tensor, mean: Tensor) -> Tensor:
    if len(features) < 2:
        return torch.zeros_like(mean)
    return (features - mean).square_().sum(dim=0).div_(len(features) - 1)
