"""Passes of many images through a network, in pieces that stay in the processor's cache and in memory.

A piece changes no result beyond float rounding: networks without batch statistics treat images one by one,
and gradients of sums add up. Networks with batch statistics get everything in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.core import processor
from harness.core.hollow import is_hollow
from harness.core.loop import Runtime
from harness.core.nets import Network
from harness.core.sgd import Optimizer

# Elements of the largest feature map of a piece: 8 MiB of float32 fit a CPU's cache and keep what backward
# passes store small. Where each core has a second cache of 2 MiB, twice as much is quicker, by 5 % in float32
# and a quarter in bfloat16 with AMX; elsewhere it only takes a sixth more memory. GPUs want large ones.
PIECE_ELEMENTS = {"cpu": 2**21, "cuda": 2**30}
LARGE_CACHE, LARGE_CACHE_ELEMENTS = 2**21, 2**22
HOLLOW_PIECE_ELEMENTS = 2**27  # where nothing is computed, pieces would only be more to go through

Forward = Callable[[Network, Tensor], Tensor]


def rows_per_piece(net: Network, shape: tuple[int, int, int]) -> int | None:
    """How many images of `shape` (C, H, W) go through `net` at once; None if all must."""
    if any(isinstance(module, _BatchNorm) for module in net.modules()):
        return None
    return rows_that_fit(net, shape)


def rows_that_fit(net: Network, shape: tuple[int, int, int]) -> int:
    """How many images of `shape` (C, H, W) are quickest through `net`, which treats them one by one."""
    device = next(net.parameters()).device
    return max(8, _elements_at_once(device) // _largest_map(net, shape))


def _elements_at_once(device: torch.device) -> int:
    """Of the largest feature map of a piece; on one machine always the same, since pieces decide rounding."""
    if is_hollow():
        return HOLLOW_PIECE_ELEMENTS
    if device.type == "cpu" and (processor.second_cache_bytes() or 0) >= LARGE_CACHE:
        return LARGE_CACHE_ELEMENTS
    return PIECE_ELEMENTS.get(device.type, PIECE_ELEMENTS["cuda"])


def pieces(rows: int, rows_at_once: int | None) -> Iterator[slice]:
    """Slices that cover `rows` rows, `rows_at_once` at a time."""
    step = rows_at_once or max(1, rows)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def train_step(
    forward: Forward,
    net: Network,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    rows_at_once: int | None,
) -> tuple[Tensor, Tensor]:
    """One optimiser step on the mean cross entropy of a batch (N, C, H, W); labels (N,) or soft (N, classes).

    Returns the loss and the number of correct predictions before the step, as tensors.
    """
    hits = images.new_zeros((), dtype=torch.int64)

    def loss_of(logits: Tensor, piece: slice) -> Tensor:
        hits.add_((logits.detach().argmax(1) == hard(labels[piece])).sum())
        return F.cross_entropy(logits, labels[piece], reduction="sum")

    optimizer.zero_grad(set_to_none=True)
    loss = backward(forward, net, images, loss_of, rows_at_once)
    optimizer.step()
    return loss, hits


def backward(
    forward: Forward,
    net: Network,
    images: Tensor,
    loss_of: Callable[[Tensor, slice], Tensor],
    rows_at_once: int | None,
) -> Tensor:
    """Add the gradients of a batch's mean loss to those of the network; returns that loss.

    `loss_of` adds up the losses of a piece, given its logits and its rows in the batch (N, C, H, W).
    """
    loss = images.new_zeros(())
    for piece in pieces(len(images), rows_at_once):
        part = loss_of(forward(net, images[piece]), piece) / len(images)
        part.backward()
        loss += part.detach()
    return loss


def hard(labels: Tensor) -> Tensor:
    """Class of each row, of hard labels (N,) or soft ones (N, classes)."""
    return labels if labels.ndim == 1 else labels.argmax(dim=1)


@torch.no_grad()
def _largest_map(net: Network, shape: tuple[int, int, int]) -> int:
    """Elements of the largest output of any layer for one image."""
    largest = 1

    def note(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel())

    hooks = [module.register_forward_hook(note) for module in net.modules()]
    try:
        # Really computed: on the meta device torch would first import its compiler, which takes seconds.
        net(torch.zeros(1, *shape, device=next(net.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def logits_forward(context: Runtime) -> Forward:
    """A forward pass to float32 logits in the context's precision."""

    def forward(net: Network, images: Tensor) -> Tensor:
        with context.autocast():
            logits: Tensor = net(images)
            return logits.float()

    return forward
