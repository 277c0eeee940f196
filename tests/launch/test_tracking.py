"""Sweeps from another shell: where each trial stands, which log is whose, with a stand-in for the queue."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from trials import digits_trial

from harness.commands import logs
from harness.core.errors import UserError
from harness.engine.claim import claimed
from harness.engine.records import Trial
from harness.engine.settings import log_name
from harness.engine.worker import PROGRESS_NAME, Snapshot
from harness.launch import queue
from harness.launch.queue import QueuedJob, SlurmUnreachableError
from harness.launch.sweep import Submission, Sweep, Work, open_sweep, sweep_id
from harness.launch.tracking import active_jobs, cancel, logs_of, standings, sweep_named

TRIALS = [digits_trial(seed=seed) for seed in range(4)]


def submitted(sweep: Sweep, packs: list[list[Trial]], **changes: object) -> Submission:
    work = Work(
        results="r",
        data_dir="d",
        datasets={},
        device="cpu",
        slots=1,
        threads=1,
        retries=2,
        code_digests={},
    )
    submission = Submission(
        number=1,
        name=sweep.job_name(1),
        submitted_at="2026-01-01T00:00:00+00:00",
        resources="1 CPU",
        packs=tuple(tuple(trial.id for trial in pack) for pack in packs),
        work=work,
        job_id="7",
    )
    submission = msgspec.structs.replace(submission, **changes)
    sweep.write(submission)
    return submission


def in_queue(monkeypatch: pytest.MonkeyPatch, *jobs: QueuedJob) -> None:
    monkeypatch.setattr(queue, "queue", lambda: {job.key: job for job in jobs})


def progress(trial: Trial, results: Path) -> None:
    folder = trial.work_folder(results)
    folder.mkdir(parents=True)
    snapshot = Snapshot("distill", 3, 10, None, None, trial.label)
    (folder / PROGRESS_NAME).write_bytes(msgspec.json.encode(snapshot))


def test_the_same_trials_are_the_same_sweep_in_any_order_but_not_in_another_folder(tmp_path: Path) -> None:
    assert sweep_id(TRIALS, tmp_path) == sweep_id(TRIALS[::-1], tmp_path)
    assert sweep_id(TRIALS, tmp_path) != sweep_id(TRIALS[1:], tmp_path)
    assert sweep_id(TRIALS, tmp_path) != sweep_id(TRIALS, tmp_path / "other")
    first = open_sweep(TRIALS, tmp_path, "slurm").manifest
    assert open_sweep(TRIALS, tmp_path, "local").manifest == first, "a sweep begun is gone on with"


def test_each_trial_stands_where_records_and_the_queue_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = open_sweep(TRIALS, tmp_path, "slurm")
    submitted(sweep, [[trial] for trial in TRIALS])
    progress(TRIALS[1], tmp_path)
    in_queue(monkeypatch, QueuedJob("7", 1, "RUNNING", node="n1"), QueuedJob("7", 2, "PENDING", "Priority"))
    (standing,) = standings(tmp_path, {TRIALS[0].id: "done"})
    assert [trial.state for trial in standing.trials] == ["done", "running", "pending", "lost"]
    assert standing.trials[1].detail.startswith("distill 3 of 10, ")
    assert standing.trials[2].detail == "Priority"
    assert standing.open
    assert standing.jobs == ("7",)


def test_a_silent_slurm_is_no_reason_to_call_a_trial_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(open_sweep(TRIALS, tmp_path, "slurm"), [TRIALS])

    def silent() -> None:
        raise SlurmUnreachableError("Slurm does not answer")

    monkeypatch.setattr(queue, "queue", silent)
    (standing,) = standings(tmp_path, {})
    assert standing.counts == {"unknown": 4}


def test_jobs_that_were_cancelled_are_told_from_lost_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = open_sweep(TRIALS, tmp_path, "slurm")
    submitted(sweep, [TRIALS[:2], TRIALS[2:]])
    in_queue(monkeypatch, QueuedJob("7", 0, "CANCELLED"), QueuedJob("7", 1, "OUT_OF_MEMORY"))
    (standing,) = standings(tmp_path, {})
    assert [trial.state for trial in standing.trials] == ["cancelled", "cancelled", "lost", "lost"]
    assert standing.trials[3].detail == "its job ended: OUT_OF_MEMORY"


def test_cancel_ends_the_jobs_of_one_sweep_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = open_sweep(TRIALS, tmp_path, "slurm"), open_sweep(TRIALS[:1], tmp_path, "slurm")
    submitted(mine, [TRIALS])
    submitted(other, [TRIALS[:1]], job_id="8")
    in_queue(
        monkeypatch, QueuedJob("7", 0, "RUNNING"), QueuedJob("8", 0, "RUNNING"), QueuedJob("9", 0, "RUNNING")
    )
    ended: list[set[str]] = []
    monkeypatch.setattr(queue, "cancel", lambda ids: ended.append(set(ids)))
    with pytest.raises(UserError, match="which sweep"):
        sweep_named(tmp_path, None)
    assert cancel(sweep_named(tmp_path, mine.id[:5])) == 1
    assert ended == [{"7"}]
    assert mine.submissions()[0].cancelled_at is not None
    assert other.submissions()[0].cancelled_at is None


def test_a_job_whose_id_was_not_written_down_is_known_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = open_sweep(TRIALS, tmp_path, "slurm")
    submitted(sweep, [TRIALS], job_id=None)
    in_queue(monkeypatch, QueuedJob("7", 0, "PENDING", name=sweep.job_name(1)))
    assert [job.job_id for job in active_jobs(sweep, queue.queue())] == ["7"]
    (standing,) = standings(tmp_path, {})
    assert standing.counts == {"pending": 4}


def test_trials_of_the_local_launcher_run_while_their_lock_is_held(tmp_path: Path) -> None:
    open_sweep(TRIALS, tmp_path, "local")
    progress(TRIALS[0], tmp_path)
    progress(TRIALS[1], tmp_path)
    with claimed(TRIALS[0], tmp_path):
        (standing,) = standings(tmp_path, {})
    assert [trial.state for trial in standing.trials] == ["running", "stopped", "waiting", "waiting"]


def test_a_log_is_found_by_id_or_by_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = open_sweep(TRIALS, tmp_path, "local")
    for trial in TRIALS[:2]:
        (sweep.logs / log_name(trial)).write_text(f"first line\nof seed {trial.seed}\n")
    assert [trial for trial, _ in logs_of(tmp_path, "random digits")] == TRIALS[:2]
    assert logs.command(tmp_path, TRIALS[1].id[:6], path_only=False, tail=1) == 0
    assert capsys.readouterr().out == "of seed 1\n"
    with pytest.raises(UserError, match="2 trials fit 'digits', type the id of one"):
        logs.command(tmp_path, "digits", path_only=False, tail=None)
    with pytest.raises(UserError, match="no log of a trial 'bacon'"):
        logs.command(tmp_path, "bacon", path_only=False, tail=None)


@pytest.mark.parametrize("tail", [0, -3])
def test_a_tail_without_lines_is_refused(tail: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"--tail {tail} is impossible; expected a whole number from 1 up"):
        logs.command(tmp_path, "random", path_only=False, tail=tail)
