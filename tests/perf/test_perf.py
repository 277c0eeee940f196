"""The speed gate: what it passes, what it fails, and that a kernel made slower does fail it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from loops import all_loops

from harness import meter, perf
from harness.errors import UnknownNameError, UserError
from harness.perf import Verdict, check_table, judge
from methods import resolve


def test_gate_judges_the_median_of_several_runs() -> None:
    verdicts = judge({"a": [1.0, 9.0, 1.1], "b": [1.2, 1.2, 0.1]}, {"a": 1.0, "b": 1.0})
    assert verdicts == [Verdict("a", 1.1, 1.0), Verdict("b", 1.2, 1.0)]
    assert [verdict.worse for verdict in verdicts] == [False, True]


def test_table_names_what_got_slower() -> None:
    slower, same = Verdict("10-1-bacon", 0.30, 0.20), Verdict("10-1-dm", 0.5, 0.5)
    text = check_table([slower, same])
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    assert rows["10-1-bacon"].split()[-2:] == ["+50%", "SLOWER"]
    assert rows["10-1-dm"].split()[-2:] == ["+0%", "ok"]


def test_suspects_are_measured_again_before_they_are_blamed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(perf, "BASELINE", tmp_path / "baseline.json")
    perf.BASELINE.write_text(json.dumps({"a CPU": {"a": 1.0}}))
    asked: list[tuple[int, list[str]]] = []

    def noisy(runs: int, options: list[str] = ()) -> dict[str, list[float]]:
        asked.append((runs, list(options)))
        return {"a": [2.0] * runs} if len(asked) == 1 else {"a": [1.0] * runs}

    monkeypatch.setattr(perf, "measure", noisy)
    assert perf.check() == 0
    assert asked == [(perf.RUNS, []), (perf.SUSPECT_RUNS, ["-k", "a"])]
    monkeypatch.setattr(perf, "measure", lambda runs, options=(): {"a": [2.0] * runs})
    assert perf.check() == 1
    assert "slower than the baseline by more than 15%: a" in capsys.readouterr().out


def test_each_processor_has_its_own_baseline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(perf, "BASELINE", tmp_path / "baseline.json")
    monkeypatch.setattr(perf, "measure", lambda runs: {"a": [0.5] * runs})
    monkeypatch.setattr(meter, "cpu_kind", lambda: "this CPU")
    perf.BASELINE.write_text(json.dumps({"one": {"a": 1.0, "b": 2.0}, "another": {"a": 3.0}}))
    assert perf.baseline_of("one") == {"a": 1.0, "b": 2.0}
    assert perf.baseline_of("this CPU") == {"a": 3.0 * perf.MARGIN, "b": 2.0 * perf.MARGIN}
    assert "no baseline of this CPU" in capsys.readouterr().out
    assert perf.command("baseline") == 0
    assert perf.baseline_of("this CPU") == {"a": 0.5}
    assert perf.baseline_of("one") == {"a": 1.0, "b": 2.0}


def test_every_case_has_a_baseline() -> None:
    for baseline in json.loads(perf.BASELINE.read_text()).values():
        assert len(baseline) == 18
        assert all(ratio > 0 for ratio in baseline.values())
    with pytest.raises(UserError, match="no baseline for 'new kernel'"):
        judge({"new kernel": [1.0]}, baseline)


@pytest.mark.parametrize("method", sorted(all_loops()))
def test_plain_loops_are_of_methods_and_their_settings(method: str) -> None:
    settings = {name: str(value) for name, value in all_loops()[method].settings.items()}
    config = asdict(resolve(method, "cifar10", 10, overrides=settings).config)
    assert {name: config[name] for name in settings} == dict(all_loops()[method].settings)


def test_methods_without_a_plain_loop_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown plain loop 'baco'; did you mean 'bacon'"):
        perf.command("step", methods=("baco",))
    with pytest.raises(UnknownNameError, match="unknown precision 'fp16'"):
        perf.command("step", methods=("bacon",), precisions=("fp16",))


def test_unknown_command_names_the_choices() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'check'"):
        perf.command("chek")


@pytest.mark.slow
def test_a_slower_kernel_fails_the_gate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # which turns benchmarks off
    measure = perf.measure
    only = ["-p", "slow_kernels", "-k", "10-10-bacon"]
    monkeypatch.setattr(perf, "measure", lambda runs, options=(): measure(1, only))
    assert perf.check() == 1
    assert "SLOWER" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "fp32"])
def test_steps_are_measured(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf.steps, "REPEATS", 1)
    monkeypatch.setattr(perf.steps, "THREADS", 1)
    measured = perf._measure_step("datadam", variant, "cpu")
    assert set(measured) == {"seconds", "warmup_seconds", "peak_bytes"}
    assert measured["seconds"] > 0
