"""How the launcher's worker processes begin: forked from one that has imported torch, else each by itself."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, Protocol

from harness.engine.provenance import ROOT
from harness.launch.forkserver import CHANGED, READY, Start

PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37  # linux/prctl.h
FORK_SECONDS = 60.0  # for the fork server to answer; it takes a tenth of one
END_SECONDS = 10.0  # for one that said it ends


class Process(Protocol):
    """What the launcher uses of `subprocess.Popen`."""

    stderr: IO[bytes] | None

    @property
    def returncode(self) -> int | Any:
        """Exit status, negative for a signal; None until `poll` has seen the end."""

    def poll(self) -> int | None:
        """The same, as it is now."""

    def terminate(self) -> None:
        """Send SIGTERM, unless it is gone."""

    def kill(self) -> None:
        """Send SIGKILL, unless it is gone."""


class Starter(Protocol):
    """A way for worker processes to begin."""

    def ready(self) -> bool:
        """Whether a process can begin now; what has to be got ready for that is begun."""

    def start(self, environment: Mapping[str, str], job: bytes) -> Process:
        """Begin a process with this environment, in a session of its own, that does the job."""

    def close(self) -> None:
        """Nothing more is to begin; processes that have go on."""


class EachByItself:
    """Every process starts Python anew and imports all that it needs, which takes seconds."""

    def ready(self) -> bool:
        """Always."""
        return True

    def start(self, environment: Mapping[str, str], job: bytes) -> Process:
        """See `Starter.start`."""
        process = subprocess.Popen(
            worker_command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            # Heard until the worker has its log; and what it could not write there.
            stderr=subprocess.PIPE,
            env=dict(environment),
            # A Ctrl-C in the terminal is for the launcher, which stops the workers in its own way.
            start_new_session=True,
        )
        if process.stdin is not None:
            # A worker that died at once shows in its exit status.
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(job)
        return process

    def close(self) -> None:
        """Nothing is kept."""


class Forked:
    """Processes are forked from a fork server; one that is gone is replaced, with a line that says so.

    Where none can be had, in the first place or any more, each process starts by itself. The environment is
    what is the same for all processes: libraries read some of it as they are imported.
    """

    def __init__(self, environment: Mapping[str, str], note: Callable[[str], None]) -> None:
        self._environment = environment
        self._note = note
        self._server: _ForkServer | None = None
        self._has_forked = False
        self._instead: EachByItself | None = None

    def ready(self) -> bool:
        """See `Starter.ready`: a fork server needs seconds to import torch."""
        if self._instead is not None:
            return True
        try:
            if self._server is None:
                self._has_forked = False
                self._server = _ForkServer(self._environment)
            return self._server.ready()
        except ServerGoneError as error:
            self._replace(error)
        return self._instead is not None

    def start(self, environment: Mapping[str, str], job: bytes) -> Process:
        """See `Starter.start`; what the fork server cannot begin begins by itself."""
        if self._server is not None:
            try:
                process = self._server.start(environment, job)
                self._has_forked = True
                return process
            except ServerGoneError as error:
                self._replace(error)
        return EachByItself().start(environment, job)

    def close(self) -> None:
        """See `Starter.close`."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _replace(self, error: ServerGoneError) -> None:
        """Let another fork server begin at the next need, unless this one was of no use at all."""
        self.close()
        if error.in_order:
            return
        if self._has_forked:
            self._note(f"the process that trials are forked from {error}; another is started")
        else:
            self._note(f"each trial imports torch anew, which takes seconds: the fork server {error}")
            self._instead = EachByItself()


class ServerGoneError(Exception):
    """A fork server ended, or cannot be; `in_order`: it ended as it should, for code that has changed."""

    def __init__(self, why: str, *, in_order: bool = False) -> None:
        super().__init__(why)
        self.in_order = in_order


