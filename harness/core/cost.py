"""The counter of what a phase costs: seconds, warm-up, FLOPs, images through networks and peak memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from harness.core import clock
from harness.core.checkpoint import LoopState, Saved
from harness.core.clock import Cost
from harness.core.nets import Features


class CostCounter:
    """Cost of one phase from now on, on top of what the runs before a kill had `saved`."""

    def __init__(self, device: torch.device, saved: Saved | None) -> None:
        self._device = device
        self._carried_seconds = 0.0 if saved is None else saved["seconds"]
        self._warmup_seconds = 0.0 if saved is None else saved["warmup_seconds"]
        self._carried_peaks = (None, None) if saved is None else saved["peaks"]
        self._charged: list[Cost] = []
        clock.reset_peaks(device)
        self._start = self._warm = clock.read(device)
        self._warm_step = 0

    @property
    def charged_seconds(self) -> float:
        """Seconds of the work that was done off the clock."""
        return sum(cost.seconds for cost in self._charged)

    @property
    def charged_flops(self) -> float:
        """FLOPs of the work that was done off the clock."""
        return sum(cost.flops for cost in self._charged)

    def charge(self, cost: Cost) -> None:
        """Add the cost of work done off the clock."""
        self._charged.append(cost)

    @contextmanager
    def off_the_clock(self) -> Iterator[None]:
        """Keep the seconds and peaks of the work inside out of this phase."""
        self._carried_peaks = self._peaks()
        started = clock.read(self._device)
        try:
            yield
        finally:
            self._start += clock.read(self._device) - started
            clock.reset_peaks(self._device)

    def own(self, loops: Iterable[LoopState]) -> Cost:
        """What the phase's loops have cost so far, runs before a kill included."""
        made = list(loops)
        peak_host_bytes, peak_device_bytes = self._peaks()
        return Cost(
            seconds=self._carried_seconds + clock.read(self._device) - self._start,
            warmup_seconds=self._warmup_seconds,
            steps=sum(loop.step for loop in made),
            flops=spent_flops(made),
            images_forwarded=sum(loop.images_per_step * loop.step for loop in made),
            peak_host_bytes=peak_host_bytes,
            peak_device_bytes=peak_device_bytes,
            compiled=any(loop.compiled for loop in made),
        )

    def total(self, loops: Iterable[LoopState]) -> Cost:
        """The same with charged work."""
        return reduce(_plus, self._charged, self.own(loops))

    def warmed_up(self, started: float, step: int) -> None:
        """Note that a slow step, which `started` at that reading of the clock, was the loop's `step`th."""
        self._warm, self._warm_step = clock.read(self._device), step
        self._warmup_seconds += self._warm - started

    def warm_seconds_per_step(self, step: int) -> float:
        """Mean seconds of the steps since the last slow one, the `step`th being over."""
        return (clock.read(self._device) - self._warm) / max(1, step - self._warm_step)

    def _peaks(self) -> tuple[int | None, int | None]:
        """Peak bytes on the host and on the device so far, runs before a kill included."""
        host, on_device = clock.peak_host_bytes(), clock.peak_device_bytes(self._device)
        return _larger(host, self._carried_peaks[0]), _larger(on_device, self._carried_peaks[1])


def spent_flops(loops: Iterable[LoopState]) -> float:
    """FLOPs of the steps made so far."""
    return sum(loop.flops_per_step * loop.step for loop in loops)


class FlopCounter(TorchDispatchMode):
    """Adds up the FLOPs of all operations inside, by torch's formulas, in `flops`.

    As `torch.utils.flop_counter.FlopCounterMode` does, which moreover tells them apart by module, and for
    which torch imports its compiler: that takes as long as all the rest of torch.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self._formulas: Mapping[Any, Callable[..., int]] = FlopCounterMode(display=False).flop_registry

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Asked by those versions of torch that would otherwise import the compiler, to keep it out of here.
        return False

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The result of one operation, counted, or of those that it is put together from."""
        kwargs = kwargs or {}
        formula = self._formulas.get(operation._overloadpacket)
        if formula is None:
            with self:
                result = operation.decompose(*args, **kwargs)
            return operation(*args, **kwargs) if result is NotImplemented else result
        result = operation(*args, **kwargs)
        self.flops += formula(*args, **kwargs, out_val=result)
        return result


@contextmanager
def counting(loop: LoopState) -> Iterator[None]:
    """Count the FLOPs of the step inside, and the images that enter networks in it."""
    images = 0

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal images
        if isinstance(module, Features):
            images += len(inputs[0])

    hook = nn.modules.module.register_module_forward_pre_hook(count)
    counter = FlopCounter()
    try:
        with counter:
            yield
    finally:
        hook.remove()
    loop.flops_per_step = float(counter.flops)
    loop.images_per_step = images
    # Counting holds on to tensors, whose blocks the C library would keep for the rest of the run.
    clock.release_freed_memory()


def _plus(a: Cost, b: Cost) -> Cost:
    """Cost of both."""
    return Cost(
        seconds=a.seconds + b.seconds,
        warmup_seconds=a.warmup_seconds + b.warmup_seconds,
        steps=a.steps + b.steps,
        flops=a.flops + b.flops,
        images_forwarded=a.images_forwarded + b.images_forwarded,
        peak_host_bytes=_larger(a.peak_host_bytes, b.peak_host_bytes),
        peak_device_bytes=_larger(a.peak_device_bytes, b.peak_device_bytes),
        compiled=a.compiled or b.compiled,
    )


def _larger(a: int | None, b: int | None) -> int | None:
    known = [value for value in (a, b) if value is not None]
    return max(known) if known else None
