"""Which errors and last words tell of a fault that passes, and which of a failure that would come again."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from harness.core.errors import CircumstanceError, DataError, DivergedError, UserError
from harness.core.faults import number_of, passing, passing_line
from harness.engine.outcomes import failure

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
INLINE = "[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"
REFUSED = "PytorchStreamReader failed reading zip archive: failed finding central directory"


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """`error` raised from `cause`."""
    error.__cause__ = cause
    return error


def met(error: BaseException, other: BaseException) -> BaseException:
    """`error` raised while `other` was dealt with."""
    error.__context__ = other
    return error


def compile_error(said: bytes) -> BaseException:
    return caused(RuntimeError("C++ compile error"), subprocess.CalledProcessError(1, "g++", output=said))


PASSING = [
    FULL,
    OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    OSError(errno.EROFS, os.strerror(errno.EROFS)),
    OSError(errno.EIO, os.strerror(errno.EIO)),
    OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
    OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"),
    SafetensorError("I/O error: irgendetwas (os error 28)"),
    RuntimeError(INLINE),
    met(RuntimeError(INLINE), FULL),
    RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter: file write failed"),
    RuntimeError("basic_ios::clear: iostream error"),
    OSError("100000 requested and 16352 written"),
    FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/var/tmp']"),
    caused(RuntimeError("InductorError"), FULL),
    RuntimeError("InductorError: OSError: [Errno 28] No space left on device\n\nSet TORCHDYNAMO_VERBOSE=1"),
    compile_error(b"x.cpp: note\n/usr/bin/ld: final link failed: No space left on device\n"),
    compile_error(b"collect2: fatal error: ld terminated with signal 7 [Bus error], core dumped\n"),
    caused(UserError("cannot write a.png: full"), FULL),
    ImportError("libcudart.so.12: cannot open shared object file: No such file or directory"),
    OSError("libgomp.so.1: cannot open shared object file: No such file or directory"),
    ModuleNotFoundError("No module named 'scipy'", name="scipy"),
    caused(RuntimeError("cannot compile"), ImportError("no triton", name="triton")),
    CircumstanceError("digits changed since the run was planned; start the command again"),
]
FAILURES = [
    ValueError("shapes differ"),
    RuntimeError("shapes differ"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "weights.pt"),
    RuntimeError(f"{REFUSED} (inline_container.cc:145)"),
    UserError("type this"),
    DataError("class 3 has 2 images, ipc is 10"),
    DivergedError("the loss is nan"),
    ImportError("cannot import name 'dm_los' from 'methods.shared.kernels'", name="methods.shared.kernels"),
    ModuleNotFoundError("No module named 'methods.kernel'", name="methods.kernel"),
    met(ValueError("shapes differ"), ImportError("no triton", name="triton")),
    KeyError(28),
]


def told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:60]


@pytest.mark.parametrize("error", PASSING, ids=told)
def test_faults_that_pass_are_gone_on_with(error: BaseException) -> None:
    status, reason, resumable = failure(error)
    assert (status, resumable) == ("failed", True)
    assert reason
    assert "\n" not in reason


@pytest.mark.parametrize("error", FAILURES, ids=told)
def test_failures_that_would_come_again_are_not(error: BaseException) -> None:
    assert failure(error)[::2] == ("failed", False)
    assert passing(error) is None


def test_the_reason_names_the_file_or_else_who_met_with_it() -> None:
    assert (
        passing(OSError(errno.ENOSPC, "No space left on device", "a.pt")) == "No space left on device: a.pt"
    )
    assert passing(met(RuntimeError(INLINE), FULL)) == "No space left on device (RuntimeError)"
    said = b"x\n/usr/bin/ld: final link failed: No space left on device\n"
    assert passing(compile_error(said)) == "/usr/bin/ld: final link failed: No space left on device"


def test_number_of_a_fault() -> None:
    assert number_of(met(RuntimeError(INLINE), FULL)) == errno.ENOSPC
    assert number_of(SafetensorError("I/O error: x (os error 30)")) == errno.EROFS
    assert number_of(RuntimeError(INLINE)) is None
    assert number_of(FileNotFoundError(errno.ENOENT, "no such file")) is None


def test_errors_that_refer_to_each_other_end() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__context__, two.__context__ = two, one
    assert passing(one) is None


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        ("killed by SIGBUS", True),
        ("killed by SIGSEGV", False),
        ("killed by SIGKILL, perhaps by the kernel for want of memory", False),
        ("the worker ended with exit status 1: ModuleNotFoundError: No module named 'msgspec'", True),
        ("the worker ended with exit status 1: No space left on device: a.json", True),
        ("the worker ended with exit status 3: last words", False),
        ("its log is empty", False),
    ],
)
def test_last_words(words: str, passes: bool) -> None:
    assert (passing_line(words) is not None) == passes


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_what_libraries_make_of_a_full_disk() -> None:
    def save() -> None:
        with open("/dev/full", "wb") as file:
            torch.save({"x": torch.zeros(100_000)}, file)

    writers = (
        save,
        lambda: torch.save({"x": torch.zeros(100_000)}, "/dev/full"),
        lambda: np.zeros(100_000).tofile("/dev/full"),
    )
    for write in writers:
        with pytest.raises((OSError, RuntimeError)) as caught:
            write()
        assert passing(caught.value) is not None, caught.value
