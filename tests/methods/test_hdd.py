"""HDD's distance, its gradients and its loop against the authors', and HDD as a distance."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from scripted import ScriptedContext, ScriptedData
from support import assert_close, golden, golden_convnet, tensor
from torch import Tensor

from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.siamese import Siamese
from methods import hdd, load, resolve
from methods.shared.matching import ClassMatcher, Seen, embedding

ARCH = "ConvNetW8D2"


def cases(arrays: dict[str, Any]) -> list[str]:
    """What stands before the names of the arrays of each case."""
    found = [name.removesuffix("loss64") for name in arrays if name.endswith("loss64")]
    assert found
    return found


@pytest.mark.golden("hdd_distance", "hdd")
def test_distance_of_features() -> None:
    arrays = golden("hdd_distance")
    for case in cases(arrays):
        k, weight = float(arrays[f"{case}k"]), float(arrays[f"{case}weight"])
        weights = hdd.Weights(k, weight, exponential=bool(arrays[f"{case}exp"]))
        real, own = tensor(arrays[f"{case}real"]), tensor(arrays[f"{case}syn"]).requires_grad_()
        points = hdd.points(own, weights)
        assert_close(points, arrays[f"{case}points64"], 1e-6)
        assert_close(hdd.centroid(points, k), arrays[f"{case}centroid64"], 1e-6)
        distance = hdd.distance_to(weights)(real, (len(real),))
        loss = distance(Seen(own[None], classes=slice(0, 1)))
        torch.testing.assert_close(float(loss.detach()), float(arrays[f"{case}loss64"]), rtol=1e-6, atol=0)
        assert_close(*torch.autograd.grad(loss.sum(), own), arrays[f"{case}grad"])


@pytest.mark.golden("hdd_class_loss", "hdd")
@pytest.mark.parametrize("case", ["exp", "proj"])
def test_distance_through_a_network(case: str) -> None:
    arrays = golden("hdd_class_loss")
    net = golden_convnet(arrays).net.requires_grad_(False)
    real, images = tensor(arrays["x_real"]), tensor(arrays["x_syn"]).requires_grad_()
    assert_close(net.embed(images).norm(dim=1), arrays["norms"])
    weights = hdd.Weights(float(arrays["k"]), float(arrays["weight"]), exponential=case == "exp")
    distance = hdd.distance_to(weights)(net.embed(real), (len(real),))
    data = toy(num_classes=1, shape=tuple(real.shape[1:]))  # type: ignore[arg-type]
    matcher = ClassMatcher(Context(), data, net, view=embedding)
    losses = matcher.descend(net, images, Siamese("", None), distance)
    torch.testing.assert_close(float(losses), float(arrays[f"{case}_loss"]), rtol=2e-5, atol=0)
    assert images.grad is not None
    assert_close(images.grad, arrays[f"{case}_grad"])


@pytest.mark.golden("trace_hdd", "hdd")
def test_loop(watch: list[tuple[Tensor, Tensor]]) -> None:
    arrays = golden("trace_hdd")
    iterations = len(arrays["real_idx"])
    weights: dict[str, Any] = {"k": float(arrays["k"]), "distance_weight": float(arrays["weight"])}
    lr = float(arrays["lr"])
    for steps in range(1, iterations + 1):
        watch.clear()
        fresh = [golden_convnet(arrays, f"w{k}_").net for k in range(iterations)]
        config = hdd.Config(iterations=steps, lr_img=lr, strategy="", **weights)
        data: Any = ScriptedData(arrays)
        context = ScriptedContext([golden_convnet(arrays, "w0_").net], redrawn=fresh)
        final = hdd.distill(data, arrays["init_idx"].shape[1], config=config, context=context).images
        assert_close(final, arrays[f"x{steps}"])
    assert_close(context.states[0]["images"], arrays["x0"])
    assert_close(watch[0][1], arrays["grad0"])
    for (losses, _), distances in zip(watch, arrays["dist_c"], strict=True):
        assert_close(losses / weights["distance_weight"], distances)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dm+hdd", "idm+hdd", "idm+hdd@idm", "idm+hdd@idm-tiny"])
def test_it_is_a_distance_for_other_loops(name: str) -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    few = {"iterations": 3, "batch_real": 8}
    config = resolve(name, data.name, 2, "smoke", few).config
    assert config.exponential == (name != "idm+hdd@idm-tiny")
    made = load(name).distill(data, 2, config=config, context=Context(arch=ARCH)).images
    assert bool(torch.isfinite(made).all())
    plain = load(name.partition("+")[0])
    config = resolve(name.partition("+")[0], data.name, 2, "smoke", few).config
    other = plain.distill(data, 2, config=config, context=Context(arch=ARCH)).images
    assert float((made - other).abs().max()) > 1e-3


def test_dms_loop_with_its_distance_is_the_method() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    few = {"iterations": 4, "batch_real": 8}
    sets = [
        load(name).distill(data, 2, config=resolve(name, data.name, 2, overrides=few).config).images
        for name in ("hdd", "dm+hdd")
    ]
    assert torch.equal(*sets)


@pytest.mark.parametrize("exponential", [True, False])
def test_embeddings_of_any_length_do_no_harm(exponential: bool) -> None:
    real = torch.tensor([[0.0, 0.0], [3e3, 1e3], [1e-30, 0.0]])
    own = torch.tensor([[[0.0, 0.0]], [[1e-20, 0.0]], [[-2e3, 5e3]]], requires_grad=True)
    distance = hdd.distance_to(hdd.Weights(exponential=exponential))(real, (1, 1, 1))
    loss = distance(Seen(own, classes=slice(0, 3)))
    (gradient,) = torch.autograd.grad(loss.sum(), own)
    assert bool(torch.isfinite(loss).all() and torch.isfinite(gradient).all())


def test_nothing_pulls_at_the_length_of_long_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    real, own = (30 + torch.randn(5, 4, generator=generator) for _ in range(2))
    own = own[None].requires_grad_()
    loss = hdd.distance_to(hdd.Weights())(real, (5,))(Seen(own, classes=slice(0, 1)))
    (gradient,) = torch.autograd.grad(loss.sum(), own)
    assert float(gradient.norm()) > 0
    along = (gradient * own).sum(dim=2) / own.norm(dim=2) / gradient.norm(dim=2)
    assert float(along.detach().abs().max()) < 1e-4


def test_the_log_says_once_how_long_embeddings_are(caplog: pytest.LogCaptureFixture) -> None:
    real = torch.tensor([[6.0, 8.1], [3.0, 4.0]])
    with caplog.at_level(logging.INFO, "methods.hdd"):
        prepare = hdd.distance_to(hdd.Weights())
        for _ in range(3):
            prepare(real, (2,))
        hdd.distance_to(hdd.Weights(exponential=False))(real, (2,))
    first, second = (record.getMessage() for record in caplog.records)
    assert first == (
        "embeddings have lengths of 5 to 10.1, 7.54 on average; 50 % are beyond 10, "
        "where only directions count"
    )
    assert second == "embeddings have lengths of 5 to 10.1, 7.54 on average"


def test_settings() -> None:
    config = resolve("hdd", "cifar10", 10).config
    assert (config.k, config.distance_weight, config.exponential) == (1.0, 20.0, True)
    assert (config.iterations, config.lr_img, config.batch_real) == (20_000, 1.0, 256)
    tiny = resolve("idm+hdd@idm-tiny", "tinyimagenet", 10).config
    assert (tiny.k, tiny.distance_weight, tiny.exponential) == (0.5, 500.0, False)
    assert resolve("idm+hdd@idm", "cifar10", 10).config.k == 2.4
