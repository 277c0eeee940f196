"""Whole steps of the methods beside plain loops: seconds and memory, measured within one run on one machine.

The plain loops live in `tests/perf` of a checkout. What was measured on a machine can be kept as
`harness/report/data/steps/<device>.json`, from which BENCHMARKS.md has its table of speed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tabulate import tabulate

from harness.core import clock, processor
from harness.core.errors import UserError
from harness.core.packaged import packaged
from harness.core.text import MISSING
from harness.engine.record_files import write_atomically

SHEETS = packaged("harness.report", "data", "steps")
PLAIN = "plain"
PRECISIONS = ("fp32", "bf16")
VARIANTS = (PLAIN, *PRECISIONS)
REPEATS = 3  # steps whose median counts
THREADS = 2
HEADERS = ("method", "loop", "s / step", "speed", "of peak", "peak MiB", "memory", "first two steps, s")

# Measures one variant of a method's step: (method, variant, device) to the figures of a MeasuredStep.
Measure = Callable[[str, str, str], Mapping[str, Any]]


class MeasuredStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One variant of one method's step: median seconds, seconds of the first two, peak bytes.

    flops: of a step; peak_flops: that the machine makes a second in the same precision, multiplying large
    matrices. None where they were not measured, as of plain loops. keeps_memory: whether its process kept
    what it freed, as a worker does.
    """

    method: str
    variant: str
    seconds: float
    warmup_seconds: float
    peak_bytes: float
    flops: float | None = None
    peak_flops: float | None = None
    keeps_memory: bool = False

    @property
    def share_of_peak(self) -> float | None:
        """Share of the machine's measured rate that the step reaches; None if that is not known."""
        if self.flops is None or not self.peak_flops:
            return None
        return self.flops / self.seconds / self.peak_flops


class StepSheet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The steps measured on one device, and the circumstances of the latest.

    `bf16` says whether a CPU multiplies bfloat16 in hardware: those that call themselves alike may differ.
    """

    device: str
    cpu: str | None
    threads: int
    torch: str
    measured_at: str
    steps: tuple[MeasuredStep, ...]
    bf16: bool | None = None

    @property
    def name(self) -> str:
        """File name of the sheet: the GPU's, or the CPU's and whether it has bfloat16."""
        parts = [self.device]
        if self.device == "cpu":
            parts += [self.cpu or "unknown", "bf16" if self.bf16 else ""]
        return re.sub("[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


@dataclass(frozen=True)
class StepPair:
    """A step and the plain loop's that was measured with it."""

    step: MeasuredStep
    plain: MeasuredStep

    @property
    def speed(self) -> float:
        """How many times as fast as the plain loop."""
        return self.plain.seconds / self.step.seconds

    @property
    def memory(self) -> float:
        """Peak memory as a share of the plain loop's."""
        return self.step.peak_bytes / self.plain.peak_bytes


def measure_steps(
    methods: Sequence[str], device: str, measure: Measure, precisions: Sequence[str] = PRECISIONS
) -> StepSheet:
    """Measure each method's plain loop, then the method in each precision; a process of its own for each."""
    import torch

    steps = [
        MeasuredStep(method, variant, **measure(method, variant, device))
        for method in methods
        for variant in (PLAIN, *precisions)
    ]
    on_gpu = torch.device(device).type == "cuda"
    return StepSheet(
        device=torch.cuda.get_device_name(device) if on_gpu else device,
        cpu=processor.model(),
        threads=THREADS,
        torch=str(torch.__version__),
        measured_at=clock.now(),
        steps=tuple(steps),
        bf16=None if on_gpu else processor.multiplies_bf16(),
    )


def pairs(sheet: StepSheet) -> list[StepPair]:
    """Each step of a sheet with its method's plain loop."""
    plain = {step.method: step for step in sheet.steps if step.variant == PLAIN}
    return [StepPair(step, plain[step.method]) for step in sheet.steps]


def as_text(sheet: StepSheet) -> str:
    """The table that `perf step` prints."""
    rows = [
        (
            pair.step.method,
            pair.step.variant,
            pair.step.seconds,
            f"{pair.speed:.2f}x",
            share_text(pair.step),
            pair.step.peak_bytes / 2**20,
            f"{pair.memory:.2f}x",
            pair.step.warmup_seconds,
        )
        for pair in pairs(sheet)
    ]
    return tabulate(rows, HEADERS, floatfmt=("", "", ".3g", "", "", ".0f", "", ".1f"))


def share_text(step: MeasuredStep) -> str:
    """`12 %` of the machine's peak, or a dash."""
    share = step.share_of_peak
    if share is None:
        return MISSING
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1g} %"


def keep(sheet: StepSheet, folder: Path) -> Path:
    """Write a sheet under `folder`; steps of other methods that lie there already stay."""
    path = folder / f"{sheet.name}.json"
    again = {step.method for step in sheet.steps}
    earlier = load(path).steps if path.is_file() else ()
    steps = [step for step in earlier if step.method not in again] + list(sheet.steps)
    order = {variant: place for place, variant in enumerate(VARIANTS)}
    steps.sort(key=lambda step: (step.method, order[step.variant]))
    whole = msgspec.to_builtins(msgspec.structs.replace(sheet, steps=tuple(steps)))
    write_atomically(path, (json.dumps(whole, indent=1) + "\n").encode())
    return path


def load(path: Path) -> StepSheet:
    """Read a sheet; UserError if it is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=StepSheet)
    except msgspec.DecodeError as error:
        raise UserError(f"{path} holds no steps of `perf step` ({error})") from None


def load_sheets(folder: Path = SHEETS) -> list[StepSheet]:
    """All sheets of a folder, which need not exist, by name."""
    return [load(path) for path in sorted(folder.glob("*.json"))]
