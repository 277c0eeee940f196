"""The speed gate: fails when this code is slower than earlier code by more than 15 % and its own noise.

The benchmarks of both trees are run in turns (`harness.perf.pairs`), a few pairs of processes one after the
other. A case's figure is the median of the ratios of all its pairs of rounds. Its noise is an interval that
holds the true median in 95 of 100 comparisons: the runs are drawn anew, with replacement, a thousand times.
A whole run is drawn, not a pair, since the pairs of one run share the luck of its processes. A case whose
interval reaches beyond the limit after the first runs is measured again, and then once more as long as its
interval lies on both sides of the limit. Slower is only one whose whole interval lies beyond it in the end.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from harness.core.errors import UserError
from harness.perf.history import NoHistoryError, find_commit, laid_out, read_reference
from harness.perf.pairs import BENCHMARKS, MeasuredTree, Run, Times, run_in_turns

TOLERANCE = 0.15  # how much slower than earlier code a case may be
# And than a plain loop, where there is no earlier code: whole steps of the pool and the evaluation are about
# as fast as their plain loops, the rest several times faster.
PLAIN_TOLERANCE = 0.5
LOOKS = 6  # at most: at all cases, then at those that may be slower, then at those that are still undecided
RUNS = 3  # pairs of processes in each look
RESAMPLES = 1000
OUTSIDE = 0.05  # chance that the interval misses the median, both ends together


@dataclass(frozen=True)
class Verdict:
    """What the runs say of a case: median ratio of candidate to reference, and the interval of that."""

    case: str
    seconds: tuple[float, float]
    ratio: float
    low: float
    high: float
    tolerance: float = TOLERANCE

    @classmethod
    def of(cls, case: str, runs: Sequence[Times], tolerance: float = TOLERANCE) -> Verdict:
        """The verdict after these runs."""
        ratios = [times.ratios for times in runs]
        both = zip(*(times.medians for times in runs), strict=True)
        candidate, reference = (statistics.median(seconds) for seconds in both)
        low, high = interval(ratios)
        pooled = statistics.median(ratio for run in ratios for ratio in run)
        return cls(case, (candidate, reference), pooled, low, high, tolerance)

    @property
    def doubtful(self) -> bool:
        """Whether it may be beyond the limit."""
        return self.high > 1 + self.tolerance

    @property
    def slower(self) -> bool:
        """Whether it is beyond the limit by more than its noise."""
        return self.low > 1 + self.tolerance


def interval(runs: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Interval of the median ratio of all runs' pairs, by drawing runs anew; always the same of the same."""
    draws = random.Random(0)
    medians = sorted(
        statistics.median(ratio for run in draws.choices(runs, k=len(runs)) for ratio in run)
        for _ in range(RESAMPLES)
    )
    tail = round(RESAMPLES * OUTSIDE / 2)
    return medians[tail], medians[-1 - tail]


def check(root: Path, against: str | None = None, patterns: Sequence[str] = ()) -> int:
    """Compare the checkout `root` with an earlier commit, by default the committed one; the exit status.

    Where that one is not to be had, compare with the plain loops and say so. UserError if `against` is not.
    """
    candidate = MeasuredTree("this code", root)
    try:
        commit = find_commit(root, against or read_reference(root).commit)
        with laid_out(root, commit) as tree:
            if not (tree / BENCHMARKS).is_file():
                raise NoHistoryError(f"commit {commit[:10]} has no {BENCHMARKS}, it is older than the gate")
            return compare(candidate, MeasuredTree(commit[:10], tree), patterns)
    except NoHistoryError as error:
        if against is not None:
            raise
        print(f"no earlier code to compare with: {error}; compared with the plain loops instead", flush=True)
    return compare(candidate, MeasuredTree("plain loops", root, form="test_plain"), patterns, PLAIN_TOLERANCE)


def compare(
    candidate: MeasuredTree,
    reference: MeasuredTree,
    patterns: Sequence[str] = (),
    tolerance: float = TOLERANCE,
) -> int:
    """Measure, print a table, and return 1 if a case is slower by more than the tolerance, a share."""
    first, *others = (_run(candidate, reference, patterns, k) for k in range(RUNS))
    runs = _by_case([first, *others])
    if not runs:
        wanted = f" that matches {', '.join(patterns)}" if patterns else ""
        raise UserError(f"{candidate.name} and {reference.name} have no benchmark in common{wanted}")
    verdicts = {case: Verdict.of(case, times, tolerance) for case, times in runs.items()}
    for look in range(1, LOOKS):
        # One burst of other work can make all first runs slow, hence no verdict after these alone.
        doubtful = [case for case, v in verdicts.items() if v.doubtful and (look == 1 or not v.slower)]
        if not doubtful:
            break
        again = [_run(candidate, reference, doubtful, look * RUNS + k) for k in range(RUNS)]
        runs |= {case: runs[case] + times for case, times in _by_case(again).items()}
        verdicts |= {case: Verdict.of(case, runs[case], tolerance) for case in doubtful}
    found = list(verdicts.values())
    print(as_table(found, candidate, reference))
    print(_unmatched(first, candidate, reference), end="")
    return _conclude(found, reference, tolerance)


def as_table(verdicts: Sequence[Verdict], candidate: MeasuredTree, reference: MeasuredTree) -> str:
    """The table that `perf check` prints."""
    rows = [
        (
            v.case,
            *(f"{1000 * seconds:.3g}" for seconds in v.seconds),
            f"{v.ratio:.3f}",
            f"{v.low:.3f} - {v.high:.3f}",
            "SLOWER" if v.slower else "ok",
        )
        for v in verdicts
    ]
    headers = ("case", f"{candidate.name}, ms", f"{reference.name}, ms", "ratio", "95 % interval", "")
    return tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 4, "left"))


def _conclude(verdicts: Sequence[Verdict], reference: MeasuredTree, tolerance: float) -> int:
    slower = [verdict.case for verdict in verdicts if verdict.slower]
    if slower:
        print(f"slower than {reference.name} by more than {tolerance:.0%} and noise: {', '.join(slower)}")
        return 1
    print(f"{len(verdicts)} cases, none slower than {reference.name} by more than {tolerance:.0%} and noise")
    return 0


def _run(candidate: MeasuredTree, reference: MeasuredTree, patterns: Sequence[str], number: int) -> Run:
    what = "all cases" if number < RUNS else f"again: {', '.join(patterns)}"
    print(f"run {number + 1}, {what}", file=sys.stderr, flush=True)
    return run_in_turns(candidate, reference, patterns)


def _by_case(runs: Sequence[Run]) -> dict[str, list[Times]]:
    cases = sorted(runs[0].times)
    return {case: [run.times[case] for run in runs] for case in cases}


def _unmatched(run: Run, candidate: MeasuredTree, reference: MeasuredTree) -> str:
    """A line for each side that has cases of its own, if both are forms of the same."""
    if candidate.form != reference.form:
        return ""
    alone = {candidate.name: run.only_candidate, reference.name: run.only_reference}
    return "".join(f"only {name} has {', '.join(cases)}\n" for name, cases in alone.items() if cases)