class _ForkServer:
    """A process that runs `harness.launch.forkserver`. Its methods raise ServerGoneError."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        if not can_fork():
            raise ServerGoneError(f"needs Linux, this is {sys.platform}")
        self._ready = False
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(FORK_SECONDS)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*server_command(), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=dict(environment),
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError as error:
            self._channel.close()
            raise ServerGoneError(f"cannot be started: {error}") from error

    def ready(self) -> bool:
        """Whether it has imported all and can fork."""
        if select.select([self._channel], [], [], 0)[0]:
            self._ready = self._answer() == READY  # it says it once, then there is but its end to be seen
        return self._ready

    def start(self, environment: Mapping[str, str], job: bytes) -> ForkedProcess:
        """Have a process forked; see `Starter.start`."""
        block = {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            (stdin, to_stdin), (from_stderr, stderr) = os.pipe(), os.pipe()
            for file in (stdin, stderr):
                theirs.callback(os.close, file)
            pipe = ours.enter_context(os.fdopen(to_stdin, "wb"))
            heard = ours.enter_context(os.fdopen(from_stderr, "rb"))
            process = ForkedProcess(self._fork(stdin, stderr), heard)
            if process.poll() is not None and process.is_foreign:
                raise ServerGoneError("cannot fork children of this process here")
            ours.pop_all()
        # One that died at once shows in its exit status.
        with contextlib.suppress(BrokenPipeError), pipe:
            pipe.write(Start(block, job).encode())
        return process

    def close(self) -> None:
        """End it. What it forked goes on."""
        self._channel.close()
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _fork(self, stdin: int, stderr: int) -> int:
        """The number of a new process that has these files."""
        try:
            with _taking_in_orphans():
                socket.send_fds(self._channel, [b"1"], [stdin, stderr])
                answer = self._answer()
        except ConnectionError:
            raise ServerGoneError(self._end()) from None
        except OSError as error:
            raise ServerGoneError(f"does not answer: {error}") from error
        if answer == CHANGED:
            raise ServerGoneError("has older code than there is now", in_order=True)
        if int(answer) < 0:
            raise ServerGoneError("could not fork")
        return int(answer)

    def _answer(self) -> bytes:
        """What it says next."""
        try:
            answer = self._channel.recv(64)
        except ConnectionError:
            answer = b""
        if not answer:
            raise ServerGoneError(self._end())
        return answer

    def _end(self) -> str:
        """Why it is gone, as words that follow on its name."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        code = self._process.returncode
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit status {code}: {heard(self._process) or 'it said nothing'}"


class ForkedProcess:
    """A child of this process that another one forked. See `Process`.

    is_foreign: it turned out to be another process's child, or the kernel has forgotten it.
    """

    def __init__(self, pid: int, stderr: IO[bytes]) -> None:
        self.pid = pid
        self.stderr: IO[bytes] | None = stderr
        self.is_foreign = False
        self._returncode: int | None = None

    @property
    def returncode(self) -> int | Any:
        """See `Process`; 0, as `subprocess` has it, where the kernel keeps no exit status."""
        return 0 if self._returncode is None and self.is_foreign else self._returncode

    def poll(self) -> int | None:
        """See `Process`. It never waits for a lock, which interrupted code may have."""
        if self._returncode is None:
            try:
                found, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.is_foreign = True  # or interrupted code has the status and is about to note it
            else:
                if found:
                    self._returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def terminate(self) -> None:
        """See `Process`."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """See `Process`."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@contextmanager
def _taking_in_orphans() -> Iterator[None]:
    """Let processes whose parents end, among this one's descendants, become children of this process."""
    library, before = ctypes.CDLL(None), ctypes.c_int(0)
    library.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    library.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        library.prctl(PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def can_fork() -> bool:
    """Whether another process's fork can become this one's child: by orphans that are taken in."""
    return sys.platform == "linux"


def heard(process: Process | subprocess.Popen[bytes]) -> str:
    """The last line that a process which is over said on stderr."""
    if process.stderr is None:
        return ""
    with process.stderr as pipe:
        # What it left running may still hold the other end.
        os.set_blocking(pipe.fileno(), False)
        lines = (pipe.read() or b"").decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def own_python() -> list[str]:
    """Python for `-m MODULE` with the code of this process, whatever lies in the current folder."""
    return [sys.executable, "-u", str(ROOT / "harness" / "__main__.py")]


def worker_command() -> list[str]:
    """What is started for a trial that is not forked."""
    return [*own_python(), "-m", "harness.engine.worker"]


def server_command() -> list[str]:
    """What is started to fork from; it gets a number of a file as well."""
    return [*own_python(), "-m", "harness.launch.forkserver"]
