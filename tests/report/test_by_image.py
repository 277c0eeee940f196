"""`compare` on single test images: what it prints with predictions, and what it says without them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.commands.cli import main
from harness.engine.predictions import Predictions, predictions_path, write_predictions
from harness.engine.record_files import write_record
from harness.engine.records import Record
from harness.report.by_image import LEGEND

TESTS = 400
LABELS = np.arange(TESTS) % 10
GONE = "- no test image is compared by itself: no cell has both sides' predictions beside its records"


def predicted(accuracies: Sequence[float], seed: int) -> Predictions:
    """Networks with just these accuracies, which err on random images."""
    numbers = np.random.default_rng(seed)
    rows = []
    for accuracy in accuracies:
        wrong = numbers.permutation(TESTS)[round(accuracy * TESTS) :]
        row = LABELS.copy()
        row[wrong] = (row[wrong] + numbers.integers(1, 10, len(wrong))) % 10
        rows.append(row)
    return Predictions.of(rows, np.full((len(rows), TESTS), 0.5), LABELS, "f")


def cell(
    make: Any, results: Path, method: str, mean: float, *, ipc: int = 1, kept: bool = True
) -> list[Record]:
    """Two seeds of two networks, with or without their predictions."""
    made = [make(method, ipc, seed, accuracies=[mean, mean + 0.05]) for seed in range(2)]
    for record in made:
        write_record(record, results)
        if kept:
            write_predictions(
                predicted(record.accuracies, 10 * len(method) + record.trial.seed),
                predictions_path(record, results),
            )
    return made


def compared(results: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["compare", "bacon", "idm", "--results", str(results), *options]) == 0
    return capsys.readouterr().out


def test_images_are_compared_where_both_have_predictions(
    make_record: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, mean in (("bacon", 0.8), ("idm", 0.5)):
        cell(make_record, tmp_path, method, mean)
        cell(make_record, tmp_path, method, mean, ipc=10, kept=method == "bacon")
    text = compared(tmp_path, capsys)
    assert LEGEND in text
    assert "- test images are compared in 1 of 2 cells, where both sides' predictions are there" in text
    head, row = (
        line.split("|") for line in text.splitlines() if "only A right" in line or "chi-squared)" in line
    )
    found = {name.strip(): value.strip() for name, value in zip(head, row, strict=True)}
    assert found["ipc"] == "1"
    assert found["A - B"] == "+30.0"
    assert found["p"] == "0.001", "999 resamples show no less"
    assert found["McNemar p"] == "< 0.001 (chi-squared)"
    assert int(found["only A right"]) > int(found["only B right"])
    assert found["errors shared"].endswith(" %")


def test_json_has_them_too(make_record: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method, mean in (("bacon", 0.8), ("idm", 0.5)):
        cell(make_record, tmp_path, method, mean)
        cell(make_record, tmp_path, method, mean, ipc=10, kept=False)
    one, ten = json.loads(compared(tmp_path, capsys, "--json"))["cells"]
    assert one["images"]["resampled"]["difference"] == pytest.approx(0.3)
    assert (one["images"]["seeds"], one["images"]["networks"], one["images"]["tests"]) == (2, [4, 4], TESTS)
    assert one["images"]["mcnemar"]["test"] == "chi-squared"
    assert ten["images"] is None


def test_folders_are_compared_by_their_own_files(
    make_record: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, mean in (("old", 0.5), ("new", 0.6)):
        cell(make_record, tmp_path / name, "dm", mean)
    assert main(["compare", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    text = capsys.readouterr().out
    assert "1 of 1 cell," in text
    assert "| dm " in text


def test_without_predictions_that_is_said(
    make_record: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in ("bacon", "idm"):
        cell(make_record, tmp_path, method, 0.5, kept=method == "idm")
    lines = compared(tmp_path, capsys).splitlines()
    assert GONE in lines
    assert LEGEND not in lines


@pytest.mark.parametrize("fault", ["broken", "another's", "more networks", "other images"])
def test_a_file_that_does_not_compare_costs_a_line_and_not_the_comparison(
    make_record: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    cell(make_record, tmp_path, "bacon", 0.8)
    record = cell(make_record, tmp_path, "idm", 0.5)[0]
    path = predictions_path(record, tmp_path)
    if fault == "broken":
        path.write_bytes(b"no archive")
    elif fault == "another's":
        write_predictions(predicted([0.3, 0.4], 0), path)
    elif fault == "more networks":
        write_predictions(predicted([*record.accuracies, 0.5], 0), path)
    else:
        good = predicted(record.accuracies, 0)
        write_predictions(Predictions(good.predicted, good.probability, good.labels, "g"), path)
    text = compared(tmp_path, capsys)
    assert "+30.0" in text, "accuracies are compared all the same"
    said = {
        "broken": "does not hold predictions",
        "another's": "is not of its record, whose accuracies differ",
        "more networks": "is not of its record, whose accuracies differ",
        "other images": "different test images (fingerprints f and g)",
    }
    (line,) = [line for line in text.splitlines() if said[fault] in line]
    assert line.startswith("- mnist · cpu scale · dc-cpu 1.0 · ConvNetW32 · ipc 1: ")
    assert GONE in text
