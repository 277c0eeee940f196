"""The learning rate of "@tuned": chosen on held-out train images, never on the test split."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.data.toy import toy
from harness.core.distilled import Distilled
from harness.core.errors import DivergedError
from harness.core.loop import Stopped
from harness.engine import training, tuning
from harness.engine.evaluate import Evaluation, evaluate
from harness.engine.parts import SGD, Epochs
from harness.engine.protocol import DC, GRID, Protocol, protocol_named
from harness.engine.tuning import Candidate, chosen
from methods import random

ARCH = "ConvNetW8D2"
SHORT = Protocol("short@tuned", "for tests", DC, Epochs(5), grid=(0.1, 1.0, 10.0))


def a_set(data: Dataset, **changed: Any) -> Distilled:
    return dataclasses.replace(random.distill(data, 2, context=Context(arch=ARCH)), **changed)


def asked(data: Dataset, protocol: Protocol, **context: Any) -> Evaluation:
    return evaluate(a_set(data), data, protocol, evals=2, context=Context(3, arch=ARCH, **context))


def test_networks_train_at_the_best_rate_as_they_would_at_that_rate_alone() -> None:
    data = toy(shape=(3, 16, 16))
    found = asked(data, SHORT)
    assert [one.rate for one in found.tried_rates] == pytest.approx([0.001, 0.01, 0.1])
    best = max(one.accuracy or 0 for one in found.tried_rates)
    assert found.learning_rate in [one.rate for one in found.tried_rates if one.accuracy == best]
    alone = dataclasses.replace(DC, optimiser=SGD(found.learning_rate))
    same = asked(data, Protocol("short", "", alone, Epochs(5)))
    assert (same.accuracies, same.train_losses) == (found.accuracies, found.train_losses)


def test_the_test_split_stays_closed_until_the_rate_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(shape=(3, 16, 16))
    looks: list[int] = []
    judged: list[int] = []
    accuracy = tuning.accuracy

    def spy(net: Any, held_out: Any, context: Any) -> float:
        looks.append(data.test_looks)
        judged.append(len(held_out))
        return accuracy(net, held_out, context)

    monkeypatch.setattr(tuning, "accuracy", spy)
    found = asked(data, SHORT)
    assert looks == [0] * 3
    assert judged == [6] * 3  # a tenth of 20 train images of each of three classes
    assert found.test_looks == data.test_looks == 1


def test_a_rate_that_was_distilled_along_is_what_the_grid_multiplies() -> None:
    data = toy(shape=(3, 16, 16))
    distilled = a_set(data, learned_lr=0.02)
    found = evaluate(distilled, data, SHORT, evals=1, context=Context(3, arch=ARCH))
    assert [one.rate for one in found.tried_rates] == pytest.approx([0.002, 0.02, 0.2])


def test_a_rate_at_which_nothing_can_be_trained_is_left_out() -> None:
    data = toy(shape=(3, 16, 16))
    found = asked(data, dataclasses.replace(SHORT, grid=(1.0, 1e30)))
    assert found.tried_rates[1].accuracy is None
    assert found.learning_rate == 0.01
    with pytest.raises(DivergedError, match=r"at any learning rate of the grid \(1e\+28, 1e\+29\)"):
        asked(data, dataclasses.replace(SHORT, grid=(1e30, 1e31)))


def test_of_equal_rates_the_lowest_is_chosen() -> None:
    tried = [Candidate(0.1, 0.5), Candidate(0.01, 0.5), Candidate(0.001, 0.4), Candidate(1.0, None)]
    assert chosen(tried) == 0.01


@pytest.mark.slow
def test_candidates_that_are_done_are_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the first network, after the three of the grid: only what is left is trained."""
    data = toy(shape=(3, 16, 16))
    passes = 6
    batches: list[int] = []
    backward = training.backward
    monkeypatch.setattr(training, "backward", lambda *rest: (batches.append(1), backward(*rest))[1])
    whole = asked(data, SHORT)
    assert len(batches) == passes * (3 + 2)
    batches.clear()
    asked_to_stop = lambda: len(batches) == 3 * passes + 2  # noqa: E731
    with pytest.raises(Stopped):
        asked(data, SHORT, work=tmp_path, should_stop=asked_to_stop)
    batches.clear()
    again = asked(data, SHORT, work=tmp_path)
    assert len(batches) == passes - 2 + passes
    assert again.tried_rates == whole.tried_rates
    assert (again.accuracies, again.train_losses) == (whole.accuracies, whole.train_losses)


def test_the_stated_grid_is_that_of_the_name() -> None:
    assert GRID == (0.1, 0.3, 1.0, 3.0, 10.0)
    assert protocol_named("kd-cpu@tuned").grid == GRID
