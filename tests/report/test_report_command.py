"""`report`: what it prints, writes, refuses, and that a changed digit in BENCHMARKS.md is caught."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from trials import put_first

from harness.commands.cli import main
from harness.core.errors import UserError
from harness.engine.parts import SetSize
from harness.engine.protocol import PROTOCOLS
from harness.engine.provenance import CURRENT, OLDER, UNCOMMITTED, UNKNOWN, Code, Lineage
from harness.engine.record_files import read_records
from harness.engine.scales import SCALES
from harness.perf.steps import load_sheets
from harness.report import publish
from harness.report.benchmarks import page
from harness.report.fidelity import Fidelity, load_fidelity
from harness.report.filters import Filters
from harness.report.publish import command
from harness.report.reported import load_reported
from harness.report.standing import scored


def report(results: Path, **options: Any) -> int:
    return command(results, **({"check": False, "benchmarks": None, "as_json": False} | options))


def page_of(results: Path) -> str:
    records = read_records(results)
    tracks = scored(records, Lineage(results).states(records))
    return page(tracks, load_reported(), load_fidelity(), load_sheets())


@pytest.mark.slow
def test_prints_and_writes_the_tables(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_records(make_record("dm"), make_record("idm", scale="smoke"))
    assert report(results) == 0
    printed = capsys.readouterr().out
    assert "| dm " in printed
    assert "smoke scale" in printed
    assert (results / "report" / "tables.md").read_text(encoding="utf-8") == printed
    with (results / "report" / "records.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["dm", "idm"]
    assert json.loads(rows[0]["accuracies"]) == [0.80, 0.82, 0.81]
    assert json.loads(rows[0]["config"]) == {"lr_img": 1.0}
    with (results / "report" / "tables.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert [(cell["method"], cell["accuracy_mean"], cell["seeds"]) for cell in cells] == [
        ("dm", "0.81", "1"),
        ("idm", "0.81", "1"),
    ]
    assert "<td>dm" in (results / "report" / "tables.html").read_text(encoding="utf-8")
    assert r"\toprule" in (results / "report" / "tables.tex").read_text(encoding="utf-8")
    assert not (results.parent / "BENCHMARKS.md").exists(), "a scratch folder gets no page of its own"


def test_json_holds_the_flat_rows(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(write_records(make_record()), as_json=True) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["method"], row["n"], row["distill_peak_device_bytes"]) == ("dm", 3, None)


def test_no_records_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no records under .*; run `python -m harness run \.\.\.` first"):
        report(tmp_path)


def test_a_corrupt_record_costs_its_row_only(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = make_record("dm"), make_record("idm")
    results = write_records(good, bad)
    page_path = results.parent / "BENCHMARKS.md"
    page_path.write_text("as it was")
    bad.trial.record_path(results).write_text("{")
    assert report(results) == 1
    captured = capsys.readouterr()
    assert "| dm " in captured.out
    named, kept, _ = captured.err.splitlines()
    assert "is not a record of this harness" in named
    assert kept == "BENCHMARKS.md left alone: 1 file could not be read"
    assert page_path.read_text() == "as it was"


def test_only_corrupt_records(make_record: Any, write_records: Any) -> None:
    record = make_record()
    results = write_records(record)
    record.trial.record_path(results).write_text("{")
    with pytest.raises(UserError, match="no readable records"):
        report(results)


def test_a_page_beside_the_results_is_rewritten_and_checked(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_records(make_record("dm"), make_record("idm"))
    target = results.parent / "BENCHMARKS.md"
    target.touch()
    assert report(results) == 0
    assert target.read_text(encoding="utf-8") == page_of(results)
    assert report(results, check=True) == 0

    capsys.readouterr()
    text = target.read_text(encoding="utf-8")
    target.write_text(re.sub(r"81\.0", "81.1", text, count=1), encoding="utf-8")
    assert report(results, check=True) == 1
    difference = capsys.readouterr().err
    assert re.search(r"^-\| dm +\| \*\*81\.1", difference, re.MULTILINE)
    assert re.search(r"^\+\| dm +\| \*\*81\.0", difference, re.MULTILINE)
    assert "stale; run `python -m harness report`" in difference


def test_a_changed_line_end_is_stale(make_record: Any, write_records: Any) -> None:
    results = write_records(make_record())
    target = results.parent / "page.md"
    assert report(results, benchmarks=target) == 0
    target.write_bytes(target.read_bytes().replace(b"\n", b"\r\n"))
    assert report(results, benchmarks=target, check=True) == 1


def test_a_new_record_makes_the_page_stale(make_record: Any, write_records: Any) -> None:
    target = (results := write_records(make_record("dm"))).parent / "page.md"
    report(results, benchmarks=target)
    write_records(make_record("idm"))
    assert report(results, benchmarks=target, check=True) == 1


def test_check_writes_nothing(make_record: Any, write_records: Any) -> None:
    results = write_records(make_record())
    target = results.parent / "BENCHMARKS.md"
    target.write_text("old")
    assert report(results, check=True) == 1
    assert target.read_text() == "old"
    assert not (results / "report").exists()


def test_check_without_a_page_says_how_to_make_it(make_record: Any, write_records: Any) -> None:
    with pytest.raises(UserError, match=r"report --benchmarks .*BENCHMARKS\.md"):
        report(write_records(make_record()), check=True)


def test_a_folder_that_cannot_be_written_is_one_line_after_the_tables(
    make_record: Any,
    write_records: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publish, "write_atomically", full)
    with pytest.raises(UserError, match=r"cannot write .*tables\.md: No space left on device"):
        report(write_records(make_record()))
    assert "| dm " in capsys.readouterr().out


FIELD = [
    {"method": method, "ipc": ipc, "dataset": dataset, "dataset_source": dataset, "arch": arch}
    for method, ipc, dataset, arch in [
        ("dm", 1, "mnist", "ConvNetW32"),
        ("idm", 1, "mnist", "ConvNetW32"),
        ("dm", 10, "mnist", "ConvNetW32"),
        ("dm", 1, "svhn", "ConvNetW32"),
        ("dm", 1, "mnist", "VGG11"),
        ("whole", 1, "mnist", "ConvNetW32"),
    ]
] + [{"method": "dm", "scale": "smoke"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("filters", "left"),
    [
        (Filters(methods=("idm",)), ["idm mnist 1", "whole mnist -"]),
        (Filters(ipc=("10",)), ["dm mnist 10", "whole mnist -"]),
        (Filters(dataset=("svhn",)), ["dm svhn 1"]),
        (Filters(dataset=("svhn", "mnist"), arch=("VGG11",)), ["dm mnist 1"]),
        (Filters(scale=("smoke",)), ["dm mnist 1"]),
    ],
)
def test_filters_report_on_some_and_touch_no_page(
    make_record: Any, write_records: Any, filters: Filters, left: list[str]
) -> None:
    results = write_records(*(make_record(**facts) for facts in FIELD))
    target = results.parent / "BENCHMARKS.md"
    target.write_text("of all records")
    assert report(results, filters=filters) == 0
    with (results / "report" / "filtered" / "tables.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [f"{row['method']} {row['dataset']} {row['ipc'] or '-'}" for row in rows] == left
    assert not (results / "report" / "tables.md").exists()
    assert target.read_text() == "of all records"


@pytest.mark.parametrize(
    ("filters", "complaint"),
    [
        (Filters(methods=("idn",)), "unknown method among the records 'idn'; did you mean 'idm'?"),
        (Filters(ipc=("2",)), "unknown ipc among the records '2'; .*available: 1, 10"),
        (Filters(dataset=("svhn",), ipc=("10",)), "no record fits all of the filters together"),
        (Filters(methods=("idm",), arch=("VGG11",)), "no record fits all of the filters together"),
    ],
)
def test_filters_that_fit_nothing_are_refused(
    make_record: Any, write_records: Any, filters: Filters, complaint: str
) -> None:
    results = write_records(*(make_record(**facts) for facts in FIELD))
    with pytest.raises(UserError, match=complaint):
        report(results, filters=filters)


@pytest.mark.parametrize("option", [{"check": True}, {"benchmarks": Path("page.md")}])
def test_pages_are_not_filtered(make_record: Any, write_records: Any, option: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"BENCHMARKS\.md is about all records"):
        report(write_records(make_record()), filters=Filters(ipc=("1",)), **option)


def test_filters_are_typed_with_commas(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_records(*(make_record(**facts) for facts in FIELD))
    typed = ["report", "--results", str(results), "--methods", "dm, idm", "--ipc", "1", "--scale", "cpu"]
    assert main(typed) == 0
    captured = capsys.readouterr()
    assert "| idm " in captured.out
    assert "ipc 10" not in captured.out
    assert "filtered" in captured.err


@pytest.mark.slow
def test_a_readme_beside_the_page_shows_its_longest_table(
    make_record: Any, write_records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not that of `datm-cpu`, which comes first on the page."""
    results = write_records(make_record("dm"), make_record("idm"), make_record("pad", protocol="datm-cpu"))
    readme = results.parent / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    (results.parent / "BENCHMARKS.md").touch()
    assert report(results) == 0
    lines = readme.read_text(encoding="utf-8").splitlines()
    assert [lines[0], lines[-1]] == ["before", "after"]
    table = lines[2 : lines.index("")]
    assert [line.split()[1] for line in table[2:]] == ["dm", "idm", "whole"]
    assert "\n".join(table) in page_of(results)
    assert lines[len(table) + 3].startswith(
        "§ is measured by code that was never committed, or is not known."
    )
    assert "`python -m harness renew`" in lines[len(table) + 3]
    assert report(results, check=True) == 0

    readme.write_text(readme.read_text(encoding="utf-8").replace("81.0", "81.1"), encoding="utf-8")
    assert report(results, check=True) == 1
    assert "README.md is stale" in capsys.readouterr().err


