"""Distances of gradients, and their descent, against the authors' figures and a plain loop over classes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scripted import ScriptedContext, ScriptedData
from support import assert_close, golden, golden_network, tensor
from torch import Tensor

from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.errors import UnknownNameError
from harness.core.nets import Network
from harness.core.siamese import Siamese
from methods.shared.gradients import (
    DISTANCES,
    GradientMatcher,
    double_backward,
    functional_slope,
    gradient_distance,
    matched_parameters,
    mean_gradients,
)
from methods.shared.matching import MeanDistance, Seen

METHODS = ("dc", "dsa", "dcc")
NOT_AUGMENTED = Siamese("", None)


@pytest.mark.golden("match_distance_raw", *METHODS)
@pytest.mark.parametrize("metric", ["ours", "mse", "cos"])
def test_distances_of_the_authors(metric: str) -> None:
    arrays = golden("match_distance_raw")
    count = sum(re.fullmatch(r"r\d+", name) is not None for name in arrays)
    real = [tensor(arrays[f"r{k}"]) for k in range(count)]
    synthetic = [tensor(arrays[f"s{k}"]).requires_grad_() for k in range(count)]
    distance = gradient_distance(real, synthetic, metric)
    assert_close(distance, arrays[metric])
    gradients = torch.autograd.grad(distance, synthetic, allow_unused=True)
    for k, gradient in enumerate(gradients):
        if f"{metric}_grad{k}" in arrays:
            assert gradient is not None
            assert_close(gradient, arrays[f"{metric}_grad{k}"])
        else:
            assert gradient is None or not gradient.any()


def only_class(arrays: dict[str, Any]) -> tuple[ScriptedData, Network]:
    """The real images as a dataset of one class, and the golden network with that class put first."""
    label, count = int(arrays["label"]), len(arrays["x_real"])
    first = torch.zeros(count, dtype=torch.int64).numpy()
    rows = torch.arange(count).view(1, 1, -1).numpy()
    data = ScriptedData({"images": arrays["x_real"], "labels": first, "init_idx": rows[0], "real_idx": rows})
    net = golden_network(arrays, "w", "wnames", "ConvNet")
    for parameter in net.classifier.parameters():
        parameter.data = exchanged(parameter.data, label)
    return data, net


def exchanged(rows: Tensor, label: int) -> Tensor:
    """Rows of all classes with that of the label and the first one in each other's place."""
    order = torch.arange(len(rows))
    order[[0, label]] = order[[label, 0]]
    return rows[order]


@pytest.mark.golden("match_gradient", *METHODS)
@pytest.mark.parametrize("metric", ["ours", "mse", "cos"])
def test_gradients_of_the_authors_network(metric: str) -> None:
    arrays = golden("match_gradient")
    data, net = only_class(arrays)
    matcher = GradientMatcher(ScriptedContext([]), data, net)  # type: ignore[arg-type]
    parameters = list(net.parameters())
    batch = data.index.draw(len(data), None)
    real = matcher.real_gradients(net, parameters, batch, NOT_AUGMENTED)
    of_classifier = {id(parameter) for parameter in net.classifier.parameters()}
    for k, (parameter, gradient) in enumerate(zip(parameters, real[0], strict=True)):
        if f"g_real{k:02d}" in arrays:
            of_all = exchanged(gradient, int(arrays["label"])) if id(parameter) in of_classifier else gradient
            assert_close(of_all, arrays[f"g_real{k:02d}"])
    images = tensor(arrays["x_syn"]).requires_grad_()
    losses = matcher.descend(net, parameters, images, NOT_AUGMENTED, real, metric)
    assert_close(losses, arrays[metric][None])
    assert images.grad is not None
    assert_close(images.grad, arrays[f"grad_{metric}"])


@pytest.mark.golden("match_gradient", "dm")
def test_distance_of_means_in_the_authors_network() -> None:
    arrays = golden("match_gradient")
    net = golden_network(arrays, "w", "wnames", "ConvNet")
    images, real = tensor(arrays["x_syn"]).requires_grad_(), net.embed(tensor(arrays["x_real"])).detach()
    distance = MeanDistance.to(real, (len(real),))(Seen(net.embed(images)[None], classes=slice(0, 1)))
    assert_close(distance[0], arrays["dm"])
    assert_close(*torch.autograd.grad(distance.sum(), images), arrays["grad_dm"])


