"""The section of BENCHMARKS.md on the speed of steps, from the sheets that `perf step --keep` wrote."""

from __future__ import annotations

from collections.abc import Iterable

from harness.core.packaged import packaged
from harness.core.text import MISSING, memory, plural, table
from harness.perf.steps import PLAIN, Beside, Sheet, load_all, pairs

SHEETS = packaged("harness.report", "data", "steps")

INTRODUCTION = """\
## Speed of a step

One iteration of each method at its authors' CIFAR-10 settings (ipc 10, ConvNet, made-up images of that
shape) beside a plain loop written the authors' way: class after class, fp32, nothing compiled
(`tests/perf/`). Both sides were measured in one run, each in a process of its own. *Speed* is the plain
loop's time over ours, *memory* our peak over the plain loop's, the dataset included. Where an iteration has
rounds within (DC and its kin, IDC, DREAM, CAFE), both sides make fewer of them. MTT and TESLA have no loop
over classes: they differentiate through a training, whose passes are the cost."""

HEADERS = (
    "method",
    "plain, s",
    "fp32, s",
    "speed",
    "plain, peak",
    "fp32, peak",
    "memory",
    "bf16, speed",
    "bf16, memory",
)


def load_sheets() -> list[Sheet]:
    """The sheets that come along."""
    return list(load_all(SHEETS))


def speed_section(sheets: Iterable[Sheet]) -> str:
    """The section for these sheets, one table each; empty without any."""
    parts = [_sheet(sheet) for sheet in sheets]
    return "\n\n".join([INTRODUCTION, *parts]) if parts else ""


def _sheet(sheet: Sheet) -> str:
    found = {(beside.step.method, beside.step.variant): beside for beside in pairs(sheet)}
    methods = sorted({method for method, _ in found})
    rows = [
        _row(found[method, PLAIN], found.get((method, "fp32")), found.get((method, "bf16")))
        for method in methods
    ]
    return f"On {_place(sheet)} with torch {sheet.torch}:\n\n{table(HEADERS, rows)}"


def _place(sheet: Sheet) -> str:
    if sheet.device != "cpu":
        return sheet.device
    bf16 = "" if sheet.bf16 is None else f", with{'' if sheet.bf16 else 'out'} instructions for bfloat16"
    return f"{sheet.cpu}, {plural(sheet.threads, 'thread')}{bf16},"


def _row(plain: Beside, fp32: Beside | None, bf16: Beside | None) -> list[str]:
    return [
        plain.step.method,
        f"{plain.step.seconds:.3g}",
        f"{fp32.step.seconds:.3g}" if fp32 else MISSING,
        f"{fp32.speed:.2f}×" if fp32 else MISSING,
        memory(plain.step.peak_bytes),
        memory(fp32.step.peak_bytes) if fp32 else MISSING,
        f"{fp32.memory:.2f}×" if fp32 else MISSING,
        f"{bf16.speed:.2f}×" if bf16 else MISSING,
        f"{bf16.memory:.2f}×" if bf16 else MISSING,
    ]
