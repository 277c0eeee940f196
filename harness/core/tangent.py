"""Tangent kernels of infinitely wide ReLU networks, and ridge regression in them: what KIP distils with.

For images x and y let S(p, q) be the covariance of the pre-activations at pixel p of x and pixel q of y over
random networks, and T(p, q) its tangent part; the kernel is the T of the last layer. Layers are 3x3
convolutions or dense ones (weights W/sqrt(fan in), biases b), each followed by ReLU:

    affine   S <- W^2 M[S] + b^2,   T <- S + W^2 M[T]      M: mean over the nine offsets of p and q together
    ReLU     with cos t = S / sqrt(S_xx S_yy):   T <- T (pi - t) / 2 pi,
             S <- sqrt(S_xx S_yy) (sin t + (pi - t) cos t) / 2 pi

"pool" averages 2x2 windows after each block, which mixes pixels: S and T are then tensors over all pairs of
pixels, a million entries for one pair of images at 32x32. Without pooling ("vec") only p = q is ever needed.
"fc" is dense from the start. The kernel of many images is made in pieces; where the graph of all pieces does
not fit in memory, each is made again for the way back (`gradients`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["pool", "vec", "fc"]

# Bytes of what is kept of a piece for its way back: larger ones leave a CPU's cache, and fill a GPU.
PIECE_BYTES = {"cpu": 2**27, "cuda": 2**32}
KEPT_BYTES = {"cpu": 2**30, "cuda": 2**35}  # up to which all pieces are kept instead of made again
TENSORS_KEPT = 8  # of the size of S that a layer keeps for the way back, and uses on the way
# Seconds for an element of S in one layer, there and back, in float32: measured on one core of a CPU; for
# GPUs from what they read and write. float64 takes so many times as long.
ELEMENT_SECONDS = {"cpu": 1.5e-7, "cuda": 1e-10}
DOUBLE_COSTS = 2.0


@dataclass(frozen=True)
class TangentKernel:
    """A kernel by its network: `extra` layers before `depth` blocks.

    side: longest side of images that convolutions take as they are, larger ones are averaged down; 0: any.
    """

    kind: Kind
    depth: int
    extra: int = 0
    w_std: float = math.sqrt(2)
    b_std: float = 0.1
    side: int = 0

    def seen(self, images: Tensor) -> Tensor:
        """Images (n, C, H, W) as the kernel takes them."""
        longest = max(images.shape[2:])
        if self.kind == "fc" or not self.side or longest <= self.side:
            return images
        return F.avg_pool2d(images, -(-longest // self.side))

    def variances(self, images: Tensor) -> list[Tensor]:
        """S of images with themselves before each ReLU, at p = q: (n,) or (n, H, W), layer by layer."""
        way = _WAYS[self.kind]
        s, found = way.start_alone(images), []
        for layer in range(self.extra + self.depth):
            s = self.w_std**2 * way.mean_over_offsets(s) + self.b_std**2
            found.append(way.own(s))
            s = way.halved(s, found[-1])
            s = way.pooled(s) if layer >= self.extra else s
        return found

    def between(
        self, rows: Tensor, columns: Tensor, of_rows: list[Tensor], of_columns: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Tangent kernel and covariance (r, c) of images (r, ...) and (c, ...), given their variances."""
        way = _WAYS[self.kind]
        s, t = way.start(rows, columns), None
        for layer, (a, b) in enumerate(zip(of_rows, of_columns, strict=True)):
            s, t = self._affine(s, t, way)
            s, t = _relu(s, t, way.left(a), way.right(b))
            if layer >= self.extra:
                s, t = way.pooled(s), way.pooled(t)
        s, t = way.flat(s), None if t is None else way.flat(t)
        s = self.w_std**2 * s + self.b_std**2
        return (s if t is None else s + self.w_std**2 * t), s

    def _affine(self, s: Tensor, t: Tensor | None, way: _Way) -> tuple[Tensor, Tensor]:
        s = self.w_std**2 * way.mean_over_offsets(s) + self.b_std**2
        return s, s if t is None else s + self.w_std**2 * way.mean_over_offsets(t)

    def elements(self, shape: tuple[int, ...]) -> int:
        """Elements of S in all layers, for a pair of images (C, H, W) as the kernel takes them."""
        height, width = shape[1:]
        if self.kind == "fc":
            return self.depth
        total = 0
        for layer in range(self.extra + self.depth):
            total += (height * width) ** (2 if self.kind == "pool" else 1)
            if self.kind == "pool" and layer >= self.extra:
                height, width = _pooled_side(height, width)
        return total


