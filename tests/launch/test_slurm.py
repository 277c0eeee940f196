"""What a driver makes of the queue, with a stand-in for Slurm; the real one is in tests/e2e/test_slurm.py."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
from support import recorded
from trials import digits_trial, put_record

from harness.engine.claim import claimed
from harness.engine.options import parse_options
from harness.engine.records import Record, Trial
from harness.engine.settings import RunSettings
from harness.launch import queue, slurm
from harness.launch.deaths import deaths
from harness.launch.queue import QueuedJob, SlurmUnreachableError
from harness.launch.slurm import SlurmRunner
from harness.launch.sweep import open_sweep

here = slurm.Code.here
TRIALS = [digits_trial(seed=seed) for seed in range(3)]


Look: TypeAlias = "Callable[[FakeSlurm], Mapping[tuple[str, int], QueuedJob]]"


@dataclass
class FakeSlurm:
    """Takes arrays, and makes of the queue at each look what a test says."""

    looks: list[Look] = field(default_factory=list)
    arrays: list[int] = field(default_factory=list)

    def all_in(self, state: str, reason: str = "") -> Mapping[tuple[str, int], QueuedJob]:
        """Every job so far in one state."""
        jobs = [
            QueuedJob(str(number), index, state, reason, "n1")
            for number, size in enumerate(self.arrays, start=1)
            for index in range(size)
        ]
        return {job.key: job for job in jobs}

    def queue(self) -> Mapping[tuple[str, int], QueuedJob]:
        """The next look, or the last one again."""
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return look(self)

    def executor(self, *_: Any) -> Any:
        """In place of submitit's."""
        submitted: list[object] = []

        class Batch:
            def __enter__(self) -> None: ...

            def __exit__(batch, *_: object) -> None:
                self.arrays.append(len(submitted))

        def submit(crew: object) -> Any:
            submitted.append(crew)
            return SimpleNamespace(job_id=f"{len(self.arrays) + 1}_{len(submitted) - 1}")

        return SimpleNamespace(batch=Batch, submit=submit)


@dataclass
class Notes:
    """A watcher that remembers."""

    said: list[str] = field(default_factory=list)
    over: list[Record] = field(default_factory=list)

    def started(self, trial: Trial) -> None: ...

    def progressed(self, trial: Trial, snapshot: object) -> None: ...

    def put_off(self, trial: Trial) -> None: ...

    def ended(self, trial: Trial, record: Record) -> None:
        self.over.append(record)

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    made = FakeSlurm()
    monkeypatch.setattr(queue, "queue", made.queue)
    monkeypatch.setattr(queue, "array_limit", lambda: 1000)
    monkeypatch.setattr(queue, "final_state", lambda job_id, index: None)
    monkeypatch.setattr(slurm, "make_executor", made.executor)
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(slurm, "LOST_SECONDS", 0.0)
    # Between two looks it sleeps in proportion to what they take; most of that is reading its own code.
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(slurm.Code, "here", staticmethod(own_code))
    return made


@functools.cache
def own_code() -> slurm.Code:
    """The code of this checkout, read once for all tests."""
    return here()


def launcher(folder: Path, trials: Sequence[Trial] = TRIALS, **typed: Any) -> SlurmRunner:
    asked = parse_options({"methods": "random", "launcher": "slurm", **typed})
    options = RunSettings(folder, folder, {"digits": "digits"}, retries=asked.retries)
    return SlurmRunner(options, asked, open_sweep(trials, folder, "slurm"))


def finish(folder: Path, *trials: Trial) -> None:
    """Write the records that the jobs of these trials would."""
    for trial in trials:
        put_record(Record(id=trial.id, status="done", trial=trial, accuracies=[0.5]), folder)


def looks_at(state: str, folder: Path) -> list[Look]:
    """Nine looks at jobs in a state, and one after which the record of the first trial is there."""

    def end(slurm: FakeSlurm) -> Mapping[tuple[str, int], QueuedJob]:
        finish(folder, TRIALS[0])
        return slurm.all_in(state)

    return [*[lambda slurm: slurm.all_in(state)] * 9, end]


