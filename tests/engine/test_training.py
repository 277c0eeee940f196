"""Training under other regimes than plain hard labels: teachers, stored labels, equal steps, resuming."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.distilled import Distilled
from harness.core.errors import FirewallError, UserError
from harness.core.loop import StoppedEarly
from harness.engine import training
from harness.engine.evaluate import Evaluation, evaluate
from harness.engine.parts import SGD, Accumulation, Epochs
from harness.engine.protocol import DC, PROTOCOLS, Protocol, protocol_named
from harness.engine.training import Teacher, train_network, training_set_of
from methods import random

ARCH = "ConvNetW8D2"
SHAPE = (3, 16, 16)
NOT_KNOWN = torch.tensor([[0.6, 0.3, 0.1]])


def small_set(**changed: object) -> Distilled:
    """Two images of each of three classes."""
    distilled = random.distill(toy(shape=SHAPE), 2, context=Context(arch=ARCH))
    return dataclasses.replace(distilled, **changed)  # type: ignore[arg-type]


def softened(distilled: Distilled) -> Distilled:
    """The set with soft labels whose highest are its classes."""
    rows = F.one_hot(distilled.labels, 3).float()
    return dataclasses.replace(distilled, labels=0.7 * rows + 0.1)


def asked(distilled: Distilled, protocol: str | Protocol, teacher: Teacher | None = None) -> Evaluation:
    """The evaluation of a set by one network."""
    wanted = protocol_named(protocol) if isinstance(protocol, str) else protocol
    data = toy(shape=SHAPE)
    return evaluate(distilled, data, wanted, evals=1, context=Context(3, arch=ARCH), teacher=teacher)


def a_teacher(classes: int = 3) -> Teacher:
    return Context(9, arch=ARCH).network(toy(num_classes=classes, shape=SHAPE)).eval()


def in_turn(counted: Callable[[Tensor], None], teacher: Teacher) -> Teacher:
    """The teacher, with a look at what it is asked before."""

    def answer(images: Tensor) -> Tensor:
        counted(images)
        return teacher(images)

    return answer


@pytest.mark.parametrize("protocol", ["dc-steps-smoke", "dc-steps-cpu"])
def test_sets_of_tiles_make_as_many_steps_as_others(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same number of batches goes backwards, of the same size, and the evaluation says so."""
    sizes: dict[int, list[int]] = {1: [], 2: []}
    backward = training.backward
    found = {}
    short = dataclasses.replace(
        protocol_named(protocol), length=dataclasses.replace(protocol_named(protocol).length, epochs=7)
    )
    for factor, seen in sizes.items():
        monkeypatch.setattr(
            training, "backward", lambda *rest, seen=seen: (seen.append(len(rest[2])), backward(*rest))[1]
        )
        found[factor] = asked(small_set(factor=factor), short)
    assert sizes[1] == sizes[2] == [6] * 8
    assert found[1].optimizer_steps == found[2].optimizer_steps == 8
    assert (found[1].images_per_epoch, found[2].images_per_epoch) == (6, 24)


def test_without_tiles_equal_steps_are_those_of_the_usual_protocol() -> None:
    usual, equal = (asked(small_set(augmentation="color"), name) for name in ("dc-smoke", "dc-steps-smoke"))
    assert (usual.accuracies, usual.train_losses) == (equal.accuracies, equal.train_losses)


def test_a_teacher_is_asked_of_training_batches_alone() -> None:
    """Of each image of each pass once, without gradients; hard labels play no part."""
    counts: list[int] = []

    def look(images: Tensor) -> None:
        assert not torch.is_grad_enabled()
        counts.append(len(images))

    teacher = in_turn(look, a_teacher())
    found = asked(small_set(), "kd-smoke", teacher)
    assert sum(counts) == 10 * 6
    assert len(counts) == found.optimizer_steps
    assert (found.regime, found.augmentation) == ("teacher", "flip")
    turned = small_set()
    turned = dataclasses.replace(turned, labels=turned.labels.roll(1))
    assert asked(turned, "kd-smoke", a_teacher()).train_losses == found.train_losses
    other = asked(small_set(), "kd-smoke", lambda images: NOT_KNOWN.expand(len(images), 3))
    assert other.train_losses != found.train_losses


def test_a_teacher_that_looks_at_the_test_split_is_stopped() -> None:
    data = toy(shape=SHAPE)

    def spying(images: Tensor) -> Tensor:
        return F.one_hot(data.test().labels[: len(images)], 3).float()

    with pytest.raises(FirewallError):
        evaluate(
            small_set(),
            data,
            protocol_named("kd-smoke"),
            evals=1,
            context=Context(arch=ARCH),
            teacher=spying,
        )


