"""What an evaluation is estimated to cost, under protocols of every kind."""

from __future__ import annotations

import pytest
from trials import digits_trial

from harness.commands import estimate, priority
from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.loop import StoppedEarly
from harness.engine.protocol import GRID
from harness.engine.records import Trial


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Context().dataset("digits")


@pytest.mark.parametrize(
    ("protocol", "passes"),
    [("dc-smoke", 21), ("dc-steps-smoke", 6), ("sl-smoke", 21), ("kd-smoke", 10), ("dc-smoke@tuned", 21)],
)
def test_all_passes_of_an_evaluation_are_counted(protocol: str, passes: int, data: Dataset) -> None:
    """Those over a set of tiles: 21 steps of 10 images are 5.25 passes over the 40 that they decode to."""
    trial = digits_trial(method="random_packed", protocol=protocol, evals=3)
    phase = estimate._evaluation(trial, data)
    with pytest.raises(StoppedEarly) as stopped:
        phase.run(Context(arch="ConvNetW8", stop_after=1))
    assert stopped.value.total == passes
    assert phase.repeats == 3 + (len(GRID) if protocol.endswith("@tuned") else 0)


def test_the_whole_train_split_is_trained_on_whole(data: Dataset) -> None:
    """Also where time is measured by a stand-in, and not by the FLOPs of a known dataset."""
    assert len(estimate._stand_in(digits_trial(method="whole", ipc=1), data).images) == len(data)

    def flops(method: str, ipc: int) -> float:
        trial = digits_trial(method=method, ipc=ipc, dataset="cifar10", arch="ConvNet", protocol="dc-1000")
        return priority._evaluation(trial) or 0.0

    assert flops("whole", 1) == flops("random", 5000) > 0


def test_equal_steps_cost_a_set_of_tiles_what_they_cost_others() -> None:
    def flops(method: str, protocol: str) -> float:
        config = {"factor": 2} if method == "random_packed" else {}
        trial: Trial = digits_trial(
            method=method, dataset="cifar10", arch="ConvNet", protocol=protocol, config=config
        )
        found = priority._evaluation(trial)
        assert found is not None
        return found

    assert flops("random_packed", "dc-1000") == 4 * flops("random", "dc-1000")
    assert flops("random_packed", "dc-steps") == flops("random", "dc-steps") == flops("random", "dc-1000")
    assert flops("random", "dc-1000@tuned") == (1 + len(GRID)) * flops("random", "dc-1000")
    assert flops("random", "kd-300") > 300 / 1001 * flops("random", "dc-1000")
