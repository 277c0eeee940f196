"""What a job does with trials that another process keeps it from: it waits, and can be stopped meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from submitit.helpers import DelayedSubmission
from support import recorded
from trials import digits_trial, put_record

from harness.engine.claim import claimed
from harness.engine.records import Distillation, Record, Trial
from harness.engine.settings import RunSettings
from harness.launch import array_job
from harness.launch.array_job import ArrayJob
from harness.launch.base import Watcher
from harness.launch.inline import InlineRunner
from harness.launch.sweep import Submission, Work, open_sweep

TRIAL = digits_trial()


class Here(InlineRunner):
    """Runs trials in this process, with the claims that workers take; it keeps what it was asked to run."""

    def __init__(self, settings: RunSettings) -> None:
        super().__init__(settings)
        self.asked: list[list[str]] = []
        self.grace: float | None = None

    def run(self, trials: Sequence[Trial], watcher: Watcher) -> list[Trial]:
        self.asked.append([trial.id for trial in trials])
        return super().run(trials, watcher)

    def stop(self, grace_seconds: float) -> None:
        self.grace = grace_seconds


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    made = Here(RunSettings(tmp_path, tmp_path, {"digits": "digits"}))
    monkeypatch.setattr(array_job, "_runner", lambda work, logs: made)
    return made


def job_of(results: Path, *trials: Trial) -> ArrayJob:
    """The only job of a sweep of these trials."""
    work = Work(
        results=str(results),
        data_dir=str(results),
        datasets={"digits": "digits"},
        device="cpu",
        slots=1,
        threads=1,
        retries=0,
        code_digests={},
    )
    sweep = open_sweep(trials, results, "slurm")
    submission = Submission(
        number=1,
        name=sweep.job_name(1),
        submitted_at="2026-01-01T00:00:00+00:00",
        resources="1 CPU",
        packs=(tuple(trial.id for trial in trials),),
        work=work,
    )
    sweep.write(submission)
    return ArrayJob(str(sweep.folder), 1, 0)


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """What happens while a job waits, instead of time going by."""
    monkeypatch.setattr("harness.launch.driver.time.sleep", lambda _: happens())


@pytest.mark.parametrize("held", [TRIAL, TRIAL.distillation], ids=["the trial", "its set"])
def test_a_job_waits_for_what_another_has_and_then_runs_it(
    tmp_path: Path, runner: Here, monkeypatch: pytest.MonkeyPatch, held: Trial | Distillation
) -> None:
    other = claimed(held, tmp_path)
    other.__enter__()
    meanwhile(monkeypatch, lambda: other.__exit__(None, None, None))
    assert job_of(tmp_path, TRIAL)() == "1 done"
    assert recorded(TRIAL, tmp_path).status == "done"


def test_trials_that_waited_for_the_same_set_run_side_by_side(
    tmp_path: Path, runner: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = digits_trial(evals=2)
    assert second.distillation.id == TRIAL.distillation.id
    other = claimed(TRIAL.distillation, tmp_path)
    other.__enter__()
    meanwhile(monkeypatch, lambda: other.__exit__(None, None, None))
    assert job_of(tmp_path, TRIAL, second)() == "2 done"
    assert runner.asked == [[TRIAL.id, second.id]] * 2


def test_a_job_that_waits_stops_when_its_time_is_up(
    tmp_path: Path, runner: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, TRIAL)
    again: list[DelayedSubmission] = []
    meanwhile(monkeypatch, lambda: again.append(job.checkpoint()))
    with claimed(TRIAL.distillation, tmp_path):
        assert job() == "1 left"
    assert runner.grace == array_job.STOP_SECONDS
    assert len(again) == 1, "it looked no second time"
    assert again[0].function == ArrayJob(job.folder, job.number, job.index)


def test_what_ends_a_job_ends_its_waiting(
    tmp_path: Path, runner: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def requeue() -> None:
        raise SystemExit  # submitit's signal handler, once the job is queued again

    meanwhile(monkeypatch, requeue)
    with claimed(TRIAL.distillation, tmp_path), pytest.raises(SystemExit):
        job_of(tmp_path, TRIAL)()


def test_the_record_that_another_wrote_is_taken(
    tmp_path: Path, runner: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = claimed(TRIAL, tmp_path)
    other.__enter__()

    def finishes() -> None:
        put_record(Record(id=TRIAL.id, status="done", trial=TRIAL, accuracies=[0.5]), tmp_path)
        other.__exit__(None, None, None)

    meanwhile(monkeypatch, finishes)
    assert job_of(tmp_path, TRIAL)() == "1 done"
    assert runner.asked == [[TRIAL.id]]
