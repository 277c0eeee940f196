"""Markdown tables from fixed records, byte for byte, and what may share a table."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from trials import cost_of

from harness.core.text import count, memory, table
from harness.engine.provenance import CURRENT, OLDER, UNCOMMITTED, CodeState
from harness.engine.records import Submitted
from harness.report import tables
from harness.report.across import across_networks, drops_from_home
from harness.report.cells import cells_csv
from harness.report.formats import html, latex, markdown
from harness.report.reported import (
    REGIME_OF,
    REPORTED_CSV,
    ReportedFigure,
    ReportedFigures,
    load_reported,
)
from harness.report.standing import scored
from harness.report.tables import blocks_by_track, document, tables_of

REPORTED = {
    ("dm", "mnist", 1): ReportedFigure("89.7", "0.6", "ConvNet", "a paper"),
    ("idm", "mnist", 10): ReportedFigure("96.26", "", "ConvNetD4", "recalled"),
    ("dm", "cifar10", 1): ReportedFigure("26.0", "0.8", "ConvNet", "a paper"),
}

STATES: dict[str, CodeState] = {"dm": OLDER, "idm": UNCOMMITTED, "random": CURRENT}
GOLDEN = Path(__file__).parent / "golden"


def fixed_records(make_record: Any) -> list[Any]:
    return [
        make_record("idm", seed=1, accuracies=[0.88, 0.86, 0.85]),
        make_record("dm"),
        make_record("idm", accuracies=[0.80, 0.82, 0.81]),
        make_record("idm", 10, status="failed", reason="the loss\nis not  finite"),
        make_record("random", accuracies=[0.4]),
        make_record("random", 10, accuracies=[0.89, 0.90, 0.91], settings_source="no settings"),
        make_record("random", 10, seed=1, status="oom", reason="50% of {1_000} & <more> ~ #1 $x^2$ | \\n"),
        make_record("close_by@paper", seed=0, accuracies=[0.79, 0.82, 0.80]),
        make_record("close_by@paper", seed=1, accuracies=[0.88, 0.85, 0.85]),
        make_record("whole", seed=0, accuracies=[0.97, 0.98]),
        make_record("whole", seed=1, accuracies=[0.97, 0.99]),
    ]


def sections(records: list[Any], reported: ReportedFigures) -> str:
    """The tables of all tracks in Markdown, as `report` writes them."""
    return tables.sections(tables_of(blocks_by_track(scored(records), reported)))


def headings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("## ")]


def row(text: str, start: str) -> list[str]:
    """Cells of the first table row whose first cell is `start`."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def written(records: list[Any]) -> dict[str, str]:
    """The tables in all formats, by the suffix."""
    states = {record.id: STATES[record.trial.method] for record in records if record.trial.method in STATES}
    tracks = scored(records, states)
    blocks = document(blocks_by_track(tracks, REPORTED), tracks)
    made = {"md": markdown(blocks), "tex": latex(blocks), "html": html(blocks)}
    return made | {"csv": cells_csv(tracks, REPORTED, drops_from_home(across_networks(tracks)))}


@pytest.mark.parametrize("suffix", ["md", "tex", "html", "csv"])
def test_tables_byte_for_byte(make_record: Any, suffix: str) -> None:
    """After a wanted change: UPDATE_GOLDEN=1 pytest tests/report/test_report_tables.py, and read the diff."""
    records = fixed_records(make_record)
    golden = GOLDEN / f"tables.{suffix}"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_bytes(written(records)[suffix].encode())
    assert written(records)[suffix].encode() == golden.read_bytes()
    assert written(records[::-1])[suffix].encode() == golden.read_bytes(), "order must not matter"


@pytest.mark.parametrize(
    "change",
    [
        {"scale": "paper"},
        {"scale": "from the future"},
        {"protocol": "dc-1000"},
        {"protocol_version": "1.1"},
        {"arch": "ConvNet"},
        {"precision": "bf16"},
        {"dataset": "digits"},
        {"zca": True},
        {"image_size": 16},
        {"budget_flops": 2e13},
        {"dataset_source": "folder"},
        {"listing": "feedbeef"},
    ],
)
def test_what_is_not_comparable_never_shares_a_table(make_record: Any, change: dict[str, Any]) -> None:
    text = sections([make_record("dm"), make_record("idm", **change)], {})
    first, second = text.split("\n## ")
    assert sorted((("| dm " in first, "| idm " in first), ("| dm " in second, "| idm " in second))) == [
        (False, True),
        (True, False),
    ]


