"""Losses of evaluations: the authors' values and gradients, and what a temperature does to them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support import assert_close, golden, tensor
from torch import Tensor

from harness.engine.losses import Targets, summed
from harness.engine.parts import KL, CrossEntropy, Loss, SoftCrossEntropy, SquaredError


def loss_and_gradient(loss: Loss, logits: Tensor, rows: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over rows, and its gradient with respect to the logits."""
    student = logits.clone().requires_grad_()
    value = summed(loss)(student, Targets(rows, classes)) / len(logits)
    value.backward()
    assert student.grad is not None
    return value.detach(), student.grad


@pytest.mark.golden("loss_soft")
def test_losses_and_their_gradients_are_the_authors() -> None:
    arrays = golden("loss_soft")
    student, teacher, classes = (tensor(arrays[name]) for name in ("student", "teacher", "y"))
    cases: dict[str, Loss] = {}
    for name in arrays:
        case, _, what = name.partition("_")
        if what == "T":
            temperature, scaled = float(arrays[name]), bool(arrays[f"{case}_scale"])
            cases[f"{case}_kl"] = KL(temperature, scaled=scaled)
            cases[f"{case}_sce"] = SoftCrossEntropy(temperature, scaled=scaled)
        elif what == "mse_weight":
            cases[case] = SquaredError(float(arrays[name]), float(arrays[f"{case}_ce_weight"]))
    assert len(cases) >= 3
    for case, loss in cases.items():
        value, gradient = loss_and_gradient(loss, student, teacher, classes)
        assert_close(value, arrays[f"{case}_loss"], 5e-5 if isinstance(loss, KL) else 2e-5)
        assert_close(gradient, arrays[f"{case}_grad"])


@pytest.mark.golden("loss_soft")
def test_the_cross_entropy_takes_stored_probabilities() -> None:
    arrays = golden("loss_soft")
    student, teacher, classes = (tensor(arrays[name]) for name in ("student", "teacher", "y"))
    rows = (float(arrays["label_temp"]) * teacher).softmax(dim=1)
    assert_close(rows, arrays["label"])
    value, gradient = loss_and_gradient(CrossEntropy(), student, rows, classes)
    assert_close(value, arrays["ce_prob_loss"])
    assert_close(gradient, arrays["ce_prob_grad"])


@pytest.mark.parametrize("kind", [KL, SoftCrossEntropy])
def test_scaling_by_the_square_of_the_temperature_gives_the_gradient_its_size_back(
    kind: type[KL] | type[SoftCrossEntropy],
) -> None:
    """Far above the logits' range the gradient shrinks as 1 / T^2, and scaled it no longer depends on T."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 5, generator=generator).double()
    classes = torch.zeros(6, dtype=torch.int64)

    def size(temperature: float, scaled: bool) -> float:
        loss = kind(temperature, scaled=scaled)
        return float(loss_and_gradient(loss, student, teacher, classes)[1].norm())

    assert size(200, scaled=False) == pytest.approx(size(100, scaled=False) / 4, rel=0.02)
    assert size(200, scaled=True) == pytest.approx(size(100, scaled=True), rel=0.02)
    assert size(7, scaled=True) == pytest.approx(49 * size(7, scaled=False))


def test_a_squared_error_may_be_added_up_over_classes() -> None:
    logits, rows = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0))
    targets = Targets(rows, torch.zeros(4, dtype=torch.int64))
    mean, total = (float(summed(SquaredError(summed=added))(logits, targets)) for added in (False, True))
    assert total == pytest.approx(5 * mean)
    assert mean / 4 == pytest.approx(float(F.mse_loss(logits, rows)))
