"""The speed gate: what it passes, what it fails, and that a kernel made slower does fail it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import perf
from harness.errors import UnknownNameError, UserError
from harness.perf import Verdict, check_table, judge


def test_gate_judges_the_median_of_several_runs() -> None:
    verdicts = judge({"a": [1.0, 9.0, 1.1], "b": [1.2, 1.2, 0.1]}, {"a": 1.0, "b": 1.0})
    assert verdicts == [Verdict("a", 1.1, 1.0), Verdict("b", 1.2, 1.0)]
    assert [verdict.worse for verdict in verdicts] == [False, True]


def test_table_names_what_got_slower() -> None:
    slower, same = Verdict("bacon 10 classes ipc 1", 0.30, 0.20), Verdict("dm 10 classes ipc 1", 0.5, 0.5)
    text = check_table([slower, same])
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    assert rows["bacon 10 classes ipc 1"].split()[-2:] == ["+50%", "SLOWER"]
    assert rows["dm 10 classes ipc 1"].split()[-2:] == ["+0%", "ok"]


def test_suspects_are_measured_again_before_they_are_blamed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(perf, "BASELINE", tmp_path / "baseline.json")
    perf.BASELINE.write_text(json.dumps({"a": 1.0}))
    noisy = iter([[2.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    monkeypatch.setattr(perf, "measure", lambda runs, options=(): {"a": next(noisy)})
    assert perf.check() == 0
    monkeypatch.setattr(perf, "measure", lambda runs, options=(): {"a": [2.0] * runs})
    assert perf.check() == 1
    assert "slower than the baseline by more than 15%: a" in capsys.readouterr().out


def test_every_case_has_a_baseline() -> None:
    baseline = json.loads(perf.BASELINE.read_text())
    assert len(baseline) == 18
    assert all(ratio > 0 for ratio in baseline.values())
    with pytest.raises(UserError, match="no baseline for 'new kernel'"):
        judge({"new kernel": [1.0]}, baseline)


def test_unknown_command_names_the_choices() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'check'"):
        perf.command("chek")


@pytest.mark.slow
def test_a_slower_kernel_fails_the_gate(capsys: pytest.CaptureFixture[str]) -> None:
    select = ["-k", "bacon and 10-10"]
    assert perf.check([*select, "-p", "slow_kernels"]) == 1
    assert "SLOWER" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "fp32"])
def test_steps_are_measured(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf, "STEPS", 1)
    monkeypatch.setattr(perf, "THREADS", 1)
    measured = perf._measure_step("dm", variant, "cpu")
    assert set(measured) == {"seconds", "warmup_seconds", "peak_bytes"}
    assert measured["seconds"] > 0
