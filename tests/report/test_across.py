"""Sets on other networks: which tables there are, drops paired over seeds, and where they stand."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.commands.cli import main
from harness.engine.provenance import OLDER
from harness.engine.records import Record
from harness.report.across import (
    LEGEND,
    TITLE,
    AcrossNetworks,
    across_networks,
    beside_home,
    drops_from_home,
    section,
)
from harness.report.benchmarks import page
from harness.report.cells import cells_csv
from harness.report.fidelity import load_fidelity
from harness.report.formats import Block, Items, Table, markdown, strong
from harness.report.standing import Scored, scored

HOME = "ConvNetW32"
# Seeds differ far more than a set differs between networks, so only a paired interval is narrow.
SEEDS = (0.50, 0.60, 0.70)
DROPS = (0.10, 0.11, 0.12)


def asked(
    make: Any, method: str = "dm", gain: float = 0.0, other: str = "LeNet", **changes: Any
) -> list[Record]:
    """Three seeds of a method at home, and on another network where each loses a little."""
    made = []
    for seed, (mean, drop) in enumerate(zip(SEEDS, DROPS, strict=True)):
        home, there = mean + gain, mean + gain - drop
        made.append(make(method, seed=seed, accuracies=[home - 0.01, home + 0.01], **changes))
        made.append(
            make(method, seed=seed, accuracies=[there - 0.01, there + 0.01], eval_arch=other, **changes)
        )
    return made


def only(records: Sequence[Record]) -> AcrossNetworks:
    (found,) = across_networks(scored(records))
    return found


def blocks_of(tracks: Sequence[Scored]) -> list[Block]:
    return section(tracks, across_networks(tracks), level=3)


def table(records: Sequence[Record]) -> list[dict[str, str]]:
    """The rows of the only table by their headings."""
    (found,) = [block for block in blocks_of(scored(records)) if isinstance(block, Table)]
    return [dict(zip(found.headers, row, strict=True)) for row in found.rows]


def test_a_drop_is_paired_over_the_seeds_of_the_same_sets(make_record: Any) -> None:
    (answers,) = only(asked(make_record)).answers.values()
    assert answers[HOME].drop is None
    drop = answers["LeNet"].drop
    assert drop is not None
    assert (drop.mean, drop.paired, drop.seeds) == (pytest.approx(0.11), True, 3)
    assert drop.low is not None
    assert drop.high is not None
    # t with 2 degrees of freedom: 4.303 x 0.01 / sqrt(3).
    assert (drop.low, drop.high) == (
        pytest.approx(0.11 - 0.02484, abs=1e-5),
        pytest.approx(0.11 + 0.02484, abs=1e-5),
    )
    (row,) = table(asked(make_record))
    assert row["LeNet drop"] == "11.0 [8.5, 13.5]"
    assert row["LeNet"] == "49.0 ± 8.1 (3×2)"
    assert f"{HOME} drop" not in row


def test_the_spreadsheet_has_the_drop_and_its_interval(make_record: Any) -> None:
    records = [*asked(make_record), *asked(make_record, method="whole", ipc=1)]
    tracks = scored(records)
    text = cells_csv(tracks, {}, drops_from_home(across_networks(tracks)))
    rows = list(csv.DictReader(io.StringIO(text)))
    by_network = {(row["method"], row["eval_arch"]): row for row in rows}
    for method in ("dm", "whole"):
        there, home = by_network[method, "LeNet"], by_network[method, ""]
        numbers = [float(there[name]) for name in ("drop", "drop_low", "drop_high")]
        assert numbers == pytest.approx([0.11, 0.11 - 0.02484, 0.11 + 0.02484], abs=1e-5)
        assert [home[name] for name in ("drop", "drop_low", "drop_high")] == ["", "", ""]


def test_there_is_no_table_without_a_second_network(make_record: Any) -> None:
    homes = [make_record(seed=seed, arch=arch) for seed in (0, 1) for arch in (HOME, "LeNet")]
    assert blocks_of(scored(homes)) == []
    foreign = [make_record(seed=seed, eval_arch="LeNet") for seed in (0, 1)]
    networks = across_networks(scored(foreign))
    assert networks == []
    assert beside_home(scored(foreign), networks) == [], "so it has to stand in a table of its own"
    two = [*foreign, *(make_record(seed=seed, eval_arch="MLP") for seed in (0, 1))]
    (row,) = table(two)
    assert (row["LeNet drop"], row["MLP drop"]) == ("–", "–"), "home was not measured"


def test_methods_asked_at_home_alone_are_left_out_and_gaps_are_named(make_record: Any) -> None:
    records = [
        *asked(make_record),
        *asked(make_record, "idm", 0.1, other="MLP"),
        make_record("herding"),
        make_record("bacon", eval_arch="LeNet", status="oom", reason="no memory"),
    ]
    rows = {row["method"]: row for row in table(records)}
    assert list(rows) == ["bacon", "dm", "idm"]
    assert (rows["dm"]["MLP"], rows["dm"]["MLP drop"]) == ("not run", "–")
    assert (rows["bacon"]["LeNet"], rows["bacon"][HOME]) == ("oom", "not run")
    (reasons,) = [block for block in blocks_of(scored(records)) if isinstance(block, Items)]
    assert reasons.texts == ["bacon · ipc 1 · seed 0: oom: no memory"]


def test_tables_differ_by_whatever_makes_accuracies_incomparable(make_record: Any) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"ipc": 10},
        {"dataset": "digits", "dataset_source": "digits"},
        {"protocol": "idc-1000"},
        {"precision": "bf16"},
        {"budget_flops": 1e12},
    ]
    records = [record for change in changes for record in asked(make_record, **change)]
    found = across_networks(scored(records))
    assert len(found) == len(changes)
    assert len({one.heading for one in found}) == len(changes)
    assert "mnist · cpu scale · dc-cpu 1.0 · sets by ConvNetW32 · ipc 1" in {one.heading for one in found}


def test_a_chosen_rate_stands_below_the_fixed_one(make_record: Any) -> None:
    records = [*asked(make_record), *asked(make_record, gain=0.2, protocol="dc-cpu@tuned")]
    fixed, tuned = table(records)
    assert (fixed["method"], fixed["protocol"]) == ("dm", "dc-cpu")
    assert (tuned["method"], tuned["protocol"]) == ("dm", "dc-cpu@tuned")
    assert tuned["LeNet"].startswith("69.0")
    assert tuned["LeNet drop"] == fixed["LeNet drop"]


def test_sets_by_several_networks_have_rows_of_their_own(make_record: Any) -> None:
    records = [*asked(make_record), *asked(make_record, arch="LeNet", other=HOME)]
    rows = table(records)
    assert [row["distilled by"] for row in rows] == [HOME, "LeNet"]
    assert (rows[0][f"{HOME} drop"], rows[1]["LeNet drop"]) == ("–", "–")
    assert rows[0]["LeNet drop"] == rows[1][f"{HOME} drop"] == "11.0 [8.5, 13.5]"


def test_configurations_are_told_apart_even_where_one_network_saw_one_of_them(make_record: Any) -> None:
    records = [
        *asked(make_record, config={"lr_img": 1.0}),
        make_record(config={"lr_img": 2.0}, accuracies=[0.9]),
    ]
    (row,) = table(records)
    assert row["method"] == "dm (lr_img=1.0)"
    assert row[HOME].startswith("60.0"), "no accuracy of another configuration is in it"


def test_the_ceiling_is_the_last_row_of_each_ipc_and_never_the_best(make_record: Any) -> None:
    records = [
        *asked(make_record),
        *asked(make_record, "random", -0.1),
        *asked(make_record, ipc=10),
        *asked(make_record, "whole", 0.2),
    ]
    tables = [block for block in blocks_of(scored(records)) if isinstance(block, Table)]
    assert [[row[0] for row in found.rows] for found in tables] == [
        ["dm", "random", "whole"],
        ["dm", "whole"],
    ]
    first = [dict(zip(tables[0].headers, row, strict=True)) for row in tables[0].rows]
    assert [row["LeNet"].startswith(strong("49.0 ± 8.1")) for row in first] == [True, False, False]
    assert not any(strong("")[0] in cell for row in tables[1].rows for cell in row), "one method is no best"


def test_figures_of_older_code_are_marked(make_record: Any) -> None:
    records = asked(make_record)
    old = next(record for record in records if record.trial.eval_arch)
    blocks = blocks_of(scored(records, {old.id: OLDER}))
    (found,) = [block for block in blocks if isinstance(block, Table)]
    row = dict(zip(found.headers, found.rows[0], strict=True))
    assert row["LeNet"].endswith("‡")
    assert not row[HOME].endswith("‡")


@pytest.mark.slow
def test_report_prints_and_writes_the_section(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    results: Path = write_records(*asked(make_record), *asked(make_record, "idm"))
    assert main(["report", "--results", str(results)]) == 0
    printed = capsys.readouterr().out
    assert f"## {TITLE}\n" in printed
    assert "11.0 [8.5, 13.5]" in printed
    for name in ("tables.md", "tables.tex", "tables.html"):
        assert "LeNet drop" in (results / "report" / name).read_text(encoding="utf-8"), name
    assert "Protocol dc-cpu 1.0, network LeNet on sets by ConvNetW32" in printed


def test_the_page_begins_with_the_scale_of_which_most_is_measured(make_record: Any) -> None:
    few = make_record(scale="paper")
    for methods, first in ((("dm", "idm"), "cpu"), (("dm",), "paper")):
        records = [few, *(make_record(method) for method in methods)]
        text = page(scored(records), {}, load_fidelity()).partition("## Results")[2]
        assert f"### mnist · {first} scale" in text.partition("\n| method")[0]


def test_the_page_folds_it_and_has_no_other_table_of_those_networks(make_record: Any) -> None:
    records = [*asked(make_record), *asked(make_record, "idm")]
    text = page(scored(records), {}, load_fidelity())
    assert text.count(f"## {TITLE}\n\n<details>") == 1
    assert markdown(blocks_of(scored(records))).splitlines()[0] in text
    assert LEGEND in text.replace("**", "")
    assert "### mnist · cpu scale · dc-cpu 1.0 · ConvNetW32\n" in text
    assert "### mnist · cpu scale · dc-cpu 1.0 · LeNet on sets by ConvNetW32" not in text
    alone = [record for record in records if record.trial.eval_arch]
    text = page(scored(alone), {}, load_fidelity())
    assert TITLE not in text
    assert "### mnist · cpu scale · dc-cpu 1.0 · LeNet on sets by ConvNetW32" in text
    smoke = page(scored(asked(make_record, scale="smoke")), {}, load_fidelity())
    assert TITLE not in smoke, "what stands on no leaderboard is not on the page"
