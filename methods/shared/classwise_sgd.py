"""SGD as IDM and BACON take it: a step for each class over the whole image tensor, in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class ClasswiseSGD:
    """The authors' SGD, one step per class over the whole tensor, taken as one joint step.

    IDM and BACON step once for each of the C classes with momentum m; the zero gradient of the other classes
    lets their momentum buffers move them on. Seen from one class, C steps of which one has a gradient are

        v <- m^C v + g,    x <- x - lr (1 - m^C) / (1 - m) v,

    exactly, as long as a class's gradient depends on its own images only. `images` therefore holds each
    class as the authors' loop would see it at its own turn; `as_stopped` takes back the steps that classes
    late in the order have not made yet when the loop stops.
    """

    def __init__(self, images: Tensor, classes: int, lr: float, momentum: float) -> None:
        self.images = images
        self.classes = classes
        self.lr = lr
        self.momentum = momentum
        self.velocity = torch.zeros_like(images)

    @torch.no_grad()
    def step(self) -> None:
        """The C steps of one iteration, with the gradient in `images.grad`."""
        assert self.images.grad is not None
        self.velocity.mul_(self.momentum**self.classes).add_(self.images.grad)
        self.images.sub_(self.velocity, alpha=self.lr * self._sum_of_powers(self.classes))

    def as_stopped(self) -> Tensor:
        """The images as the authors' loop leaves them: class c has made C - c steps since its gradient."""
        return self.images.detach() + self._ahead()

    @torch.no_grad()
    def revise(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change the images as the authors' loop has them between two iterations, by a pure function.

        The velocity stays: the steps that were taken back for `change` to see are those left until the
        classes' next turns.
        """
        ahead = self._ahead()
        self.images.copy_(change(self.images + ahead).sub_(ahead))

    def state_dict(self) -> dict[str, Any]:
        """Images and velocity."""
        return {"images": self.images.detach(), "velocity": self.velocity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both in place."""
        self.images.data.copy_(state["images"])
        self.velocity.copy_(state["velocity"])

    @torch.no_grad()
    def _ahead(self) -> Tensor:
        """How far each class has moved in the steps that the authors' loop has yet to make."""
        ipc = len(self.images) // self.classes
        made = [self._sum_of_powers(self.classes - c) for c in range(self.classes)]
        missing = self.velocity.new_tensor([self._sum_of_powers(self.classes) - part for part in made])
        return self.lr * missing.repeat_interleave(ipc)[:, None, None, None] * self.velocity

    def _sum_of_powers(self, n: int) -> float:
        """1 + m + ... + m^(n-1)."""
        return sum(self.momentum**k for k in range(n))