HERE = {"dataset_fingerprint": "0" * 16, "test_fingerprint": "1" * 16}
CHANGED = HERE | {"dataset_fingerprint": "2" * 16}


@pytest.mark.parametrize("part", ["dataset_fingerprint", "test_fingerprint"])
def test_records_of_other_images_never_share_a_cell(part: str, make_record: Any) -> None:
    facts = {"dataset_source": "folder", "listing": "feed"}
    right = make_record("dm", seed=0, accuracies=[1.0], **facts, **HERE)
    wrong = make_record("dm", seed=1, accuracies=[0.0], **facts, **(HERE | {part: "2" * 16}))
    failed = make_record("dm", seed=2, status="oom", reason="too large", **facts)
    text = sections([right, wrong, failed], {})
    assert "50.0" not in text
    assert {row(section, "dm")[1] for section in text.split("\n## ")} == {
        "100.0 (1×1)",
        "0.0 (1×1)",
        "oom",
    }
    assert "Records of mnist were made from different images and do not compare" in text
    assert text.count(f"data {'0' * 16} and {'1' * 16}") >= 1
    assert len(set(headings(text))) == 3
    rows = cells_csv(scored([right, wrong, failed]), {}, {}).splitlines()
    assert len(rows) == 4


def test_images_are_named_only_where_records_disagree(make_record: Any) -> None:
    records = [make_record(seed=0, **HERE), make_record(seed=1, **HERE), make_record(seed=2)]
    assert sections(records, {}) == sections([make_record(seed=seed) for seed in range(3)], {})
    curved = make_record(seed=3, curve=4, **CHANGED)  # a part of train was left out: other images by rights
    assert [("data" in line) for line in headings(sections([*records, curved], {}))] == [False, False]


def test_another_dataset_or_size_does_not_bring_images_into_doubt(make_record: Any) -> None:
    records = [
        make_record(**HERE),
        make_record(dataset="digits", **CHANGED),
        make_record(image_size=8, **CHANGED),
    ]
    assert not any("data " in line for line in headings(sections(records, {})))


def test_heading_says_what_is_not_the_default(make_record: Any) -> None:
    record = make_record(precision="bf16", zca=True, image_size=16, budget_flops=2e13)
    assert headings(sections([record], {})) == [
        "## mnist · cpu scale · dc-cpu 1.0 · ConvNetW32 · bf16 · ZCA · 16 px"
        " · equal compute: 20.0 TFLOPs a distillation"
    ]


def test_sections_stand_in_the_order_of_the_scales(make_record: Any) -> None:
    records = [make_record(scale=scale, dataset=name) for scale in ("smoke", "cpu", "paper") for name in "ba"]
    shown = [tuple(heading[3:].split(" · ")[:2]) for heading in headings(sections(records, {}))]
    assert shown == [(name, f"{scale} scale") for scale in ("paper", "cpu", "smoke") for name in "ab"]


def test_configurations_are_not_averaged(make_record: Any) -> None:
    text = sections(
        [
            make_record("dm", 1, accuracies=[0.1, 0.1]),
            make_record("dm", 10, accuracies=[0.2, 0.2]),
            make_record("dm", 10, accuracies=[0.6, 0.6], config={"lr_img": 10.0}),
        ],
        REPORTED,
    )
    assert row(text, "dm (lr_img=1.0)")[1:4] == ["10.0 ± 0.0 (1×2)", "89.7 ± 0.6", "20.0 ± 0.0 (1×2)"]
    assert row(text, "dm (lr_img=10.0)")[1:4] == ["–", "89.7 ± 0.6", "**60.0 ± 0.0** (1×2)"]


BY_HAND = "published: mnist ipc 10; cpu scale; set by hand: "


