"""Time and memory of one method's steps at paper settings on CIFAR-10 shapes, in a process of its own.

    python tests/perf/measure_step.py METHOD plain|fp32|bf16 STEPS THREADS [DEVICE [profile]]

Prints one JSON object: seconds per step (median) and the peak of resident memory during these steps above
what the process held before its first one (on a GPU, the peak of its memory). Of our own steps also the FLOPs
of one, and how many a second the machine makes where it does nothing but multiply large matrices. With
`profile` one step runs under torch's profiler, and printed are its seconds and its operators, on a GPU its
kernels.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from loops import Loop, all_loops
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

from harness.core import clock
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.data.toy import toy
from harness.engine import surroundings
from methods import load, resolve

IPC = 10
WARMUP_STEPS = 2  # the first step is counted, the second one compiles
MATRIX = {"cpu": 2048, "cuda": 8192}  # rows and columns of what the peak is measured by
PRODUCTS = 10
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Measure as the arguments say."""
    method, variant, steps, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    device = sys.argv[5] if len(sys.argv) > 5 else "cpu"
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = True  # as in a trial
    data = toy(num_classes=10, shape=(3, 32, 32), per_class=300).to(device)
    loop, watch = all_loops()[method], Profiler(device) if "profile" in sys.argv[6:] else Watch(device, steps)
    if variant == "plain":
        measure_plain(loop, data, watch)
    else:
        measure_ours(method, loop, data, watch, precision=variant)
    print(json.dumps(watch.figures()))


def measure_plain(loop: Loop, data: Dataset, watch: Watch) -> None:
    """Watch the plain loop."""
    step = loop.plain(data, IPC)
    for _ in watch.rounds():
        step()


def measure_ours(method: str, loop: Loop, data: Dataset, watch: Watch, *, precision: str) -> None:
    """Watch the method as users run it."""

    class Timed(Context):
        def steps(self, *arguments: Any, **named: Any) -> Iterator[int]:
            if named.get("name", "distill") != "distill":  # what comes before it
                yield from super().steps(*arguments, **named)
                return
            before, made = self.cost().flops, 0
            for step, _ in zip(super().steps(*arguments, **named), watch.rounds(), strict=False):
                made += 1
                yield step
            watch.flops = (self.cost().flops - before) / made

    context = Timed(device=watch.device, precision=precision)
    if loop.ours is not None:
        loop.ours(data, IPC, context)
    else:
        config = resolve(method, "cifar10", IPC, overrides=loop.settings).config
        load(method).distill(data, IPC, config=config, context=context)
    watch.peak_flops = peak_flops(watch.device, TYPES[precision])


def peak_flops(device: str, dtype: torch.dtype) -> float:
    """FLOPs a second of the quickest product of large matrices: what the machine can do, as torch lets it."""
    size = MATRIX[torch.device(device).type]
    left, right = (torch.rand(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(1 + PRODUCTS):
        start = clock.read(device)
        left @ right
        seconds.append(clock.read(device) - start)
    return 2.0 * size**3 / min(seconds[1:])


class Watch:
    """Clock and peak of memory of a number of steps, after some that do not count.

    flops: of one step, peak_flops: a second, where they are known.
    """

    def __init__(self, device: str, steps: int) -> None:
        self.device, self._steps = device, steps
        self.flops: float | None = None
        self.peak_flops: float | None = None
        self._seconds: list[float] = []
        clock.release_freed_memory()  # or what making the data took would count as held, and be used again
        self._held = clock.host_bytes() or 0

    def rounds(self) -> Iterator[None]:
        """One item for each step to be made."""
        for done in range(WARMUP_STEPS + self._steps):
            if done == WARMUP_STEPS:
                clock.reset_peaks(self.device)
            start = clock.read(self.device)
            yield
            self._seconds.append(clock.read(self.device) - start)
        self._peak = clock.peak_device_bytes(self.device) or (clock.peak_host_bytes() or 0) - self._held

    def figures(self) -> dict[str, Any]:
        """Seconds of a step, seconds of those that do not count, bytes and FLOPs."""
        return {
            "seconds": statistics.median(self._seconds[WARMUP_STEPS:]),
            "warmup_seconds": sum(self._seconds[:WARMUP_STEPS]),
            "peak_bytes": self._peak,
            "flops": self.flops,
            "peak_flops": self.peak_flops,
            "keeps_memory": surroundings.keeps_memory(),
        }


def spent(events: Iterable[FunctionEventAvg], *, cuda: bool) -> Iterator[tuple[str, int, float]]:
    """Name, calls and own seconds of each operator; of a GPU those of each kernel.

    There an operator's time is once more that of its kernels, and an annotation's that of all within it.
    """
    for event in events:
        if cuda and (event.device_type != DeviceType.CUDA or event.is_user_annotation):
            continue
        microseconds = event.self_device_time_total if cuda else event.self_cpu_time_total
        if microseconds > 0:
            yield event.key, event.count, microseconds / 1e6


class Profiler(Watch):
    """The operators of one step, of a GPU its kernels, after some that do not count."""

    def __init__(self, device: str) -> None:
        super().__init__(device, 1)
        self._operators: list[tuple[str, int, float]] = []

    def rounds(self) -> Iterator[None]:
        """One item for each step to be made; the last is watched."""
        for _ in range(WARMUP_STEPS):
            yield
        cuda = torch.device(self.device).type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        with profile(activities=activities) as found:
            start = clock.read(self.device)
            yield
            self._seconds.append(clock.read(self.device) - start)
        self._operators = list(spent(found.key_averages(), cuda=cuda))

    def figures(self) -> dict[str, Any]:
        """Seconds of the step, and name, calls and own seconds of each operator."""
        names = ("name", "calls", "seconds")
        operators = [dict(zip(names, one, strict=True)) for one in self._operators]
        return {"seconds": self._seconds[0], "operators": operators}


if __name__ == "__main__":
    main()
