"""`renew`: what is not of the present code is measured anew, and no finished record is ever lost."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import recorded
from trials import digits_trial, made_by, put_first, put_record

from harness.commands import renew
from harness.commands.cli import main
from harness.commands.existing import SetFilter, plan_of, wanted_from
from harness.commands.renew import adopt, command, hand_over
from harness.commands.run import Outcome
from harness.core.errors import UserError
from harness.engine import trial as engine
from harness.engine.claim import claimed
from harness.engine.options import Options
from harness.engine.plan import Plan
from harness.engine.provenance import Lineage
from harness.engine.record_files import find_set, read_records, rewrite, trial_record
from harness.engine.records import Distillation, Provenance, Record, Submitted, Trial
from harness.launch.base import Summary

MADE = made_by("2:000000000000")
RENEWED = Path(".work") / "renewed"
USUAL, OTHER = digits_trial(), digits_trial(eval_arch="ConvNetW8")  # two questions about one set


def finished(trial: Trial, results: Path, accuracy: float, **changes: Any) -> Record:
    """Write a finished record and a set that stands for its set."""
    record = Record(id=trial.id, status="done", trial=trial, accuracies=[accuracy], provenance=MADE)
    record = msgspec.structs.replace(record, images_digest=f"{accuracy:064}", **changes)
    record = put_record(record, results)
    trial.distillation.set_path(results).write_bytes(f"set of {accuracy}".encode())
    return record


def accuracies_under(folder: Path, results: Path) -> list[list[float]]:
    """Those of the trials' records in a folder, in the order of their paths."""
    records = [trial_record(path, results) for path in sorted(folder.rglob("*.json"))]
    return [record.accuracies for record in records if record is not None]


def failed(trial: Trial, results: Path) -> Record:
    """Write the record of a failure that is not to be tried again."""
    return put_record(Record(id=trial.id, status="failed", reason="x", trial=trial), results)


def current(trial: Trial) -> dict[str, Provenance]:
    """Provenances of a record of the present code."""
    from harness.engine.provenance import code_digest

    digests = code_digest(trial, "distill"), code_digest(trial, "evaluate")
    made, evaluated = (
        msgspec.structs.replace(MADE, code_digest=digest, finished_at="2026-02-02T00:00:00")
        for digest in digests
    )
    return {"distilled_in": made, "provenance": evaluated}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """The trials that were run; in place of distilling, each leaves a record of accuracy 0.9."""
    seen: list[Trial] = []

    def carry_out(options: Options, deadline: float, plan: Plan) -> Outcome:
        seen.extend(plan.trials)
        made = [finished(one, options.results, 0.9, **current(one)) for one in plan.trials]
        return Outcome(plan, Summary(made))

    monkeypatch.setattr(renew, "carry_out", carry_out)
    return seen


def test_what_is_of_older_code_is_renewed_and_kept(
    tmp_path: Path, ran: list[Trial], capsys: pytest.CaptureFixture[str]
) -> None:
    old, fresh = digits_trial(seed=0), digits_trial(seed=1)
    finished(old, tmp_path, 0.1)
    finished(fresh, tmp_path, 0.2, **current(fresh))
    assert command(Options(results=tmp_path), SetFilter({})) == 0
    assert ran == [old]
    assert sorted(record.accuracies for record in read_records(tmp_path)) == [[0.2], [0.9]]
    assert old.distillation.set_path(tmp_path).read_bytes() == b"set of 0.9"
    stamp = "20260101T0000010000"
    kept = tmp_path / "superseded" / f"{old.place}-{stamp}.json"
    assert accuracies_under(tmp_path / "superseded", tmp_path / "superseded") == [[0.1]]
    assert kept.is_file()
    gone = tmp_path / "superseded" / f"{old.distillation.place}-{stamp}.safetensors"
    assert gone.read_bytes() == b"set of 0.1"
    assert "1 record of older code" in capsys.readouterr().err
    assert command(Options(results=tmp_path), SetFilter({})) == 0
    assert ran == [old], "what is of the present code is left alone"
    assert "nothing to renew" in capsys.readouterr().err