def varied_records(make: Any) -> list[Any]:
    """Two seeds of dm as it is, two of dm with another rate, one with both settings changed, and idm."""
    own, rate, both = {"lr": 1.0, "batch": 8}, {"lr": 9.0, "batch": 8}, {"lr": 9.0, "batch": 4}
    by_hand = {"settings_source": f"{BY_HAND}lr"}
    return [
        *(make("dm", 10, seed, config=own, accuracies=[0.5 + 0.1 * seed] * 2) for seed in (0, 1)),
        *(make("dm", 10, seed, config=rate, accuracies=[0.9 - 0.1 * seed] * 2, **by_hand) for seed in (0, 1)),
        make("dm", 10, config=both, accuracies=[0.3, 0.3], settings_source=f"{BY_HAND}batch, lr"),
        *(make("idm", 10, seed, config=own, accuracies=[0.4 + 0.1 * seed] * 2) for seed in (0, 1)),
    ]


def test_settings_set_by_hand_stand_beside_the_methods_own_and_do_not_compete(make_record: Any) -> None:
    text = sections(varied_records(make_record), {})
    accuracies, _, rest = text.partition("against its own settings")
    varied, _, ranking = rest.partition("95 % interval")
    assert row(accuracies, "dm")[1] == "**55.0 ± 5.8** (2×2)"
    assert row(accuracies, "idm")[1].endswith("(2×2)")
    assert "lr=" not in accuracies
    assert row(varied, "dm (lr=9.0)") == ["dm (lr=9.0)", "10", "85.0 ± 5.8 (2×2)", "30.0 [-97.1, 157.1]"]
    assert row(varied, "dm (batch=4, lr=9.0)")[2:] == ["30.0 ± 0.0 (1×2)", "-25.0 (one seed)"]
    assert "of 2" in row(ranking, "dm")[6]
    assert "lr=" not in ranking.partition("distillation (s)")[0]


def test_cells_of_settings_set_by_hand_have_accuracies_and_no_rank(make_record: Any) -> None:
    rows = list(csv.DictReader(cells_csv(scored(varied_records(make_record)), {}, {}).splitlines()))
    found = {one["differing_settings"]: one for one in rows if one["method"] == "dm"}
    assert found.keys() == {"", "lr=9.0", "batch=4, lr=9.0"}
    assert (found["lr=9.0"]["accuracy_mean"], found["lr=9.0"]["rank_first"]) == ("0.85", "")
    assert (found[""]["accuracy_mean"], found[""]["ranked"]) == ("0.55", "2")


def test_what_no_label_by_hand_tells_apart_is_labelled_with_all_that_differs(make_record: Any) -> None:
    """A default that has changed since beside a setting that was set by hand."""
    records = [
        make_record("dm", config={"lr": 1.0, "batch": 8}),
        make_record("dm", config={"lr": 2.0, "batch": 8}),
        make_record("dm", config={"lr": 2.0, "batch": 4}, settings_source=f"{BY_HAND}batch"),
    ]
    text = sections(records, {})
    for batch, lr in ((8, 1.0), (8, 2.0), (4, 2.0)):
        assert row(text, f"dm (batch={batch}, lr={lr})")[1] == "**81.0 ± 1.0** (1×3)"
    assert "against its own settings" not in text


def test_a_setting_that_came_later_is_told_from_its_absence(make_record: Any) -> None:
    """Records leave it out while it has its default."""
    later = {"lr_img": 1.0, "lr_net": 0.1}
    records = [
        *(make_record("dm", 1, seed, accuracies=[0.4] * 2) for seed in (0, 1)),
        make_record("dm", 1, 0, accuracies=[0.2] * 2, config=later, settings_source=f"{BY_HAND}lr_net"),
    ]
    text = sections(records, {})
    assert row(text, "dm")[1] == "40.0 ± 0.0 (2×2)"
    assert row(text, "dm (lr_net=0.1)")[2:] == ["20.0 ± 0.0 (1×2)", "-20.0 (one seed)"]
    renamed = [records[0], make_record("dm", 1, 1, accuracies=[0.2] * 2, config=later)]
    assert row(sections(renamed, {}), "dm (lr_net=0.1)")[2] == "20.0 ± 0.0 (1×2)"


