"""Real workers: how they stop, what they write into their logs, which code they refuse to run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from support import recorded
from trials import digits_trial, dm_trial

from harness.core import clock
from harness.core.progress import Progress
from harness.engine import provenance, worker
from harness.engine.records import Trial
from harness.engine.settings import LOG_NAME, RunSettings, log_name
from harness.engine.trial import run_trial
from harness.engine.worker import (
    CLOSING,
    DONE,
    FAILED,
    PROGRESS_NAME,
    SAME_WISH_SECONDS,
    STOPPED,
    Job,
    Snapshot,
    _StopRequest,
    last_words,
)

PATIENCE = 600.0  # seconds until a test gives up waiting: a busy machine is slow, and no fault
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"


@pytest.fixture
def settings(tmp_path: Path) -> RunSettings:
    return RunSettings(
        results=tmp_path / "results",
        data_dir=tmp_path / "data",
        datasets={"digits": "digits"},
        threads=1,
        checkpoint_seconds=1000.0,
    )


Start = Callable[[Job], "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start workers, and leave none behind."""
    processes: list[subprocess.Popen[bytes]] = []

    def begin(job: Job) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.engine.worker"], stdin=subprocess.PIPE, cwd=provenance.ROOT
        )
        processes.append(process)
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(job.encode())
        return process

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def job(trial: Trial, settings: RunSettings, attempt: int = 1) -> Job:
    return Job(trial, settings, os.getpid(), attempt)


