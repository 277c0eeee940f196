"""All methods keep what shapes may break on data of the shapes of the real datasets."""

from __future__ import annotations

import dataclasses

import pytest

import methods
from harness.commands.conformance import FAMILIES, SHAPE_POINTS, check, survives_kills

# What `check` does besides takes minutes: more steps, more classes, and deaths, as in the quick check.
POINTS = {title: point for title, point in SHAPE_POINTS.items() if point is not survives_kills}
BRIEF = [
    dataclasses.replace(family, classes=max(10, family.classes // 10), limit_steps=1) for family in FAMILIES
]
METHODS = [*(name for name in methods.discover() if "@" not in name), "dm+bacon", "idm+bacon"]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_methods_keep_the_contract_on_the_shapes_of_real_data(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(method, dict.fromkeys(BRIEF, POINTS)), capsys.readouterr().out