class _Way(Protocol):
    """How S is laid out for a kind of network."""

    def start(self, rows: Tensor, columns: Tensor) -> Tensor:
        """S of all pairs of images before the first layer."""

    def start_alone(self, images: Tensor) -> Tensor:
        """S of images with themselves before the first layer."""

    def mean_over_offsets(self, s: Tensor) -> Tensor:
        """M."""

    def pooled(self, s: Tensor) -> Tensor:
        """After average pooling, if there is any."""

    def own(self, s: Tensor) -> Tensor:
        """Of S of images with themselves, what is at p = q."""

    def halved(self, s: Tensor, own: Tensor) -> Tensor:
        """S of images with themselves after ReLU."""

    def left(self, own: Tensor) -> Tensor:
        """Variances of the rows, laid out to go with S."""

    def right(self, own: Tensor) -> Tensor:
        """Variances of the columns, laid out to go with S."""

    def flat(self, s: Tensor) -> Tensor:
        """Flattened: the mean over p of S(p, p)."""


class _Dense:
    """S (r, c); for images alone (n,)."""

    def start(self, rows: Tensor, columns: Tensor) -> Tensor:
        return rows.flatten(1) @ columns.flatten(1).T / rows[0].numel()

    def start_alone(self, images: Tensor) -> Tensor:
        return images.flatten(1).square().mean(dim=1)

    def mean_over_offsets(self, s: Tensor) -> Tensor:
        return s

    def pooled(self, s: Tensor) -> Tensor:
        return s

    def own(self, s: Tensor) -> Tensor:
        return s

    def halved(self, s: Tensor, own: Tensor) -> Tensor:
        return s / 2

    def left(self, own: Tensor) -> Tensor:
        return own[:, None]

    def right(self, own: Tensor) -> Tensor:
        return own[None, :]

    def flat(self, s: Tensor) -> Tensor:
        return s


class _SamePixel(_Dense):
    """S (r, c, H, W), at p = q only; for images alone (n, H, W)."""

    def start(self, rows: Tensor, columns: Tensor) -> Tensor:
        found = torch.zeros((), dtype=rows.dtype, device=rows.device)
        for channel in range(rows.shape[1]):
            found = found + rows[:, None, channel] * columns[None, :, channel]
        return found / rows.shape[1]

    def start_alone(self, images: Tensor) -> Tensor:
        return images.square().mean(dim=1)

    def mean_over_offsets(self, s: Tensor) -> Tensor:
        flat = s.flatten(0, -3)
        return F.avg_pool2d(flat, 3, stride=1, padding=1).view(s.shape)

    def flat(self, s: Tensor) -> Tensor:
        return s.mean(dim=(-2, -1))


class _AllPixels:
    """S (r, c, H, W, H, W), the row's pixel before the column's; for images alone (n, H, W, H, W)."""

    def start(self, rows: Tensor, columns: Tensor) -> Tensor:
        products = torch.einsum("rcp,dcq->rdpq", rows.flatten(2), columns.flatten(2)) / rows.shape[1]
        return products.view(*products.shape[:2], *rows.shape[2:], *columns.shape[2:])

    def start_alone(self, images: Tensor) -> Tensor:
        products = torch.einsum("ncp,ncq->npq", images.flatten(2), images.flatten(2)) / images.shape[1]
        return products.view(len(images), *images.shape[2:], *images.shape[2:])

    def mean_over_offsets(self, s: Tensor) -> Tensor:
        return _MeanOverOffsets.apply(s)  # type: ignore[no-any-return]

    def pooled(self, s: Tensor) -> Tensor:
        height, width = s.shape[-2:]
        if min(height, width) < 2:
            return s
        high, wide = height // 2, width // 2
        s = s[..., : 2 * high, : 2 * wide, : 2 * high, : 2 * wide]
        windows = s.unflatten(-1, (wide, 2)).unflatten(-3, (high, 2)).unflatten(-5, (wide, 2))
        means: Tensor = windows.unflatten(-7, (high, 2)).mean(dim=(-1, -3, -5, -7))
        return means

    def own(self, s: Tensor) -> Tensor:
        return s.diagonal(dim1=-4, dim2=-2).diagonal(dim1=-3, dim2=-2)

    def halved(self, s: Tensor, own: Tensor) -> Tensor:
        return _relu(s, None, own[:, :, :, None, None], own[:, None, None])[0]

    def left(self, own: Tensor) -> Tensor:
        return own[:, None, :, :, None, None]

    def right(self, own: Tensor) -> Tensor:
        return own[None, :, None, None]

    def flat(self, s: Tensor) -> Tensor:
        return self.own(s).mean(dim=(-2, -1))