def test_settings_set_by_hand_are_named_without_the_methods_own_beside_them(make_record: Any) -> None:
    record = make_record("dm", 1, settings_source=f"{BY_HAND}lr_img")
    assert row(sections([record], {}), "dm (lr_img=1.0)")[1] == "81.0 ± 1.0 (1×3)"


def test_a_setting_that_was_typed_as_it_is_changes_no_row(make_record: Any) -> None:
    typed = make_record("dm", 1, 0, settings_source=f"{BY_HAND}lr_img")
    assert row(sections([typed, make_record("dm", 1, 1)], {}), "dm")[1] == "81.0 ± 0.9 (2×3)"


def test_settings_that_differ_between_ipcs_are_one_method(make_record: Any) -> None:
    text = sections([make_record("dm", 1), make_record("dm", 10, config={"lr_img": 10.0})], {})
    assert row(text, "dm")[1:] == ["81.0 ± 1.0 (1×3)", "81.0 ± 1.0 (1×3)"]


def test_a_seed_evaluated_twice_counts_once(make_record: Any) -> None:
    records = [make_record(accuracies=[0.1, 0.1, 0.1]), make_record(accuracies=[0.5] * 5, evals=5)]
    assert row(sections(records, {}), "dm")[1] == "50.0 ± 0.0 (1×5)"


def test_counts_are_spelled_out_where_seeds_differ(make_record: Any) -> None:
    records = [make_record(accuracies=[0.5, 0.5]), make_record(seed=1, accuracies=[0.5])]
    assert row(sections(records, {}), "dm")[1] == "50.0 ± 0.0 (2 seeds, 3 networks)"


def test_a_cell_says_which_of_its_seeds_are_missing_and_why(make_record: Any) -> None:
    records = [
        make_record(),
        make_record(seed=1, status="oom", reason="killed"),
        make_record(seed=2, status="oom"),
    ]
    text = sections(records, {})
    assert row(text, "dm")[1] == "81.0 ± 1.0 (1×3; 2 oom)"
    assert "- dm · ipc 1 · seed 1: oom: killed\n- dm · ipc 1 · seed 2: oom: no reason was recorded\n" in text


def test_without_any_result_there_is_no_cost_table(make_record: Any) -> None:
    text = sections([make_record(status="timeout", reason="after 60 s")], {})
    assert row(text, "dm")[1] == "timeout"
    assert "distillation (s)" not in text


def test_equal_means_are_both_bold(make_record: Any) -> None:
    text = sections([make_record("dm"), make_record("idm"), make_record("random", accuracies=[0.2])], {})
    assert row(text, "dm")[1] == row(text, "idm")[1] == "**81.0 ± 1.0** (1×3)"
    assert row(text, "random")[1] == "20.0 (1×1)"


def test_seconds_of_two_machines_are_not_averaged(make_record: Any) -> None:
    slow, fast = make_record(seed=0), make_record(seed=1)
    gpu = msgspec.structs.replace(fast.provenance, device="Some GPU")
    distill = msgspec.structs.replace(fast.distill, seconds=2.0, peak_device_bytes=3 * 2**30)
    fast = msgspec.structs.replace(fast, provenance=gpu, distill=distill)
    costs = sections([slow, fast], {}).split("| hardware ")[1].splitlines()[2:4]
    assert ["12.0" in line and "Some CPU" in line for line in costs] == [True, False]
    assert ["2.0 |" in line and "Some GPU" in line and "3.00 GiB" in line for line in costs] == [False, True]


def test_costs_of_a_set_are_those_of_the_machine_that_made_it(make_record: Any) -> None:
    here = make_record(seed=0)
    gpu = msgspec.structs.replace(here.provenance, device="Some GPU")
    there = msgspec.structs.replace(make_record(seed=1), distilled_in=gpu)
    text = sections([here, there], {})
    costs = text.split("| hardware ")[1].splitlines()[2:4]
    assert ["Some GPU, evaluation on Some CPU" in line for line in costs] == [False, True]
    assert "Measured on Some CPU @ 2.0 GHz with 1 thread; Some GPU." in text
    (facts,) = csv.DictReader(cells_csv(scored([here, there]), {}, {}).splitlines())
    assert facts["distill_seconds"] == "", "seconds of two machines do not average"


