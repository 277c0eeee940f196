"""The section on fidelity: outcomes of golden tests by method, and departures out of the headers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from contract_files import METHOD

from harness.core.errors import UserError
from harness.report.fidelity import (
    Departures,
    Fidelity,
    GoldenCounts,
    departures_in,
    fidelity_markdown,
    load_fidelity,
)
from harness.report.publish import command

OUTCOMES = {
    "net": {"*": GoldenCounts(3, 0)},
    "trace_dm": {"dm": GoldenCounts(2, 0), "idm": GoldenCounts(1, 2)},
    "trace_idm": {"idm": GoldenCounts(1, 0), "idm@paper": GoldenCounts(1, 0)},
    "zca": {},
}
HEADER = (
    '''"""DM: a method.

Its paper. Departures from this line are no paragraph of their own.

Departures from the authors' code (VICO/DC `main_DM.py`): seeds
are named; the `rest` is theirs.

More.
"""

'''
    + METHOD
)


def rows(text: str) -> dict[str, str]:
    """Second cells of a table by the first."""
    cells = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return {name.strip(): rest.strip() for name, rest in cells}


def test_each_method_has_its_outcomes() -> None:
    text = fidelity_markdown(Fidelity(OUTCOMES, {"dm": None, "idm": None, "random": None}))
    assert rows(text) == {
        "method": "golden files: tests passed",
        "all methods": "net 3 of 3",
        "dm": "trace_dm 2 of 2",
        "idm": "trace_dm **1 of 3**, trace_idm 1 of 1",
        "idm@paper": "trace_idm 1 of 1",
        "random": "–",
    }
    assert "Files without a test: zca." in text


def test_departures_stand_behind_their_method() -> None:
    departures = {"dm": Departures("VICO/DC `main_DM.py`", "seeds are named."), "idm": None, "random": None}
    lines = fidelity_markdown(Fidelity(OUTCOMES, departures)).splitlines()
    assert lines[-3:] == [
        "- **dm** (VICO/DC `main_DM.py`): seeds are named.",
        "- **idm**: none is known.",
        "- **random**: there is no authors' code to depart from.",
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (HEADER, Departures("VICO/DC `main_DM.py`", "seeds are named; the `rest` is theirs.")),
        ('"""M.\n\nDepartures from the authors\' code: none."""', Departures("", "none.")),
        ('"""M.\n\nNothing."""', None),
        ("x = 1", None),
    ],
)
def test_the_paragraph_is_found_in_the_header(source: str, expected: Departures | None) -> None:
    assert departures_in(source.encode()) == expected


def test_it_is_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "dm.py").write_text(HEADER, encoding="utf-8")
    (tmp_path / "kernels.py").write_text('"""No method."""')
    (tmp_path / "torn.py").write_text("def distill(")
    path = tmp_path / "fidelity.json"
    assert load_fidelity(path, tmp_path).outcomes is None
    path.write_text('{"net": {"*": {"passed": 3, "failed": 0}}}')
    found = load_fidelity(path, tmp_path)
    assert found.outcomes == {"net": {"*": GoldenCounts(3, 0)}}
    assert list(found.departures) == ["dm"]
    assert found.departures["dm"] is not None
    path.write_text('{"net": 1}')
    with pytest.raises(UserError, match=r"cannot read .*fidelity\.json.*pytest --fidelity"):
        load_fidelity(path, tmp_path)


def test_a_changed_outcome_makes_the_page_stale(
    make_record: Any, write_records: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, target = write_records(make_record()), tmp_path / "page.md"
    seen = Fidelity(OUTCOMES, {"dm": None})
    monkeypatch.setattr("harness.report.publish.load_fidelity", lambda: seen)
    assert command(results, check=False, benchmarks=target, as_json=False) == 0
    assert command(results, check=True, benchmarks=target, as_json=False) == 0
    seen = Fidelity(OUTCOMES | {"net": {"*": GoldenCounts(2, 1)}}, {"dm": None})
    assert command(results, check=True, benchmarks=target, as_json=False) == 1


@pytest.mark.slow
def test_torch_is_not_needed() -> None:
    code = (
        "import sys; from harness.report.fidelity import load_fidelity; load_fidelity(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
