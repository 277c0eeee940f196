"""Settings read without their method's module: the same as the module's, and without torch."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

import methods
from harness.provenance import ROOT

NAMES = ("PAPER", "VARIANTS", "UNPUBLISHED", "SCALED", "RESOURCES")
METHODS = (*(name for name in methods.discover() if "@" not in name), "dm+bacon", "idm+m3d")


def fields(config: Any) -> list[tuple[str, str, Any]]:
    return [(field.name, field.type, field.default) for field in dataclasses.fields(config)]


@pytest.mark.parametrize("method", METHODS)
def test_settings_are_those_of_the_module(method: str) -> None:
    module, settings = methods.load(method), methods.settings(method)
    assert fields(settings.Config) == fields(module.Config)
    assert {name: getattr(settings, name, None) for name in NAMES} == {
        name: getattr(module, name, None) for name in NAMES
    }


def test_settings_need_no_torch() -> None:
    code = (
        "import sys, methods;"
        f"[methods.resolve(name, 'cifar10', 10, of=methods.settings) for name in {METHODS!r}];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_what_is_no_setting_is_absent() -> None:
    assert not hasattr(methods.settings("random"), "PAPER")
