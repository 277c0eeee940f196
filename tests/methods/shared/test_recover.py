"""The iteration that SRe2L and its kin share: views, batches side by side, Adam and clipping."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.data import ZCA
from harness.core.data.toy import toy
from methods.shared.recover import (
    Adam,
    Batches,
    Distortion,
    Look,
    View,
    clip,
    cosine,
    draw_views,
    group_entropy,
    vote,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_view_crops_then_mirrors_then_rolls() -> None:
    images = torch.arange(64.0).view(1, 1, 8, 8)
    assert torch.equal(View(None, False, (0, 0))(images), images)
    assert torch.equal(View(None, False, (2, -1))(images)[0, 0, 2, 7], images[0, 0, 0, 0])
    assert torch.equal(View((0, 0, 8, 8), False, (0, 0))(images), images)
    shown = View((4, 0, 4, 8), True, (1, 0))(images)[0, 0]
    assert float(shown[1].min()) >= 32.0  # the lower half, a row further down
    assert bool((shown[:, :-1] > shown[:, 1:]).all())
    shifted = View(None, False, (0, 0), (3, -2))(images)[0, 0]
    assert torch.equal(shifted[3:, :6], images[0, 0, :5, 2:])
    assert float(shifted[:3].abs().sum() + shifted[:, 6:].abs().sum()) == 0


def test_draws_are_those_asked_for() -> None:
    def drawn(distortion: Distortion) -> list[View]:
        return draw_views(400, (8, 8), distortion, generator())

    plain = drawn(Distortion(None, False, (0, 4)))
    assert {view.window for view in plain} == {None}
    assert not any(view.flipped for view in plain)
    assert {side for view in plain for side in view.roll} == set(range(5))
    assert {view.shift for view in plain} == {(0, 0)}
    rich = drawn(Distortion(0.08, True, (-4, 4), shift=2))
    assert 120 < sum(view.flipped for view in rich) < 280
    assert {side for view in rich for side in view.roll} == set(range(-4, 5))
    assert {side for view in rich for side in view.shift} == set(range(-2, 3))
    assert len({tuple(view.window) for view in rich if view.window}) > 50


@pytest.mark.parametrize("most", [100, 2])
def test_batches_side_by_side_are_as_each_alone(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data, context, ipc = toy(num_classes=3, shape=(3, 8, 8)), Context(), 3
    net = context.network(data, arch="ConvNetW8D2BN")
    net(data.batch(torch.arange(30)))
    net.eval().requires_grad_(False)
    look = Look(context, net, 0.1, 10.0)
    images = torch.randn(9, 3, 8, 8, generator=generator())
    batches = Batches.of_classes(data, ipc, most, net)
    assert len(batches) == ipc * (1 if most > 3 else 2)
    views = draw_views(len(batches), (8, 8), Distortion(0.3, True, (-2, 2)), generator())
    gradient, losses = batches.gradient(images, views, look)
    for k, rows in enumerate(batches._rows):
        part = images[rows].requires_grad_()
        labels = rows // ipc
        assert len(set(labels.tolist())) == len(rows) <= most
        loss = look(views[k](part), labels, slice(k, k + 1))[0]
        torch.testing.assert_close(losses[k], loss.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient[rows], *torch.autograd.grad(loss, part), rtol=1e-3, atol=1e-6)
    # However many go through the network together.
    batches._rows_at_once = 1
    other, _ = batches.gradient(images, views, look)
    torch.testing.assert_close(other, gradient, rtol=1e-3, atol=1e-6)


def test_batches_in_order_are_class_after_class() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    batches = Batches.in_order(data, 4, 5, Context().network(data, arch="ConvNetW8D2BN").eval())
    assert [rows.tolist() for rows in batches._rows] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    seen: list[Tensor] = []

    def loss(shown: Tensor, labels: Tensor, which: slice) -> Tensor:
        seen.extend(labels.chunk(which.stop - which.start))
        return shown.flatten(1).sum(dim=1).view(which.stop - which.start, -1).sum(dim=1)

    gradient, losses = batches.gradient(torch.zeros(12, 3, 8, 8), [View(None, False, (0, 0))] * 3, loss)
    assert [part.tolist() for part in seen] == [[0, 0, 0, 0, 1], [1, 1, 1, 2, 2], [2, 2]]
    assert torch.equal(gradient, torch.ones(12, 3, 8, 8))
    assert len(losses) == 3


def test_a_vote_is_the_weighted_sum() -> None:
    labels = torch.tensor([0, 1])
    one, two = (lambda shown, labels, which, f=f: f * shown.flatten(1).mean(dim=1) for f in (1.0, 3.0))
    loss = vote([one, two], [0.25, 0.75])(torch.ones(2, 1, 2, 2), labels, slice(0, 2))
    torch.testing.assert_close(loss, torch.full((2,), 0.25 + 0.75 * 3))
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert float(group_entropy(logits, labels, 1)) == pytest.approx(0.126928, rel=1e-4)


def test_adam_makes_the_steps_of_torch_and_goes_on_where_it_was() -> None:
    own = torch.randn(4, 3, generator=generator())
    theirs = own.clone().requires_grad_()
    adam, reference = Adam(own), torch.optim.Adam([theirs], lr=0.1, betas=(0.5, 0.9), eps=1e-8)
    for k in range(6):
        gradient = torch.randn(4, 3, generator=generator(k))
        rate = 0.1 * cosine(k / 6)
        reference.param_groups[0]["lr"] = rate
        theirs.grad = gradient
        reference.step()
        if k == 3:
            state = {
                key: v if key == "steps" else [t.clone() for t in v] for key, v in adam.state_dict().items()
            }
            adam = Adam(torch.zeros_like(own))
            adam.load_state_dict(state)
        adam.step(gradient, rate)
        torch.testing.assert_close(adam.images, theirs.detach())


@pytest.mark.parametrize("whitened", [False, True])
def test_clipped_images_are_pixels(whitened: bool) -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    transform = ZCA.fit(data.images) if whitened else data.transform
    images = transform(torch.rand(5, 3, 8, 8, generator=generator()) * 3 - 1)
    wanted = transform.inverse(images).clamp(0, 1)
    clip(images, transform)
    torch.testing.assert_close(transform.inverse(images), wanted, rtol=0, atol=1e-3)
