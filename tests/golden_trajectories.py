"""Trajectories, permutations and first images of the golden files of FTD, DATM and PAD."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from scripted import ScriptedData
from support import tensor
from torch import Tensor


class GoldenTrajectories:
    """The snapshots `<prefix of an expert>t<epoch>_##` of a golden file; notes which are asked for."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.asked: list[tuple[int, int]] = []
        self._arrays = arrays
        self._count = len(arrays["names"])
        self.settings = SimpleNamespace(epochs=0)

    def __len__(self) -> int:
        return max(1, len({name.partition("t")[0] for name in self._arrays if _is_snapshot(name)} - {""}))

    def parameters(self, expert: int, epoch: int) -> list[Tensor]:
        self.asked.append((expert, epoch))
        prefix = f"e{expert}t{epoch}" if f"e{expert}t{epoch}_00" in self._arrays else f"t{epoch}"
        return [tensor(self._arrays[f"{prefix}_{k:02d}"]) for k in range(self._count)]


def _is_snapshot(name: str) -> bool:
    return name.endswith("_00") and name[0] in "et"


def permutations(batches: Any, images: int, size: int) -> list[Tensor]:
    """The permutations that were cut into the batches (iterations, steps, size), padded with -1.

    They are used from their last piece to their first, and anew in each iteration; what was never used of one
    comes first, in any order.
    """
    pieces, found = -(-images // size), []
    for iteration in batches:
        steps = [row[row >= 0] for row in (tensor(step) for step in iteration)]
        for begin in range(0, len(steps), pieces):
            used = torch.cat(steps[begin : begin + pieces][::-1])
            unused = [k for k in range(images) if k not in used.tolist()]
            found.append(torch.cat([torch.tensor(unused, dtype=used.dtype), used]))
    return found


class GoldenImages(ScriptedData):
    """The first images of a golden file as a dataset."""

    def __init__(self, images: Tensor, classes: int) -> None:
        labels = torch.arange(classes).repeat_interleave(len(images) // classes)
        super().__init__(
            {
                "images": images.numpy(),
                "labels": labels.numpy(),
                "init_idx": torch.zeros(1, 1).numpy(),
                "real_idx": [],
            }
        )
