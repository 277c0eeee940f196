"""Optimisers that step over the whole image tensor once for each class, without losing the joint pass.

The IDC line of code looks at one class after the other and takes an optimiser step on the entire tensor each
time; where the gradient is zero, moments and weight decay still move the other classes. A class's gradient
depends on its own images alone, as they are at its own turn. So a round of C turns can be taken in two
sweeps with a single pass of all classes through the network in between:

    optimizer.approach()          # class c takes the c steps without a gradient that precede its turn
    gradient = ...                # of all classes at once
    optimizer.depart(gradient)    # its own step, then the C - 1 - c steps after its turn

Both sweeps together are the C steps of the round, so nothing is computed twice, and after `depart` images and
moments are what C ordinary steps leave.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor


class ClassTurns(ABC):
    """Steps of class-major `images` (C * ipc, ...), one for each class and round; `lr` may be changed."""

    def __init__(self, images: Tensor, classes: int, lr: float) -> None:
        self.images = images
        self.lr = lr
        self.steps_taken = 0
        self._classes = classes
        self._ipc = len(images) // classes

    def approach(self) -> None:
        """Bring each class to where it is at its own turn."""
        for turn in range(self._classes - 1):
            later = slice((turn + 1) * self._ipc, None)
            self._decay(later)
            self._move(later, self.steps_taken + turn + 1)

    def depart(self, gradient: Tensor) -> None:
        """Take each class's own step, with its rows of `gradient` (C * ipc, ...), and those that follow."""
        for turn in range(self._classes):
            own = slice(turn * self._ipc, (turn + 1) * self._ipc)
            so_far = slice(0, own.stop)
            self._decay(so_far)
            self._add(own, gradient[own])
            self._move(so_far, self.steps_taken + turn + 1)
        self.steps_taken += self._classes

    def state_dict(self) -> dict[str, Any]:
        """Images, moments, rate and count of steps, between rounds."""
        return {"tensors": self._tensors(), "lr": self.lr, "steps_taken": self.steps_taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore all of them, tensors in place."""
        for tensor, saved in zip(self._tensors(), state["tensors"], strict=True):
            tensor.copy_(saved)
        self.lr, self.steps_taken = state["lr"], state["steps_taken"]

    @abstractmethod
    def _decay(self, rows: slice) -> None:
        """Decay the moments of some rows."""

    @abstractmethod
    def _add(self, rows: slice, gradient: Tensor) -> None:
        """Put the gradient of some rows into their moments."""

    @abstractmethod
    def _move(self, rows: slice, count: int) -> None:
        """Move some rows by their moments; `count` is the number of the step, from 1."""

    @abstractmethod
    def _tensors(self) -> list[Tensor]:
        """Images and moments."""


class AdamWTurns(ClassTurns):
    """AdamW (decoupled weight decay) with torch's usual betas and epsilon."""

    betas = (0.9, 0.999)
    epsilon = 1e-8

    def __init__(self, images: Tensor, classes: int, lr: float, weight_decay: float) -> None:
        super().__init__(images, classes, lr)
        self.weight_decay = weight_decay
        self._mean, self._square = torch.zeros_like(images), torch.zeros_like(images)

    def _decay(self, rows: slice) -> None:
        self._mean[rows].mul_(self.betas[0])
        self._square[rows].mul_(self.betas[1])

    def _add(self, rows: slice, gradient: Tensor) -> None:
        self._mean[rows].add_(gradient, alpha=1 - self.betas[0])
        self._square[rows].addcmul_(gradient, gradient, value=1 - self.betas[1])

    def _move(self, rows: slice, count: int) -> None:
        unbiased = [1 - beta**count for beta in self.betas]
        scale = self._square[rows].sqrt().div_(math.sqrt(unbiased[1])).add_(self.epsilon)
        images = self.images[rows].mul_(1 - self.lr * self.weight_decay)
        images.addcdiv_(self._mean[rows], scale, value=-self.lr / unbiased[0])

    def _tensors(self) -> list[Tensor]:
        return [self.images, self._mean, self._square]


class SGDTurns(ClassTurns):
    """SGD with momentum."""

    def __init__(self, images: Tensor, classes: int, lr: float, momentum: float) -> None:
        super().__init__(images, classes, lr)
        self.momentum = momentum
        self._velocity = torch.zeros_like(images)

    def _decay(self, rows: slice) -> None:
        self._velocity[rows].mul_(self.momentum)

    def _add(self, rows: slice, gradient: Tensor) -> None:
        self._velocity[rows].add_(gradient)

    def _move(self, rows: slice, count: int) -> None:
        self.images[rows].sub_(self._velocity[rows], alpha=self.lr)

    def _tensors(self) -> list[Tensor]:
        return [self.images, self._velocity]


class Plateau:
    """torch's ReduceLROnPlateau for such an optimiser: its rate falls after `patience` idle iterations.

    Progress is a loss lower than the best one by a ten-thousandth, torch's default.
    """

    threshold = 1e-4

    def __init__(self, optimizer: ClassTurns, factor: float, patience: int) -> None:
        self.optimizer = optimizer
        self.factor = factor
        self.patience = patience
        self._best = math.inf
        self._stale = 0

    def step(self, loss: float) -> None:
        """Note the loss of an iteration."""
        if loss < self._best * (1 - self.threshold):
            self._best, self._stale = loss, 0
            return
        self._stale += 1
        if self._stale > self.patience:
            self.optimizer.lr *= self.factor
            self._stale = 0

    def state_dict(self) -> dict[str, Any]:
        """Best loss, and steps since."""
        return {"best": self._best, "stale": self._stale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore best loss and count of idle steps."""
        self._best, self._stale = state["best"], state["stale"]
