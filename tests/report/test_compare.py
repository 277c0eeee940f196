"""`compare`: methods, folders, revisions; differences, costs, the verdict, the gate, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trials import put_record

from harness.commands.cli import main
from harness.core.errors import UserError
from harness.engine.records import Record
from harness.report.compare import Side, as_text, command, compare, extract, kind_of, ratios, verdict

GOLDEN = Path(__file__).parent / "golden" / "compare.md"


def seeds(make: Any, method: str, ipc: int, means: Sequence[float], **changes: Any) -> list[Record]:
    """A record for each mean, of a seed with two networks around it."""
    return [
        make(method, ipc, seed, accuracies=[mean - 0.001, mean + 0.001], **changes)
        for seed, mean in enumerate(means)
    ]


def costing(record: Record, device: str | None = None, **cost: Any) -> Record:
    """The record with other costs of distillation, and made elsewhere."""
    assert record.provenance is not None
    assert record.distill is not None
    place = {} if device is None else {"device": device}
    return msgspec.structs.replace(
        record,
        distill=msgspec.structs.replace(record.distill, **cost),
        provenance=msgspec.structs.replace(record.provenance, **place),
    )


@pytest.fixture
def both(make_record: Any) -> tuple[Side, Side]:
    """A better at ipc 1, worse at ipc 10, undecided at 50 and with one seed on another track."""
    a = [
        *seeds(make_record, "", 1, [0.50, 0.51, 0.52]),
        *seeds(make_record, "", 10, [0.60, 0.61, 0.62]),
        *seeds(make_record, "", 50, [0.70, 0.71, 0.72]),
        *seeds(make_record, "", 1, [0.30], dataset="digits"),
        *seeds(make_record, "", 1, [0.30], dataset="svhn"),
    ]
    b = [
        *seeds(make_record, "", 1, [0.47, 0.481, 0.49]),
        *seeds(make_record, "", 10, [0.65, 0.66, 0.671]),
        *seeds(make_record, "", 50, [0.73, 0.69, 0.72]),
        *seeds(make_record, "", 1, [0.29], dataset="digits"),
    ]
    slow = [costing(record, seconds=18.0, flops=1.2587e12, peak_device_bytes=2**20) for record in a]
    return Side("bacon", slow), Side("idm", b)


def test_the_text_is_the_golden_one_byte_for_byte(both: tuple[Side, Side]) -> None:
    assert as_text(compare(*both)) + "\n" == GOLDEN.read_text(encoding="utf-8")


def test_the_verdict_is_one_line(both: tuple[Side, Side]) -> None:
    assert verdict(compare(*both)) == (
        "bacon is better than idm in 1 of 4 cells, worse in 1, undecided in 2;"
        " median FLOPs 1.02x, median seconds 1.50x"
    )


def test_seconds_compare_on_the_same_hardware_only(make_record: Any) -> None:
    here, there = [costing(make_record(), seconds=6.0)], [costing(make_record(), "NVIDIA Test", seconds=3.0)]
    assert ratios(here, [make_record()]).seconds == 0.5
    assert ratios(here, there).seconds is None
    assert ratios(here, there).flops == 1.0
    asked = costing(make_record(), "NVIDIA Test")
    elsewhere = [msgspec.structs.replace(asked, distilled_in=make_record().provenance)]
    assert ratios(here, elsewhere).seconds == 0.5, "it is the distillation that is compared"
    nowhere = [msgspec.structs.replace(make_record(), provenance=None)]
    assert ratios(nowhere, nowhere).seconds is None, "two unknown places are not one place"


def test_a_cost_that_is_not_known_has_no_ratio(make_record: Any) -> None:
    known, unknown = make_record(), costing(make_record(), peak_host_bytes=None)
    assert ratios([known], [known]).host_bytes == 1.0
    assert ratios([known], [known]).device_bytes is None
    assert ratios([known, unknown], [known]).host_bytes is None
    free = costing(make_record(), flops=0.0)
    assert ratios([known], [free]).flops is None
    kernels = make_record("kip@vec")
    assert (ratios([kernels], [kernels]).flops, ratios([kernels], [kernels]).host_bytes) == (None, 1.0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=25)
@given(
    a=st.lists(st.integers(1, 999), min_size=2, max_size=4),
    b=st.lists(st.integers(1, 999), min_size=2, max_size=4),
)
def test_the_other_way_round_everything_turns(make_record: Any, a: list[int], b: list[int]) -> None:
    one = Side("a", [make_record("", 1, seed, accuracies=[v / 1000]) for seed, v in enumerate(a)])
    two = Side("b", [make_record("", 1, seed, accuracies=[v / 1000]) for seed, v in enumerate(b)])
    (there,), (back,) = compare(one, two).cells, compare(two, one).cells
    assert there.difference.mean == pytest.approx(-back.difference.mean)
    assert {there.verdict, back.verdict} in ({"better", "worse"}, {"undecided"})
    assert not (there.loses(0.5) and back.loses(0.5))
    if there.loses(0.5):
        assert there.verdict == "better", "what fails at some points is a clear difference"


def write(folder: Path, records: Sequence[Record]) -> Path:
    for record in records:
        put_record(record, folder)
    return folder


def test_two_methods_within_a_results_folder(
    make_record: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [*seeds(make_record, "bacon", 1, [0.5, 0.51]), *seeds(make_record, "dm+bacon", 1, [0.4, 0.41])]
    results = write(tmp_path / "r", made)
    assert main(["compare", "bacon", "dm+bacon", "--results", str(results)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("bacon is better than dm+bacon in 1 of 1 cell, worse in 0,")


def test_a_method_and_what_was_submitted_under_its_name(
    make_record: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [*seeds(make_record, "dm", 1, [0.5, 0.51]), *seeds(make_record, "dm@submitted", 1, [0.4, 0.41])]
    results = write(tmp_path / "r", made)
    assert main(["compare", "dm", "dm@submitted", "--results", str(results)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("dm is better than dm@submitted in 1 of 1 cell")
    assert kind_of("my-set@submitted") == "method"
    (tmp_path / "my-set@submitted").mkdir()
    assert kind_of(str(tmp_path / "my-set@submitted")) == "folder"


@pytest.fixture
def folders(make_record: Any, tmp_path: Path) -> Callable[[Sequence[float], Sequence[float]], list[str]]:
    """Two results folders with seeds of these means, as words of the command line."""

    def make(a: Sequence[float], b: Sequence[float]) -> list[str]:
        places = [
            write(tmp_path / name, seeds(make_record, "dm", 1, means))
            for name, means in zip("ab", (a, b), strict=True)
        ]
        return [str(place) for place in places]

    return make


@pytest.mark.parametrize(
    ("candidate", "points", "status"),
    [
        ([0.46, 0.47, 0.48], "1", 1),  # four points lost in every seed
        ([0.46, 0.47, 0.48], "4.5", 0),  # that is allowed
        ([0.54, 0.55, 0.56], "1", 0),  # a gain is no loss
        ([0.40, 0.55, 0.50], "1", 0),  # worse on average, but that may be chance
        ([0.46], "1", 0),  # one seed has no interval
    ],
)
def test_the_gate_fails_when_the_candidate_is_surely_worse(
    folders: Any, capsys: pytest.CaptureFixture[str], candidate: list[float], points: str, status: int
) -> None:
    baseline = [0.50, 0.51, 0.521][: len(candidate)]
    assert main(["compare", *folders(baseline, candidate), "--fail-below", points]) == status
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("failed: " if status else "passed: ")
    assert ("1 cell without an interval cannot fail" in last) == (len(candidate) == 1)


def test_json_says_the_same(folders: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = folders([0.50, 0.51, 0.52], [0.46, 0.471, 0.48])
    assert main(["compare", *words, "--json", "--fail-below", "1"]) == 1
    found = json.loads(capsys.readouterr().out)
    (cell,) = found["cells"]
    assert cell["difference"]["mean"] == pytest.approx((0.04 + 0.039 + 0.04) / 3)
    assert (cell["method"], cell["ipc"], cell["a_is"], cell["track"]["dataset"]) == (
        "dm",
        1,
        "better",
        "mnist",
    )
    assert cell["cost_ratios"]["flops"] == 1.0
    assert len(found["failed"]) == 1


def test_one_method_with_several_settings_meets_its_like(make_record: Any) -> None:
    plain = seeds(make_record, "dm", 1, [0.5, 0.51], config={"lr": 1})
    by_hand = seeds(
        make_record, "dm", 1, [0.9, 0.91], config={"lr": 2}, settings_source="published; set by hand: lr"
    )
    other = seeds(make_record, "dm", 1, [0.4, 0.41], config={"lr": 3})
    (same,) = compare(Side("a", [*plain, *by_hand]), Side("b", plain)).cells
    assert same.difference.mean == 0
    (own,) = compare(Side("a", [*plain, *by_hand]), Side("b", other)).cells
    assert own.difference.mean == pytest.approx(0.1)
    with pytest.raises(UserError, match=r"no finished cell in common .*ran different settings"):
        compare(Side("a", [*plain, *other]), Side("b", by_hand))


def test_cells_of_one_side_alone_are_counted(both: tuple[Side, Side]) -> None:
    assert "1 cell of bacon alone" in compare(*both).notes


@pytest.fixture
def repository(make_record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository whose results have got better since its first commit, as the current directory."""
    root = tmp_path / "repository"
    for message, means in (("first", [0.4, 0.41]), ("second", [0.5, 0.51])):
        shutil.rmtree(root / "results", ignore_errors=True)
        write(root / "results", seeds(make_record, "dm", 1, means))
        write(root / "kept" / "elsewhere", seeds(make_record, "dm", 1, [0.45, 0.46]))
        git = ["git", "-C", str(root), "-c", "user.name=T", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "init", "-q", str(root)], check=True)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", message], check=True)
    monkeypatch.chdir(root)
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("a", "b", "points"),
    [
        ("HEAD", "HEAD~1", 10.0),
        ("HEAD", "HEAD~1:results/", 10.0),
        ("HEAD~1", "results", -10.0),
        ("HEAD:kept/elsewhere", "HEAD", -5.0),
    ],
)
def test_two_revisions(
    repository: Path, capsys: pytest.CaptureFixture[str], a: str, b: str, points: float
) -> None:
    assert main(["compare", a, b, "--json"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert 100 * cell["difference"]["mean"] == pytest.approx(points)


def test_a_revision_is_found_from_a_folder_below(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository / "kept")
    assert len(list(extract("HEAD", repository / "out").rglob("*.json"))) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ("bacom", "idm", "unknown side 'bacom'; did you mean 'bacon'?"),
        ("HEAD~99", "HEAD", "nor is it a folder or a git revision"),
        ("HEAD:nowhere", "HEAD", "git revision HEAD has no folder nowhere; type HEAD:FOLDER"),
        ("idm", "HEAD", "'idm' is a method and 'HEAD' a revision; compare two methods, or two folders"),
        ("bacon", "bacon", "'bacon' compared with itself"),
        ("bacon", "idm", "no records of bacon under results"),
        ("kept", "results", "no readable records in kept; expected a results folder"),
        ("results/a.txt", "results", "results/a.txt is a file; expected a method, a results folder"),
    ],
)
def test_mistakes_are_one_line(
    repository: Path, capsys: pytest.CaptureFixture[str], a: str, b: str, words: str
) -> None:
    (repository / "results" / "a.txt").write_text("no folder")
    assert main(["compare", a, b]) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert len(errors.splitlines()) == 1


