"""Columns beyond accuracy: gains within the seeds of one track, and only what was measured."""

from __future__ import annotations

from typing import Any

from harness.report.beyond import beyond_blocks, protocol_regime
from harness.report.formats import Paragraph, Table
from harness.report.gains import score
from harness.report.standing import Scored, scored


def table(records: list[Any]) -> list[dict[str, str]]:
    (found,) = scored(records)
    return rows(found)


def rows(found: Scored) -> list[dict[str, str]]:
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


def test_soft_labels_have_a_table_of_their_own_under_a_protocol_that_takes_any(make_record: Any) -> None:
    """`dc-cpu` trains on the labels as a set has them; random images with soft ones are the floor there."""
    made = {
        "random": (0.30, "hard"),
        "dm": (0.35, "hard"),
        "random@soft": (0.40, "stored"),
        "ld": (0.45, "stored"),
    }
    hard, soft = scored(
        [make_record(name, accuracies=[accuracy], regime=regime) for name, (accuracy, regime) in made.items()]
    )
    assert [row.method for row, _ in hard.grid] == ["dm", "random"]
    assert [row.method for row, _ in soft.grid] == ["ld", "random@soft"]
    assert soft.track.heading == f"{hard.track.heading} · soft labels of the sets"
    assert rows(soft)[0]["IOR"] == "5.0"
    (asked,) = scored([make_record("ld", protocol="sl-cpu", regime="stored")])
    assert not asked.track.soft_labels, "there soft labels are what is asked for"


def test_steps_and_calibration_are_shown_where_they_were_recorded(make_record: Any) -> None:
    random = make_record("random", accuracies=[0.30], optimizer_steps=500, calibration_errors=[0.2])
    dm = make_record("dm", accuracies=[0.40], optimizer_steps=500, calibration_errors=[0.1, 0.3])
    first, _ = table([random, dm])
    assert (first["gain per 1000 steps"], first["calibration error"]) == ("20.0", "20.0")


def test_the_augmentation_robust_score_needs_both_kinds_of_evaluation(make_record: Any) -> None:
    """Of the same sets under the protocol of that name without augmentation; paired over the seeds."""
    accuracies = {
        ("dm", "dc-cpu"): (0.50, 0.60),
        ("random", "dc-cpu"): (0.40, 0.40),
        ("dm", "dc-plain-cpu"): (0.30, 0.40),
        ("random", "dc-plain-cpu"): (0.30, 0.20),
    }
    records = [
        make_record(method, protocol=protocol, seed=seed, accuracies=[accuracy])
        for (method, protocol), both in accuracies.items()
        for seed, accuracy in enumerate(both)
    ]
    augmented, plain = sorted(scored(records), key=lambda found: found.track.protocol)
    dm, random = rows(augmented)
    assert dm["ARS"].startswith(f"{(score(0.05) + score(0.20)) / 2:.3f} ["), "IOR .1, .2 with, 0, .2 without"
    assert random["ARS"] == f"{score(0):.3f} [{score(0):.3f}, {score(0):.3f}]"
    assert "ARS" not in rows(plain)[0], "of the protocol with augmentation alone"
    assert "ARS" not in table(records[:4]), "nothing was asked without augmentation"
    fixed = [
        make_record(r.trial.method, protocol="dc-plain-cpu@tuned", accuracies=[0.1]) for r in records[4:]
    ]
    (tuned, _) = scored([*records[:4], *fixed])
    assert "ARS" not in rows(tuned)[0], "a rate that was chosen for one of them alone"


def test_without_random_images_there_is_no_table(make_record: Any) -> None:
    assert table([make_record("dm"), make_record("idm")]) == []


def test_the_regime_is_that_of_the_records_or_of_the_protocol(make_record: Any) -> None:
    (hard,) = scored([make_record("dm")])
    (taught,) = scored([make_record("dm", protocol="kd-cpu")])
    (gone,) = scored([make_record("dm", protocol="no-more")])
    assert [protocol_regime(found) for found in (hard, taught, gone)] == ["hard", "teacher", ""]
