"""`--priority value`: what fills the paper's tables soonest goes first; the plan itself does not change."""

from __future__ import annotations

from pathlib import Path

import pytest
from trials import cost_of, put_record

from harness.commands import priority
from harness.commands.estimate import TimeEstimate
from harness.commands.priority import by_value
from harness.core.data.catalog import DatasetSpec
from harness.engine.options import Options, Setting
from harness.engine.plan import DatasetFacts, expand
from harness.engine.records import Record, Trial

CIFAR10 = DatasetFacts(DatasetSpec("cifar10", "cifar10"), (3, 32, 32), 10, 5000, 50_000)


@pytest.fixture(autouse=True)
def _no_committed_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priority, "_committed", lambda _: [])


def trials(**changed: object) -> list[Trial]:
    usual: dict[str, object] = {"methods": ("dm", "bacon"), "ipc": (1, 10), "seeds": (0,)}
    return list(expand(Options(**(usual | changed)), [CIFAR10]).trials)  # type: ignore[arg-type]


def names(ordered: list[Trial]) -> list[tuple[str, int, int]]:
    return [(trial.method, trial.ipc, trial.seed) for trial in ordered]


def hours(waiting: list[Trial], **known: float) -> dict[str, TimeEstimate]:
    """Estimates by `method_ipc`; others have none."""
    return {
        trial.cell: TimeEstimate(3600 * known[f"{trial.method}_{trial.ipc}"], "a record")
        for trial in waiting
        if f"{trial.method}_{trial.ipc}" in known
    }


def test_cheap_cells_go_first_and_first_seeds_before_second_ones(tmp_path: Path) -> None:
    waiting = trials(methods=("dm", "kcenter"), ipc=(10,), seeds=(0, 1))
    known = hours(waiting, dm_10=3.0, kcenter_10=2.0)
    # dm stands in the main table, in that of other networks, in that of terms and in that of costs.
    assert names(by_value(waiting, known, tmp_path, on_gpu=True)) == [
        ("dm", 10, 0),
        ("dm", 10, 1),
        ("kcenter", 10, 0),
        ("kcenter", 10, 1),
    ]
    known = hours(waiting, dm_10=30.0, kcenter_10=2.0)
    assert names(by_value(waiting, known, tmp_path, on_gpu=True)) == [
        ("kcenter", 10, 0),
        ("kcenter", 10, 1),
        ("dm", 10, 0),
        ("dm", 10, 1),
    ]
    known = hours(waiting, dm_10=12.0, kcenter_10=2.0)
    assert names(by_value(waiting, known, tmp_path, on_gpu=True))[:3] == [
        ("kcenter", 10, 0),
        ("dm", 10, 0),
        ("kcenter", 10, 1),
    ]


def test_seeds_that_are_there_lower_the_worth_of_further_ones(tmp_path: Path) -> None:
    waiting = trials(methods=("kcenter", "herding"), ipc=(10,), seeds=(0, 1))
    done = next(trial for trial in waiting if (trial.method, trial.seed) == ("herding", 0))
    put_record(Record(id=done.id, status="done", trial=done, accuracies=[0.3] * 5), tmp_path)
    waiting.remove(done)
    known = hours(waiting, kcenter_10=1.5, herding_10=1.0)
    assert names(by_value(waiting, known, tmp_path, on_gpu=True)) == [
        ("kcenter", 10, 0),
        ("herding", 10, 1),
        ("kcenter", 10, 1),
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"scale": "cpu"},
        {"precision": "bf16"},
        {"budget": 1e15},
        {"curve": 4},
        {"set": (Setting("*", "batch_real", "17"),)},
        {"arch": "ConvNetW64"},
        {"arch": "AlexNet", "methods": ("bacon",), "ipc": (10,)},
        {"eval_arch": ("ConvNetW64",)},
        {"methods": ("dcc@dsa",)},
    ],
)
def test_what_is_in_no_table_of_the_paper_has_no_value(tmp_path: Path, changed: dict[str, object]) -> None:
    assert by_value(trials(**changed), {}, tmp_path, on_gpu=True) == []


def test_ablations_and_other_networks_have_value(tmp_path: Path) -> None:
    assert by_value(
        trials(methods=("bacon",), set=(Setting("bacon", "tv_weight", "0.2"),)), {}, tmp_path, on_gpu=True
    )
    assert by_value(trials(methods=("bacon",), ipc=(10,), eval_arch=("AlexNet",)), {}, tmp_path, on_gpu=True)


def test_without_records_flops_say_what_is_cheap(tmp_path: Path) -> None:
    waiting = trials(methods=("kcenter", "herding", "dc"), ipc=(1, 10, 50))
    ordered = names(by_value(waiting[::-1], {}, tmp_path, on_gpu=True))
    assert sorted(ordered[:2]) == [("herding", 1, 0), ("kcenter", 1, 0)]
    assert [ipc for method, ipc, _ in ordered if method == "kcenter"] == [1, 10, 50]


def test_records_of_a_method_correct_the_formula() -> None:
    one, other = trials(methods=("dm", "datadam"), ipc=(10,))
    (small,) = expand(Options(methods=(one.method,), ipc=(10,), seeds=(0,), scale="cpu"), [CIFAR10]).trials
    record = Record(
        id=small.id,
        status="done",
        trial=small,
        distill=cost_of(1000 * (priority._distillation(small) or 0.0)),
        evaluate=cost_of(1.0),
    )
    corrected, plain = (priority._Costs(records, {}, on_gpu=True) for records in ([record], []))
    formula = priority._distillation(one)
    assert formula
    difference = (corrected.seconds(one) or 0.0) - (plain.seconds(one) or 0.0)
    assert difference == pytest.approx(999 * formula / priority.NOMINAL_SPEED[True])
    assert corrected.seconds(other) == plain.seconds(other)


def test_networks_without_a_formula_come_last(tmp_path: Path) -> None:
    known, unknown = (
        trials(methods=("bacon",), ipc=(10,)),
        trials(methods=("bacon",), ipc=(10,), eval_arch=("VGG11",)),
    )
    assert by_value([*unknown, *known], {}, tmp_path, on_gpu=True) == [*known, *unknown]


def test_a_trial_that_only_asks_follows_the_one_that_makes_its_set(tmp_path: Path) -> None:
    waiting = trials(methods=("bacon",), ipc=(10,), eval_arch=("ConvNet", "VGG11"))
    other = trials(methods=("idm",), ipc=(10,))
    home, crossed = waiting
    known = {
        home.cell: TimeEstimate(10_000.0, "a record", evaluating=100.0),
        crossed.cell: TimeEstimate(11_000.0, "a record", evaluating=10.0),
        other[0].cell: TimeEstimate(5000.0, "a record", evaluating=100.0),
    }
    every = [*waiting, *other]
    ordered = by_value(every, known, tmp_path, on_gpu=True)
    assert ordered.index(home) + 1 == ordered.index(crossed)
    there = by_value(every, known, tmp_path, on_gpu=True, making={other[0].id})
    assert there == [crossed, home, *other], "sets that are there cost nothing"
