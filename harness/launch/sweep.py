"""A sweep: the trials of one command, the logs that they leave and the jobs that were submitted for them.

It is a folder of small files, so that another shell, a driver started again and `status` find everything:

    <results>/.work/sweeps/<id>/sweep.json            the trials
                               /logs/<trial>.log      one readable log a trial
                               /submission-<N>.json   one array of jobs each, written before it is submitted
                               /jobs/                 submitit's own files and the jobs' output
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from harness.core import clock
from harness.core.errors import UserError
from harness.engine.record_files import write_atomically
from harness.engine.records import WORK_FOLDER, Trial
from harness.engine.settings import RunSettings

SWEEPS = "sweeps"


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The trials of a sweep, and when it was first started."""

    created_at: str
    launcher: str
    trials: tuple[Trial, ...]


class Work(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file keeps of `RunSettings`, whose names these are, for the jobs of one array.

    code_digests: of each trial's measured code at submission, by id; jobs refuse to run another.
    """

    results: str
    data_dir: str
    datasets: dict[str, str]
    device: str
    slots: int
    threads: int
    retries: int
    code_digests: dict[str, str]

    def settings(self, logs: Path) -> RunSettings:
        """The settings of the trials in a job."""
        return RunSettings(
            results=Path(self.results),
            data_dir=Path(self.data_dir),
            datasets=self.datasets,
            device=self.device,
            threads=self.threads,
            slots=self.slots,
            retries=self.retries,
            logs=logs,
            code_digests=self.code_digests,
        )


class Submission(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One array of jobs. Before `job_id` is known it may or may not have reached Slurm, as `name` tells.

    packs: ids of the trials of each job, in the order of the array.
    cancelled_at: when `cancel` ended it, if it did.
    """

    number: int
    name: str
    submitted_at: str
    resources: str
    packs: tuple[tuple[str, ...], ...]
    work: Work
    job_id: str | None = None
    cancelled_at: str | None = None


@dataclass(frozen=True)
class Sweep:
    """One sweep's folder."""

    folder: Path

    @property
    def id(self) -> str:
        """Eight hex digits that stand for its trials."""
        return self.folder.name

    @property
    def logs(self) -> Path:
        """Folder of the trials' logs."""
        return self.folder / "logs"

    @property
    def jobs(self) -> Path:
        """Folder of submitit and of the jobs' own output."""
        return self.folder / "jobs"

    @cached_property
    def manifest(self) -> Manifest:
        """What the sweep is; UserError if the file is not readable."""
        path = self.folder / "sweep.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Manifest)
        except (msgspec.DecodeError, OSError) as error:
            raise UserError(f"{path} is no sweep of this harness ({error}); delete its folder") from None

    def submissions(self) -> list[Submission]:
        """Everything submitted so far, in order; UserError for a file that is none."""
        found = []
        for path in sorted(self.folder.glob("submission-*.json"), key=lambda path: _number(path)):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=Submission))
            except msgspec.DecodeError as error:
                raise UserError(f"{path} is no submission of this harness ({error}); delete it") from None
        return found

    def write(self, submission: Submission) -> None:
        """Write a submission down, in place of its earlier version if there is one."""
        path = self.folder / f"submission-{submission.number}.json"
        write_atomically(path, msgspec.json.format(msgspec.json.encode(submission), indent=1) + b"\n")

    def job_name(self, number: int) -> str:
        """Name under which Slurm lists the jobs of a submission; no other sweep has it."""
        return f"dd-{self.id}-{number}"


def sweep_id(trials: Sequence[Trial], results: Path) -> str:
    """The same trials in any order are the same sweep: a command given again goes on with its own.

    The folder counts, since jobs of another one's sweep must not be taken for this one's.
    """
    identity = [str(results.absolute()), *sorted(trial.id for trial in trials)]
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()[:8]


def sweep_of(trials: Sequence[Trial], results: Path) -> Sweep:
    """The sweep of these trials under a results folder, which need not exist yet."""
    return Sweep(results.absolute() / WORK_FOLDER / SWEEPS / sweep_id(trials, results))


def open_sweep(trials: Sequence[Trial], results: Path, launcher: str) -> Sweep:
    """The sweep of these trials under a results folder, made if it is new."""
    sweep = sweep_of(trials, results)
    path = sweep.folder / "sweep.json"
    if not path.is_file():
        manifest = Manifest(clock.now(), launcher, tuple(trials))
        write_atomically(path, msgspec.json.encode(manifest))
    sweep.logs.mkdir(parents=True, exist_ok=True)
    return sweep


def sweeps(results: Path) -> Iterator[Sweep]:
    """All sweeps under a results folder, the oldest first."""
    files = (results / WORK_FOLDER / SWEEPS).glob("*/sweep.json")
    for path in sorted(files, key=lambda path: path.stat().st_mtime):
        yield Sweep(path.parent)


def _number(path: Path) -> int:
    digits = path.stem.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0
