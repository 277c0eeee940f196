"""The check of methods: each way of breaking the contract is found."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import methods
from harness.commands.conformance import FAMILIES, FULL, POINTS, command
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.distilled import Distilled, class_labels
from harness.core.settings import Steps, setting
from methods.contract import complete

Distill = Callable[..., Distilled]
unpatched_load = methods.load


@dataclass(frozen=True)
class Config:
    """Settings of the made-up methods."""

    iterations: int = setting(8, "stirs", length=True)


def steps_of(config: Config) -> Steps:
    """Stirs; a set of theirs calls for no augmentation."""
    return Steps(config.iterations, augmentation="")


def honest(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Noise that is stirred at every step."""
    assert context is not None
    data, settings = context.dataset(dataset), config or Config()
    noise = context.generator("noise")
    images = torch.randn((data.num_classes * ipc, *data.shape), generator=noise)
    for _ in context.steps(settings.iterations, {"images": images}):
        images.mul_(0.5).add_(torch.randn(images.shape, generator=noise))
    labels = class_labels(data.num_classes, ipc, data.device)
    return Distilled(images, labels, ipc, data.name, data.class_names, data.transform, "made-up")


def constant(dataset: Dataset, ipc: int, *, config: Config, context: Context) -> Distilled:
    """Deterministic by nature: the first images of each class."""
    rows = context.dataset(dataset).index.table[:, :ipc].flatten()
    labels = class_labels(dataset.num_classes, ipc, dataset.device)
    return Distilled(
        dataset.batch(rows), labels, ipc, dataset.name, dataset.class_names, dataset.transform, "made-up"
    )


def changed(**fields: Callable[[Distilled], object]) -> Distill:
    """The honest method, with fields of its result replaced."""

    def distill(*args: object, **kwargs: object) -> Distilled:
        distilled = honest(*args, **kwargs)  # type: ignore[arg-type]
        return dataclasses.replace(distilled, **{name: make(distilled) for name, make in fields.items()})  # type: ignore[arg-type]

    return distill


def after(disturb: Callable[[Dataset], object]) -> Distill:
    """The honest method, which first does something that it should not."""

    def distill(dataset: Dataset, ipc: int, **rest: object) -> Distilled:
        disturb(dataset)
        return honest(dataset, ipc, **rest)  # type: ignore[arg-type]

    return distill


def forgetful(dataset: Dataset, ipc: int, *, config: Config, context: Context) -> Distilled:
    """Keeps the images of its second loop out of the checkpoint."""
    made = honest(dataset, ipc, config=config, context=context)
    images = made.images
    for step in context.steps(config.iterations, {}, name="second"):
        images = images * 0.5 + step
    return dataclasses.replace(made, images=images)


def unsaved(dataset: Dataset, ipc: int, *, config: Config, context: Context) -> Distilled:
    """Has its loop in a context of its own, whose checkpoint it puts nowhere."""
    return honest(dataset, ipc, config=config, context=context.apart(0, None))


def deaf(dataset: Dataset, ipc: int, *, config: Config, context: Context) -> Distilled:
    """Draws, but from a seed of its own."""
    context.generator("noise").manual_seed(0)
    return honest(dataset, ipc, config=config, context=context)


def clocked(dataset: Dataset, ipc: int, *, config: Config, context: Context) -> Distilled:
    """Seeds itself from the machine."""
    context.generator("noise").seed()
    return honest(dataset, ipc, config=config, context=context)


def equal_classes(dataset: Dataset, ipc: int, *, config: Config, context: Context) -> Distilled:
    """Takes all classes to be of the same size."""
    dataset.images.view(dataset.num_classes, -1, *dataset.shape)
    return honest(dataset, ipc, config=config, context=context)


def three_channels(dataset: Dataset, ipc: int, *, config: Config, context: Context) -> Distilled:
    """Takes all images to be coloured."""
    made = honest(dataset, ipc, config=config, context=context)
    return dataclasses.replace(made, images=made.images.expand(-1, 3, -1, -1))


