"""Slow tests: their files are begun first, and a run of `-m "not slow"` says at its end what it left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

MARK = "slow"
KEY = "left out"
E2E = "e2e"


class SlowTests:
    """Puts files with slow tests first, counts what marks deselect.

    Each process of pytest-xdist deselects the same and tells the one that prints.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.left_out: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """A long file that is begun last would keep one process busy while the others have nothing left.

        The slow tests of `e2e` start many processes each, and so take longer than others.
        """
        slow = Counter(item.path for item in items if item.get_closest_marker(MARK))
        items.sort(key=lambda item: (-slow[item.path] * (item.path.parent.name == E2E), -slow[item.path]))

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Count them by file."""
        self.left_out.update(item.nodeid.partition("::")[0] for item in items)

    def pytest_sessionfinish(self) -> None:
        """Tell the process that prints."""
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput[KEY] = dict(self.left_out)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Hear it from another process, if it lived to tell."""
        self.left_out |= Counter(getattr(node, "workeroutput", {}).get(KEY, {}))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what was left out."""
        if self.left_out and f"not {MARK}" in self.config.option.markexpr:
            terminalreporter.write_line(said(self.left_out))


def said(counts: Counter[str]) -> str:
    """Numbers of slow tests in words, by folder."""
    by_folder: Counter[str] = Counter()
    for file, count in counts.items():
        by_folder[file.rpartition("/")[0] or file] += count
    folders = ", ".join(f"{folder} ({count})" for folder, count in sorted(by_folder.items()))
    total = sum(counts.values())
    return f"left out, see `make test`: {total} slow test{'s' * (total != 1)}: {folders}"
