"""Benchmarks of what methods run (`speed_cases`), and of plain loops that compute the same.

The gate, `python -m harness perf check`, runs `test_ours` of two trees in turns and compares them by name;
where there is no earlier code, `test_ours` and `test_plain` of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from speed_cases import CASES

PLAIN = {name: case.plain for name, case in CASES.items() if case.plain is not None}
# The largest are as the smaller ones.
AGREEING = [name for name in PLAIN if "-100-" not in name and not name.startswith("prepare")]


def parameters(names: Iterable[str]) -> list[Any]:
    """Names of cases as parameters; the largest are slow."""
    return [pytest.param(name, marks=pytest.mark.slow if "-100" in name else ()) for name in names]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("case", parameters(CASES))
def test_ours(benchmark: Any, case: str) -> None:
    benchmark(CASES[case].ours())


@pytest.mark.slow
@pytest.mark.parametrize("case", parameters(PLAIN))
def test_plain(benchmark: Any, case: str) -> None:
    benchmark(PLAIN[case]())


@pytest.mark.slow
@pytest.mark.parametrize("case", [*AGREEING, "descend-bacon-100-1"])
def test_both_forms_agree(case: str) -> None:
    ours, plain = CASES[case].ours(), PLAIN[case]()
    for _ in range(2):  # the second step sees what the first one changed
        torch.testing.assert_close(ours(), plain(), rtol=1e-4, atol=1e-5)
