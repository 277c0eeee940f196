"""What the batch norm layers of a trained network remember of real images, and how far others are from it.

Yin et al., "Dreaming to Distill", CVPR 2020 (arXiv 1912.08795), as SRe2L and its kin use it. With mean and
(biased) variance over images and positions of what comes into layer l of a network in evaluation mode, the
term of the layer is

    r_l = || running variance - variance || + || running mean - mean ||,   neither norm squared.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.core.nets import Network


class BatchNormStatistics:
    """The terms of all batch norm layers of a network, in module order; to be made once for a network."""

    def __init__(self, net: Network) -> None:
        # Hooks that stay and mostly do nothing: a compiled pass takes them in without a break.
        self._noted: dict[int, Tensor] | None = None
        self._groups = 1
        self._norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        self._places = {id(norm): place for place, norm in enumerate(self._norms)}
        for norm in self._norms:
            norm.register_forward_pre_hook(self._note)

    @property
    def layers(self) -> int:
        """How many batch norm layers there are."""
        return len(self._norms)

    def __call__(self, net: Network, images: Tensor, groups: int = 1) -> tuple[Tensor, Tensor]:
        """Logits (N, classes) and terms (layers, groups) of images that are so many groups of equal size.

        Each group, (N / groups, C, H, W), is compared by itself.
        """
        self._noted, self._groups = {}, groups
        logits: Tensor = net(images)
        noted, self._noted = self._noted, None
        return logits.float(), torch.stack([noted[place] for place in range(len(self._norms))])

    def _note(self, norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        if self._noted is not None:
            maps = inputs[0].float().unflatten(0, (self._groups, -1))
            assert norm.running_mean is not None
            assert norm.running_var is not None
            self._noted[self._places[id(norm)]] = moment_gap(maps, norm.running_mean, norm.running_var)


def moment_gap(maps: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """The term (groups,) of a layer with these running values (c,) for maps (groups, n, c, h, w)."""
    own_variance, own_mean = torch.var_mean(maps, dim=(1, 3, 4), correction=0)
    return _length(variance - own_variance) + _length(mean - own_mean)


def _length(gap: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(gap, dim=-1)
    return length


def first_weighted(terms: Tensor, first: float) -> Tensor:
    """Sum (groups,) of the terms (layers, groups), that of the first layer times `first`."""
    return terms.sum(dim=0) + (first - 1) * terms[0]
