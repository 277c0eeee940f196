"""DataDAM: the authors' attention and one update of their loop, and what attention is invariant to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scripted import ScriptedContext, ScriptedData
from support import assert_close, golden, golden_network, tensor

from harness.core.context import Context
from harness.core.data.toy import toy
from methods import datadam, resolve
from methods.shared.layers import Layers
from methods.shared.matching import ClassMatcher


def matching_network(arrays: dict[str, Any]) -> Any:
    """The golden network, whose weights are those that the loop finds after its draw."""
    return golden_network(arrays, "w", "wnames", "ConvNet")


@pytest.mark.golden("trace_datadam", "datadam")
def test_one_update_of_the_authors(watch: list) -> None:
    arrays = golden("trace_datadam")
    config = datadam.Config(
        iterations=1,
        lr_img=float(arrays["lr_img"]),
        task_balance=float(arrays["task_balance"]),
        strategy="",
    )
    arrays["real_idx"] = arrays["real_idx"][None]
    context, ipc = ScriptedContext([matching_network(arrays)]), arrays["init_idx"].shape[1]
    final = datadam.distill(ScriptedData(arrays), ipc, config=config, context=context).images  # type: ignore[arg-type]
    assert_close(context.states[0]["images"], arrays["x0"])
    ((losses, gradient),) = watch
    torch.testing.assert_close(float(losses.sum()), float(arrays["loss"]), rtol=2e-5, atol=0)
    assert_close(gradient, arrays["grad"])
    assert_close(final, arrays["x1"])


@pytest.mark.golden("trace_datadam", "datadam", "datadam@paper")
def test_attention_of_the_authors() -> None:
    arrays = golden("trace_datadam")
    maps = tensor(arrays["att_in"])
    assert_close(datadam.attention(maps, 1.0), arrays["att_p1"])
    assert_close(datadam.attention(maps, 4.0), arrays["att_p4"])
    assert_close(datadam.energy(maps, 1.0), arrays["att_sum"])


@pytest.mark.parametrize("power", [1.0, 4.0])
def test_attention_has_length_one_whatever_the_contrast(power: float) -> None:
    maps = torch.randn(3, 5, 4, 6)
    seen = datadam.attention(maps, power)
    assert seen.shape == (3, 24)
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(datadam.attention(7 * maps, power), seen)
    torch.testing.assert_close(datadam.attention(maps[:, torch.randperm(5)], power), seen)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["ConvNetW8", "ConvNetW8D1", "MLP", "ResNet18"])
def test_any_network_is_looked_at_in_all_layers_but_the_last(arch: str) -> None:
    context = Context(arch=arch)
    data = toy(shape=(3, 32, 32))
    net = context.network(data)
    seen = datadam.attention_view(Layers(net), 1.0)(net, data.batch(torch.arange(4)))
    attentions = {"ConvNetW8": 2, "ConvNetW8D1": 0, "MLP": 0, "ResNet18": 16}[arch]
    assert len(seen.extra) == attentions
    torch.testing.assert_close(seen.embeddings, net.embed(data.batch(torch.arange(4))))


def test_pieces_change_nothing(watch: list, monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(num_classes=4, shape=(3, 16, 16), per_class=12)
    config = datadam.Config(iterations=1, batch_real=9)
    init = ClassMatcher.__init__
    for rows_at_once in (None, 8, 20):

        def in_pieces(self: ClassMatcher, *rest: Any, rows: int | None = rows_at_once, **named: Any) -> None:
            init(self, *rest, **named)
            self.rows_at_once = rows

        monkeypatch.setattr(ClassMatcher, "__init__", in_pieces)
        datadam.distill(data, 2, config=config, context=Context(arch="ConvNetW8"))
    whole, *others = watch
    for losses, gradient in others:
        torch.testing.assert_close(losses, whole[0], rtol=1e-5, atol=0)
        assert_close(gradient, whole[1].numpy())


def test_settings() -> None:
    assert resolve("datadam", "cifar10", 10).config == datadam.Config()
    assert resolve("datadam", "cifar10", 100).config.lr_img == 10.0
    paper = resolve("datadam@paper", "cifar10", 10).config
    assert (paper.power, paper.iterations) == (4.0, 8000)
