"""Feature maps of every layer of a network, for the methods that match more than the embedding.

A layer is an activation: in a ConvNet the ReLU of each block, before its pooling; in a residual block both of
its activations. Images pass through the network in the ordinary way, so passes are counted and compiled as
everywhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from harness.core.nets import Network
from methods.shared import kernels

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.SiLU)


class LayerOutputs:
    """What some layers of a network put out as images pass through it; to be made once for a network.

    Layers may work in place: what they return is changed by no later layer of the benchmark's networks.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        # Hooks that stay and mostly do nothing: a compiled pass takes them in without a break.
        self._noted: list[Tensor] | None = None
        for layer in layers:
            layer.register_forward_hook(self._note)

    def of(self, net: Network, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Outputs (N, ...) of the layers, in the order in which images reach them, and the final map."""
        noted: list[Tensor] = []
        self._noted = noted
        final = net.features(images)
        self._noted = None
        return tuple(noted), final

    def _note(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        if self._noted is not None:
            self._noted.append(output)


class Layers(LayerOutputs):
    """A view of one network: outputs of its activations, in order, and its final map."""

    def __init__(self, net: Network) -> None:
        modules = (module for layer in net.features.layers for module in layer.modules())
        super().__init__(module for module in modules if isinstance(module, ACTIVATIONS))

    def __call__(self, net: Network, images: Tensor) -> tuple[Tensor, ...]:
        """Maps (N, channels, height, width), or (N, units) of linear layers; the last is not flattened."""
        outputs, final = self.of(net, images)
        return (*outputs, final)


class ClassMeans:
    """Class means of views that come in pieces, so that those of all images are never held together."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._sums: tuple[Tensor, ...] = ()

    def add(self, classes: Tensor, views: tuple[Tensor, ...]) -> None:
        """Take in views (n, ...) of images whose classes (n,), on the CPU, are in ascending order."""
        if not self._sums:
            self._sums = tuple(view.new_zeros(len(self._sizes), *view.shape[1:]) for view in views)
        present, counts = classes.unique_consecutive(return_counts=True)
        for total, view in zip(self._sums, views, strict=True):
            for label, part in zip(present.tolist(), view.split(counts.tolist()), strict=True):
                total[label] += part.sum(dim=0)

    def result(self) -> tuple[Tensor, ...]:
        """Means (C, D) of each view, flattened."""
        sizes = torch.tensor(self._sizes)
        sizes = sizes.to(self._sums[0].device, non_blocking=True)[:, None].clamp_min(1)
        return tuple(total.flatten(1) / sizes for total in self._sums)


def class_means(
    parts: Iterable[tuple[Tensor, tuple[Tensor, ...]]], sizes: Sequence[int]
) -> tuple[Tensor, ...]:
    """Means (C, D) of each view over pieces (classes, views), such as those of `ClassMatcher.real_pieces`."""
    means = ClassMeans(sizes)
    for classes, views in parts:
        means.add(classes, views)
    return means.result()


def gap_of_means(real_means: Sequence[Tensor], views: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted sum over views of the squared distance of class means, (k,).

    real_means: (k, D) of each view; views: (k, m, ...), flattened after the mean; sums run over D.
    """
    gaps = [
        weight * kernels.mean_distance(real_mean, view.mean(dim=1).flatten(1))
        for real_mean, view, weight in zip(real_means, views, weights, strict=True)
    ]
    return torch.stack(gaps).sum(dim=0)
