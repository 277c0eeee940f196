"""`list methods NAME`: settings with type, default and meaning, and what is set for which dataset and ipc."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import methods
from harness.commands.cli import main
from harness.core.settings import settings_in
from harness.engine.provenance import ROOT
from harness.engine.scales import SCALES


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["list", "methods", *words]) == 0
    return capsys.readouterr().out


def page(capsys: pytest.CaptureFixture[str], name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed(capsys, name, "--json"))
    return found


def test_settings_have_type_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "bacon").splitlines()
    assert lines[0] == "bacon: BACON: Bayesian optimal condensation."
    rows = {line.split()[0]: line.split(maxsplit=3)[1:] for line in lines[3:24]}
    assert rows["lr_img"] == ["float", "0.2", "learning rate of the images"]
    assert rows["lr_net"] == ["float", "0.01", "learning rate of the networks"]
    assert rows["tv_weight"] == ["float", "0.8", "lambda, weight of the total variation"]
    assert set(rows) == {setting.name for setting in settings_in(methods.load("bacon").Config)}


def test_published_rows_variants_and_scales_follow(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "bacon")
    assert "  cifar100                  ipc 10      strategy=color_crop" in text
    assert ", ce_weight=0.1, train_steps=50\n" in text
    assert "  other datasets (default)  ipc 1       batch_real=5000, push_every=5\n" in text
    assert "  bacon@paper  clip_weight=0.2\n" in text
    assert "  smoke  ce_reference=2048, push_every=5, iterations=20" in text
    assert "  digits  factor=1, ce_reference=2048\n" in text
    assert "published for mtt" in printed(capsys, "tesla")
    assert "ignores ipc" in printed(capsys, "whole")
    assert "FLOPs leave out what its steps take, kernels of pairs of images" in printed(capsys, "kip@vec")


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = page(capsys, "tesla")
    by_name = {setting["name"]: setting for setting in found["settings"]}
    assert by_name["iterations"] == {
        "name": "iterations",
        "type": "int",
        "default": 10_000,
        "meaning": "updates of the images and of alpha",
        "length": True,
        "added": False,
    }
    rows = {(row["dataset"], row["ipc"]): row for row in found["published"]}
    assert rows["cifar10", 1]["settings"]["lr_img"] == 1000
    assert rows["cifar10", 1]["borrowed_from"] is None
    assert rows["cifar10", 10]["borrowed_from"] == "mtt"
    assert found["variants"] == {"exact": {"gradient_factor": 2.0}, "soft": {"teacher_label": True}}
    assert set(found["scaled"]) == {"cpu", "smoke"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*methods.discover(), "dm+bacon"])
def test_every_name_has_a_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert page(capsys, name)["name"] == name
    assert name in printed(capsys, name)


def test_a_variant_is_shown_with_its_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    found = page(capsys, "datadam@paper")
    defaults = {setting["name"]: setting["default"] for setting in found["settings"]}
    assert (defaults["power"], defaults["iterations"], defaults["lr_img"]) == (4.0, 8000, 1.0)


def test_the_list_says_what_variants_change(capsys: pytest.CaptureFixture[str]) -> None:
    lines = dict(line.split(maxsplit=1) for line in printed(capsys).splitlines())
    assert lines["bacon@paper"] == "bacon with clip_weight = 0.2"
    for name, line in lines.items():
        base, _, variant = name.partition("@")
        if variant and "+" not in name and base != "METHOD":
            assert line != lines[base]
            changed = methods.load(name).VARIANTS[variant]
            assert all(f"{key} = " in line for key in changed)


def test_mistakes_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for words, complaint in (
        (["methods", "idn"], "unknown method 'idn'; did you mean 'idm'?"),
        (["archs", "idm"], "list archs takes no name, but found 'idm'"),
    ):
        assert main(["list", *words]) == 2
        assert complaint in capsys.readouterr().err


def test_scales_are_listed_with_what_they_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "scales"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == list(SCALES)
    asked = "ConvNetW32; dc-cpu (hard), sl-cpu (stored), kd-cpu (teacher); 3 networks on each set, 2 seeds"
    assert lines["cpu"].endswith(asked)
    assert lines["smoke"].endswith("2 networks on each set, 1 seed")
    assert main(["list", "scales", "--json"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["paper"]["protocols"] == {"hard": "dc-1000", "stored": "sl-1000", "teacher": "kd-300"}


def test_the_list_imports_no_method() -> None:
    code = (
        "import sys; from harness.commands.cli import main;"
        "assert main(['list', 'methods']) == 0; sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
