"""DC, DSA and DCC: the authors' own iterations through our `distill`, and what follows from the schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scripted import ScriptedContext, ScriptedData, ScriptedDraws
from support import assert_close, golden, golden_network, tensor
from torch import Tensor

from harness.core.context import Context
from harness.core.data.toy import toy
from methods import dc, dcc, dsa, resolve
from methods.shared import students
from methods.shared.gradients import GradientMatcher


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Losses and image gradients of every update, and the images before it."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    descend = GradientMatcher.descend

    def spy(self: GradientMatcher, net: Any, parameters: Any, images: Tensor, *rest: Any) -> Tensor:
        before = images.detach().clone()
        losses = descend(self, net, parameters, images, *rest)
        assert images.grad is not None
        seen.append((losses, images.grad.clone(), before))
        return losses

    monkeypatch.setattr(GradientMatcher, "descend", spy)
    return seen


@pytest.mark.slow
@pytest.mark.golden("trace_dc", "dc")
def test_updates_of_the_authors(watch: list, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("trace_dc")
    updates, ipc = len(arrays["real_idx"]), arrays["init_idx"].shape[1]
    orders = list(tensor(arrays["shuffle"]).flatten(0, 1))
    train_losses: list[Tensor] = []
    train_step = students.train_step

    def spy(*arguments: Any) -> tuple[Tensor, Tensor]:
        loss, hits = train_step(*arguments)
        train_losses.append(loss)
        return loss, hits

    monkeypatch.setattr(students, "train_step", spy)
    config = dc.Config(
        iterations=1,
        outer=updates,
        inner=arrays["shuffle"].shape[1],
        init="real",
        lr_img=float(arrays["lr_img"]),
        lr_net=float(arrays["lr_net"]),
        batch_train=4,
    )
    net = golden_network(arrays, "w", "wnames", "ConvNet")
    context = ScriptedContext([net], {"train": orders})
    with ScriptedDraws():
        final = dc.distill(ScriptedData(arrays), ipc, config=config, context=context).images  # type: ignore[arg-type]
    assert len(watch) == updates
    for update, (losses, gradient, before) in enumerate(watch):
        torch.testing.assert_close(float(losses.sum()), float(arrays["loss"][update]), rtol=2e-5, atol=0)
        assert_close(gradient, arrays[f"grad{update}"])
        assert_close(before, arrays[f"x{update}"])
    assert_close(final, arrays[f"x{updates}"])
    assert_close(torch.stack(train_losses), arrays["train_loss"].flatten())
    for k, weight in enumerate(net.parameters()):
        assert_close(weight, arrays[f"wf{k:02d}"])


@pytest.mark.golden("trace_dcc", "dcc")
@pytest.mark.parametrize(("kind", "warmup"), [("contrast", 0), ("plain", 1)])
def test_an_update_with_and_without_the_signal(kind: str, warmup: int, watch: list) -> None:
    arrays = golden("trace_dcc")
    arrays["real_idx"] = arrays[f"{kind}_real_idx"][None]
    classes, ipc = arrays["init_idx"].shape
    config = dcc.Config(iterations=1, outer=1, lr_img=float(arrays["lr_img"]), outer_warmup=warmup)
    context = ScriptedContext([golden_network(arrays, "w", "wnames", "ConvNet")])
    final = dcc.distill(ScriptedData(arrays), ipc, config=config, context=context).images  # type: ignore[arg-type]
    ((losses, gradient, before),) = watch
    assert len(losses) == {"contrast": 1, "plain": classes}[kind]
    assert_close(before, arrays["x0"])
    torch.testing.assert_close(float(losses.sum()), float(arrays[f"{kind}_loss"]), rtol=2e-5, atol=0)
    assert_close(gradient, arrays[f"{kind}_grad"])
    assert_close(final, arrays[f"{kind}_x1"])


@pytest.mark.slow
def test_the_signal_sets_in_after_the_warm_up(watch: list) -> None:
    config = dcc.Config(
        iterations=3, outer=3, inner=0, batch_real=4, outer_warmup=2, inner_warmup=2, strategy=""
    )
    dcc.distill(toy(num_classes=3, shape=(3, 8, 8)), 1, config=config, context=Context(arch="ConvNetW8D2"))
    assert [len(losses) for losses, *_ in watch] == [3, 3, 1, 3, 3, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("method", "dataset", "strategy"),
    [
        (dc, "cifar10", ""),
        (dc, "mnist", "dc:crop_scale_rotate"),
        (dsa, "cifar10", "color_crop_cutout_flip_scale_rotate"),
        (dsa, "mnist", "color_crop_cutout_scale_rotate"),
        (dcc, "mnist", "dc:crop_scale_rotate"),
    ],
)
def test_what_training_on_the_set_calls_for(method: Any, dataset: str, strategy: str) -> None:
    config = resolve(method.__name__.rpartition(".")[2], dataset, 1).config
    own = dc.usual_strategy(dataset) if config.strategy is None else config.strategy
    assert dc.evaluation_strategy(own, dataset) == strategy


def test_loops_by_ipc() -> None:
    assert (resolve("dc", "cifar10", 10).config.outer, resolve("dc", "svhn", 50).config.inner) == (10, 10)
    assert (resolve("dc", "cifar10", 1).config.outer, resolve("dcc", "cifar10", 1).config.outer) == (1, 10)
    assert (resolve("dc", "cifar10", 1).config.init, resolve("dsa", "cifar10", 1).config.init) == (
        "noise",
        "real",
    )


def test_batch_statistics_are_set_by_real_images_and_held() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    context = Context(arch="ConvNetBNW8D2")
    net = context.network(data)
    before = {name: value.clone() for name, value in net.named_buffers()}
    dc.settle_statistics(net, data, 16, context)
    settled = {name: value.clone() for name, value in net.named_buffers()}
    assert any(not torch.equal(before[name], settled[name]) for name in before)
    net(data.batch(torch.arange(6)))
    assert all(torch.equal(value, settled[name]) for name, value in net.named_buffers())
    config = dc.Config(iterations=1, outer=2, inner=1, batch_real=4)
    distilled = dc.distill(data, 1, config=config, context=Context(arch="ConvNetBNW8D2"))
    assert len(distilled.images) == 3
