"""M3D's distance against plain double sums over pairs of images, and M3D as a method."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.core.augment import FULL_STRATEGY
from harness.core.context import Context
from harness.core.data.toy import toy
from methods import dm, load, m3d, resolve
from methods.shared.matching import ClassMatcher, MeanDistance, Seen

ARCH = "ConvNetW8D2"
SIZES = (5, 5, 5)
UNEQUAL = (7, 1, 4)


def embeddings(n: int, seed: int, *shape: int) -> Tensor:
    return torch.randn(n, *shape, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def double_sums(real: list[Tensor], synthetic: Tensor, bandwidth: float) -> Tensor:
    """v/2 MMD^2 of each class, pair by pair, (C,)."""
    everything = torch.cat(real)
    pairs = [(x - y).square().sum() for x in everything for y in everything]
    v = bandwidth * sum(pairs) / len(pairs)

    def mean_kernel(xs: Tensor, ys: Tensor) -> Tensor:
        return sum(torch.exp(-(x - y).square().sum() / v) for x in xs for y in ys) / (len(xs) * len(ys))

    losses = [
        v / 2 * (mean_kernel(r, r) + mean_kernel(s, s) - 2 * mean_kernel(r, s))
        for r, s in zip(real, synthetic, strict=True)
    ]
    return torch.stack(losses)


@pytest.mark.parametrize("sizes", [SIZES, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("at_once", [1, 2**22])
def test_distance_is_the_double_sum(
    sizes: tuple[int, ...], bandwidth: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(m3d, "_PAIRS_AT_ONCE", at_once)
    real, synthetic = embeddings(sum(sizes), 0), embeddings(3, 1, 4).requires_grad_()
    distance = m3d.distance_to(m3d.Weights(bandwidth))(real, sizes)
    got, wanted = (
        distance(Seen(synthetic, classes=slice(0, 3))),
        double_sums(list(real.split(sizes)), synthetic, bandwidth),
    )
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(distance(Seen(synthetic[1:], classes=slice(1, 3))), wanted[1:])
    gradients = [torch.autograd.grad(loss.sum(), synthetic)[0] for loss in (got, wanted)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("sizes", [SIZES, UNEQUAL], ids=["equal", "unequal"])
def test_wide_kernels_give_the_distance_of_dm(sizes: tuple[int, ...]) -> None:
    real, synthetic = embeddings(sum(sizes), 0), embeddings(3, 1, 4)
    wide = m3d.distance_to(m3d.Weights(1e5))(real, sizes)(Seen(synthetic, classes=slice(0, 3)))
    torch.testing.assert_close(
        wide, MeanDistance.to(real, sizes)(Seen(synthetic, classes=slice(0, 3))), rtol=1e-3, atol=0
    )


def test_it_sees_what_means_do_not() -> None:
    real = embeddings(8, 0)
    real = torch.cat([real, -real])
    copies, spread = real[None].clone(), 3 * real[None]
    distance = m3d.distance_to(m3d.Weights())(real, (16,))
    means = MeanDistance.to(real, (16,))
    assert float(means(Seen(spread, classes=slice(0, 1)))) < 1e-12
    assert float(distance(Seen(spread, classes=slice(0, 1)))) > 0.1
    assert abs(float(distance(Seen(copies, classes=slice(0, 1))))) < 1e-9


def test_embeddings_that_are_all_alike_do_no_harm() -> None:
    real, synthetic = torch.ones(3, 6), torch.full((3, 2, 6), 1.5, requires_grad=True)
    loss = m3d.distance_to(m3d.Weights())(real, (1, 1, 1))(Seen(synthetic, classes=slice(0, 3)))
    (gradient,) = torch.autograd.grad(loss.sum(), synthetic)
    assert bool(torch.isfinite(loss).all() and torch.isfinite(gradient).all())


def test_float32_holds_for_large_embeddings() -> None:
    real, synthetic = 100 + 10 * embeddings(15, 0), 100 + 10 * embeddings(3, 1, 4)
    exact = m3d.distance_to(m3d.Weights())(real, SIZES)(Seen(synthetic, classes=slice(0, 3)))
    rounded = m3d.distance_to(m3d.Weights())(real.float(), SIZES)(
        Seen(synthetic.float(), classes=slice(0, 3))
    )
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-3, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("rows_at_once", [8, 20])
def test_pieces_change_nothing(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(num_classes=4, shape=(3, 8, 8), per_class=12)
    config = m3d.Config(iterations=3, batch_real=9)
    init = ClassMatcher.__init__

    def in_pieces(self: ClassMatcher, *rest: Any, rows: int | None, **named: Any) -> None:
        init(self, *rest, **named)
        self.rows_at_once = rows

    found = []
    for rows in (None, rows_at_once):
        monkeypatch.setattr(
            ClassMatcher, "__init__", lambda *a, rows=rows, **k: in_pieces(*a, rows=rows, **k)
        )
        found.append(m3d.distill(data, 2, config=config, context=Context(arch=ARCH)).images)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_it_is_dms_loop_with_another_distance() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    settings = {"iterations": 4, "batch_real": 8, "strategy": "color_crop"}
    whole = m3d.distill(data, 2, config=m3d.Config(**settings, factor=1), context=Context(arch=ARCH))
    composed = resolve("dm+m3d", data.name, 2, overrides=settings).config
    assert composed.bandwidth == m3d.Weights().bandwidth
    composition = load("dm+m3d").distill(data, 2, config=composed, context=Context(arch=ARCH))
    assert torch.equal(composition.images, whole.images)
    plain = dm.distill(data, 2, config=dm.Config(**settings), context=Context(arch=ARCH))
    assert float((plain.images - whole.images).abs().max()) > 1e-3


def test_settings() -> None:
    resolved = resolve("m3d", "cifar10", 10)
    assert str(resolved.source) == "default: nothing is published for cifar10"
    assert (resolved.config.factor, resolved.config.strategy) == (2, "color>crop>cutout")
    assert resolve("m3d", "digits", 1).config.factor == 1
    data = toy(num_classes=3, shape=(3, 8, 8))
    config = m3d.Config(iterations=1, batch_real=4)
    distilled = m3d.distill(data, 1, config=config, context=Context(arch=ARCH))
    assert (distilled.factor, distilled.augmentation, distilled.method) == (2, FULL_STRATEGY, "m3d")
    assert math.prod(distilled.to_dataset().tensors[0].shape) == 12 * 3 * 8 * 8
