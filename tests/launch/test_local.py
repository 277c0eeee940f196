"""The local launcher and its workers as processes: deaths, retries, slots, and being told to stop.

Most workers are stand-ins (`fake_worker.py`) that die as told and start quickly.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from launch.fake_worker import starts
from support import recorded
from trials import digits_trial

from harness.engine import devices
from harness.engine.options import Options
from harness.engine.provenance import ROOT
from harness.engine.records import Record, Trial
from harness.engine.settings import RunSettings, log_name
from harness.engine.surroundings import KEEPING_MEMORY, NO_SPINNING
from harness.engine.worker import Snapshot
from harness.launch import local, processes
from harness.launch.base import Layout, Summary, layout
from harness.launch.deaths import KILLED_BY_KERNEL, deaths
from harness.launch.display import SilentDisplay
from harness.launch.driver import launch
from harness.launch.launchers import Local
from harness.launch.local import LocalRunner

LAUNCHER = Local(Options())
FAKE_WORKER, FAKE_SERVER = (Path(__file__).with_name(f"fake_{what}.py") for what in ("worker", "server"))
BY_SIGKILL = "killed by SIGKILL, perhaps by the kernel for want of memory"


@pytest.fixture
def options(tmp_path: Path) -> RunSettings:
    (tmp_path / "results").mkdir()
    return RunSettings(
        results=tmp_path / "results", data_dir=tmp_path / "data", datasets={"digits": "digits"}, slots=1
    )


@pytest.fixture(autouse=True, params=["forked", "by itself"])
def _fake_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Whether workers are forked or each starts by itself, nobody can tell."""
    if request.param == "forked" and sys.platform != "linux":
        pytest.skip("needs Linux")
    if request.param == "by itself":
        monkeypatch.setattr(local, "starter_of", lambda *_: processes.EachByItself())
    # The stand-ins find no code of ours by themselves.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "tests"))))
    monkeypatch.setenv("FAKE_SERVERS", str(tmp_path / "servers"))
    monkeypatch.setattr(processes, "worker_command", lambda: [sys.executable, str(FAKE_WORKER)])
    monkeypatch.setattr(processes, "server_command", lambda: [sys.executable, str(FAKE_SERVER)])
    monkeypatch.setattr(local, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(local, "oom_kills", lambda: None)


def acting(*acts: str, **changes: Any) -> Trial:
    """A trial whose worker does these things, one at each start."""
    return digits_trial(config={"acts": list(acts)}, **changes)


class Diary(SilentDisplay):
    """Keeps what a watcher is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.records: list[Record] = []

    def started(self, trial: Trial) -> None:
        self.events.append(("started", trial.id))

    def put_off(self, trial: Trial) -> None:
        self.events.append(("put off", trial.id))

    def ended(self, trial: Trial, record: Record) -> None:
        self.events.append(("ended", trial.id))
        self.records.append(record)

    def note(self, text: str) -> None:
        self.events.append(("note", text))

    def progressed(self, trial: Trial, snapshot: Snapshot) -> None:
        return

    @property
    def notes(self) -> list[str]:
        return [text for kind, text in self.events if kind == "note"]


def run(
    options: RunSettings, trials: Sequence[Trial], place: Layout | None = None
) -> tuple[Diary, list[Trial]]:
    diary = Diary()
    left = LocalRunner(options, place or layout(options, len(trials))).run(trials, diary)
    return diary, left


def order(options: RunSettings) -> list[str]:
    return [start["trial"] for start in starts(options.results)]


@pytest.mark.slow
def test_trial_of_a_dead_worker_is_tried_again_before_others_begin(options: RunSettings) -> None:
    victim, other = acting("SIGKILL", "done"), acting("done", seed=1)
    diary, left = run(options, [victim, other])
    assert left == []
    assert diary.events == [
        ("started", victim.id),
        ("put off", victim.id),
        ("note", f"{victim.label}: {BY_SIGKILL}; tried again (1 of 2)"),
        ("started", victim.id),
        ("ended", victim.id),
        ("started", other.id),
        ("ended", other.id),
    ]
    assert [record.status for record in diary.records] == ["done", "done"]
    assert [start["attempt"] for start in starts(options.results)] == [1, 2, 1]


@pytest.mark.slow
def test_worker_that_always_dies_fails_after_its_retries_and_costs_no_other(options: RunSettings) -> None:
    victim, other = acting("SIGSEGV", "exit 3", "SIGSEGV"), acting("done", seed=1)
    diary, _ = run(options, [victim, other])
    assert order(options) == [victim.id] * 3 + [other.id]
    assert diary.notes == [
        f"{victim.label}: killed by SIGSEGV; tried again (1 of 2)",
        f"{victim.label}: the worker ended with exit status 3: last words; tried again (2 of 2)",
    ]
    record = recorded(victim, options.results)
    assert (record.status, record.resumable) == ("failed", False)
    assert record.reason == "killed by SIGSEGV; 3 attempts"
    assert recorded(other, options.results).status == "done"


@pytest.mark.slow
def test_fault_that_passes_is_no_death(options: RunSettings) -> None:
    victim = acting("broken", "done")
    diary, _ = run(options, [victim])
    (record,) = diary.records
    assert (record.status, record.resumable) == ("failed", True)
    assert record.reason == "the worker ended with exit status 1: ModuleNotFoundError: No module named 'x'"
    assert (len(order(options)), deaths(victim.work_folder(options.results))) == (1, ())
    assert statuses(launch([victim], dataclasses.replace(options, quiet=True), LAUNCHER)) == ["done"]


@pytest.mark.slow
def test_without_retries_the_first_death_is_a_failure(options: RunSettings) -> None:
    victim = acting("SIGKILL")
    diary, _ = run(dataclasses.replace(options, retries=0), [victim])
    assert (diary.notes, len(order(options))) == ([], 1)
    assert diary.records[0].reason == f"{BY_SIGKILL}; 1 attempt"


@pytest.mark.slow
def test_deaths_count_over_launches_until_a_retry_is_asked_for(options: RunSettings) -> None:
    victim = acting("SIGSEGV", "SIGSEGV", "SIGSEGV", "done")
    once = dataclasses.replace(options, retries=1, quiet=True)
    assert statuses(launch([victim], once, LAUNCHER)) == ["failed"]
    assert statuses(launch([victim], once, LAUNCHER)) == ["failed"]
    assert len(order(options)) == 2
    assert statuses(launch([victim], dataclasses.replace(once, retry_failed=True), LAUNCHER)) == ["done"]
    assert len(order(options)) == 4


def statuses(summary: Summary) -> list[str]:
    return [record.status for record in summary.records]


@pytest.mark.slow
def test_launch_says_what_died_and_how_to_run_it_again(
    options: RunSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = acting("exit 3")
    assert launch([victim], dataclasses.replace(options, retries=1), LAUNCHER).exit_status == 1
    said = capsys.readouterr().err.splitlines()
    reason = "the worker ended with exit status 3: last words"
    assert said[0] == f"{victim.label}: {reason}; tried again (1 of 1)"
    assert f"  {victim.label}: failed: {reason}; 2 attempts (log: {options.log_of(victim)})" in said
    assert "      last words" in said
    assert said[-1] == "add --retry failed to the command to run failed trials again"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("counts", "status"),
    [([4, 4, 5], "oom"), ([4, 4, 4], "failed"), ([None, None, 5], "failed")],
)
def test_kill_that_the_kernel_counted_is_want_of_memory(
    options: RunSettings, monkeypatch: pytest.MonkeyPatch, counts: list[int | None], status: str
) -> None:
    told = itertools.chain(counts[1:], itertools.repeat(counts[-1]))
    monkeypatch.setattr(local, "oom_kills", lambda: next(told))
    diary, _ = run(dataclasses.replace(options, retries=0), [acting("SIGKILL")])
    assert diary.records[0].status == status
    assert diary.records[0].reason == f"{KILLED_BY_KERNEL if status == 'oom' else BY_SIGKILL}; 1 attempt"


@pytest.mark.slow
def test_one_counted_kill_explains_one_death(options: RunSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    told = itertools.chain([0, 0], itertools.repeat(1))
    monkeypatch.setattr(local, "oom_kills", lambda: next(told))
    options = dataclasses.replace(options, retries=0, slots=2)
    diary, _ = run(options, [acting("SIGKILL", seed=seed) for seed in range(2)])
    assert sorted(record.status for record in diary.records) == ["failed", "oom"]


@pytest.mark.slow
def test_crash_is_no_want_of_memory_whatever_the_kernel_counts(
    options: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = itertools.count()
    monkeypatch.setattr(local, "oom_kills", lambda: next(told))
    diary, _ = run(dataclasses.replace(options, retries=0), [acting("SIGSEGV")])
    assert diary.records[0].status == "failed"


@pytest.mark.slow
def test_death_that_cannot_be_noted_is_told(options: RunSettings) -> None:
    victim = acting("SIGKILL")
    victim.work_folder(options.results).parent.mkdir()
    victim.work_folder(options.results).write_text("a file, so that nothing can be written below it")
    diary, _ = run(options, [victim])
    assert len(order(options)) == 1
    assert (diary.records[0].status, diary.records[0].resumable) == ("failed", True)


UUIDS = tuple(f"GPU-8a2c0e1f-33d6-4d0b-9c1e-00000000000{k}" for k in range(2))


@pytest.mark.parametrize(
    ("visible", "slots_per_gpu", "devices", "threads"),
    [
        (("0", "1", "2"), None, ["0", "1", "2"], "4"),
        (("0", "1", "2"), 2, ["0", "1", "2", "0", "1", "2"], "2"),
        (UUIDS, 2, [*UUIDS, *UUIDS], "3"),
        (("MIG-4d0b",), 2, ["MIG-4d0b", "MIG-4d0b"], "6"),
    ],
)
def test_what_each_worker_sees_of_the_gpus(
    options: RunSettings,
    monkeypatch: pytest.MonkeyPatch,
    visible: tuple[str, ...],
    slots_per_gpu: int | None,
    devices: list[str],
    threads: str,
) -> None:
    """There is no GPU here: stand-ins write down the environment in which a worker finds its device."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ", ".join(visible))
    monkeypatch.setattr("harness.launch.base._cores", lambda: 12)
    options = dataclasses.replace(options, slots=None, device="cuda", slots_per_gpu=slots_per_gpu)
    trials = [acting("done", seed=seed) for seed in range(len(devices))]
    run(options, trials)
    environments = {start["trial"]: start["environment"] for start in starts(options.results)}
    assert [environments[trial.id]["CUDA_VISIBLE_DEVICES"] for trial in trials] == devices
    for environment in environments.values():
        assert (environment["OMP_NUM_THREADS"], environment["MKL_NUM_THREADS"]) == (threads, threads)


@pytest.mark.slow
def test_slot_of_a_dead_worker_keeps_its_gpu(options: RunSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here, see above."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    options = dataclasses.replace(options, slots=None, device="cuda", retries=1)
    dies, other = acting("SIGKILL"), acting("done", seed=1)
    run(options, [dies, other])
    seen = [start["environment"]["CUDA_VISIBLE_DEVICES"] for start in starts(options.results)]
    assert (order(options), seen) == ([dies.id, dies.id, other.id], ["5", "5", "5"])


@pytest.mark.slow
def test_trials_on_the_cpu_see_no_gpu(options: RunSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    run(options, [acting("done")])
    assert starts(options.results)[0]["environment"]["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wish", "kept"),
    [
        ({}, KEEPING_MEMORY),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, KEEPING_MEMORY),
        ({"MALLOC_MMAP_MAX_": "9"}, {}),
        ({"HARNESS_KEEP_MEMORY": "0"}, {}),
    ],
)
def test_threads_do_not_spin_and_memory_is_kept_unless_the_user_says_so(
    options: RunSettings, monkeypatch: pytest.MonkeyPatch, wish: dict[str, str], kept: dict[str, str]
) -> None:
    names = {*NO_SPINNING, *KEEPING_MEMORY}
    for name in (*names, "HARNESS_KEEP_MEMORY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in wish.items():
        monkeypatch.setenv(name, value)
    run(options, [acting("done")])
    found = starts(options.results)[0]["environment"]
    told = {name: found[name] for name in names if found[name] is not None}
    assert told == NO_SPINNING | kept | {name: wish[name] for name in wish.keys() & names}


@pytest.mark.slow
def test_one_named_gpu_is_found_in_the_environment_as_it_is(
    options: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    run(dataclasses.replace(options, device="cuda:1", slots=None), [acting("done")])
    assert starts(options.results)[0]["environment"]["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.slow
def test_jobs_carry_the_log_and_the_code_they_were_submitted_with(
    options: RunSettings, tmp_path: Path
) -> None:
    trials = [acting("done"), acting("done", method="dm")]
    options = dataclasses.replace(
        options, logs=tmp_path / "logs", code_digests={trials[1].id: "0123456789ab"}
    )
    run(options, trials)
    told = [(start["log"], start["code_digest"]) for start in starts(options.results)]
    logs = [str(tmp_path / "logs" / log_name(trial)) for trial in trials]
    assert told == [(logs[0], None), (logs[1], "0123456789ab")]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "SIGUSR2", "exit 143"])
def test_worker_ended_alone_by_sigterm_is_tried_again_after_a_while(
    options: RunSettings, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(local, "TERM_PATIENCE_SECONDS", 0.5)
    victim, other = acting(how, "done"), acting("done", seed=1)
    begun = time.monotonic()
    diary, left = run(options, [victim, other])
    assert time.monotonic() - begun > 0.5
    assert left == []
    reason = "stopped by SIGTERM" if how == "exit 143" else f"killed by {how}"
    assert diary.notes == [
        f"{victim.label}: {reason}; waiting 0 s in case this whole run is being ended",
        f"{victim.label}: {reason}; tried again (1 of 2)",
    ]
    assert order(options) == [victim.id, victim.id, other.id]


@pytest.mark.slow
def test_nothing_begins_while_it_is_open_whether_all_is_being_ended(
    options: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "TERM_PATIENCE_SECONDS", 1.0)
    victim, neighbour, unbegun = acting("SIGTERM", "done"), acting("survive", seed=1), acting("done", seed=2)
    diary, _ = run(dataclasses.replace(options, slots=2), [victim, neighbour, unbegun])
    begun = [trial for kind, trial in diary.events if kind == "started"]
    assert begun == [victim.id, neighbour.id, victim.id, unbegun.id]


@pytest.fixture
def alarm() -> Iterator[None]:
    """Leave no alarm behind."""
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
@pytest.mark.usefixtures("alarm")
def test_stop_from_a_signal_handler_ends_the_run(options: RunSettings) -> None:
    sleeping, asleep, unbegun = (acting("sleep", seed=seed) for seed in range(3))
    options = dataclasses.replace(options, slots=2)
    launcher, diary = LocalRunner(options, layout(options, 3)), Diary()

    def on_alarm(*_: object) -> None:
        # A worker may begin before the launcher has come to say so.
        if len(starts(options.results)) < 2 or len(diary.events) < 2:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            return
        launcher.stop(grace_seconds=5.0)
        assert not any(psutil.pid_exists(start["pid"]) for start in starts(options.results))

    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    assert launcher.run([sleeping, asleep, unbegun], diary) == [sleeping, asleep, unbegun]
    assert diary.events[2:] == [("put off", sleeping.id), ("put off", asleep.id)]
    assert len(starts(options.results)) == 2
    assert not any(deaths(trial.work_folder(options.results)) for trial in (sleeping, asleep))
    # A launcher that was stopped starts nothing ever again.
    assert launcher.run([unbegun], diary) == [unbegun]
    assert len(starts(options.results)) == 2


@pytest.mark.slow
def test_stop_while_a_run_waits_for_its_own_end_counts_no_death(
    options: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "TERM_PATIENCE_SECONDS", 60.0)
    victim, other = acting("SIGTERM"), acting("done", seed=1)
    launcher, diary = LocalRunner(options, layout(options, 2)), Diary()
    stopper = threading.Thread(target=lambda: (wait_for(lambda: diary.notes), launcher.stop()))
    stopper.start()
    assert launcher.run([victim, other], diary) == [victim, other]
    stopper.join()
    assert order(options) == [victim.id]
    assert deaths(victim.work_folder(options.results)) == ()


@pytest.mark.slow
def test_stop_kills_what_does_not_heed_it(options: RunSettings) -> None:
    trial = acting("sleep deaf")
    launcher, diary = LocalRunner(options, layout(options, 1)), Diary()
    stopper = threading.Thread(
        target=lambda: (wait_for(lambda: starts(options.results)), launcher.stop(grace_seconds=0.3))
    )
    stopper.start()
    assert launcher.run([trial], diary) == [trial]
    stopper.join()
    assert deaths(trial.work_folder(options.results)) == ()


def test_stop_before_the_run(options: RunSettings) -> None:
    launcher = LocalRunner(options, layout(options, 1))
    launcher.stop()
    assert launcher.run([acting("done")], Diary()) == [acting("done")]
    assert starts(options.results) == []


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
def test_each_gpu_that_was_found_runs_a_trial(options: RunSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "DRIVER_FILES", (sys.executable,))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    found = dataclasses.replace(options, device=devices.choose("auto").name, slots=None)
    run(found, [acting("done", seed=seed) for seed in range(3)])
    seen = [start["environment"]["CUDA_VISIBLE_DEVICES"] for start in starts(options.results)]
    assert sorted(seen) == ["0", "1", "2"]


@pytest.mark.slow
def test_when_the_time_is_up_workers_stop_and_no_other_begins(
    options: RunSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    done, running, waiting = acting("done"), acting("sleep", seed=1), acting("done", seed=2)
    limited = UntilStarts(**dataclasses.asdict(options), enough=2)
    summary = launch([done, running, waiting], limited, LAUNCHER)
    assert (statuses(summary), list(summary.left), summary.exit_status) == (["done"], [running, waiting], 75)
    assert order(options) == [done.id, running.id]
    assert deaths(running.work_folder(options.results)) == ()
    assert "the time is up: stopping after the present step" in capsys.readouterr().err
    assert not running.record_path(options.results).exists()


@pytest.mark.slow
def test_a_worker_that_does_not_stop_when_the_time_is_up_is_killed(
    options: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "PATIENT_SECONDS", 0.2)
    deaf = acting("sleep deaf")
    summary = launch([deaf], UntilStarts(**dataclasses.asdict(options), enough=1), LAUNCHER)
    assert (list(summary.left), summary.exit_status) == ([deaf], 75)


def test_time_that_is_up_before_anything_began_leaves_everything(options: RunSettings) -> None:
    trials = [acting("done", seed=seed) for seed in range(2)]
    summary = launch(trials, dataclasses.replace(options, deadline=time.monotonic()), LAUNCHER)
    assert (summary.records, list(summary.left), order(options)) == ([], trials, [])


@pytest.mark.slow
def test_trials_that_go_first_are_begun_first_and_told_of_in_the_plans_order(options: RunSettings) -> None:
    trials = [acting("done", seed=seed) for seed in range(4)]
    summary = launch(trials, options, LAUNCHER, first=[trials[2], trials[1]])
    assert order(options) == [trials[k].id for k in (2, 1, 0, 3)]
    assert [record.trial for record in summary.records] == trials


@dataclasses.dataclass(frozen=True)
class UntilStarts(RunSettings):
    """Options whose time is up when so many workers have begun."""

    enough: int = 1

    @property
    def time_is_up(self) -> bool:
        return len(starts(self.results)) >= self.enough


@pytest.mark.slow
def test_trials_of_a_set_wait_until_it_is_made(options: RunSettings) -> None:
    first, second = acting("done"), acting("done", eval_arch="MLP")
    other = acting("done", seed=1)
    diary, left = run(options, [first, second, other], Layout(2, 1))
    assert left == []
    assert [event for event in diary.events if event[0] == "started"][:2] == [
        ("started", first.id),
        ("started", other.id),
    ]
    assert diary.events.index(("ended", first.id)) < diary.events.index(("started", second.id))


@pytest.mark.slow
def test_no_trial_tries_again_to_make_a_set_that_another_could_not(options: RunSettings) -> None:
    first, second = acting("SIGSEGV"), acting("SIGSEGV", eval_arch="MLP")
    other = acting("done", seed=1)
    diary, left = run(options, [first, second, other])
    assert left == []
    assert order(options) == [first.id] * 3 + [other.id]
    record = recorded(second, options.results)
    assert record.reason == "there is no set to evaluate: killed by SIGSEGV; 3 attempts"
    assert [record.status for record in diary.records] == ["failed", "failed", "done"]
