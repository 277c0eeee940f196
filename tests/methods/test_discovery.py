"""Methods by presence, and their settings from published tables, scales and the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from contract_files import METHOD

import methods
from harness.core.errors import UnknownNameError, UserError
from methods import resolve


def test_methods_are_the_files_that_define_distill(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f'"""Mine: a method."""\nVARIANTS = {{"fast": {{}}}}\n{METHOD}')
    (tmp_path / "helper.py").write_text('"""No method."""\n')
    (tmp_path / "_template.py").write_text("def distill(): ...\n")
    (tmp_path / "torn.py").write_text("def distill(:\n")
    found = methods.discover(tmp_path)
    assert list(found) == ["mine", "mine@fast", "torn"]
    assert found["mine"].summary == "Mine: a method."
    assert "does not parse" in found["torn"].breaches[0]


def test_listing_methods_needs_no_torch() -> None:
    code = (
        "import sys, methods; assert 'bacon@paper' in methods.discover(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_six_methods_and_the_paper_variant_are_there() -> None:
    assert {"random", "herding", "kcenter", "dm", "idm", "bacon", "bacon@paper"} <= set(methods.discover())


@pytest.mark.parametrize(
    ("method", "dataset", "ipc", "expected"),
    [
        ("bacon", "svhn", 1, {"batch_real": 5000, "push_every": 5, "ce_weight": 0.5}),
        ("bacon", "cifar10", 10, {"batch_real": 256, "push_every": 30, "ce_weight": 0.5, "train_steps": 10}),
        ("bacon", "cifar10", 50, {"ce_weight": 0.1, "meter_reset_every": 500}),
        ("bacon", "cifar100", 50, {"ce_weight": 0.1, "meter_reset_every": 500, "train_steps": 50}),
        ("bacon", "tinyimagenet", 10, {"train_steps": 50, "meter_reset_every": 500}),
        ("bacon", "mnist", 50, {"ce_weight": 0.5, "meter_reset_every": 100}),
        ("idm", "cifar100", 50, {"train_steps": 10, "ce_weight": 0.1}),
        ("idm", "tinyimagenet", 50, {"ce_weight": 0.8, "train_steps": 50, "meter_reset_every": 1000}),
        ("dm", "cifar10", 50, {"lr_img": 1.0}),
        ("dm", "cifar10", 200, {"lr_img": 10.0}),
    ],
)
def test_published_settings(method: str, dataset: str, ipc: int, expected: dict[str, float]) -> None:
    resolved = resolve(method, dataset, ipc)
    assert {key: getattr(resolved.config, key) for key in expected} == expected
    assert resolved.config.iterations == 20_000
    assert (resolved.source.kind == "published") == (ipc != 200)


def test_the_source_of_the_settings_is_told() -> None:
    def source(*wanted: Any, **changes: Any) -> str:
        return str(resolve(*wanted, **changes).source)

    assert source("bacon", "cifar10", 10) == "published: cifar10 ipc 10"
    assert "nothing is published for digits" in source("bacon", "digits", 10)
    assert "nothing is published for ipc 20, taken from cifar10 ipc 10" in source("idm", "cifar10", 20)
    assert "cpu scale" in source("idm", "cifar10", 10, "cpu")
    assert "set by hand: lr_img" in source("idm", "cifar10", 10, overrides={"lr_img": "0.5"})


def test_what_may_be_none_is_typed_as_none() -> None:
    for text in ("None", "none", "null"):
        config = resolve("dcc", "digits", 1, overrides={"strategy": text}).config
        assert config.strategy is None
    assert resolve("bacon", "digits", 1, overrides={"ce_reference": "None"}).config.ce_reference is None
    with pytest.raises(UserError, match="does not fit"):
        resolve("bacon", "digits", 1, overrides={"iterations": "None"})


def test_strings_are_converted_to_the_fields_type() -> None:
    config = resolve(
        "bacon", "digits", 1, overrides={"lr_img": "0.25", "iterations": "7", "strategy": "flip"}
    ).config
    assert (config.lr_img, config.iterations, config.strategy) == (0.25, 7, "flip")
    for text, networks in (
        ("ConvNet,ResNet18BN", ("ConvNet", "ResNet18BN")),
        ("ConvNet", ("ConvNet",)),
        ("", ()),
    ):
        config = resolve("g_vbsm", "digits", 1, overrides={"more_networks": text}).config
        assert config.more_networks == networks


def test_variant_overrides_the_published_settings() -> None:
    assert resolve("bacon@paper", "cifar10", 10).config.clip_weight == 0.2
    assert resolve("bacon", "cifar10", 10).config.clip_weight == 0.0


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown method 'idn'; did you mean 'idm'\? available: bacon"
    ):
        resolve("idn", "cifar10", 1)
    with pytest.raises(
        UnknownNameError, match=r"unknown setting of bacon 'lr_image'; did you mean 'lr_img'\?"
    ):
        resolve("bacon", "cifar10", 1, overrides={"lr_image": 1})
    with pytest.raises(UserError, match=r"setting bacon.iterations='many' does not fit: Expected `int`"):
        resolve("bacon", "cifar10", 1, overrides={"iterations": "many"})