def test_protocols_refuse_what_they_cannot_train_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is trained."""
    monkeypatch.setattr(training, "backward", None)
    learned = small_set(labels=torch.randn(6, 3))
    for distilled, protocol, words in (
        (small_set(), "kd-300", "asks a teacher for the labels of every batch, and none was given"),
        (small_set(), "sl-1000", "trains on soft labels that lie with the set, and this set has hard ones"),
        (small_set(), "frepo", "trains on soft labels that lie with the set"),
        (learned, "datm", "trains on probabilities, and the soft labels of this set are none"),
    ):
        with pytest.raises(UserError, match=words):
            asked(distilled, protocol)


def test_a_teacher_of_another_dataset_is_refused() -> None:
    with pytest.raises(UserError, match=r"labels of shape \(6, 5\) for 6 images of 3 classes"):
        asked(small_set(), "kd-smoke", a_teacher(classes=5))


@pytest.mark.slow
def test_the_labels_that_a_protocol_takes_decide_its_regime() -> None:
    """The usual protocols take the set's own; equal steps are for hard labels, which soft ones have too."""
    hard = small_set()
    soft = softened(hard)
    assert asked(soft, "dc-smoke").regime == asked(soft, "sl-smoke").regime == "stored"
    assert asked(soft, "dc-smoke").train_losses == asked(soft, "sl-smoke").train_losses
    assert asked(soft, "dc-smoke").train_losses != asked(hard, "dc-smoke").train_losses
    told = [asked(one, "dc-steps-smoke") for one in (soft, hard)]
    assert [one.regime for one in told] == ["hard", "hard"]
    assert told[0].train_losses == told[1].train_losses


def test_labels_that_are_no_probabilities_count_by_their_highest_where_any_are_taken() -> None:
    hard = small_set()
    learned = dataclasses.replace(hard, labels=5 * F.one_hot(hard.labels, 3).float() - 2)
    found = asked(learned, "dc-smoke")
    assert found.regime == "hard"
    assert found.train_losses == asked(hard, "dc-smoke").train_losses


def test_learned_labels_are_fitted_by_squared_errors() -> None:
    short = dataclasses.replace(
        PROTOCOLS["frepo-cpu"], length=dataclasses.replace(PROTOCOLS["frepo-cpu"].length, values=((1, 60),))
    )
    found = asked(small_set(labels=F.one_hot(small_set().labels, 3) - 1 / 3), short)
    assert (found.optimizer_steps, found.regime) == (60, "stored")
    assert found.train_losses[0] < 0.3  # half the square of such a row is 1/3


def test_an_image_left_over_joins_the_batch_before_it() -> None:
    recipe = dataclasses.replace(PROTOCOLS["kd-smoke"].recipe, batch=5)
    seen: list[int] = []
    teacher = in_turn(lambda images: seen.append(len(images)), a_teacher())
    found = asked(small_set(), Protocol("t", "", recipe, Epochs(2)), teacher)
    assert seen == [6, 6]
    assert found.optimizer_steps == 2
    seen.clear()
    asked(small_set(), Protocol("t", "", dataclasses.replace(recipe, merges=False), Epochs(2)), teacher)
    assert seen == [5, 1, 5, 1]


def test_gathered_gradients_are_those_of_one_batch() -> None:
    """Two batches of three, averaged, train as one of six; instance norm looks at no neighbour."""
    whole = dataclasses.replace(DC, batch=6, optimiser=SGD(0.05))
    halves = dataclasses.replace(whole, batch=3, accumulation=Accumulation(2))
    losses = [
        asked(small_set(augmentation=""), Protocol("t", "", recipe, Epochs(4))) for recipe in (whole, halves)
    ]
    assert [one.optimizer_steps for one in losses] == [5, 5]
    assert losses[0].train_losses == pytest.approx(losses[1].train_losses, rel=1e-4)


RESUMED = {
    "kd-smoke": PROTOCOLS["kd-smoke"],
    "kd-bssl-smoke": PROTOCOLS["kd-bssl-smoke"],
    "kd-mixup-smoke": PROTOCOLS["kd-mixup-smoke"],
    "kd-mse-smoke": PROTOCOLS["kd-mse-smoke"],
    "kd-mse-gt-smoke": PROTOCOLS["kd-mse-gt-smoke"],
    "steps": dataclasses.replace(
        PROTOCOLS["dc-steps-smoke"],
        recipe=dataclasses.replace(PROTOCOLS["dc-steps-smoke"].recipe, batch=5),
        length=dataclasses.replace(PROTOCOLS["dc-steps-smoke"].length, epochs=9),
    ),
    "gathered": dataclasses.replace(
        PROTOCOLS["dc-smoke"],
        recipe=dataclasses.replace(DC, batch=2, accumulation=Accumulation(2)),
        length=Epochs(10),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_training_goes_on_where_it_was_killed(name: str, tmp_path: Path) -> None:
    """Killed at a pass in the second half, where rates have fallen and optimisers been built afresh."""
    protocol, data = RESUMED[name], toy(shape=SHAPE)

    def train(**settings: object) -> tuple[float, list[Tensor]]:
        context = Context(arch=ARCH, **settings)
        distilled = small_set(factor=2 if name == "steps" else 1)
        training_set = training_set_of(distilled, protocol, context.device)
        net = context.network(data)
        loss = train_network(net, training_set, protocol, context, teacher=a_teacher())
        return loss, list(net.parameters())

    work = {"work": tmp_path, "checkpoint_seconds": 0.0}
    with pytest.raises(StoppedEarly):
        train(stop_after=2 if name == "steps" else 7, **work)
    again, whole = train(**work), train()
    assert again[0] == whole[0]
    assert all(torch.equal(one, other) for one, other in zip(again[1], whole[1], strict=True))
