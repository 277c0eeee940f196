"""Evaluation against the authors' schedule and loss trace, and its firewall."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support import assert_close, golden, golden_network, tensor

from harness import evaluate as evaluation
from harness.data import Normalization
from harness.data.toy import toy
from harness.errors import FirewallError, UserError
from harness.evaluate import TrainingSet, evaluate, train_network
from harness.protocol import PROTOCOLS, Protocol
from methods import random
from methods.api import Context

SHORT = Protocol("short", "for tests", epochs=3)


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 10, 300, 1000])
def test_schedule_matches_authors(epochs: int) -> None:
    protocol = Protocol("any", "", epochs=epochs)
    rates = [protocol.lr_in(epoch) for epoch in range(protocol.epochs_run)]
    torch.testing.assert_close(
        torch.tensor(rates), tensor(golden("eval_lr_schedules")[f"dc_E{epochs}"]).float()
    )


def test_dc_1000_is_the_fields_protocol() -> None:
    protocol = PROTOCOLS["dc-1000"]
    assert (protocol.epochs_run, protocol.decay_after, protocol.batch) == (1001, 501, 256)
    assert (protocol.lr, protocol.momentum, protocol.weight_decay, protocol.decay) == (0.01, 0.9, 5e-4, 0.1)


@pytest.mark.parametrize("case", ["e4", "e10"])
def test_training_matches_authors(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("eval_synset")
    net = golden_network(arrays, "w", "wnames", "ConvNet")
    protocol = Protocol("golden", "", epochs=int(arrays[f"{case}_E"]), lr=float(arrays[f"{case}_lr_net"]))
    losses: list[float] = []
    train_step = evaluation.train_step

    def spy(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        loss, hits = train_step(*arguments)
        losses.append(float(loss))
        return loss, hits

    monkeypatch.setattr(evaluation, "train_step", spy)
    training_set = TrainingSet(tensor(arrays["x"]), tensor(arrays["y"]).long())
    in_order = lambda: torch.arange(12).split(5)  # noqa: E731
    last = train_network(net, training_set, protocol, Context(), batches=in_order)
    torch.testing.assert_close(
        torch.tensor(losses), tensor(arrays[f"{case}_batch_loss"]).flatten().float(), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(last, float(arrays[f"{case}_loss"][-1]), rtol=1e-4, atol=0)
    for k, value in enumerate(net.parameters()):
        assert_close(value, arrays[f"{case}_wf{k:02d}"], relative=1e-4)
    with torch.no_grad():
        hits = net.eval()(tensor(arrays["x_test"])).argmax(1) == tensor(arrays["y_test"])
    assert float(hits.float().mean()) == pytest.approx(float(arrays[f"{case}_test"][1]))


def test_networks_learn_and_are_scored_apart() -> None:
    data = toy(num_classes=3, shape=(3, 16, 16))
    distilled = random.distill(data, 5, context=Context(arch="ConvNetW8"))
    plain = dataclasses.replace(distilled, augmentation="")
    result = evaluate(plain, data, Protocol("t", "", epochs=30), evals=3, context=Context(arch="ConvNetW8"))
    assert len(result.accuracies) == len(set(result.train_losses)) == 3
    assert min(result.accuracies) > 0.8
    assert result.decoded_images == 15


def test_same_seed_same_numbers_and_another_seed_others() -> None:
    data = toy(shape=(3, 16, 16))
    distilled = random.distill(data, 2, context=Context(arch="ConvNetW8"))
    runs = [
        evaluate(distilled, data, SHORT, evals=2, context=Context(seed, arch="ConvNetW8")).train_losses
        for seed in (5, 5, 6)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_test_split_is_opened_once_and_only_after_training(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy()
    distilled = random.distill(data, 1, context=Context(arch="ConvNetW8"))
    looks_while_training = []
    train = evaluation.train_network

    def spy(*arguments: object, **named: object) -> float:
        looks_while_training.append(data.test_looks)
        return train(*arguments, **named)

    monkeypatch.setattr(evaluation, "train_network", spy)
    result = evaluate(distilled, data, SHORT, evals=3, context=Context(arch="ConvNetW8"))
    assert looks_while_training == [0, 0, 0]
    assert result.test_looks == data.test_looks == 1


def test_a_training_loop_that_touches_the_test_split_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy()
    distilled = random.distill(data, 1, context=Context(arch="ConvNetW8"))

    def cheat(*arguments: object, **named: object) -> float:
        return float(data.test().labels.sum())

    monkeypatch.setattr(evaluation, "train_network", cheat)
    with pytest.raises(FirewallError):
        evaluate(distilled, data, SHORT, evals=1, context=Context(arch="ConvNetW8"))


def test_a_set_of_another_shape_or_normalisation_is_refused() -> None:
    data = toy(shape=(3, 8, 8))
    distilled = random.distill(data, 1, context=Context(arch="ConvNetW8"))
    other = dataclasses.replace(distilled, transform=Normalization.of([0.0] * 3, [1.0] * 3))
    with pytest.raises(UserError, match="normalised otherwise"):
        evaluate(other, data, SHORT, evals=1, context=Context(arch="ConvNetW8"))
    with pytest.raises(UserError, match="the distilled set is for 3 classes"):
        evaluate(distilled, toy(shape=(1, 8, 8)), SHORT, evals=1, context=Context(arch="ConvNetW8"))


def test_pieces_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(shape=(3, 16, 16))
    distilled = random.distill(data, 6, context=Context(arch="ConvNetW8"))
    losses = []
    for rows in (None, 5):
        monkeypatch.setattr(evaluation, "rows_per_piece", lambda net, shape, rows=rows: rows)
        result = evaluate(distilled, data, SHORT, evals=1, context=Context(arch="ConvNetW8"))
        losses.append(result.train_losses[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
