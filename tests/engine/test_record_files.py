"""Files of records: schema 1 is read for ever, sets and evaluations find one another, nothing is guessed."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from trials import digits_trial, put_record

from harness.core.errors import UserError
from harness.engine.record_files import (
    collect,
    existing_record,
    find_set,
    found_sets,
    record_bytes,
    record_files,
    rewrite,
    trial_record,
    write_distillation,
    write_record,
)
from harness.engine.records import DistillationRecord, FirstRecord, Record, trial_of

SCHEMA_1 = sorted((Path(__file__).parent / "schema1").glob("*.json"))


def first_record(path: Path) -> FirstRecord:
    return msgspec.json.decode(path.read_bytes(), type=FirstRecord)


@pytest.mark.parametrize("kept", SCHEMA_1, ids=lambda path: path.stem)
def test_records_of_schema_1_are_read_for_ever(kept: Path, tmp_path: Path) -> None:
    first = first_record(kept)
    place = tmp_path / f"{first.trial.first_place}.json"
    place.parent.mkdir(parents=True)
    shutil.copyfile(kept, place)
    record = existing_record(first.trial, tmp_path)
    assert record is not None
    assert all(getattr(record, name) == getattr(first, name) for name in FirstRecord.__struct_fields__)
    assert (record.regime, record.label_kind, record.augmentation) == (None, None, None), "not recorded"
    assert record.trial.id == record.id == kept_id(kept)
    assert collect(tmp_path).records == [record]


def kept_id(path: Path) -> str:
    """The id as it stands in the file."""
    return str(msgspec.json.decode(path.read_bytes())["id"])


@pytest.mark.parametrize("kept", SCHEMA_1, ids=lambda path: path.stem)
def test_rewriting_keeps_the_schema(kept: Path, tmp_path: Path) -> None:
    first = first_record(kept)
    path = tmp_path / f"{first.trial.first_place}.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(record_bytes(first))
    record = trial_record(path, tmp_path)
    assert record is not None
    rewrite(record, path)
    assert first_record(path) == first


def test_a_set_of_schema_1_counts_while_it_is_there(tmp_path: Path) -> None:
    first = first_record(SCHEMA_1[0])
    path = tmp_path / f"{first.trial.first_place}.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(record_bytes(first))
    assert find_set(first.trial.distillation, tmp_path) is None
    path.with_suffix(".safetensors").touch()
    found = find_set(first.trial.distillation, tmp_path)
    assert found is not None
    assert (found.place, found.record) == (first.trial.first_place, first)
    assert found_sets(tmp_path) == [(first.trial.distillation, found)]


def done(accuracy: float, digest: str = "1" * 64, **asked: object) -> Record:
    trial = digits_trial()
    usual = {"protocol": trial.protocol, "protocol_version": trial.protocol_version, "evals": trial.evals}
    trial = trial_of(trial.distillation, **(usual | asked))
    return Record(id=trial.id, status="done", trial=trial, accuracies=[accuracy], images_digest=digest)


def test_evaluations_of_a_set_lie_beside_it(tmp_path: Path) -> None:
    one, two = put_record(done(0.5), tmp_path), put_record(done(0.6, eval_arch="MLP"), tmp_path)
    assert one.set_place == two.set_place == one.trial.distillation.place
    assert len(list(record_files(tmp_path))) == 3
    assert collect(tmp_path).records == sorted((one, two), key=lambda record: record.trial.place)
    assert {path.parent for path in record_files(tmp_path)} == {tmp_path / "smoke/digits/random/ipc1"}


def test_a_finished_record_is_not_replaced(tmp_path: Path) -> None:
    record = put_record(done(0.5), tmp_path)
    write_record(msgspec.structs.replace(record, accuracies=[0.9]), tmp_path)
    assert existing_record(record.trial, tmp_path) == record


def test_two_sets_of_one_distillation_are_refused(tmp_path: Path) -> None:
    record = put_record(done(0.5), tmp_path)
    found = find_set(record.trial.distillation, tmp_path)
    assert found is not None
    assert isinstance(found.record, DistillationRecord)
    with pytest.raises(UserError, match="was distilled with other bytes before"):
        write_distillation(msgspec.structs.replace(found.record, images_digest="2" * 64), tmp_path)


def test_an_evaluation_of_another_set_is_in_no_table(tmp_path: Path) -> None:
    record = put_record(done(0.5), tmp_path)
    path = record.trial.record_path(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"1" * 64, b"2" * 64))
    records, (problem,) = collect(tmp_path)
    assert records == []
    assert "is about another set" in problem
    assert "\n" not in problem


def test_without_the_record_of_its_set_an_evaluation_says_what_it_knows(tmp_path: Path) -> None:
    record = put_record(done(0.5), tmp_path)
    record.trial.distillation.record_path(tmp_path).unlink()
    (left,) = collect(tmp_path).records
    assert (left.accuracies, left.distill, left.stored_images, left.factor) == ([0.5], None, None, None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is not a record"),
        (b'{"schema": 3, "id": "x"}', "record schema 3, this version reads up to 2"),
        (b'{"schema": 2, "kind": "poem", "id": "x"}', "of kind poem"),
        (b'{"schema": 2, "kind": "evaluation", "id": "x", "extra": 1}', "is not a record"),
    ],
)
def test_what_is_no_record_is_named_in_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    path = digits_trial().record_path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        existing_record(digits_trial(), tmp_path)
    assert len(collect(tmp_path).problems) == 1


def test_a_record_that_was_edited_does_not_pass(tmp_path: Path) -> None:
    record = put_record(done(0.5), tmp_path)
    path = record.trial.record_path(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 7'))
    with pytest.raises(UserError, match="does not match its own id"):
        trial_record(path, tmp_path)
