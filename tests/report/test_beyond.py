"""Columns beyond accuracy: gains within the seeds of one track, and only what was measured."""

from __future__ import annotations

from typing import Any

from harness.report.beyond import beyond_blocks, protocol_regime
from harness.report.formats import Paragraph, Table
from harness.report.standing import scored


def table(records: list[Any]) -> list[dict[str, str]]:
    (found,) = scored(records)
    blocks = beyond_blocks(found)
    if not blocks:
        return []
    first, legend = blocks
    assert isinstance(first, Table)
    assert isinstance(legend, Paragraph)
    return [dict(zip(first.headers, row, strict=True)) for row in first.rows]


def test_gains_over_random_are_within_the_seeds(make_record: Any) -> None:
    records = [
        make_record("random", seed=0, accuracies=[0.30]),
        make_record("random", seed=1, accuracies=[0.50]),
        make_record("dm", seed=0, accuracies=[0.40]),
        make_record("dm", seed=1, accuracies=[0.60]),
    ]
    dm, random = table(records)
    assert (dm["IOR"], random["IOR"]) == ("10.0 [10.0, 10.0]", "0.0 [0.0, 0.0]")
    assert "HLR" not in dm, "the ceiling was not measured"


def test_the_ceiling_gives_hlr_under_hard_labels_alone(make_record: Any) -> None:
    records = [
        make_record("random", accuracies=[0.30]),
        make_record("dm", accuracies=[0.40]),
        make_record("whole", accuracies=[0.90]),
    ]
    dm, _ = table(records)
    assert (dm["IOR"], dm["HLR"]) == ("10.0", "50.0")
    assert 0 < float(dm["LRS"]) < 0.5
    taught = [make_record(r.trial.method, accuracies=r.accuracies, regime="teacher") for r in records]
    assert "HLR" not in table(taught)[0]


def test_steps_and_calibration_are_shown_where_they_were_recorded(make_record: Any) -> None:
    random = make_record("random", accuracies=[0.30], optimizer_steps=500, calibration_errors=[0.2])
    dm = make_record("dm", accuracies=[0.40], optimizer_steps=500, calibration_errors=[0.1, 0.3])
    first, _ = table([random, dm])
    assert (first["gain per 1000 steps"], first["calibration error"]) == ("20.0", "20.0")


def test_without_random_images_there_is_no_table(make_record: Any) -> None:
    assert table([make_record("dm"), make_record("idm")]) == []


def test_the_regime_is_that_of_the_records_or_of_the_protocol(make_record: Any) -> None:
    (hard,) = scored([make_record("dm")])
    (taught,) = scored([make_record("dm", protocol="kd-cpu")])
    (gone,) = scored([make_record("dm", protocol="no-more")])
    assert [protocol_regime(found) for found in (hard, taught, gone)] == ["hard", "teacher", ""]
