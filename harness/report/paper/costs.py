"""The cost table: seconds, memory and FLOPs of trials at paper scale, and of single steps where kept."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from harness.core.text import MISSING, count, memory, seconds, table
from harness.engine.records import Record, hardware
from harness.perf.steps import PLAIN, Sheet
from harness.report.paper.cells import Cell

ALWAYS = "cifar10"  # the dataset whose cells are shown even when nothing was measured
NOTE = (
    "Mean over seeds of one trial, memory the highest of any seed, by hardware; seconds of two machines do"
    " not compare. harness/report/data/reported.csv holds no cost that the paper prints."
)
STEPS = (
    "Seconds of one step at the authors' CIFAR-10 settings (ipc 10, ConvNet), ours in fp32 and a plain loop"
    " written the authors' way, from harness/report/data/steps:"
)

Fact: TypeAlias = Callable[[Record], Any]
FACTS: dict[str, Fact] = {
    "distill_seconds": lambda record: record.distill and record.distill.seconds,
    "evaluate_seconds": lambda record: record.evaluate and record.evaluate.seconds,
    "flops": lambda record: record.distill and record.distill.flops,
    "peak_host_bytes": lambda record: record.distill and record.distill.peak_host_bytes,
    "peak_device_bytes": lambda record: record.distill and record.distill.peak_device_bytes,
}


def cost_rows(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """One row for each cell and hardware; unknown facts are null, unmeasured cells have a state."""
    rows = []
    for cell in cells:
        places: dict[str | None, list[Record]] = defaultdict(list)
        for record in cell.done:
            places[hardware(record.provenance)].append(record)
        for place, records in (places or {None: []}).items():
            facts = {name: _gathered(name, fact, records) for name, fact in FACTS.items()}
            spec = {"method": cell.spec.method, "dataset": cell.spec.dataset, "ipc": cell.spec.ipc}
            rows.append(spec | {"state": cell.state, "hardware": place, "seeds": len(records)} | facts)
    return rows


def cost_markdown(cells: Sequence[Cell], sheets: Sequence[Sheet]) -> str:
    """The table of trials, then that of steps if any was kept of these methods."""
    shown = [cell for cell in cells if cell.done or cell.spec.dataset == ALWAYS]
    headers = ["dataset", "method", "hardware", "ipc", "seeds", "distillation (s)", "evaluation (s)"]
    headers += ["FLOPs", "peak host memory", "peak device memory"]
    rows = [
        [
            row["dataset"],
            row["method"],
            row["hardware"] or f"*{row['state']}*",
            str(row["ipc"]),
            str(row["seeds"] or MISSING),
            seconds(row["distill_seconds"]),
            seconds(row["evaluate_seconds"]),
            count(row["flops"]),
            memory(row["peak_host_bytes"]),
            memory(row["peak_device_bytes"]),
        ]
        for row in cost_rows(shown)
    ]
    steps = _steps({cell.spec.method for cell in cells}, sheets)
    return "\n\n".join(
        part for part in (table(headers, rows, text_columns=3) if rows else "", NOTE, steps) if part
    )


def _gathered(name: str, fact: Fact, records: Iterable[Record]) -> float | None:
    known = [value for value in map(fact, records) if value is not None]
    if not known:
        return None
    return max(known) if name.startswith("peak") else statistics.fmean(known)


def _steps(methods: set[str], sheets: Iterable[Sheet]) -> str:
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for sheet in sheets:
        place = sheet.device if sheet.device != "cpu" else f"{sheet.cpu or 'unknown CPU'}"
        for step in sheet.steps:
            if step.method in methods:
                found[step.method, place][step.variant] = step.seconds
    rows = [
        [method, place, *(f"{known[name]:.3g}" if name in known else MISSING for name in (PLAIN, "fp32"))]
        for (method, place), known in sorted(found.items())
    ]
    return f"{STEPS}\n\n{table(['method', 'hardware', 'plain loop', 'ours'], rows, 2)}" if rows else ""
