"""What work costs: the clock, peak memory, and the sum of both. Imports torch only where it is used."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import torch


class Cost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one phase (distillation or evaluation) cost; the seconds of resumed runs are added up.

    `warmup_seconds` (the first step and the first compiled one) are contained in `seconds`. FLOPs and
    images forwarded are those of each loop's first step, counted once, times its number of steps.
    """

    seconds: float
    warmup_seconds: float
    steps: int
    flops: float
    images_forwarded: int
    peak_host_bytes: int | None
    peak_device_bytes: int | None
    compiled: bool = False


def read(device: str | torch.device) -> float:
    """Seconds of a monotonic clock, read once all work queued on `device` is finished."""
    if _is_cuda(device):
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def reset_peaks(device: str | torch.device) -> None:
    """Start a new phase: both peaks are from now on those since this call."""
    if _host_peak_resets():
        # proc(5): "5" sets the peak resident size back to the current one.
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
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


def _is_cuda(device: str | torch.device) -> bool:
    return str(device).startswith("cuda")


def _host_peak_resets() -> bool:
    return sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK)


def _status_bytes(field: str) -> int | None:
    """A memory figure of /proc/self/status, which gives them in kibibytes."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)
