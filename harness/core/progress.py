"""What a loop tells of itself while it runs: where it stands, its loss, and that the loss is finite."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.core.errors import DivergedError

SECONDS_BETWEEN = 1.0  # two reports of a loop


@dataclass(frozen=True)
class Progress:
    """Where a phase stands; `loss` is the last one logged."""

    phase: str
    step: int
    total: int
    loss: float | None


class Reporter:
    """Passes a `Progress` on about once a second and after the last step of each loop."""

    def __init__(self, on_progress: Callable[[Progress], None] | None) -> None:
        self._on_progress = on_progress
        self._loss: Tensor | float | None = None
        self._reported = time.perf_counter()

    def log(self, loss: Tensor | float) -> None:
        """Note the loss of this step."""
        self._loss = loss.detach() if isinstance(loss, Tensor) else loss

    def step_done(self, name: str, step: int, total: int) -> None:
        """Report a step if it is time to; DivergedError as `check_finite`."""
        now = time.perf_counter()
        if now - self._reported < SECONDS_BETWEEN and step < total:
            return
        self._reported = now
        self.check_finite(name, step, total)
        if self._on_progress is not None:
            loss = None if self._loss is None else float(self._loss)
            self._on_progress(Progress(name, step, total, loss))

    def check_finite(self, name: str, step: int, total: int) -> None:
        """DivergedError if the last loss is NaN or infinite."""
        if self._loss is not None and not bool(torch.isfinite(torch.as_tensor(self._loss)).all()):
            raise DivergedError(
                f"the loss of {name} is {float(self._loss)} at step {step} of {total}; "
                "a smaller learning rate may help (`python -m harness list methods METHOD` names its own)"
            )
