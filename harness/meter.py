"""What a trial costs and under which circumstances: clock, peak memory, versions, digest of the code.

Importing this module does not import torch, so that `status` can compare code digests in an instant.
"""

from __future__ import annotations

import ast
import ctypes
import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness import __version__
from harness.errors import UserError
from harness.records import Provenance

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent

# Relative to ROOT: everything that decides an accuracy or a cost, except the methods.
MEASURED_FILES = ("harness/evaluate.py", "harness/loop.py", "harness/protocol.py", "harness/seeds.py")
MEASURED_FOLDERS = ("harness/data", "harness/nets")


def clock(device: str | torch.device) -> float:
    """Seconds of a monotonic clock, read once all work queued on `device` is finished."""
    if _is_cuda(device):
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def reset_peaks(device: str | torch.device) -> None:
    """Start a new phase: both peaks are from now on those since this call."""
    if _host_peak_resets():
        # proc(5): "5" sets the peak resident size back to the current one.
        Path("/proc/self/clear_refs").write_text("5")
    if _is_cuda(device):
        import torch

        torch.cuda.init()  # there are no statistics to reset before the first use of CUDA
        torch.cuda.reset_peak_memory_stats(device)


def release_freed_memory() -> None:
    """Hand memory that was freed back to the system, where the C library can be asked to (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def peak_host_bytes() -> int | None:
    """Peak resident bytes of this process since `reset_peaks`; None where the kernel cannot tell."""
    if not _host_peak_resets():
        return None
    return _status_bytes("VmHWM")


def host_bytes() -> int | None:
    """Resident bytes of this process now; None where the kernel cannot tell."""
    return _status_bytes("VmRSS")


def peak_device_bytes(device: str | torch.device) -> int | None:
    """Peak bytes that tensors held on a CUDA device since `reset_peaks`; None on other devices."""
    if not _is_cuda(device):
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))


def now() -> str:
    """The time in UTC to the second, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def provenance(method: str, *, device: str, started_at: str, resumed: int) -> Provenance:
    """Facts about the run of `method` that ends now, on `device`, by this process."""
    import torch

    commit, dirty = _checkout()
    return Provenance(
        started_at=started_at,
        finished_at=now(),
        resumed=resumed,
        device=torch.cuda.get_device_name(device) if _is_cuda(device) else device,
        cpu=cpu_model(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=str(torch.__version__),
        torchvision=metadata.version("torchvision"),
        harness=__version__,
        git_commit=commit,
        git_dirty=dirty,
        code_digest=code_digest(method),
    )


def code_digest(method: str) -> str:
    """Twelve hex digits of the SHA-256 of all code that decides what a trial of `method` measures.

    That is the data, the networks, the evaluation, the loop, and the method's own files: one for a method or
    its variants, those of loop and distance for a composition. Of the other files under methods/ those count
    that the evaluation or the method imports, directly or through one another. Comments, docstrings and
    layout do not count.
    """
    digest = hashlib.sha256()
    for path in sorted(_measured_sources(method)):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0{_facts(path).digest}\0".encode())
    return digest.hexdigest()[:12]


class _Facts(NamedTuple):
    """What the code digest needs of a source: a digest of its syntax, and the dotted names it imports."""

    digest: str
    imports: tuple[str, ...]


def _measured_sources(method: str) -> set[Path]:
    found = {path for name in MEASURED_FILES if (path := ROOT / name).is_file()}
    found |= {path for folder in MEASURED_FOLDERS for path in (ROOT / folder).rglob("*.py")}
    of_methods = set((ROOT / "methods").glob("*.py"))
    waiting = [ROOT / "harness" / "evaluate.py", ROOT / "methods" / "__init__.py", *_own_sources(method)]
    while waiting:
        current = waiting.pop()
        if current.is_file():
            found.add(current)
            imported = {_source(name) for name in _facts(current).imports}
            waiting.extend((imported & of_methods) - found)
    return found


def _own_sources(method: str) -> list[Path]:
    """Files that make up a method; none if it is unknown, as in records older than its removal."""
    from methods import find

    try:
        info = find(method)
    except UserError:
        return []
    return [_source(module) for module in (info.module, *info.parts)]


def _source(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def _facts(path: Path) -> _Facts:
    return _facts_of(path.read_bytes())


@cache
def _facts_of(source: bytes) -> _Facts:
    """Facts of a source; one that does not parse is taken as it stands, without imports."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return _Facts(hashlib.sha256(source).hexdigest(), ())
    syntax = "\0".join(_syntax(tree))
    return _Facts(hashlib.sha256(syntax.encode()).hexdigest(), tuple(_imported(tree)))


def _syntax(part: object) -> Iterator[str]:
    """A syntax tree as words, without docstrings and without what is absent.

    Not `ast.dump`: later versions of Python add optional fields to their nodes.
    """
    if isinstance(part, list):
        yield "["
        for item in part:
            yield from _syntax(item)
        yield "]"
    elif isinstance(part, ast.AST):
        yield type(part).__name__
        for name, value in ast.iter_fields(part):
            kept = value[1:] if name == "body" and _has_docstring(part) else value
            if kept is not None and kept != []:
                yield name
                yield from _syntax(kept)
    else:
        yield repr(part)


def _has_docstring(node: ast.AST) -> bool:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_cuda(device: str | torch.device) -> bool:
    return str(device).startswith("cuda")


def _host_peak_resets() -> bool:
    return sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK)


def _status_bytes(field: str) -> int | None:
    """A memory figure of /proc/self/status, which gives them in kibibytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def multiplies_bf16() -> bool | None:
    """Whether this CPU has instructions for products of bfloat16; None where that cannot be told."""
    flags = _cpu_fact("flags")
    return None if flags is None else not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags.split())


def cpu_model() -> str | None:
    """What the processor calls itself."""
    return _cpu_fact("model name") or platform.processor() or None


def _cpu_fact(name: str) -> str | None:
    """What Linux says of the first core under `name`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)


def _checkout() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package runs from, and whether its code differs; else nulls."""
    if not (ROOT / ".git").exists():
        return None, None
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", "harness", "methods")
    return commit, bool(changes) if commit is not None and changes is not None else None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
