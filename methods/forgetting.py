"""Forgetting: the real images that a network in training unlearns most often.

Toneva, Sordoni, Tachet des Combes, Trischler, Bengio & Gordon, "An Empirical Study of Example Forgetting
during Deep Neural Network Learning", ICLR 2019 (arXiv 1812.05159), as a coreset baseline of the DC line. With
a_e(x) = 1 if the network classifies x correctly in epoch e and 0 otherwise, each class gives the images with
the most forgetting events

    f(x) = sum_e [ a_e(x) > a_{e+1}(x) ],

each image being judged just before the step that trains on it; equal counts are ordered at random. Reported
on CIFAR-10 (ConvNet): 13.5, 23.3, 23.3 % at ipc 1, 10, 50.

Below `random`, in the papers' tables as well (14.4, 26.0, 43.4 % there; on FashionMNIST 42.0 and 53.9 % at
ipc 1 and 10, where random images give 51.4 and 73.8 %): these are the hard and odd images of a class, of
which a small set teaches little.

An image that was never classified correctly was never forgotten and counts 0, as in the code below; in the
paper it counts as forgotten most of all, which is the variant `forgetting@original`.

Departures from the authors' code (PatrickZH/DeepCore `forgetting.py`): the network is trained as for the
other coresets, in `coresets.py`, not by DeepCore's recipe and without augmentation; equal counts, which
theirs leaves to an unstable sort, are ordered by a draw from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.data import Dataset, draw_uniform
from harness.core.distilled import Distilled
from harness.core.settings import setting
from methods import resolve
from methods.shared import coresets


@dataclass(frozen=True)
class Config(coresets.FeatureConfig):
    """Settings of forgetting: those of the training, and what its failures count."""

    never_learnt: Literal["least", "most"] = setting(
        "least", "how forgotten an image never classified correctly is"
    )
    candidates: int | None = setting(
        None, "images per class to train on and choose from, at least ipc; None: all"
    )


VARIANTS = {"original": {"never_learnt": "most"}}

# Only what is seen again and again can be forgotten: few steps must go to few images.
SCALED = {
    "cpu": {"train_steps": 450, "train_batch": 128, "candidates": 600},
    "smoke": {"train_steps": 120, "train_batch": 64},
}


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Select the `ipc` most forgotten training images per class."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("forgetting", data.name, ipc).config
    coresets.refuse_scarcity(data, ipc)

    candidates = torch.arange(len(data), device=data.device)
    if config.candidates is not None:
        candidates = data.index.draw(max(config.candidates, ipc), context.generator("candidates")).indices
    epochs = EpochDraws(candidates, config.train_batch, context)
    counter = ForgettingCounter(data)
    batches = coresets.TrainingBatches(epochs.draw, counter.watch, {"epochs": epochs, "counter": counter})
    coresets.train_network(data, config, context, batches)

    generator = context.generator("select")
    forgotten = torch.full((len(data),), -1, device=data.device)
    forgotten[candidates] = counter.forgotten(config.never_learnt)[candidates]
    indices = coresets.choose_by_class(
        data, ipc, forgotten, lambda counts, number: highest(counts, number, generator)
    )
    return coresets.selected(data, indices, "forgetting", config)


def highest(counts: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Rows (number,) with the highest counts (n,), in falling order; equal ones in drawn order."""
    shuffled = draw_uniform(len(counts), len(counts), generator)
    return shuffled[counts[shuffled].argsort(descending=True, stable=True)[:number]]


class EpochDraws:
    """Shuffled batches of the images at `indices` (n,), so that each is seen once in each epoch."""

    def __init__(self, indices: Tensor, batch: int, context: Context) -> None:
        self._batch = batch
        self._generator = context.generator("train")
        self._order = indices.clone()

    def draw(self, step: int) -> Tensor:
        """Indices (b,) of a step; those of an epoch's last may be fewer than a batch."""
        count = len(self._order)
        position = step % -(-count // self._batch)
        if position == 0:
            self._order.copy_(self._order[draw_uniform(count, count, self._generator)])
        return self._order[position * self._batch : (position + 1) * self._batch]

    def state_dict(self) -> dict[str, Any]:
        """The order of this epoch."""
        return {"order": self._order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the order."""
        self._order.copy_(state["order"])


class ForgettingCounter:
    """How often each of the N images went from right to wrong."""

    def __init__(self, data: Dataset) -> None:
        self._labels = data.labels
        self._events = torch.zeros(len(data), dtype=torch.int64, device=data.device)
        self._right = torch.zeros(len(data), dtype=torch.bool, device=data.device)
        self._learnt = torch.zeros(len(data), dtype=torch.bool, device=data.device)

    def watch(self, indices: Tensor, predictions: Tensor) -> None:
        """Compare predictions (b,) for distinct images (b,) with those of their last visit."""
        right = predictions == self._labels[indices]
        self._events[indices] += self._right[indices] & ~right
        self._right[indices] = right
        self._learnt[indices] |= right

    def forgotten(self, never_learnt: Literal["least", "most"]) -> Tensor:
        """Forgetting events (N,); images never classified correctly have 0 or more than any other."""
        if never_learnt == "least":
            return self._events
        return torch.where(self._learnt, self._events, self._events.max() + 1)

    def state_dict(self) -> dict[str, Any]:
        """Counts and memory."""
        return {"events": self._events, "right": self._right, "learnt": self._learnt}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self._events.copy_(state["events"])
        self._right.copy_(state["right"])
        self._learnt.copy_(state["learnt"])