_WAYS: dict[Kind, _Way] = {"pool": _AllPixels(), "vec": _SamePixel(), "fc": _Dense()}


def _pooled_side(height: int, width: int) -> tuple[int, int]:
    return (height, width) if min(height, width) < 2 else (height // 2, width // 2)


class _MeanOverOffsets(torch.autograd.Function):
    """M of (..., H, W, H, W), zeros beyond the edges; it is its own transpose, so nothing need be kept."""

    @staticmethod
    def forward(context: Any, s: Tensor) -> Tensor:
        return _mean_over_offsets(s)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return _mean_over_offsets(gradients[0])


def _mean_over_offsets(s: Tensor) -> Tensor:
    s = s / 9
    for axis in (-2, -1):  # first the rows of both pixels, then their columns
        length = s.shape[axis]
        total = s.clone()
        here, there = (s.narrow(axis - 2, k, length - 1).narrow(axis, k, length - 1) for k in (0, 1))
        total.narrow(axis - 2, 0, length - 1).narrow(axis, 0, length - 1).add_(there)
        total.narrow(axis - 2, 1, length - 1).narrow(axis, 1, length - 1).add_(here)
        s = total
    return s


def _relu(s: Tensor, t: Tensor | None, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """S and T after ReLU; a and b, the variances, are laid out to go with S. Without T there is none."""
    if t is None:
        return _ReLU.apply(s, s, a, b, True)  # type: ignore[no-any-return]
    return _ReLU.apply(s, t, a, b, False)  # type: ignore[no-any-return]


class _ReLU(torch.autograd.Function):
    """The angle's own derivative has no bound at t = 0, where an image meets itself: there it counts as 0."""

    @staticmethod
    def forward(
        context: Any, s: Tensor, t: Tensor, a: Tensor, b: Tensor, alone: bool
    ) -> tuple[Tensor, Tensor]:
        context.save_for_backward(s, t, a, b)
        context.alone = alone
        root = (a * b).sqrt()
        angle, sine, cosine = _angles(s, root)
        share = (math.pi - angle) / (2 * math.pi)
        covariance = root * (sine / (2 * math.pi) + share * cosine)
        return covariance, covariance.new_zeros(()) if alone else t * share

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        s, t, a, b = context.saved_tensors
        by_s, by_t = gradients
        root = (a * b).sqrt()
        angle, sine, cosine = _angles(s, root)
        share = (math.pi - angle) / (2 * math.pi)
        if context.alone:
            to_s, to_t = by_s * share, None
            to_ab = by_s * root * sine / (4 * math.pi)
        else:
            to_t = by_t * share
            by_cosine = by_t * t / (2 * math.pi) * torch.where(sine > 0, 1 / sine, 0.0)
            to_s = by_s * share + by_cosine / root
            to_ab = by_s * root * sine / (4 * math.pi) - by_cosine * cosine / 2
        return to_s, to_t, (to_ab / a).sum_to_size(a.shape), (to_ab / b).sum_to_size(b.shape), None


def _angles(s: Tensor, root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The angle t with its sine and cosine; exactly 0 where rounding alone tells it from that."""
    cosine = (s / root).clamp(-1, 1)
    squared = 1 - cosine.square()
    cosine = torch.where((squared <= 32 * torch.finfo(s.dtype).eps) & (cosine > 0), 1.0, cosine)
    return cosine.acos(), (1 - cosine.square()).clamp_min(0).sqrt(), cosine


@dataclass(frozen=True)
class KernelRidge:
    """Ridge regression in a tangent kernel; `reg` is relative to the mean of the kernel's diagonal.

    With A = K_ss + reg tr(K_ss)/n I, targets are told by K_ts A^-1 Y from a support with labels Y.
    double: whether it is computed in float64.
    """

    kernel: TangentKernel
    reg: float
    double: bool = True

    @property
    def dtype(self) -> torch.dtype:
        """What kernels are computed in; A is always solved in float64."""
        return torch.float64 if self.double else torch.float32

    @torch.no_grad()
    def matrix(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Kernel (r, c) of images (r, C, H, W) and (c, C, H, W)."""
        ready = self._ready(columns)
        return self._made(*(ready if rows is columns else self._ready(rows)), *ready)

    def predict(self, support: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """What a support (n, C, H, W) with labels (n, classes) says of targets (m, C, H, W): (m, classes)."""
        among, across = self.matrix(support, support), self.matrix(targets, support)
        return across.double() @ dual_weights(among, labels, self.reg)

    def gradients(
        self, support: Tensor, labels: Tensor, targets: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, half the mean of (prediction - wanted)^2, and its gradients by support and by labels."""
        leaf = support.detach().requires_grad_()
        seen = self.kernel.seen(leaf.to(self.dtype))
        with torch.no_grad():
            others, of_others = self._ready(targets)
        entries = len(support) * (len(support) + len(targets))
        if entries * self._bytes(seen) <= _budget(KEPT_BYTES, seen.device):
            own = self.kernel.variances(seen)
            among, across = self._made(seen, own, seen, own), self._made(others, of_others, seen, own)
            loss, by_labels = self._loss(among, across, labels, wanted)
            return loss.detach(), torch.autograd.grad(loss, leaf, retain_graph=True)[0], by_labels()
        return self._in_pieces(leaf, seen, labels, (others, of_others), wanted)

    def least_bytes(self, shape: tuple[int, int, int]) -> int:
        """What one pair of images (C, H, W) takes, below which no piece can go."""
        return self._bytes(self.kernel.seen(torch.empty(1, *shape, device="meta")))

    def seconds(self, pairs: int, shape: tuple[int, int, int], device: torch.device) -> float:
        """About how long the kernel of so many pairs of images (C, H, W) takes, there and back."""
        seen = tuple(self.kernel.seen(torch.empty(1, *shape, device="meta")).shape[1:])
        each = ELEMENT_SECONDS.get(device.type, ELEMENT_SECONDS["cuda"]) * self.kernel.elements(seen)
        return pairs * each * (DOUBLE_COSTS if self.double else 1.0)

    def _in_pieces(
        self,
        leaf: Tensor,
        seen: Tensor,
        labels: Tensor,
        targets: tuple[Tensor, list[Tensor]],
        wanted: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same; kernels are made twice, the second time piece by piece with the way back."""
        with torch.no_grad():
            support, own = self._ready(leaf)
            among = self._made(support, own, support, own).requires_grad_()
            across = self._made(*targets, support, own).requires_grad_()
        loss, by_labels = self._loss(among, across, labels, wanted)
        to_among, to_across = torch.autograd.grad(loss, (among, across), retain_graph=True)
        to_half = to_among.tril() + to_among.triu(1).T  # the other half was made of this one
        back = _WayBack(self.kernel, support, own)
        for rows, columns in self._pieces(support, len(support), len(support)):
            if columns.start >= rows.stop:
                continue
            back.through(rows, columns, None, to_half[rows, columns])
        for rows, columns in self._pieces(support, len(wanted), len(support)):
            part = targets[0][rows], [variance[rows] for variance in targets[1]]
            back.through(rows, columns, part, to_across[rows, columns])
        for rows in _slices(len(support), self._at_once(support)):
            back.through_variances(rows)
        (by_support,) = torch.autograd.grad(seen, leaf, back.images)
        return loss.detach(), by_support, by_labels()

    def _loss(self, among: Tensor, across: Tensor, labels: Tensor, wanted: Tensor) -> Any:
        """The loss, and what gives its gradient by the labels."""
        rows = labels.detach().requires_grad_()
        predicted = across.double() @ dual_weights(among, rows, self.reg)
        loss = 0.5 * (predicted - wanted).square().mean()
        return loss, lambda: torch.autograd.grad(loss, rows)[0]

    def _ready(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images as the kernel takes them, and their variances."""
        seen = self.kernel.seen(images.to(self.dtype))
        parts = [self.kernel.variances(seen[rows]) for rows in _slices(len(seen), self._at_once(seen))]
        return seen, [torch.cat(layer) for layer in zip(*parts, strict=True)]

    def _made(self, rows: Tensor, of_rows: list[Tensor], columns: Tensor, of_columns: list[Tensor]) -> Tensor:
        """Kernel (r, c), piece by piece; that of images with themselves from one half."""
        alike = rows is columns
        found = rows.new_zeros(len(rows), len(columns))
        for down, across in self._pieces(rows, len(rows), len(columns)):
            if alike and across.start >= down.stop:
                continue
            a, b = [one[down] for one in of_rows], [one[across] for one in of_columns]
            found[down, across] = self.kernel.between(rows[down], columns[across], a, b)[0]
        return found.tril() + found.tril(-1).T if alike else found

    def _pieces(self, images: Tensor, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
        at_once = self._at_once(images)
        wide = min(columns, max(1, int(at_once**0.5)))
        for down in _slices(rows, max(1, at_once // wide)):
            for across in _slices(columns, wide):
                yield down, across

    def _at_once(self, images: Tensor) -> int:
        """How many pairs of images make a piece, or how many images with themselves do."""
        return max(1, _budget(PIECE_BYTES, images.device) // self._bytes(images))

    def _bytes(self, images: Tensor) -> int:
        """What one pair of images keeps for the way back."""
        shape = tuple(images.shape[1:])
        return TENSORS_KEPT * self.kernel.elements(shape) * (8 if self.double else 4)


class _WayBack:
    """Gradients by images and by their variances, gathered piece by piece."""

    def __init__(self, kernel: TangentKernel, images: Tensor, variances: list[Tensor]) -> None:
        self.images = torch.zeros_like(images)
        self._kernel, self._seen, self._own = kernel, images, variances
        self._by_own = [torch.zeros_like(variance) for variance in variances]

    def through(
        self, rows: slice, columns: slice, others: tuple[Tensor, list[Tensor]] | None, gradient: Tensor
    ) -> None:
        """One piece of the kernel of these images, its rows, with themselves or `others`."""
        leaves = [part[columns].detach().requires_grad_() for part in (self._seen, *self._own)]
        left = others
        if left is None:
            own = [part[rows].detach().requires_grad_() for part in (self._seen, *self._own)]
            left, leaves = (own[0], own[1:]), leaves + own
        made = self._kernel.between(left[0], leaves[0], left[1], leaves[1 : 1 + len(self._own)])[0]
        found = torch.autograd.grad(made, leaves, gradient)
        self._add(columns, found[: 1 + len(self._own)])
        if others is None:
            self._add(rows, found[1 + len(self._own) :])

    def through_variances(self, rows: slice) -> None:
        """What the variances of some images say of these."""
        images = self._seen[rows].detach().requires_grad_()
        made = self._kernel.variances(images)
        (found,) = torch.autograd.grad(made, images, [one[rows] for one in self._by_own])
        self.images[rows] += found

    def _add(self, rows: slice, gradients: tuple[Tensor, ...]) -> None:
        for total, part in zip((self.images, *self._by_own), gradients, strict=True):
            total[rows] += part


def _budget(table: Mapping[str, int], device: torch.device) -> int:
    """Bytes by a table, on a GPU no more than a quarter of its memory."""
    budget = table.get(device.type, table["cuda"])
    if device.type != "cuda":
        return budget
    return min(budget, torch.cuda.get_device_properties(device).total_memory // 4)


def _slices(count: int, at_once: int) -> Iterator[slice]:
    for start in range(0, count, at_once):
        yield slice(start, min(start + at_once, count))


def dual_weights(kernel: Tensor, labels: Tensor, reg: float) -> Tensor:
    """A^-1 Y (n, C), float64, of a kernel (n, n) and labels (n, C); not finite where A has no inverse.

    A loop sees that by its loss: to ask here would make the host wait for the device.
    """
    found: Tensor = torch.linalg.solve_ex(regularised(kernel, reg), labels.double()).result
    return found


def regularised(kernel: Tensor, reg: float) -> Tensor:
    """A, in float64."""
    kernel = kernel.double()
    ridge = abs(reg) * kernel.diagonal().mean()
    return kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)


def centred_classes(classes: Tensor, count: int) -> Tensor:
    """Targets (n, count): one where the class is, less 1 / count everywhere; float64."""
    return (classes[:, None] == torch.arange(count, device=classes.device)).double() - 1 / count