def test_an_option_reaches_no_git_command(repository: Path) -> None:
    with pytest.raises(UserError, match="unknown side"):
        kind_of("--output=written")
    assert not (repository / "written").exists()


def test_nothing_in_common(make_record: Any, tmp_path: Path) -> None:
    a, b = (write(tmp_path / name, [make_record(name)]) for name in ("dm", "idm"))
    with pytest.raises(
        UserError, match="have no finished cell in common; tracks, ipc and settings must be equal"
    ):
        command(str(a), str(b), tmp_path, as_json=False, fail_below=None)


@pytest.mark.parametrize("points", ["-1", "nan", "much", "101"])
def test_points_that_are_none(capsys: pytest.CaptureFixture[str], points: str) -> None:
    assert main(["compare", "bacon", "idm", f"--fail-below={points}"]) == 2
    assert f"{points}: expected percentage points from 0 to 100" in capsys.readouterr().err


def test_a_file_that_is_no_record_makes_the_status_one(
    folders: Any, make_record: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = folders([0.5, 0.51], [0.5, 0.51])
    broken = next(iter(sorted(Path(b).rglob("*.json"))))
    broken.write_text("{")
    assert main(["compare", a, b]) == 1
    assert "left out: " in capsys.readouterr().err


def test_a_method_goes_before_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dm").mkdir()
    monkeypatch.chdir(tmp_path)
    assert (kind_of("dm"), kind_of("./dm")) == ("method", "folder")


IMAGES = {"dataset_fingerprint": "0" * 16, "test_fingerprint": "1" * 16}
OTHERS = {"dataset_fingerprint": "2" * 16, "test_fingerprint": "1" * 16}


def test_sides_of_other_images_do_not_compare(make_record: Any, tmp_path: Path, capsys: Any) -> None:
    a = write(tmp_path / "a", [make_record("dm", 1, seed, accuracies=[0.9], **IMAGES) for seed in range(3)])
    b = write(tmp_path / "b", [make_record("dm", 1, seed, accuracies=[0.1], **OTHERS) for seed in range(3)])
    assert main(["compare", str(a), str(b), "--fail-below", "1"]) != 0
    said = capsys.readouterr().err
    assert f"A was measured on the images {'0' * 16} and {'1' * 16}, B on {'2' * 16} and {'1' * 16}" in said
    assert "do not compare" in said


def test_methods_of_other_images_do_not_compare(make_record: Any) -> None:
    one = Side("dm", [make_record("", 1, seed, accuracies=[0.9], **IMAGES) for seed in range(2)])
    two = Side("idm", [make_record("", 1, seed, accuracies=[0.1], **OTHERS) for seed in range(2)])
    with pytest.raises(UserError, match="do not compare"):
        compare(one, two)


def test_what_both_sides_made_from_the_same_images_is_compared(make_record: Any) -> None:
    mixed = [
        make_record("dm", 1, 0, accuracies=[0.9], **IMAGES),
        make_record("dm", 1, 1, accuracies=[0.1], **OTHERS),
    ]
    found = compare(Side("a", mixed), Side("b", [make_record("dm", 1, 0, accuracies=[0.8], **IMAGES)]))
    assert [cell.difference.mean for cell in found.cells] == [pytest.approx(0.1)]
    assert found.notes == ["1 cell of a alone"]
    unknown = compare(Side("a", mixed[:1]), Side("b", [make_record("dm", 1, 0, accuracies=[0.8])]))
    assert len(unknown.cells) == 1, "a record that does not know its images is not in dispute"