def test_costs_are_means_over_seeds_and_memory_the_highest(make_record: Any) -> None:
    one, two = make_record(seed=0), make_record(seed=1)
    distill = msgspec.structs.replace(two.distill, seconds=14.0, peak_host_bytes=2**30)
    text = sections([one, msgspec.structs.replace(two, distill=distill)], {})
    cells = row(text[text.index("distillation (s)") :], "dm")
    assert (cells[3], cells[5]) == ("13.0", "1.00 GiB")


def test_unknown_facts_are_dashes(make_record: Any) -> None:
    text = sections([make_record(distill=None, stored_bytes=None, provenance=None)], {})
    assert row(text[text.index("distillation (s)") :], "dm")[3:] == ["–", "3.5", *"–" * 5, "10"]
    assert "unknown hardware" in text


def test_flops_that_leave_out_what_steps_take_are_not_told(make_record: Any) -> None:
    text = sections(
        [make_record("dm", distill=cost_of(2e12)), make_record("kip@vec", distill=cost_of(1e6))], {}
    )
    costs = text[text.index("distillation (s)") :]
    assert (row(costs, "dm")[7], row(costs, "kip@vec")[7]) == ("2.00 T", "–")
    assert "None are told of kip@vec, whose steps take kernels of pairs of images instead." in costs
    assert "None are told" not in sections([make_record("dm")], {})


def test_cifar10_jpeg_is_not_cifar10(make_record: Any) -> None:
    folder = {"dataset": "cifar10-jpeg", "dataset_source": "folder", "listing": "feed"}
    text = sections([make_record(**folder)], REPORTED)
    assert "26.0" not in text
    assert " reported |" not in text
    assert "cifar10-jpeg is not cifar10: what papers report for cifar10 does not apply to it" in text


@pytest.mark.parametrize(
    "change",
    [
        {"dataset_source": "folder", "listing": "feed"},
        {"image_size": 16},
        {"zca": True},
        {"budget_flops": 1e12},
        {"arch": "VGG11"},
        {"method": "dm@other"},
    ],
)
def test_reported_figures_stand_only_beside_the_same_task(make_record: Any, change: dict[str, Any]) -> None:
    assert "89.7" in sections([make_record("dm")], REPORTED)
    text = sections([make_record(**{"method": "dm", **change})], REPORTED)
    assert "89.7" not in text
    assert "*Reported*" not in text


def test_paper_scale_says_whose_settings_and_how_far_ours_is_off(make_record: Any) -> None:
    figure = load_reported()["random", "mnist", 1]
    ours = figure.mean - 2.2 * (figure.std or 0)
    records = {
        scale: make_record("random", 1, scale=scale, dataset="mnist", accuracies=[ours])
        for scale in ("paper", "cpu")
    }
    text = sections([records["paper"]], load_reported())
    assert "*Reported*: printed by papers and not measured here; each paper has its own settings." in text
    assert "not comparable" not in text
    assert row(text, "random")[-1] == f"{figure.text} (z -2.2)"
    short = sections([records["cpu"]], load_reported())
    assert row(short, "random")[-1] == figure.text
    assert "(z" not in short


def test_summary_uses_the_committed_figures(make_record: Any) -> None:
    text = sections([make_record("dm", dataset="cifar10", dataset_source="cifar10")], load_reported())
    assert "26.0 ± 0.8" in row(text, "dm")


def test_committed_figures_are_unique_and_named_as_here() -> None:
    figures = load_reported()
    assert figures["kcenter", "cifar10", 10].accuracy_mean
    assert figures["bacon", "cifar10", 10].text == "62.06"
    assert {dataset for _, dataset, _ in figures} >= {"mnist", "cifar10", "cifar100", "tinyimagenet"}
    assert not any("-" in method for method, _, _ in figures)


