"""The course of a launch in this process: what is kept, what is run, what is said."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import recorded
from trials import digits_trial, dm_trial

from harness.core.errors import UserError
from harness.engine.claim import claimed
from harness.engine.options import Options
from harness.engine.record_files import write_record
from harness.engine.records import Record, Trial
from harness.engine.settings import RunSettings
from harness.engine.worker import STOPPED, Job
from harness.launch import base as launch_base
from harness.launch.base import Summary, failed_record, layout
from harness.launch.deaths import Death, deaths, note_death
from harness.launch.display import SilentDisplay
from harness.launch.driver import _discard, launch
from harness.launch.launchers import Inline
from harness.launch.local import LocalRunner, cause_of_death, outcome
from methods import random

LAUNCHER = Inline(Options())
DIVERGES = {"lr_img": 1e38}


@pytest.fixture
def options(tmp_path: Path) -> RunSettings:
    return RunSettings(
        results=tmp_path / "results",
        data_dir=tmp_path / "data",
        datasets={"digits": "digits"},
    )


@pytest.fixture
def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects a 1 for each call of the random method."""
    calls: list[int] = []
    real = random.distill

    def distill(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        return real(*arguments, **keywords)

    monkeypatch.setattr(random, "distill", distill)
    return calls


def failed(trial: Trial, *, resumable: bool) -> Record:
    return msgspec.structs.replace(failed_record(trial, "some reason"), resumable=resumable)


def statuses(summary: Summary) -> list[str]:
    return [record.status for record in summary.records]


def test_all_done(options: RunSettings, capsys: pytest.CaptureFixture[str]) -> None:
    summary = launch([digits_trial(seed=0), digits_trial(seed=1)], options, LAUNCHER)
    assert (statuses(summary), summary.exit_status) == (["done", "done"], 0)
    out, err = capsys.readouterr()
    assert out == ""
    assert "[1/2] done random · digits · ipc 1 · seed 0: " in err
    assert "% (n=1) in " in err


@pytest.mark.slow
def test_done_trials_are_kept(options: RunSettings, count_runs: list[int]) -> None:
    launch([digits_trial()], options, LAUNCHER)
    summary = launch([digits_trial(), digits_trial(seed=1)], options, LAUNCHER)
    assert len(count_runs) == 2
    assert [record.trial.seed for record in summary.records] == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("resumable", "retry_failed", "status"),
    [(True, False, "done"), (False, False, "failed"), (False, True, "done"), (True, True, "done")],
)
def test_which_failures_are_run_again(
    options: RunSettings, resumable: bool, retry_failed: bool, status: str
) -> None:
    trial = digits_trial()
    write_record(failed(trial, resumable=resumable), options.results)
    summary = launch([trial], dataclasses.replace(options, retry_failed=retry_failed), LAUNCHER)
    assert statuses(summary) == [status]
    assert summary.exit_status == (0 if status == "done" else 1)
    assert recorded(trial, options.results).status == status


