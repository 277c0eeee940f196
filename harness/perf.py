"""Speed: the gate on the loss kernels, and whole steps beside plain loops (`harness.steps`).

Both measure ratios within one run on one machine; seconds of different machines are never compared. The
benchmarks and the plain loops live in `tests/perf` of a checkout.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from harness import devices, meter, steps
from harness.errors import UnknownNameError, UserError

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "perf"
BASELINE = FOLDER / "baseline.json"
SHEETS = FOLDER.parent.parent / "results" / "steps"
TOLERANCE = 0.15  # how much worse than the baseline a ratio may be
MARGIN = 1.3  # on the baselines of other processors, which differ by as much
RUNS = 3  # medians of each case
SUSPECT_RUNS = 6  # more of them for cases that look worse: a single figure of a busy machine says little
BASELINE_RUNS = 7
STEP_METHODS = ("dm", "bacon")  # of a `perf step` that names none

# Lets the C library keep what is freed. Else it is chance whether it gives large blocks back after each call,
# to fetch them again page by page for the next: that tripled the time of some kernels in half of all runs.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}

COMMANDS = ("check", "baseline", "step")
Ratios = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Benchmark:
    """Median seconds of one form, "batched" or "looped", of one case in one run."""

    case: str
    form: str
    median: float


@dataclass(frozen=True)
class Verdict:
    """Ratio of a kernel's time to its plain loop's, now (median over runs) and in the baseline."""

    case: str
    ratio: float
    baseline: float

    @property
    def worse(self) -> bool:
        """Whether the kernel lost more than the tolerance."""
        return self.ratio > self.baseline * (1 + TOLERANCE)


def command(
    what: str,
    *,
    device: str = "auto",
    methods: Sequence[str] = (),
    precisions: Sequence[str] = (),
    keep: bool = False,
) -> int:
    """Run `perf check`, `perf baseline` or `perf step` of some methods; returns the exit status.

    `keep` writes what `perf step` measured under results/steps.
    """
    if what not in COMMANDS:
        raise UnknownNameError("perf command", what, COMMANDS)
    if not FOLDER.is_dir():
        raise UserError(f"no benchmarks at {FOLDER}; run this in a checkout of the repository")
    if what == "step":
        sheet = _steps(methods or STEP_METHODS, devices.choose(device).name, precisions or steps.PRECISIONS)
        print(steps.as_text(sheet))
        if keep:
            print(f"kept in {steps.keep(sheet, SHEETS)}")
        return 0
    if what == "baseline":
        return _write_baseline()
    return check()


def _write_baseline() -> int:
    ratios = measure(BASELINE_RUNS)
    medians = {case: round(statistics.median(values), 4) for case, values in sorted(ratios.items())}
    baselines = _baselines() | {_cpu(): medians}
    BASELINE.write_text(json.dumps(baselines, indent=1, sort_keys=True) + "\n")
    print(f"wrote {len(medians)} ratios of {_cpu()} to {BASELINE}")
    return 0


def baseline_of(cpu: str) -> dict[str, float]:
    """Ratios of each case on that processor; of one without a baseline the largest on any other and a margin.

    Ratios hardly depend on a machine's speed, but on the width of its vectors and the size of its caches.
    """
    baselines = _baselines()
    if cpu in baselines:
        return baselines[cpu]
    print(f"no baseline of {cpu}: compared with {MARGIN:g} times the largest of {', '.join(baselines)}")
    cases = {case for ratios in baselines.values() for case in ratios}
    return {
        case: MARGIN * max(ratios[case] for ratios in baselines.values() if case in ratios) for case in cases
    }


def _baselines() -> dict[str, dict[str, float]]:
    """The committed ratios, by processor and case."""
    found: dict[str, dict[str, float]] = json.loads(BASELINE.read_text())
    return found


def _cpu() -> str:
    return meter.cpu_kind() or "unknown processor"


def _steps(methods: Sequence[str], device: str, precisions: Sequence[str]) -> steps.Sheet:
    loops = _loops()
    for method in methods:
        if method not in loops:
            raise UnknownNameError("plain loop", method, loops)
    for precision in precisions:
        if precision not in steps.PRECISIONS:
            raise UnknownNameError("precision", precision, steps.PRECISIONS)
    return steps.measure_steps(methods, device, _measure_step, precisions)


def _loops() -> list[str]:
    """Methods that have a plain loop."""
    return _python(["-c", "from loops import all_loops; print(*all_loops())"]).split()


def check(options: Sequence[str] = ()) -> int:
    """Compare the kernels with the committed baseline; prints a table, returns 1 if one got slower.

    `options` are passed on to pytest.
    """
    baseline = baseline_of(_cpu())
    ratios = measure(RUNS, options)
    suspects = [verdict.case for verdict in judge(ratios, baseline) if verdict.worse]
    if suspects:
        again = measure(SUSPECT_RUNS, [*options, "-k", " or ".join(suspects)])
        ratios |= {case: [*ratios[case], *values] for case, values in again.items()}
    verdicts = judge(ratios, baseline)
    print(check_table(verdicts))
    slower = [verdict.case for verdict in verdicts if verdict.worse]
    if slower:
        print(f"slower than the baseline by more than {TOLERANCE:.0%}: {', '.join(slower)}")
        return 1
    print(f"{len(verdicts)} kernels within {TOLERANCE:.0%} of the baseline")
    return 0


def judge(ratios: Ratios, baseline: Mapping[str, float]) -> list[Verdict]:
    """A verdict for each measured case; a case without a baseline is an error."""
    unknown = sorted(set(ratios) - set(baseline))
    if unknown:
        raise UserError(
            f"no baseline for {unknown[0]!r}; run `python -m harness perf baseline` and commit it"
        )
    return [
        Verdict(case, statistics.median(values), baseline[case]) for case, values in sorted(ratios.items())
    ]


def measure(runs: int, options: Sequence[str] = ()) -> dict[str, list[float]]:
    """Ratio batched / looped of each case, once per run of the benchmarks in a process of their own.

    A case is called by its part of the test's id, `100-10-bacon` for 100 classes and ipc 10.
    """
    ratios: dict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        medians: dict[str, dict[str, float]] = defaultdict(dict)
        for benchmark in _run_benchmarks(options):
            medians[benchmark.case][benchmark.form] = benchmark.median
        for case, times in medians.items():
            ratios[case].append(times["batched"] / times["looped"])
    return dict(ratios)


def check_table(verdicts: Sequence[Verdict]) -> str:
    """The gate's table for people."""
    rows = [
        (v.case, v.ratio, v.baseline, f"{v.ratio / v.baseline - 1:+.0%}", "SLOWER" if v.worse else "ok")
        for v in verdicts
    ]
    headers = ("classes-ipc-kernel", "time / plain loop", "baseline", "change", "")
    return tabulate(rows, headers, floatfmt=".3f")


def _measure_step(method: str, variant: str, device: str) -> dict[str, float]:
    arguments = [method, variant, str(steps.REPEATS), str(steps.THREADS), device]
    output = _python([str(FOLDER / "measure_step.py"), *arguments])
    measured: dict[str, float] = json.loads(output.splitlines()[-1])
    return measured


def _run_benchmarks(options: Sequence[str]) -> list[Benchmark]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "benchmarks.json"
        selected = ["-m", "pytest", str(FOLDER / "test_kernels.py"), "-q", "-p", "no:cacheprovider"]
        command = [*selected, "--benchmark-only", f"--benchmark-json={report}", *options]
        _python(command, **KEEP_MEMORY)
        return [
            Benchmark(found["extra_info"]["case"], found["extra_info"]["form"], found["stats"]["median"])
            for found in json.loads(report.read_text())["benchmarks"]
        ]


def _python(arguments: Sequence[str], **variables: str) -> str:
    paths = [str(FOLDER.parent.parent), str(FOLDER), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | variables
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=FOLDER.parent.parent,
        check=False,
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise UserError(f"a benchmark failed: {lines[-1] if lines else 'it printed nothing'}")
    return done.stdout