def test_reported_figures_stand_only_beside_networks_that_were_told_as_much(make_record: Any) -> None:
    taught = ReportedFigure("77.7", "", "ConvNet", "somewhere", "soft-teacher", "preferred")
    stored = ReportedFigure("55.5", "", "ConvNet", "somewhere", "soft-stored", "preferred")
    hard = ReportedFigure("33.3", "", "ConvNet", "somewhere", "hard", "preferred")
    figures: ReportedFigures = {
        (method, "cifar10", 10): figure
        for method, figure in (("dm", taught), ("idm", stored), ("bacon", hard))
    }
    shown = {}
    for protocol in ("dc-cpu", "sl-cpu", "kd-cpu"):
        task = {"protocol": protocol, "dataset": "cifar10", "dataset_source": "cifar10"}
        records = [make_record(method, 10, **task) for method in ("dm", "idm", "bacon")]
        text = sections(records, figures)
        shown[protocol] = {printed for printed in ("77.7", "55.5", "33.3") if printed in text}
    # Protocols for hard labels take soft ones where a set has them.
    assert shown == {"dc-cpu": {"55.5", "33.3"}, "sl-cpu": {"55.5"}, "kd-cpu": {"77.7"}}


def test_committed_figures_say_their_regime_and_are_preferred_once() -> None:
    with REPORTED_CSV.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {*REGIME_OF, "unclear"}
    assert all(row["source"] and float(row["accuracy_mean"]) > 0 for row in rows)
    preferred = [
        (row["method"].replace("-", ""), row["dataset"].lower(), row["ipc"])
        for row in rows
        if row["note"].startswith("preferred")
    ]
    assert len(preferred) == len(set(preferred))


def test_reported_figures_are_optional(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_reported(tmp_path / "absent.csv")


def test_pipes_and_line_ends_do_not_break_a_table() -> None:
    assert table(["a|b", "c"], [["x\ny", "1"]]) == "| a\\|b   |   c |\n|:-------|----:|\n| x y    |   1 |"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "–"),
        (0, "0"),
        (999, "999"),
        (999.7, "1.00 k"),
        (1234, "1.23 k"),
        (256_000, "256 k"),
        (99_960, "100 k"),
        (999_999, "1.00 M"),
        (2.5e13, "25.0 T"),
    ],
)
def test_counts(number: float | None, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "–"),
        (12, "12 B"),
        (1023, "1.00 KiB"),
        (31_360, "30.6 KiB"),
        (512 * 2**20, "512 MiB"),
        (2**40, "1.00 TiB"),
    ],
)
def test_bytes(size: float | None, text: str) -> None:
    assert memory(size) == text


def test_what_spent_more_than_the_budget_is_named(make_record: Any) -> None:
    records = [
        make_record("dm", budget_flops=2e12, distill=cost_of(2.001e12)),
        make_record("rded", budget_flops=2e12, distill=cost_of(2.4e12), seed=0),
        make_record("rded", budget_flops=2e12, distill=cost_of(2.6e12), seed=1),
    ]
    (line,) = [line for line in sections(records, {}).splitlines() if line.startswith("Beyond the budget")]
    assert line.endswith("(a teacher, say), and so not ranked: rded (ipc 1: 2.50 T).")
    assert "Beyond the budget" not in sections(records[:1], {})


def test_one_set_under_two_names_is_told(make_record: Any) -> None:
    def made(method: str, ipc: int, seed: int, digest: str | None, accuracy: float = 0.5) -> Any:
        record = make_record(method, ipc, seed, accuracies=[accuracy])
        return msgspec.structs.replace(record, images_digest=digest)

    twins = [
        made(name, ipc, seed, f"{ipc}{seed}")
        for name in ("dm+hdd", "hdd")
        for ipc in (1, 10)
        for seed in (0, 1)
    ]
    others = [
        *(made(name, 50, 0, "3") for name in ("kcenter", "herding")),
        *(made("fadrm", 10, seed, f"10{seed + 1}") for seed in (0, 1)),  # the same sets in other seeds
        made("dm", 10, 0, "100"),  # one of two seeds
        *(made("random@soft", ipc, 0, "4", accuracy) for ipc, accuracy in ((1, 0.5), (50, 0.5))),
        made("random", 1, 0, "4", 0.4),  # the same images, with other labels
        *(made(name, 50, 0, None) for name in ("ftd", "mtt")),
    ]
    (line,) = [line for line in sections(twins + others, {}).splitlines() if line.startswith("The same sets")]
    assert line.endswith("the same figures: dm+hdd and hdd (ipc 1, 10); herding and kcenter (ipc 50).")
    assert "The same sets" not in sections(twins[:4] + others[2:], {})


