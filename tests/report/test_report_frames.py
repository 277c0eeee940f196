"""Records read back as flat rows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.engine.record_files import collect
from harness.engine.records import Record, Trial
from harness.report.frames import flatten, frame


def test_one_row_for_each_record(make_record: Any, write_records: Any) -> None:
    rows = frame(write_records(make_record("dm"), make_record("idm", 10, 1, accuracies=[0.5]))).set_index(
        "method"
    )
    assert list(rows.index) == ["dm", "idm"]
    assert rows.loc["dm", "accuracy_mean"] == pytest.approx(0.81)
    assert rows.loc["dm", "accuracy_std"] == pytest.approx(0.01)
    assert (rows.loc["dm", "n"], rows.loc["idm", "n"]) == (3, 1)
    assert rows["accuracy_std"].isna()["idm"]
    assert rows.loc["idm", "distill_seconds"] == 12.0
    assert rows.loc["idm", "evaluate_seconds"] == 3.5
    assert rows.loc["idm", "stored_bytes"] == 313_600
    assert rows.loc["idm", "precision"] == "fp32"
    assert rows.loc["idm", "threads"] == 1


def test_every_fact_of_a_record_has_a_column(make_record: Any) -> None:
    row = flatten(make_record())
    left = {*Trial.__struct_fields__, *Record.__struct_fields__} - row.keys()
    assert left == {"trial", "distill", "evaluate", "provenance", "submission", "schema", "settings_from"}
    assert (row["settings_source"], row["settings_kind"]) == (
        "published: mnist ipc 1; cpu scale",
        "published",
    )
    assert not any(isinstance(value, tuple | Record | Trial) for value in row.values())


def test_a_failed_record_has_the_same_columns_all_null(make_record: Any) -> None:
    done, failed = flatten(make_record()), flatten(make_record(status="failed", reason="diverged"))
    assert done.keys() == failed.keys()
    assert failed["accuracy_mean"] is None
    assert failed["distill_seconds"] is None
    assert failed["reason"] == "diverged"


def test_distilled_path_is_the_one_beside_the_record(make_record: Any, write_records: Any) -> None:
    record = make_record()
    results = write_records(record)
    assert results / flatten(record)["distilled"] == record.trial.distillation.set_path(results)


def test_unreadable_files_are_named_and_the_others_still_read(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_records(make_record("dm"), make_record("idm"))
    folder = results / "cpu" / "mnist" / "dm" / "ipc1"
    (folder / "torn.json").write_bytes(next(folder.glob("*.json")).read_bytes()[:100])
    (folder / "foreign.json").write_text('{"hello": "world"}')
    (folder / "folder.json").mkdir()
    assert len(frame(results)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert [
        name for name in ("folder.json", "foreign.json", "torn.json") if any(name in x for x in lines)
    ] == [
        "folder.json",
        "foreign.json",
        "torn.json",
    ]


def test_an_absent_results_folder_is_empty(tmp_path: Path) -> None:
    assert collect(tmp_path / "nowhere") == ([], [])
    assert frame(tmp_path).empty


@pytest.mark.slow
def test_two_thousand_records_report_quickly(make_record: Any, write_records: Any, tmp_path: Path) -> None:
    results = write_records(
        *(
            make_record(method, ipc, seed, dataset=dataset, dataset_source=dataset)
            for method in ("bacon", "dm", "herding", "idm", "random")
            for ipc in (1, 10, 20, 50)
            for seed in range(20)
            for dataset in ("mnist", "digits", "svhn", "cifar10", "cifar100")
        )
    )
    code = (
        "import sys; from pathlib import Path; from harness.report.publish import command;"
        "status = command(Path(sys.argv[1]), check=False, benchmarks=None, as_json=False);"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    before = os.times()
    subprocess.run([sys.executable, "-c", code, str(results)], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = sum(after[2:4]) - sum(before[2:4])
    # Processor seconds of the child, which a loaded machine hardly changes: about 1.5.
    assert used < 5
    assert "(20×3)" in (results / "report" / "tables.md").read_text()
