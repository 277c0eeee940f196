"""Runs the benchmarks of two sides in turns: two processes, of which one rests while the other is timed.

What slows a machine down for longer than a round therefore slows both sides of a pair of rounds alike.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.engine.surroundings import KEEPING_MEMORY

BENCHMARKS = Path("tests") / "perf" / "test_speed.py"
# Of the tree that runs the gate, for both sides: the trees' own files need not know of turns.
SCRIPT = Path(__file__).resolve().parents[2] / "tests" / "perf" / "gate" / "in_turns.py"
OTHER_ENDED = 75  # status of a process whose counterpart is gone; the script says so too
NO_TESTS = 5  # pytest's

# Large tensors lie on pages of 2 MiB. Which of a cache's places small ones share is chance too, of a process:
# a pass over 20 MiB took up to 1.3 times as long in one of two equal ones as in the other.
LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "250"}
# Of a test run that the gate may be part of: they would turn benchmarks off or add options.
NOT_PASSED_ON = ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTHONDONTWRITEBYTECODE")


@dataclass(frozen=True)
class MeasuredTree:
    """One side of a comparison: a tree and a form of the cases in its `tests/perf/test_speed.py`.

    name: for people. form: the test function, `test_ours` or `test_plain`. options: more for pytest.
    """

    name: str
    tree: Path
    form: str = "test_ours"
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Times:
    """Seconds of a call in each round of a case, the candidate's and the reference's, pair after pair."""

    candidate: tuple[float, ...]
    reference: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Candidate's over reference's, pair by pair."""
        return tuple(ours / theirs for ours, theirs in zip(self.candidate, self.reference, strict=True))

    @property
    def medians(self) -> tuple[float, float]:
        """Median seconds of both."""
        return statistics.median(self.candidate), statistics.median(self.reference)


@dataclass(frozen=True)
class Run:
    """What one pair of processes measured, and the cases that only one side has."""

    times: dict[str, Times]
    only_candidate: tuple[str, ...]
    only_reference: tuple[str, ...]


def run_in_turns(candidate: MeasuredTree, reference: MeasuredTree, patterns: Sequence[str] = ()) -> Run:
    """Measure all cases that both sides have and whose names match one of the patterns, if there are any."""
    with tempfile.TemporaryDirectory() as folder:
        # The reference goes first in each pair.
        theirs, ours = _finish([reference, candidate], Path(folder), patterns)
    times = {
        case: Times(tuple(seconds), tuple(theirs["seconds"][case]))
        for case, seconds in ours["seconds"].items()
    }
    return Run(times, tuple(ours["alone"]), tuple(theirs["alone"]))


def _finish(sides: list[MeasuredTree], folder: Path, patterns: Sequence[str]) -> list[dict[str, Any]]:
    """Start both processes, wait for them, read their reports."""
    ends = socket.socketpair()
    logs = [folder / f"{k}.log" for k in range(len(sides))]
    reports = [folder / f"{k}.json" for k in range(len(sides))]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for k, side in enumerate(sides):
            task = {"socket": ends[k].fileno(), "first": k == 0, "report": str(reports[k])}
            processes.append(_start(side, task | {"patterns": list(patterns)}, logs[k]))
            ends[k].close()  # so that a process's end is seen by the other one
        statuses = [process.wait() for process in processes]
    finally:
        for end in ends:
            end.close()
        for process in processes:
            process.kill()
            process.wait()
    for side, status, log in zip(sides, statuses, logs, strict=True):
        if status not in (0, NO_TESTS, OTHER_ENDED):
            raise UserError(f"a benchmark of {side.name} failed: {_complaint(log)}")
    return [json.loads(report.read_text(encoding="utf-8")) for report in reports]


def _start(side: MeasuredTree, task: dict[str, object], log: Path) -> subprocess.Popen[bytes]:
    """Run one side's benchmarks: its own files, with its own code before all that is installed."""
    paths = [str(side.tree), os.environ.get("PYTHONPATH", "")]
    environment = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    environment |= ALONE | KEEPING_MEMORY | LARGE_PAGES | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    tests = f"{side.tree / BENCHMARKS}::{side.form}"
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), json.dumps(task), tests, *side.options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=side.tree,
            pass_fds=[int(str(task["socket"]))],
        )


def _complaint(log: Path) -> str:
    """The line of pytest's output that says what went wrong, else its last one."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it printed nothing"]
    telling = [line for line in lines if line.startswith(("FAILED ", "ERROR", "INTERNALERROR> "))]
    return (telling or lines)[-1]
