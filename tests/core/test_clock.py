"""What the meter measures."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch

from harness.core import clock, processor


def test_clock_moves_forward() -> None:
    before = clock.read("cpu")
    assert clock.read(torch.device("cpu")) > before


@pytest.mark.skipif(clock.peak_host_bytes() is None, reason="the kernel does not reset the peak")
def test_peak_is_that_of_the_phase() -> None:
    size = 200 * 2**20
    clock.reset_peaks("cpu")
    before = clock.peak_host_bytes()
    block = torch.ones(size // 4)
    del block
    during = clock.peak_host_bytes()
    clock.reset_peaks("cpu")
    after = clock.peak_host_bytes()
    assert before is not None
    assert during is not None
    assert after is not None
    assert during - before > 0.8 * size
    assert during - after > 0.8 * size


def test_there_is_no_device_peak_on_the_cpu() -> None:
    assert clock.peak_device_bytes("cpu") is None


def test_what_the_kernel_cannot_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    clock.reset_peaks("cpu")
    assert clock.peak_host_bytes() is None


def test_bf16_on_a_cpu_without_matrix_instructions_is_advised_against(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from harness.commands.plan import advice

    for has, lines in ((False, 1), (True, 0), (None, 0)):
        monkeypatch.setattr(processor, "multiplies_bf16", lambda has=has: has)
        assert len(advice("bf16", "cpu")) == lines
        assert advice("fp32", "cpu") == []


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not the GNU C library")
def test_freed_memory_goes_back_to_the_system() -> None:
    code = (
        "from harness.core import clock; held = [bytearray(3000) for _ in range(100_000)];"
        "kept = held[-1]; del held;"
        "before = clock.host_bytes(); clock.release_freed_memory(); print(before - clock.host_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 10 * 2**20
