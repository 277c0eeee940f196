"""Real processes, really killed: nothing finished is lost, and what was cut off ends with the same bytes."""

from __future__ import annotations

import contextlib
import errno
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import psutil
import pytest
from support import recorded
from trials import digits_trial, dm_trial

from harness.engine.claim import claimed
from harness.engine.provenance import ROOT
from harness.engine.records import Record, Trial
from harness.engine.settings import RunSettings
from harness.engine.trial import run_trial

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="kills processes as Linux does"),
]

DRIVER = Path(__file__).with_name("fault_driver.py")
PATIENCE = 600.0  # seconds until a test gives up waiting: a busy machine is slow, and no fault


class Run:
    """One driver process and its workers."""

    def __init__(self, results: Path, trials: Sequence[Trial], stderr: Path, *flags: str) -> None:
        self._stderr = stderr
        with stderr.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(DRIVER), str(results), *flags],
                stdin=subprocess.PIPE,
                stderr=file,
                env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
            )
        assert self.process.stdin is not None
        with self.process.stdin as pipe:
            pipe.write(msgspec.json.encode(trials))

    @property
    def stderr(self) -> str:
        """What it said so far."""
        return self._stderr.read_text()

    def ends(self) -> int:
        """Wait for the end; returns the exit status."""
        return self.process.wait(PATIENCE)

    def workers(self) -> list[psutil.Process]:
        """The worker processes that live now, and the process that they are forked from."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def suspend(self) -> None:
        """Let the driver and its workers make no further step."""
        for process in (psutil.Process(self.process.pid), *self.workers()):
            process.suspend()

    def kill_tree(self) -> None:
        """SIGKILL to the driver, then to what is left of its workers; waits until all are gone."""
        workers = self.workers()
        self.process.kill()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        self.process.wait()
        psutil.wait_procs(workers, timeout=PATIENCE)


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start runs, and leave none behind."""
    runs: list[Run] = []

    def begin(results: Path, trials: Sequence[Trial], *flags: str) -> Run:
        runs.append(Run(results, trials, tmp_path / f"stderr-{len(runs)}.txt", *flags))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill_tree()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def checkpoint(trial: Trial, results: Path) -> Path:
    return trial.distillation.work_folder(results) / "distill" / "checkpoint.pt"


def written_at(path: Path) -> int:
    """Time of the last change in nanoseconds; 0 for no file."""
    return path.stat().st_mtime_ns if path.exists() else 0


def record_of(trial: Trial, results: Path) -> Record:
    return recorded(trial, results)


def distilled_bytes(trials: Sequence[Trial], results: Path) -> list[bytes]:
    return [trial.distillation.set_path(results).read_bytes() for trial in trials]


def run_undisturbed(trials: Sequence[Trial], results: Path) -> None:
    """The same trials in this process, which is not killed."""
    settings = RunSettings(results=results, data_dir=results, datasets={"digits": "digits"}, threads=1)
    assert {run_trial(trial, settings).status for trial in trials} == {"done"}


def test_trees_killed_at_random_moments_end_with_the_same_bytes(tmp_path: Path, start: Start) -> None:
    trials = [dm_trial(400, evals=2), dm_trial(100, seed=1, protocol="dc-cpu", evals=4)]
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    run_undisturbed(trials, undisturbed)

    draw = random.Random(20)
    hits = 0
    for _ in range(4):
        before = [written_at(checkpoint(trial, disturbed)) for trial in trials]
        # Mostly one alone: half of what a short run does is to start its workers.
        run = start(disturbed, draw.choice([trials, trials[:1], trials[1:], trials[:1], trials[1:]]))
        if draw.random() < 0.8:
            # Let it get past its start and work for a while; else it dies somewhere in its start.
            wait_until(
                lambda run=run, before=before: (
                    run.process.poll() is not None
                    or [written_at(checkpoint(trial, disturbed)) for trial in trials] != before
                )
            )
        time.sleep(0.6 * draw.random())
        hits += run.process.poll() is None
        run.kill_tree()
    assert hits >= 2, "most runs were over before they could be killed"

    assert start(disturbed, trials).ends() == 0
    assert distilled_bytes(trials, disturbed) == distilled_bytes(trials, undisturbed)
    for trial in trials:
        ours, theirs = record_of(trial, disturbed), record_of(trial, undisturbed)
        assert ours.accuracies == theirs.accuracies
        assert ours.images_digest == theirs.images_digest
    assert any(record_of(trial, disturbed).resumed > 0 for trial in trials)


def test_killed_workers_are_replaced_until_their_trial_fails_and_cost_no_other(
    tmp_path: Path, start: Start
) -> None:
    results, victim, other = tmp_path / "results", dm_trial(300), digits_trial()
    run = start(results, [victim, other])
    for _ in range(3):
        kill_worker_of(victim, results, run)
    assert run.ends() == 1
    assert "1 of 2 trials failed:" in run.stderr
    said = f"{victim.label}: killed by SIGKILL, perhaps by the kernel for want of memory"
    assert all(f"{said}; tried again ({time} of 2)" in run.stderr for time in (1, 2))
    assert "add --retry failed to the command" in run.stderr
    killed, finished = record_of(victim, results), record_of(other, results)
    assert (killed.status, killed.resumable, finished.status) == ("failed", False, "done")
    assert killed.reason == "killed by SIGKILL, perhaps by the kernel for want of memory; 3 attempts"

    assert start(results, [victim, other]).ends() == 1
    assert start(results, [victim, other], "--retry-failed").ends() == 0
    assert record_of(other, results) == finished
    assert record_of(victim, results).resumed == 3
    assert not victim.work_folder(results).exists()
    run_undisturbed([victim], tmp_path / "undisturbed")
    assert distilled_bytes([victim], results) == distilled_bytes([victim], tmp_path / "undisturbed")


