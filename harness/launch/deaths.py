"""How often, and of what, the workers of a trial died: kept in its work folder, so that later runs count on.

A death is the end of a process that left no record of its trial: killed, crashed, or lost with its machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from filelock import FileLock

from harness.core import faults
from harness.core.text import plural
from harness.engine.record_files import write_atomically
from harness.engine.records import Record, Status, Trial

FILE_NAME, LOCK_NAME = "deaths.json", "deaths.lock"
OUT_OF_MEMORY = "out of memory"
# Not "by the cgroup's limit": the count has kills for want of the machine's memory as well.
KILLED_BY_KERNEL = f"{OUT_OF_MEMORY}: killed by the kernel (its cgroup counted an OOM kill)"


class Death(msgspec.Struct, frozen=True):
    """Why (in one line) and when a worker died; `job` is the cluster's name for what it died with."""

    reason: str
    at: str
    job: str | None = None

    @property
    def passes(self) -> bool:
        """Whether it was no death of the trial's own: a full disk, a library that is missing."""
        return faults.passing_line(self.reason) is not None

    @property
    def status(self) -> Status:
        """What a trial is that has died so for the last time."""
        return "oom" if self.reason.startswith(OUT_OF_MEMORY) else "failed"


def deaths(work: Path) -> tuple[Death, ...]:
    """The deaths noted in a trial's work folder, in order; none where the note is absent or unreadable."""
    try:
        return msgspec.json.decode((work / FILE_NAME).read_bytes(), type=tuple[Death, ...])
    except (OSError, msgspec.DecodeError):
        return ()


def note_death(work: Path, death: Death) -> int:
    """Add a death and return how many there are now; one whose `job` is noted already is not added again.

    Raises OSError if it cannot be written.
    """
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / LOCK_NAME):
        noted = deaths(work)
        if death.job is None or death.job not in {other.job for other in noted}:
            noted += (death,)
            write_atomically(work / FILE_NAME, msgspec.json.encode(noted))
    return len(noted)


def forget_deaths(work: Path) -> None:
    """Begin to count anew."""
    (work / FILE_NAME).unlink(missing_ok=True)


def death_record(trial: Trial, death: Death, attempts: int) -> Record:
    """Record of a trial that died once too often; it is run again only when that is asked for."""
    reason = f"{death.reason}; {plural(attempts, 'attempt')}"
    return Record(id=trial.id, status=death.status, reason=reason, resumable=False, trial=trial)


def oom_kills(
    membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """How many processes of this one's cgroup the kernel killed for want of memory; None if it does not tell.

    Children count as well: they are in the same cgroup.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for path in _counters(lines, mount):
        try:
            fields = dict(line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines())
            return int(fields["oom_kill"])
        except (OSError, KeyError, ValueError):
            continue
    return None


def _counters(lines: list[str], mount: Path) -> Iterator[Path]:
    """Where the count may lie, the likeliest first: `lines` are those of cgroups(7), `id:controllers:path`.

    In containers the mount may show only what is below the path, at its root.
    """
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield from (mount / "memory" / part / "memory.oom_control" for part in (path.lstrip("/"), ""))
        elif not controllers:
            yield from (mount / part / "memory.events" for part in (path.lstrip("/"), ""))
