"""GSAM against two steps of the authors' code, as experts are trained with it."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from scripted import ScriptedData
from support import GoldenConvNet, assert_close, golden, golden_convnet, tensor
from torch import Tensor

from harness.core import experts as experts_module
from harness.core import gsam as gsam_module
from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.experts import ExpertSettings, train_experts
from harness.core.gsam import Gsam


def flat(parts: list[Tensor], trained: GoldenConvNet) -> Tensor:
    """Tensors of the network's parameters, in its own order, flattened in the file's."""
    place = {id(p): part for p, part in zip(trained.net.parameters(), parts, strict=True)}
    return torch.cat([place[id(p)].flatten() for p in trained.parameters])


class Watched:
    """What each step perturbs by and follows, and its rho and loss."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, trained: GoldenConvNet) -> None:
        self.steps: list[dict[str, Any]] = []
        perturb, direct = gsam_module.perturbation, gsam_module.direction
        step = experts_module.gsam_step

        def perturbation(weights: Any, gradient: Any, rho: float, *, adaptive: bool) -> Any:
            found = perturb(weights, gradient, rho, adaptive=adaptive)
            self.steps.append({"rho": rho, "g": flat(gradient, trained), "e": flat(found, trained)})
            return found

        def direction(here: Any, there: Any, alpha: float) -> Any:
            found = direct(here, there, alpha)
            self.steps[-1] |= {"h": flat(there, trained), "d": flat(found, trained)}
            return found

        def gsam_step(*arguments: Any) -> Tensor:
            loss = step(*arguments)
            after = torch.cat([p.detach().flatten() for p in trained.parameters])
            self.steps[-1] |= {"loss": loss, "w": after}
            return loss

        monkeypatch.setattr(gsam_module, "perturbation", perturbation)
        monkeypatch.setattr(gsam_module, "direction", direction)
        monkeypatch.setattr(experts_module, "gsam_step", gsam_step)


@pytest.mark.golden("gsam_steps", "ftd", "datm", "pad")
def test_experts_make_the_authors_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("gsam_steps")
    cases = [name.removesuffix("_lr") for name in arrays if name.endswith("_lr")]
    assert cases
    for case in cases:
        with monkeypatch.context() as patch:
            check_case({name: arrays[f"{case}_{name}"] for name in NAMES}, case, arrays, patch)


NAMES = ("lr", "mom", "l2", "alpha", "rho_max", "rho_min", "decay", "adaptive", "rho", "loss")


def check_case(
    values: dict[str, np.ndarray], case: str, arrays: dict[str, Any], patch: pytest.MonkeyPatch
) -> None:
    """Train an expert whose passes are the file's batches; all that a step computes is the authors'."""
    steps, size = arrays["x"].shape[:2]
    trained = golden_convnet(arrays | {"x": arrays["x"][0]})
    everything = {"images": arrays["x"].reshape(-1, *arrays["x"].shape[2:]), "labels": arrays["y"].flatten()}
    data = ScriptedData(everything | {"init_idx": np.zeros((1, 1)), "real_idx": []})
    rows = torch.arange(steps * size)
    orders = deque(rows.roll(-size * k) for k in range(steps))
    patch.setattr(experts_module._ExpertTrainer, "_order", lambda self, context: orders.popleft())
    patch.setattr(Context, "network", lambda *arguments, **named: trained.net)
    seen = Watched(patch, trained)
    decays = float(values["decay"]) != 1
    settings = ExpertSettings(
        count=1,
        epochs=steps,
        batch=size,
        steps_per_epoch=1,
        lr=float(values["lr"]),
        momentum=float(values["mom"]),
        weight_decay=float(values["l2"]),
        decay=float(values["decay"]),
        decay_epochs=(1,) if decays else (),
        gsam=Gsam(
            *(float(values[name]) for name in ("rho_max", "rho_min", "alpha")), bool(values["adaptive"])
        ),
    )
    train_experts(Context(), data, settings)  # type: ignore[arg-type]
    assert len(seen.steps) == steps
    for name in ("rho", "loss"):
        assert_close(torch.tensor([float(step[name]) for step in seen.steps]), values[name])
    for k, step in enumerate(seen.steps):
        first = [arrays[f"w{j:02d}"].flatten() for j in range(len(arrays["wnames"]))]
        before = tensor(arrays[f"{case}_w{k}"] if k else np.concatenate(first))
        sizes = before.abs() if values["adaptive"] else torch.ones_like(before)
        for name in ("g", "e", "h", "d"):
            if f"{case}_{name}{k}" in arrays:
                assert_close(step[name], arrays[f"{case}_{name}{k}"])
        assert_close((sizes * step["g"]).norm(), arrays[f"{case}_norm{k}"])
        assert_close(step["w"], arrays[f"{case}_w{k + 1}"])


def test_rho_follows_the_rate() -> None:
    gsam = Gsam(rho_max=0.4, rho_min=0.1, alpha=0.3)
    rates = [0.03, 0.02, 0.01]
    assert [gsam.rho(rate, rates) for rate in rates] == pytest.approx([0.4, 0.25, 0.1])
    assert gsam.rho(0.01, [0.01, 0.01]) == 0.4


def test_without_a_perturbation_it_is_sgd() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8), per_class=10)
    settings = {"count": 1, "epochs": 2, "batch": 8, "lr": 0.1, "momentum": 0.9, "strategy": "color"}
    plain = train_experts(Context(arch="ConvNetW4D2"), data, ExpertSettings(**settings))
    still = Gsam(rho_max=0.0, rho_min=0.0, alpha=0.5)
    found = train_experts(Context(arch="ConvNetW4D2"), data, ExpertSettings(**settings, gsam=still))
    for a, b in zip(plain.parameters(0, 2), found.parameters(0, 2), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    moved = Gsam(rho_max=0.5, rho_min=0.5, alpha=0.5)
    other = train_experts(Context(arch="ConvNetW4D2"), data, ExpertSettings(**settings, gsam=moved))
    gap = max(
        float((a - b).abs().max())
        for a, b in zip(plain.parameters(0, 2), other.parameters(0, 2), strict=True)
    )
    assert gap > 1e-3
