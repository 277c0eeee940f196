"""Reading many records and what is made of them; `scale.py` times the commands on ten thousand."""

from __future__ import annotations

import csv
import io
import random
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scale import OTHERS, commands, generate

from harness.commands.cli import main
from harness.commands.estimate import from_records
from harness.core.data import load
from harness.core.data.catalog import KNOWN, DatasetSpec
from harness.core.text import MISSING
from harness.engine.options import Options
from harness.engine.plan import Plan, dataset_facts, finished
from harness.engine.record_files import collect
from harness.engine.records import CEILING, Record
from harness.report.frames import COLUMNS, to_csv, to_frame
from harness.report.standing import scored
from harness.report.tables import blocks_by_track, tables_of
from harness.report.tracks import sample_std

RECORDS = 300


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Options, Plan]:
    return generate(tmp_path_factory.mktemp("scale"), RECORDS)


@pytest.fixture(scope="module")
def records(generated: tuple[Options, Plan]) -> list[Record]:
    return collect(generated[0].results).records


def cells(line: str) -> list[str]:
    """Texts of the cells of a line of a Markdown table."""
    return [text.strip() for text in line.strip("|").split("|")]


@pytest.mark.slow
def test_reading(benchmark: Any, generated: tuple[Options, Plan]) -> None:
    options, _ = generated
    collection = benchmark(collect, options.results)
    assert collection.problems == []
    assert len(collection.records) == len({record.id for record in collection.records}) == RECORDS
    assert {record.trial.dataset for record in collection.records} == {"digits", *OTHERS}


def test_finding_what_is_finished(benchmark: Any, generated: tuple[Options, Plan]) -> None:
    options, plan = generated
    found = benchmark(finished, plan.trials, options.results)
    known = collect(options.results).records
    assert found.keys() == {record.id for record in known if record.trial.dataset == "digits"}
    assert RECORDS / 2 < len(found) < len(plan.trials)
    assert finished(plan.trials, options.results, known) == found


def test_estimating(benchmark: Any, records: list[Record]) -> None:
    estimates = benchmark(from_records, records, "cpu")
    ran = [record for record in records if record.distill and record.provenance.device == "cpu"]
    assert estimates.keys() == {record.trial.cell for record in ran}


def test_tables_hold_every_cell(benchmark: Any, records: list[Record]) -> None:
    tables = benchmark(lambda: tables_of(blocks_by_track(scored(records), {})))
    assert [track.dataset for track in tables] == sorted({"digits", *OTHERS})
    shown: list[tuple[str, str, str]] = []
    for track, text in tables.items():
        header, _, *lines = map(cells, text.partition("\n\n")[0].splitlines())
        for method, *figures in lines:
            columns = zip(header[1:], figures, strict=True)
            if method != CEILING:  # one set for all columns
                shown += [(track.dataset, method, ipc) for ipc, figure in columns if figure != MISSING]
    trials = (record.trial for record in records if record.trial.method != CEILING)
    assert Counter(shown) == Counter({(t.dataset, t.method, f"ipc {t.ipc}") for t in trials})


def test_rows(benchmark: Any, records: list[Record]) -> None:
    header, *rows = csv.reader(io.StringIO(benchmark(to_csv, records)))
    assert header == list(COLUMNS)
    assert [row[header.index("id")] for row in rows] == [record.id for record in records]


def test_rows_are_written_as_pandas_writes_them(records: list[Record]) -> None:
    as_json = ["config", "accuracies", "train_losses"]
    ours = csv.DictReader(io.StringIO(to_csv(records)))
    theirs = csv.DictReader(io.StringIO(to_frame(records).drop(columns=as_json).to_csv(index=False)))
    assert [{name: row[name] for name in row if name not in as_json} for row in ours] == list(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["plan", "status", "report"])
def test_commands_answer(
    command: str, generated: tuple[Options, Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(commands(generated[0])[command]) == 0
    assert capsys.readouterr().out


@pytest.mark.skipif(sys.version_info < (3, 11), reason="stdev rounds twice before Python 3.11")
def test_the_standard_deviation_is_that_of_the_standard_library() -> None:
    numbers = random.Random(0)
    for count in (2, 3, 5, 30):
        for spread in (0, 1e-16, 1e-3, 0.5):
            values = [0.5 + spread * numbers.uniform(-1, 1) for _ in range(count)]
            assert sample_std(values) == statistics.stdev(values)
    assert sample_std([1, 0.0, 0.25]) == statistics.stdev([1, 0.0, 0.25])


@pytest.mark.parametrize("name", [name for name, known in KNOWN.items() if known.embedded])
def test_what_is_known_of_embedded_data_is_so(name: str, tmp_path: Path) -> None:
    spec = DatasetSpec(name, name)
    facts, data = dataset_facts(spec, tmp_path, (1,)), load(spec, tmp_path)
    assert (facts.shape, facts.classes, facts.train) == (data.shape, data.num_classes, len(data))
    assert facts.smallest_class == min(data.index.counts)
