"""What is read of records is what their files hold, whatever lies in the cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from trials import digits_trial, dm_trial, made_by, put_first, put_record

from harness.core.clock import Cost
from harness.engine import cache_file, record_files
from harness.engine.record_files import CACHE_NAME, Collection, collect
from harness.engine.records import WORK_FOLDER, FirstRecord, Record, Submitted, TriedRate
from methods.source import SettingsSource

SCHEMA_1 = sorted((Path(__file__).parent / "schema1").glob("*.json"))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not lie for two seconds before they are relied on."""
    monkeypatch.setattr(cache_file, "SETTLED_NS", 0)


def done(accuracy: float = 0.5, seed: int = 0, **facts: object) -> Record:
    trial = digits_trial(seed=seed, settings_from=SettingsSource(kind="own"))
    record = Record(id=trial.id, status="done", trial=trial, accuracies=[accuracy], images_digest="1" * 64)
    return msgspec.structs.replace(record, **facts)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Records of all forms, and files that are none."""
    cost = Cost(
        seconds=2.0,
        warmup_seconds=0.1,
        steps=3,
        flops=7,
        images_forwarded=5,
        peak_host_bytes=None,
        peak_device_bytes=None,
    )
    put_record(done(distill=cost, evaluate=cost, provenance=made_by("2:1"), factor=2), tmp_path)
    put_record(done(0.25, 1, tried_rates=[TriedRate(0.1, None)], calibration_errors=[0.0]), tmp_path)
    claim = Submitted(claimed_accuracy=1, file_digest="2" * 64, importer="ours", findings=["error: a: b"])
    put_record(done(0.75, 2, submission=claim), tmp_path)
    failed = dm_trial(iterations=3)
    put_record(Record(id=failed.id, status="failed", reason="it broke", trial=failed), tmp_path)
    put_first(done(0.125, 3), tmp_path)
    for path in SCHEMA_1:
        first = msgspec.json.decode(path.read_bytes(), type=FirstRecord)
        place = tmp_path / f"{first.trial.first_place}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    put_record(done(0.5, 4), tmp_path).trial.distillation.record_path(tmp_path).unlink()
    other = put_record(done(0.5, 5), tmp_path).trial.record_path(tmp_path)
    other.write_bytes(other.read_bytes().replace(b"1" * 64, b"3" * 64))
    folder = tmp_path / "smoke" / "digits" / "none" / "ipc1"
    (folder / "folder.json").mkdir(parents=True)
    (folder / "broken.json").write_text("{")
    (folder / "gone.json").symlink_to("nowhere")
    (folder / ".hidden.json").write_text("{")
    (tmp_path / "file").write_text("where there may be a folder")
    return tmp_path


def strictly(results: Path) -> Collection:
    return collect(results, cached=False)


def cache_of(results: Path) -> Path:
    return results / WORK_FOLDER / CACHE_NAME


def read_again(results: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that a further reading reads, which must find the same as one without a cache."""
    names: list[str] = []
    read = record_files._read

    def noting(path: Path) -> record_files.FileRecord:
        names.append(path.name)
        return read(path)

    with monkeypatch.context() as patched:
        patched.setattr(record_files, "_read", noting)
        found = collect(results)
    assert found == strictly(results)
    return sorted(names)


