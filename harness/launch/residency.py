"""Which pages of mapped files a process has in memory, and having the same after a fork.

A forked process begins without the pages of libraries that its parent has in memory. The memory that trials
record is that of a whole process, and so that it means the same however that process began, these pages are
brought in before a trial begins: they are in the page cache, it takes some 40 ms. Linux alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from mmap import PAGESIZE
from pathlib import Path
from typing import IO

import numpy as np

MADV_POPULATE_READ = 22  # linux/mman.h, since Linux 5.14; with an older one the pages come as they are used
ENTRY_BYTES = 8  # of /proc/self/pagemap, see proc_pid_pagemap(5)
PRESENT, OF_A_FILE = np.uint64(1 << 63), np.uint64(1 << 61)


def file_pages() -> list[tuple[int, int]]:
    """Address and bytes of each run of pages of mapped files in memory; none if the kernel does not tell."""
    try:
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
            maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
            return [run for line in maps for run in _in_memory(line, pagemap)]
    except OSError:
        return []


def bring_in(pages: Iterable[tuple[int, int]]) -> None:
    """Have these pages in memory, so far as the kernel does it at once."""
    library = ctypes.CDLL(None)
    for address, size in pages:
        library.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), MADV_POPULATE_READ)


def _in_memory(line: str, pagemap: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Those of one mapping, which a line of /proc/self/maps describes; none if it is not of a file."""
    span, _, _, _, inode = line.split(maxsplit=5)[:5]
    if inode == "0":
        return
    start, end = (int(address, 16) for address in span.split("-"))
    pagemap.seek(start // PAGESIZE * ENTRY_BYTES)
    entries = np.frombuffer(pagemap.read((end - start) // PAGESIZE * ENTRY_BYTES), np.uint64)
    wanted = (entries & PRESENT > 0) & (entries & OF_A_FILE > 0)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], wanted, [False])))) * PAGESIZE
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        yield start + int(first), int(last - first)