@pytest.mark.slow
def test_one_failure_costs_one_trial_and_is_explained(
    options: RunSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = launch([dm_trial(5, config=DIVERGES), digits_trial()], options, LAUNCHER)
    assert (statuses(summary), summary.exit_status) == (["failed", "done"], 1)
    err = capsys.readouterr().err
    assert "1 of 2 trials failed:" in err
    assert "dm · digits · ipc 1 · seed 0: failed: " in err
    assert "log.txt" in err
    assert "add --retry failed to the command" in err
    assert "Traceback" not in err


def test_closing_lines_show_the_end_of_the_log_of_a_failure(
    options: RunSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = dm_trial(5, config=DIVERGES)
    options = dataclasses.replace(options, logs=options.results / "logs", retry_failed=True)
    log = options.log_of(trial)
    log.parent.mkdir(parents=True)
    log.write_text("of another attempt\n" * 9)
    launch([trial], options, LAUNCHER)
    lines = capsys.readouterr().err.splitlines()
    headline = next(k for k, line in enumerate(lines) if line.startswith("  dm · digits · ipc 1 · seed 0: "))
    assert lines[headline].endswith(f"(log: {log})")
    shown = [line for line in lines[headline + 1 :] if line.startswith("      ")]
    assert len(shown) == 5
    assert shown[-1].strip().startswith("harness.core.errors.DivergedError: ")
    assert [line.strip() for line in shown] == [line.strip() for line in log.read_text().splitlines()[-5:]]
    assert not (trial.work_folder(options.results) / "log.txt").exists()


def test_earlier_failure_is_listed_as_such(options: RunSettings, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(failed(digits_trial(), resumable=False), options.results)
    assert launch([digits_trial()], options, LAUNCHER).exit_status == 1
    assert "failed, in an earlier run: some reason" in capsys.readouterr().err


def test_quiet_says_nothing(options: RunSettings, capsys: pytest.CaptureFixture[str]) -> None:
    launch([dm_trial(5, config=DIVERGES), digits_trial()], dataclasses.replace(options, quiet=True), LAUNCHER)
    assert capsys.readouterr() == ("", "")


def test_corrupt_record_stops_the_launch_before_anything_runs(
    options: RunSettings, count_runs: list[int]
) -> None:
    path = digits_trial(seed=1).record_path(options.results)
    path.parent.mkdir(parents=True)
    path.write_text('{"schema": 1')
    with pytest.raises(UserError, match="move it away or delete it") as caught:
        launch([digits_trial(), digits_trial(seed=1)], options, LAUNCHER)
    assert str(path) in str(caught.value)
    assert path.read_text() == '{"schema": 1'
    assert count_runs == []


def test_results_folder_that_cannot_be_written(options: RunSettings) -> None:
    options.results.write_text("a file, so that not even root can write below it")
    with pytest.raises(UserError, match=r"cannot write to the results folder .*--results"):
        launch([digits_trial()], options, LAUNCHER)


def test_ctrl_c_ends_with_130_and_how_to_go_on(
    options: RunSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    launch([digits_trial()], options, LAUNCHER)
    monkeypatch.setattr(random, "distill", interrupt)
    summary = launch([digits_trial(), digits_trial(seed=1)], options, LAUNCHER)
    assert summary.interrupted
    assert (statuses(summary), summary.exit_status) == (["done"], 130)
    assert "stopped: 1 of 2 trials done; the same command goes on from there" in capsys.readouterr().err


def test_waits_for_a_trial_that_another_process_has(
    options: RunSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = digits_trial()
    other = claimed(trial, options.results)
    other.__enter__()

    def other_finishes(_: float) -> None:
        write_record(failed(trial, resumable=False), options.results)
        other.__exit__(None, None, None)

    monkeypatch.setattr("harness.launch.driver.time.sleep", other_finishes)
    summary = launch([trial], options, LAUNCHER)
    assert statuses(summary) == ["failed"]
    err = capsys.readouterr().err
    assert "waiting for 1 trial that another process is running" in err
    assert "by another run" in err


def test_takes_over_from_a_process_that_died(options: RunSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    other = claimed(digits_trial(), options.results)
    other.__enter__()
    monkeypatch.setattr("harness.launch.driver.time.sleep", lambda _: other.__exit__(None, None, None))
    assert statuses(launch([digits_trial()], options, LAUNCHER)) == ["done"]


@pytest.mark.parametrize(
    ("returncode", "log", "reason"),
    [
        (-signal.SIGKILL, "", "killed by SIGKILL, perhaps by the kernel for want of memory"),
        (-signal.SIGSEGV, "", "killed by SIGSEGV"),
        (3, "first\nlast words\n\n", "the worker ended with exit status 3: last words"),
        (3, "", "the worker ended with exit status 3: its log is empty"),
        (STOPPED, "", "stopped by SIGTERM"),
    ],
)
def test_cause_of_death(tmp_path: Path, returncode: int, log: str, reason: str) -> None:
    (tmp_path / "log.txt").write_text(log)
    assert cause_of_death(returncode, tmp_path / "log.txt") == reason


def test_outcome_of_a_death_is_another_try_until_there_are_no_more(options: RunSettings) -> None:
    trial, death = digits_trial(), Death("killed by SIGSEGV", "2025-01-01T00:00:00+00:00")
    assert [outcome(trial, options, death) for _ in range(2)] == [1, 2]
    assert not trial.record_path(options.results).exists()
    record = outcome(trial, options, death)
    assert isinstance(record, Record)
    assert (record.status, record.resumable) == ("failed", False)
    assert record.reason == "killed by SIGSEGV; 3 attempts"
    assert recorded(trial, options.results) == record


def test_outcome_is_left_to_the_process_that_has_the_trial(options: RunSettings) -> None:
    death = Death("killed by SIGKILL", "2025-01-01T00:00:00+00:00")
    with claimed(digits_trial(), options.results):
        assert outcome(digits_trial(), options, death) is None
    assert deaths(digits_trial().work_folder(options.results)) == ()


def test_retry_of_a_failure_counts_deaths_anew(options: RunSettings) -> None:
    trial, work = digits_trial(), digits_trial().work_folder(options.results)
    write_record(failed(trial, resumable=False), options.results)
    note_death(work, Death("killed by SIGKILL", "2025-01-01T00:00:00+00:00"))
    launch([trial], options, LAUNCHER)
    assert len(deaths(work)) == 1
    _discard([trial], options.results)
    assert deaths(work) == ()
    assert not trial.record_path(options.results).exists()


def test_job_survives_the_way_to_the_worker(options: RunSettings) -> None:
    trial = dm_trial(5)
    for logs in (None, options.results / "logs"):
        given = dataclasses.replace(options, logs=logs, code_digests={trial.id: "0123456789ab"})
        job = Job(trial, given.for_one(trial, 2), 4711, attempt=3)
        assert Job.decode(job.encode()) == job


@pytest.mark.parametrize(
    ("trials", "changes", "slots", "threads"),
    [
        (20, {}, 8, 1),
        (3, {}, 3, 2),
        (1, {}, 1, 8),
        (20, {"slots": 2}, 2, 4),
        (20, {"threads": 4}, 2, 4),
        (20, {"slots": 3, "threads": 1}, 3, 1),
        (20, {"device": "cuda"}, 2, 4),
        (20, {"device": "cuda:1"}, 1, 8),
        (20, {"device": "cuda", "slots_per_gpu": 3}, 6, 1),
        (4, {"device": "cuda", "slots_per_gpu": 3}, 4, 2),
        (20, {"device": "cuda", "slots_per_gpu": 3, "slots": 2}, 2, 4),
        (20, {"device": "cuda:1", "slots_per_gpu": 2}, 2, 4),
        (20, {"slots_per_gpu": 3}, 8, 1),
    ],
)
def test_layout_shares_out_the_machine(
    options: RunSettings,
    monkeypatch: pytest.MonkeyPatch,
    trials: int,
    changes: dict[str, Any],
    slots: int,
    threads: int,
) -> None:
    monkeypatch.setattr(launch_base, "_cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    got = layout(dataclasses.replace(options, **changes), trials)
    assert (got.slots, got.threads) == (slots, threads)
    assert got.gpus == (("2", "3") if changes.get("device") == "cuda" else ())


@pytest.mark.slow
def test_worker_leaves_a_trial_that_another_run_finished_meanwhile(options: RunSettings) -> None:
    record = failed(digits_trial(), resumable=False)
    write_record(record, options.results)
    launcher = LocalRunner(options, launch_base.Layout(1, 1))
    assert launcher.run([digits_trial()], SilentDisplay()) == [digits_trial()]
    assert recorded(digits_trial(), options.results) == record


@pytest.mark.parametrize("named", ["", "-1", "NoDevFiles", " , "])
def test_no_gpu_is_a_users_error(options: RunSettings, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    with pytest.raises(UserError, match="--device cpu"):
        layout(dataclasses.replace(options, device="cuda"), 1)


def test_launch_may_be_called_from_a_thread(options: RunSettings) -> None:
    from concurrent.futures import ThreadPoolExecutor

    call: Callable[..., Summary] = launch
    with ThreadPoolExecutor() as pool:
        assert pool.submit(call, [digits_trial()], options, LAUNCHER).result().exit_status == 0
