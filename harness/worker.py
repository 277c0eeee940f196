"""`python -m harness.worker`: run the one trial that is described on stdin, in a process of its own.

Everything it prints goes to `log.txt` in the trial's work folder; how far it is, to `progress.json` there.
It dies with the process that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from harness import meter
from harness.errors import UserError
from harness.records import Trial
from harness.trial import LOG_NAME, BusyError, Settings, failure, run_trial

if TYPE_CHECKING:
    from harness.loop import Progress

DONE, FAILED, BUSY = 0, 1, 75  # exit statuses; 75 is EX_TEMPFAIL of sysexits.h
PROGRESS_NAME = "progress.json"
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Job(msgspec.Struct, frozen=True):
    """What a launcher sends to a worker; `parent` is the process id that the worker dies with."""

    trial: Trial
    settings: Settings
    parent: int

    def encode(self) -> bytes:
        """The job as JSON."""
        return msgspec.json.encode(self, enc_hook=str)

    @staticmethod
    def decode(content: bytes) -> Job:
        """The job of that JSON."""
        return msgspec.json.decode(content, type=Job, dec_hook=_path_from)


class Snapshot(msgspec.Struct, frozen=True):
    """How far a trial is: the content of `progress.json`. `label` is the trial's name for people."""

    phase: str
    step: int
    total: int
    loss: float | None
    host_bytes: int | None
    label: str = ""

    @classmethod
    def of(cls, progress: Progress, trial: Trial) -> Snapshot:
        """Progress as a loop reports it, with this process's memory."""
        host_bytes = meter.host_bytes()
        return cls(progress.phase, progress.step, progress.total, progress.loss, host_bytes, trial.label)


def main() -> int:
    """Run the job on stdin; the exit status tells whether its record is done."""
    job = Job.decode(sys.stdin.buffer.read())
    _die_with(job.parent)
    signal.signal(signal.SIGTERM, _stop)
    work = job.trial.work_folder(job.settings.results)
    _redirect_output(work / LOG_NAME)
    try:
        return _run(job, work)
    except BusyError:
        return BUSY
    except (UserError, OSError) as error:
        print(failure(error)[1], flush=True)
        return FAILED


def _run(job: Job, work: Path) -> int:
    if job.trial.record_path(job.settings.results).exists():
        return BUSY  # launchers send no trial that has a record: another run was quicker
    record = run_trial(job.trial, job.settings, _progress_writer(work / PROGRESS_NAME, job.trial))
    print(f"{meter.now()} {record.status} {record.reason or ''}".rstrip(), flush=True)
    return DONE if record.status == "done" else FAILED


def _progress_writer(path: Path, trial: Trial) -> Callable[[Progress], None]:
    aside = path.with_suffix(".tmp")

    def write(progress: Progress) -> None:
        # A full disk must not end a trial for the sake of its progress bar.
        with contextlib.suppress(OSError):
            aside.write_bytes(msgspec.json.encode(Snapshot.of(progress, trial)))
            aside.replace(path)

    return write


def _redirect_output(log: Path) -> None:
    """Send all output of this process, also that of native libraries, to the end of a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies; a thread looks after it where it cannot."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(FAILED)

    threading.Thread(target=watch, daemon=True).start()


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """On SIGTERM: leave by way of the `finally` blocks."""
    raise SystemExit(128 + signal.SIGTERM)


def _path_from(kind: type, value: Any) -> Any:
    return kind(value)


if __name__ == "__main__":
    sys.exit(main())
