"""Mixing of batches: shares, windows, and labels that go along."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.engine.mixing import Mix, as_rows, draw, mixed
from harness.engine.parts import CutMix, Mixing, Mixup

SIZE = (16, 12)


def draws(mixing: Mixing, times: int = 2000, count: int = 5) -> list[Mix | None]:
    generator = torch.Generator().manual_seed(0)
    return [draw(mixing, count, SIZE, generator) for _ in range(times)]


def own_shares(mixing: Mixing) -> Tensor:
    return torch.tensor([one.own for one in draws(mixing) if one is not None])


@pytest.mark.parametrize("mixing", [CutMix(0.3), Mixup(0.3)])
def test_a_share_of_the_batches_is_mixed(mixing: Mixing) -> None:
    assert sum(one is not None for one in draws(mixing)) / 2000 == pytest.approx(0.3, abs=0.03)
    assert not any(one is None for one in draws(type(mixing)(1.0), 50))


@pytest.mark.parametrize("beta", [0.4, 0.8, 1.0, 3.0])
@pytest.mark.parametrize("kind", [CutMix, Mixup])
def test_shares_are_of_the_beta_distribution(kind: type[CutMix] | type[Mixup], beta: float) -> None:
    shares = own_shares(kind(beta=beta))
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(shares.var()) == pytest.approx(1 / (4 * (2 * beta + 1)), rel=0.08)


def test_a_window_has_its_part_of_the_image_around_a_centre_anywhere() -> None:
    sides, inside = [], torch.zeros(SIZE)
    for one in draws(CutMix()):
        assert one is not None
        assert one.window is not None
        rows, columns = one.window
        assert 0 <= rows.start <= rows.stop <= SIZE[0]
        assert 0 <= columns.start <= columns.stop <= SIZE[1]
        inside[rows, columns] += 1
        reach = [int(length * (1 - one.own) ** 0.5) // 2 for length in SIZE]
        assert rows.stop - rows.start <= 2 * reach[0]
        assert columns.stop - columns.start <= 2 * reach[1]
        sides.append((rows.stop - rows.start) == 2 * reach[0])
    assert 0.3 < sum(sides) / len(sides) < 0.9  # the others are cut off at the border
    assert inside.min() > 100


@pytest.mark.parametrize("mixing", [CutMix(), Mixup()])
def test_labels_are_mixed_as_the_images_are(mixing: Mixing) -> None:
    """Each class has a colour of its own, so that its share can be read off an image."""
    labels = torch.arange(5)
    images = torch.eye(5)[:, :, None, None].expand(-1, -1, *SIZE).contiguous()
    for one in draws(mixing, 50):
        assert one is not None
        rows = as_rows(labels, 5, images)
        shown, told = mixed(images, rows, one, labels_too=True)
        torch.testing.assert_close(shown.mean(dim=(2, 3)), told)
        _, kept = mixed(images, rows, one, labels_too=False)
        assert torch.equal(kept, rows)
    assert torch.equal(images, torch.eye(5)[:, :, None, None].expand(-1, -1, *SIZE))


def test_partners_are_a_permutation() -> None:
    for one in draws(Mixup(), 20, count=7):
        assert one is not None
        assert one.partner.sort().values.tolist() == list(range(7))