def test_all_forms_of_records_are_the_same_from_the_cache(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = strictly(results)
    assert len(expected.records) == 6 + len(SCHEMA_1)
    assert len(expected.problems) == 4
    assert collect(results) == expected
    left_out = {
        record.trial.seed for record in expected.records if record.set_place and record.factor is None
    }
    assert 4 in left_out, "without the record of its set"
    again = read_again(results, monkeypatch)
    assert {"broken.json", "folder.json", "gone.json"} < set(again)
    assert len(again) == 6, "and the two evaluations that have no set of theirs, one of which has another"
    assert [msgspec.json.encode(record) for record in collect(results).records] == [
        msgspec.json.encode(record) for record in expected.records
    ]


def test_records_lie_where_a_pattern_says(results: Path) -> None:
    found = sorted(path for path in results.glob("*/*/*/ipc*/*.json") if not path.name.startswith("."))
    assert list(record_files.record_files(results)) == found


def changed_in_place(path: Path) -> None:
    """Other content of the same size under the same times, which only the change's own time tells."""
    facts = path.stat()
    path.write_bytes(path.read_bytes().replace(b"0.25", b"0.35"))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def replaced(path: Path) -> None:
    """Another file of the same size moved into its place."""
    aside = path.with_name("aside")
    aside.write_bytes(path.read_bytes().replace(b"0.25", b"0.35"))
    aside.replace(path)


@pytest.mark.parametrize("change", [changed_in_place, replaced, Path.unlink])
def test_what_changed_is_read_anew(
    change: Callable[[Path], None], results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = collect(results)
    path = done(seed=1).trial.record_path(results)
    change(path)
    read_again(results, monkeypatch)
    assert collect(results) != before


def test_a_set_that_changed_is_looked_up_anew(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect(results)
    path = done(seed=1).trial.distillation.record_path(results)
    path.write_bytes(path.read_bytes().replace(b"1" * 64, b"4" * 64))
    read_again(results, monkeypatch)
    assert any("is about another set" in problem for problem in collect(results).problems[4:])
    path.unlink()
    read_again(results, monkeypatch)


def test_a_damaged_cache_is_none(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = collect(results)
    cache = cache_of(results)
    whole = cache.read_bytes()
    for damaged in (b"", whole[:20], whole[:-1], whole + b"x", b"\0" * len(whole), flipped(whole, 0.5)):
        cache.write_bytes(damaged)
        assert len(read_again(results, monkeypatch)) > 10
        assert collect(results) == expected
        assert cache.read_bytes() == whole, "made anew"


def flipped(content: bytes, place: float) -> bytes:
    """One bit changed at that part of it."""
    changed = bytearray(content)
    changed[int(place * len(content))] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("stamp", ["other code", None])
def test_a_cache_of_other_code_is_none(
    stamp: str | None, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect(results)
    monkeypatch.setattr(cache_file, "code_stamp", lambda: stamp)
    assert len(read_again(results, monkeypatch)) > 10


def test_files_of_this_moment_are_not_relied_on(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_file, "SETTLED_NS", 10**12)
    collect(results)
    assert not cache_of(results).exists()
    assert len(read_again(results, monkeypatch)) > 10


def test_where_no_cache_can_be_written_none_is(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (results / WORK_FOLDER).write_text("a file, so that nothing can be written below it")
    assert collect(results) == strictly(results)
    assert len(read_again(results, monkeypatch)) > 10
    assert (results / WORK_FOLDER).is_file()


def test_no_results_folder_is_made_for_a_cache(tmp_path: Path) -> None:
    assert collect(tmp_path / "results") == Collection([], [])
    cache_file.CacheFile(cache_of(tmp_path / "results")).save(1)
    assert not (tmp_path / "results").exists()


def test_settings_beyond_64_bits_are_read_without_a_cache(tmp_path: Path) -> None:
    trial = digits_trial(config={"seed": 2**70})
    put_first(Record(id=trial.id, status="done", trial=trial, accuracies=[0.5]), tmp_path)
    assert collect(tmp_path) == strictly(tmp_path)
    assert not cache_of(tmp_path).exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_readers_at_the_same_time_find_the_same(results: Path) -> None:
    expected = strictly(results)
    with ThreadPoolExecutor(8) as pool:
        assert all(found == expected for found in pool.map(collect, [results] * 24))
    assert [path.name for path in (results / WORK_FOLDER).iterdir()] == [CACHE_NAME]


def test_a_changed_source_is_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "harness" / "part" / "one.py"
    source.parent.mkdir(parents=True)
    source.write_text("X = 1")
    assert cache_file.code_stamp(tmp_path) is None, "there is no folder of methods"
    (tmp_path / "methods").mkdir()
    stamp = cache_file.code_stamp(tmp_path)
    assert stamp == cache_file.code_stamp(tmp_path)
    replaced(source)
    assert cache_file.code_stamp(tmp_path) not in (stamp, None)
    monkeypatch.setattr(cache_file, "SETTLED_NS", 10**12)
    assert cache_file.code_stamp(tmp_path) is None
