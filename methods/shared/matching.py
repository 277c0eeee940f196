"""What the embedding-matching methods share: all classes in one pass, and the authors' step per class.

DM, IDM, BACON and their kin compare the embeddings of real and synthetic images class by class. The classes'
losses add up and each depends on its own images only, so all classes can go through the network together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.core.augment import Draws, augment, operations, sample_draws
from harness.core.context import Context
from harness.core.data import ClassBatch, Dataset
from harness.core.formation import compose, decode_by_class
from harness.core.nets import Network
from harness.core.passes import pieces, rows_per_piece
from methods.shared import kernels

# What a loss sees of images (N, ...) that go through a network: tensors (N, ...).
View = Callable[[Network, Tensor], tuple[Tensor, ...]]
# Loss of some classes, (k,), from views of their synthetic images, (k, m, ...) each, and the class slice.
ClassLoss = Callable[..., Tensor]
# Distance of some classes, (k,), to the real images: from the synthetic embeddings (k, m, D), the class slice
# and, if a criterion has more to see, its extra views (k, m, ...).
Distance = Callable[..., Tensor]
# Prepares that distance from the real embeddings (N, D), class after class, and the classes' sizes.
DistanceTo = Callable[[Tensor, tuple[int, ...]], Distance]


def embedding(net: Network, images: Tensor) -> tuple[Tensor, ...]:
    """The embedding (N, D)."""
    return (net.embed(images),)


def embedding_and_logits(net: Network, images: Tensor) -> tuple[Tensor, ...]:
    """Embedding (N, D) and logits (N, C)."""
    return net.embed_and_logits(images)


@dataclass(frozen=True)
class Criterion:
    """What a loop of distribution matching minimises: a distance, which most methods bring alone.

    distance_to: prepares the distance to a batch of real images.
    extra_view: what the distance sees of the synthetic images besides their embeddings.
    refresh: called at the start of every iteration, for what the criterion draws anew.
    """

    distance_to: DistanceTo
    extra_view: View | None = None
    refresh: Callable[[], None] = lambda: None

    def view(self, net: Network, images: Tensor) -> tuple[Tensor, ...]:
        """Embedding (N, D), logits (N, C) and the extra views of synthetic images."""
        views = embedding_and_logits(net, images)
        return views if self.extra_view is None else views + self.extra_view(net, images)


def mean_distance_to(real: Tensor, sizes: tuple[int, ...]) -> Distance:
    """The distance of DM and IDM: squared gap of the mean embeddings."""
    real_mean = kernels.class_means(real, sizes)
    return lambda synthetic, classes: kernels.mean_distance(real_mean[classes], synthetic.mean(dim=1))


def initial_images(data: Dataset, ipc: int, factor: int, context: Context) -> Tensor:
    """Class-major images (C * ipc, ...) whose tiles are shrunk random real images, a draw for each tile."""
    generator = context.generator("init")
    tiles = [data.batch(data.index.balanced(ipc, generator)) for _ in range(factor**2)]
    return compose(tiles, factor)


def starting_images(data: Dataset, ipc: int, init: str, context: Context) -> Tensor:
    """Class-major images (C * ipc, ...): random "real" images, or normal "noise"."""
    if init == "real":
        return initial_images(data, ipc, 1, context)
    generator = context.generator("init")
    return torch.randn(data.num_classes * ipc, *data.shape, generator=generator, device=data.device)


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
    def real_pieces(
        self, net: Network, batch: ClassBatch, siamese: Siamese
    ) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        """Classes (n,), on the CPU, and views (n, ...) of a batch of real images, piece after piece."""
        classes = torch.arange(len(batch.sizes)).repeat_interleave(torch.tensor(batch.sizes))
        for piece in pieces(len(classes), self.rows_at_once):
            images = siamese(self.data.batch(batch.indices[piece]), classes[piece])
            yield classes[piece], self._real_view(net, images)

    def real(self, net: Network, batch: ClassBatch, siamese: Siamese) -> tuple[Tensor, ...]:
        """Views (N, ...) of a batch of real images, class after class, without a gradient."""
        parts = [views for _, views in self.real_pieces(net, batch, siamese)]
        return tuple(torch.cat(views) for views in zip(*parts, strict=True))

    def real_features(self, net: Network, batch: ClassBatch, siamese: Siamese) -> Tensor:
        """The first view of a batch of real images: their embeddings (N, D) unless another was asked for."""
        return self.real(net, batch, siamese)[0]

    def groups(self, ipc: int) -> Iterator[slice]:
        """Slices of the classes whose `ipc` synthetic images each go through a network together."""
        together = None
        if self.rows_at_once is not None:
            together = max(1, self.rows_at_once // (ipc * self.factor**2))
        return pieces(self.data.num_classes, together)

    def synthetic(self, net: Network, images: Tensor, siamese: Siamese, group: slice) -> tuple[Tensor, ...]:
        """Views (k, m, ...) of the class-major synthetic images (k * ipc, ...) of k classes, a slice."""
        classes = group.stop - group.start
        decoded = decode_by_class(images, self.factor, classes)
        of_class = torch.arange(group.start, group.stop).repeat_interleave(len(decoded) // classes)
        views = self._view(net, siamese(decoded, of_class))
        return tuple(view.unflatten(0, (classes, -1)) for view in views)

    def descend(self, net: Network, images: Tensor, siamese: Siamese, class_loss: ClassLoss) -> Tensor:
        """Put the gradient of the summed class losses into `images.grad`; returns the losses (C,).

        images: (C * ipc, ...) class-major, a leaf that requires a gradient.
        """
        ipc = len(images) // self.data.num_classes
        gradient, losses = torch.empty_like(images), []
        for group in self.groups(ipc):
            rows = slice(group.start * ipc, group.stop * ipc)
            leaf = images.detach()[rows].requires_grad_()
            views = self.synthetic(net, leaf, siamese, group)
            loss = class_loss(*views, group)
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

    def as_stopped(self) -> Tensor:
        """The images as the authors' loop leaves them: class c has made C - c steps since its gradient."""
        return self.images.detach() + self._ahead()

    @torch.no_grad()
    def revise(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change the images as the authors' loop has them between two iterations, by a pure function.

        The velocity stays: the steps that were taken back for `change` to see are those left until the
        classes' next turns.
        """
        ahead = self._ahead()
        self.images.copy_(change(self.images + ahead).sub_(ahead))

    def state_dict(self) -> dict[str, Any]:
        """Images and velocity."""
        return {"images": self.images.detach(), "velocity": self.velocity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both in place."""
        self.images.data.copy_(state["images"])
        self.velocity.copy_(state["velocity"])

    @torch.no_grad()
    def _ahead(self) -> Tensor:
        """How far each class has moved in the steps that the authors' loop has yet to make."""
        ipc = len(self.images) // self.classes
        made = [self._sum_of_powers(self.classes - c) for c in range(self.classes)]
        missing = self.velocity.new_tensor([self._sum_of_powers(self.classes) - part for part in made])
        return self.lr * missing.repeat_interleave(ipc)[:, None, None, None] * self.velocity

    def _sum_of_powers(self, n: int) -> float:
        """1 + m + ... + m^(n-1)."""
        return sum(self.momentum**k for k in range(n))


def _in_float32(view: View, context: Context) -> View:
    """The view as float32, computed in the context's precision."""

    def views(net: Network, images: Tensor) -> tuple[Tensor, ...]:
        with context.autocast():
            return tuple(out.float() for out in view(net, images))

    return views
