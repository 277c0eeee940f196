"""Status: counts, stale code, trials under way, and files that are no records."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from trials import digits_trial, made_by, put_record

from harness.commands.status import command, in_progress, summarise
from harness.core.errors import UserError
from harness.engine.provenance import Code, Part
from harness.engine.records import Record, Status, Trial
from harness.launch.sweep import open_sweep

PROVENANCE = made_by("")

PARTS: tuple[Part, ...] = ("whole", "distill", "evaluate")


def record(method: str = "dm", seed: int = 0, status: Status = "done", digest: str | None = None) -> Record:
    """A record of that trial, by today's code unless another digest is given."""
    trial = Trial(
        method=method,
        dataset="digits",
        dataset_source="digits",
        ipc=1,
        seed=seed,
        scale="smoke",
        arch="ConvNetW16",
        protocol="dc-smoke",
        protocol_version="1.0",
        evals=1,
        config={},
    )
    here = Code.here()
    whole, made, evaluated = (
        msgspec.structs.replace(
            PROVENANCE, code_digest=here.digest(trial, part) if digest is None else digest
        )
        for part in PARTS
    )
    circumstances = (
        {"provenance": evaluated, "distilled_in": made} if status == "done" else {"provenance": whole}
    )
    return Record(id=trial.id, status=status, trial=trial, **circumstances)


def progress(results: Path, trial_id: str, content: bytes) -> None:
    """What a worker leaves of its progress."""
    folder = results / ".work" / trial_id
    folder.mkdir(parents=True)
    (folder / "progress.json").write_bytes(content)


@pytest.mark.slow
def test_records_are_counted_by_method_and_status() -> None:
    rows = summarise([record(seed=0), record(seed=1, status="oom"), record("random"), record("random", 1)])
    assert [(row.method, row.counts) for row in rows] == [
        ("dm", {"done": 1, "oom": 1}),
        ("random", {"done": 2}),
    ]
    assert [row.stale for row in rows] == [0, 0]


@pytest.mark.slow
def test_records_of_older_code_are_counted_apart() -> None:
    rows = summarise([record(seed=0), record(seed=1, digest="2:23456789ab"), record(seed=2, digest="01ab")])
    assert [row.stale for row in rows] == [2]
    assert [row.code for row in rows] == [{"code not known": 1, "current": 1, "older code": 1}]


def test_trials_under_way_are_those_without_a_record(tmp_path: Path) -> None:
    line = b'{"phase": "distill", "step": 12, "total": 300, "loss": 0.5, "host_bytes": 1}'
    progress(tmp_path, "aaaaaaaaaa", line)
    progress(tmp_path, "bbbbbbbbbb", line)
    progress(tmp_path, "cccccccccc", b"{half of")
    (found,) = in_progress(tmp_path, {"bbbbbbbbbb"})
    assert (found.id, found.phase, found.step, found.total) == ("aaaaaaaaaa", "distill", 12, 300)
    assert 0 <= found.seconds_ago < 60


@pytest.mark.slow
def test_the_table_is_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_record(record(), tmp_path)
    put_record(record(seed=1, status="failed", digest="2:old"), tmp_path)
    progress(tmp_path, "aaaaaaaaaa", b'{"phase": "distill", "step": 12, "total": 300, "label": "dm"}')
    assert command(tmp_path, as_json=False) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path}: 2 records, 1 done, 1 failed; 1 unfinished" in printed
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()]
    assert ["scale", "dataset", "method", "done", "failed", "older code"] in rows
    assert ["smoke", "digits", "dm", "1", "1", "1"] in rows
    assert "older code: code that a trial reaches has changed since, or is another" in printed
    assert f"the old records are kept: python -m harness renew --results {tmp_path}" in printed
    assert "aaaaaaaaaa  dm: distill 12 of 300, last sign of life" in printed


@pytest.mark.slow
def test_json_holds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_record(record(), tmp_path)
    assert command(tmp_path, as_json=True) == 0
    content = msgspec.json.decode(capsys.readouterr().out)
    assert content["rows"] == [
        {
            "scale": "smoke",
            "dataset": "digits",
            "method": "dm",
            "counts": {"done": 1},
            "stale": 0,
            "code": {"current": 1},
        }
    ]
    assert content["unfinished"] == content["unreadable"] == []


@pytest.mark.slow
def test_each_file_that_is_no_record_is_named_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = put_record(record(), tmp_path).trial.record_path(tmp_path)
    corrupt, foreign = path.with_name("corrupt.json"), path.with_name("foreign.json")
    corrupt.write_bytes(path.read_bytes()[:100])
    foreign.write_text('{"name": "something else"}')
    assert command(tmp_path, as_json=False) == 1
    printed = capsys.readouterr()
    assert "1 record, 1 done" in printed.out
    lines = printed.err.splitlines()
    assert len(lines) == 2
    assert str(corrupt) in lines[0]
    assert str(foreign) in lines[1]


def test_no_folder_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results folder"):
        command(tmp_path / "nowhere", as_json=False)


def test_watching_ends_when_no_sweep_is_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = [digits_trial(seed=seed) for seed in range(2)]
    open_sweep(trials, tmp_path, "local")
    slept: list[float] = []

    def work(seconds: float) -> None:
        slept.append(seconds)
        trial = trials[len(slept) - 1]
        put_record(Record(id=trial.id, status="done", trial=trial, accuracies=[0.5]), tmp_path)

    monkeypatch.setattr("harness.commands.status.time.sleep", work)
    assert command(tmp_path, as_json=False, watch=3.0) == 0
    assert slept == [3.0, 3.0]
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("sweep ")][-1].endswith(
        ": 1 done, 1 waiting"
    )
    assert "2 records, 2 done; 0 unfinished" in printed
    with pytest.raises(UserError, match="--watch is for people"):
        command(tmp_path, as_json=True, watch=3.0)
