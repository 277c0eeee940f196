"""Sweeps on a real Slurm: jobs requeued, timed out, cancelled, shot; daemons and drivers that die.

Each ends with every record present once, and with the bytes of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from slurm_cluster import PATIENCE, Bench, Cluster, labels, missing_programs, wait

from harness.engine.provenance import ROOT
from harness.engine.record_files import read_records
from harness.engine.records import Record
from harness.launch.forkserver import WORKER_NAME

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Slurm runs on Linux"),
    pytest.mark.skipif(
        bool(missing_programs()), reason=f"no Slurm on this machine: {', '.join(missing_programs())} missing"
    ),
]

QUICK = ("--dataset", "digits", "--scale", "smoke", "--evals", "1", "--ipc", "1", "--methods", "random")
# With one thread, a trial of some seconds.
LONG = (
    *("--dataset", "digits", "--scale", "smoke", "--evals", "1", "--ipc", "1", "--methods", "dm"),
    *("--set", "dm.batch_real=16", "--set", "dm.iterations=600", "--threads", "1"),
)
JOBS = ("--launcher", "slurm", "--cpus", "1", "--mem", "2G", "--time", "30m")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, for all tests of this module."""
    # Not under pytest's folder: paths of sockets are short.
    folder = Path(tempfile.mkdtemp(prefix="dd-", dir="/tmp"))
    started = Cluster.start(folder)
    yield started
    started.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def bench(cluster: Cluster, tmp_path: Path) -> Iterator[Bench]:
    """A results folder; no job outlives its test."""
    made = Bench(cluster, tmp_path / "results")
    yield made
    for submission in made.submissions():
        cluster.call("scancel", str(submission.job_id))
    wait(lambda: {state for _, _, state, _ in made.jobs()} <= {"COMPLETING"}, "the end of all jobs")


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The record of the long trial, run by the local launcher."""
    bench = Bench(cluster, tmp_path_factory.mktemp("undisturbed") / "results")
    bench.harness("run", *LONG, "--seeds", "1", "--launcher", "local")
    (record,) = bench.records()
    return record


def assert_as_undisturbed(records: list[Record], undisturbed: Record) -> None:
    """One record, done, with the same bytes; and no checkpoint left."""
    (record,) = records
    assert (record.status, record.id) == ("done", undisturbed.id)
    assert record.images_digest == undisturbed.images_digest
    assert record.accuracies == undisturbed.accuracies


def assert_resumed(bench: Bench) -> None:
    """The one trial went on from a checkpoint, which a signal made it write: no time for one of its own."""
    assert bench.records()[0].resumed >= 1


@pytest.mark.usefixtures("harmed")  # has them under way meanwhile
def test_a_sweep_of_real_trials_packed_into_jobs(bench: Bench) -> None:
    methods = (
        "--methods",
        "random,herding",
        "--seeds",
        "2",
        "--trials-per-job",
        "2",
        "--array-parallelism",
        "1",
    )
    done = bench.harness("run", *QUICK, *methods, *JOBS)
    expected = [(method, 1, seed, "done") for method in ("herding", "random") for seed in range(2)]
    assert labels(bench.records()) == expected
    assert "| herding" in done.stdout
    (submission,) = bench.submissions()
    assert [len(pack) for pack in submission.packs] == [2, 2]
    script = next(bench.results.glob(".work/sweeps/*/jobs/*_submission.sh")).read_text()
    assert "#SBATCH --array=0-1%1" in script
    logs = sorted(path.name for path in bench.results.glob(".work/sweeps/*/logs/*.log"))
    assert len(logs) == 4
    assert logs[0].startswith("herding-digits-ipc1-seed0-")
    assert len(bench.harness("logs", "herding digits", "--path").stdout.splitlines()) == 2
    log = bench.harness("logs", bench.records()[0].id).stdout
    assert "attempt 1" in log
    assert " done" in log.splitlines()[-1]
    again = bench.harness("run", *QUICK, *methods, *JOBS)
    assert "4 done, 0 to run" in again.stderr
    assert len(bench.submissions()) == 1


def test_a_detached_sweep_is_seen_and_cancelled_from_another_shell(bench: Bench) -> None:
    other = Bench(bench.cluster, bench.results.with_name("other"))
    other.harness("run", *QUICK, "--seeds", "1", *JOBS, "--slurm", "hold", "--detach")
    began = bench.harness("run", *LONG, "--seeds", "3", *JOBS, "--detach")
    assert "submitted 3 trials as 3 jobs" in began.stderr
    bench.under_way()
    states = json.loads(bench.harness("status", "--json").stdout)["sweeps"][0]["counts"]
    assert states["running"] >= 1
    assert states.get("running", 0) + states.get("pending", 0) == 3
    assert "seed 0: running" in bench.harness("status", "--trials").stdout
    bench.harness("cancel")
    wait(lambda: not bench.jobs(), "the end of the cancelled jobs")
    assert other.jobs(), "the other sweep's job stays"
    other.harness("cancel")
    counts = json.loads(bench.harness("status", "--json").stdout)["sweeps"][0]["counts"]
    assert counts == {"cancelled": 3}
    assert bench.records() == []


def requeued(bench: Bench, undisturbed: Record) -> None:
    """A plain requeue in the middle: SIGTERM makes the trial write a checkpoint, and it goes on from that."""
    driver = bench.begin("run", *LONG, "--seeds", "1", *JOBS)
    bench.under_way(step=100)
    bench.cluster.call("scontrol", "requeue", bench.job_id)
    output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, output
    assert_as_undisturbed(bench.records(), undisturbed)
    assert_resumed(bench)


def cancelled(bench: Bench, undisturbed: Record) -> None:
    """An scancel ends the command with how to go on; the same command does."""
    driver = bench.begin("run", *LONG, "--seeds", "1", *JOBS)
    bench.under_way()
    bench.cluster.call("scancel", bench.job_id)
    output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 1
    assert "the job was cancelled" in output
    assert "the same command goes on" in output
    bench.harness("run", *LONG, "--seeds", "1", *JOBS)
    assert_as_undisturbed(bench.records(), undisturbed)


def worker_shot(bench: Bench, undisturbed: Record) -> None:
    """A worker that gets SIGKILL is replaced within its job."""
    driver = bench.begin("run", *LONG, "--seeds", "1", *JOBS)
    bench.under_way()
    worker_of(bench).kill()
    output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, output
    assert_as_undisturbed(bench.records(), undisturbed)
    assert len(bench.submissions()) == 1


def job_shot(bench: Bench, undisturbed: Record) -> None:
    """A job killed hard is submitted again, as often as was said, and then given up."""
    driver = bench.begin("run", *LONG, "--seeds", "1", *JOBS, "--retries", "1")
    for submissions in (1, 2):
        wait(lambda n=submissions: len(bench.submissions()) == n, "another submission")  # type: ignore[misc]
        bench.under_way()
        killed = [process_of(bench, "submitit.core._submit"), worker_of(bench)]
        killed[0].kill()
        psutil.wait_procs(killed, timeout=PATIENCE)
        for path in bench.results.glob(".work/*/progress.json"):
            path.unlink()
    output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 1
    (record,) = bench.records()
    assert (record.status, record.resumable) == ("failed", False)
    assert "the job failed" in (record.reason or "")
    assert "2 attempts" in (record.reason or "")
    assert "submitted again (1 of 1)" in output


def driver_killed(bench: Bench, undisturbed: Record) -> None:
    """A driver that dies, even before it noted its job's id: the same command finds the job."""
    driver = bench.begin("run", *LONG, "--seeds", "1", *JOBS)
    bench.under_way()
    worker = worker_of(bench)
    worker.suspend()
    driver.kill()
    driver.communicate()
    (path,) = bench.results.glob(".work/sweeps/*/submission-1.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"job_id": None}))
    again = bench.begin("run", *LONG, "--seeds", "1", *JOBS)
    wait(lambda: bench.submissions()[0].job_id == content["job_id"], "the job to be found")
    worker.resume()
    output, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, output
    assert "submitted" not in output
    assert_as_undisturbed(bench.records(), undisturbed)
    assert len(bench.submissions()) == 1


def code_changed(bench: Bench, undisturbed: Record) -> None:
    """Code that changed since the submission is refused; the same command runs the present one."""
    checkout = bench.results.parent / "checkout"
    for name in ("harness", "methods"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    bench.harness("run", *QUICK, "--seeds", "1", *JOBS, "--slurm", "hold", "--detach", root=checkout)
    changed = checkout / "methods" / "random.py"
    changed.write_text(changed.read_text().replace('generator("select")', 'generator("other")'))
    bench.cluster.call("scontrol", "release", bench.job_id)
    (record,) = bench.settled(1)
    assert (record.status, record.resumable) == ("failed", True)
    assert "the code on the measured path changed since this trial was submitted" in (record.reason or "")
    bench.harness("run", *QUICK, "--seeds", "1", *JOBS, root=checkout)
    (record,) = bench.records()
    assert record.status == "done"


def out_of_time(bench: Bench, undisturbed: Record) -> None:
    """At its time limit a trial writes a checkpoint and goes on from that."""
    # Slurm tells a job of one minute at once that its time is nearly up, at the next of its looks each 30 s.
    driver = bench.begin("run", *LONG, "--seeds", "1", *JOBS, "--time", "1m")
    bench.under_way()
    slow_down(worker_of(bench))
    output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, output
    assert_as_undisturbed(bench.records(), undisturbed)
    assert_resumed(bench)


def slow_down(process: psutil.Process) -> None:
    """Give a process a twentieth of its time, until it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.is_running():
            process.suspend()
            time.sleep(0.95)
            process.resume()
            time.sleep(0.05)


def process_of(bench: Bench, module: str, name: str | None = None) -> psutil.Process:
    """The process that runs a module in the one job of a bench, and is called so."""
    return next(
        process
        for process in psutil.process_iter(["cmdline", "environ", "name"])
        if module in (process.info["cmdline"] or [])
        and name in (None, process.info["name"])
        and (process.info["environ"] or {}).get("SLURM_JOB_ID") == bench.job_id
        and process.info["environ"].get("SLURM_CONF") == bench.cluster.environment["SLURM_CONF"]
    )


def worker_of(bench: Bench) -> psutil.Process:
    """The worker of the one job of a bench: it and what it was forked from run the same module."""
    return process_of(bench, "harness.launch.forkserver", WORKER_NAME)


HARMS = (requeued, cancelled, worker_shot, job_shot, driver_killed, code_changed, out_of_time)


@pytest.fixture(scope="module")
def harmed(
    cluster: Cluster, undisturbed: Record, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """All of these at the same time, since most of their time is waiting."""
    with ThreadPoolExecutor(len(HARMS)) as pool:
        yield {
            harm.__name__: pool.submit(
                harm, Bench(cluster, tmp_path_factory.mktemp(harm.__name__) / "results"), undisturbed
            )
            for harm in HARMS
        }


@pytest.mark.parametrize("harm", [harm.__name__ for harm in HARMS])
def test_a_sweep_outlives(harm: str, harmed: dict[str, Future[None]]) -> None:
    harmed[harm].result()


def test_a_preempted_job_makes_room_and_goes_on(bench: Bench, undisturbed: Record) -> None:
    bench.harness("run", *LONG, "--seeds", "1", *JOBS, "--partition", "main", "--detach")
    bench.under_way(step=100)
    urgent = [
        "sbatch",
        "--partition=urgent",
        "--nodes=2",
        "--exclusive",
        "--output=/dev/null",
        "--wrap=sleep 1",
    ]
    bench.cluster.call(*urgent)
    assert_as_undisturbed(bench.settled(1), undisturbed)
    assert_resumed(bench)


def test_jobs_run_our_code_whatever_lies_where_they_were_submitted(bench: Bench) -> None:
    theirs = bench.results.parent / "theirs"
    for name in ("methods", "submitit", "utils"):
        (theirs / name).mkdir(parents=True)
        (theirs / name / "__init__.py").write_text(f"raise ImportError('the {name} of somebody else')\n")
    bench.harness("run", *QUICK, "--seeds", "1", *JOBS, folder=theirs)
    assert labels(bench.records()) == [("random", 1, 0, "done")]


def test_slurmctld_restarts(bench: Bench, undisturbed: Record) -> None:
    driver = bench.begin("run", *LONG, "--seeds", "1", *JOBS)
    bench.under_way()
    os.kill(bench.cluster.daemon("slurmctld"), signal.SIGKILL)
    wait(lambda: "Slurm does not answer" in refused(bench), "a controller that is down")
    Cluster.start(bench.cluster.folder)
    output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, output
    assert_as_undisturbed(bench.records(), undisturbed)
    assert len(bench.submissions()) == 1


def refused(bench: Bench) -> str:
    """What another sweep is told; it takes a while until clients notice."""
    done = subprocess.run(
        bench.command("run", *QUICK, "--seeds", "1", *JOBS),
        env=bench.cluster.environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr if done.returncode == 2 else ""


def test_methods_get_resources_of_their_own_and_gpus_are_handed_out(bench: Bench) -> None:
    methods = ("--methods", "random,herding", "--seeds", "1", "--resources", "herding.cpus=2")
    planned = bench.harness("plan", *QUICK, *methods, *JOBS, "--no-estimate").stdout
    assert "array of 1 job with 1 trial, at most 1 at a time, each with 2 CPUs, 2G, 30 min" in planned
    assert "#SBATCH --cpus-per-task=2" in planned
    bench.harness("run", *QUICK, *methods, *JOBS, "--slurm", "gres=gpu:1", "--detach")
    assert labels(bench.settled(2)) == [("herding", 1, 0, "done"), ("random", 1, 0, "done")]
    assert len(bench.submissions()) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--partition", "nope"), "Invalid partition name specified"),
        (("--mem", "900G"), "Requested node configuration is not available"),
        (("--slurm", "nonsense=1"), "unrecognized option"),
    ],
)
def test_what_the_cluster_cannot_run_is_one_line(
    bench: Bench, arguments: tuple[str, ...], words: str
) -> None:
    refused = bench.harness("run", *QUICK, *JOBS, *arguments, status=2).stderr
    last = refused.strip().splitlines()[-1]
    assert last.startswith("error: Slurm refuses a job of ")
    assert words in last
    assert bench.submissions() == []
    assert not list(read_records(bench.results)) if bench.results.exists() else True
