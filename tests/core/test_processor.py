"""Facts about the processor, from files as Linux has them, and the pieces that follow from one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.core import passes, processor
from harness.core.context import Context
from harness.core.data.toy import toy


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of made-up caches: 32 KiB, then 2 MiB."""
    for index, (level, size) in enumerate([("1", "32K"), ("2", "2048K")]):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "level").write_text(f"{level}\n")
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    monkeypatch.setattr(processor, "CACHES", tmp_path)
    return tmp_path


def test_facts_are_those_that_the_kernel_tells() -> None:
    told = processor.CPUINFO.read_text() if processor.CPUINFO.exists() else ""
    has = "amx_bf16" in told or "avx512_bf16" in told
    assert processor.multiplies_bf16() in ((None,) if "flags" not in told else (has,))
    assert processor.kind() == processor.kind()
    assert len(processor.kind()) == 12


@pytest.mark.parametrize(
    ("flags", "multiplies"),
    [("flags : fpu avx512_bf16", True), ("flags : fpu amx_bf16", True), ("flags : fpu", False), ("", None)],
)
def test_products_of_bfloat16_are_told_by_the_flags(
    flags: str, multiplies: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nmodel name : One\n{flags}\n")
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    assert processor.multiplies_bf16() is multiplies
    assert processor.model() == "One"


def test_the_second_cache_is_the_one_of_that_level(caches: Path) -> None:
    assert processor.second_cache_bytes() == 2**21


@pytest.mark.parametrize("size", ["", "2M"])
def test_a_cache_that_is_told_otherwise_is_unknown(size: str, caches: Path) -> None:
    (caches / "index1" / "size").write_text(size)
    assert processor.second_cache_bytes() is None


def test_pieces_are_twice_as_large_where_the_second_cache_is(
    caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, shape = Context(arch="ConvNetW32").network(toy(shape=(3, 32, 32))), (3, 32, 32)
    assert passes.rows_that_fit(net, shape) == 2**22 // (32 * 32 * 32)
    (caches / "index1" / "size").write_text("1024K")
    assert passes.rows_that_fit(net, shape) == 2**21 // (32 * 32 * 32)
    monkeypatch.setattr(processor, "CACHES", caches / "nowhere")
    assert passes.rows_that_fit(net, shape) == 2**21 // (32 * 32 * 32)


def test_larger_pieces_change_nothing_but_rounding(caches: Path) -> None:
    """Gradients of a batch that the pieces of either size cut differently."""
    found = []
    for size in ("1024K", "2048K"):
        (caches / "index1" / "size").write_text(size)
        context, data = Context(arch="ConvNetW32D2"), toy(3, (3, 32, 32), 40)
        net = context.network(data)
        rows = passes.rows_per_piece(net, data.shape)
        images, labels = data.batch(torch.arange(100)), data.labels[:100]

        def loss_of(logits: torch.Tensor, piece: slice, labels: torch.Tensor = labels) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(logits, labels[piece], reduction="sum")

        passes.backward(passes.logits_forward(context), net, images, loss_of, rows)
        found.append([parameter.grad for parameter in net.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
