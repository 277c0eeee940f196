"""Steps beside plain loops: what is kept of a measurement and how it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.core.errors import UserError
from harness.perf import steps
from harness.report.benchmarks import speed_section


def measured(method: str, variant: str, device: str) -> dict[str, float]:
    assert device == "cpu"
    seconds = {"plain": 3.0, "fp32": 1.5, "bf16": 1.0}[variant]
    return {"seconds": seconds, "warmup_seconds": 9.0, "peak_bytes": 2**30 / (1 + (variant != "plain"))}


def test_ratios_are_those_of_the_plain_loop_measured_along() -> None:
    sheet = steps.measure_steps(["dm", "idm"], "cpu", measured)
    assert [pair.speed for pair in steps.pairs(sheet)] == [1.0, 2.0, 3.0] * 2
    assert [pair.memory for pair in steps.pairs(sheet)] == [1.0, 0.5, 0.5] * 2
    assert "2.00x" in steps.as_text(sheet)


def test_a_method_measured_again_replaces_its_figures_only(tmp_path: Path) -> None:
    path = steps.keep(steps.measure_steps(["idm", "dm"], "cpu", measured), tmp_path)
    assert path.name.startswith("cpu-")
    steps.keep(steps.measure_steps(["dm"], "cpu", lambda *_: measured("dm", "bf16", "cpu")), tmp_path)
    kept = steps.load(path)
    assert [(step.method, step.variant) for step in kept.steps] == [
        (method, variant) for method in ("dm", "idm") for variant in steps.VARIANTS
    ]
    assert [step.seconds for step in kept.steps] == [1.0, 1.0, 1.0, 3.0, 1.5, 1.0]


def test_what_is_no_sheet_is_named(tmp_path: Path) -> None:
    (tmp_path / "cpu.json").write_text(json.dumps({"device": "cpu"}))
    with pytest.raises(UserError, match=r"cpu\.json holds no steps"):
        steps.load_sheets(tmp_path)


def test_the_section_has_a_table_for_each_device(tmp_path: Path) -> None:
    assert speed_section([]) == ""
    sheet = steps.measure_steps(["dm"], "cpu", measured)
    text = speed_section([sheet])
    assert "| dm " in text
    assert [cell.strip() for cell in text.splitlines()[-1].split("|")[1:-1]] == [
        *("dm", "3", "1.5", "2.00×", "1.00 GiB", "512 MiB", "0.50×", "3.00×", "0.50×")
    ]
