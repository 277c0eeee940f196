"""`report --summary`: what it prints, whom it does not rank and why, and the head of BENCHMARKS.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trials import cost_of

from harness.commands.cli import main
from harness.core.errors import UserError
from harness.engine.records import WORK_FOLDER, Record
from harness.report.benchmarks import FIRST_PLACES, page
from harness.report.fidelity import load_fidelity
from harness.report.filters import Filters
from harness.report.publish import RESULT_TABLE
from harness.report.standing import scored
from harness.report.summary import COMMAND, LEGEND, command, summaries
from methods.source import SettingsSource

MEANS = {"random": 0.3, "dm": 0.5, "idm": 0.6, "bacon": 0.7}


def seeds(make: Any, method: str, mean: float, ipc: int = 1, **changes: Any) -> list[Record]:
    """Two seeds with two networks each, around a mean."""
    return [
        make(method, ipc, seed, accuracies=[mean + gap, mean + gap + 0.02], **changes)
        for seed, gap in enumerate((-0.02, 0.0))
    ]


def full(make: Any, means: dict[str, float] | None = None, **changes: Any) -> list[Record]:
    """Every method at ipc 1 and 10 of two datasets."""
    return [
        record
        for method, mean in (means or MEANS).items()
        for dataset in ("mnist", "digits")
        for ipc in (1, 10)
        for record in seeds(make, method, mean, ipc, dataset=dataset, **changes)
    ]


def printed(results: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["report", "--summary", "--results", str(results), *options]) == 0
    return capsys.readouterr().out


def test_it_prints_the_ranks_and_writes_nothing(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_records(*full(make_record), *seeds(make_record, "whole", 0.99))

    def files() -> list[Path]:
        """All but what is kept of records that lay there for more than two seconds."""
        return sorted(path for path in results.rglob("*") if WORK_FOLDER not in path.parts)

    before = files()
    lines = printed(results, capsys).splitlines()
    assert lines[0] == "## cpu scale: 4 methods over 4 cells"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    assert rows[0][:3] == ["place", "method", "mean rank"]
    assert rows[1] == ["1", "bacon", "1.0", "1.0 to 1.0", "1.0 to 1.0", "12", "100.0 %"]
    assert rows[4][:3] == ["4", "random", "4.0"]
    assert len(rows) == 5, "the ceiling has no rank"
    assert LEGEND in lines
    assert (
        "- **Cells**: digits ipc 1, 10 (dc-cpu 1.0, ConvNetW32); mnist ipc 1, 10 (dc-cpu 1.0, ConvNetW32)."
        in lines
    )
    assert files() == before


def test_methods_and_cells_without_a_part_are_named_with_the_reason(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    late = seeds(make_record, "late", 0.9)
    lone = [record for name in ("dm", "late") for record in seeds(make_record, name, 0.4, dataset="svhn")]
    text = printed(write_records(*full(make_record), *late, *lone), capsys)
    assert (
        "- **Not ranked**: late, which lacks digits ipc 1, 10 (dc-cpu 1.0, ConvNetW32); mnist ipc 10 ("
        in text
    )
    assert "- **Not counted**: svhn ipc 1 (dc-cpu 1.0, ConvNetW32), where 3 of the 4 ranked methods" in text
    assert "| late" not in text


def test_of_several_settings_the_methods_own_count(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand = SettingsSource(kind="own", scale="cpu", overrides=("lr_img",))
    tried = seeds(make_record, "bacon", 0.1, config={"lr_img": 9.0}, settings_from=by_hand)
    failed = make_record("dm", 1, config={"lr_img": 7.0}, status="oom", reason="no memory")
    text = printed(write_records(*full(make_record), *tried, failed), capsys)
    assert text.startswith("## cpu scale: 4 methods over 4 cells")
    assert "| bacon " in text.splitlines()[4], "its own settings are still the best everywhere"
    assert "Not ranked" not in text
    both = [*tried, *seeds(make_record, "dm", 0.2, config={"lr_img": 8.0})]
    text = printed(write_records(*both), capsys)
    assert "**Not ranked** in mnist ipc 1 (dc-cpu 1.0, ConvNetW32): dm, which ran there with several" in text


@pytest.mark.slow
def test_scales_are_ranked_apart_and_filters_hold(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = dict(zip(MEANS, reversed(MEANS.values()), strict=True))
    results = write_records(*full(make_record), *full(make_record, turned, scale="paper"))
    text = printed(results, capsys)
    assert text.index("paper scale") < text.index("cpu scale")
    assert text.count(LEGEND) == 1, "one legend is enough"
    assert "cpu scale" not in printed(results, capsys, "--scale", "paper")
    assert "over 1 cell\n" in printed(results, capsys, "--dataset", "digits", "--ipc", "10", "--scale", "cpu")


def test_few_cells_and_seeds_say_why_there_is_no_interval(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(
        write_records(make_record("dm", accuracies=[0.5]), make_record("idm", accuracies=[0.6])), capsys
    )
    assert "No intervals over seeds" in text
    assert "No intervals over cells: fewer than 3" in text


def test_nothing_in_common_says_what_to_run(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(write_records(make_record("dm"), make_record("idm", 10)), capsys)
    assert "No ranks: no two methods were measured in the same cell" in text
    assert "python -m harness run" in text


def test_json_has_fractions_and_everything_that_was_left_out(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_records(*full(make_record), *seeds(make_record, "late", 0.9))
    (found,) = json.loads(printed(results, capsys, "--json"))
    first = found["standings"][0]
    assert (first["method"], first["rank"], first["borda"], first["win_rate"]) == ("bacon", 1, 12, 1)
    assert first["over_seeds"] == [1, 1]
    assert [cell["ipc"] for cell in found["not_ranked"]["late"]] == [1, 10, 10]


@pytest.mark.parametrize("options", [["--check"], ["--site", "somewhere"], ["--benchmarks", "page.md"]])
def test_options_that_write_are_refused(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    results = write_records(make_record())
    assert main(["report", "--summary", "--results", str(results), *options]) == 2
    assert "--summary prints ranks only" in capsys.readouterr().err


def test_no_records_and_broken_files(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no readable records"):
        command(tmp_path / "none", Filters(), as_json=False)
    results = write_records(*full(make_record))
    broken = results / "cpu" / "mnist" / "dm" / "ipc1" / "broken.json"
    broken.write_text("{")
    assert command(results, Filters(), as_json=False) == 1
    assert "broken.json" in capsys.readouterr().err


def test_the_page_has_the_first_places_at_its_head_and_says_where_the_others_are(make_record: Any) -> None:
    many = {f"m{place:02}": 0.9 - place / 50 for place in range(FIRST_PLACES + 2)}
    records = [*full(make_record, many), *full(make_record, scale="smoke")]
    text = page(scored(records), {}, load_fidelity())
    head, _, rest = text.partition("\n## Results\n")
    assert "## Over everything" in head
    assert f"The first 10 of each scale; `{COMMAND}` prints all." in head
    assert "### cpu scale: 12 methods over 4 cells" in head
    assert "m09" in head
    assert "m10" not in head
    assert "m10" in rest
    assert "smoke" not in head, "smoke is on no leaderboard"
    first = RESULT_TABLE.search(text)
    assert first is not None
    assert "mean rank" not in first[0], "the README still shows accuracies"


@pytest.mark.slow
def test_the_page_says_how_many_are_left_out(make_record: Any) -> None:
    whole = full(make_record)
    assert "**Left out**" not in page(scored(whole), {}, load_fidelity())
    late = [*whole, *seeds(make_record, "late", 0.9)]
    assert (
        "- **Left out**: 1 method not measured in each of these cells, or with several settings."
        f" `{COMMAND}` names them."
    ) in page(scored(late), {}, load_fidelity())
    alone = [*late, make_record("bacon", dataset="svhn", dataset_source="folder", accuracies=[0.5])]
    text = page(scored(alone), {}, load_fidelity())
    assert "settings; 1 cell in which some of the ranked methods were not measured." in text
    assert "Not ranked" not in text


@pytest.mark.slow
def test_a_page_without_two_methods_has_no_such_section(make_record: Any) -> None:
    assert "Over everything" not in page(scored([make_record()]), {}, load_fidelity())


def test_a_budget_has_ranks_of_its_own_without_those_beyond_it(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tight = full(make_record, budget_flops=2e12, distill=cost_of(2e12))
    rich = seeds(make_record, "rded", 0.9, budget_flops=2e12, distill=cost_of(2.4e12))
    free = full(make_record)
    text = printed(write_records(*free, *tight, *rich), capsys)
    assert "## cpu scale: 4 methods over 4 cells" in text
    assert "## cpu scale, 2.00 TFLOPs for each distillation: 4 methods over 4 cells" in text
    (line,) = (line for line in text.splitlines() if "Not ranked" in line)
    assert "mnist ipc 1" in line
    assert line.endswith(": rded, which spent more there.")
    shown = page(scored([*free, *tight, *rich]), {}, load_fidelity())
    assert (
        "1 method not measured in each of these cells, beyond the budget, or with several settings" in shown
    )
    alone = [record for record in tight if record.trial.ipc == 1 and record.trial.dataset == "mnist"]
    assert "### cpu scale, 2.00" not in page(scored([*free, *alone]), {}, load_fidelity())


def test_the_committed_records_can_be_ranked() -> None:
    from harness.engine.record_files import read_records

    results = Path(__file__).parents[2] / "results"
    known = {(found.scale, found.budget_flops): found for found in summaries(scored(read_records(results)))}
    cpu = known["cpu", None]
    ranked = [one.method for one in cpu.ranks.standings]
    assert {"random", "herding", "dm", "idm", "bacon"} <= set(ranked)
    assert "whole" not in ranked
    assert len(cpu.ranks.cells) >= 4
