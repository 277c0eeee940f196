"""Benchmarks of the loss kernels, forward and backward, each beside a plain loop over classes.

Paper shapes: 10 and 100 classes, 2048 features, 256 real images per class, ipc 1, 10 and 50. The gate
(`python -m harness perf check`) compares the ratio of the two, taken from one run, with `baseline.json`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from methods import kernels

FEATURES = 2048
BATCH_REAL = 256
CE_WEIGHT = 20.0


def batched_dm(real: Tensor, synthetic: Tensor, entropy: Tensor) -> Tensor:
    """DM's kernel."""
    return kernels.dm_loss(real, synthetic).sum()


def batched_idm(real: Tensor, synthetic: Tensor, entropy: Tensor) -> Tensor:
    """IDM's kernel."""
    return kernels.idm_loss(real, synthetic, entropy, CE_WEIGHT).sum()


def batched_bacon(real: Tensor, synthetic: Tensor, entropy: Tensor) -> Tensor:
    """BACON's kernel."""
    return kernels.bacon_loss(real, synthetic, entropy, CE_WEIGHT).sum()


def looped_dm(real: Tensor, synthetic: Tensor, entropy: Tensor) -> Tensor:
    """DM, class after class."""
    pairs = zip(real, synthetic, strict=True)
    return torch.stack([(r.mean(0) - s.mean(0)).square().sum() for r, s in pairs]).sum()


def looped_idm(real: Tensor, synthetic: Tensor, entropy: Tensor) -> Tensor:
    """IDM, class after class."""
    classes = zip(real, synthetic, entropy, strict=True)
    parts = [(r.mean(0) - s.mean(0)).square().sum() + CE_WEIGHT * e for r, s, e in classes]
    return torch.stack(parts).sum()


def looped_bacon(real: Tensor, synthetic: Tensor, entropy: Tensor) -> Tensor:
    """BACON, class after class, with the density's logarithm in closed form."""
    parts = []
    for r, s, e in zip(real, synthetic, entropy, strict=True):
        mean, sigma, gap = r.mean(0), r.std(0).exp(), s.mean(0) - r.mean(0)
        nll = -torch.distributions.Normal(mean, sigma, validate_args=False).log_prob(s.mean(0)).sum()
        parts.append(nll + 0.8 * 0.5 * gap.abs().sum() + CE_WEIGHT * e)
    return torch.stack(parts).sum()


KERNELS: dict[str, dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "dm": {"batched": batched_dm, "looped": looped_dm},
    "idm": {"batched": batched_idm, "looped": looped_idm},
    "bacon": {"batched": batched_bacon, "looped": looped_bacon},
}


@functools.lru_cache(maxsize=1)
def embeddings(classes: int, ipc: int) -> tuple[Tensor, Tensor, Tensor]:
    """Real and synthetic embeddings and cross entropies of all classes."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(classes, BATCH_REAL, FEATURES, generator=generator)
    synthetic = torch.randn(classes, ipc, FEATURES, generator=generator).requires_grad_()
    entropy = torch.rand(classes, generator=generator).requires_grad_()
    return real, synthetic, entropy


@pytest.mark.parametrize("form", ["batched", "looped"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("classes", "ipc"), [(10, 1), (10, 10), (10, 50), (100, 1), (100, 10), (100, 50)])
def test_kernel(benchmark: pytest.FixtureRequest, kernel: str, classes: int, ipc: int, form: str) -> None:
    arguments = embeddings(classes, ipc)
    loss = KERNELS[kernel][form]

    def forward_and_backward() -> None:
        torch.autograd.grad(loss(*arguments), arguments[1:], allow_unused=True)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rounds = 15 if classes == 10 else 5
        benchmark.pedantic(forward_and_backward, rounds=rounds, warmup_rounds=1)
    finally:
        torch.set_num_threads(threads)
    benchmark.extra_info["case"] = f"{classes}-{ipc}-{kernel}"
    benchmark.extra_info["form"] = form


@pytest.mark.parametrize("kernel", KERNELS)
def test_both_forms_agree(kernel: str) -> None:
    arguments = embeddings(3, 4)
    batched, looped = (KERNELS[kernel][form](*arguments) for form in ("batched", "looped"))
    torch.testing.assert_close(batched, looped)
