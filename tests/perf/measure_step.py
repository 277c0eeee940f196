"""Time and memory of one method's steps at paper settings on CIFAR-10 shapes, in a process of its own.

    python tests/perf/measure_step.py METHOD plain|fp32|bf16 STEPS THREADS [DEVICE]

Prints one JSON object: seconds per step (median) and the peak of resident memory during these steps above
what the process held before its first one (on a GPU, the peak of its memory).
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from typing import Any

import torch
from loops import Loop, all_loops

from harness.core import clock
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.data.toy import toy
from methods import load, resolve

IPC = 10
WARMUP_STEPS = 2  # the first step is counted, the second one compiles


def main() -> None:
    """Measure as the arguments say."""
    method, variant, steps, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    device = sys.argv[5] if len(sys.argv) > 5 else "cpu"
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = True  # as in a trial
    data = toy(num_classes=10, shape=(3, 32, 32), per_class=300).to(device)
    loop = all_loops()[method]
    if variant == "plain":
        measured = measure_plain(loop, data, steps)
    else:
        measured = measure_ours(method, loop, data, steps, device=device, precision=variant)
    print(json.dumps(measured))


def measure_plain(loop: Loop, data: Dataset, steps: int) -> dict[str, float]:
    """Figures of the plain loop."""
    watch = Watch(str(data.device), steps)
    step = loop.plain(data, IPC)
    for _ in watch.rounds():
        step()
    return watch.figures()


def measure_ours(
    method: str, loop: Loop, data: Dataset, steps: int, *, device: str, precision: str
) -> dict[str, float]:
    """Figures of the method as users run it."""
    watch = Watch(device, steps)

    class Timed(Context):
        def steps(self, *arguments: Any, **named: Any) -> Iterator[int]:
            if named.get("name", "distill") != "distill":  # what comes before it
                yield from super().steps(*arguments, **named)
                return
            for step, _ in zip(super().steps(*arguments, **named), watch.rounds(), strict=False):
                yield step

    settings = {name: str(value) for name, value in loop.settings.items()}
    config = resolve(method, "cifar10", IPC, overrides=settings).config
    load(method).distill(data, IPC, config=config, context=Timed(device=device, precision=precision))
    return watch.figures()


class Watch:
    """Clock and peak of memory of a number of steps, after some that do not count."""

    def __init__(self, device: str, steps: int) -> None:
        self._device, self._steps = device, steps
        self._seconds: list[float] = []
        self._held = clock.host_bytes() or 0

    def rounds(self) -> Iterator[None]:
        """One item for each step to be made."""
        for done in range(WARMUP_STEPS + self._steps):
            if done == WARMUP_STEPS:
                clock.reset_peaks(self._device)
            start = clock.read(self._device)
            yield
            self._seconds.append(clock.read(self._device) - start)

    def figures(self) -> dict[str, float]:
        """Seconds of a step, seconds of those that do not count, and bytes."""
        peak = clock.peak_device_bytes(self._device) or (clock.peak_host_bytes() or 0) - self._held
        return {
            "seconds": statistics.median(self._seconds[WARMUP_STEPS:]),
            "warmup_seconds": sum(self._seconds[:WARMUP_STEPS]),
            "peak_bytes": peak,
        }


if __name__ == "__main__":
    main()