def test_who_spent_more_than_the_budget_has_an_accuracy_and_no_rank(make_record: Any) -> None:
    def made(method: str, accuracy: float, flops: float) -> list[Any]:
        seeds = [[accuracy, accuracy + 0.01], [accuracy + 0.01, accuracy + 0.02]]
        return [
            make_record(method, 1, seed, accuracies=found, budget_flops=2e12, distill=cost_of(flops))
            for seed, found in enumerate(seeds)
        ]

    records = [*made("dm", 0.5, 2e12), *made("idm", 0.4, 2e12), *made("rded", 0.6, 2.4e12)]
    text = sections(records, {})
    assert row(text, "rded")[1] == "61.0 ± 0.8 (2×2)"
    assert row(text, "dm")[1] == "**51.0 ± 0.8** (2×2)"
    assert standing(text, "dm")[5:] == ["best", "1 of 2", "not run"]
    (rich,) = (
        one
        for one in csv.DictReader(cells_csv(scored(records), {}, {}).splitlines())
        if one["method"] == "rded"
    )
    assert (rich["accuracy_mean"], rich["rank_first"]) == ("0.61", "")


def test_with_unequal_seeds_the_best_is_whom_nobody_beats_where_both_were_measured(make_record: Any) -> None:
    """The second has the higher mean, since it lacks the seed in which all are low."""
    often = [[0.520, 0.521], [0.421, 0.422], [0.322, 0.323]]
    records = [
        *seeds_of(make_record, "dm", *often),
        *seeds_of(make_record, "idm", [0.50, 0.501], [0.40, 0.401]),
    ]
    text = sections(records, {})
    assert row(text, "dm")[1].startswith("**42.1")
    assert row(text, "idm")[1] == "45.1 ± 5.8 (2×2)"
    assert standing(text, "idm")[5].startswith("2.0 [")
    assert [standing(text, name)[6] for name in ("dm", "idm")] == ["1 of 2", "2 of 2"]


def test_what_lies_clearly_below_random_images_is_named(make_record: Any) -> None:
    def made(method: str, accuracy: float, ipc: int, spread: float = 0.01) -> list[Any]:
        return seeds_of(make_record, method, [accuracy - spread] * 2, [accuracy + spread] * 2, ipc=ipc)

    random = [*made("random", 0.5, 1), *made("random", 0.9, 10)]
    others = [
        *made("kcenter", 0.2, 10),
        *made("forgetting", 0.4, 1),
        *made("forgetting", 0.8, 10),
        *made("herding", 0.4, 1, spread=0.2),  # below, but not clearly
        *made("dm", 0.55, 1),
        *made("idm", 0.1, 50),
    ]
    (line,) = [
        line for line in sections(random + others, {}).splitlines() if line.startswith("Clearly below ")
    ]
    assert line.endswith("file under `methods/` gives it): forgetting (ipc 1, 10); kcenter (ipc 10).")
    assert "Clearly below" not in sections(others, {})


def seeds_of(make_record: Any, method: str, *seeds: list[float], ipc: int = 1) -> list[Any]:
    return [make_record(method, ipc, seed, accuracies=found) for seed, found in enumerate(seeds)]


def standing(text: str, method: str) -> list[str]:
    """Cells of a method in the table of intervals, differences and ranks."""
    return row(text[text.index("behind the best") :], method)