@pytest.mark.slow
def test_a_sweep_ends_when_each_trial_has_its_record(tmp_path: Path, fake: FakeSlurm) -> None:
    def work(slurm: FakeSlurm) -> Mapping[tuple[str, int], QueuedJob]:
        finish(tmp_path, *TRIALS)
        return slurm.all_in("RUNNING")

    fake.looks = [lambda slurm: {}, work]
    notes = Notes()
    assert launcher(tmp_path, trials_per_job="2").run(TRIALS, notes) == []
    assert fake.arrays == [2]
    assert {record.id for record in notes.over} == {trial.id for trial in TRIALS}
    assert notes.said == ["submitted 3 trials as 2 jobs 1 (4 CPUs, 240 min each)"]


def test_detached_it_returns_once_the_jobs_are_submitted(tmp_path: Path, fake: FakeSlurm) -> None:
    fake.looks = [lambda slurm: {}]
    assert launcher(tmp_path, detach=True).run(TRIALS, Notes()) == []
    assert fake.arrays == [3]


def test_trials_of_jobs_that_wait_or_run_are_not_submitted_twice_nor_by_another_sweep(
    tmp_path: Path, fake: FakeSlurm
) -> None:
    fake.looks = [lambda slurm: slurm.all_in("PENDING")]
    launcher(tmp_path, detach=True).run(TRIALS, Notes())
    launcher(tmp_path, detach=True).run(TRIALS, Notes())
    wider = [*TRIALS, digits_trial(seed=3)]
    launcher(tmp_path, wider, detach=True).run(wider, Notes())
    assert fake.arrays == [3, 1]


def test_a_silent_controller_is_waited_for(tmp_path: Path, fake: FakeSlurm) -> None:
    def silent(slurm: FakeSlurm) -> Mapping[tuple[str, int], QueuedJob]:
        raise SlurmUnreachableError("Slurm does not answer")

    def back(slurm: FakeSlurm) -> Mapping[tuple[str, int], QueuedJob]:
        finish(tmp_path, *TRIALS)
        return slurm.all_in("RUNNING")

    fake.looks = [lambda slurm: {}, silent, silent, back]
    notes = Notes()
    launcher(tmp_path).run(TRIALS, notes)
    assert len(notes.over) == 3
    assert fake.arrays == [3], "nothing was taken for lost"


@pytest.mark.parametrize(
    ("state", "status", "words"),
    [
        ("OUT_OF_MEMORY", "oom", "out of memory: Slurm ended the job"),
        ("TIMEOUT", "timeout", "the job reached its time limit"),
        ("NODE_FAIL", "failed", "a node failed"),
        ("FAILED", "failed", "the job failed"),
    ],
)
def test_a_trial_whose_jobs_keep_dying_is_given_up_with_slurms_reason(
    tmp_path: Path, fake: FakeSlurm, state: str, status: str, words: str
) -> None:
    fake.looks = [lambda slurm: slurm.all_in(state)]
    notes = Notes()
    launcher(tmp_path, TRIALS[:1], retries="1").run(TRIALS[:1], notes)
    assert fake.arrays == [1, 1]
    record = recorded(TRIALS[0], tmp_path)
    assert (record.status, record.resumable) == (status, False)
    assert record.reason == f"{words} (job 2_0: {state}); 2 attempts"
    assert f"{words} (job 1_0: {state}); submitted again (1 of 1)" in notes.said[1]


def test_a_job_that_met_a_full_disk_is_left_to_the_same_command(tmp_path: Path, fake: FakeSlurm) -> None:
    one = launcher(tmp_path, TRIALS[:1])
    one.sweep.jobs.mkdir(parents=True, exist_ok=True)
    output = one.sweep.jobs / "1_0_log.out"
    output.write_text(
        "Traceback (most recent call last):\nOSError: [Errno 28] No space left on device: 'x'\n"
    )
    fake.looks = [lambda slurm: slurm.all_in("FAILED")]
    one.run(TRIALS[:1], Notes())
    record = recorded(TRIALS[0], tmp_path)
    assert (record.status, record.resumable) == ("failed", True)
    assert "No space left on device" in (record.reason or "")
    assert fake.arrays == [1]


