"""Settings that came after records were made: trials keep their ids, sets their bytes."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

import methods
from harness.core.context import Context
from harness.core.settings import setting, settings_in, values_of
from harness.engine.options import Options, Setting
from harness.engine.plan import make_plan
from harness.engine.provenance import ROOT
from harness.engine.record_files import read_records
from harness.engine.records import Trial

RESULTS = ROOT / "results"
RECORDS = read_records(RESULTS)


def planned(
    tmp_path: Path, *changes: Setting, method: str = "bacon", ipc: tuple[int, ...] = (1,)
) -> list[Trial]:
    """Trials on the digits at scale cpu."""
    options = Options(
        methods=(method,),
        dataset=("digits",),
        ipc=ipc,
        scale="cpu",
        set=changes,
        results=tmp_path / "results",
    )
    return list(make_plan(options).trials)


@pytest.mark.parametrize("method", sorted({r.trial.method for r in RECORDS if r.trial.dataset == "digits"}))
def test_planning_what_was_recorded_gives_the_same_ids(method: str, tmp_path: Path) -> None:
    mine = [record for record in RECORDS if (record.trial.method, record.trial.dataset) == (method, "digits")]
    ipc = tuple(sorted({record.trial.ipc for record in mine}))
    ids = {trial.id for trial in planned(tmp_path, method=method, ipc=ipc)}
    assert ids == {record.id for record in mine}


def test_settings_of_every_record_are_those_of_now() -> None:
    for record in RECORDS:
        trial = record.trial
        by_hand = {name: trial.config[name] for name in trial.source.overrides}
        config = methods.resolve(trial.method, trial.dataset, trial.ipc, trial.scale, by_hand).config
        values = msgspec.json.decode(msgspec.json.encode(values_of(config)))
        assert values == trial.config
        assert methods.config_from(trial.method, trial.config) == config


def test_one_that_is_changed_makes_another_trial(tmp_path: Path) -> None:
    (usual, _), (slower, _), (same, _) = (
        planned(tmp_path, *changes)
        for changes in ((), (Setting("bacon", "lr_net", "0.005"),), (Setting("bacon", "lr_net", "0.01"),))
    )
    assert "lr_net" not in usual.config
    assert slower.config == usual.config | {"lr_net": 0.005}
    assert same.id == usual.id != slower.id
    assert methods.config_from("bacon", slower.config).lr_net == 0.005
    assert methods.config_from("bacon", usual.config).lr_net == 0.01


@pytest.mark.parametrize("method", ["idm", "bacon", "iid_idm", "idm+m3d"])
def test_the_pools_settings_are_the_methods(method: str) -> None:
    found = {setting.name: setting.default for setting in settings_in(methods.load(method).Config)}
    pool = {
        "pool_start": 3,
        "push": 1,
        "trained": 2,
        "lr_net": 0.01,
        "momentum_net": 0.9,
        "weight_decay": 5e-4,
    }
    assert found.items() >= pool.items()


def digest(method: str, changes: dict[str, object]) -> str:
    config = methods.resolve(method, "digits", 2, "smoke", changes).config
    context = Context(arch="ConvNetW8D2", limit_steps=8)
    return methods.load(method).distill("digits", 2, config=config, context=context).digest()


@functools.cache
def usual_digest(method: str) -> str:
    return digest(method, {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("idm", {"lr_net": 0.1}),
        ("idm", {"momentum_net": 0.0}),
        ("idm", {"weight_decay": 0.5}),
        ("idm", {"trained": 3}),
        ("idm", {"push": 3}),
        ("idm", {"pool_start": 1, "trained": 1}),
        ("iid_dm", {"pretrained_lr": 0.3}),
        ("mtt", {"expert_momentum": 0.9}),
        ("mtt", {"expert_weight_decay": 0.1}),
        ("ncfm", {"train_lr": 0.3}),
    ],
)
def test_they_reach_the_loop(method: str, changes: dict[str, object]) -> None:
    assert usual_digest(method) != digest(method, changes)


def test_values_leave_out_what_was_added_and_untouched() -> None:
    @dataclass(frozen=True)
    class Config:
        lr: float = setting(0.1, "learning rate")
        decay: float = setting(0.0, "weight decay", added=True)

    assert values_of(Config()) == {"lr": 0.1}
    assert values_of(Config(decay=0.5)) == {"lr": 0.1, "decay": 0.5} == dataclasses.asdict(Config(decay=0.5))
