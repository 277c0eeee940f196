"""FTD: the authors' own iterations with the moving average, and what must hold beyond them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from golden_trajectories import GoldenImages, GoldenTrajectories, permutations
from scripted import ScriptedContext, ScriptedDraws
from support import assert_close, golden, golden_network, tensor
from torch import Tensor

from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.experts import train_experts
from methods import ftd, resolve
from methods.shared import aligned, trajectories
from methods.shared.trajectories import Match

ARCH = "ConvNetW8D2"
SMALL: dict[str, Any] = {
    "iterations": 3,
    "student_steps": 3,
    "match_epochs": 1,
    "max_start": 2,
    "batch_syn": 4,
    "lr_img": 1.0,
    "alpha0": 0.05,
    "experts": 1,
    "expert_epochs": 2,
    "expert_batch": 20,
    "expert_lr": 0.1,
    "ema_decay": 0.9,
}


@pytest.mark.slow
@pytest.mark.golden("trace_ftd", "ftd")
def test_the_authors_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("trace_ftd")
    images, iterations = tensor(arrays["x0"]), len(arrays["loss"])
    classes = int(arrays["y_syn"].max()) + 1
    experts = GoldenTrajectories(arrays)
    monkeypatch.setattr(trajectories, "train_experts", lambda *arguments: experts)
    matches: list[Match] = []
    original = ftd.unrolled

    def spy(*arguments: Any) -> Match:
        matches.append(original(*arguments))
        return matches[-1]

    monkeypatch.setattr(ftd, "unrolled", spy)
    config = ftd.Config(
        iterations=iterations,
        **{name: float(arrays[name]) for name in ("lr_img", "lr_lr", "alpha0", "ema_decay")},
        student_steps=int(arrays["syn_steps"]),
        match_epochs=int(arrays["expert_epochs"]),
        max_start=int(arrays["start"].max()) + 1,
        batch_syn=int(arrays["batch_syn"]),
        strategy="",
    )

    def run(config: ftd.Config) -> tuple[Any, list[dict[str, Tensor]]]:
        starts = [torch.tensor(int(value)) for start in arrays["start"] for value in (0, start)]
        orders = permutations(arrays["batches"], len(images), int(arrays["batch_syn"]))
        student = golden_network(arrays, "t0_", "names", "ConvNet")
        context = ScriptedContext([student], {"segment": starts, "order": orders})
        data: Any = GoldenImages(images, classes)
        data.index.balanced = lambda ipc, generator: torch.arange(len(images))
        with ScriptedDraws():
            return ftd.distill(data, len(images) // classes, config=config, context=context), context.states

    made, states = run(config)
    target = config.match_epochs
    assert experts.asked == [(0, int(start) + shift) for start in arrays["start"] for shift in (0, target)]
    assert len(matches) == iterations
    assert made.labels.tolist() == arrays["y_syn"].tolist()
    assert_close(made.images, arrays[f"ema{iterations}"])
    assert_close(torch.tensor(made.learned_lr), arrays["alpha"][-1])
    for k, match in enumerate(matches):
        assert_close(match.loss, arrays["loss"][k])
        assert_close(match.by_images, arrays[f"grad{k}"])
        assert_close(match.by_alpha, arrays["alpha_grad"][k])
    for k, state in enumerate(states[1:], start=1):
        assert_close(state["images"], arrays[f"x{k}"])
        assert_close(state["average"], arrays[f"ema{k}"])
        assert_close(state["alpha"], arrays["alpha"][k - 1])
    raw, _ = run(dataclasses.replace(config, **ftd.VARIANTS["raw"]))
    assert_close(raw.images, arrays[f"x{iterations}"])


def test_experts_are_those_of_datm_and_kept_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spy(context: Context, data: Any, settings: Any) -> Any:
        asked.append(settings)
        return train_experts(context, data, settings)

    monkeypatch.setattr(trajectories, "train_experts", spy)
    data = toy(num_classes=3, shape=(3, 8, 8), per_class=20)
    ftd.distill(data, 1, config=ftd.Config(**SMALL), context=Context(arch=ARCH))
    assert asked[0].half
    assert (asked[0].gsam.rho_max, asked[0].gsam.rho_min, asked[0].gsam.alpha) == (0.01, 0.01, 0.3)
    for scale in ("cpu", "smoke"):
        pair = [resolve(name, "cifar10", 1, scale).config for name in ("ftd", "datm")]
        settings = [trajectories.flat_settings(config, "color") for config in pair]
        assert settings[0] == settings[1], "one cache"


@pytest.mark.parametrize("method", ["ftd", "ftd@raw"])
@pytest.mark.parametrize("scale", ["paper", "cpu", "smoke"])
def test_every_row_has_experts_that_are_long_enough(method: str, scale: str) -> None:
    for dataset in ("cifar10", "cifar100", "tinyimagenet", "mnist", "my-folder"):
        for ipc in (1, 2, 10, 50, 100):
            config = resolve(method, dataset, ipc, scale).config
            settings = trajectories.flat_settings(config, "color")
            assert settings.epochs >= config.max_start - 1 + config.match_epochs
            assert settings.gsam is not None
            assert config.averaged == (method == "ftd")


def test_published_settings_are_the_authors() -> None:
    fifty = resolve("ftd", "cifar10", 50).config
    assert (fifty.gsam_alpha, fifty.ema_decay, fifty.max_start, fifty.alpha0) == (1.0, 0.999, 40, 0.01)
    assert (fifty.expert_epochs, fifty.experts, fifty.iterations) == (50, 100, 5000)
    one = resolve("ftd", "cifar10", 1).config
    assert (one.gsam_alpha, one.ema_decay, one.lr_lr, one.zca) == (0.3, 0.9999, 1e-7, True)
    assert aligned.SCALED["cpu"]["experts"] == resolve("ftd", "cifar10", 1, "cpu").config.experts
