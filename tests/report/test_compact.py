"""The table that a run ends with: it fits any terminal, and three lines say how to read it."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.engine.records import Record
from harness.report import compact
from harness.report.compact import fitting, legend, print_summary

WHERE = ["Records and distilled sets: results/", "Costs: python -m harness report"]


@pytest.fixture
def many(make_record: Any) -> list[Record]:
    """Many methods at many ipc on a dataset with printed figures, one of them with a long row of settings."""
    draw = random.Random(0)
    config = {"lr_img": 1.0, "strategy": "color_crop_cutout_flip_scale_rotate"}
    names = ["bacon", "dm", "idm", "random", *(f"method{k}" for k in range(20))]
    records = [
        make_record(
            name,
            ipc,
            seed,
            dataset="cifar10",
            dataset_source="cifar10",
            accuracies=[draw.random() for _ in range(3)],
            config=config,
        )
        for name in names
        for ipc in (1, 2, 5, 10, 20, 50)
        for seed in (0, 1)
    ]
    changed = make_record(
        "dm", 1, 0, dataset="cifar10", dataset_source="cifar10", config=config | {"lr_img": 25.0}
    )
    same = make_record("dm", 1, 1, dataset="cifar10", dataset_source="cifar10", config=config)
    return [*records, changed, same]


def on_terminal(records: list[Record], width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines that a terminal of this width shows, without their styles."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, color_system=None, highlight=False)
    monkeypatch.setattr(compact, "Console", lambda **_: console)
    print_summary(records, Path("results"), WHERE)
    return stream.getvalue().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("width", [30, 40, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut_off(
    many: list[Record], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = on_terminal(many, width, monkeypatch)
    assert max(map(len, lines)) <= max(width, *map(len, WHERE))
    assert max(map(len, lines[: -len(WHERE)])) <= width
    assert "…" not in "".join(lines)
    text = "".join("".join(lines).split())
    for record in many:
        assert record.trial.method in text
    for ipc in (1, 2, 5, 10, 20, 50):
        assert f"ipc{ipc}" in text


def test_eighty_columns_show_whole_cells_and_three_lines_of_legend(
    many: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = on_terminal(many, 80, monkeypatch)
    assert lines[0] == "cifar10 · cpu scale · dc-cpu 1.0 · ConvNetW32"
    rows = [line for line in lines if line.startswith("idm ")]
    assert len(rows) > 1, "in blocks of columns"
    assert all(line.count("±") in (1, 2, 3) for line in rows)
    blank = max(k for k, line in enumerate(lines) if not line.strip())
    before = max(k for k, line in enumerate(lines[:blank]) if not line.strip())
    notes = lines[before + 1 : blank]
    assert 1 <= len(notes) <= 3
    assert notes[0].startswith("Test accuracy in %")
    assert lines[blank + 1 :] == WHERE


def test_an_ipc_and_what_is_reported_for_it_stay_together(
    many: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = [line for line in on_terminal(many, 90, monkeypatch) if line.startswith("method ")]
    assert any("reported" in line for line in heads)
    for line in heads:
        for ipc in (1, 10, 50):
            assert (f"ipc {ipc} reported" in line) == (f"ipc {ipc}  " in line or line.endswith(f"ipc {ipc}"))


def test_a_short_table_is_one_block_without_the_ceiling_that_was_not_run(
    make_record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = on_terminal([make_record("dm", ipc) for ipc in (1, 10)], 80, monkeypatch)
    assert [line.split()[0] for line in lines[1:4]] == ["method", "─" * len(lines[2]), "dm"]
    assert "whole" not in "".join(lines)
    ceiling = on_terminal([make_record("dm"), make_record("whole")], 80, monkeypatch)
    assert any(line.startswith("whole ") for line in ceiling)


def test_the_best_is_bold_and_ties_are_italic(make_record: Any) -> None:
    records = [
        make_record(name, 1, seed, accuracies=[accuracy])
        for name, accuracies in (("dm", (0.50, 0.55)), ("idm", (0.54, 0.49)))
        for seed, accuracy in enumerate(accuracies)
    ]
    ((_, table),) = compact._tracks(records, Path("results"))
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system="standard")
    for part in fitting(table, console):
        console.print(part)
    assert "\x1b[1m52.5 ± 3.5\x1b[0m (2×1)" in stream.getvalue()
    assert "\x1b[3m51.5 ± 3.5\x1b[0m (2×1)" in stream.getvalue()
    assert legend([table]) == [compact.ACCURACIES, compact.MARKED, compact.PRINTED_AND_OTHER_CODE]


def test_settings_set_by_hand_have_a_table_of_their_own(
    make_record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand = {"config": {"lr_img": 9.0}, "settings_source": "published: mnist ipc 1; set by hand: lr_img"}
    lines = on_terminal([make_record("dm"), make_record("dm", **by_hand)], 100, monkeypatch)
    heading = next(k for k, line in enumerate(lines) if "settings set by hand" in line)
    assert any(line.startswith("dm  ") for line in lines[:heading])
    assert any(line.startswith("dm (lr_img=9.0)") and "one seed" in line for line in lines[heading:])


def test_legend_lines_fit_eighty_columns() -> None:
    assert max(map(len, (compact.ACCURACIES, compact.MARKED, compact.PRINTED))) <= 80


def test_where_there_is_no_terminal_the_same_table_is_markdown(
    make_record: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary([make_record("dm", ipc) for ipc in (1, 10)], Path("results"), WHERE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "## mnist · cpu scale · dc-cpu 1.0 · ConvNetW32"
    assert lines[2].startswith("| method ")
    assert lines[4].startswith("| dm ")
    assert [line.startswith("Test accuracy in %") for line in lines].count(True) == 1
    assert lines[-2:] == WHERE


def test_without_records_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary([], Path("results"), WHERE)
    assert capsys.readouterr().out.splitlines()[0] == "no records yet"
