"""`renew`: what is not of the present code is measured anew, and no finished record is ever lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from trials import digits_trial, made_by

from harness.commands import renew
from harness.commands.cli import main
from harness.commands.renew import RecordFilter, adopt, command, plan_of, wanted_from
from harness.commands.run import Outcome
from harness.core.errors import UserError
from harness.engine.options import Options
from harness.engine.plan import Plan
from harness.engine.provenance import Lineage
from harness.engine.record_files import read_record, record_files, write_record
from harness.engine.records import Provenance, Record, Submitted, Trial
from harness.launch.base import Summary

MADE = made_by("2:000000000000")


def finished(trial: Trial, results: Path, accuracy: float, **changes: Any) -> Record:
    """Write a finished record and a set that stands for its set."""
    record = Record(id=trial.id, status="done", trial=trial, accuracies=[accuracy], provenance=MADE)
    record = msgspec.structs.replace(record, **changes)
    write_record(record, results)
    trial.distilled_path(results).write_bytes(f"set of {accuracy}".encode())
    return record


def current(trial: Trial) -> Provenance:
    """Provenance of a record of the present code."""
    from harness.engine.provenance import code_digest

    return msgspec.structs.replace(MADE, code_digest=code_digest(trial), finished_at="2026-02-02T00:00:00")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """The trials that were run; in place of distilling, each leaves a record of accuracy 0.9."""
    seen: list[Trial] = []

    def carry_out(options: Options, deadline: float, plan: Plan) -> Outcome:
        seen.extend(plan.trials)
        made = [finished(one, options.results, 0.9, provenance=current(one)) for one in plan.trials]
        return Outcome(plan, Summary(made))

    monkeypatch.setattr(renew, "carry_out", carry_out)
    return seen


def test_what_is_of_older_code_is_renewed_and_kept(
    tmp_path: Path, ran: list[Trial], capsys: pytest.CaptureFixture[str]
) -> None:
    old, fresh = digits_trial(seed=0), digits_trial(seed=1)
    finished(old, tmp_path, 0.1)
    finished(fresh, tmp_path, 0.2, provenance=current(fresh))
    assert command(Options(results=tmp_path), RecordFilter({})) == 0
    assert ran == [old]
    assert [read_record(path).accuracies for path in record_files(tmp_path)] == [[0.9], [0.2]]
    assert old.distilled_path(tmp_path).read_bytes() == b"set of 0.9"
    kept = tmp_path / "superseded" / f"{old.place}-20260101T0000010000.json"
    assert read_record(kept).accuracies == [0.1]
    assert kept.with_suffix(".safetensors").read_bytes() == b"set of 0.1"
    assert "1 record of older code" in capsys.readouterr().err
    assert command(Options(results=tmp_path), RecordFilter({})) == 0
    assert ran == [old], "what is of the present code is left alone"
    assert "nothing to renew" in capsys.readouterr().err


def test_an_old_record_stands_until_its_successor_is_done(tmp_path: Path) -> None:
    trial, renewed = digits_trial(), tmp_path / ".work" / "renewed"
    finished(trial, tmp_path, 0.1)
    write_record(Record(id=trial.id, status="failed", reason="x", trial=trial), renewed)
    assert list(adopt(tmp_path)) == []
    assert read_record(trial.record_path(tmp_path)).accuracies == [0.1]
    trial.record_path(renewed).unlink()
    finished(trial, renewed, 0.9)
    assert [record.accuracies for record in adopt(tmp_path)] == [[0.9]]
    assert read_record(trial.record_path(tmp_path)).accuracies == [0.9]


def test_no_superseded_record_takes_the_place_of_another(tmp_path: Path) -> None:
    trial = digits_trial()
    for accuracy in (0.1, 0.2, 0.3):
        finished(trial, tmp_path / ".work" / "renewed", accuracy)
        list(adopt(tmp_path))
    kept = sorted((tmp_path / "superseded").rglob("*.json"))
    assert sorted(read_record(path).accuracies[0] for path in kept) == [0.1, 0.2]
    assert read_record(trial.record_path(tmp_path)).accuracies == [0.3]


def test_superseded_records_are_in_no_table(tmp_path: Path) -> None:
    finished(digits_trial(), tmp_path, 0.1)
    renew.supersede(digits_trial(), tmp_path)
    assert list(record_files(tmp_path)) == []


def test_only_what_is_wanted_is_renewed(tmp_path: Path, ran: list[Trial]) -> None:
    trials = [digits_trial(ipc=ipc, method=method) for ipc in (1, 2) for method in ("random", "herding")]
    for trial in trials:
        config = {} if trial.method == "random" else trial.config
        finished(msgspec.structs.replace(trial, config=config), tmp_path, 0.1)
    wanted = wanted_from({"methods": ["random"], "ipc": "2,3", "results": "elsewhere"})
    assert command(Options(results=tmp_path), wanted) == 0
    assert [(trial.method, trial.ipc) for trial in ran] == [("random", 2)]
    with pytest.raises(UserError, match=r"no finished record under .* fits; `status` lists"):
        command(Options(results=tmp_path), wanted_from({"methods": "dm"}))


def test_what_the_present_code_or_data_cannot_repeat_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = digits_trial(config={"strength": 1})
    assert plan_of([digits_trial(), gone], Options(results=tmp_path), {}).trials == (digits_trial(),)
    assert "left out: random · digits · ipc 1 · seed 0: unknown setting of random" in capsys.readouterr().err


def test_images_that_have_changed_are_no_renewal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "mine" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "mine" / split / name / "0.png")
    trial = digits_trial(dataset="mine", dataset_source="folder", listing="0" * 16)
    folders = wanted_from({"dataset": f"folder:{tmp_path / 'mine'}"}).folders
    assert folders == {"mine": f"folder:{tmp_path / 'mine'}"}
    assert plan_of([trial], Options(results=tmp_path), folders).trials == ()
    assert "their images were others than those that are now in" in capsys.readouterr().err


def test_sets_from_elsewhere_are_submitted_again(
    tmp_path: Path, ran: list[Trial], capsys: pytest.CaptureFixture[str]
) -> None:
    handed_in = Submitted(claimed_accuracy=None, file_digest="", importer="own")
    finished(digits_trial(method="mine@submitted"), tmp_path, 0.1, submission=handed_in)
    assert command(Options(results=tmp_path), RecordFilter({})) == 0
    assert ran == []
    assert "left out: 1 set from elsewhere; submit them again" in capsys.readouterr().err


@pytest.mark.slow
def test_renewing_from_the_command_line(tmp_path: Path) -> None:
    results = ["--results", str(tmp_path), "--device", "cpu"]
    smoke = ["run", "--methods", "random", "--dataset", "digits", "--scale", "smoke"]
    assert main([*smoke, "--ipc", "1", "--seeds", "1", *results]) == 0
    (path,) = record_files(tmp_path)
    made = read_record(path)
    assert made.provenance is not None
    older = msgspec.structs.replace(made.provenance, code_digest="2:000000000000")
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(made, provenance=older)))
    assert main(["renew", *results]) == 0
    renewed = read_record(path)
    assert Lineage().state(renewed) == "current"
    assert renewed.images_digest == made.images_digest
    assert renewed.accuracies == made.accuracies
    assert len(list((tmp_path / "superseded").rglob("*.safetensors"))) == 1
