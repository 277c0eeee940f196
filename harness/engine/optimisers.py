"""The optimiser of an evaluation's network: its parameters by a protocol's part, its rate by a schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from harness.core import sgd
from harness.core.errors import UserError
from harness.engine.parts import SGD, AdamW, Optimiser
from harness.engine.protocol import Course


def built(optimiser: Optimiser, net: nn.Module, lr: float) -> sgd.Optimizer:
    """An optimiser of all parameters of the network at the rate `lr`."""
    if isinstance(optimiser, SGD):
        momentum, decay = optimiser.momentum, optimiser.weight_decay
        return sgd.SGD(net.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
    return torch.optim.AdamW(_groups(optimiser, net), lr=lr, weight_decay=optimiser.weight_decay)


def _groups(optimiser: AdamW, net: nn.Module) -> list[dict[str, Any]]:
    parameters = list(net.parameters())
    if optimiser.decayed == "all":
        return [{"params": parameters}]
    return [
        {"params": [one for one in parameters if one.ndim >= 2]},
        {"params": [one for one in parameters if one.ndim < 2], "weight_decay": 0.0},
    ]


class ScheduledOptimizer:
    """Steps at the rate of the schedule's position; built afresh where the schedule says so."""

    def __init__(self, net: nn.Module, optimiser: Optimiser, course: Course) -> None:
        self._net = net
        self._optimiser = optimiser
        self._course = course
        self._batches = 0
        self._position = 0
        self._waiting = 0
        self._current = self._built()

    @property
    def batches(self) -> int:
        """Batches so far."""
        return self._batches

    def before_batch(self) -> None:
        """Take the rate of this batch and, unless gradients are still being gathered, clear them."""
        self._move_to(self._batches // self._course.stride)
        if self._waiting == 0:
            self._current.zero_grad(set_to_none=True)

    def after_batch(self) -> None:
        """Make a step if enough batches are gathered."""
        self._batches += 1
        self._waiting += 1
        if self._waiting == self._course.accumulation.batches:
            self._step()

    def end_pass(self) -> None:
        """Make a step of what is gathered, or let it go."""
        if self._waiting and self._course.accumulation.rest == "stepped":
            self._step()
        self._waiting = 0

    def state_dict(self) -> dict[str, Any]:
        """Momenta, and how far it has come; between passes."""
        return {
            "batches": self._batches,
            "position": self._position,
            "optimizer": self._current.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rebuild the optimiser of that position and restore its momenta; UserError for another's state."""
        if "position" not in state:
            raise UserError(
                "the checkpoint's optimiser is another version's; delete the trial's folder under "
                "results/.work"
            )
        self._batches, self._position = state["batches"], state["position"]
        self._current = self._built()
        self._current.load_state_dict(state["optimizer"])

    def _step(self) -> None:
        share = self._course.accumulation.batches
        if share > 1:
            for parameter in self._net.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(share)
        self._current.step()
        self._waiting = 0

    def _move_to(self, position: int) -> None:
        before, self._position = self._position, position
        if position == before:
            return
        if self._course.schedule.restarts_between(before, position):
            self._current = self._built()
        for group in self._current.param_groups:
            group["lr"] = self._course.schedule.lr_in(position)

    def _built(self) -> sgd.Optimizer:
        return built(self._optimiser, self._net, self._course.schedule.lr_in(self._position))
