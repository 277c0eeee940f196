"""Time and memory of one method's steps at paper settings on CIFAR-10 shapes, in a process of its own.

    python tests/perf/measure_step.py dm|bacon plain|fp32|bf16 STEPS THREADS [DEVICE]

Prints one JSON object: seconds per step (median) and the peak of resident memory during these steps above
what the process held before its first one (on a GPU, the peak of its memory).
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
from plain_loop import PlainBACON, PlainDM

from harness import meter
from harness.data.toy import toy
from harness.nets import Network, build
from methods import load, resolve
from methods.api import Context

IPC = 10
WARMUP_STEPS = 2  # the first step is counted, the second one compiles


def main() -> None:
    """Measure as the arguments say."""
    method, variant, steps, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    device = sys.argv[5] if len(sys.argv) > 5 else "cpu"
    torch.set_num_threads(threads)
    data = toy(num_classes=10, shape=(3, 32, 32), per_class=300).to(device)
    timed = plain_steps(method, data) if variant == "plain" else our_steps(method, data, variant, device)
    held = meter.host_bytes() or 0
    warmup_seconds = sum(next(timed) for _ in range(WARMUP_STEPS))
    seconds = statistics.median(next(timed) for _ in range(steps))
    peak = meter.peak_device_bytes(device) or (meter.peak_host_bytes() or 0) - held
    print(json.dumps({"seconds": seconds, "warmup_seconds": warmup_seconds, "peak_bytes": peak}))


def our_steps(method: str, data: object, precision: str, device: str) -> Iterator[float]:
    """Seconds of each step of the method as users run it; all run before the first one is told."""
    clocks: list[float] = []

    class Timed(Context):
        def steps(self, *arguments: object, **named: object) -> Iterator[int]:
            for step in super().steps(*arguments, **named):
                if step == WARMUP_STEPS:
                    meter.reset_peaks(device)
                clocks.append(meter.clock(device))
                yield step
                clocks.append(meter.clock(device))
                if step == limit - 1:
                    return

    limit = int(sys.argv[3]) + WARMUP_STEPS
    config = resolve(method, "cifar10", IPC).config
    load(method).distill(data, IPC, config=config, context=Timed(device=device, precision=precision))
    yield from (end - start for start, end in zip(clocks[::2], clocks[1::2], strict=True))


def plain_steps(method: str, data: object) -> Iterator[float]:
    """Seconds of each step of the plain loop."""
    generator = torch.Generator().manual_seed(0)

    def fresh() -> Network:
        return build(
            "ConvNet", channels=3, image_size=(32, 32), classes=10, generator=generator, device=data.device
        )

    step: Callable[[], None]
    if method == "dm":
        dm = PlainDM(data, IPC)
        step = lambda: dm.step(fresh())  # noqa: E731
    else:
        bacon = PlainBACON(data, IPC)
        nets = [fresh() for _ in range(3)]
        trained = [
            (net, torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4))
            for net in nets[1:]
        ]
        step = lambda: bacon.step(nets[0], trained)  # noqa: E731
    for done in itertools.count():
        if done == WARMUP_STEPS:
            meter.reset_peaks(data.device)
        start = time.perf_counter()
        step()
        yield time.perf_counter() - start


if __name__ == "__main__":
    main()