def test_making_room_is_no_failure_however_often_it_happens(tmp_path: Path, fake: FakeSlurm) -> None:
    fake.looks = looks_at("PREEMPTED", tmp_path)
    launcher(tmp_path, TRIALS[:1], retries="0").run(TRIALS[:1], Notes())
    assert len(fake.arrays) > 2
    assert recorded(TRIALS[0], tmp_path).status == "done"


def test_a_cancelled_trial_is_left_to_the_same_command(tmp_path: Path, fake: FakeSlurm) -> None:
    fake.looks = [lambda slurm: {}, lambda slurm: slurm.all_in("CANCELLED")]
    notes = Notes()
    launcher(tmp_path, TRIALS[:1]).run(TRIALS[:1], notes)
    assert (notes.over[0].status, notes.over[0].resumable) == ("failed", True)
    assert fake.arrays == [1]


@pytest.mark.parametrize("state", ["COMPLETED", "TIMEOUT", "NODE_FAIL"])
def test_a_trial_whose_set_another_process_makes_has_not_died(
    tmp_path: Path, fake: FakeSlurm, state: str
) -> None:
    fake.looks = looks_at(state, tmp_path)
    with claimed(TRIALS[0].distillation, tmp_path):
        launcher(tmp_path, TRIALS[:1], retries="0").run(TRIALS[:1], Notes())
    assert len(fake.arrays) > 2
    assert recorded(TRIALS[0], tmp_path).status == "done"
    assert deaths(TRIALS[0].work_folder(tmp_path)) == ()


def test_a_trial_that_is_cancelled_while_its_set_is_made_is_not_submitted_again(
    tmp_path: Path, fake: FakeSlurm
) -> None:
    fake.looks = [lambda slurm: {}, *looks_at("CANCELLED", tmp_path)]
    notes = Notes()
    with claimed(TRIALS[0].distillation, tmp_path):
        launcher(tmp_path, TRIALS[:1]).run(TRIALS[:1], notes)
    assert (notes.over[0].status, notes.over[0].resumable) == ("failed", True)
    assert fake.arrays == [1]


@pytest.mark.parametrize(("state", "status"), [("FAILED", "failed"), ("OUT_OF_MEMORY", "oom")])
def test_jobs_that_fail_by_themselves_are_given_up_whoever_makes_the_set(
    state: str, status: str, tmp_path: Path, fake: FakeSlurm
) -> None:
    fake.looks = looks_at(state, tmp_path)
    with claimed(TRIALS[0].distillation, tmp_path):
        launcher(tmp_path, TRIALS[:1], retries="1").run(TRIALS[:1], Notes())
    assert fake.arrays == [1, 1]
    assert recorded(TRIALS[0], tmp_path).status == status


def test_in_a_pack_only_the_trial_that_was_under_way_is_held_to_have_died(
    tmp_path: Path, fake: FakeSlurm
) -> None:
    def die(slurm: FakeSlurm) -> Mapping[tuple[str, int], QueuedJob]:
        TRIALS[1].work_folder(tmp_path).mkdir(parents=True, exist_ok=True)
        if len(slurm.arrays) > 1:
            finish(tmp_path, TRIALS[2])
        return slurm.all_in("OUT_OF_MEMORY")

    finish(tmp_path, TRIALS[0])
    fake.looks = [lambda slurm: {}, die]
    launcher(tmp_path, trials_per_job="3", retries="1").run(TRIALS[1:], Notes())
    assert recorded(TRIALS[1], tmp_path).status == "oom"
    assert recorded(TRIALS[2], tmp_path).status == "done"
