"""What is said of a machine that is busy before a run begins."""

from __future__ import annotations

import os

import pytest

from harness.launch import base
from harness.launch.base import Layout, Load, load


@pytest.mark.parametrize(
    ("average", "cores", "used", "slowdown"),
    [(0.0, 2, 2, 1.0), (4.0, 2, 2, 3.0), (2.0, 8, 2, 1.0), (8.0, 8, 8, 2.0)],
)
def test_slowdown_by_what_else_runs(average: float, cores: int, used: int, slowdown: float) -> None:
    busy = Load(average, cores, used)
    assert busy.slowdown == pytest.approx(slowdown)
    assert len(busy.as_lines()) == (slowdown > 1)


def test_a_busy_machine_is_told_of_in_one_line() -> None:
    (line,) = Load(4.0, 2, 2).as_lines()
    assert line == (
        "this machine is busy: load 4.0 on 2 cores, of which this run would use 2; times from records may "
        "become 3.0 times as long, those measured now have it in them"
    )


@pytest.mark.parametrize(("shared", "used"), [(Layout(2, 2), 4), (Layout(9, 1), 4), (Layout(1, None), 4)])
def test_load_of_this_machine(monkeypatch: pytest.MonkeyPatch, shared: Layout, used: int) -> None:
    monkeypatch.setattr(base, "_cores", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (3.5, 1.0, 1.0), raising=False)
    assert load(shared) == Load(3.5, 4, used)


def test_a_system_that_tells_no_load_is_not_called_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert load(Layout(1, 1)).as_lines() == []
