"""What the embedding-matching methods share: all classes in one pass, and the authors' step per class.

DM, IDM, BACON and their kin compare the embeddings of real and synthetic images class by class. The classes'
losses add up and each depends on its own images only, so all classes can go through the network together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.context import Context
from harness.core.data import ClassBatch, Dataset
from harness.core.formation import decode_by_class
from harness.core.nets import Network
from harness.core.passes import pieces, rows_per_piece
from harness.core.siamese import Siamese
from methods.shared import kernels


class Seen(NamedTuple):
    """What is seen of images that went through a network: N images, or m synthetic ones of each of k classes.

    embeddings: (N, D) or (k, m, D). logits: (N, C) or (k, m, C), where they are looked at. extra: whatever
    else is, (N, ...) or (k, m, ...) each. classes: the slice of the k classes.
    """

    embeddings: Tensor
    logits: Tensor | None = None
    extra: tuple[Tensor, ...] = ()
    classes: slice = slice(0)

    def each(self, change: Callable[[Tensor], Tensor]) -> Seen:
        """The same with every tensor changed."""
        logits = None if self.logits is None else change(self.logits)
        return Seen(change(self.embeddings), logits, tuple(map(change, self.extra)), self.classes)


# What is seen of images (N, ...) that go through a network.
View: TypeAlias = Callable[[Network, Tensor], Seen]
# Loss of some classes, (k,), from what is seen of their synthetic images.
ClassLoss: TypeAlias = Callable[[Seen], Tensor]
# Makes the distance to real images from their embeddings (N, D), class after class, and the classes' sizes.
DistanceTo: TypeAlias = Callable[[Tensor, tuple[int, ...]], ClassLoss]


def embedding(net: Network, images: Tensor) -> Seen:
    """Embeddings alone."""
    return Seen(net.embed(images))


def embedding_and_logits(net: Network, images: Tensor) -> Seen:
    """Embeddings and logits."""
    return Seen(*net.embed_and_logits(images))


@dataclass(frozen=True)
class MeanDistance:
    """The distance of DM and IDM: squared gap of the mean embeddings; `real_means` (C, D)."""

    real_means: Tensor

    @classmethod
    def to(cls, real: Tensor, sizes: tuple[int, ...]) -> MeanDistance:
        """The distance to real embeddings (N, D), class after class."""
        return cls(kernels.class_means(real, sizes))

    def __call__(self, seen: Seen) -> Tensor:
        """Of each class seen, (k,)."""
        return kernels.mean_distance(self.real_means[seen.classes], seen.embeddings.mean(dim=1))


def class_entropy(seen: Seen) -> Tensor:
    """Mean cross entropy of each class's images, (k,), from their logits."""
    assert seen.logits is not None
    k, m, _ = seen.logits.shape
    labels = torch.arange(seen.classes.start, seen.classes.stop, device=seen.logits.device)
    entropy = F.cross_entropy(seen.logits.flatten(0, 1), labels.repeat_interleave(m), reduction="none")
    return entropy.view(k, m).mean(dim=1)


def distance_and_entropy(distance: ClassLoss, ce_weight: Tensor | float, seen: Seen) -> Tensor:
    """Distance plus weighted cross entropy of each class seen, (k,)."""
    return distance(seen) + ce_weight * class_entropy(seen)


class ClassMatcher:
    """Shows a loss real and synthetic images of all classes in as few pieces as the cache and memory like.

    `view` is what the loss sees of the synthetic images, `real_view` of the real ones.
    """

    def __init__(
        self,
        context: Context,
        data: Dataset,
        net: Network,
        factor: int = 1,
        *,
        view: View = embedding_and_logits,
        real_view: View = embedding,
    ) -> None:
        self.data = data
        self.factor = factor
        self.rows_at_once = rows_per_piece(net, data.shape)
        self._view = context.accelerate(_in_float32(view, context))
        self._real_view = context.accelerate(_in_float32(real_view, context))

    @torch.no_grad()
    def real_pieces(self, net: Network, batch: ClassBatch, siamese: Siamese) -> Iterator[tuple[Tensor, Seen]]:
        """Classes (n,), on the CPU, of a batch of real images and what is seen of them, piece after piece."""
        classes = torch.arange(len(batch.sizes)).repeat_interleave(torch.tensor(batch.sizes))
        for piece in pieces(len(classes), self.rows_at_once):
            images = siamese(self.data.batch(batch.indices[piece]), classes[piece])
            yield classes[piece], self._real_view(net, images)

    def real_features(self, net: Network, batch: ClassBatch, siamese: Siamese) -> Tensor:
        """Embeddings (N, D) of a batch of real images, class after class, without a gradient."""
        return torch.cat([seen.embeddings for _, seen in self.real_pieces(net, batch, siamese)])

    def groups(self, ipc: int) -> Iterator[slice]:
        """Slices of the classes whose `ipc` synthetic images each go through a network together."""
        together = None
        if self.rows_at_once is not None:
            together = max(1, self.rows_at_once // (ipc * self.factor**2))
        return pieces(self.data.num_classes, together)

    def synthetic(self, net: Network, images: Tensor, siamese: Siamese, group: slice) -> Seen:
        """What is seen of the class-major synthetic images (k * ipc, ...) of k classes, a slice."""
        classes = group.stop - group.start
        decoded = decode_by_class(images, self.factor, classes)
        of_class = torch.arange(group.start, group.stop).repeat_interleave(len(decoded) // classes)
        seen = self._view(net, siamese(decoded, of_class))
        return seen.each(lambda part: part.unflatten(0, (classes, -1)))._replace(classes=group)

    def descend(self, net: Network, images: Tensor, siamese: Siamese, class_loss: ClassLoss) -> Tensor:
        """Put the gradient of the summed class losses into `images.grad`; returns the losses (C,).

        images: (C * ipc, ...) class-major, a leaf that requires a gradient.
        """
        ipc = len(images) // self.data.num_classes
        gradient, losses = torch.empty_like(images), []
        for group in self.groups(ipc):
            rows = slice(group.start * ipc, group.stop * ipc)
            leaf = images.detach()[rows].requires_grad_()
            loss = class_loss(self.synthetic(net, leaf, siamese, group))
            (gradient[rows],) = torch.autograd.grad(loss.sum(), leaf)
            losses.append(loss.detach())
        images.grad = gradient
        return torch.cat(losses)


def _in_float32(view: View, context: Context) -> View:
    """The view as float32, computed in the context's precision."""

    def seen(net: Network, images: Tensor) -> Seen:
        with context.autocast():
            return view(net, images).each(Tensor.float)

    return seen
