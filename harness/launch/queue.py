"""What Slurm says of jobs: those in its queue, how one ended, how large an array may be.

Only squeue and scontrol are needed; sacct is asked last, since many clusters keep no accounting.
"""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import UserError

ACTIVE = frozenset(
    (
        *("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD"),
        *("REQUEUE_FED", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT"),
    )
)
LARGEST_ARRAY = 1001  # Slurm's own default of MaxArraySize
FORMAT = "%F|%K|%T|%r|%N|%j"
FAILURE = "allocation failure: "  # how sbatch --test-only begins its reason
SECONDS = 30.0  # that a command of Slurm's may take


class SlurmUnreachableError(UserError):
    """Slurm's controller does not answer: nothing can be said of any job just now."""


@dataclass(frozen=True)
class QueuedJob:
    """One job, or one of an array; `index` is 0 for a job that is no array."""

    job_id: str
    index: int
    state: str
    reason: str = ""
    node: str = ""
    name: str = ""

    @property
    def active(self) -> bool:
        """Whether it is waiting, running or going to run again."""
        return self.state in ACTIVE

    @property
    def key(self) -> tuple[str, int]:
        """Array and place in it."""
        return self.job_id, self.index


def check_installed() -> None:
    """UserError if this machine has no Slurm."""
    missing = [name for name in ("sbatch", "srun", "squeue", "scontrol") if shutil.which(name) is None]
    if missing:
        raise UserError(
            f"no Slurm on this machine ({', '.join(missing)} not found); run this on a login node of the "
            "cluster, or type --launcher local"
        )


def queue(user: str | None = None) -> dict[tuple[str, int], QueuedJob]:
    """All jobs of a user that Slurm remembers, those that ended minutes ago included.

    Raises SlurmUnreachableError if the controller does not answer.
    """
    user = user or getpass.getuser()
    listed = _ask(["squeue", "--noheader", "--array", "--states=all", f"--user={user}", f"--format={FORMAT}"])
    jobs = (_parse(line) for line in listed.splitlines())
    return {job.key: job for job in jobs if job is not None}


def final_state(job_id: str, index: int) -> str | None:
    """State in which a job ended that has left the queue, or None if Slurm does not know any more."""
    return _sacct(job_id).get(index)


def array_limit() -> int:
    """How many jobs an array may have on this cluster; Slurm's default where that cannot be asked."""
    if shutil.which("scontrol") is None:
        return LARGEST_ARRAY - 1
    try:
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask(["scontrol", "show", "config"]), re.MULTILINE)
    except SlurmUnreachableError:
        found = None
    return max(1, int(found[1]) - 1 if found else LARGEST_ARRAY - 1)


def refusal(script: Path) -> str | None:
    """Why Slurm would not take a batch script, in its own words, or None if it would.

    Raises SlurmUnreachableError if the controller does not answer in time.
    """
    tried = _run(["sbatch", "--test-only", str(script)])
    if tried.returncode == 0:
        return None
    lines = [line.removeprefix("sbatch: ") for line in tried.stderr.splitlines() if line.strip()]
    failures = (line.partition(FAILURE)[2] for line in lines if line.startswith(FAILURE))
    return next(failures, lines[0] if lines else "it gives no reason")


def nodes_elsewhere(partition: str | None) -> bool:
    """Whether the partition (all of them without one) has nodes on other machines than this one."""
    import socket

    asked = ["sinfo", "--noheader", "--format=%o", "--Node"]
    hosts = set(_ask(asked + ([f"--partition={partition}"] if partition else [])).split())
    here = socket.gethostname()
    own = {here, here.split(".")[0], "localhost", "127.0.0.1", *_own_addresses(here)}
    return not hosts <= own


def cancel(job_ids: Iterable[str]) -> None:
    """End jobs and arrays; those that are over already do not matter."""
    ids = list(job_ids)
    if ids:
        _ask(["scancel", *ids])


def _own_addresses(host: str) -> list[str]:
    import socket

    try:
        return socket.gethostbyname_ex(host)[2]
    except OSError:
        return []


def _parse(line: str) -> QueuedJob | None:
    parts = line.strip().split("|", 5)
    if len(parts) != 6:
        return None
    job_id, index, state, reason, node, name = parts
    return QueuedJob(job_id, int(index) if index.isdigit() else 0, state, reason, node, name)


def _sacct(job_id: str) -> Mapping[int, str]:
    """Final states of a job's tasks by their place in the array, as far as there is accounting."""
    if shutil.which("sacct") is None:
        return {}
    shape = ["--noheader", "--parsable2", "--allocations", "--format=JobID,State"]
    try:
        listed = _ask(["sacct", *shape, f"--jobs={job_id}"])
    except SlurmUnreachableError:
        return {}
    states = {}
    for line in listed.splitlines():
        name, _, state = line.partition("|")
        index = name.partition("_")[2]
        if state and (index.isdigit() or not index):
            # "CANCELLED by 1000" tells who did it.
            states[int(index or 0)] = state.split()[0]
    return states


def _ask(command: list[str]) -> str:
    done = _run(command)
    if done.returncode != 0:
        words = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise SlurmUnreachableError(f"Slurm does not answer ({command[0]}: {words})")
    return done.stdout


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """A command of Slurm's that has ended, well or not; SlurmUnreachableError if it takes too long."""
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=SECONDS, check=False
        )
    except FileNotFoundError:
        check_installed()
        raise
    except subprocess.TimeoutExpired:
        raise SlurmUnreachableError(f"Slurm does not answer ({command[0]} waited {SECONDS:g} s)") from None
