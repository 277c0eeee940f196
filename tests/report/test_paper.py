"""`paper`: what fills a cell, the page byte for byte, what is missing, and how long it may take."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import methods
from harness.commands import paper
from harness.commands.cli import USER_ERROR, main
from harness.commands.paper import PaperRequest, command
from harness.core.errors import UnknownNameError, UserError
from harness.engine.options import parse_options
from harness.engine.records import Record
from harness.perf.steps import MeasuredStep, StepSheet
from harness.report.paper.cells import IPCS, Completeness, PaperCell, RecordIndex, Spec, best_by_seed
from harness.report.paper.commands import Missing, as_text, group, missing, words
from harness.report.paper.hours import TOLERANCE, Evidence, TrialHours, image_pass, step_flops
from harness.report.paper.tables import NAMES, CellFilter, Tables, make_tables, page, plain, specs
from harness.report.protocols import REGIMES
from harness.report.reported import (
    REPORTED_CSV,
    ReportedFigure,
    SoftFigures,
    load_by_network,
    load_soft,
    methods_of,
)

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parents[2]
NOWHERE = str(ROOT / "nowhere")
FIGURES = load_by_network(GOLDEN / "paper_reported.csv")
GPU = "NVIDIA Test"
REGIME_WORDS = (REGIMES["stored"], REGIMES["teacher"])
SEEDS = (0, 1, 2, 3, 4)
ALL = Completeness(SEEDS, 1)  # so that made-up records of few networks complete a cell
# Settings of IDM's loop at the authors' CIFAR-10 commands, as far as FLOPs depend on them.
LOOP = {"iterations": 20_000, "batch_real": 256, "factor": 2, "train_steps": 10, "train_batch": 256}
SMALL = {"iterations": 100, "batch_real": 32, "factor": 2, "train_steps": 2, "train_batch": 64}


def paper_record(make: Any, method: str, ipc: int = 10, seed: int = 0, **changes: Any) -> Record:
    """A record at paper scale on CIFAR-10."""
    facts: dict[str, Any] = {
        "scale": "paper",
        "dataset": "cifar10",
        "dataset_source": "cifar10",
        "arch": "ConvNet",
        "protocol": "dc-1000",
        "config": LOOP | {"tv_weight": 0.8},
        "settings_source": f"published: cifar10 ipc {ipc}",
    }
    record: Record = make(method, ipc, seed, **(facts | changes))
    return record


def on_gpu(record: Record, **cost: Any) -> Record:
    """The record as if made on a GPU, with other facts of its distillation."""
    assert record.provenance is not None
    assert record.distill is not None
    return msgspec.structs.replace(
        record,
        provenance=msgspec.structs.replace(record.provenance, device=GPU),
        distill=msgspec.structs.replace(record.distill, **cost),
    )


@pytest.fixture
def records(make_record: Any) -> list[Record]:
    """Two seeds of BACON and one of IDM at paper scale, an ablation, and what only gives a mark."""
    hand = "published: cifar10 ipc 10; set by hand: tv_weight"
    return [
        paper_record(make_record, "bacon", accuracies=[0.61, 0.63]),
        paper_record(make_record, "bacon", seed=1, accuracies=[0.615, 0.625]),
        paper_record(make_record, "bacon", config={"tv_weight": 0.2}, settings_source=hand, accuracies=[0.5]),
        paper_record(make_record, "bacon", precision="bf16", accuracies=[0.1]),
        paper_record(make_record, "bacon", eval_arch="AlexNet", accuracies=[0.4, 0.42]),
        paper_record(make_record, "bacon", arch="AlexNet", accuracies=[0.9]),
        paper_record(make_record, "bacon", arch="AlexNet", eval_arch="ConvNet", accuracies=[0.9]),
        paper_record(make_record, "dm", ipc=50, eval_arch="AlexNet", accuracies=[0.616]),
        paper_record(make_record, "idm", ipc=1, accuracies=[0.449]),
        paper_record(make_record, "idm", ipc=50, status="oom", reason="too much"),
        paper_record(make_record, "cafe@dsa", accuracies=[0.504, 0.514]),
        make_record("dm", 10, dataset="cifar10-jpeg", dataset_source="folder"),
        make_record("bacon", 1),
    ]


def cells(records: Sequence[Record], name: str) -> Mapping[tuple[str, str, int, str], PaperCell]:
    """Cells of a table by label, dataset, ipc and network."""
    index = RecordIndex(records)
    found = ((label, index.cell(spec, FIGURES)) for label, spec in specs(name, FIGURES))
    return {(label, cell.spec.dataset, cell.spec.ipc, cell.spec.arch): cell for label, cell in found}


def main_cell(records: Sequence[Record], method: str, dataset: str = "cifar10", ipc: int = 10) -> PaperCell:
    return cells(records, "main")[method, dataset, ipc, "ConvNet"]


def test_the_page_is_the_golden_one_byte_for_byte(records: list[Record]) -> None:
    sheet = StepSheet(
        GPU,
        "cpu",
        2,
        "2.9",
        "",
        (MeasuredStep("bacon", "fp32", 0.1, 1.0, 2.0), MeasuredStep("dc", "fp32", 1, 1, 2)),
    )
    text = page(make_tables(records, FIGURES, CellFilter(), [sheet]))
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / "paper.md").write_text(text, encoding="utf-8")
    assert text == (GOLDEN / "paper.md").read_text(encoding="utf-8")


def test_steps_of_cpus_of_one_name_stand_apart_if_only_one_has_bf16(records: list[Record]) -> None:
    sheets = [
        StepSheet("cpu", "CPU X", 2, "2.9", "", (MeasuredStep("bacon", "fp32", s, 1.0, 2.0),), bf16)
        for s, bf16 in ((0.25, True), (0.5, False))
    ]
    text = page(make_tables(records, FIGURES, CellFilter(), sheets))
    rows = [re.sub(" +", " ", line) for line in text.splitlines() if "CPU X" in line]
    assert rows == [
        "| bacon | CPU X, 2 threads, with instructions for bfloat16 | – | 0.25 |",
        "| bacon | CPU X, 2 threads, without instructions for bfloat16 | – | 0.5 |",
    ]


def test_a_measured_cell_has_its_gap_to_the_authors_own_figure(records: list[Record]) -> None:
    cell = main_cell(records, "bacon")
    assert (cell.text, cell.gap_text, cell.state) == ("62.0 ± 0.9 (2×2)", "-0.1", "measured")
    assert cell.figure is not None
    assert (cell.figure.text_beside_bacon, cell.z) == ("62.06", None)


def test_z_is_the_gap_in_printed_standard_deviations(records: list[Record]) -> None:
    cell = main_cell(records, "cafe@dsa")
    assert cell.z == pytest.approx((50.9 - 50.9) / 0.5, abs=1e-9)
    moved = [msgspec.structs.replace(record, accuracies=[0.499]) for record in cell.done]
    assert main_cell(moved, "cafe@dsa").gap_text == "-1.0 (z -2.0)"


@pytest.mark.parametrize(
    ("key", "state", "reported"),
    [
        (("dm", "cifar10", 10), "cpu scale only (cifar10-jpeg)", None),
        (("bacon", "mnist", 1), "cpu scale only", "94.15"),
        (("idm", "cifar10", 50), "oom", None),
        (("dm", "mnist", 1), "not run", "89.7 ± 0.6‡†"),
        (("kcenter", "cifar10", 10), "not run", "14.7 ± 0.9 (ConvNetD4)‡"),
        (("idm", "cifar10", 1), "measured", "45.2"),
        (("idm", "cifar10", 10), "not run", "58.6 ± 0.1‡"),
    ],
)
def test_marks(records: list[Record], key: tuple[str, str, int], state: str, reported: str | None) -> None:
    cell = main_cell(records, *key)
    assert cell.state == state
    assert (cell.figure and cell.figure.text_beside_bacon) == reported


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"curve": 5},
        {"budget_flops": 1e12},
        {"protocol": "idc-1000"},
        {"protocol_version": "0.9"},
        {"zca": True},
        {"settings_source": "published: cifar10 ipc 10; set by hand: lr_img"},
        {"dataset_source": "folder"},
        {"arch": "ConvNetW64"},
        {"arch": "AlexNet", "eval_arch": "ConvNet"},
        {"eval_arch": "ConvNetW64"},
        {"eval_arch": "AlexNet"},
    ],
)
def test_other_conditions_do_not_fill_a_cell_of_the_paper(make_record: Any, changes: dict[str, Any]) -> None:
    assert main_cell([paper_record(make_record, "bacon")], "bacon").measured is not None
    assert main_cell([paper_record(make_record, "bacon", **changes)], "bacon").measured is None


def test_a_cell_of_the_paper_is_of_one_set_of_images(make_record: Any) -> None:
    here = {"dataset_fingerprint": "0" * 16, "test_fingerprint": "1" * 16}
    other = here | {"dataset_fingerprint": "2" * 16}
    made = [paper_record(make_record, "bacon", seed=seed, accuracies=[0.6], **here) for seed in range(2)]
    odd = paper_record(make_record, "bacon", seed=2, accuracies=[0.1], **other)
    assert main_cell([*made, odd], "bacon").text == "60.0 ± 0.0 (2×1)"
    alone = paper_record(make_record, "idm", accuracies=[0.1], **other)
    assert main_cell([*made, alone], "idm").state == "other images only"
    assert main_cell([alone], "idm").state == "measured"


def test_an_ablation_is_found_by_the_settings_that_were_set(records: list[Record]) -> None:
    found = cells(records, "lambda")
    assert found["0.2", "cifar10", 10, "ConvNet"].text == "50.0 (1×1)"
    assert found["0.8", "cifar10", 10, "ConvNet"].text == "62.0 ± 0.9 (2×2)"
    assert found["0.4", "cifar10", 10, "ConvNet"].state == "not run"


def test_the_cross_table_is_of_sets_by_convnet_on_other_networks(records: list[Record]) -> None:
    found = cells(records, "cross")
    assert found["bacon", "cifar10", 10, "AlexNet"].text == "41.0 ± 1.4 (1×2)"
    assert found["bacon", "cifar10", 10, "ConvNet"].text == "62.0 ± 0.9 (2×2)"
    assert found["dm", "cifar10", 50, "AlexNet"].gap_text == "+0.3 (z +0.5)", "printed: 61.3 ± 0.6"
    assert found["dm", "cifar10", 50, "VGG11"].state == "not run"


def test_a_chosen_rate_stands_beside_the_fixed_one(records: list[Record], make_record: Any) -> None:
    tuned = [
        paper_record(make_record, "bacon", protocol="dc-1000@tuned", eval_arch="AlexNet", accuracies=[0.55]),
        paper_record(make_record, "bacon", protocol="dc-cpu@tuned", eval_arch="VGG11", accuracies=[0.9]),
        paper_record(make_record, "bacon", protocol="dc-1000@tuned", status="oom", reason="too much"),
    ]
    made = make_tables([*records, *tuned], FIGURES, CellFilter(methods=("bacon",), ipcs=(10,)))
    lines = page(made).partition("## Cross")[2].partition("\n## ")[0].splitlines()
    headers, row = ([cell.strip() for cell in line.strip("|").split("|")] for line in (lines[2], lines[4]))
    found = dict(zip(headers, row, strict=True))
    assert (found["AlexNet"], found["AlexNet @tuned"]) == ("41.0 ± 1.4 (1×2)", "55.0 (1×1)")
    assert (found["ConvNet"], found["ConvNet @tuned"]) == ("62.0 ± 0.9 (2×2)", "*oom*")
    assert found["VGG11 @tuned"] == "*not run*"
    assert "ConvNet @tuned" not in page(made).partition("## Cross")[0], "papers' own rate alone"
    alex = next(cell for cell in plain(made)["cross"] if cell["arch"] == "AlexNet")
    assert (alex["measured"]["mean"], alex["tuned"]["mean"]) == (pytest.approx(0.41), pytest.approx(0.55))


def test_another_scale_has_a_network_of_its_own_for_the_papers(make_record: Any) -> None:
    small = {"dataset": "cifar10-jpeg", "dataset_source": "cifar10-jpeg"}
    home = make_record("bacon", 10, **small)
    other = make_record("bacon", 10, eval_arch="AlexNet", **small)
    assert cells([home], "cross")["bacon", "cifar10", 10, "AlexNet"].state == "not run"
    assert main_cell([other], "bacon").state == "not run"
    states = [cells([home, other], "cross")["bacon", "cifar10", 10, n].state for n in ("ConvNet", "AlexNet")]
    assert states == ["cpu scale only (cifar10-jpeg)"] * 2


def test_figures_come_from_the_authors_first_and_never_from_a_suspect_row() -> None:
    assert FIGURES["idm", "cifar10", 1, "ConvNet"].printed == "45.2"
    assert FIGURES["dm", "mnist", 1, "ConvNet"].source == "recalled"
    assert FIGURES["dm", "cifar10", 50, "AlexNet"].mean == pytest.approx(0.613)
    assert methods_of(FIGURES, IPCS) == ["cafe@dsa", "dm", "kcenter", "nobody", "idm", "bacon"]
    with pytest.raises(FileNotFoundError):
        load_by_network(GOLDEN / "absent.csv")


SOFT_NAMES = (
    *("random@soft", "rded", "sre2l", "cda", "sre2l_pp", "fadrm", "g_vbsm", "cim"),
    *("datm", "pad", "kip", "frepo", "ld"),
)


def test_figures_of_the_table_of_soft_labels_are_named_as_here_and_by_regime() -> None:
    soft = load_soft(REPORTED_CSV)
    assert {key[0] for _, key in soft} >= set(SOFT_NAMES)
    assert soft["stored", ("random@soft", "cifar10", 10, "ConvNet")].printed == "46.3 ± 0.8"
    assert soft["teacher", ("rded", "cifar10", 1, "ConvNet")].text == "23.5 ± 0.3 (ConvNet(BatchNorm))"
    assert soft["teacher", ("sre2l_pp", "cifar10", 1, "ResNet18")].mean == pytest.approx(0.244)
    hard = load_by_network(REPORTED_CSV)
    assert {"dance", "dsdm"} <= {key[0] for key in hard}
    assert not {key[0] for key in hard} & {"random@soft", "rded", "sre2l", "cim"}
    assert all(figure.regime in (None, "hard") for figure in hard.values())


def test_the_table_of_soft_labels_shows_methods_that_are_not_here_and_mixes_no_regimes(
    make_record: Any,
) -> None:
    figure = ReportedFigure("46.3", "0.8", "ConvNet", "https://example.org/Q", "soft-stored", "preferred")
    other = ReportedFigure("24.4", "", "ResNet18", "https://example.org/S", "soft-teacher", "preferred")
    soft: SoftFigures = {
        ("stored", ("random@soft", "cifar10", 10, "ConvNet")): figure,
        ("teacher", ("nobody_at_all", "cifar10", 1, "ResNet18")): other,
    }
    records = [
        paper_record(make_record, "random@soft", protocol="sl-1000", accuracies=[0.45, 0.47]),
        paper_record(make_record, "random@soft", protocol="dc-1000", accuracies=[0.3]),
        paper_record(make_record, "random@soft", protocol="kd-300", accuracies=[0.2]),
        paper_record(make_record, "nobody_at_all", 1, protocol="kd-300", accuracies=[0.9]),
    ]
    tables = make_tables(records, FIGURES, CellFilter(), soft=soft)
    text = page(tables)
    stored, teacher = (
        text.partition(f"### cifar10, {words}")[2].partition("###")[0] for words in REGIME_WORDS
    )
    (line,) = [line for line in stored.splitlines() if line.startswith("| random@soft")]
    parts = [part.strip() for part in line.split("|")]
    assert parts[6:9] == ["46.0 ± 1.4 (1×2)", "46.3 ± 0.8", "-0.3 (z -0.4)"]
    assert "nobody" not in stored
    (line,) = [line for line in teacher.splitlines() if line.startswith("| nobody_at_all")]
    state = "*not implemented here*"
    assert [part.strip() for part in line.split("|")[2:6]] == ["ResNet18", state, "24.4", "–"]
    assert "random@soft" not in teacher
    assert "https://example.org/S" in text.partition("## Sources")[2]
    (asked,) = [one for one in missing(tables, ALL, None).commands if one.table == "soft"]
    assert asked.line({}) == (
        "python -m harness run --scale paper --dataset cifar10 --methods random@soft --ipc 1,10,50"
        " --protocol sl-1000"
    )
    assert asked.trials == 14, "one of 15 was measured, by more networks than are wanted"
    only = make_tables(records, FIGURES, CellFilter(methods=("random@soft",)), soft=soft)
    assert {cell.spec.method for cell in only.soft} == {"random@soft"}


def test_a_method_is_measured_by_the_protocol_that_its_file_names(make_record: Any) -> None:
    """In the regime that it calls for; under the other regimes by the scale's."""
    figure = ReportedFigure("46.8", "0.7", "ConvNet", "https://example.org/F", "soft-stored", "preferred")
    soft: SoftFigures = {("stored", ("frepo", "cifar10", 1, "ConvNet")): figure}
    records = [
        paper_record(make_record, "frepo", 1, protocol="frepo", accuracies=[0.46]),
        paper_record(make_record, "frepo", 1, protocol="sl-1000", accuracies=[0.1]),
        paper_record(make_record, "frepo", 1, protocol="dc-1000", accuracies=[0.3]),
        paper_record(make_record, "dd", 10, protocol="dd", accuracies=[0.36]),
        paper_record(make_record, "dd", 10, protocol="dc-1000", accuracies=[0.2]),
    ]
    hard = {(method, "cifar10", ipc, "ConvNet"): figure for method, ipc in (("frepo", 1), ("dd", 10))}
    tables = make_tables(records, hard, CellFilter(methods=("frepo", "dd")), soft=soft)
    measured = {
        (cell.spec.method, cell.spec.ipc, cell.spec.regime): cell.measured.mean
        for cell in [*(cell for _, cell in tables.cells["main"]), *tables.soft]
        if cell.measured is not None
    }
    assert measured == {("frepo", 1, "stored"): 0.46, ("frepo", 1, "hard"): 0.3, ("dd", 10, "hard"): 0.36}
    asked = {(one.methods, one.protocol) for one in missing(tables, ALL, None).commands}
    assert asked == {(("frepo",), "dc-1000"), (("dd",), ""), (("frepo",), "frepo")}


