"""One trial from start to record, and all that may go wrong on the way."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from support import recorded
from trials import digits_trial, dm_trial

import methods
from harness.core import files
from harness.core.context import Context
from harness.core.distilled import Distilled
from harness.core.errors import UserError
from harness.core.loop import Stopped
from harness.core.seeds import seed_for
from harness.core.settings import values_of
from harness.engine import provenance
from harness.engine.claim import BusyError, claimed
from harness.engine.evaluate import evaluate
from harness.engine.outcomes import failure
from harness.engine.protocol import protocol_named
from harness.engine.record_files import read_records, record_bytes, write_record
from harness.engine.records import FirstRecord, Record, Trial, trial_of
from harness.engine.settings import LOG_NAME, RunSettings, log_name
from harness.engine.surroundings import with_threads
from harness.engine.trial import refused, run_trial
from methods import random

Distill = Callable[..., Distilled]


@pytest.fixture
def settings(tmp_path: Path) -> RunSettings:
    return RunSettings(
        results=tmp_path / "results", data_dir=tmp_path / "data", datasets={"digits": "digits"}
    )


@pytest.fixture
def replace_distill(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Distill], Distill]], None]:
    """Wrap `distill` of the random method in a function of the real one."""

    def replace(wrap: Callable[[Distill], Distill]) -> None:
        monkeypatch.setattr(random, "distill", wrap(random.distill))

    return replace


def raising(error: BaseException) -> Callable[[Distill], Distill]:
    def distill(*_: Any, **__: Any) -> Distilled:
        raise error

    return lambda _: distill


def test_done_trial_leaves_record_and_set_and_no_work(settings: RunSettings) -> None:
    trial = digits_trial(evals=2)
    record = run_trial(trial, settings)
    assert record.status == "done"
    assert recorded(trial, settings.results) == record
    distilled = Distilled.load(trial.distillation.set_path(settings.results))
    assert record.images_digest == distilled.digest()
    assert (record.stored_images, record.stored_bytes) == (10, 10 * 64 * 4 + 10 * 8)
    assert len(record.accuracies) == len(record.train_losses) == 2
    assert record.test_looks == 1
    assert record.distill is not None
    assert record.evaluate is not None
    assert record.evaluate.steps == 2 * 21
    assert not trial.work_folder(settings.results).exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kcenter@deepcore", "forgetting@original", "dm+m3d"])
def test_the_set_has_the_name_that_was_asked_for(name: str, settings: RunSettings) -> None:
    resolved = methods.resolve(name, "digits", 1, "smoke")
    trial = digits_trial(method=name, config=values_of(resolved.config))
    run_trial(trial, settings)
    saved = Distilled.load(trial.distillation.set_path(settings.results))
    assert saved.method == name
    assert saved.config == trial.config


def test_a_method_need_not_name_itself(
    settings: RunSettings, replace_distill: Callable[[Callable[[Distill], Distill]], None]
) -> None:
    def nameless(distill: Distill) -> Distill:
        return lambda *args, **kwargs: dataclasses.replace(distill(*args, **kwargs), method="", config={})

    trial = digits_trial()
    run_trial(trial, settings)
    named = trial.distillation.set_path(settings.results).read_bytes()
    replace_distill(nameless)
    elsewhere = dataclasses.replace(settings, results=settings.results.parent / "other")
    run_trial(trial, elsewhere)
    assert trial.distillation.set_path(elsewhere.results).read_bytes() == named


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "digest"),
    [
        ("random", "5136438b95087767eb42829d988a22a61abdebcf5b96bc86dfa3bccef0e3b4f9"),
        ("random_packed", "35cfcb94ec106994340c7c3a5ba80ca1f8af6f74bc4f59aef05d0b1bad130492"),
    ],
)
def test_saved_files_are_the_bytes_that_they_were(method: str, digest: str, settings: RunSettings) -> None:
    """Those of methods that compute nothing, from before the harness wrote names and settings into sets."""
    resolved = methods.resolve(method, "digits", 1, "smoke")
    trial = digits_trial(method=method, config=values_of(resolved.config))
    run_trial(trial, settings)
    saved = trial.distillation.set_path(settings.results).read_bytes()
    assert hashlib.sha256(saved).hexdigest() == digest


def test_accuracies_are_those_of_the_saved_file(settings: RunSettings) -> None:
    trial = digits_trial()
    record = run_trial(trial, settings)
    context = Context(seed_for(trial.seed, "evaluate"), arch=trial.arch)
    saved = Distilled.load(trial.distillation.set_path(settings.results))
    again = evaluate(
        saved, context.dataset("digits"), protocol_named("dc-smoke"), evals=trial.evals, context=context
    )
    assert again.accuracies == record.accuracies


def test_finished_record_is_returned_and_nothing_runs(
    settings: RunSettings, replace_distill: Callable[..., None]
) -> None:
    record = run_trial(digits_trial(), settings)
    replace_distill(raising(AssertionError("ran again")))
    assert run_trial(digits_trial(), settings) == record


def test_failed_record_never_replaces_a_done_one(settings: RunSettings) -> None:
    done = run_trial(digits_trial(), settings)
    failed = msgspec.structs.replace(done, status="failed", accuracies=[])
    write_record(failed, settings.results)
    assert recorded(done.trial, settings.results) == done


def test_method_that_looks_at_the_test_split_fails(
    settings: RunSettings, replace_distill: Callable[..., None]
) -> None:
    def cheating(real: Distill) -> Distill:
        def distill(dataset: Any, ipc: int, **keywords: Any) -> Distilled:
            dataset.test()
            return real(dataset, ipc, **keywords)

        return distill

    replace_distill(cheating)
    record = run_trial(digits_trial(), settings)
    assert record.status == "failed"
    assert record.reason is not None
    assert record.reason.startswith("FirewallError: ")
    assert "distilling random" in record.reason


def test_diverged_trial_says_so_in_one_line(settings: RunSettings) -> None:
    record = run_trial(dm_trial(20, config={"lr_img": 1e38}), settings)
    assert record.status == "failed"
    assert record.reason is not None
    assert "nan" in record.reason or "not finite" in record.reason
    assert "\n" not in record.reason
    assert not record.resumable
    assert not record.trial.distillation.set_path(settings.results).exists()


def test_traceback_goes_to_the_log_only(settings: RunSettings, replace_distill: Callable[..., None]) -> None:
    replace_distill(raising(ValueError("two\nlines")))
    record = run_trial(digits_trial(), settings)
    assert record.reason == "ValueError: two lines"
    log = (record.trial.work_folder(settings.results) / LOG_NAME).read_text()
    assert "Traceback" in log
    assert "ValueError: two" in log


def test_traceback_goes_to_the_log_that_is_asked_for(
    settings: RunSettings, replace_distill: Callable[..., None], tmp_path: Path
) -> None:
    replace_distill(raising(ValueError("no")))
    logs = tmp_path / "logs"
    record = run_trial(digits_trial(), dataclasses.replace(settings, logs=logs))
    assert (logs / log_name(record.trial)).read_text().endswith("ValueError: no\n")
    assert not (record.trial.work_folder(settings.results) / LOG_NAME).exists()


@pytest.mark.parametrize(
    ("method", "dataset", "name"),
    [
        ("dm", "cifar10", "dm-cifar10-ipc1-seed0-{}.log"),
        ("dm+bacon", "cifar10-jpeg", "dm+bacon-cifar10-jpeg-ipc1-seed0-{}.log"),
        ("cafe@dsa", "my photos/ümläut", "cafe@dsa-my_photos__ml_ut-ipc1-seed0-{}.log"),
    ],
)
def test_names_of_logs(method: str, dataset: str, name: str) -> None:
    trial = digits_trial(method=method, dataset=dataset)
    assert log_name(trial) == name.format(trial.id)


@pytest.mark.parametrize(
    ("error", "status", "reason", "resumable"),
    [
        (MemoryError(), "oom", "out of memory", False),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried"),
            "oom",
            "out of memory: CUDA out of memory.",
            False,
        ),
        (
            RuntimeError("not enough memory: you tried to allocate 8 bytes"),
            "oom",
            "out of memory: not",
            False,
        ),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "failed", "No space left on device", True),
        (OSError(errno.ENOENT, "No such file", "x"), "failed", "FileNotFoundError: ", False),
        (UserError("type this"), "failed", "type this", False),
        (RuntimeError("shapes differ"), "failed", "RuntimeError: shapes differ", False),
    ],
)
def test_errors_become_statuses(error: Exception, status: str, reason: str, resumable: bool) -> None:
    got_status, got_reason, got_resumable = failure(error)
    assert (got_status, got_resumable) == (status, resumable)
    assert got_reason.startswith(reason)


def test_real_want_of_memory_is_told_as_such(
    settings: RunSettings, replace_distill: Callable[..., None]
) -> None:
    def greedy(_: Distill) -> Distill:
        return lambda *_, **__: torch.empty(2**60)

    replace_distill(greedy)
    assert run_trial(digits_trial(), settings).status == "oom"


def test_interrupted_trial_keeps_no_record(
    settings: RunSettings, replace_distill: Callable[..., None]
) -> None:
    replace_distill(raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run_trial(digits_trial(), settings)
    assert not digits_trial().record_path(settings.results).exists()


@pytest.mark.slow
def test_trial_that_is_asked_to_stop_goes_on_in_either_phase(settings: RunSettings, tmp_path: Path) -> None:
    trial = dm_trial(4)
    undisturbed = run_trial(trial, dataclasses.replace(settings, results=tmp_path / "undisturbed"))
    settings = dataclasses.replace(settings, checkpoint_seconds=1000.0)
    # The second run is asked after steps 2 and 3 of distillation, then after step 1 of the evaluation.
    for answers, where in (([], "step 1 of 4 of distill"), ([False, False], "step 1 of 21 of network 1")):
        with pytest.raises(Stopped, match=where):
            run_trial(trial, settings, should_stop=partial(next, iter(answers), True))
        assert not trial.record_path(settings.results).exists()
    record = run_trial(trial, settings)
    assert facts(record) == facts(undisturbed)
    assert record.provenance is not None
    assert record.distilled_in is not None
    assert (record.distilled_in.resumed, record.provenance.resumed) == (1, 1)


def stopped(trial: Trial, settings: RunSettings, answers: int, where: str) -> None:
    """Run a trial and stop it after so many steps more than one."""
    settings = dataclasses.replace(settings, checkpoint_seconds=1000.0)
    with pytest.raises(Stopped, match=where):
        run_trial(trial, settings, should_stop=partial(next, iter([False] * answers), True))


@pytest.mark.slow
def test_networks_do_not_go_on_with_another_set(
    settings: RunSettings, tmp_path: Path, replace_distill: Callable[..., None]
) -> None:
    """The set and its record are taken away while they are trained on it, and it comes out otherwise."""
    trial = digits_trial(evals=2)
    stopped(trial, settings, 30, "of network 2")
    trial.distillation.set_path(settings.results).unlink()
    trial.distillation.record_path(settings.results).unlink()
    replace_distill(lambda real: lambda *a, **k: (made := real(*a, **k)) and other(made))
    record = run_trial(trial, settings)
    assert facts(record) == facts(run_trial(trial, dataclasses.replace(settings, results=tmp_path / "other")))


def other(made: Distilled) -> Distilled:
    return dataclasses.replace(made, images=made.images.flip(0))


@pytest.mark.slow
@pytest.mark.parametrize("answers", [2, 12])
def test_a_run_that_goes_on_computes_with_as_many_threads(
    answers: int, settings: RunSettings, tmp_path: Path
) -> None:
    trial = dm_trial(4)
    one, two = (dataclasses.replace(settings, threads=threads) for threads in (1, 2))
    undisturbed = run_trial(trial, dataclasses.replace(one, results=tmp_path / "undisturbed"))
    with with_threads(1):
        stopped(trial, one, answers, "of distill" if answers < 4 else "of network 1")
        record = run_trial(trial, two)
        assert torch.get_num_threads() == 1, "what is run next has its own"
    assert facts(record) == facts(undisturbed)
    for run in (record.distilled_in, record.provenance):
        assert run is not None
        assert run.threads == 1


def test_refused_trial_is_gone_on_with_by_the_same_command(settings: RunSettings) -> None:
    record = refused(digits_trial(), settings.results, "other code")
    assert (record.status, record.reason, record.resumable) == ("failed", "other code", True)
    assert recorded(digits_trial(), settings.results) == record
    assert refused(digits_trial(), settings.results, "another reason") == record
    with claimed(digits_trial(seed=1), settings.results), pytest.raises(BusyError):
        refused(digits_trial(seed=1), settings.results, "other code")


def interrupt_evaluation(trial: Trial, settings: RunSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a trial up to the end of its distillation."""
    with monkeypatch.context() as patch:
        patch.setattr(
            "harness.engine.evaluate.evaluate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            run_trial(trial, settings)


def test_resumed_trial_does_not_distil_twice(
    settings: RunSettings, monkeypatch: pytest.MonkeyPatch, replace_distill: Callable[..., None]
) -> None:
    interrupt_evaluation(digits_trial(), settings, monkeypatch)
    replace_distill(raising(AssertionError("distilled twice")))
    assert run_trial(digits_trial(), settings).status == "done"


def test_damaged_distilled_set_is_made_again(settings: RunSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = digits_trial()
    interrupt_evaluation(trial, settings, monkeypatch)
    path = trial.distillation.set_path(settings.results)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert run_trial(trial, settings).status == "done"
    assert path.read_bytes() == whole


def test_changed_code_does_not_go_on_from_a_checkpoint(
    settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = dm_trial(4)
    with pytest.raises(Stopped, match="step 2 of 4 of distill"):
        run_trial(trial, settings, should_stop=partial(next, iter([False]), True))
    monkeypatch.setattr(provenance, "code_digest", lambda *_: "0" * 12)
    record = run_trial(trial, settings)
    assert record.status == "done"
    assert record.distilled_in is not None
    assert record.distilled_in.resumed == 0


@pytest.mark.slow
def test_a_finished_set_outlives_a_change_of_code_and_is_known_as_older(
    settings: RunSettings, monkeypatch: pytest.MonkeyPatch, replace_distill: Callable[..., None]
) -> None:
    trial = digits_trial()
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "code_digest", lambda *_: "2:" + "0" * 12)
        patch.setattr(provenance, "_checkout", lambda: (None, False))
        interrupt_evaluation(trial, settings, patch)
    replace_distill(raising(AssertionError("distilled twice")))
    record = run_trial(trial, settings)
    assert record.status == "done"
    assert provenance.Lineage().state(record) == "older code"


def ask(trial: Trial, **asked: Any) -> Trial:
    """Another question about the trial's set."""
    usual = {"protocol": trial.protocol, "protocol_version": trial.protocol_version, "evals": trial.evals}
    return trial_of(trial.distillation, **(usual | asked))


@pytest.mark.slow
def test_a_set_is_distilled_once_and_asked_again(
    settings: RunSettings, replace_distill: Callable[..., None]
) -> None:
    trial = digits_trial()
    first = run_trial(trial, settings)
    replace_distill(raising(AssertionError("distilled twice")))
    other = run_trial(ask(trial, eval_arch="MLP"), settings)
    assert other.status == "done"
    assert (other.images_digest, other.distill) == (first.images_digest, first.distill)
    assert other.id != first.id
    assert recorded(trial, settings.results) == first
    assert trial.id == ask(trial, eval_arch=trial.arch).id, "its own network is no other question"


@pytest.mark.slow
def test_an_evaluation_added_later_is_the_one_made_at_once(settings: RunSettings, tmp_path: Path) -> None:
    trial = dm_trial(3)
    questions = [trial, ask(trial, eval_arch="MLP"), ask(trial, evals=1)]
    at_once = [run_trial(question, settings) for question in questions]
    elsewhere = dataclasses.replace(settings, results=tmp_path / "elsewhere")
    later = [run_trial(question, elsewhere) for question in reversed(questions)]
    assert [facts(record) for record in at_once] == [facts(record) for record in reversed(later)]


def test_a_set_of_schema_1_is_asked_where_it_lies(
    settings: RunSettings, replace_distill: Callable[..., None]
) -> None:
    trial = digits_trial()
    made = run_trial(trial, settings)
    results = settings.results
    first = FirstRecord(
        **{name: getattr(made, name) for name in FirstRecord.__struct_fields__} | {"schema": 1}
    )
    (results / f"{trial.first_place}.json").write_bytes(record_bytes(first))
    trial.distillation.set_path(results).rename(results / f"{trial.first_place}.safetensors")
    trial.distillation.record_path(results).unlink()
    trial.record_path(results).unlink()
    replace_distill(raising(AssertionError("distilled twice")))
    assert run_trial(trial, settings).accuracies == made.accuracies
    record = run_trial(ask(trial, eval_arch="MLP"), settings)
    assert record.status == "done"
    assert record.set_place == trial.first_place
    assert (record.images_digest, record.label_kind) == (made.images_digest, None)
    assert record in read_records(results)


@pytest.mark.slow
def test_a_set_that_was_changed_is_not_evaluated(settings: RunSettings, tmp_path: Path) -> None:
    trial = digits_trial()
    run_trial(trial, settings)
    path = trial.distillation.set_path(settings.results)
    kept = path.read_bytes()
    saved = Distilled.load(path)
    dataclasses.replace(saved, images=saved.images + 1).save(path)
    changed = path.read_bytes()
    question = ask(trial, evals=2)
    record = run_trial(question, settings)
    assert (record.status, record.resumable) == ("failed", True)
    assert "was changed since it was distilled" in str(record.reason)
    assert path.read_bytes() == changed
    path.write_bytes(kept)
    question.record_path(settings.results).unlink()
    assert run_trial(question, settings).status == "done"


@pytest.mark.slow
def test_a_lost_set_that_comes_out_otherwise_is_refused(
    settings: RunSettings, replace_distill: Callable[..., None]
) -> None:
    trial = digits_trial()
    record = run_trial(trial, settings)
    trial.distillation.set_path(settings.results).unlink()
    assert run_trial(ask(trial, evals=2), settings).images_digest == record.images_digest
    trial.distillation.set_path(settings.results).unlink()
    replace_distill(
        lambda real: lambda *a, **k: dataclasses.replace(real(*a, **k), images=torch.zeros(10, 1, 8, 8))
    )
    failed = run_trial(ask(trial, evals=3), settings)
    assert (failed.status, failed.resumable) == ("failed", True)
    assert "came out otherwise" in str(failed.reason)
    assert recorded(trial, settings.results) == record


def test_two_trials_of_a_set_do_not_distil_at_once(settings: RunSettings) -> None:
    trial = digits_trial()
    with claimed(trial.distillation, settings.results), pytest.raises(BusyError, match="another process"):
        run_trial(trial, settings)


def test_trial_of_another_process_is_left_alone(settings: RunSettings) -> None:
    with claimed(digits_trial(), settings.results), pytest.raises(BusyError, match="another process"):
        run_trial(digits_trial(), settings)


def test_foreign_file_in_the_records_place_is_left_alone(settings: RunSettings) -> None:
    path = digits_trial().record_path(settings.results)
    path.parent.mkdir(parents=True)
    path.write_text("{not json")
    with pytest.raises(UserError, match="is not a record"):
        run_trial(digits_trial(), settings)
    assert path.read_text() == "{not json"


def test_leftovers_of_a_killed_write_are_swept(settings: RunSettings) -> None:
    path = digits_trial().record_path(settings.results)
    path.parent.mkdir(parents=True)
    leftover = path.with_name(f".{path.name}.4711.tmp")
    leftover.write_text("half")
    run_trial(digits_trial(), settings)
    assert not leftover.exists()


def test_changed_folder_is_refused(settings: RunSettings) -> None:
    record = run_trial(digits_trial(listing="0123456789abcdef"), settings)
    assert record.status == "failed"
    assert record.reason is not None
    assert "changed since the run was planned" in record.reason


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_while_the_set_is_noted(settings: RunSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = digits_trial()
    work = trial.distillation.work_folder(settings.results)
    work.mkdir(parents=True)
    # The note that distillation is finished is written here first.
    monkeypatch.setattr(files, "_mark", lambda: "mark")
    (work / ".distillation.json.mark.tmp").symlink_to("/dev/full")
    record = run_trial(trial, settings)
    reason = f"No space left on device: {work / 'distillation.json'}"
    assert (record.status, record.reason, record.resumable) == ("failed", reason, True)


def test_record_of_a_failure_is_honest_about_what_is_not_known(
    settings: RunSettings, replace_distill: Callable[..., None]
) -> None:
    replace_distill(raising(UserError("no")))
    record = run_trial(digits_trial(), settings)
    unknown = (record.distill, record.evaluate, record.images_digest, record.stored_bytes)
    assert unknown == (None, None, None, None)
    assert record.accuracies == []


def test_same_trial_elsewhere_gives_the_same_bytes(settings: RunSettings, tmp_path: Path) -> None:
    trial = dm_trial(3)
    elsewhere = dataclasses.replace(settings, results=tmp_path / "elsewhere")
    one, two = run_trial(trial, settings), run_trial(trial, elsewhere)
    assert facts(one) == facts(two)
    paths = [trial.distillation.set_path(place.results) for place in (settings, elsewhere)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def facts(record: Record) -> tuple[Any, ...]:
    return record.status, record.images_digest, record.accuracies, record.train_losses