def test_an_old_record_stands_until_its_successor_is_done(tmp_path: Path) -> None:
    trial, renewed = digits_trial(), tmp_path / ".work" / "renewed"
    finished(trial, tmp_path, 0.1)
    failed(trial, renewed)
    assert list(adopt(tmp_path)) == []
    assert recorded(trial, tmp_path).accuracies == [0.1]
    trial.record_path(renewed).unlink()
    finished(trial, renewed, 0.9)
    assert [record.accuracies for record in adopt(tmp_path)] == [[0.9]]
    assert recorded(trial, tmp_path).accuracies == [0.9]


def test_a_set_that_came_out_otherwise_waits_for_all_that_was_asked_of_the_old_one(tmp_path: Path) -> None:
    for trial in (USUAL, OTHER):
        finished(trial, tmp_path, 0.1)
    finished(USUAL, tmp_path / RENEWED, 0.9)
    failed(OTHER, tmp_path / RENEWED)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert list(adopt(tmp_path)) == []
    assert [path for path in before if not path.exists()] == []
    assert [record.accuracies for record in read_records(tmp_path)] == [[0.1], [0.1]]
    OTHER.record_path(tmp_path / RENEWED).unlink()
    finished(OTHER, tmp_path / RENEWED, 0.9)
    assert len(list(adopt(tmp_path))) == 2
    assert [record.accuracies for record in read_records(tmp_path)] == [[0.9], [0.9]]
    assert accuracies_under(tmp_path / "superseded", tmp_path / "superseded") == [[0.1], [0.1]]


def test_a_set_that_came_out_the_same_waits_for_nothing(tmp_path: Path) -> None:
    for trial in (USUAL, OTHER):
        finished(trial, tmp_path, 0.9)
    finished(USUAL, tmp_path / RENEWED, 0.9, **current(USUAL))
    assert [record.id for record in adopt(tmp_path)] == [USUAL.id]
    assert recorded(USUAL, tmp_path).provenance == current(USUAL)["provenance"]
    assert recorded(OTHER, tmp_path).provenance == MADE


def test_a_record_of_schema_1_stays_until_it_has_a_successor(tmp_path: Path) -> None:
    first = Record(id=USUAL.id, status="done", trial=USUAL, accuracies=[0.1], provenance=MADE)
    put_first(msgspec.structs.replace(first, images_digest=f"{0.9:064}"), tmp_path)
    (tmp_path / f"{USUAL.first_place}.safetensors").write_bytes(b"set of 0.9")
    finished(OTHER, tmp_path / RENEWED, 0.9)
    assert list(adopt(tmp_path)) == []
    assert recorded(USUAL, tmp_path).accuracies == [0.1]
    finished(USUAL, tmp_path / RENEWED, 0.9)
    assert len(list(adopt(tmp_path))) == 2
    assert recorded(USUAL, tmp_path).accuracies == [0.9]


def test_a_renewal_with_a_failure_says_what_stays_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for trial in (USUAL, OTHER):
        finished(trial, tmp_path, 0.1)
    answers = [failed, failed, lambda trial, results: finished(trial, results, 0.9, **current(trial))]

    def carry_out(options: Options, deadline: float, plan: Plan) -> Outcome:
        assert sorted(trial.id for trial in plan.trials) == sorted((USUAL.id, OTHER.id))
        answer = answers.pop(0)(OTHER, options.results)
        return Outcome(plan, Summary([finished(USUAL, options.results, 0.9, **current(USUAL)), answer]))

    monkeypatch.setattr(renew, "carry_out", carry_out)
    for _ in range(2):
        assert command(Options(results=tmp_path), SetFilter({})) == 1
        said = f"{USUAL.distillation.label}: the old set and its records stay"
        assert said in (printed := capsys.readouterr().err)
        assert OTHER.label in printed
        assert [record.accuracies for record in read_records(tmp_path)] == [[0.1], [0.1]]
    assert command(Options(results=tmp_path), SetFilter({})) == 0
    assert "stay" not in capsys.readouterr().err
    assert [record.accuracies for record in read_records(tmp_path)] == [[0.9], [0.9]]