def step_of(trial: Trial, settings: RunSettings) -> int:
    """How far a worker says it is."""
    path = trial.work_folder(settings.results) / PROGRESS_NAME
    return msgspec.json.decode(path.read_bytes(), type=Snapshot).step if path.exists() else 0


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_sigterm_stops_a_worker_at_its_step_and_nothing_is_lost(
    settings: RunSettings, start: Start, tmp_path: Path
) -> None:
    trial = dm_trial(300)
    stopped = start(job(trial, settings))
    wait_until(lambda: step_of(trial, settings) > 1)
    seen = step_of(trial, settings)
    # A scheduler signals all processes of a job, and the launcher then passes on what it got.
    stopped.send_signal(signal.SIGTERM)
    time.sleep(0.01)  # pending signals of a kind are one
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(PATIENCE) == STOPPED
    last_line = (trial.work_folder(settings.results) / LOG_NAME).read_text().splitlines()[-1]
    told = re.fullmatch(rf"{STAMP} stopped after step (\d+) of 300 of distill", last_line)
    assert told, last_line
    assert seen <= int(told[1]) < 300
    checkpoint = trial.distillation.work_folder(settings.results) / "distill" / "checkpoint.pt"
    assert torch.load(checkpoint, weights_only=True)["loops"]["distill"]["step"] == int(told[1])
    assert not trial.record_path(settings.results).exists()

    assert start(job(trial, settings)).wait(PATIENCE) == DONE
    undisturbed = replace(settings, results=tmp_path / "undisturbed")
    run_trial(trial, undisturbed)
    ours, theirs = (recorded(trial, place.results) for place in (settings, undisturbed))
    assert ours.images_digest == theirs.images_digest
    assert ours.accuracies == theirs.accuracies
    paths = [trial.distillation.set_path(place.results) for place in (settings, undisturbed)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert (ours.resumed, theirs.resumed) == (1, 0)


LATE = """
import os, sys, time
from harness.engine import worker

class Late:
    # Called when Python takes its modules apart, after it gave up its handlers of signals.
    def __del__(self, out=os.dup(1), write=os.write, sleep=time.sleep):
        write(out, b"late")
        sleep(1)

late = Late()
sys.exit(worker.main())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_sigterm_changes_nothing_once_the_status_is_decided(settings: RunSettings) -> None:
    ending = subprocess.Popen(
        [sys.executable, "-c", LATE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=provenance.ROOT,
    )
    assert ending.stdin is not None
    assert ending.stdout is not None
    with ending, ending.stdin as pipe:
        pipe.write(job(digits_trial(), settings).encode())
        pipe.close()
        assert ending.stdout.read(4) == b"late"
        ending.send_signal(signal.SIGTERM)
    assert ending.returncode == DONE


@pytest.mark.slow
def test_log_of_a_failure_begins_and_ends_with_the_facts(
    settings: RunSettings, start: Start, tmp_path: Path
) -> None:
    trial = dm_trial(5, config={"lr_img": 1e38})
    log = tmp_path / "logs" / log_name(trial)
    assert start(job(trial, replace(settings, logs=log.parent), attempt=2)).wait(PATIENCE) == FAILED
    lines = log.read_text().splitlines()
    facts = rf"{STAMP} \S+ pid \d+ attempt 2 device cpu threads 1: dm · digits · ipc 1 · seed 0"
    assert re.fullmatch(facts, lines[0])
    record = recorded(trial, settings.results)
    assert re.fullmatch(rf"{STAMP} failed {re.escape(record.reason or '')}", lines[-1])
    assert last_words(log, 1) == [f"harness.core.errors.DivergedError: {record.reason}"]
    assert not (trial.work_folder(settings.results) / LOG_NAME).exists()


@pytest.mark.slow
def test_worker_with_other_code_than_was_submitted_refuses(settings: RunSettings, start: Start) -> None:
    trial = digits_trial()
    now = provenance.code_digest(trial)
    changed = replace(settings, code_digests={trial.id: "0123456789ab"})
    assert start(job(trial, changed)).wait(PATIENCE) == FAILED
    record = recorded(trial, settings.results)
    assert record.reason == (
        f"the code on the measured path changed since this trial was submitted (submitted 0123456789ab, "
        f"now {now}); start the same command again to run it with the present code"
    )
    assert (record.status, record.resumable) == ("failed", True)
    trial.record_path(settings.results).unlink()
    assert start(job(trial, replace(settings, code_digests={trial.id: now}))).wait(PATIENCE) == DONE


class Clock:
    """A clock that tests set."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(worker.time, "monotonic", made.monotonic)
    return made


def ends(wish: _StopRequest) -> bool:
    """Whether SIGTERM ends the process at once."""
    try:
        wish.on_signal(signal.SIGTERM, None)
    except SystemExit as end:
        return end.code == STOPPED
    return False


@pytest.mark.usefixtures("ticking")
def test_sigterm_outside_of_loops_ends_at_once() -> None:
    assert ends(_StopRequest())


@pytest.mark.usefixtures("ticking")
def test_sigterm_between_loops_ends_at_once() -> None:
    wish, told = _StopRequest(), []
    hear = wish.watching(told.append)
    assert not wish.should_stop()
    hear(Progress("distill", 3, 3, None))
    assert ends(wish)
    assert [progress.step for progress in told] == [3]
    assert not wish.granted


def test_sigterm_in_a_loop_is_a_wish_and_the_second_an_order(ticking: Clock) -> None:
    wish = _StopRequest()
    hear = wish.watching(lambda _: None)
    assert not wish.should_stop()
    hear(Progress("distill", 2, 3, None))
    assert not ends(wish)
    ticking.now += SAME_WISH_SECONDS / 2
    assert not ends(wish)
    assert not wish.granted
    assert wish.should_stop()
    assert wish.granted
    ticking.now += SAME_WISH_SECONDS
    assert ends(wish)


OPENING_LINE = "2025-01-01T00:00:00+00:00 node7 pid 12 attempt 1 device cpu threads 1: dm · digits"
TRACEBACK = ["Traceback (most recent call last):", '  File "x.py", line 1', "    f()", "ValueError: no"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a", "b", "", "c"], ["b", "c"]),
        ([OPENING_LINE, "old", OPENING_LINE, "new"], ["new"]),
        ([OPENING_LINE, "old", OPENING_LINE], []),
        ([*TRACEBACK, OPENING_LINE, "warning", *TRACEBACK], ["    f()", "ValueError: no"]),
        ([*TRACEBACK, TRACEBACK[0], "KeyError: 1"], ["KeyError: 1"]),
        (["said", "2025-01-01T00:00:09+00:00 failed ValueError: no"], ["said"]),
        ([], []),
    ],
)
def test_last_words(tmp_path: Path, lines: list[str], words: list[str]) -> None:
    log = tmp_path / "log.txt"
    assert last_words(log, 2) == []
    log.write_text("\n".join(lines) + "\n")
    assert last_words(log, 2) == words


@pytest.mark.parametrize("status", ["done", "failed", "oom", "stopped"])
def test_closing_lines_are_known_as_such(status: str) -> None:
    assert CLOSING.match(f"{clock.now()} {status} whatever")
    assert not CLOSING.match(f"{status} whatever")
