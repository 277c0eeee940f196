"""What is measured on test images: accuracies, likelihood and calibration against plain loops."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.data.toy import toy
from harness.engine.evaluate import evaluate
from harness.engine.parts import Epochs
from harness.engine.protocol import DC, Protocol
from harness.engine.scoring import CALIBRATION_BINS, Answers, answers
from methods import random

SHORT = Protocol("short", "for tests", DC, Epochs(3))


def made_up(count: int = 500, classes: int = 4) -> tuple[Answers, Tensor, Tensor]:
    """Answers of no network, with the probabilities (count, classes) and classes that they come from."""
    generator = torch.Generator().manual_seed(1)
    rows = (2 * torch.randn(count, classes, generator=generator)).double().softmax(dim=1)
    labels = torch.randint(classes, (count,), generator=generator)
    best = rows.max(dim=1)
    likelihood = rows.gather(1, labels[:, None]).log().flatten()
    return Answers(best.indices, best.values.float(), likelihood, labels), rows, labels


def test_the_calibration_error_is_that_of_a_loop_over_bins() -> None:
    found, rows, labels = made_up()
    confidence = rows.max(dim=1).values.float()
    right = rows.argmax(dim=1) == labels
    total = 0.0
    for k in range(CALIBRATION_BINS):
        inside = (confidence > k / CALIBRATION_BINS) & (confidence <= (k + 1) / CALIBRATION_BINS)
        if inside.any():
            gap = right[inside].double().mean() - confidence[inside].double().mean()
            total += float(gap.abs() * inside.sum()) / len(labels)
    assert found.calibration_error() == pytest.approx(total)
    assert CALIBRATION_BINS == 15


def test_a_network_that_is_as_sure_as_it_is_right_is_calibrated() -> None:
    labels = torch.zeros(10, dtype=torch.int64)
    predicted = torch.tensor([0] * 7 + [1] * 3)
    sure = Answers(predicted, torch.full((10,), 0.7), torch.zeros(10).double(), labels)
    assert sure.calibration_error() == pytest.approx(0, abs=1e-7)
    boasting = dataclasses.replace(sure, probability=torch.ones(10))
    assert boasting.calibration_error() == pytest.approx(0.3)


def test_accuracies_and_likelihood_are_those_of_plain_loops() -> None:
    found, rows, labels = made_up()
    right = [int(rows[k].argmax() == labels[k]) for k in range(len(labels))]
    assert found.accuracy == sum(right) / len(right)
    for c, accuracy in enumerate(found.class_accuracies(5)):
        own = [right[k] for k in range(len(labels)) if labels[k] == c]
        assert accuracy == pytest.approx(sum(own) / max(1, len(own)))
    logs = [-math.log(float(rows[k, labels[k]])) for k in range(len(labels))]
    assert found.negative_log_likelihood == pytest.approx(sum(logs) / len(logs))


def test_what_a_network_says_is_what_its_logits_say() -> None:
    data, context = toy(shape=(3, 16, 16)), Context(arch="ConvNetW8")
    net, test = context.network(data), data.test()
    found = answers(net, test, context)
    with torch.no_grad():
        rows = net(test.batch(slice(None))).softmax(dim=1)
    assert torch.equal(found.predicted, rows.argmax(dim=1))
    torch.testing.assert_close(found.probability, rows.max(dim=1).values)
    assert found.negative_log_likelihood == pytest.approx(
        float(-rows.gather(1, test.labels[:, None]).log().mean()), rel=1e-5
    )


def test_an_evaluation_tells_how_it_was_made_and_what_each_network_said() -> None:
    data = toy(shape=(3, 16, 16))
    distilled = dataclasses.replace(
        random.distill(data, 2, context=Context(arch="ConvNetW8")), augmentation="color_crop"
    )
    found = evaluate(distilled, data, SHORT, evals=2, context=Context(3, arch="ConvNetW8"))
    assert (found.regime, found.augmentation, found.tried_rates) == ("hard", "color_crop", [])
    assert (found.optimizer_steps, found.images_per_epoch, found.learning_rate) == (4, 6, 0.01)
    assert found.predicted.shape == found.probabilities.shape == (2, 30)
    assert torch.equal(found.test_labels, data.test().labels)
    shares = (found.predicted == found.test_labels).double().mean(dim=1)
    assert shares.tolist() == pytest.approx(found.accuracies)
    assert len(found.negative_log_likelihoods) == len(found.calibration_errors) == 2
    assert all(0 <= error <= 1 for error in found.calibration_errors)
    assert bool(((found.probabilities >= 1 / 3 - 1e-6) & (found.probabilities <= 1)).all())