def test_ties_are_in_italics_and_clear_losses_are_not(make_record: Any) -> None:
    records = [
        *seeds_of(make_record, "dm", [0.80, 0.82], [0.81, 0.85], [0.80, 0.81]),
        *seeds_of(make_record, "idm", [0.79, 0.81], [0.83, 0.83], [0.79, 0.80]),
        *seeds_of(make_record, "random", [0.40, 0.42], [0.41, 0.45], [0.40, 0.41]),
        *seeds_of(make_record, "bacon", [0.80]),
    ]
    text = sections(records, {})
    figures = [row(text, method)[1] for method in ("dm", "idm", "random", "bacon")]
    assert figures == ["**81.5 ± 1.9** (3×2)", "*80.8 ± 1.8* (3×2)", "41.5 ± 1.9 (3×2)", "80.0 (1×1)"]
    assert standing(text, "dm")[4:] == ["[78.2, 84.8]", "best", "1–3 of 4", "not run"]
    assert standing(text, "idm")[5:7] == ["0.7 [-0.8, 2.1]", "1–3 of 4"]
    assert standing(text, "random")[5:7] == ["40.0 [40.0, 40.0]", "3–4 of 4"]
    assert standing(text, "bacon")[4:7] == ["one seed", "1.5 (one seed)", "1–4 of 4"]


def test_one_seed_each_leaves_no_table_of_intervals(make_record: Any) -> None:
    text = sections([make_record("dm"), make_record("random", accuracies=[0.4])], {})
    assert "behind the best" not in text
    assert "No intervals, ties or ranks: with one seed nothing shows how much seeds differ." in text


def test_the_ceiling_fills_every_column_and_competes_in_none(make_record: Any) -> None:
    records = [
        *seeds_of(make_record, "dm", [0.7], [0.72]),
        *seeds_of(make_record, "dm", [0.8], [0.82], ipc=10),
        *seeds_of(make_record, "random", [0.6], [0.63]),
        *seeds_of(make_record, "whole", [0.97], [0.99]),
    ]
    text = sections(records, REPORTED | {("whole", "mnist", 0): ReportedFigure("99.6", "", "ConvNet", "x")})
    assert row(text, "whole") == ["whole", "98.0 ± 1.4 (2×1)", "99.6", "98.0 ± 1.4 (2×1)"]
    assert row(text, "dm")[1] == "**71.0 ± 1.4** (2×1)"
    assert standing(text, "dm")[6:] == ["1 of 2", "27.0 [27.0, 27.0]"]
    costs = text[text.index("distillation (s)") :]
    assert row(costs, "whole")[2] == "–"


def test_a_ceiling_that_was_not_run_is_said_to_be_so(make_record: Any) -> None:
    records = [*seeds_of(make_record, "dm", [0.7], [0.72]), make_record("random", 10)]
    text = sections(records, {})
    assert row(text, "whole")[1:] == ["not run", "not run"]
    assert standing(text, "dm")[-1] == "not run"


def test_a_ceiling_that_failed_says_why(make_record: Any) -> None:
    text = sections([make_record("dm"), make_record("whole", status="oom", reason="too many images")], {})
    assert row(text, "whole")[1:] == ["oom"]
    assert "- whole · ipc 1 · seed 0: oom: too many images" in text


def test_the_ceiling_alone_is_a_table(make_record: Any) -> None:
    text = sections([make_record("whole", accuracies=[0.97])], {})
    assert row(text, "whole")[1] == "97.0 (1×1)"


def test_intervals_go_no_further_than_accuracies(make_record: Any) -> None:
    records = [
        *seeds_of(make_record, "dm", [0.99], [0.9]),
        *seeds_of(make_record, "random", [0.0], [0.2]),
    ]
    text = sections(records, {})
    assert standing(text, "dm")[4] == "[37.3, 100.0]"
    assert standing(text, "random")[4] == "[0.0, 100.0]"


def test_what_was_claimed_for_submitted_sets_stands_beside_what_was_measured(make_record: Any) -> None:
    claim = Submitted(claimed_accuracy=0.7, file_digest="0", importer="dc", findings=["warning: dark"])
    text = sections([make_record("theirs@submitted", accuracies=[0.5, 0.6], submission=claim)], {})
    (line,) = [line for line in text.splitlines() if "1 warning" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "theirs@submitted"
    assert cells[3:] == ["70.0", "55.0 ± 7.1 (1×2)", "one seed", "-15.0", "0 errors, 1 warning"]