def test_what_else_was_asked_of_a_set_is_asked_of_the_one_that_came_out_otherwise(
    tmp_path: Path, ran: list[Trial]
) -> None:
    finished(USUAL, tmp_path, 0.1, distilled_in=current(USUAL)["distilled_in"])
    finished(OTHER, tmp_path, 0.1, **current(OTHER))
    USUAL.distillation.set_path(tmp_path).unlink()
    assert command(Options(results=tmp_path), SetFilter({})) == 1
    assert ran == [USUAL], "of the present code is all but one evaluation"
    assert [record.accuracies for record in read_records(tmp_path)] == [[0.1], [0.1]]
    assert command(Options(results=tmp_path), SetFilter({})) == 0
    assert ran == [USUAL, USUAL, OTHER]
    assert [record.accuracies for record in read_records(tmp_path)] == [[0.9], [0.9]]


def test_no_superseded_record_takes_the_place_of_another(tmp_path: Path) -> None:
    trial = digits_trial()
    for accuracy in (0.1, 0.2, 0.3):
        finished(trial, tmp_path / ".work" / "renewed", accuracy)
        list(adopt(tmp_path))
    assert sorted(accuracies_under(tmp_path / "superseded", tmp_path / "superseded")) == [[0.1], [0.2]]
    assert recorded(trial, tmp_path).accuracies == [0.3]


def test_a_set_that_was_handed_over_leaves_no_copy(tmp_path: Path) -> None:
    finished(USUAL, tmp_path, 0.1, distilled_in=current(USUAL)["distilled_in"])
    hand_over([recorded(USUAL, tmp_path)], tmp_path)
    assert USUAL.distillation.set_path(tmp_path / RENEWED).read_bytes() == b"set of 0.1"
    finished(USUAL, tmp_path / RENEWED, 0.1, **current(USUAL))
    assert len(list(adopt(tmp_path))) == 1
    assert USUAL.distillation.set_path(tmp_path).read_bytes() == b"set of 0.1"
    assert find_set(USUAL.distillation, tmp_path) is not None
    assert [path for path in (tmp_path / RENEWED / "smoke").rglob("*") if path.is_file()] == []


def test_a_set_of_other_code_does_not_stand_for_one_of_the_present_code(tmp_path: Path) -> None:
    renewed = tmp_path / RENEWED
    for trial in (USUAL, OTHER):
        finished(trial, tmp_path, 0.1)
    finished(USUAL, renewed, 0.5)
    failed(OTHER, renewed)
    hand_over(read_records(tmp_path), tmp_path)
    assert find_set(USUAL.distillation, renewed) is None
    assert [path for path in (renewed / "smoke").rglob("*") if path.is_file()] == []
    assert accuracies_under(tmp_path / "superseded", tmp_path / "superseded") == [[0.5], []]


def test_an_evaluation_by_other_code_does_not_stand_for_one_by_the_present_code(tmp_path: Path) -> None:
    renewed = tmp_path / RENEWED
    for trial in (USUAL, OTHER):
        finished(trial, tmp_path, 0.1)
    finished(USUAL, renewed, 0.5, distilled_in=current(USUAL)["distilled_in"])
    finished(OTHER, renewed, 0.5, **current(OTHER))
    hand_over(read_records(tmp_path), tmp_path)
    assert [record.id for record in read_records(renewed)] == [OTHER.id]
    assert USUAL.distillation.set_path(renewed).read_bytes() == b"set of 0.5"


def test_of_two_commands_one_adopts_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(USUAL, tmp_path, 0.1)
    finished(USUAL, tmp_path / RENEWED, 0.9)

    def after_another(work: Trial | Distillation, results: Path) -> AbstractContextManager[None]:
        monkeypatch.setattr(renew, "claimed", claimed)
        assert len(list(adopt(tmp_path))) == 1
        return claimed(work, results)

    monkeypatch.setattr(renew, "claimed", after_another)
    assert list(adopt(tmp_path)) == []
    assert recorded(USUAL, tmp_path).accuracies == [0.9]
    assert accuracies_under(tmp_path / "superseded", tmp_path / "superseded") == [[0.1]]


