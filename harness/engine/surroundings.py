"""Environment variables of processes that train, which the C library and OpenMP read as they begin."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping

# Threads that spin while they wait for one another take cores from those that they wait for, once there are
# fewer cores than threads, or another process is busy: steps took three times their CPU time. Only libgomp's
# variable matters to PyTorch's builds.
NO_SPINNING = {"OMP_WAIT_POLICY": "PASSIVE"}
# glibc gives blocks of more than 32 MiB, and what lies free at the end of its heap, back to the system at
# once. A step that needs them again has each page filled with zeros and handed over anew: an evaluation spent
# half of its time so.
KEEPING_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
KEEP_MEMORY = "HARNESS_KEEP_MEMORY"  # 0 in it leaves the C library as it is

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def for_training(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with what training needs; what a user has set stays as it is.

    One of the C library's variables alone would make it slower: it is to have all of ours or none.
    """
    is_set = environment.get(KEEP_MEMORY) == "0" or not KEEPING_MEMORY.keys().isdisjoint(environment)
    return NO_SPINNING | ({} if is_set else KEEPING_MEMORY) | dict(environment)


def adopt() -> None:
    """Let this process train as one that began with these variables; before it imports torch."""
    os.environ.update(for_training(os.environ))
    tune = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if tune is not None and keeps_memory():
        tune(M_MMAP_MAX, 0)
        tune(M_TRIM_THRESHOLD, 2**31 - 1)


def keeps_memory() -> bool:
    """Whether this process keeps memory that it has freed, where glibc is its C library."""
    return all(os.environ.get(name) == value for name, value in KEEPING_MEMORY.items())
