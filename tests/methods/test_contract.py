"""All methods, variants and compositions keep the contract, as `python -m harness check` sees it."""

from __future__ import annotations

import pytest

import methods
from harness.commands.conformance import POINTS, SMALL, check, repeats_itself

LOOPS, DISTANCES = methods.composable(methods.discover().values())
# Each loop and each distance in one pair or more: what differs between pairs is shared code.
COMPOSITIONS = [
    f"{LOOPS[k % len(LOOPS)]}{methods.JOIN}{DISTANCES[k % len(DISTANCES)]}"
    for k in range(max(len(LOOPS), len(DISTANCES)))
]
# That a seed repeats itself is seen as well where a run that is killed and resumed equals another.
TRIED = {title: point for title, point in POINTS.items() if point is not repeats_itself}
QUICKLY = ("random", "dm", "bacon")  # also where slow tests are left out

METHODS = [
    pytest.param(method, marks=() if method in QUICKLY else pytest.mark.slow)
    for method in [*methods.discover(), *COMPOSITIONS]
]


@pytest.mark.parametrize("method", METHODS)
def test_methods_keep_the_contract(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(method, {SMALL: TRIED}), capsys.readouterr().out
    assert capsys.readouterr().out.splitlines()[-1] == f"{method}: {len(TRIED)} of {len(TRIED)} points kept"
