"""All methods, variants and compositions keep the contract, as `python -m harness check` sees it."""

from __future__ import annotations

import itertools

import pytest

import methods
from harness.commands.conformance import POINTS, QUICK, check

LOOPS, DISTANCES = methods.composable(methods.discover().values())
COMPOSITIONS = [
    f"{loop}{methods.JOIN}{distance}"
    for loop, distance in itertools.product(LOOPS, DISTANCES)
    if distance.partition("@")[0] != loop
]


@pytest.mark.parametrize("method", [*methods.discover(), *COMPOSITIONS])
def test_methods_keep_the_contract(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(method, QUICK), capsys.readouterr().out
    assert capsys.readouterr().out.splitlines()[-1] == f"{method}: {len(POINTS)} of {len(POINTS)} points kept"
