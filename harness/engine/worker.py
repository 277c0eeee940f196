"""`python -m harness.engine.worker`: run the one trial that is described on stdin, in a process of its own.

`harness.launch.forkserver` forks processes that do the same, which have torch imported when they begin.
Everything it prints goes to the job's log, else to `log.txt` in the trial's work folder; how far it is, to
`progress.json` there. On SIGTERM it stops after the step it is at and leaves a checkpoint of that. It dies
with the process that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from harness.core import clock
from harness.core.errors import UserError
from harness.core.files import replacing
from harness.engine import provenance as code
from harness.engine.claim import BusyError
from harness.engine.outcomes import failure
from harness.engine.record_files import existing_path
from harness.engine.records import Trial
from harness.engine.settings import RunSettings
from harness.engine.trial import refused, run_trial

if TYPE_CHECKING:
    from harness.core.progress import Progress

DONE, FAILED, BUSY = 0, 1, 75  # exit statuses; 75 is EX_TEMPFAIL of sysexits.h
STOPPED = 128 + signal.SIGTERM  # as shells have it: SIGTERM ended it, the trial is to be gone on with
# Schedulers end a whole job by SIGTERM to each process, and the launcher passes on the one that it got: both
# are one wish.
SAME_WISH_SECONDS = 3.0
PROGRESS_NAME = "progress.json"
PR_SET_PDEATHSIG = 1  # linux/prctl.h

# The worker's own lines in a log, see `_opening` and `_run`.
OPENING = re.compile(r"\d{4}-\d\d-\d\dT\S+ \S+ pid \d+ attempt \d+ ")
CLOSING = re.compile(r"\d{4}-\d\d-\d\dT\S+ (done|failed|timeout|oom|stopped)\b")


class Job(msgspec.Struct, frozen=True):
    """What a launcher sends to a worker.

    parent: process id that the worker dies with.
    attempt: how often the trial was begun without being stopped in order, this time included.
    """

    trial: Trial
    settings: RunSettings
    parent: int
    attempt: int = 1

    @property
    def log_path(self) -> Path:
        """Where the worker's output goes."""
        return self.settings.log_of(self.trial)

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
    loss: float | None = None
    host_bytes: int | None = None
    label: str = ""

    @classmethod
    def read(cls, work: Path) -> Snapshot | None:
        """What a trial's work folder tells; None before there is anything, or while it is being replaced."""
        try:
            return msgspec.json.decode((work / PROGRESS_NAME).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError):
            return None

    @classmethod
    def of(cls, progress: Progress, trial: Trial) -> Snapshot:
        """Progress as a loop reports it, with this process's memory."""
        host_bytes = clock.host_bytes()
        return cls(progress.phase, progress.step, progress.total, progress.loss, host_bytes, trial.label)


def main() -> int:
    """Run the job on stdin; see `work`."""
    return work(Job.decode(sys.stdin.buffer.read()))


def work(job: Job) -> int:
    """Run a job, as all that this process does; the exit status tells whether its record is done."""
    _die_with(job.parent)
    wish = _StopRequest()
    signal.signal(signal.SIGTERM, wish.on_signal)
    for warning in (signal.SIGUSR1, signal.SIGUSR2):
        # Schedulers may send these to a whole job before its end; what follows is for the launcher to decide.
        signal.signal(warning, signal.SIG_IGN)
    launcher = _Launcher()
    try:
        _redirect_output(job.log_path)
    except OSError:
        # A log that cannot be written must not end a trial, and nobody reads on where it was to be told.
        _redirect_output(Path(os.devnull))
    _say(_opening(job))
    logging.basicConfig(format="%(message)s")
    logging.getLogger("methods").setLevel(logging.INFO)  # what methods tell of themselves is for the log
    try:
        return _run(job, wish)
    except BusyError:
        return BUSY
    except (UserError, OSError) as error:
        reason = failure(error)[1]
        _say(reason)
        launcher.tell(reason)
        return FAILED
    except BaseException as error:
        # `harness.core.loop.Stopped` above all, which cannot be named here without importing torch.
        if not wish.granted:
            raise
        _say(f"{clock.now()} {error}")
        return STOPPED
    finally:
        # The status is decided, and at its own end Python would hand SIGTERM back to the system.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _flush()


