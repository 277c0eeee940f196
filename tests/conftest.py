"""Which golden files each method reproduces: gathered from the outcomes of the tests marked `golden`.

    pytest --fidelity=FILE          writes it as JSON: item -> method -> numbers of passed and failed tests
    pytest --fidelity-check=FILE    fails unless FILE says what this run saw

The equals sign matters: pytest takes the name of a file that stands apart for the place to look for this one.
A mark without methods stands for all of them, written as "*". Both options need a run of all marked tests, of
which `-m golden` is the shortest. Processes of pytest-xdist count their shares, which are added up.
"""

from __future__ import annotations

import gc
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from slow_tests import SlowTests

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
MARK = "golden"
ALL_METHODS = "*"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    group = parser.getgroup("fidelity")
    group.addoption("--fidelity", type=Path, metavar="FILE", help="write what the golden tests show")
    group.addoption(
        "--fidelity-check", type=Path, metavar="FILE", help="fail unless FILE says what the golden tests show"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Watch the golden tests, of every run: marks are checked even if nothing is written."""
    # How long an example takes says how busy the machine is.
    settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy")
    config.pluginmanager.register(Fidelity(config), "fidelity")
    config.pluginmanager.register(SlowTests(config), "slow tests")


def pytest_collection_finish() -> None:
    """Spare Python's collector the hundred thousands of objects of torch and of the tests, that stay anyway.

    To look through them again and again took a good twentieth of the tests' time.
    """
    gc.collect()
    gc.freeze()


class Fidelity:
    """Counts the outcomes of the golden tests and writes or checks the file at the end.

    waiting: golden tests that were not run yet, with what they stand for. shares: what each other process
    that runs a part of the tests counted.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.target: Path | None = config.getoption("fidelity")
        self.committed: Path | None = config.getoption("fidelity_check")
        self.known = {path.stem for path in GOLDEN.glob("*.npz")}
        self.waiting: dict[str, list[tuple[str, str]]] = {}
        self.counts: dict[tuple[str, str], Counter[str]] = {}
        self.missed = ""
        self.messages: list[str] = []
        self.shares: list[dict[str, Any]] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note what each marked test stands for, before any is deselected."""
        for item in items:
            claims = list(
                dict.fromkeys(claim for mark in item.iter_markers(MARK) for claim in claims_of(mark))
            )
            unknown = sorted({name for name, _ in claims} - self.known)
            if unknown:
                raise pytest.UsageError(f"{item.nodeid} is marked for {unknown}, not in tests/golden")
            if claims:
                self.waiting[item.nodeid] = claims
        collected = {item.path for item in items}
        absent = [path.name for path in marked_files() if path not in collected]
        if absent or any("::" in argument for argument in self.config.args):
            self.missed = f"not all golden tests were asked for{': no ' if absent else ''}{', '.join(absent)}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: by its call, or by what kept it from being called."""
        if report.nodeid not in self.waiting or (report.when != "call" and report.passed):
            return
        if report.skipped and not hasattr(report, "wasxfail"):
            return
        for claim in self.waiting.pop(report.nodeid):
            self.counts.setdefault(claim, Counter())["passed" if report.passed else "failed"] += 1

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over the share of another process, if it lived to tell it."""
        self.shares.append(getattr(node, "workeroutput", {}).get(MARK, {}))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write or compare, and fail the run if that cannot be done or differs."""
        if hasattr(self.config, "workeroutput"):
            counts = [[*claim, dict(outcomes)] for claim, outcomes in self.counts.items()]
            self.config.workeroutput[MARK] = {
                "counts": counts,
                "waiting": list(self.waiting),
                "missed": self.missed,
            }
            return
        wanted = self.target or self.committed
        if wanted is not None and not self.config.option.collectonly and not self._settle():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what was done."""
        for message in self.messages:
            terminalreporter.write_line(message)

    def _gather(self) -> None:
        """Add up the shares of the other processes; each saw all tests, and ran some."""
        unfinished = sum(not share for share in self.shares)
        if unfinished:
            self.missed = f"{unfinished} processes that ran tests died"
            return
        for share in self.shares:
            self.missed = self.missed or share["missed"]
            for item, method, outcomes in share["counts"]:
                self.counts.setdefault((item, method), Counter()).update(outcomes)
        left = set.intersection(*(set(share["waiting"]) for share in self.shares))
        self.waiting = {test: [] for test in left}

    def _settle(self) -> bool:
        if self.shares:
            self._gather()
        if not self.missed and self.waiting:
            self.missed = f"{len(self.waiting)} golden tests were not run, such as {min(self.waiting)}"
        if not self.missed and (unknown := unknown_methods({method for _, method in self.counts})):
            self.missed = f"no such methods: {', '.join(unknown)}"
        if self.missed:
            self.messages.append(f"fidelity: nothing was written or compared, {self.missed}")
            return False
        seen = self._as_json()
        if self.target is not None:
            self.target.write_text(seen, encoding="utf-8")
            self.messages.append(f"fidelity: wrote {self.target}")
        if self.committed is None:
            return True
        if self.committed.is_file() and self.committed.read_text(encoding="utf-8") == seen:
            return True
        self.messages.append(
            f"fidelity: {self.committed} is not what this run saw; "
            f"write it with `pytest --fidelity={self.committed}`"
        )
        return False

    def _as_json(self) -> str:
        """Every item of tests/golden, those without tests included, sorted; no times."""
        items: dict[str, dict[str, dict[str, int]]] = {item: {} for item in sorted(self.known)}
        for item, method in sorted(self.counts):
            outcomes = self.counts[item, method]
            items[item][method] = {"passed": outcomes["passed"], "failed": outcomes["failed"]}
        return json.dumps(items, indent=1) + "\n"


def claims_of(mark: pytest.Mark) -> list[tuple[str, str]]:
    """The (item, method) pairs of a mark."""
    item, *methods = mark.args
    return [(item, method) for method in methods or [ALL_METHODS]]


def unknown_methods(names: set[str]) -> list[str]:
    """Those of the names that are no method, variant or composition."""
    from harness.core.errors import UserError
    from methods import find

    unknown = []
    for name in sorted(names - {ALL_METHODS}):
        try:
            find(name)
        except UserError:
            unknown.append(name)
    return unknown


def marked_files() -> list[Path]:
    """Files of tests that carry the mark, found by their text."""
    return [path for path in sorted(TESTS.rglob("test_*.py")) if f"mark.{MARK}(" in path.read_text("utf-8")]
