"""What the gradient-matching methods share: gradients of each class, their distances, and their descent.

DC, DSA, DCC, IDC and DREAM compare the gradients that real and synthetic images of a class give a network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.data import ClassBatch, Dataset
from harness.errors import UnknownNameError
from harness.nets import Network
from methods.api import Context
from methods.formation import decode_by_class
from methods.matching import Siamese
from methods.passes import pieces, rows_per_piece
from methods.pool import logits_forward

# Gradients of a loss with respect to some parameters of a network, in their order and shapes.
Gradients = tuple[Tensor, ...]


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
    """Gradients of real images by class, and the descent of synthetic images towards them.

    `prepare` is applied to decoded synthetic images before augmentation, e.g. the dataset's transform where
    synthetic images are kept as pixels.
    """

    def __init__(
        self,
        context: Context,
        data: Dataset,
        net: Network,
        factor: int = 1,
        *,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.data = data
        self.factor = factor
        self.rows_at_once = rows_per_piece(net, data.shape)
        self._prepare = prepare
        self._forward = logits_forward(context)
        self._first_order_forward = context.accelerate(self._forward)

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
        *,
        subsets: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Put the gradient of the summed distances to `real` into `images.grad`; returns them, (len(real),).

        images: (C * ipc, ...) class-major. real: gradients for each class, or one for all classes together,
        `mean_gradients`. subsets: for each class the rows (CPU int64) of its decoded images that take part;
        all of them by default.
        """
        classes = self.data.num_classes
        ipc, together = len(images) // classes, classes // len(real)
        gradient, losses = torch.empty_like(images), []
        for k, wanted in enumerate(real):
            members = range(k * together, (k + 1) * together)
            rows = slice(members.start * ipc, members.stop * ipc)
            leaf = images.detach()[rows].requires_grad_()
            shown, labels = self._shown(leaf, members, siamese, subsets)
            loss = F.cross_entropy(self._forward(net, shown), labels)
            got = torch.autograd.grad(loss, parameters, create_graph=True)
            distance = gradient_distance(wanted, got, metric)
            (gradient[rows],) = torch.autograd.grad(distance, leaf)
            losses.append(distance.detach())
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
            logits = self._first_order_forward(net, images)
            loss = F.cross_entropy(logits, labels, reduction="sum") / len(indices)
            for part, gradient in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                part += gradient
        return tuple(total)

    def _shown(
        self, images: Tensor, members: range, siamese: Siamese, subsets: Sequence[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """What the network sees of the stored images of some classes, augmented, and the labels of that."""
        by_class = decode_by_class(images, self.factor, len(members)).chunk(len(members))
        if subsets is not None:
            by_class = tuple(own[subsets[c].to(own.device)] for c, own in zip(members, by_class, strict=True))
        counts = torch.tensor([len(own) for own in by_class])
        classes = torch.arange(members.start, members.stop).repeat_interleave(counts)
        shown = torch.cat(by_class)
        if self._prepare is not None:
            shown = self._prepare(shown)
        return siamese(shown, classes), classes.to(images.device)


def mean_gradients(real: Sequence[Gradients]) -> Gradients:
    """The mean over classes of their gradients."""
    return tuple(torch.stack(list(parts)).mean(dim=0) for parts in zip(*real, strict=True))


def _rows(gradient: Tensor) -> Tensor:
    return gradient.reshape(len(gradient), -1)


def _one_minus_cosine(real: Tensor, synthetic: Tensor) -> Tensor:
    """1 - cos along the last dimension; 1e-6 in the denominator, as in the authors' code, lets zeros pass."""
    norms = real.norm(dim=-1) * synthetic.norm(dim=-1)
    return 1 - (real * synthetic).sum(dim=-1) / (norms + 1e-6)


def _total(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum()
