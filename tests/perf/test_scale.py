"""Reading many records and what is made of them; `scale.py` measures the commands on ten thousand."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scale import OTHERS, commands, generate

from harness.cli import main
from harness.data import load
from harness.data.catalog import KNOWN, DatasetSpec
from harness.estimate import cell, from_records
from harness.options import Options
from harness.plan import SMALLEST_CLASS, Plan, dataset_facts, finished
from harness.records import Record, Trial
from harness.report.frames import COLUMNS, collect, to_csv, to_frame
from harness.report.tables import tables_by_track
from harness.report.tracks import by_track

RECORDS = 300


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Options, Plan]:
    return generate(tmp_path_factory.mktemp("scale"), RECORDS)


@pytest.fixture(scope="module")
def records(generated: tuple[Options, Plan]) -> list[Record]:
    return collect(generated[0].results).records


def place(trial: Trial) -> tuple[str, str, int]:
    return trial.dataset, trial.method, trial.ipc


def test_reading(benchmark: Any, generated: tuple[Options, Plan]) -> None:
    options, _ = generated
    collection = benchmark(collect, options.results)
    assert collection.problems == []
    assert len(collection.records) == len({record.id for record in collection.records}) == RECORDS
    assert {record.trial.dataset for record in collection.records} == {"digits", *OTHERS}


def test_looking_for_what_is_finished(benchmark: Any, generated: tuple[Options, Plan]) -> None:
    options, plan = generated
    found = benchmark(finished, plan.trials, options.results)
    assert RECORDS / 2 < len(found) < len(plan.trials)
    known = collect(options.results).records
    assert finished(plan.trials, options.results, known) == found
    assert found.keys() == {record.id for record in known if record.trial.dataset == "digits"}


def test_estimating(benchmark: Any, records: list[Record]) -> None:
    estimates = benchmark(from_records, records, "cpu")
    on_cpu = [record for record in records if record.distill and record.provenance.device == "cpu"]
    assert estimates.keys() == {cell(record.trial) for record in on_cpu}


def test_tables_hold_every_cell(benchmark: Any, records: list[Record]) -> None:
    tables = benchmark(tables_by_track, records, {})
    assert [track.dataset for track in tables] == sorted({"digits", *OTHERS})
    shown: Counter[tuple[str, str, int]] = Counter()
    for track, members in by_track(records).items():
        header, _, *lines = tables[track].split("\n\n", 1)[0].splitlines()
        ipcs = [int(text.split()[1]) for text in cells(header)[1:]]
        for line in lines:
            method, *texts = cells(line)
            shown.update(
                (track.dataset, method, ipc) for ipc, text in zip(ipcs, texts, strict=True) if text != "–"
            )
        assert members
    assert shown == Counter({place(record.trial): 1 for record in records})


def cells(line: str) -> list[str]:
    """Texts of the cells of a line of a Markdown table."""
    return [text.strip() for text in line.strip("|").split("|")]


def test_rows(benchmark: Any, records: list[Record]) -> None:
    rows = list(csv.reader(benchmark(to_csv, records).splitlines()))
    assert rows[0] == list(COLUMNS)
    assert len(rows) == RECORDS + 1


def test_rows_are_those_of_the_frame(records: list[Record]) -> None:
    pytest.importorskip("pandas")
    json_columns = ["config", "accuracies", "train_losses"]
    written = list(csv.DictReader(to_csv(records).splitlines()))
    frame = to_frame(records).drop(columns=json_columns)
    assert [
        {name: text for name, text in row.items() if name not in json_columns} for row in written
    ] == list(csv.DictReader(frame.to_csv(index=False).splitlines()))


@pytest.mark.parametrize("command", ["plan", "status", "report"])
def test_commands_cope(
    command: str, generated: tuple[Options, Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(commands(generated[0])[command]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", SMALLEST_CLASS)
def test_what_is_known_of_embedded_data_is_so(name: str, tmp_path: Path) -> None:
    spec = DatasetSpec(name, name)
    facts, data = dataset_facts(spec, Options(ipc=(1,))), load(spec, tmp_path)
    assert facts.shape == data.shape == KNOWN[name].shape
    assert (facts.classes, facts.train) == (data.num_classes, len(data))
    assert facts.smallest_class == min(data.index.counts)
