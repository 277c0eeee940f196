"""All classes at once against the authors' loop over classes, written out plainly."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.core.augment import FULL_STRATEGY, augment
from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.formation import decode
from harness.core.siamese import Siamese
from methods import bacon
from methods.shared import kernels
from methods.shared.classwise_sgd import ClasswiseSGD
from methods.shared.matching import ClassMatcher, MeanDistance, Seen, distance_and_entropy
from methods.shared.starts import initial_images


@settings(max_examples=30)
@given(
    st.integers(1, 7),
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.integers(0, 999),
)
def test_joint_step_equals_a_step_per_class(
    classes: int, ipc: int, iterations: int, momentum: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(classes * ipc, 1, 2, 2, generator=generator, dtype=torch.float64)
    targets = torch.randn(iterations, *start.shape, generator=generator, dtype=torch.float64)

    looped = start.clone().requires_grad_()
    plain = torch.optim.SGD([looped], lr=0.1, momentum=momentum)
    for target in targets:
        for c in range(classes):
            rows = slice(c * ipc, (c + 1) * ipc)
            plain.zero_grad()
            (0.5 * (looped[rows] - target[rows]).square()).sum().backward()
            plain.step()

    joint = start.clone().requires_grad_()
    optimizer = ClasswiseSGD(joint, classes, 0.1, momentum)
    for target in targets:
        joint.grad = (joint.detach() - target).clone()
        optimizer.step()
    torch.testing.assert_close(optimizer.as_stopped(), looped.detach(), rtol=1e-12, atol=1e-12)


def looped_distances(
    net: torch.nn.Module, images: Tensor, real: list[Tensor], siamese: Siamese, bayesian: bool
) -> tuple[Tensor, Tensor]:
    """Per-class losses and the image gradient, one class after another as the authors do."""
    leaf = images.detach().clone().requires_grad_()
    ipc = len(images) // len(real)
    losses = []
    for c, batch in enumerate(real):
        own = decode(leaf[c * ipc : (c + 1) * ipc], 2)
        if siamese.draws is not None:
            batch = augment(batch, siamese.strategy, siamese.draws.rows(torch.full((len(batch),), c)))
            own = augment(own, siamese.strategy, siamese.draws.rows(torch.full((len(own),), c)))
        with torch.no_grad():
            target = net.embed(batch)
        features, logits = net.embed_and_logits(own)
        if bayesian:
            gap = features.mean(0) - target.mean(0)
            std = target.std(0)
            density = torch.distributions.Normal(target.mean(0), std.exp())
            match = -density.log_prob(features.mean(0)).sum() + 0.8 * 0.5 * gap.abs().sum()
        else:
            match = (target.mean(0) - features.mean(0)).square().sum()
        losses.append(match + 7.0 * F.cross_entropy(logits, torch.full((len(own),), c)))
    torch.stack(losses).sum().backward()
    assert leaf.grad is not None
    return torch.stack(losses).detach(), leaf.grad


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["", FULL_STRATEGY])
@pytest.mark.parametrize("bayesian", [False, True])
@pytest.mark.parametrize("rows_at_once", [None, 8, 20])
def test_all_classes_at_once_equal_the_loop(strategy: str, bayesian: bool, rows_at_once: int | None) -> None:
    context = Context(arch="ConvNetW8")
    data = toy(num_classes=4, shape=(3, 16, 16), per_class=12)
    net = context.network(data)
    images = initial_images(data, 2, 2, context).requires_grad_()
    siamese = Siamese.draw(strategy, data, context)
    batch = data.index.draw(9, context.generator("real"))

    matcher = ClassMatcher(context, data, net, factor=2)
    matcher.rows_at_once = rows_at_once
    real = matcher.real_features(net, batch, siamese)
    loss = (
        partial(distance_and_entropy, bacon.Posterior.of(bacon.Weights(), real, batch.sizes), 7.0)
        if bayesian
        else partial(distance_and_entropy, MeanDistance.to(real, batch.sizes), 7.0)
    )
    losses = matcher.descend(net, images, siamese, loss)

    parts = list(data.batch(batch.indices).split(list(batch.sizes)))
    plain_losses, plain_gradient = looped_distances(net, images, parts, siamese, bayesian)
    torch.testing.assert_close(losses, plain_losses, rtol=1e-5, atol=0)
    scale = float(plain_gradient.abs().max())
    assert float((images.grad - plain_gradient).abs().max()) <= 2e-5 * scale


def test_classes_of_unequal_size_are_matched_by_what_they_have() -> None:
    context = Context(arch="ConvNetW8")
    data = toy(num_classes=3, shape=(1, 8, 8), per_class=6)
    net = context.network(data)
    matcher = ClassMatcher(context, data, net)
    batch = data.index.draw(50, context.generator("real"))
    assert batch.sizes == (6, 6, 6)
    features = matcher.real_features(net, batch, Siamese.draw("", data, context))
    torch.testing.assert_close(features, net.embed(data.batch(batch.indices)).detach())


def test_clip_prior_is_what_the_paper_variant_adds() -> None:
    data = toy(shape=(3, 8, 8))
    losses, images = {}, {}
    for name, weight in (("code", 0.0), ("paper", 0.2)):
        config = bacon.Config(iterations=1, clip_weight=weight, train_steps=0)
        context = Context(arch="ConvNetW8", on_progress=lambda p, name=name: losses.update({name: p.loss}))
        images[name] = bacon.distill(data, 1, config=config, context=context).images
    assert losses["paper"] > losses["code"]
    assert not torch.equal(images["code"], images["paper"])
    real, synthetic = torch.randn(2, 5, 4), torch.randn(2, 3, 4)
    posterior = bacon.Posterior.of(bacon.Weights(clip_weight=0.5), real.flatten(0, 1), (5, 5))
    torch.testing.assert_close(
        posterior.clip(Seen(synthetic, classes=slice(0, 2))), 0.5 * kernels.clip_prior(real, synthetic)
    )
