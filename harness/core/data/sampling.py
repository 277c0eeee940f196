"""Draws of sample indices: whole tensors at a time, from an explicit generator on the labels' device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from harness.core.errors import DataError


class ClassBatch(NamedTuple):
    """Indices (sum of sizes,) of a draw, class after class, and how many each class got."""

    indices: Tensor
    sizes: tuple[int, ...]


class ClassIndex:
    """Where the samples of each class are, laid out so that all classes are drawn from at once.

    `table` (C, n_max) holds each class's sample indices in ascending order, padded at the end; `counts` the
    class sizes.
    """

    def __init__(self, labels: Tensor, num_classes: int | None = None) -> None:
        """Index integer `labels` (N,); give `num_classes` if the last classes may be empty."""
        counts = labels.bincount(minlength=num_classes or 0)
        order = labels.argsort(stable=True)
        rows = labels[order]
        columns = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts)[rows]
        self.counts: tuple[int, ...] = tuple(counts.tolist())
        self.table = order.new_zeros(len(self.counts), max(self.counts))
        self.table[rows, columns] = order
        self._padding = torch.arange(self.table.shape[1], device=labels.device) >= counts[:, None]

    def draw(self, per_class: int, generator: Generator) -> ClassBatch:
        """Draw min(per_class, class size) samples of every class, without replacement."""
        width = min(per_class, self.table.shape[1])
        keys = torch.rand(self.table.shape, generator=generator, device=self.table.device)
        # Smallest random keys win; keys lie below 1, so padding (2) comes after every sample.
        chosen = keys.masked_fill_(self._padding, 2.0).topk(width, dim=1, largest=False).indices
        rows = self.table.gather(1, chosen)
        sizes = tuple(min(per_class, count) for count in self.counts)
        if min(sizes) == width:
            return ClassBatch(rows.flatten(), sizes)
        return ClassBatch(torch.cat([row[:size] for row, size in zip(rows, sizes, strict=True)]), sizes)

    def balanced(self, ipc: int, generator: Generator) -> Tensor:
        """Draw exactly `ipc` samples of every class, class after class: (C * ipc,).

        Raises DataError if a class is smaller.
        """
        smallest = min(self.counts)
        if smallest < ipc:
            raise DataError(
                f"class {self.counts.index(smallest)} has {smallest} images, fewer than the {ipc} asked for; "
                f"choose an ipc of at most {smallest}"
            )
        return self.draw(ipc, generator).indices


def draw_uniform(n_total: int, batch: int, generator: Generator) -> Tensor:
    """Draw min(batch, n_total) of 0..n_total-1 without replacement, on the generator's device."""
    return torch.randperm(n_total, generator=generator, device=generator.device)[:batch]
