"""Runs one side's benchmarks in turns with another process: `harness.perf.pairs` starts two of these.

    python in_turns.py TASK [pytest's arguments]

The task is JSON: the file descriptor of a socket to the other process, which of the two is first, patterns of
the cases that are wanted, and where the report goes. Each round of a benchmark waits until the other side's
is over, and both sides make the same number of calls in it. This file belongs to the gate, not to the tree
whose benchmarks it runs: it imports nothing of that, and sees to it that the benchmarks import their own.
"""

from __future__ import annotations

import functools
import json
import math
import socket
import sys
import time
from collections.abc import Callable, Generator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

import pytest

OTHER_ENDED = 75
ROUND_SECONDS = 0.02  # least length of a round, by as many calls as that takes
CASE_SECONDS = 0.2  # of one side's rounds, if they are not too few or too many then
FEWEST_ROUNDS, MOST_ROUNDS = 5, 9
PACKAGES = {"harness", "methods"}  # that must be the tree's own


class Channel:
    """JSON lines to and from the other process; ends this one if that is gone."""

    def __init__(self, descriptor: int) -> None:
        self._file = socket.socket(fileno=descriptor).makefile("rw")

    def say(self, what: Any) -> None:
        """Send."""
        try:
            self._file.write(json.dumps(what) + "\n")
            self._file.flush()
        except OSError:
            _end()

    def hear(self) -> Any:
        """Wait for what the other says next."""
        try:
            line = self._file.readline()
        except OSError:  # the other side ended without having read all
            line = ""
        return json.loads(line) if line else _end()


class InTurns:
    """A plugin of pytest: keeps the cases that both sides have, and times them in turns with the other side.

    seconds: of a call in each round, by case. alone: cases that only this side has.
    """

    def __init__(self, channel: Channel, *, first: bool, patterns: list[str]) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.alone: list[str] = []
        self._channel = channel
        self._first = first
        self._patterns = patterns
        self._my_turn = first

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the common cases, by name."""
        mine = {name: item for item in items if self._is_wanted(name := _case(item))}
        self._channel.say(sorted(mine))
        theirs = self._channel.hear()
        self.alone = sorted(set(mine) - set(theirs))
        items[:] = [mine[name] for name in sorted(set(mine) & set(theirs))]

    def pytest_collection_finish(self) -> None:
        """See to it that nothing installed stands in for the tree's own code."""
        tree = Path.cwd().resolve()
        for name in sorted(PACKAGES & set(sys.modules)):
            path = Path(str(sys.modules[name].__file__)).resolve()
            if not path.is_relative_to(tree):
                pytest.exit(f"ERROR: {name} was imported from {path}, not from {tree}", 1)

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        """Let the test call this plugin where it calls the benchmark."""
        benchmark = pyfuncitem.funcargs["benchmark"]
        pyfuncitem.funcargs["benchmark"] = functools.partial(self._measure, _case(pyfuncitem), benchmark)
        try:
            return (yield)
        finally:  # pytest-benchmark insists on its own
            pyfuncitem.funcargs["benchmark"] = benchmark

    def _measure(self, case: str, benchmark: Any, function: Callable[[], Any]) -> None:
        """Find out how long a call takes, agree with the other side on the rounds, make them."""
        said_before = self._take()
        seconds = _seconds_of(function)
        self._give({"case": case, "seconds": seconds})
        other = self._take() if self._first else said_before
        if other["case"] != case:
            pytest.exit(f"ERROR: this side is at {case}, the other one at {other['case']}", 1)
        longest = max(seconds, other["seconds"])
        calls = math.ceil(ROUND_SECONDS / longest)
        rounds = min(MOST_ROUNDS, max(FEWEST_ROUNDS, int(CASE_SECONDS / (calls * longest))))

        first_round = True

        def await_turn() -> None:
            nonlocal first_round
            if not first_round:
                self._give(None)
            self._take()
            first_round = False

        def one_round() -> None:
            for _ in range(calls):
                function()

        benchmark.pedantic(one_round, setup=await_turn, rounds=rounds)
        self._give(None)
        if self._first:  # to prepare the next case meanwhile would disturb the other side's last round
            self._take()
        self.seconds[case] = [duration / calls for duration in benchmark.stats.stats.data]

    def _take(self) -> Any:
        """Wait until it is this side's turn; returns what the other side said at the end of its own."""
        said = None if self._my_turn else self._channel.hear()
        self._my_turn = True
        return said

    def _give(self, what: Any) -> None:
        self._my_turn = False
        self._channel.say(what)

    def _is_wanted(self, case: str) -> bool:
        return not self._patterns or any(fnmatchcase(case, pattern) for pattern in self._patterns)


def main() -> int:
    """Run pytest as the arguments say and report; returns its status."""
    task = json.loads(sys.argv[1])
    plugin = InTurns(Channel(task["socket"]), first=task["first"], patterns=task["patterns"])
    options = ["-q", "-x", "--tb=line", "--benchmark-only", "--benchmark-disable-gc"]
    plugins = ["-p", "pytest_benchmark.plugin", "-p", "no:cacheprovider"]
    status = pytest.main([*plugins, *options, *sys.argv[2:]], plugins=[plugin])
    report = {"seconds": plugin.seconds, "alone": plugin.alone}
    Path(task["report"]).write_text(json.dumps(report))
    return int(status)


def _case(item: pytest.Item) -> str:
    """What stands in the brackets of a parametrised test's name."""
    callspec = getattr(item, "callspec", None)
    return item.name if callspec is None else str(callspec.id)


def _seconds_of(function: Callable[[], Any]) -> float:
    """Seconds of a call, after a first one that does not count."""
    function()
    calls = 1
    while True:
        start = time.perf_counter()
        for _ in range(calls):
            function()
        passed = time.perf_counter() - start
        if passed > ROUND_SECONDS / 4:
            return passed / calls
        calls *= 2


def _end() -> NoReturn:
    pytest.exit("the other side has ended", OTHER_ENDED)


if __name__ == "__main__":
    sys.exit(main())