def made_up(distill: Distill, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `distill` the one method."""
    module = complete(SimpleNamespace(distill=distill, Config=Config, steps_of=steps_of))
    monkeypatch.setattr(methods, "load", lambda name: module)
    monkeypatch.setattr(methods, "resolve", functools.partial(methods.resolve))


def check_made_up(distill: Distill, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit status of the quick check of a made-up method."""
    made_up(distill, monkeypatch)
    return command("made-up", quick=True)


def test_families_cover_the_real_datasets() -> None:
    assert {family.shape for family in FAMILIES} == {(3, 32, 32), (1, 28, 28), (3, 64, 64)}
    assert {family.classes for family in FAMILIES} == {10, 100, 200}
    assert {family.ipc for family in FAMILIES} == {1, 10}
    for family in FAMILIES:
        data = family.data()
        assert (data.shape, data.num_classes) == (family.shape, family.classes)
        assert set(data.index.counts) == {family.per_class, family.per_class - 1}
        assert min(data.index.counts) >= family.ipc


@pytest.mark.slow
def test_the_whole_check_names_every_family(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up(honest, monkeypatch)
    assert command("made-up") == 0
    *lines, summary = capsys.readouterr().out.splitlines()
    expected = [f"ok      {family.name}: {title}" for family, points in FULL.items() for title in points]
    assert lines == expected
    assert summary == f"made-up: {len(lines)} of {len(lines)} points kept"


@pytest.mark.parametrize("name", [None, "all"])
def test_all_methods_at_once(
    name: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {
        "made-up": methods.MethodInfo("made-up", "", ""),
        "torn": methods.MethodInfo("torn", "", "", breaches=("does not parse: line 3",)),
    }
    made_up(honest, monkeypatch)
    load = methods.load
    monkeypatch.setattr(methods, "discover", lambda: found)
    monkeypatch.setattr(
        methods, "load", lambda name: load(name) if name == "made-up" else unpatched_load(name)
    )
    assert command(name, quick=True) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["failed  torn: its file does not parse: line 3", "1 of 2 methods keep the contract"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("distill", "family", "complaint"),
    [
        (equal_classes, "3x32x32, 10 classes", "RuntimeError"),
        (three_channels, "1x28x28", "expected (200, 1,"),
    ],
)
def test_what_small_data_does_not_show_is_found_on_a_family(
    distill: Distill,
    family: str,
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made_up(distill, monkeypatch)
    assert command("made-up") == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed")]
    assert any(family in line and complaint in line for line in failed), failed


@pytest.mark.parametrize("distill", [honest, constant])
def test_a_method_may_be_deterministic(distill: Distill, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_made_up(distill, monkeypatch) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("distill", "complaint"),
    [
        (lambda *_, **__: None, "not Distilled"),
        (
            changed(images=lambda d: d.images[:, :, :4]),
            "images are (3, 3, 4, 8) at ipc 1, expected (3, 3, 8, 8)",
        ),
        (changed(images=lambda d: d.images.double()), "expected torch.float32"),
        (changed(images=lambda d: d.images.clone().requires_grad_()), "still require gradients"),
        (changed(images=lambda d: d.images / 0), "DivergedError"),
        (changed(labels=lambda d: d.labels.flip(0)), "expected int64 [0, 1, 2]"),
        (changed(labels=lambda d: d.labels[:, None].expand(-1, 2).float()), "soft labels are (3, 2)"),
        (changed(dataset=lambda _: "other"), "expected (1, 'toy'"),
        (changed(factor=lambda _: 2), "steps_of says factor 1 and augmentation '', the set that it returns"),
        (changed(augmentation=lambda _: "flip"), "the set that it returns says 1 and 'flip'"),
        (clocked, "two runs with seed 0 differ"),
        (deaf, "seeds 0 and 1 give the same set"),
        (forgetful, "a resumed run ends in other bytes"),
        (unsaved, "killed before step 4 of the loop 'distill', it went on from step 0"),
        (after(lambda dataset: dataset.test()), "FirewallError"),
        (after(lambda _: torch.rand(1)), "the global generator of torch was used"),
        (after(lambda _: np.random.rand()), "the global generator of numpy was used"),
        (after(lambda _: random.random()), "the global generator of random was used"),
    ],
)
def test_each_way_of_breaking_the_contract_is_found(
    distill: Distill, complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_made_up(distill, monkeypatch) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed")]
    assert any(complaint in line for line in failed), failed


def endless(dataset: Dataset, ipc: int, *, config: Config, context: Context) -> Distilled:
    """Is as long as a paper's whatever its settings."""
    return honest(dataset, ipc, config=Config(20_000), context=context)


def test_a_loop_that_takes_too_long_for_the_scale_is_found_before_its_first_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_made_up(endless, monkeypatch) == 1
    complaint = "the loop 'distill' has 20000 steps at smoke scale, expected at most 1000"
    assert complaint in capsys.readouterr().out


def longer(dataset: Dataset, ipc: int, *, config: Config, context: Context) -> Distilled:
    """Makes more steps than its settings say."""
    return honest(dataset, ipc, config=Config(config.iterations + 1), context=context)


def test_a_loop_longer_than_its_settings_say_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_made_up(longer, monkeypatch) == 1
    assert "steps_of says 8 steps at smoke scale, but its loop has 9" in capsys.readouterr().out


@dataclass(frozen=True)
class Unmarked:
    """Settings none of which is said to be a length."""

    iterations: int = setting(8, "stirs")


def test_a_loop_whose_length_no_setting_tells_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = complete(SimpleNamespace(distill=honest, Config=Unmarked))
    monkeypatch.setattr(methods, "load", lambda name: module)
    monkeypatch.setattr(methods, "resolve", functools.partial(methods.resolve))
    assert command("made-up", quick=True) == 1
    assert "has 8 steps, but no setting is said to be its length" in capsys.readouterr().out


def test_each_point_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def raising(*_: object, **__: object) -> Distilled:
        raise ValueError("two\nlines")

    assert check_made_up(raising, monkeypatch) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(POINTS) + 1
    assert lines[0].endswith("ValueError: two lines")


def test_settings_that_are_let_through_are_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(methods, "resolve", lambda *_, **__: methods.Resolved(Config(), ""))
    assert check_made_up(honest, monkeypatch) == 1
    assert "no_such_setting was accepted" in capsys.readouterr().out
