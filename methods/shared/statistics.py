"""What the batch norm layers of a trained network remember of real images, and how far others are from it.

Yin et al., "Dreaming to Distill", CVPR 2020 (arXiv 1912.08795), as SRe2L and its kin use it. With mean and
(biased) variance over images and positions of what comes into layer l of a network in evaluation mode, the
term of the layer is

    r_l = || running variance - variance || + || running mean - mean ||,   neither norm squared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.core.nets import Network


class LayerInputs:
    """What comes into some layers of a network as images pass through it; to be made once for a network."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        # Hooks that stay and mostly do nothing: a compiled pass takes them in without a break.
        self._noted: dict[int, Tensor] | None = None
        self._places = {id(layer): place for place, layer in enumerate(layers)}
        for layer in layers:
            layer.register_forward_pre_hook(self._note)

    def of(self, net: Network, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (N, classes) and the maps (N, c, h, w) of each layer, as float32, in the layers' order."""
        self._noted = {}
        logits: Tensor = net(images)
        noted, self._noted = self._noted, None
        return logits.float(), [noted[place].float() for place in range(len(self._places))]

    def _note(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._noted is not None:
            self._noted[self._places[id(layer)]] = inputs[0]


class BatchNormStatistics:
    """The terms of all batch norm layers of a network, in module order; to be made once for a network."""

    def __init__(self, net: Network) -> None:
        self._norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        self._inputs = LayerInputs(self._norms)

    @property
    def layers(self) -> int:
        """How many batch norm layers there are."""
        return len(self._norms)

    def __call__(self, net: Network, images: Tensor, groups: int = 1) -> tuple[Tensor, Tensor]:
        """Logits (N, classes) and terms (layers, groups) of images that are so many groups of equal size.

        Each group, (N / groups, C, H, W), is compared by itself.
        """
        logits, maps = self._inputs.of(net, images)
        pairs = zip(self._norms, maps, strict=True)
        terms = [moment_gap(x.unflatten(0, (groups, -1)), *running_moments(norm)) for norm, x in pairs]
        return logits, torch.stack(terms)


def running_moments(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Running mean and variance (c,) of a layer."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def moment_gap(maps: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """The term (groups,) of a layer with these running values (c,) for maps (groups, n, c, h, w)."""
    own_variance, own_mean = torch.var_mean(maps, dim=(1, 3, 4), correction=0)
    return length_of(variance - own_variance) + length_of(mean - own_mean)


def length_of(gap: Tensor) -> Tensor:
    """Euclidean length (...,) of vectors (..., c)."""
    length: Tensor = torch.linalg.vector_norm(gap, dim=-1)
    return length


def first_weighted(terms: Tensor, first: float) -> Tensor:
    """Sum (groups,) of the terms (layers, groups), that of the first layer times `first`."""
    return terms.sum(dim=0) + (first - 1) * terms[0]
