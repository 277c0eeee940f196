"""What the embedding-matching methods share: all classes in one pass, and the authors' step per class.

DM, IDM, BACON and their kin compare the embeddings of real and synthetic images class by class. The classes'
losses add up and each depends on its own images only, so all classes can go through the network together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.data import ClassBatch, Dataset
from harness.nets import Network
from methods.api import Context
from methods.augment import Draws, augment, operations, sample_draws
from methods.formation import decode_by_class
from methods.passes import pieces, rows_per_piece

# Loss of some classes, (k,), from their synthetic embeddings (k, m, D), logits (k, m, C) and class slice.
ClassLoss = Callable[[Tensor, Tensor, slice], Tensor]


@dataclass(frozen=True)
class Siamese:
    """One augmentation for each class, shared by its real and its synthetic images."""

    strategy: str
    draws: Draws | None

    @classmethod
    def draw(cls, strategy: str, data: Dataset, context: Context) -> Siamese:
        """Draw operation and parameters of each class."""
        if not operations(strategy):
            return cls(strategy, None)
        generator = context.generator("augment", on_cpu=True)
        size = (data.shape[1], data.shape[2])
        return cls(strategy, sample_draws(strategy, data.num_classes, size, generator))

    def __call__(self, images: Tensor, classes: Tensor) -> Tensor:
        """Augment images (N, ...) as their classes (N,), on the CPU, were drawn."""
        return images if self.draws is None else augment(images, self.strategy, self.draws.rows(classes))


class ClassMatcher:
    """Embeds real and synthetic images of all classes in as few pieces as the cache and memory like."""

    def __init__(self, context: Context, data: Dataset, net: Network, factor: int = 1) -> None:
        self.data = data
        self.factor = factor
        self.rows_at_once = rows_per_piece(net, data.shape)
        self._embed = context.accelerate(_embedder(context))
        self._embed_and_logits = context.accelerate(_embedder_with_logits(context))

    @torch.no_grad()
    def real_features(self, net: Network, batch: ClassBatch, siamese: Siamese) -> Tensor:
        """Embeddings (N, D) of a batch of real images, class after class, without a gradient."""
        classes = torch.arange(len(batch.sizes)).repeat_interleave(torch.tensor(batch.sizes))
        parts = []
        for piece in pieces(len(classes), self.rows_at_once):
            images = siamese(self.data.batch(batch.indices[piece]), classes[piece])
            parts.append(self._embed(net, _channels_last(images)))
        return torch.cat(parts)

    def descend(self, net: Network, images: Tensor, siamese: Siamese, class_loss: ClassLoss) -> Tensor:
        """Put the gradient of the summed class losses into `images.grad`; returns the losses (C,).

        images: (C * ipc, ...) class-major, a leaf that requires a gradient.
        """
        classes = self.data.num_classes
        ipc = len(images) // classes
        per_class = ipc * self.factor**2
        together = None if self.rows_at_once is None else max(1, self.rows_at_once // per_class)
        gradient, losses = torch.empty_like(images), []
        for group in pieces(classes, together):
            rows = slice(group.start * ipc, group.stop * ipc)
            leaf = images.detach()[rows].requires_grad_()
            of_class = torch.arange(group.start, group.stop).repeat_interleave(per_class)
            decoded = decode_by_class(leaf, self.factor, group.stop - group.start)
            features, logits = self._embed_and_logits(net, _channels_last(siamese(decoded, of_class)))
            shape = (group.stop - group.start, per_class, -1)
            loss = class_loss(features.view(shape), logits.view(shape), group)
            (gradient[rows],) = torch.autograd.grad(loss.sum(), leaf)
            losses.append(loss.detach())
        images.grad = gradient
        return torch.cat(losses)


class ClasswiseSGD:
    """The authors' SGD, one step per class over the whole tensor, taken as one joint step.

    IDM and BACON step once for each of the C classes with momentum m; the zero gradient of the other classes
    lets their momentum buffers move them on. Seen from one class, C steps of which one has a gradient are

        v <- m^C v + g,    x <- x - lr (1 - m^C) / (1 - m) v,

    exactly, as long as a class's gradient depends on its own images only. `images` therefore holds each
    class as the authors' loop would see it at its own turn; `as_stopped` takes back the steps that classes
    late in the order have not made yet when the loop stops.
    """

    def __init__(self, images: Tensor, classes: int, lr: float, momentum: float) -> None:
        self.images = images
        self.classes = classes
        self.lr = lr
        self.momentum = momentum
        self.velocity = torch.zeros_like(images)

    @torch.no_grad()
    def step(self) -> None:
        """The C steps of one iteration, with the gradient in `images.grad`."""
        assert self.images.grad is not None
        self.velocity.mul_(self.momentum**self.classes).add_(self.images.grad)
        self.images.sub_(self.velocity, alpha=self.lr * self._sum_of_powers(self.classes))

    @torch.no_grad()
    def as_stopped(self) -> Tensor:
        """The images as the authors' loop leaves them: class c has made C - c steps since its gradient."""
        ipc = len(self.images) // self.classes
        made = [self._sum_of_powers(self.classes - c) for c in range(self.classes)]
        missing = self.velocity.new_tensor([self._sum_of_powers(self.classes) - part for part in made])
        ahead = missing.repeat_interleave(ipc)[:, None, None, None]
        return self.images.detach() + self.lr * ahead * self.velocity

    def state_dict(self) -> dict[str, Any]:
        """Images and velocity."""
        return {"images": self.images.detach(), "velocity": self.velocity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both in place."""
        self.images.data.copy_(state["images"])
        self.velocity.copy_(state["velocity"])

    def _sum_of_powers(self, n: int) -> float:
        """1 + m + ... + m^(n-1)."""
        return sum(self.momentum**k for k in range(n))


def _embedder(context: Context) -> Callable[[Network, Tensor], Tensor]:
    def embed(net: Network, images: Tensor) -> Tensor:
        with context.autocast():
            return net.embed(images).float()

    return embed


def _embedder_with_logits(context: Context) -> Callable[[Network, Tensor], tuple[Tensor, Tensor]]:
    def embed_and_logits(net: Network, images: Tensor) -> tuple[Tensor, Tensor]:
        with context.autocast():
            features, logits = net.embed_and_logits(images)
            return features.float(), logits.float()

    return embed_and_logits


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