def plain_descent(
    net: Network, parameters: list[Tensor], real: list[tuple[Tensor, ...]], shown: list[Tensor], metric: str
) -> Tensor:
    """The losses of the classes, one after the other, by the definition."""
    losses = []
    for c, images in enumerate(shown):
        entropy = F.cross_entropy(net(images), torch.full((len(images),), c))
        got = torch.autograd.grad(entropy, parameters, create_graph=True)
        losses.append(gradient_distance(real[c], got, metric))
    return torch.stack(losses)


@pytest.mark.slow
@pytest.mark.parametrize("metric", sorted(DISTANCES))
@pytest.mark.parametrize("strategy", ["", "color_crop_flip"])
def test_descent_is_that_of_a_plain_loop(metric: str, strategy: str) -> None:
    data = toy(num_classes=3, shape=(3, 16, 16), per_class=12)
    context = Context(arch="ConvNetW8D2")
    net = context.network(data)
    parameters = matched_parameters(net, biases=metric != "ours", classifier=True)
    matcher = GradientMatcher(context, data, net)
    siamese = Siamese.draw(strategy, data, context)
    batch = data.index.draw(8, context.generator("real"))
    real = matcher.real_gradients(net, parameters, batch, siamese)
    images = torch.randn(6, 3, 16, 16, requires_grad=True)
    losses = matcher.descend(net, parameters, images, siamese, real, metric)
    by_class = [siamese(images[2 * c : 2 * c + 2], torch.full((2,), c)) for c in range(3)]
    plain = plain_descent(net, parameters, real, by_class, metric)
    assert_close(losses, plain.detach().numpy())
    (gradient,) = torch.autograd.grad(plain.sum(), images)
    assert images.grad is not None
    assert_close(images.grad, gradient.numpy())


@pytest.mark.parametrize("metric", sorted(DISTANCES))
def test_what_is_compiled_is_the_double_backward_pass(metric: str) -> None:
    data = toy(num_classes=3, shape=(3, 16, 16), per_class=12)
    context = Context(arch="ConvNetW8D2")
    net = context.network(data)
    parameters = matched_parameters(net, biases=metric == "mse", classifier=metric != "l1")
    matcher, batch = GradientMatcher(context, data, net), data.index.draw(8, context.generator("real"))
    real = matcher.real_gradients(net, parameters, batch, NOT_AUGMENTED)[1]
    images, labels = torch.randn(4, 3, 16, 16), torch.ones(4, dtype=torch.int64)
    one, other = (
        make(context)(net, parameters, images, labels, real, metric)
        for make in (double_backward, functional_slope)
    )
    for ours, plain in zip(other, one, strict=True):
        assert not ours.requires_grad
        assert_close(ours, plain.numpy())


def test_real_images_in_pieces_give_the_same_gradients() -> None:
    data = toy(num_classes=3, shape=(3, 16, 16), per_class=12)
    context = Context(arch="ConvNetW8D2")
    net = context.network(data)
    matcher, batch = GradientMatcher(context, data, net), data.index.draw(10, context.generator("real"))
    parameters = list(net.parameters())
    whole = matcher.real_gradients(net, parameters, batch, NOT_AUGMENTED)
    matcher.rows_at_once = 4
    for one, other in zip(whole, matcher.real_gradients(net, parameters, batch, NOT_AUGMENTED), strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_mean_gradients_are_those_of_all_classes_together() -> None:
    data = toy(num_classes=3, shape=(3, 16, 16), per_class=12)
    context = Context(arch="ConvNetW8D2")
    net = context.network(data)
    matcher, parameters = GradientMatcher(context, data, net), list(net.parameters())
    batch = data.index.draw(5, context.generator("real"))
    mean = mean_gradients(matcher.real_gradients(net, parameters, batch, NOT_AUGMENTED))
    entropy = F.cross_entropy(net(data.batch(batch.indices)), data.labels[batch.indices])
    for ours, plain in zip(mean, torch.autograd.grad(entropy, parameters), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


def test_which_parameters_are_matched() -> None:
    data = toy(num_classes=3, shape=(3, 16, 16), per_class=4)
    net = Context(arch="ConvNetW8D2").network(data)
    kinds = {
        (biases, classifier): [p.ndim for p in matched_parameters(net, biases=biases, classifier=classifier)]
        for biases in (False, True)
        for classifier in (False, True)
    }
    assert kinds[False, False] == [4, 4]
    assert kinds[False, True] == [4, 4, 2]
    assert kinds[True, True] == [p.ndim for p in net.parameters()]


def test_unknown_distances_are_named() -> None:
    with pytest.raises(UnknownNameError, match="gradient distance 'our'; did you mean 'ours'"):
        gradient_distance([], [], "our")
