"""Accuracy during distillation: the sets of past moments are those that shorter runs would have left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trials import dm_trial

from harness.core.context import Context
from harness.core.data import load, parse
from harness.core.distilled import Distilled
from harness.engine.records import Record, Trial
from harness.engine.settings import RunSettings
from harness.engine.trial import run_trial
from methods import dm


def run(trial: Trial, folder: Path) -> Record:
    return run_trial(trial, RunSettings(folder, folder, {"digits": "digits"}, threads=1))


@pytest.mark.slow
def test_a_point_for_each_look_and_the_end(tmp_path: Path) -> None:
    record = run(dm_trial(6, curve=3, evals=2), tmp_path)
    assert record.status == "done"
    assert [point.step for point in record.curve] == [2, 4, 6]
    assert all(len(point.accuracies) == 2 for point in record.curve)
    assert record.distill is not None
    assert [point.flops for point in record.curve] == [record.distill.flops * k / 3 for k in (1, 2, 3)]
    assert record.test_looks == 1
    assert not (tmp_path / ".work" / record.id).exists()


def test_the_set_of_a_moment_is_what_a_shorter_run_leaves(tmp_path: Path) -> None:
    full, _ = load(parse("digits", tmp_path, None, False), tmp_path).hold_out(0.1)
    work = tmp_path / "work"
    config = dm.Config(iterations=6, batch_real=8)
    dm.distill(full, 1, config=config, context=Context(work=work, snapshots=3, arch="ConvNetW16"))
    again = tmp_path / "again"
    again.mkdir()
    (work / "snapshots" / "4.pt").rename(again / "checkpoint.pt")
    context = Context(work=again, limit_steps=4, arch="ConvNetW16")
    past = dm.distill(full, 1, config=config, context=context)
    shorter = dm.Config(iterations=4, batch_real=8)
    assert torch.equal(
        past.images, dm.distill(full, 1, config=shorter, context=Context(arch="ConvNetW16")).images
    )


def test_a_trial_with_a_curve_is_another_trial_and_without_one_keeps_its_id() -> None:
    assert dm_trial(6).id != dm_trial(6, curve=3).id
    assert dm_trial(6, curve=3).id != dm_trial(6, curve=4).id


def test_accuracies_by_class_add_up(tmp_path: Path) -> None:
    record = run(dm_trial(2, evals=2), tmp_path)
    test = load(parse("digits", tmp_path, None, False), tmp_path).test()
    counts = torch.bincount(test.labels, minlength=10).double()
    for accuracy, by_class in zip(record.accuracies, record.class_accuracies, strict=True):
        hits = float((torch.tensor(by_class, dtype=torch.float64) * counts).sum())
        assert abs(hits / len(test) - accuracy) < 1e-9


def test_what_is_left_out_is_a_share_of_each_class_and_always_the_same(tmp_path: Path) -> None:
    data = load(parse("digits", tmp_path, None, False), tmp_path)
    kept, left = data.hold_out(0.1)
    assert len(kept) + len(left) == len(data)
    assert [int(0.1 * count) for count in data.index.counts] == torch.bincount(left.labels).tolist()
    assert kept.fingerprint != data.fingerprint
    assert torch.equal(left.images, data.hold_out(0.1)[1].images)
    pixels = {image.numpy().tobytes() for image in data.images}
    assert {image.numpy().tobytes() for image in torch.cat([kept.images, left.images])} == pixels


def test_distilled_sets_of_curve_trials_load(tmp_path: Path) -> None:
    trial = dm_trial(3, curve=1)
    run(trial, tmp_path)
    assert Distilled.load(trial.distillation.set_path(tmp_path)).ipc == 1
