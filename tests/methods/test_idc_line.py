"""DANCE, TGDD and DSDM against the authors' loops, through our `distill`, and what they do not tell.

Networks and every draw are scripted from the golden files; all else is what users run.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from scripted import GivenExperts, ScriptedContext, ScriptedData
from support import assert_close, golden, golden_convnet, tensor
from torch import Tensor

from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.errors import UserError
from harness.core.nets import Network
from methods import dance, dsdm, resolve, tgdd
from methods.shared import blends, idc_line
from methods.shared.classwise import SGDTurns
from methods.shared.matching import ClassMatcher, Seen

ARCH = "ConvNetW8D2"


@dataclass
class Turns:
    """What every round of turns did: losses (C,), gradient of the pixels, and pixels before and after it."""

    losses: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    seen = Turns()
    take, depart = idc_line.TileTurns.take, SGDTurns.depart

    def spy_take(self: idc_line.TileTurns, descend: Any) -> Tensor:
        seen.before.append(self.optimizer.images.clone())
        losses = take(self, descend)
        seen.losses.append(losses)
        seen.after.append(self.optimizer.images.clone())
        return losses

    def spy_depart(self: SGDTurns, gradient: Tensor) -> None:
        seen.gradients.append(gradient.clone())
        depart(self, gradient)

    monkeypatch.setattr(idc_line.TileTurns, "take", spy_take)
    monkeypatch.setattr(SGDTurns, "depart", spy_depart)
    return seen


def check_trace(turns: Turns, arrays: dict[str, Any], rounds: int) -> None:
    """Images of all iterations, and gradient and step of the first class in the first round."""
    ipc = int(arrays["ipc"])
    assert len(turns.losses) == rounds * int(arrays["iters"])
    assert_close(turns.before[0], arrays["x0"])
    for k in range(int(arrays["iters"])):
        assert_close(turns.after[(k + 1) * rounds - 1], arrays[f"x{k + 1}"])
    first = torch.zeros_like(turns.gradients[0])
    first[:ipc] = turns.gradients[0][:ipc]
    assert_close(first, arrays["grad0_c0"])
    assert_close(turns.before[0] - float(arrays["lr"]) * first, arrays["x0_c0"])


def network(arrays: dict[str, Any], prefix: str) -> Network:
    return golden_convnet(arrays, prefix).net.requires_grad_(False)


def numbers(arrays: dict[str, Any], prefix: str) -> list[int]:
    """The k of the networks `<prefix><k>_w00`."""
    names = (name.removesuffix("_w00").removeprefix(prefix) for name in arrays if name.endswith("_w00"))
    return sorted(int(name) for name in names if name.isdigit())


def run(module: Any, arrays: dict[str, Any], networks: list[Network], **settings: Any) -> ScriptedContext:
    """The method with all draws scripted; the context that it ran in."""
    shared = {name: int(arrays[key]) for name, key in (("iterations", "iters"), ("factor", "factor"))}
    config = module.Config(**shared, momentum=float(arrays["mom"]), strategy="", **settings)
    context = ScriptedContext(networks)
    made = module.distill(ScriptedData(arrays), int(arrays["ipc"]), config=config, context=context)
    assert made.factor == config.factor
    return context


@pytest.mark.golden("trace_dance", "dance")
def test_dance(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("trace_dance")
    ipc, rounds, epochs = int(arrays["ipc"]), 1 + int(arrays["calib"]), 7
    given = {
        (k, epoch): network(arrays, f"{prefix}{k}_")
        for k in numbers(arrays, "a")
        for prefix, epoch in (("a", 0), ("b", epochs))
    }
    monkeypatch.setattr(blends, "train_experts", lambda context, data, settings: GivenExperts(given))
    choices = deque((int(k), float(share)) for k, share in zip(arrays["pick"], arrays["l"], strict=True))
    monkeypatch.setattr(blends.NetworkPair, "_choice", lambda self: choices.popleft())
    vessels = [network(arrays, f"a{min(given)[0]}_") for _ in range(2)]
    rate = float(arrays["lr"]) / ipc
    run(dance, arrays, vessels, lr_img=rate, calibrations=rounds - 1, train_epochs=epochs)
    check_trace(turns, arrays, rounds)
    assert_close(turns.after[0], arrays["x0_match"])
    if rounds > 1:
        calibrating = torch.zeros_like(turns.gradients[1])
        calibrating[:ipc] = turns.gradients[1][:ipc]
        assert_close(calibrating, arrays["gradcal0_c0"])
    for k in range(int(arrays["iters"])):
        assert_close(turns.losses[k * rounds], arrays["match_c"][k])
        for j in range(rounds - 1):
            assert_close(turns.losses[k * rounds + 1 + j], arrays["calib_c"][k, j])


@pytest.mark.golden("trace_tgdd", "tgdd")
def test_tgdd(turns: Turns, watch: list[tuple[Tensor, Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("trace_tgdd")
    epochs, alpha = int(arrays["epochs"]), float(arrays["alpha"])
    names = (re.fullmatch(r"n(\d+)e(\d+)_w00", name) for name in arrays)
    stored = sorted((int(name[1]), int(name[2])) for name in names if name)
    given = {(k, epoch): network(arrays, f"n{k}e{epoch}_") for k, epoch in stored}
    monkeypatch.setattr(tgdd, "train_experts", lambda context, data, settings: GivenExperts(given))
    picks, ranges = deque(arrays["pick"].flatten().tolist()), []

    def scripted(self: tgdd.TwoStates, low: int, high: int) -> int:
        ranges.append((low, high))
        return int(picks.popleft())

    monkeypatch.setattr(tgdd.TwoStates, "_uniform", scripted)
    vessels = [network(arrays, "n{}e{}_".format(*stored[0])) for _ in range(2)]
    rate = float(arrays["lr"]) / int(arrays["ipc"])
    settings = {"alpha": alpha, "interval": int(arrays["interval"]), "train_epochs": epochs}
    run(tgdd, arrays, vessels, lr_img=rate, **settings)
    assert np.array_equal(np.array(ranges).reshape(arrays["ranges"].shape), arrays["ranges"])
    check_trace(turns, arrays, 1)
    for k in range(int(arrays["iters"])):
        (entropies, _), (distances, _) = watch[2 * k : 2 * k + 2]
        assert_close(distances, arrays["match_c"][k])
        assert_close(entropies, arrays["ce_c"][k])
        torch.testing.assert_close(turns.losses[k], distances + alpha * entropies)


@pytest.mark.golden("match_dsdm", "dsdm")
@pytest.mark.parametrize(
    ("case", "covariance", "past"), [("all", True, True), ("nohist", True, False), ("mean", False, False)]
)
def test_dsdms_loss_through_a_network(case: str, covariance: bool, past: bool) -> None:
    arrays = golden("match_dsdm")
    net, real = network(arrays, ""), tensor(arrays["x_real"])
    weights = {"covariance_weight": float(arrays["cov"]) if covariance else 0.0}
    config = dsdm.Config(**weights, prototype_weight=float(arrays["hpw"]))
    prototypes = tensor(arrays["h"]).flatten()[None] if past else None
    loss = dsdm.MomentDistance.to(config, net.embed(real), (len(real),), prototypes)
    images = tensor(arrays["x_syn"]).requires_grad_()
    found = loss(Seen(net.embed(images)[None], classes=slice(0, 1)))
    torch.testing.assert_close(float(found.detach()), float(arrays[f"{case}_loss"]), rtol=2e-5, atol=0)
    assert_close(*torch.autograd.grad(found.sum(), images), arrays[f"{case}_grad"])


@pytest.mark.golden("trace_dsdm", "dsdm")
def test_dsdm(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("trace_dsdm")
    ipc, epochs = int(arrays["ipc"]), 3
    given = {(k, epochs): network(arrays, f"p{k}_") for k in numbers(arrays, "p")}
    monkeypatch.setattr(dsdm, "train_experts", lambda context, data, settings: GivenExperts(given))
    picks = deque(arrays["pick"].tolist())
    monkeypatch.setattr(dsdm.Pool, "_choice", lambda self: picks.popleft())
    settings = {
        "lr_img": 10 * float(arrays["lr"]) / ipc,
        "lr_side": arrays["images"].shape[2],
        "covariance_weight": float(arrays["cov"]),
        "prototype_weight": float(arrays["hpw"]),
        "prototype_share": float(arrays["sf"]),
        "prototype_after": int(arrays["smooth"]),
        "train_epochs": epochs,
    }
    context = run(dsdm, arrays, [network(arrays, f"p{min(given)[0]}_")], **settings)
    check_trace(turns, arrays, 1)
    for k in range(int(arrays["iters"])):
        assert_close(turns.losses[k], arrays["loss_c"][k])
        if f"hp{k}" in arrays:
            wanted = arrays[f"hp{k}"]
            assert_close(context.states[k]["prototypes"], wanted.reshape(len(wanted), -1))


def test_gram_matrices_give_the_distance_of_covariances() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = (7, 1, 4)
    real = torch.randn(sum(sizes), 6, generator=generator, dtype=torch.float64)
    own = torch.randn(3, 5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    loss = dsdm.MomentDistance.to(dsdm.Config(), real, sizes, None)
    got = loss.covariance_gap(Seen(own, classes=slice(0, 3)))
    covariances = [part.T.cov(correction=min(1, len(part) - 1)) for part in real.split(sizes)]
    wanted = torch.stack([(s.T.cov() - r).square().sum() for s, r in zip(own, covariances, strict=True)])
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(loss.covariance_gap(Seen(own[1:], classes=slice(1, 3))), wanted[1:])
    gradients = [torch.autograd.grad(gap.sum(), own)[0] for gap in (got, wanted)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("ipc", "settings"), [(1, {"factor": 1}), (5, {"batch_tiles": 1}), (1, {"factor": 2, "batch_tiles": 1})]
)
def test_dsdm_refuses_one_tile_of_a_class_before_it_trains(ipc: int, settings: dict[str, Any]) -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    with pytest.raises(UserError, match=r"1 tile of each; expected 2 or more: .*--set dsdm.factor=2"):
        dsdm.distill(data, ipc, config=dsdm.Config(**settings, train_epochs=10**9))
    dsdm.refuse_lone_tiles(1, dsdm.Config(factor=1, covariance_weight=0.0))
    dsdm.refuse_lone_tiles(2, dsdm.Config(factor=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dance", "tgdd", "dsdm"])
def test_pieces_and_few_tiles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(num_classes=4, shape=(3, 8, 8), per_class=12)
    config = resolve(name, data.name, 2, "smoke", {"iterations": 3, "batch_tiles": 5}).config
    module = {"dance": dance, "tgdd": tgdd, "dsdm": dsdm}[name]
    init = ClassMatcher.__init__
    found = []
    for rows_at_once in (None, 13):

        def in_pieces(self: ClassMatcher, *rest: Any, rows: int | None = rows_at_once, **named: Any) -> None:
            init(self, *rest, **named)
            self.rows_at_once = rows

        monkeypatch.setattr(ClassMatcher, "__init__", in_pieces)
        found.append(module.distill(data, 2, config=config, context=Context(arch=ARCH)).pixels())  # type: ignore[attr-defined]
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-4)


def test_a_later_state_is_never_an_earlier_one() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    config = tgdd.Config(networks=2, train_epochs=4, train_steps=1, interval=3)
    states = tgdd.TwoStates(Context(arch=ARCH), data, config)
    drawn = []
    load_into = states._experts.load_into

    def note(net: Network, k: int, epoch: int) -> None:
        drawn.append((k, epoch))
        load_into(net, k, epoch)

    states._experts.load_into = note  # type: ignore[method-assign]
    for _ in range(200):
        states.draw()
    pairs = list(zip(drawn[::2], drawn[1::2], strict=True))
    assert all(early[0] == late[0] for early, late in pairs)
    gaps = {(early[1], late[1]) for early, late in pairs}
    assert gaps == {(a, b) for a in range(5) for b in range(a, min(a + 2, 4) + 1)}


def test_pretraining_is_that_of_the_authors() -> None:
    for name, networks, epochs in (("dance", 5, 60), ("tgdd", 5, 60), ("dsdm", 10, 20)):
        settings = idc_line.expert_settings(resolve(name, "cifar10", 10).config)
        assert (settings.count, settings.epochs) == (networks, epochs)
        assert (settings.lr, settings.momentum, settings.weight_decay) == (0.01, 0.9, 5e-4)
        assert (settings.strategy, settings.cutmix) == ("color>crop", 0.5)
    settings = idc_line.expert_settings(resolve("dance", "cifar10", 10).config)
    assert (settings.batch, settings.decay, settings.decay_epochs) == (64, 0.2, (40, 50))
    settings = idc_line.expert_settings(resolve("dsdm", "cifar10", 10).config)
    assert (settings.batch, settings.decay_epochs) == (256, ())


@pytest.mark.parametrize(("name", "ipc", "rate"), [("dance", 10, 0.1), ("tgdd", 1, 0.01), ("dance", 50, 0.5)])
def test_published_rates(name: str, ipc: int, rate: float) -> None:
    config = resolve(name, "cifar10", ipc).config
    assert config.lr_img * ipc == pytest.approx(rate)
    assert (config.batch_real, config.batch_tiles, config.momentum) == (128, 200, 0.5)


@pytest.mark.parametrize(
    ("dataset", "side", "ipc", "rate"),
    [
        ("cifar10", 32, 1, 0.01),
        ("svhn", 32, 50, 0.5),
        ("mnist", 28, 10, 0.1),
        ("fashionmnist", 28, 50, 0.3828125),
    ],
)
def test_published_rates_of_dsdm(dataset: str, side: int, ipc: int, rate: float) -> None:
    data = toy(num_classes=2, shape=(1, side, side), per_class=2)
    config = resolve("dsdm", dataset, ipc).config
    assert dsdm.image_rate(config, ipc, data) == pytest.approx(rate)
    assert (config.train_cutmix == 0) == (dataset == "mnist")
