"""GSAM: SGD towards flat minima, with which FTD, DATM and PAD train their experts.

Zhuang et al., "Surrogate Gap Minimization Improves Sharpness-Aware Training", ICLR 2022 (arXiv 2203.08065),
in the adaptive form of those authors' code. On one batch, with g the gradient at the weights w, a = |w|, and
h the gradient at w + e,

    e = rho a^2 g / |a g| ,     d = h - alpha (g - <g, h> h / |h|^2) ,

all norms and products over all weights together; SGD steps along d. A step takes two passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.nets import Network
from harness.core.passes import Forward, backward
from harness.core.sgd import Optimizer

_EPSILON = 1e-12  # beside norms


@dataclass(frozen=True)
class Gsam:
    """Settings of GSAM.

    rho_max, rho_min: the perturbation's size at the highest and at the lowest learning rate; alpha: share of
    the part of g that is orthogonal to h; adaptive: whether weights are moved in proportion to their size.
    """

    rho_max: float
    rho_min: float
    alpha: float
    adaptive: bool = True

    def rho(self, lr: float, rates: Sequence[float]) -> float:
        """Size of the perturbation at a learning rate, one of the schedule's `rates`."""
        lowest, highest = min(rates), max(rates)
        if lowest == highest:
            return self.rho_max
        return self.rho_min + (self.rho_max - self.rho_min) * (lr - lowest) / (highest - lowest)


def gsam_step(
    forward: Forward,
    net: Network,
    optimizer: Optimizer,
    batch: tuple[Tensor, Tensor],
    rows_at_once: int | None,
    gsam: Gsam,
    rho: float,
) -> Tensor:
    """One optimiser step on a batch of images (N, C, H, W) and labels (N,) or (N, classes); its loss before.

    Both passes see the same images. Loss: the mean cross entropy at the weights themselves.
    """
    images, labels = batch
    weights: list[Tensor] = list(net.parameters())

    def gradient() -> tuple[Tensor, list[Tensor]]:
        optimizer.zero_grad(set_to_none=True)
        loss = backward(
            forward,
            net,
            images,
            lambda logits, piece: F.cross_entropy(logits, labels[piece], reduction="sum"),
            rows_at_once,
        )
        return loss, [weight.grad for weight in weights if weight.grad is not None]

    loss, here = gradient()
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, uphill in zip(
            weights, perturbation(kept, here, rho, adaptive=gsam.adaptive), strict=True
        ):
            weight.add_(uphill)
    _, there = gradient()
    with torch.no_grad():
        for weight, value, part in zip(weights, kept, direction(here, there, gsam.alpha), strict=True):
            weight.copy_(value)
            weight.grad = part
    optimizer.step()
    return loss


def perturbation(
    weights: Sequence[Tensor], gradient: Sequence[Tensor], rho: float, *, adaptive: bool
) -> list[Tensor]:
    """The step uphill, e, to where the second gradient is taken."""
    sizes = [weight.abs() if adaptive else torch.ones_like(weight) for weight in weights]
    scaled = [size * part for size, part in zip(sizes, gradient, strict=True)]
    scale = rho / (_norm(scaled) + _EPSILON)
    return [scale * size * part for size, part in zip(sizes, scaled, strict=True)]


def direction(here: Sequence[Tensor], there: Sequence[Tensor], alpha: float) -> list[Tensor]:
    """What SGD follows, d, of the gradients at the weights and at the perturbed ones."""
    norms = _norm(here), _norm(there)
    product = torch.stack([(g * h).sum() for g, h in zip(here, there, strict=True)]).sum()
    cosine = product / (norms[0] * norms[1] + _EPSILON)
    along = cosine * norms[0] / (norms[1] + _EPSILON)
    return [h - alpha * (g - along * h) for g, h in zip(here, there, strict=True)]


def _norm(parts: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all tensors together."""
    return torch.stack([part.square().sum() for part in parts]).sum().sqrt()
