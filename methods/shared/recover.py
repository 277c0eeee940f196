"""One iteration of SRe2L and its kin: images made to look, to a frozen network, like those it learned from.

A batch has one image of each class. It is shown to the network under one random window, mirroring and roll
for all its images; each image takes a step of Adam on cross entropy plus statistics (`statistics`) and is
clipped to what pixels can be. Batches are independent of each other: as many go through the network together
as are quickest, each with draws and statistics of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.context import Context
from harness.core.data import Dataset, Normalization, Transform
from harness.core.errors import UserError
from harness.core.nets import Network
from harness.core.passes import pieces, rows_that_fit
from harness.core.teachers import Teacher, TeacherRecipe, teacher_network, train_teacher
from methods.shared.crops import draw_windows
from methods.shared.statistics import BatchNormStatistics, first_weighted

EPSILON = 1e-8  # of Adam

# Images of k batches as they are shown, (k * n, C, H, W), labels (k * n,) and the slice of these k among all
# batches -> losses (k,).
BatchLoss = Callable[[Tensor, Tensor, slice], Tensor]


def squeezed(
    context: Context, data: Dataset, recipe: TeacherRecipe, method: str, *others: str
) -> list[Teacher]:
    """Frozen networks: the teacher of the evaluation, of the context's kind, and teachers named `others`.

    See `train_teacher`. UserError, before anything is trained, if one has no batch norm.
    """
    archs = [teacher_network(context.arch), *others]
    for arch in archs:
        if not BatchNormStatistics(context.apart(0, None).network(data, arch=arch)).layers:
            raise UserError(
                f"{method} matches what a network's batch norms remember of real images, and {arch} has "
                "none; choose another, such as ConvNetBN or ResNet18BN (ConvNet stands for ConvNetBN here)"
            )
    teachers = [train_teacher(context, data, arch, recipe) for arch in archs]
    for teacher in teachers:
        teacher.net.eval().requires_grad_(False)
    return teachers


@dataclass(frozen=True)
class Distortion:
    """What is drawn for each batch and iteration.

    smallest: area of the smallest random resized crop as a share of the image; None: no crop. flip: whether
    half of the batches are mirrored. roll: least and largest cyclic shift of rows and of columns. shift: most
    pixels that rows and columns are shifted by, zeros coming in, before all else.
    """

    smallest: float | None
    flip: bool
    roll: tuple[int, int]
    shift: int = 0


@dataclass(frozen=True)
class View:
    """One draw: window (top, left, height, width), whether mirrored, roll and shift of rows and columns."""

    window: tuple[int, int, int, int] | None
    flipped: bool
    roll: tuple[int, int]
    shift: tuple[int, int] = (0, 0)

    def __call__(self, images: Tensor) -> Tensor:
        """Images (n, C, H, W) as they are shown; the window is enlarged bilinearly to (H, W)."""
        shown = images
        if self.shift != (0, 0):
            rows, columns = self.shift
            shown = F.pad(shown, (columns, -columns, rows, -rows))
        if self.window is not None:
            top, left, height, width = self.window
            part = shown[:, :, top : top + height, left : left + width]
            size = (images.shape[2], images.shape[3])
            shown = F.interpolate(part, size, mode="bilinear", align_corners=False)
        shown = shown.flip(3) if self.flipped else shown
        return shown.roll(self.roll, (2, 3))


def draw_views(
    count: int, size: tuple[int, int], distortion: Distortion, generator: torch.Generator
) -> list[View]:
    """A view for each of `count` batches of images of `size` (H, W), from a CPU generator."""
    windows: list[Any] = [None] * count
    if distortion.smallest is not None:
        windows = draw_windows(count, size, generator, smallest=distortion.smallest).tolist()
    flips = [False] * count
    if distortion.flip:
        flips = (torch.rand(count, generator=generator) < 0.5).tolist()
    low, high = distortion.roll
    rolls = torch.randint(low, high + 1, (count, 2), generator=generator).tolist()
    shifts = [[0, 0]] * count
    if distortion.shift:
        most = distortion.shift
        shifts = torch.randint(-most, most + 1, (count, 2), generator=generator).tolist()
    drawn = zip(windows, flips, rolls, shifts, strict=True)
    return [View(w, f, (r[0], r[1]), (s[0], s[1])) for w, f, r, s in drawn]


class Look:
    """The loss of a batch in a frozen network: mean cross entropy plus `r_bn` times its statistics."""

    def __init__(self, context: Context, net: Network, r_bn: float, first: float) -> None:
        self._net, self._r_bn, self._first = net, r_bn, first
        statistics = BatchNormStatistics(net)

        def see(net: Network, shown: Tensor, groups: int) -> tuple[Tensor, Tensor]:
            with context.autocast():
                return statistics(net, shown, groups)

        self._see = context.accelerate(see)

    def __call__(self, shown: Tensor, labels: Tensor, batches: slice) -> Tensor:
        """Losses (k,) of images (k * n, C, H, W) of k batches."""
        groups = batches.stop - batches.start
        logits, terms = self._see(self._net, shown, groups)
        return group_entropy(logits, labels, groups) + self._r_bn * first_weighted(terms, self._first)


def vote(looks: Sequence[BatchLoss], weights: Sequence[float]) -> BatchLoss:
    """The weighted sum of several losses of the same batches."""

    def loss(shown: Tensor, labels: Tensor, batches: slice) -> Tensor:
        parts = [w * look(shown, labels, batches) for w, look in zip(weights, looks, strict=True)]
        return torch.stack(parts).sum(dim=0)

    return loss


def group_entropy(logits: Tensor, labels: Tensor, groups: int) -> Tensor:
    """Mean cross entropy (groups,) of logits (groups * n, classes)."""
    return F.cross_entropy(logits, labels, reduction="none").view(groups, -1).mean(dim=1)


class Batches:
    """Class-major images (C * ipc, ...) in batches, the rows of each given, with their labels."""

    def __init__(self, rows: Sequence[Tensor], labels: Tensor, rows_at_once: int) -> None:
        self._rows, self._labels, self._rows_at_once = rows, labels, rows_at_once

    @classmethod
    def of_classes(cls, data: Dataset, ipc: int, most: int, net: Network) -> Batches:
        """Batches of one image of each of up to `most` classes, for that network."""
        firsts = torch.arange(0, data.num_classes * ipc, ipc, device=data.device)
        rows = [part + index for part in firsts.split(most) for index in range(ipc)]
        labels = torch.arange(data.num_classes, device=data.device).repeat_interleave(ipc)
        return cls(rows, labels, rows_that_fit(net, data.shape))

    @classmethod
    def in_order(cls, data: Dataset, ipc: int, most: int, net: Network) -> Batches:
        """Batches of up to `most` images as they come, class after class, for that network."""
        rows = torch.arange(data.num_classes * ipc, device=data.device).split(most)
        labels = torch.arange(data.num_classes, device=data.device).repeat_interleave(ipc)
        return cls(rows, labels, rows_that_fit(net, data.shape))

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._rows)

    def gradient(self, images: Tensor, views: Sequence[View], loss: BatchLoss) -> tuple[Tensor, Tensor]:
        """Of the batches' losses, each under its view, by the images: as these; and the losses (batches,)."""
        gradient, losses = torch.empty_like(images), []
        for piece in self._together():
            rows = torch.cat(list(self._rows[piece]))
            leaf = images.detach()[rows].requires_grad_()
            parts = leaf.split(len(rows) // len(views[piece]))
            shown = torch.cat([view(part) for view, part in zip(views[piece], parts, strict=True)])
            found = loss(shown, self._labels[rows], piece)
            (gradient[rows],) = torch.autograd.grad(found.sum(), leaf)
            losses.append(found.detach())
        return gradient, torch.cat(losses)

    def _together(self) -> Iterator[slice]:
        """Batches, all of one size, that go through the network together."""
        sizes = [len(rows) for rows in self._rows]
        start = 0
        while start < len(sizes):
            stop = start + sizes[start:].count(sizes[start])
            for piece in pieces(stop - start, max(1, self._rows_at_once // sizes[start])):
                yield slice(start + piece.start, start + piece.stop)
            start = stop


class Adam:
    """Adam on images, whose rate is given with each step; elementwise, so that batches do not mix.

    counted: steps that the bias corrections take for made before the first.
    """

    def __init__(self, images: Tensor, betas: tuple[float, float] = (0.5, 0.9), *, counted: int = 0) -> None:
        self.images, self.betas = images, betas
        self._mean, self._square = torch.zeros_like(images), torch.zeros_like(images)
        self._steps = counted

    @torch.no_grad()
    def step(self, gradient: Tensor, lr: float) -> None:
        """One step along the gradient, (n, ...) as the images."""
        self._steps += 1
        self._mean.lerp_(gradient, 1 - self.betas[0])
        self._square.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
        unbiased = [1 - beta**self._steps for beta in self.betas]
        scale = (self._square.sqrt() / math.sqrt(unbiased[1])).add_(EPSILON)
        self.images.addcdiv_(self._mean, scale, value=-lr / unbiased[0])

    def state_dict(self) -> dict[str, Any]:
        """Images, moments and number of steps."""
        return {"tensors": [self.images, self._mean, self._square], "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore all of them, tensors in place."""
        for tensor, saved in zip((self.images, self._mean, self._square), state["tensors"], strict=True):
            tensor.copy_(saved)
        self._steps = state["steps"]


def cosine(share: float) -> float:
    """From 1 at the start, share 0, to 0 at the end, share 1."""
    return 0.5 * (1 + math.cos(math.pi * share))


def clip(images: Tensor, transform: Transform) -> None:
    """Bring transformed images (n, C, H, W), in place, to what pixels in [0, 1] are transformed to."""
    if isinstance(transform, Normalization):
        corners = (transform(images.new_full((1, len(transform.mean), 1, 1), end)) for end in (0.0, 1.0))
        images.clamp_(*corners)
    else:
        images.copy_(transform(transform.inverse(images).clamp(0, 1)))
