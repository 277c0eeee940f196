"""What the gradient-matching methods share: gradients of each class, their distances, and their descent.

DC, DSA, DCC, IDC and DREAM compare the gradients that real and synthetic images of a class give a network.

Where time goes, with DC at CIFAR-10 shapes (ConvNet, ipc 10, 256 real images per class, one thread): the real
side takes about ten times as long as the synthetic one, and pieces that stay in the cache and a compiled pass
make it twice as fast. Of a double backward pass run step by step, half is convolutions (seven each, counting
a forward pass as one) and half the element-wise derivatives of norms and activations; compiled as a whole,
which fuses the latter, it takes 0.55 of that time, and 0.4 for all classes in one graph. The other exact way
- the gradient of a directional derivative, by forward mode, after a first-order pass - needs nine
convolutions: it takes 1.7 times as long step by step and 1.4 times as long compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value

from harness.core.context import Context
from harness.core.data import ClassBatch, Dataset
from harness.core.errors import UnknownNameError
from harness.core.nets import Network
from harness.core.passes import logits_forward, pieces, rows_per_piece
from harness.core.siamese import Siamese

# Gradients of a loss with respect to some parameters of a network, in their order and shapes.
Gradients = tuple[Tensor, ...]
# Distance and its gradient with respect to images (N, ...), from a network, those of its parameters that are
# compared, in its order, the images, their labels (N,), the gradients to be matched and the distance's name.
Slope = Callable[[Network, Sequence[nn.Parameter], Tensor, Tensor, Gradients, str], tuple[Tensor, Tensor]]


def row_cosine_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """Sum over parameters and rows (output channels) of 1 - cos; parameters of one dimension add nothing."""
    total = synthetic[0].new_zeros(())
    for r, s in zip(real, synthetic, strict=True):
        if r.ndim > 1:
            r, s = _rows(r), _rows(s)
            total = total + _one_minus_cosine(r, s).sum()
    return total


def squared_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """Sum of squared differences."""
    return _total([(r - s).square().sum() for r, s in zip(real, synthetic, strict=True)])


def cosine_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """1 - cos of the two concatenations of all gradients."""
    return _one_minus_cosine(
        torch.cat([r.flatten() for r in real]), torch.cat([s.flatten() for s in synthetic])
    )


def absolute_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """Sum of absolute differences."""
    return _total([(r - s).abs().sum() for r, s in zip(real, synthetic, strict=True)])


def mean_absolute_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """Sum over parameters and rows of the mean absolute difference in a row."""
    return _total([_rows((r - s).abs()).mean(dim=1).sum() for r, s in zip(real, synthetic, strict=True)])


DISTANCES: dict[str, Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]] = {
    "ours": row_cosine_distance,
    "mse": squared_distance,
    "cos": cosine_distance,
    "l1": absolute_distance,
    "l1_mean": mean_absolute_distance,
}


def gradient_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor], metric: str) -> Tensor:
    """Distance, a scalar, of two lists of gradients with the same shapes."""
    if metric not in DISTANCES:
        raise UnknownNameError("gradient distance", metric, DISTANCES)
    return DISTANCES[metric](real, synthetic)


def matched_parameters(net: nn.Module, *, biases: bool, classifier: bool) -> list[nn.Parameter]:
    """The parameters whose gradients are compared, in the network's order.

    `biases` stands for all parameters of one dimension, `classifier` for the matrices of linear layers.
    """
    return [
        parameter
        for parameter in net.parameters()
        if (parameter.ndim != 1 or biases) and (parameter.ndim != 2 or classifier)
    ]


class GradientMatcher:
    """Gradients of real images by class, and the descent of synthetic images towards them."""

    def __init__(self, context: Context, data: Dataset, net: Network) -> None:
        self.data = data
        self.rows_at_once = rows_per_piece(net, data.shape)
        self._context = context
        self._forward = context.accelerate(logits_forward(context))
        self._slope = double_backward(context)
        self._fused_slope = context.accelerate(functional_slope(context))

    def real_gradients(
        self, net: Network, parameters: Sequence[nn.Parameter], batch: ClassBatch, siamese: Siamese
    ) -> list[Gradients]:
        """Gradients of the mean cross entropy of each class's real images, without a graph."""
        by_class = batch.indices.split(list(batch.sizes))
        return [
            self._real_gradient(net, parameters, indices, label, siamese)
            for label, indices in enumerate(by_class)
        ]

    def descend(
        self,
        net: Network,
        parameters: Sequence[nn.Parameter],
        images: Tensor,
        siamese: Siamese,
        real: Sequence[Gradients],
        metric: str,
    ) -> Tensor:
        """Put the gradient of the summed distances to `real` into `images.grad`; returns them, (len(real),).

        parameters: in the network's order. images: (C * ipc, ...) class-major, as the network sees them but
        for the augmentation. real: gradients for each class, or one for all together, `mean_gradients`.
        """
        classes = self.data.num_classes
        of_class = torch.arange(classes).repeat_interleave(len(images) // classes)
        labels = of_class.to(images.device, non_blocking=True)
        gradient, losses = torch.empty_like(images), []
        at_once = len(images) // len(real)
        for wanted, rows in zip(real, pieces(len(images), at_once), strict=True):
            leaf = images.detach()[rows].requires_grad_()
            shown = siamese(leaf, of_class[rows])
            # Batch statistics that move cannot be updated inside a functional derivative.
            fused = self._context.compiling and self.rows_at_once is not None
            slope = self._fused_slope if fused else self._slope
            distance, by_shown = slope(net, parameters, shown.detach(), labels[rows], wanted, metric)
            (gradient[rows],) = torch.autograd.grad(shown, leaf, by_shown)
            losses.append(distance)
        images.grad = gradient
        return torch.stack(losses)

    def _real_gradient(
        self,
        net: Network,
        parameters: Sequence[nn.Parameter],
        indices: Tensor,
        label: int,
        siamese: Siamese,
    ) -> Gradients:
        """Gradient of the mean cross entropy of the real images of one class, summed over pieces."""
        total = [torch.zeros_like(parameter) for parameter in parameters]
        for piece in pieces(len(indices), self.rows_at_once):
            rows = indices[piece]
            images = siamese(self.data.batch(rows), torch.full((len(rows),), label))
            labels = torch.full((len(rows),), label, device=images.device)
            logits = self._forward(net, images)
            loss = F.cross_entropy(logits, labels, reduction="sum") / len(indices)
            for part, gradient in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                part += gradient
        return tuple(total)


def double_backward(context: Context) -> Slope:
    """The slope step by step, through the graph of the gradients."""
    forward = logits_forward(context)

    def slope(
        net: Network,
        parameters: Sequence[nn.Parameter],
        images: Tensor,
        labels: Tensor,
        wanted: Gradients,
        metric: str,
    ) -> tuple[Tensor, Tensor]:
        leaf = images.detach().requires_grad_()
        loss = F.cross_entropy(forward(net, leaf), labels)
        got = torch.autograd.grad(loss, parameters, create_graph=True)
        distance = gradient_distance(wanted, got, metric)
        return distance.detach(), torch.autograd.grad(distance, leaf)[0]

    return slope


def functional_slope(context: Context) -> Slope:
    """The slope as nested functional derivatives, which torch compiles as a whole."""

    def slope(
        net: Network,
        parameters: Sequence[nn.Parameter],
        images: Tensor,
        labels: Tensor,
        wanted: Gradients,
        metric: str,
    ) -> tuple[Tensor, Tensor]:
        chosen = {id(parameter) for parameter in parameters}
        named = dict(net.named_parameters())
        compared = {name: value.detach() for name, value in named.items() if id(value) in chosen}
        # Detached like the others: a weight that required a gradient would keep the whole graph for it.
        others = {name: value.detach() for name, value in named.items() if id(value) not in chosen}

        def entropy(weights: dict[str, Tensor], images: Tensor) -> Tensor:
            with context.autocast():
                logits: Tensor = functional_call(net, others | weights, (images,))
            return F.cross_entropy(logits.float(), labels)

        def distance(images: Tensor) -> Tensor:
            got = grad(entropy)(compared, images)
            return gradient_distance(wanted, tuple(got.values()), metric)

        by_images: Tensor
        value: Tensor
        by_images, value = grad_and_value(distance)(images)
        return value, by_images

    return slope


def mean_gradients(real: Sequence[Gradients]) -> Gradients:
    """The mean over classes of their gradients."""
    return tuple(torch.stack(list(parts)).mean(dim=0) for parts in zip(*real, strict=True))


def _rows(gradient: Tensor) -> Tensor:
    return gradient.reshape(len(gradient), -1)


def _one_minus_cosine(real: Tensor, synthetic: Tensor) -> Tensor:
    """1 - cos along the last dimension; 1e-6 in the denominator, as in the authors' code, lets zeros pass."""
    norms = real.norm(dim=-1) * synthetic.norm(dim=-1)
    distance: Tensor = 1 - (real * synthetic).sum(dim=-1) / (norms + 1e-6)
    return distance


def _total(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum()