@pytest.mark.slow
def test_a_readme_without_marks_is_left_alone(make_record: Any, write_records: Any) -> None:
    results = write_records(make_record())
    (results.parent / "BENCHMARKS.md").touch()
    (results.parent / "README.md").write_text("mine")
    assert report(results) == 0
    assert (results.parent / "README.md").read_text() == "mine"


def test_page_shows_leaderboard_scales_only(make_record: Any) -> None:
    text = page(
        scored([make_record("dm"), make_record("idm", scale="smoke"), make_record("bacon", scale="later")]),
        {},
        Fidelity(),
    )
    assert "| dm " in text
    assert "| idm " not in text
    assert "| bacon " not in text
    assert "\n1 record (1 done).\n" in text


def test_page_is_a_function_of_the_records(make_record: Any) -> None:
    records = [make_record("dm"), make_record("idm"), make_record("idm", scale="paper")]
    assert page(scored(records), {}, Fidelity()) == page(scored(records[::-1]), {}, Fidelity())


def test_page_takes_scales_and_protocols_from_the_code(make_record: Any) -> None:
    text = page(scored([make_record(protocol_version="0.9")]), {}, Fidelity())
    for scale in SCALES.values():
        assert (f"| {scale.name} " in text) == scale.leaderboard
        assert (scale.summary in text) == scale.leaderboard
    used = [PROTOCOLS[scale.protocol] for scale in SCALES.values() if scale.leaderboard]
    assert used
    for protocol in used:
        epochs = protocol.course(SetSize.of(classes=10, ipc=10)).passes
        assert f"{epochs} epochs of SGD " in text
        assert f"with learning rate {protocol.recipe.optimiser.lr:g}" in text
    assert "**dc-cpu 0.9**: not the version that this code runs" in text


