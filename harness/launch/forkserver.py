"""`python -m harness.launch.forkserver FD`: has imported torch, and forks a process for each trial.

A launcher starts it and asks for processes by a socket, FD: one byte, with what is to be the process's stdin
and stderr. The answer is the number of a process that is the launcher's own child, as if it had started it:
it goes on when the fork server is gone, and its end is told by the kernel. It reads a `Start` on stdin and
does what `python -m harness.engine.worker` does.

Threads do not survive a fork, nor does CUDA: importing must begin neither, and a fork server that finds
otherwise says so and ends. It ends as well when a source file that it has imported has changed, since the
digest that a worker records is of the files; and with its launcher.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

import methods
from harness.core.imports import OWN, ROOT
from harness.engine.worker import PR_SET_PDEATHSIG, Job, work

# What every trial imports, and with it torch, NumPy and safetensors; but no method.
IMPORTED = (
    "harness.core.context",
    "harness.core.data",
    "harness.core.distilled",
    "harness.core.preview",
    "harness.engine.evaluate",
    "harness.engine.predictions",
    "PIL.PngImagePlugin",
)
READY, CHANGED = b"ready", b"changed"  # what it tells its launcher beside process ids
FILES_OF_A_PROCESS = 2  # its stdin and its stderr
# Of a forked process; the kernel allows for 15 letters. Without a blank: behind one Slurm finds no parent in
# /proc, so that it would not signal the process when its job is to end.
WORKER_NAME = "harness-worker"


class Start(msgspec.Struct, frozen=True):
    """What a forked process reads: all of its environment, and its job as a worker reads it."""

    environment: dict[bytes, bytes]
    job: bytes

    def encode(self) -> bytes:
        """As bytes, of any content."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def decode(content: bytes) -> Start:
        """The start of those bytes."""
        return msgspec.msgpack.decode(content, type=Start)


class ThreadsError(Exception):
    """Something is under way in this process that its children would miss."""


def prepare() -> None:
    """Do what every trial would do before it has begun to differ from others."""
    for name in IMPORTED:
        importlib.import_module(name)
    methods.discover()  # keeps what it found, by the files' times


def main(do: Callable[[Job], int] = work, prepare: Callable[[], None] = prepare) -> int:
    """Fork until the launcher is gone; the forked processes return as well, each with its job done."""
    job = serve(socket.socket(fileno=int(sys.argv[1])), prepare)
    return 0 if job is None else do(job)


def serve(channel: socket.socket, prepare: Callable[[], None]) -> Job | None:
    """None once no process is asked for any more; in each forked process the job that it is to do."""
    from harness.launch.residency import bring_in, file_pages  # with NumPy, which launchers do without

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for warning in (signal.SIGUSR1, signal.SIGUSR2):
        # As in a worker: schedulers may send these to a whole job before its end.
        signal.signal(warning, signal.SIG_IGN)
    _be_called("harness-forks")
    before = _versions(path for name in OWN for path in (ROOT / name).rglob("*.py"))
    prepare()
    used = {path: before.get(path) for path in _own_files()}
    _check_nothing_is_under_way()
    gc.collect()
    gc.freeze()  # collections in the children leave the pages alone that they share
    pages = file_pages()
    channel.send(READY)
    while True:
        message, files, _, _ = socket.recv_fds(channel, 1, FILES_OF_A_PROCESS)
        if not message:
            return None
        if _versions(used) != used:
            channel.send(CHANGED)
            return None
        pid = _fork()
        if pid == 0:
            channel.close()
            bring_in(pages)
            return _begin(*files)
        for file in files:
            os.close(file)
        channel.send(str(pid).encode())


def _fork() -> int:
    """Fork a process, as a child of whichever process takes in orphans; in the child the answer is 0.

    A process between the two ends at once. When it is seen to be gone, its child has the other parent.
    """
    heard, told = os.pipe()
    between = os.fork()
    if between == 0:
        os.close(heard)
        try:
            pid = os.fork()
        except OSError:
            os._exit(1)
        if pid:
            os.write(told, str(pid).encode())
            os._exit(0)
        os.close(told)
        return 0
    os.close(told)
    with os.fdopen(heard) as pipe:
        pid = int(pipe.read() or -1)
    os.waitpid(between, 0)
    return pid


def _begin(stdin: int, stderr: int) -> Job:
    """Make a forked process one of its own: its session, its stderr, its environment; returns its job."""
    os.setsid()
    _be_called(WORKER_NAME)
    for warning in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(warning, signal.SIG_DFL)
    os.dup2(stderr, 2)
    os.close(stderr)
    with os.fdopen(stdin, "rb") as pipe:
        start = Start.decode(pipe.read())
    os.environb.clear()
    os.environb.update(start.environment)
    return Job.decode(start.job)


def _be_called(name: str) -> None:
    """Let `ps` and `top` show this name: the command line is that of all forked processes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="utf-8")


def _check_nothing_is_under_way() -> None:
    """ThreadsError if there is a thread that does not heed forks, or CUDA was begun."""
    child = (
        os.fork()
    )  # NumPy's OpenBLAS ends its threads for this, and starts them again where they are needed
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with contextlib.suppress(FileNotFoundError):
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1:
            raise ThreadsError(f"importing began {threads - 1} threads, which do not survive a fork")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise ThreadsError("importing began the use of CUDA, which does not survive a fork")


def _versions(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """What tells each file from what it was before; none for one that is gone."""
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):
            facts = path.stat()
            found[path] = (facts.st_mtime_ns, facts.st_size)
    return found


def _own_files() -> Iterator[Path]:
    """The source files of ours that are imported."""
    for name, module in tuple(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and name.partition(".")[0] in OWN:
            yield Path(file).resolve()


if __name__ == "__main__":
    sys.exit(main())
