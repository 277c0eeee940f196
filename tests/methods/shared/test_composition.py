"""The rule of composition: any loop of distribution matching with any distance, as LOOP+DISTANCE."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from contract_files import METHOD

import methods
from harness.commands.cli import main
from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.distilled import Distilled
from harness.core.errors import UnknownNameError, UserError
from harness.engine.options import parse_options
from harness.engine.plan import DatasetFacts, check_methods, expand, settings_by_method
from methods import bacon, dm, idm, resolve
from methods.shared.composition import Criterion
from methods.shared.matching import ClassLoss, MeanDistance, Seen

ARCH = "ConvNetW16D2"


def distilled(name: str, ipc: int = 2, **settings: object) -> Distilled:
    data = toy(num_classes=3, shape=(3, 8, 8))
    config = resolve(name, data.name, ipc, "smoke", {"iterations": 5, **settings}).config
    return methods.load(name).distill(data, ipc, config=config, context=Context(arch=ARCH))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["", "@paper"])
def test_idms_loop_with_bacons_distance_is_bacon(variant: str) -> None:
    composed, whole = distilled(f"idm+bacon{variant}"), distilled(f"bacon{variant}")
    assert composed.digest() == whole.digest()
    assert composed.method == "idm+bacon"
    assert composed.config == whole.config


@pytest.mark.slow
def test_a_loop_with_another_distance_is_neither_of_both() -> None:
    names = ("dm", "bacon", "dm+bacon", "dm+bacon@paper")
    assert len({distilled(name).digest() for name in names}) == len(names)


def test_it_has_the_settings_of_the_loop_and_the_weights_of_the_distance() -> None:
    module = methods.load("dm+bacon")
    names = {field.name for field in dataclasses.fields(module.Config)}
    weights = {field.name for field in dataclasses.fields(bacon.Weights)}
    assert names == {field.name for field in dataclasses.fields(dm.Config)} | weights
    assert (module.PAPER, module.SCALED) == (dm.PAPER, dm.SCALED)
    assert module.VARIANTS == {"paper": {"clip_weight": 0.2}}
    resolved = resolve("dm+bacon", "cifar10", 10, "cpu", {"tv_weight": "0.5"})
    assert isinstance(resolved.config, dm.Config)
    assert isinstance(resolved.config, bacon.Weights)
    assert (resolved.config.tv_weight, resolved.config.iterations) == (0.5, dm.SCALED["cpu"]["iterations"])
    assert str(resolved.source) == "borrowed from dm: cifar10 ipc 10; cpu scale; set by hand: tv_weight"
    assert resolve("dm+bacon@paper", "cifar10", 10).config.clip_weight == 0.2


def test_multi_formation_is_a_choice_of_dms_loop() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    config = dm.Config(iterations=2, batch_real=8)
    criterion = Criterion(MeanDistance.to)
    tiled = dm.condense(data, 2, config, Context(arch=ARCH), criterion, "tiled", factor=2)
    assert (len(tiled.images), tiled.factor, tiled.method) == (6, 2, "tiled")
    assert len(tiled.to_dataset()) == 24


def test_a_criterion_may_see_more_and_draw_anew() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8))
    refreshed: list[int] = []
    seen: list[tuple[int, ...]] = []

    def distance_to(real: torch.Tensor, sizes: tuple[int, ...]) -> ClassLoss:
        plain = MeanDistance.to(real, sizes)

        def distance(of: Seen) -> torch.Tensor:
            (pixels,) = of.extra
            seen.append(tuple(pixels.shape))
            return plain(of) + pixels.square().sum(dim=(1, 2, 3, 4))

        return distance

    criterion = Criterion(distance_to, lambda net, images: (images,), lambda: refreshed.append(1))
    for loop, config in (
        (dm, dm.Config(iterations=2, batch_real=8)),
        (idm, idm.Config(iterations=2, batch_real=8, factor=1, train_steps=1, train_batch=8)),
    ):
        refreshed.clear(), seen.clear()
        loop.condense(data, 2, config, Context(arch=ARCH), criterion, "more")
        assert (len(refreshed), set(seen)) == (2, {(3, 2, 3, 8, 8)})


def test_loops_and_distances_are_found_by_syntax(tmp_path: Path) -> None:
    condense = "def condense(data, ipc, config, context, criterion, method): ...\n"
    distance_to = "def distance_to(weights): ...\n"
    (tmp_path / "a.py").write_text(METHOD + condense)
    (tmp_path / "b.py").write_text(METHOD + distance_to + "VARIANTS = {'x': {}}\n")
    (tmp_path / "helper.py").write_text(distance_to)
    found = methods.discover(tmp_path)
    assert methods.composable(found.values()) == (["a"], ["b", "b@x"])
    code = "import sys, methods; methods.find('dm+bacon'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_list_of_methods_gives_the_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods"]) == 0
    last, soft = capsys.readouterr().out.splitlines()[-2:]
    assert soft.startswith("METHOD@soft, e.g. random@soft: ")
    assert last.startswith("LOOP+DISTANCE, e.g. dm+bacon: a loop of dm, ")
    assert "idm" in last
    assert "bacon@paper" in last


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("dm+bacn", r"unknown distance 'bacn'; did you mean 'bacon'\?.*LOOP\+DISTANCE, loops: dm, idm"),
        ("dmm+bacon", r"unknown loop 'dmm'; did you mean 'dm'\?.*LOOP\+DISTANCE, distances: bacon, "),
        ("random+bacon", "unknown loop 'random'"),
        ("dm+random", "unknown distance 'random'"),
        ("dm+bacon+bacon", r"unknown distance 'bacon\+bacon'"),
        ("dm+bacon@papr", r"unknown distance 'bacon@papr'; did you mean 'bacon@paper'\?"),
        ("dm+", "unknown distance ''"),
    ],
)
def test_unknown_parts_are_named(name: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        methods.load(name)


def test_a_variant_that_changes_the_loop_cannot_be_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bacon, "VARIANTS", {"paper": {"iterations": 3}})
    module = methods.shared.composition.compose.__wrapped__("dm+bacon", dm, bacon)
    assert module.VARIANTS == {}
    monkeypatch.setattr(methods.shared.composition, "compose", lambda *parts: module)
    with pytest.raises(UserError, match="changes more than the distance"):
        methods.load("dm+bacon@paper")


def test_on_the_command_line_it_is_a_name_like_any_other(tmp_path: Path) -> None:
    options = parse_options(
        {"methods": "dm+bacon,dm", "set": ["dm+bacon.lr_img=0.5", "*.batch_real=8"], "scale": "smoke"}
    )
    check_methods(options)
    assert settings_by_method(options.methods, options.set)["dm+bacon"] == {
        "lr_img": "0.5",
        "batch_real": "8",
    }
    spec = methods_facts()
    trial = next(trial for trial in expand(options, [spec]).trials if trial.method == "dm+bacon")
    assert trial.config["lr_img"] == 0.5
    assert trial.record_path(tmp_path).parts[-3] == "dm+bacon"
    with pytest.raises(UnknownNameError, match=r"unknown setting of dm\+bacon 'tv'"):
        check_methods(parse_options({"methods": "dm+bacon", "set": ["dm+bacon.tv=1"]}))


def methods_facts() -> DatasetFacts:
    from harness.core.data.catalog import parse

    return DatasetFacts(parse("digits", Path("data"), None, False), (1, 8, 8), 10, 100, 1000)
