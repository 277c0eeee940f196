"""The template that authors copy is itself a method that keeps the contract."""

from __future__ import annotations

import pytest

import methods
from harness.commands.conformance import command
from methods import MethodInfo


@pytest.mark.slow
def test_template_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {**methods.discover(), "NAME": MethodInfo("NAME", "methods._template", "")}
    monkeypatch.setattr(methods, "discover", lambda: found)
    assert command("NAME") == 0


def test_template_is_not_listed() -> None:
    assert not any("template" in name for name in methods.discover())
