"""The environment of processes that train: what it makes of memory that is freed and used again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping

import pytest
import torch

from harness.engine.surroundings import KEEP_MEMORY, KEEPING_MEMORY, NO_SPINNING, for_training, with_threads
from harness.perf import ROOT

# Prints how many pages the system hands over for the second use of 64 MiB, and what it says of itself.
USE_AGAIN = """
import contextlib, os, resource, sys
sys.path.insert(0, sys.argv[1])
from harness.engine import surroundings
def use():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    len(b"1" * 2**26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def tell():
    use()
    print(use(), surroundings.keeps_memory(), os.environ.get("OMP_WAIT_POLICY"))
if sys.argv[2] == "before":
    with surroundings.adopted():
        pass
with surroundings.adopted() if sys.argv[2] == "within" else contextlib.nullcontext():
    tell()
"""
PAGES = 2**26 // os.sysconf("SC_PAGE_SIZE")

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def used_again(variables: Mapping[str, str], how: str = "") -> list[str]:
    """What a process with these variables prints, that has adopted the others `within` or `before`."""
    ours = {*NO_SPINNING, *KEEPING_MEMORY, KEEP_MEMORY}
    others = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-c", USE_AGAIN, str(ROOT), how]
    return subprocess.run(
        command, env=others | dict(variables), check=True, capture_output=True, text=True
    ).stdout.split()


@needs_glibc
@pytest.mark.parametrize(("variables", "how"), [(for_training({}), ""), ({}, "within")])
def test_memory_that_was_freed_is_used_again_as_it_is(variables: Mapping[str, str], how: str) -> None:
    pages, *rest = used_again(variables, how)
    assert int(pages) < PAGES / 10
    assert rest == ["True", "PASSIVE"]


@needs_glibc
@pytest.mark.parametrize(
    ("variables", "how"),
    [
        ({}, ""),
        ({}, "before"),
        ({"MALLOC_MMAP_MAX_": "65536"}, "within"),
        ({KEEP_MEMORY: "0"}, "within"),
        (NO_SPINNING, ""),
    ],
)
def test_else_it_goes_back_to_the_system(variables: Mapping[str, str], how: str) -> None:
    pages, kept, _ = used_again(variables, how)
    assert int(pages) > PAGES / 2
    assert kept == "False"


def test_threads_are_changed_for_a_while() -> None:
    before = torch.get_num_threads()
    for count in (before + 1, None):
        with with_threads(count):
            assert torch.get_num_threads() == (count or before)
        assert torch.get_num_threads() == before