def printed_rows(path: Path) -> set[tuple[str, str, str]]:
    """Dataset, ipc and first word of a method of every line of a file of reported figures."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (row["dataset"].lower(), row["ipc"], re.split("[_@]", row["method"].replace("-", ""))[0])
        for row in rows
        if row["ipc"] != "ipc" and not row["note"].startswith("suspect")
    }


def test_every_printed_row_is_shown_whether_its_method_is_here_or_not() -> None:
    tables = make_tables([], load_by_network(REPORTED_CSV), CellFilter(), soft=load_soft(REPORTED_CSV))
    cells = [*(cell for part in tables.cells.values() for _, cell in part), *tables.soft, *tables.elsewhere]
    shown = {
        (cell.spec.dataset, str(cell.spec.ipc or "all"), re.split("[_@]", cell.spec.method)[0])
        for cell in cells
        if cell.figure
    }
    assert printed_rows(REPORTED_CSV) == shown
    text = page(tables)
    for method in {key[0] for key in load_by_network(REPORTED_CSV)}:
        assert re.search(rf"^\|.*\b{re.escape(method)}\b", text, re.MULTILINE), method


def test_methods_that_are_not_here_say_so_and_are_left_out_of_what_is_missing(records: list[Record]) -> None:
    cell = main_cell(records, "nobody")
    assert (cell.state, cell.figure and cell.figure.printed) == ("not implemented here", "99.9")
    tables = make_tables(records, FIGURES, CellFilter(datasets=("cifar10", "mnist")))
    assert "nobody" not in page(tables).partition("### mnist")[2].partition("\n## ")[0], "no figure there"
    found = missing(tables, ALL, Evidence([], []))
    assert "nobody" not in {spec.method for one in found.commands for spec in one.cells}
    assert as_text(found, {}).splitlines()[-1] == "# not implemented here, and left out: nobody"


def test_every_cell_of_the_authors_table_has_its_figure() -> None:
    figures = load_by_network(REPORTED_CSV)
    own = {key[:3] for key, figure in figures.items() if figure.own and key[0] == "bacon"}
    assert len(own) == 17, "all datasets at all ipc but TinyImageNet at 50"
    assert ("bacon", "tinyimagenet", 50) not in own


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(runs=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=12))
def test_each_seed_counts_once_with_its_most_networks(make_record: Any, runs: list[tuple[int, int]]) -> None:
    made = [make_record(seed=seed, accuracies=[0.5] * networks) for seed, networks in runs]
    assert {r.trial.seed: len(r.accuracies) for r in best_by_seed(made)} == {
        seed: max(networks for other, networks in runs if other == seed) for seed, _ in runs
    }


def of(found: Tables, *names: str) -> Tables:
    return Tables({name: found.cells[name] if name in names else () for name in NAMES})


def evidence(make_record: Any, *others: Record) -> Evidence:
    """BACON and DM at cpu scale on a GPU with the FLOPs that their settings give, one step of BACON kept."""
    one = image_pass("cifar10", "ConvNetW32")
    assert one is not None
    dm = {"iterations": 100, "batch_real": 32}
    small = [
        on_gpu(
            make_record(
                method,
                10,
                dataset="cifar10-jpeg",
                dataset_source="folder",
                config=config,
                stored_images=100,
                decoded_images=100 * config.get("factor", 1) ** 2,
            ),
            flops=100 * step_flops(methods.steps_of(method, config), "cifar10", 10, one),
            steps=100,
        )
        for method, config in (("bacon", SMALL), ("dm", dm))
    ]
    sheet = StepSheet(
        GPU,
        None,
        2,
        "2.9",
        "",
        (MeasuredStep("bacon", "plain", 9.0, 1.0, 2.0), MeasuredStep("bacon", "fp32", 0.09, 1, 2)),
    )
    return Evidence([*small, *others], [sheet])


def test_what_is_missing_is_golden_byte_for_byte(records: list[Record], make_record: Any) -> None:
    found = missing(
        make_tables(records, FIGURES, CellFilter(datasets=("cifar10",))), ALL, evidence(make_record)
    )
    text = as_text(found, {"results": "my results"})
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / "paper_missing.txt").write_text(text, encoding="utf-8")
    assert text == (GOLDEN / "paper_missing.txt").read_text(encoding="utf-8")


def test_the_commands_fill_every_lacking_cell_once_and_no_other(records: list[Record]) -> None:
    tables = make_tables(records, FIGURES, CellFilter())
    here = [cell for name in NAMES for _, cell in tables.cells[name] if cell.spec.method != "nobody"]
    wanted = {cell.spec for cell in here if set(cell.lacking(ALL)) == set(SEEDS)}
    partial = {cell.spec for cell in here if 0 < len(cell.lacking(ALL)) < 5}
    commands = missing(tables, ALL, None).commands
    filled = [spec for one in commands for spec in one.cells]
    assert sorted(map(repr, filled)) == sorted(map(repr, wanted | partial))
    for one in commands:
        grid = {(m, ipc, network) for m in one.methods for ipc in one.ipcs for network in one.networks}
        assert grid == {(spec.method, spec.ipc, spec.arch) for spec in one.cells}


def test_one_command_asks_a_set_with_all_networks(make_record: Any) -> None:
    asked = CellFilter(methods=("bacon",), datasets=("cifar10",), ipcs=(10,))
    home = [paper_record(make_record, "bacon", seed=seed, accuracies=[0.6]) for seed in SEEDS]
    (cross,) = [
        one for one in missing(make_tables(home, FIGURES, asked), ALL, None).commands if one.table == "cross"
    ]
    assert cross.options()["eval_arch"] == "AlexNet,VGG11,ResNet18"
    assert "--arch" not in cross.line({})
    options = parse_options(cross.options())
    assert (options.arch, options.eval_arch) == (None, ("AlexNet", "VGG11", "ResNet18"))
    assert cross.trials == 15


def test_the_trials_of_a_printed_command_fill_the_cells(make_record: Any) -> None:
    from harness.core.data.catalog import DatasetSpec
    from harness.engine.plan import DatasetFacts, expand

    facts = DatasetFacts(DatasetSpec("cifar10", "cifar10"), (3, 32, 32), 10, 5000, 50_000)
    asked = CellFilter(methods=("bacon",), datasets=("cifar10",), ipcs=(10,))
    tables = make_tables([], FIGURES, asked)
    (cross,) = [one for one in missing(tables, ALL, None).commands if one.table == "cross"]
    trials = expand(parse_options(cross.options()), [facts]).trials
    done = [Record(id=t.id, status="done", trial=t, accuracies=[0.5] * 5) for t in trials]
    filled = missing(make_tables(done, FIGURES, asked), ALL, None).commands
    assert [one.table for one in filled if one.table == "cross"] == []
    assert next(one.table for one in filled) == "main"


def test_a_set_is_paid_once_whatever_networks_it_is_asked(make_record: Any) -> None:
    asked = CellFilter(methods=("bacon",), datasets=("cifar10",), ipcs=(10,))
    networks = ("AlexNet", "VGG11", "ResNet18")
    crossed = [Spec("bacon", "cifar10", 10, network) for network in networks]
    empty = missing(make_tables([], FIGURES, asked), ALL, evidence(make_record))
    assert empty.new_sets[Spec("bacon", "cifar10", 10)] == SEEDS
    assert [empty.new_sets[spec] for spec in crossed] == [()] * 3
    (cross,) = [one for one in empty.commands if one.table == "cross"]
    assert empty.total([cross]) == "GPU-hours unknown for the evaluation of 3 cells"
    alone = RecordIndex([])
    only = {"cross": [(s.label, alone.cell(s, FIGURES)) for s in crossed]}
    made = missing(Tables({name: only.get(name, ()) for name in NAMES}), ALL, evidence(make_record))
    hours = 5 * 0.09 * 20_000 / 3600
    assert made.total(made.commands) == f"about {hours:,.1f} GPU-hours, unknown for the evaluation of 3 cells"
    record = paper_record(make_record, "bacon", seed=3, eval_arch="VGG11", accuracies=[0.6])
    there = missing(make_tables([record], FIGURES, asked), ALL, None)
    assert there.new_sets[Spec("bacon", "cifar10", 10)] == (0, 1, 2, 4)


def test_the_printed_command_is_understood_by_run(records: list[Record]) -> None:
    commands = missing(make_tables(records, FIGURES, CellFilter()), ALL, None).commands
    (changed,) = [one for one in commands if one.settings == (("tv_weight", 0.4),)]
    line = shlex.split(changed.line({"slots": "2", "slurm": ["a=b", "exclusive"], "detach": True}))
    assert line[:4] == ["python", "-m", "harness", "run"]
    assert line[4:] == words(
        changed.options() | {"slots": "2", "slurm": ["a=b", "exclusive"], "detach": True}
    )
    assert line[-7:] == ["--slots", "2", "--slurm", "a=b", "--slurm", "exclusive", "--detach"]
    options = parse_options(changed.options())
    assert (options.scale, options.methods, options.set) == (
        "paper",
        ("bacon",),
        (("bacon", "tv_weight", "0.4"),),
    )


def test_a_complete_cell_needs_no_command(make_record: Any) -> None:
    done = [paper_record(make_record, "bacon", seed=seed, accuracies=[0.6]) for seed in SEEDS]
    cell = main_cell(done, "bacon")
    assert cell.lacking(ALL) == ()
    assert cell.lacking(Completeness((0, 7), 1)) == (7,)
    assert cell.lacking(Completeness((0, 7), 2)) == (0, 7), "one network is not two"
    assert "nothing is missing" in as_text(Missing((), {}), {})


def test_hours_by_a_kept_step_of_the_method_or_of_another(make_record: Any) -> None:
    found = evidence(make_record)
    bacon = found.hours(Spec("bacon", "cifar10", 10)).distillation
    assert bacon.hours == pytest.approx(0.09 * 20_000 / 3600)
    assert (bacon.source, bacon.bound) == (f"a step of bacon on {GPU}", False)
    larger = found.hours(Spec("bacon", "cifar100", 10)).distillation
    assert larger.hours is not None
    assert larger.hours > 5 * bacon.hours
    assert f"a step of bacon on {GPU}" == found.hours(Spec("dm", "cifar10", 10)).distillation.source


def test_hours_by_flops_from_another_scale_are_an_upper_bound(make_record: Any) -> None:
    found = evidence(make_record).hours(Spec("bacon", "cifar10", 10)).evaluation
    # 5 networks x 1001 epochs of 400 images, by the ratio to a trial of 3.5 s.
    wide = image_pass("cifar10", "ConvNet")
    assert wide is not None
    assert found.hours == pytest.approx(3.5 * 5 * 1001 * 400 * wide.train / 1.234e12 / 3600)
    assert found.bound
    assert "FLOPs ratio to cpu scale, cifar10-jpeg, ipc 10" in found.source


def test_hours_of_another_seed_go_before_all_else(make_record: Any) -> None:
    own = on_gpu(paper_record(make_record, "bacon"), seconds=7200.0)
    hours = evidence(make_record, own).hours(Spec("bacon", "cifar10", 10))
    assert (hours.distillation.hours, hours.evaluation.hours) == (2.0, pytest.approx(3.5 * 5 / 3 / 3600))
    assert hours.distillation.source == f"other seeds (1 record, {GPU})"


def test_hours_of_a_set_are_those_of_its_network_whichever_is_evaluated(make_record: Any) -> None:
    own = on_gpu(paper_record(make_record, "bacon"), seconds=7200.0)
    other = evidence(make_record, own).hours(Spec("bacon", "cifar10", 10, "VGG11"))
    assert (other.distillation.hours, other.evaluation.hours) == (2.0, None)
    asked = on_gpu(paper_record(make_record, "bacon", eval_arch="VGG11"), seconds=7200.0)
    found = evidence(make_record, asked)
    assert found.hours(Spec("bacon", "cifar10", 10, "VGG11")).evaluation.hours == pytest.approx(
        3.5 * 5 / 3 / 3600
    )
    assert found.hours(Spec("bacon", "cifar10", 10)).evaluation.bound, (
        "that of VGG11 says nothing about ConvNet"
    )


def test_hours_of_each_phase_are_of_the_machine_it_ran_on(make_record: Any) -> None:
    made = on_gpu(paper_record(make_record, "bacon"), seconds=7200.0)
    on_cpu = paper_record(make_record, "bacon").provenance
    asked = msgspec.structs.replace(made, distilled_in=made.provenance, provenance=on_cpu)
    hours = evidence(make_record, asked).hours(Spec("bacon", "cifar10", 10))
    assert hours.distillation.hours == 2.0
    assert hours.evaluation.bound, "an evaluation on a CPU says nothing of one on a GPU"
    turned = msgspec.structs.replace(made, distilled_in=on_cpu)
    hours = evidence(make_record, turned).hours(Spec("bacon", "cifar10", 10))
    assert "other seeds" not in hours.distillation.source
    assert hours.evaluation.source == f"other seeds (1 record, {GPU})"


def test_hours_of_a_set_with_other_settings_are_no_hours_of_the_cell(make_record: Any) -> None:
    hand = "published: cifar10 ipc 10; set by hand: iterations"
    other = on_gpu(paper_record(make_record, "bacon", settings_source=hand), seconds=7200.0)
    assert (
        "other seeds"
        not in evidence(make_record, other).hours(Spec("bacon", "cifar10", 10)).distillation.source
    )


def unknown(hours: TrialHours) -> tuple[bool, bool]:
    return hours.distillation.hours is None, hours.evaluation.hours is None


def test_hours_are_unknown_where_nothing_measured_says(make_record: Any) -> None:
    found = evidence(make_record)
    assert unknown(found.hours(Spec("tesla", "cifar10", 10))) == (True, True)
    assert unknown(found.hours(Spec("bacon", "cifar10", 10, "VGG11"))) == (False, True)
    assert unknown(found.hours(Spec("bacon", "tinyimagenet", 10))) == (False, True)
    assert unknown(Evidence([make_record("bacon", 10)], []).hours(Spec("bacon", "mnist", 10))) == (True, True)
    # A record whose counted FLOPs are not the formula's takes the formula away from the method.
    other = on_gpu(make_record("bacon", 10, config=SMALL), flops=1.0)
    assert unknown(evidence(make_record, other).hours(Spec("bacon", "svhn", 10))) == (True, False)


def test_the_formula_gives_the_flops_that_real_records_counted() -> None:
    from harness.engine.record_files import read_records

    real = read_records(ROOT / "results")
    found = Evidence(real, [])
    confirmed = {name for name in ("bacon", "idm", "dm", "dm+bacon", "dc", "mtt") if found._confirmed(name)}
    assert confirmed == {"bacon", "idm", "dm", "dm+bacon"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("ld", {"batch_real": 64, "batch_inner": 50, "validate_every": 0}),
        ("ld@rr", {"batch_real": 256, "batch_inner": 10, "validate_every": 0}),
        ("dd", {"batch_real": 64, "unrolled": 20}),
    ],
)
def test_methods_that_say_what_a_step_costs_are_right(method: str, changes: dict[str, Any]) -> None:
    from harness.core.context import Context
    from harness.core.data.toy import toy

    config = methods.resolve(method, "cifar10", 10, overrides={"iterations": 1, **changes}).config
    context = Context(arch="ConvNetW16")
    data = toy(10, (3, 32, 32), 40, test_per_class=1)
    methods.load(method).distill(data, 10, config=config, context=context)
    one = image_pass("cifar10", "ConvNetW16")
    assert one is not None
    expected = step_flops(methods.load(method).steps_of(config), "cifar10", 10, one)
    assert context.cost().flops == pytest.approx(expected, rel=TOLERANCE)


def test_groups_keep_settings_with_their_method() -> None:
    index = RecordIndex(())
    open_cells = [
        index.cell(Spec(method, "cifar10", ipc, settings=changes), FIGURES)
        for method, changes in (("bacon", (("tv_weight", 0.0),)), ("idm", ()), ("dm", ()))
        for ipc in (1, 10)
    ]
    found = group("terms", open_cells, Completeness((0,)))
    assert [(one.methods, one.ipcs, one.trials) for one in found] == [
        (("bacon",), (1, 10), 2),
        (("idm", "dm"), (1, 10), 4),
    ]


def test_the_command_prints_and_writes_the_page(
    records: list[Record], write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_records(*records)
    assert main(["paper", "--results", str(results)]) == 0
    printed = capsys.readouterr().out
    assert (results / "report" / "paper.md").read_text(encoding="utf-8") == printed
    assert "62.0 ± 0.9 (2×2)" in printed
    (results / "report" / "paper.md").unlink()
    assert main(["paper", "--results", str(results), "--dataset", "cifar10"]) == 0
    assert "### svhn" not in capsys.readouterr().out
    assert not (results / "report" / "paper.md").exists(), "a part of the page is not the page"


def test_json_holds_fractions_and_says_what_is_not_known(
    records: list[Record], write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_records(*records)
    assert main(["paper", "--results", str(results), "--json", "--methods", "bacon,idm", "--ipc", "10"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [*NAMES, "soft", "elsewhere"]
    (bacon,) = [c for c in found["main"] if (c["method"], c["dataset"]) == ("bacon", "cifar10")]
    assert bacon["measured"]["mean"] == pytest.approx(0.62)
    assert bacon["reported"]["mean"] == pytest.approx(0.6206)
    assert (bacon["measured"]["seeds"], bacon["reported"]["by_another_paper"], bacon["z"]) == (2, False, None)
    assert {cost["hardware"] for cost in found["cost"] if cost["state"] == "not run"} == {None}


def test_missing_as_json(
    records: list[Record], write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--missing", "--json", "--methods", "bacon", "--dataset", "svhn", "--device", "cuda"]
    assert main(["paper", "--results", str(write_records(*records)), *arguments]) == 0
    (only,) = json.loads(capsys.readouterr().out)["commands"]
    assert only["command"].endswith("--device cuda")
    assert [cell["ipc"] for cell in only["cells"]] == [1, 10, 50]
    assert only["trials"] == 15


def test_run_hands_the_commands_of_one_table_over_with_launch_options(
    write_records: Any, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []

    def pretend(options: Any, again: str, deadline: float | None) -> int:
        ran.append(options)
        assert (again, deadline) == ("the same", None)
        return len(ran) % 2

    monkeypatch.setattr("harness.commands.run.command", pretend)
    results = write_records(*records)
    typed = {
        "results": str(results),
        "device": "cuda",
        "slots": "3",
        "seeds": "2",
        "evals": "2",
        "ipc": ["10"],
    }
    assert command(PaperRequest(typed, run="lambda", again="the same")) == 1
    assert [(o.set, o.ipc, o.methods) for o in ran] == [
        ((("bacon", "tv_weight", str(value)),), (10,), ("bacon",)) for value in (0.0, 0.2, 0.4, 0.6, 1.0)
    ]
    assert {(o.scale, o.device, o.slots, o.seeds, o.results) for o in ran} == {
        ("paper", "cuda", 3, (0, 1), results)
    }


@pytest.mark.parametrize("status", [75, 130])
def test_a_run_that_ends_early_is_the_last_and_all_share_one_time(
    write_records: Any, records: list[Record], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    deadlines: list[float] = []

    def pretend(options: Any, again: str, deadline: float | None) -> int:
        deadlines.append(deadline)
        return status if len(deadlines) == 3 else 0

    monkeypatch.setattr("harness.commands.run.command", pretend)
    typed = {"results": str(write_records(*records)), "ipc": ["10"], "for_": "50m"}
    assert command(PaperRequest(typed, run="lambda")) == status
    assert len(deadlines) == 3
    assert len(set(deadlines)) == 1
    assert 0 < deadlines[0] - time.monotonic() <= 3000


@pytest.mark.parametrize("decided", ["--arch", "--eval-arch", "--protocol"])
def test_what_the_tables_decide_cannot_be_asked_for(decided: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper", "--missing", decided, "AlexNet"]) == USER_ERROR
    assert f"unknown option '{decided}'" in capsys.readouterr().err


def test_nothing_to_run_says_so(
    write_records: Any, make_record: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.commands.run.command", lambda *_: pytest.fail("nothing is to be run"))
    done = [
        paper_record(make_record, "bacon", ipc, dataset="svhn", dataset_source="svhn") for ipc in (1, 10, 50)
    ]
    typed = {
        "results": str(write_records(*done)),
        "seeds": "1",
        "evals": "3",
        "methods": ["bacon"],
        "dataset": ["svhn"],
    }
    assert command(PaperRequest(typed, run="main")) == 0
    assert "all of these cells of the table main are complete" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("request_", "error", "words_"),
    [
        (PaperRequest({}, run="mian"), UnknownNameError, "unknown table 'mian'; did you mean 'main'"),
        (PaperRequest({}, run="main", missing=True), UserError, "--run runs what --missing lists; drop one"),
        (PaperRequest({"results": NOWHERE}), UserError, f"no folder {re.escape(NOWHERE)}; pass the one"),
        (
            PaperRequest({"dataset": ["digits"]}),
            UnknownNameError,
            "unknown dataset of the paper's tables 'digits'",
        ),
        (PaperRequest({"ipc": ["7"]}), UserError, "--ipc 7: the paper's tables have 1, 10, 50"),
        (PaperRequest({"methods": ["becon"]}), UnknownNameError, "did you mean 'bacon'"),
    ],
)
def test_mistakes_are_one_line(
    request_: PaperRequest, error: type[Exception], words_: str, tmp_path: Path
) -> None:
    here = PaperRequest({"results": str(tmp_path)} | dict(request_.typed), request_.missing, request_.run)
    with pytest.raises(error) as raised:
        command(here)
    assert words_ in str(raised.value)


def test_a_page_that_cannot_be_written_is_a_user_error(
    write_records: Any, make_record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(paper, "write_atomically", refuse)
    with pytest.raises(UserError, match="Read-only file system; the tables above are complete"):
        command(PaperRequest({"results": str(write_records(make_record()))}))


def test_a_file_that_is_no_record_makes_the_status_one(
    write_records: Any, make_record: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    record = make_record()
    results = write_records(record, make_record("idm"))
    record.trial.record_path(results).write_text("{")
    assert command(PaperRequest({"results": str(results)})) == 1
    assert "left out" in capsys.readouterr().err