def test_a_record_that_another_process_is_at_is_left_for_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(USUAL, tmp_path, 0.1)
    finished(USUAL, tmp_path / RENEWED, 0.9)
    for work in (USUAL, USUAL.distillation):
        with claimed(work, tmp_path):
            assert list(adopt(tmp_path)) == []
        (said,) = capsys.readouterr().err.splitlines()
        assert "is being run by another process" in said
        assert "the next `renew`" in said
        assert recorded(USUAL, tmp_path).accuracies == [0.1]
    assert len(list(adopt(tmp_path))) == 1


def test_superseded_records_are_in_no_table(tmp_path: Path) -> None:
    finished(digits_trial(), tmp_path, 0.1)
    renew.supersede(digits_trial(), tmp_path, tmp_path)
    assert read_records(tmp_path) == []


def test_only_what_is_wanted_is_renewed(tmp_path: Path, ran: list[Trial]) -> None:
    trials = [digits_trial(ipc=ipc, method=method) for ipc in (1, 2) for method in ("random", "herding")]
    for trial in trials:
        config = {} if trial.method == "random" else trial.config
        finished(msgspec.structs.replace(trial, config=config), tmp_path, 0.1)
    wanted = wanted_from({"methods": ["random"], "ipc": "2", "results": "elsewhere"})
    assert command(Options(results=tmp_path), wanted) == 0
    assert [(trial.method, trial.ipc) for trial in ran] == [("random", 2)]
    finished(digits_trial(ipc=3, method="herding", config=trials[1].config), tmp_path, 0.1)
    with pytest.raises(UserError, match=r"no finished record under .* fits; `status` lists"):
        command(Options(results=tmp_path), wanted_from({"methods": "random", "ipc": "3"}))
    with pytest.raises(UserError, match=r"unknown method among the records 'randm'; did you mean 'random'"):
        command(Options(results=tmp_path), wanted_from({"methods": "random,randm"}))


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
    assert command(Options(results=tmp_path), SetFilter({})) == 0
    assert ran == []
    assert "left out: 1 set from elsewhere; submit them again" in capsys.readouterr().err


@pytest.mark.slow
def test_renewing_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distilled: list[Distillation] = []

    def distil(made: Distillation, *given: Any) -> Any:
        distilled.append(made)
        return original(made, *given)

    original = engine.distil
    monkeypatch.setattr(engine, "distil", distil)
    results = ["--results", str(tmp_path), "--device", "cpu", "--launcher", "inline"]
    smoke = ["run", "--methods", "random", "--dataset", "digits", "--scale", "smoke"]
    assert main([*smoke, "--ipc", "1", "--seeds", "1", *results]) == 0
    (made,) = read_records(tmp_path)
    assert made.provenance is not None
    older = msgspec.structs.replace(made.provenance, code_digest="2:000000000000")
    path = made.trial.record_path(tmp_path)
    rewrite(msgspec.structs.replace(made, provenance=older), path)
    assert main(["renew", *results]) == 0
    (renewed,) = read_records(tmp_path)
    assert Lineage().state(renewed) == "current"
    assert renewed.images_digest == made.images_digest
    assert renewed.accuracies == made.accuracies
    assert renewed.distilled_in == made.distilled_in, "the set is of the present code: only asked again"
    assert len(distilled) == 1
    set_record = made.trial.distillation.record_path(tmp_path)
    content = json.loads(set_record.read_text())
    content["provenance"]["code_digest"] = "2:000000000000"
    set_record.write_text(json.dumps(content))
    assert main(["renew", *results]) == 0
    (again,) = read_records(tmp_path)
    assert len(distilled) == 2, "the set is of older code: distilled again"
    assert Lineage().state(again) == "current"
    assert (again.images_digest, again.accuracies) == (made.images_digest, made.accuracies)
    assert len(list((tmp_path / "superseded").rglob("*.json"))) == 3, "two evaluations, one distillation"