def test_page_says_where_the_figures_come_from(make_record: Any) -> None:
    records = [make_record("dm"), make_record("idm"), make_record("idm", 10, status="oom", reason="killed")]
    text = page(scored(records), {}, Fidelity()).partition("## Where the figures come from")[2]
    assert "3 records (2 done, 1 oom)." in text
    cells = ["Some CPU @ 2.0 GHz with 1 thread", "2.9.0", "3.11.2", "0123456789", "2"]
    assert cells in [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_page_keeps_one_table_in_sight_for_each_track(make_record: Any) -> None:
    records = [
        make_record(name, ipc, seed, accuracies=[accuracy - seed / 100])
        for name, accuracy in (("dm", 0.5), ("idm", 0.6))
        for ipc in (1, 10)
        for seed in (0, 1)
    ]
    text = page(scored(records), {}, Fidelity())
    results = text.partition("## Results")[2].partition("\n## ")[0]
    shown = re.sub(r"<details>.*?</details>", "", results, flags=re.DOTALL)
    (header,) = [line for line in shown.splitlines() if line.startswith("| method")]
    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        *("method", "ipc 1", "ipc 1 rank", "ipc 10", "ipc 10 rank")
    ]
    assert "behind the best" in results
    assert "behind the best" not in shown
    assert "distillation (s)" in results
    assert "distillation (s)" not in shown