def _run(job: Job, wish: _StopRequest) -> int:
    trial, settings = job.trial, job.settings
    if existing_path(trial, settings.results) is not None:
        return BUSY  # launchers send no trial that has a record: another run was quicker
    objection = _objection(job)
    if objection is None:
        path = trial.work_folder(settings.results) / PROGRESS_NAME
        record = run_trial(trial, settings, wish.watching(_progress_writer(path, trial)), wish.should_stop)
    else:
        record = refused(trial, settings.results, objection)
    _say(f"{clock.now()} {record.status} {record.reason or ''}".rstrip())
    return DONE if record.status == "done" else FAILED


def _objection(job: Job) -> str | None:
    """Why the trial is not to be run with the code that is here, in one line."""
    submitted = job.settings.code_digest_of(job.trial)
    if submitted is None or submitted == (now := code.code_digest(job.trial)):
        return None
    return (
        f"the code on the measured path changed since this trial was submitted (submitted {submitted}, "
        f"now {now}); start the same command again to run it with the present code"
    )


class _StopRequest:
    """What SIGTERM does: a loop stops after its present step; outside of loops the process ends at once.

    So it does at a second SIGTERM. A loop counts from its second step on: before that there is one step to
    lose. `granted` says whether a loop was told to stop.
    """

    def __init__(self) -> None:
        self.granted = False
        self._since: float | None = None
        self._in_loop = False

    def on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        """Note the wish, or leave by way of the `finally` blocks."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            if self._in_loop:
                return
        elif now - self._since < SAME_WISH_SECONDS:
            return
        raise SystemExit(STOPPED)

    def should_stop(self) -> bool:
        """What loops ask that have steps left."""
        self._in_loop = True
        self.granted = self._since is not None
        return self.granted

    def watching(self, tell: Callable[[Progress], None]) -> Callable[[Progress], None]:
        """The same listener, where the end of each loop is noticed as well."""

        def heard(progress: Progress) -> None:
            self._in_loop = progress.step < progress.total
            tell(progress)

        return heard


def _progress_writer(path: Path, trial: Trial) -> Callable[[Progress], None]:
    def write(progress: Progress) -> None:
        # A full disk must not end a trial for the sake of its progress bar.
        with contextlib.suppress(OSError), replacing(path, durable=False) as aside:
            aside.write_bytes(msgspec.json.encode(Snapshot.of(progress, trial)))

    return write


class _Launcher:
    """Whoever started this process and listens to its stderr, until that goes to the log."""

    def __init__(self) -> None:
        self._ear = os.dup(2)

    def tell(self, text: str) -> None:
        """Say what the log may have no room for."""
        with contextlib.suppress(OSError):
            os.write(self._ear, f"{text}\n".encode())


def _say(text: str) -> None:
    """Write a line to the log, in order with what was printed before."""
    _flush()
    with contextlib.suppress(OSError):
        os.write(1, f"{text}\n".encode())


def _flush() -> None:
    """Write what was printed, or drop it if that cannot be: Python would end with another exit status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _redirect_output(log: Path) -> None:
    """Send all output of this process, also that of native libraries, to the end of a file, as UTF-8."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies; a thread looks after it where it cannot."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(FAILED)

    threading.Thread(target=watch, daemon=True).start()


def _opening(job: Job) -> str:
    """The line that an attempt's part of the log begins with, `last_words` knows it."""
    settings = job.settings
    threads = "default" if settings.threads is None else settings.threads
    return (
        f"{clock.now()} {platform.node() or 'unknown'} pid {os.getpid()} attempt {job.attempt} "
        f"device {settings.device} threads {threads}: {job.trial.label}"
    )


def last_words(log: Path, count: int) -> list[str]:
    """Up to `count` last lines of the latest attempt in a log: the end of its traceback, if there is one.

    Blank lines and the worker's own first and last line do not count, nor does what earlier attempts said.
    """
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    start = max((k for k, line in enumerate(lines, 1) if OPENING.match(line)), default=0)
    said = [line.rstrip() for line in lines[start:] if line.strip() and not CLOSING.match(line)]
    start = max((k for k, line in enumerate(said, 1) if line.startswith("Traceback (")), default=0)
    return said[start:][-count:]


def _path_from(kind: type, value: Any) -> Any:
    return kind(value)


if __name__ == "__main__":
    sys.exit(main())
