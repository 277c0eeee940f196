"""Stochastic gradient descent without what torch's own drags in.

The first `torch.optim.SGD` of a process imports torch's compiler, which takes as long as all the rest of
torch, and each trial is a process of its own. This one makes the same steps bit for bit, by the same sums in
the same order, and its state dict has the same form.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor


class Optimizer(Protocol):
    """What training asks of an optimiser: this one, or any of torch's."""

    param_groups: list[dict[str, Any]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""

    def step(self) -> Any:
        """One step along the gradients that the parameters hold."""

    def state_dict(self) -> dict[str, Any]:
        """Settings and what is remembered of earlier steps."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Restore both."""


class SGD:
    """SGD with momentum m and weight decay w: v <- m v + (g + w x), x <- x - lr v; v begins as g + w x.

    Parameters without a gradient stay as they are. Each of `param_groups` may be given other settings at any
    time, as learning rates by `param_groups[0]["lr"] = 0.1`.

    Args:
        parameters: tensors, or groups of them as dicts of "params" and the settings that differ.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        usual: dict[str, Any] = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        given = list(parameters)
        groups = [part for part in given if isinstance(part, dict)] or [{"params": given}]
        self.param_groups: list[dict[str, Any]] = [
            usual | group | {"params": list(group["params"])} for group in groups
        ]
        self.state: dict[Tensor, Tensor] = {}  # the velocity of each parameter that has moved

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or else fill them with zeros."""
        for parameter in self._parameters():
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.detach_().zero_()

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradients that the parameters hold."""
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moving:
                continue
            directions: list[Tensor] = [parameter.grad for parameter in moving]
            if group["weight_decay"] != 0:
                directions = list(torch._foreach_add(directions, moving, alpha=group["weight_decay"]))
            if group["momentum"] != 0:
                directions = self._accelerated(moving, directions, group["momentum"])
            torch._foreach_add_(moving, directions, alpha=-group["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Settings and velocities, the parameters by number, in the form of `torch.optim.SGD`."""
        number = {parameter: k for k, parameter in enumerate(self._parameters())}
        return {
            "state": {number[parameter]: {"momentum_buffer": v} for parameter, v in self.state.items()},
            "param_groups": [
                group | {"params": [number[parameter] for parameter in group["params"]]}
                for group in self.param_groups
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both, for the same parameters in the same groups."""
        for group, saved in zip(self.param_groups, state["param_groups"], strict=True):
            group.update({name: saved[name] for name in ("lr", "momentum", "weight_decay")})
        parameters = self._parameters()
        velocities = {k: saved.get("momentum_buffer") for k, saved in state["state"].items()}
        self.state = {
            parameters[k]: velocity.to(parameters[k].device, copy=True)
            for k, velocity in velocities.items()
            if velocity is not None
        }

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _accelerated(self, moving: list[Tensor], directions: list[Tensor], momentum: float) -> list[Tensor]:
        """The velocities of these parameters after the directions are added."""
        known = [(self.state[x], d) for x, d in zip(moving, directions, strict=True) if x in self.state]
        if known:
            velocities, added = (list(part) for part in zip(*known, strict=True))
            torch._foreach_mul_(velocities, momentum)
            torch._foreach_add_(velocities, added)
        for parameter, direction in zip(moving, directions, strict=True):
            if parameter not in self.state:
                self.state[parameter] = direction.clone()
        return [self.state[parameter] for parameter in moving]
