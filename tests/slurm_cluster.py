"""A real Slurm of two virtual nodes on this machine, and the command line against it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness.engine.provenance import ROOT
from harness.engine.record_files import read_records
from harness.engine.records import Record
from harness.launch.sweep import Submission

PATIENCE = 900.0  # seconds until a test gives up waiting: a busy machine is slow, and no fault
PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "sbatch", "squeue", "sacct")


def missing_programs() -> list[str]:
    """What a cluster on this machine lacks."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


@dataclass(frozen=True)
class Cluster:
    """The running cluster and the environment of those who use it."""

    folder: Path
    environment: dict[str, str]

    @classmethod
    def start(cls, folder: Path) -> Cluster:
        """Bring it up; what is up already stays."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM_", "SBATCH_", "SUBMITIT_"))
        }
        environment |= {"SLURM_LOCAL_DIR": str(folder), "SLURM_CONF": str(folder / "slurm.conf")}
        environment["SLURM_LOCAL_CPUS"] = "2"
        cluster = cls(folder, environment)
        cluster.call(str(ROOT / "slurm" / "start-local-slurm.sh"))
        return cluster

    def stop(self) -> None:
        """Bring it down."""
        self.call(str(ROOT / "slurm" / "stop-local-slurm.sh"))

    def call(self, *command: str) -> str:
        """Output of a command that must succeed."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
        return done.stdout

    def jobs(self) -> list[list[str]]:
        """Array, place in it, state and name of the jobs that wait or run."""
        listed = self.call("squeue", "--noheader", "--array", "--format=%F %K %T %j")
        return [line.split() for line in listed.splitlines()]

    def daemon(self, name: str) -> int:
        """Process id of one of the cluster's daemons."""
        return int((self.folder / "run" / f"{name}.pid").read_text())


@dataclass(frozen=True)
class Bench:
    """A results folder of a test and the commands that work on it."""

    cluster: Cluster
    results: Path

    def command(self, *arguments: str) -> list[str]:
        """One of the harness's commands on these results."""
        return [sys.executable, "-m", "harness", *arguments, "--results", str(self.results)]

    def harness(
        self, *arguments: str, status: int = 0, root: Path = ROOT, folder: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the code at `root`, in a folder, to its end; its exit status must be that one."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.cluster.environment | {"PYTHONPATH": str(root)},
            cwd=folder or root,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.cluster.environment | {"PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def records(self) -> list[Record]:
        """All records so far."""
        return read_records(self.results)

    def submissions(self) -> list[Submission]:
        """All arrays submitted so far."""
        files = sorted(self.results.glob(".work/sweeps/*/submission-*.json"))
        return [msgspec.json.decode(path.read_bytes(), type=Submission) for path in files]

    @property
    def job_id(self) -> str:
        """Array or job of the latest submission."""
        wait(lambda: bool(self.submissions()) and self.submissions()[-1].job_id is not None, "a job")
        return str(self.submissions()[-1].job_id)

    def jobs(self) -> list[list[str]]:
        """Those of the cluster's jobs that are this results folder's."""
        mine = {submission.job_id for submission in self.submissions()}
        return [row for row in self.cluster.jobs() if row[0] in mine]

    def steps(self) -> list[int]:
        """How far each trial under way is."""
        found = []
        for path in self.results.glob(".work/*/progress.json"):
            progress: dict[str, Any] = json.loads(path.read_text())
            found.append(int(progress["step"]) if progress["phase"] == "distill" else -1)
        return found

    def under_way(self, trials: int = 1, step: int = 1) -> None:
        """Wait until so many trials have made so many steps."""
        wait(lambda: sum(done >= step for done in self.steps()) >= trials, "trials under way")

    def settled(self, trials: int) -> list[Record]:
        """Wait until there are so many records, and no jobs; returns the records."""
        wait(lambda: len(self.records()) >= trials and not self.jobs(), "all records")
        return self.records()


def wait(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait until something holds; fails the test if it takes too long."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"gave up waiting for {what}"
        time.sleep(0.2)


def labels(records: Sequence[Record]) -> list[tuple[str, int, int, str]]:
    """What each record is of and how it ended, sorted."""
    return sorted((r.trial.method, r.trial.ipc, r.trial.seed, r.status) for r in records)