def test_methods_of_the_page_stand_by_accuracy_at_the_ipc_that_most_were_measured_at(
    make_record: Any,
) -> None:
    accuracies = {("dm", 1): 0.3, ("idm", 1): 0.9, ("mtt", 1): 0.5, ("dm", 10): 0.9, ("idm", 10): 0.1}
    records = [
        make_record(name, ipc, seed, accuracies=[mean])
        for (name, ipc), mean in accuracies.items()
        for seed in (0, 1)
    ]
    records += [
        make_record("cafe", 10, status="oom"),
        make_record("bacon", status="oom"),
        make_record("whole"),
    ]
    results = page(scored(records), {}, Fidelity()).partition("## Results")[2]
    named = [row.strip("| ").split()[0] for row in re.findall(r"^\| .*", results, re.MULTILINE)]
    assert named[:7] == ["method", "idm", "mtt", "dm", "bacon", "cafe", "whole"]


def test_what_is_folded_is_well_formed(make_record: Any) -> None:
    text = page(scored([make_record("dm", seed=seed) for seed in (0, 1)]), {}, load_fidelity(), load_sheets())
    lines = text.splitlines()
    opened = [k for k, line in enumerate(lines) if line == "<details>"]
    closed = [k for k, line in enumerate(lines) if line == "</details>"]
    assert len(opened) == len(closed) >= 7
    for first, last in zip(opened, closed, strict=True):
        assert first < last
        assert re.fullmatch("<summary>.+</summary>", lines[first + 1])
        # Without blank lines what stands between would be taken for HTML.
        assert [lines[first - 1], lines[first + 2], lines[last - 1]] == ["", "", ""]
    headings = [line for line in lines if line.startswith("## ")]
    assert headings[0] == "## Results"
    assert not any(line.startswith("## ") for a, b in zip(opened, closed, strict=True) for line in lines[a:b])


def test_the_page_says_of_which_code_its_records_are(make_record: Any) -> None:
    records = [make_record("dm"), make_record("idm"), make_record("bacon")]
    states = dict(zip((record.id for record in records), (CURRENT, OLDER, UNCOMMITTED), strict=True))
    text = page(scored(records, states), {}, Fidelity())
    rows = [line for line in text.splitlines() if line.startswith("| ") and "(1×" in line]
    marks = {line.split()[1]: line.rstrip("| ")[-1] for line in rows}
    assert marks == {"bacon": "§", "dm": ")", "idm": "‡"}
    assert "‡ is measured by older code" in text
    assert "§ is measured by code that was never committed" in text
    assert "`python -m harness renew` measures such cells anew" in text
    assert "1 are of the present code, 1 of older code" in text
    plain = page(scored(records, dict.fromkeys(states, CURRENT)), {}, Fidelity())
    assert "‡" not in plain
    assert "§" not in plain


@pytest.mark.slow
def test_digests_of_older_records_are_kept_for_checkouts_without_history(
    make_record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    record = put_first(make_record("dm"), results)
    with monkeypatch.context() as patch:
        patch.setattr(Code, "at", classmethod(lambda cls, *_: Code.here()))
        assert Lineage(results).state(record) == CURRENT
        assert report(results) == 0
    kept = msgspec.json.decode((results / "digests.json").read_bytes())
    assert kept == {f"{record.id} abcdef012345": Code.here().digest(record.trial)}
    monkeypatch.setattr(Code, "at", classmethod(lambda cls, *_: None))
    assert Lineage().state(record) == UNKNOWN
    assert Lineage(results).state(record) == CURRENT
    (results / "digests.json").write_text("{")
    with pytest.raises(UserError, match=r"digests\.json .*; delete it"):
        Lineage(results)


def test_page_without_records_says_so() -> None:
    assert "No records yet." in page([], {}, Fidelity())
