"""Tangent kernels against the library's numbers, and against themselves in pieces."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from support import assert_close, golden, tensor
from torch import Tensor

from harness.core import tangent
from harness.core.tangent import KernelRidge, TangentKernel, centred_classes, dual_weights


def kernel_of(arrays: dict[str, np.ndarray], case: str) -> TangentKernel:
    """The kernel that a case of a golden file is about."""
    return TangentKernel(
        str(arrays[f"{case}kind"]),  # type: ignore[arg-type]
        int(arrays[f"{case}depth"]),
        int(arrays[f"{case}pre"]),
        float(arrays["W_std"]),
        float(arrays["b_std"]),
    )


@pytest.mark.slow
@pytest.mark.golden("kip_kernel", "kip")
def test_kernels_are_the_librarys() -> None:
    arrays = golden("kip_kernel")
    for case in sorted(name.removesuffix("kind") for name in arrays if name.endswith("_kind")):
        kernel, images = kernel_of(arrays, case), int(arrays[f"{case}set"])
        support, targets = (tensor(arrays[f"x{images}_{which}"]).double() for which in "st")
        own = kernel.variances(support)
        for which, rows, of_rows in (("ss", support, own), ("ts", targets, kernel.variances(targets))):
            ntk, nngp = kernel.between(rows, support, of_rows, own)
            assert_close(ntk, arrays[f"{case}ntk_{which}"])
            assert_close(KernelRidge(kernel, 0.0).matrix(rows, support), arrays[f"{case}ntk_{which}"])
            assert_close(nngp, arrays[f"{case}nngp_{which}"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pool", "vec", "fc"])
def test_pieces_change_nothing(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    support = torch.randn(6, 2, 7, 6, generator=generator, dtype=torch.float64)
    support[1] = support[0]  # an image that occurs twice: t = 0 beside the diagonal
    targets = torch.randn(5, 2, 7, 6, generator=generator, dtype=torch.float64)
    labels, wanted = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (6, 5))
    ridge = KernelRidge(TangentKernel(kind, 2, 1), 1e-3)
    whole = ridge.gradients(support, labels, targets, wanted)
    monkeypatch.setattr(tangent, "KEPT_BYTES", {"cpu": 0, "cuda": 0})
    for pairs in (1, 4, 9):
        monkeypatch.setattr(tangent, "PIECE_BYTES", {"cpu": pairs * ridge._bytes(support), "cuda": 0})
        for found, expected in zip(ridge.gradients(support, labels, targets, wanted), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert bool(whole[1].any())


@pytest.mark.parametrize("kind", ["pool", "vec", "fc"])
def test_gradients_are_the_slopes(kind: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    support, targets = (torch.randn(n, 2, 4, 4, generator=generator, dtype=torch.float64) for n in (3, 4))
    labels, wanted = (torch.randn(n, 2, generator=generator, dtype=torch.float64) for n in (3, 4))
    ridge = KernelRidge(TangentKernel(kind, 2), 1e-2)
    _, by_images, by_labels = ridge.gradients(support, labels, targets, wanted)

    def loss(images: Tensor, rows: Tensor) -> float:
        return float(0.5 * (ridge.predict(images, rows, targets) - wanted).square().mean())

    step = torch.randn(support.shape, generator=generator, dtype=torch.float64)
    slope = (loss(support + 1e-5 * step, labels) - loss(support - 1e-5 * step, labels)) / 2e-5
    assert slope == pytest.approx(float((by_images * step).sum()), rel=1e-5)
    step = torch.randn(labels.shape, generator=generator, dtype=torch.float64)
    slope = (loss(support, labels + 1e-5 * step) - loss(support, labels - 1e-5 * step)) / 2e-5
    assert slope == pytest.approx(float((by_labels * step).sum()), rel=1e-5)


def test_single_precision_is_near() -> None:
    generator = torch.Generator().manual_seed(2)
    support, targets = (
        torch.rand(5, 1, 8, 8, generator=generator),
        torch.rand(4, 1, 8, 8, generator=generator),
    )
    double = KernelRidge(TangentKernel("vec", 3), 1e-6)
    single = dataclasses.replace(double, double=False)
    assert single.matrix(targets, support).dtype == torch.float32
    torch.testing.assert_close(
        single.matrix(targets, support).double(), double.matrix(targets, support), rtol=1e-4, atol=0
    )


def test_large_images_are_averaged_down() -> None:
    small = TangentKernel("pool", 2, side=4)
    images = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    halved = torch.nn.functional.avg_pool2d(images, 2)
    plain = KernelRidge(dataclasses.replace(small, side=0), 0.0)
    torch.testing.assert_close(
        KernelRidge(small, 0.0).matrix(images, images), plain.matrix(halved, halved), rtol=1e-9, atol=0
    )


def test_a_kernel_without_an_inverse_shows_in_the_loss() -> None:
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert not bool(torch.isfinite(dual_weights(torch.ones(3, 3), labels, 0.0)).all())
    assert bool(torch.isfinite(dual_weights(torch.ones(3, 3), labels, 1e-3)).all())


def test_targets_sum_to_zero() -> None:
    assert_close(
        centred_classes(torch.tensor([1, 0]), 4),
        np.array([[-0.25, 0.75, -0.25, -0.25], [0.75, -0.25, -0.25, -0.25]]),
    )