def kill_worker_of(trial: Trial, results: Path, run: Run) -> None:
    """SIGKILL the worker that is at the trial now, once it has written a checkpoint of its own."""
    before = written_at(checkpoint(trial, results))
    wait_until(lambda: written_at(checkpoint(trial, results)) != before)
    victim = next(worker for worker in run.workers() if works_on(worker, trial))
    victim.kill()
    psutil.wait_procs([victim], timeout=PATIENCE)


def test_sigterm_to_a_whole_job_is_nobodys_death(tmp_path: Path, start: Start) -> None:
    trial = dm_trial(100_000)
    run = start(tmp_path / "results", [trial])
    wait_until(lambda: checkpoint(trial, tmp_path / "results").exists())
    for process in (*run.workers(), run.process):
        process.send_signal(signal.SIGTERM)
    assert run.ends() == 130
    assert "tried again" not in run.stderr
    assert "Traceback" not in run.stderr
    work = trial.work_folder(tmp_path / "results")
    assert not (work / "deaths.json").exists()
    assert " stopped after step " in (work / "log.txt").read_text().splitlines()[-1]


def works_on(worker: psutil.Process, trial: Trial) -> bool:
    return any(trial.id in file.path for file in worker.open_files())


def test_two_runs_at_once_do_no_trial_twice(tmp_path: Path, start: Start) -> None:
    trials = [digits_trial(seed=seed) for seed in range(2)]
    # Both begin at once: neither gets a trial before the other is there.
    with contextlib.ExitStack() as held:
        for trial in trials:
            held.enter_context(claimed(trial, tmp_path / "results"))
        runs = [start(tmp_path / "results", trials) for _ in range(2)]
        wait_until(lambda: all("waiting for 2 trials" in run.stderr for run in runs))
    assert [run.ends() for run in runs] == [0, 0]
    said = "".join(run.stderr for run in runs)
    for trial in trials:
        assert record_of(trial, tmp_path / "results").status == "done"
        lines = [line for line in said.splitlines() if trial.label in line]
        assert [line.endswith("by another run") for line in sorted(lines, key=len)] == [False, True], said


def test_run_takes_over_what_a_killed_one_left(tmp_path: Path, start: Start) -> None:
    trial = dm_trial(300)
    first = start(tmp_path / "results", [trial])
    wait_until(lambda: checkpoint(trial, tmp_path / "results").exists())
    first.suspend()  # else it may be done before the second is there
    second = start(tmp_path / "results", [trial])
    wait_until(lambda: "waiting for 1 trial that another process is running" in second.stderr)
    first.kill_tree()
    assert second.ends() == 0
    assert record_of(trial, tmp_path / "results").resumed == 1


def test_workers_die_with_the_driver(tmp_path: Path, start: Start) -> None:
    trial = dm_trial(100_000)
    run = start(tmp_path / "results", [trial])
    wait_until(lambda: checkpoint(trial, tmp_path / "results").exists())
    workers = run.workers()
    assert sum(works_on(worker, trial) for worker in workers) == 1
    assert len(workers) == 2
    run.process.kill()
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
    assert alive == []


def test_ctrl_c_stops_the_workers_and_says_how_to_go_on(tmp_path: Path, start: Start) -> None:
    trial = dm_trial(100_000)
    run = start(tmp_path / "results", [trial])
    wait_until(lambda: checkpoint(trial, tmp_path / "results").exists())
    workers = run.workers()
    run.process.send_signal(signal.SIGINT)
    assert run.ends() == 130
    assert not any(worker.is_running() for worker in workers)
    assert "stopped: 0 of 1 trial done; the same command goes on from there" in run.stderr
    assert "Traceback" not in run.stderr
    assert checkpoint(trial, tmp_path / "results").exists()
    assert not trial.record_path(tmp_path / "results").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_full_disk_loses_nothing_that_is_finished(small_disk: Path, start: Start) -> None:
    results, finished, cut_off = small_disk / "results", digits_trial(), digits_trial(seed=1)
    assert start(results, [finished]).ends() == 0
    before = record_of(finished, results)
    ballast = small_disk / "ballast"
    fill(ballast)

    run = start(results, [finished, cut_off])
    assert run.ends() == 1
    assert "No space left on device" in run.stderr
    assert "Traceback" not in run.stderr
    assert record_of(finished, results) == before

    ballast.unlink()
    assert start(results, [finished, cut_off]).ends() == 0
    assert record_of(finished, results) == before


def fill(path: Path) -> None:
    """Write to a file until the disk is full to the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
