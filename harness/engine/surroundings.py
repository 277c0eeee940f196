"""Environment variables of processes that train, which the C library and OpenMP read as they begin."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# Threads that spin while they wait for one another take cores from those that they wait for, once there are
# fewer cores than threads, or another process is busy: steps took three times their CPU time. Only libgomp's
# variable matters to PyTorch's builds.
NO_SPINNING = {"OMP_WAIT_POLICY": "PASSIVE"}
# glibc gives blocks of more than 32 MiB, and what lies free at the end of its heap, back to the system at
# once. A step that needs them again has each page filled with zeros and handed over anew: an evaluation spent
# half of its time so.
KEEPING_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
KEEP_MEMORY = "HARNESS_KEEP_MEMORY"  # 0 in it leaves the C library as it is

# glibc's malloc.h, and where its own rule for the three settles once a block of 32 MiB was freed.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
KEEPING = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}
GIVING_BACK = {M_MMAP_MAX: 2**16, M_TRIM_THRESHOLD: 2**26, M_MMAP_THRESHOLD: 2**25}


def for_training(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with what training needs; what a user has set stays as it is.

    One of the C library's variables alone would make it slower: it is to have all of ours or none.
    """
    is_set = environment.get(KEEP_MEMORY) == "0" or not KEEPING_MEMORY.keys().isdisjoint(environment)
    return NO_SPINNING | ({} if is_set else KEEPING_MEMORY) | dict(environment)


@contextmanager
def adopted() -> Iterator[None]:
    """Let this process train as one that began with these variables; then it has them no more.

    It is not to have imported torch before: libgomp reads its variable once, as torch is imported.
    """
    added = {name: value for name, value in for_training(os.environ).items() if name not in os.environ}
    begins_to_keep = KEEPING_MEMORY.keys() <= added.keys()
    os.environ.update(added)
    if begins_to_keep:
        _tune(KEEPING)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        if begins_to_keep:
            _tune(GIVING_BACK)


@contextmanager
def with_threads(count: int | None) -> Iterator[None]:
    """Let torch compute on the CPU with so many threads for a while; None leaves their number as it is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tune(parameters: Mapping[int, int]) -> None:
    tune = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if tune is not None:
        for parameter, value in parameters.items():
            tune(parameter, value)


def will_keep_memory(environment: Mapping[str, str]) -> bool:
    """Whether a process that trains keeps memory that it frees, when it is begun from this environment."""
    return KEEPING_MEMORY.items() <= for_training(environment).items()


def keeps_memory() -> bool:
    """Whether this process keeps memory that it has freed, where glibc is its C library."""
    return all(os.environ.get(name) == value for name, value in KEEPING_MEMORY.items())
