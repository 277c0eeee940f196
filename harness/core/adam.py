"""Adam without what torch's own drags in: `torch.optim` imports torch's compiler, see `harness.core.sgd`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Adam:
    """Adam of tensors that hold their gradients g; `lr` may be set at any time.

    m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, and in step t = 1, 2, ...
    x <- x - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon).
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        self.lr = lr
        self._parameters = list(parameters)
        self._betas = betas
        self._epsilon = epsilon
        self._means = [torch.zeros_like(x) for x in self._parameters]
        self._squares = [torch.zeros_like(x) for x in self._parameters]
        self._steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradients, which all parameters must hold."""
        self._steps += 1
        gradients: list[Tensor] = [x.grad for x in self._parameters if x.grad is not None]
        (b1, b2), t = self._betas, self._steps
        torch._foreach_lerp_(self._means, gradients, 1 - b1)
        torch._foreach_mul_(self._squares, b2)
        torch._foreach_addcmul_(self._squares, gradients, gradients, value=1 - b2)
        scales = torch._foreach_sqrt(self._squares)
        torch._foreach_div_(scales, math.sqrt(1 - b2**t))
        torch._foreach_add_(scales, self._epsilon)
        torch._foreach_addcdiv_(self._parameters, self._means, scales, value=-self.lr / (1 - b1**t))

    @torch.no_grad()
    def reset(self) -> None:
        """Forget all earlier steps."""
        torch._foreach_zero_(self._means)
        torch._foreach_zero_(self._squares)
        self._steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Moments and number of steps."""
        return {"means": self._means, "squares": self._squares, "steps": self._steps}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both, tensors in place."""
        for ours, name in ((self._means, "means"), (self._squares, "squares")):
            for tensor, saved in zip(ours, state[name], strict=True):
                tensor.copy_(saved)
        self._steps = state["steps"]
