"""What the speed gate times: the methods' own code at the papers' shapes, and plain loops that do the same.

- `prepare-*`: a distance is prepared from the embeddings of 256 real images of each class;
- `distance-*`: it is then called, and differentiated, for the synthetic embeddings of ten classes;
- `descend-*`: `ClassMatcher.descend` with that distance in the method's loss, for 10 and 100 classes and ipc
  1, 10 and 50. Images stand for their own embeddings there, or the network would take all of the time;
- `network`: a step of `descend` with a ConvNet, tiles and augmentation, as BACON at ipc 1 makes it;
- `pool` and `evaluation`: a training step of the network pool, and one of the evaluation.

The pieces in which images pass are those of a ConvNet on 32x32 images, embeddings have its 2048 features.
Networks see few images, of which each takes as long as of many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.augment import FULL_STRATEGY, augment_batch
from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.formation import decode
from harness.core.nets import Network
from harness.core.siamese import Siamese
from harness.engine.parts import SGD, Epochs
from harness.engine.protocol import protocol_named
from harness.engine.training import TrainingSet, train_network
from methods import bacon
from methods.shared.matching import (
    ClassLoss,
    ClassMatcher,
    DistanceTo,
    MeanDistance,
    Seen,
    distance_and_entropy,
)
from methods.shared.pool import NetworkPool, PoolSettings

SHAPE = (3, 32, 32)
FEATURES = 2048
BATCH_REAL = 256
CE_WEIGHT = 20.0
NETWORK_CLASSES, NETWORK_IPC = 10, 1
POOL_BATCH = 64  # of 256: four of sixteen equal pieces
EVALUATED = 40  # images that BACON has at ipc 1 of ten classes

DISTANCES: dict[str, DistanceTo] = {"dm": MeanDistance.to, "bacon": bacon.distance_to(bacon.Weights())}
# Means (D,) and, for BACON, standard deviations of the embeddings of the real images of a class.
Statistics = tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """Two builders of what is timed: a call of the method's code, and of a plain loop that computes the same.

    Both calls return the same tensor, except where there is no plain loop.
    """

    ours: Callable[[], Callable[[], Any]]
    plain: Callable[[], Callable[[], Any]] | None = None


@cache
def real_embeddings(classes: int) -> Tensor:
    """Embeddings (classes * 256, 2048) of real images, class after class."""
    return torch.randn(classes * BATCH_REAL, FEATURES, generator=torch.Generator().manual_seed(0))


def synthetic_images(classes: int, ipc: int) -> Tensor:
    """Images (classes * ipc, 2048, 1, 1) that stand for their embeddings, a leaf."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(classes * ipc, FEATURES, 1, 1, generator=generator).requires_grad_()


def runtime() -> Context:
    """A context whose loops neither count nor compile."""
    return Context(count=False, compile_loops=False)


def loss_of(method: str, classes: int) -> ClassLoss:
    """What a method minimises, given real embeddings."""
    real, sizes = real_embeddings(classes), (BATCH_REAL,) * classes
    if method == "bacon":
        return partial(distance_and_entropy, bacon.Posterior.of(bacon.Weights(), real, sizes), CE_WEIGHT)
    distance = MeanDistance.to(real, sizes)
    return distance if method == "dm" else partial(distance_and_entropy, distance, CE_WEIGHT)


def embedding_and_slice(net: Network, images: Tensor) -> Seen:
    """Images as their own embeddings (n, D), and some of the features as logits (n, C)."""
    features = images.flatten(1)
    return Seen(features, features[:, : net.classifier.out_features])


def stand_in(classes: int) -> tuple[ClassMatcher, Network]:
    """A matcher that passes images as a ConvNet would have them passed, but not through that."""
    context, data = runtime(), toy(classes, SHAPE, per_class=1)
    net = context.network(data)
    return ClassMatcher(context, data, net, view=embedding_and_slice), net


def prepare(distance: str, classes: int) -> Callable[[], Any]:
    """The real side of a distance."""
    return partial(DISTANCES[distance], real_embeddings(classes), (BATCH_REAL,) * classes)


def plain_prepare(distance: str, classes: int) -> Callable[[], list[Statistics]]:
    """Its statistics, class after class."""
    classwise = real_embeddings(classes).split(BATCH_REAL)
    return lambda: [plain_statistics(distance, real) for real in classwise]


def plain_statistics(distance: str, real: Tensor) -> Statistics:
    """What a distance needs to know of the real images of a class."""
    return (real.mean(0),) if distance == "dm" else (real.mean(0), real.std(0).exp())


def call_distance(distance: str, ipc: int, classes: int = 10) -> Callable[[], Tensor]:
    """A distance and its gradient, for as many classes at a time as `descend` has."""
    matcher, _ = stand_in(classes)
    synthetic = synthetic_images(classes, ipc).detach().view(classes, ipc, FEATURES)
    measure = prepare(distance, classes)()
    groups = [(group, synthetic[group].clone().requires_grad_()) for group in matcher.groups(ipc)]

    def forward_and_backward() -> Tensor:
        losses = [(measure(Seen(leaf, classes=group)).sum(), leaf) for group, leaf in groups]
        return torch.cat([torch.autograd.grad(loss, leaf)[0] for loss, leaf in losses])

    return forward_and_backward


def descend(method: str, classes: int, ipc: int) -> Callable[[], Tensor]:
    """The gradient of a method's class losses."""
    (matcher, net), images = stand_in(classes), synthetic_images(classes, ipc)
    loss = loss_of(method, classes)

    def gradient() -> Tensor:
        matcher.descend(net, images, Siamese("", None), loss)
        return gradient_of(images)

    return gradient


def plain_descend(method: str, classes: int, ipc: int) -> Callable[[], Tensor]:
    """The same, a backward pass for each class, which fills a gradient of all images each time."""
    distance = "bacon" if method == "bacon" else "dm"
    images, known = synthetic_images(classes, ipc), plain_prepare(distance, classes)()

    def gradient() -> Tensor:
        images.grad = None
        for c, statistics in enumerate(known):
            own = images[c * ipc : (c + 1) * ipc].flatten(1)
            loss = plain_distance(statistics, own.mean(0))
            if method != "dm":
                labels = torch.full((ipc,), c)
                loss = loss + CE_WEIGHT * F.cross_entropy(own[:, :classes], labels)
            loss.backward()
        return gradient_of(images)

    return gradient


def plain_distance(statistics: Statistics, synthetic_mean: Tensor) -> Tensor:
    """Squared distance of means, or BACON's by way of a density, of one class."""
    real_mean, *sigma = statistics
    gap = synthetic_mean - real_mean
    if not sigma:
        return gap.square().sum()
    density = torch.distributions.Normal(real_mean, sigma[0], validate_args=False)
    return -density.log_prob(synthetic_mean).sum() + 0.8 * 0.5 * gap.abs().sum()


def network() -> Callable[[], Tensor]:
    """The gradient of BACON's class losses through a ConvNet."""
    context, data = runtime(), toy(NETWORK_CLASSES, SHAPE, per_class=1)
    net = context.network(data)
    matcher, images = ClassMatcher(context, data, net, factor=2), network_images()
    siamese = Siamese.draw(FULL_STRATEGY, data, context)
    loss = loss_of("bacon", NETWORK_CLASSES)

    def gradient() -> Tensor:
        matcher.descend(net, images, siamese, loss)
        return gradient_of(images)

    return gradient


def plain_network() -> Callable[[], Tensor]:
    """The same, class after class, with the gradients of the network's weights computed along."""
    context, data = runtime(), toy(NETWORK_CLASSES, SHAPE, per_class=1)
    net, images = context.network(data), network_images()
    siamese = Siamese.draw(FULL_STRATEGY, data, context)
    known = plain_prepare("bacon", NETWORK_CLASSES)()

    def gradient() -> Tensor:
        images.grad = None
        net.zero_grad()
        for c, statistics in enumerate(known):
            decoded = decode(images[c * NETWORK_IPC : (c + 1) * NETWORK_IPC], 2)
            labels = torch.full((len(decoded),), c)
            features, logits = net.embed_and_logits(siamese(decoded, labels))
            loss = plain_distance(statistics, features.mean(0))
            (loss + CE_WEIGHT * F.cross_entropy(logits, labels)).backward()
        return gradient_of(images)

    return gradient


def network_images() -> Tensor:
    """Images (10, 3, 32, 32) of four tiles each, a leaf."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(NETWORK_CLASSES * NETWORK_IPC, *SHAPE, generator=generator).requires_grad_()


def gradient_of(images: Tensor) -> Tensor:
    """Their gradient, which must be there."""
    assert images.grad is not None
    return images.grad


def pool_step() -> Callable[[], Tensor]:
    """A training step of a member of the pool; the loss before it."""
    context, data = runtime(), toy(10, SHAPE, per_class=POOL_BATCH // 8)
    pool = NetworkPool(context, data, PoolSettings(pool_start=1))
    return lambda: pool.train_member(pool.members[0], torch.arange(POOL_BATCH))


def plain_pool_step() -> Callable[[], Tensor]:
    """The same, all images at once."""
    context, data = runtime(), toy(10, SHAPE, per_class=POOL_BATCH // 8)
    net, settings = context.network(data), PoolSettings()
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=settings.lr_net,
        momentum=settings.momentum_net,
        weight_decay=settings.weight_decay,
    )

    def step() -> Tensor:
        optimizer.zero_grad()
        images, labels = data.batch(torch.arange(POOL_BATCH)), data.labels[:POOL_BATCH]
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def evaluation_step() -> Callable[[], Tensor]:
    """An epoch of one batch of the field's evaluation; the loss before it."""
    training_set, net = evaluated()
    protocol = replace(protocol_named("dc-1000"), length=Epochs(0))  # the field's loop runs over 0..E
    return lambda: torch.tensor(train_network(net, training_set, protocol, runtime()))


def plain_evaluation_step() -> Callable[[], Tensor]:
    """The same, all images at once."""
    training_set, net = evaluated()
    sgd = protocol_named("dc-1000").recipe.optimiser
    assert isinstance(sgd, SGD)

    def step() -> Tensor:
        context = runtime()
        optimizer = torch.optim.SGD(
            net.parameters(), lr=sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay
        )
        order = torch.randperm(EVALUATED, generator=context.generator("shuffle"))
        images = augment_batch(
            training_set.images[order], training_set.strategy, context.generator("augment", on_cpu=True)
        )
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), training_set.labels[order])
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def evaluated() -> tuple[TrainingSet, Network]:
    """Images with labels to train a network on, and that network."""
    data = toy(10, SHAPE, per_class=EVALUATED // 10)
    images = data.batch(torch.arange(len(data)))
    return TrainingSet(images, data.labels, FULL_STRATEGY), runtime().network(data)


def _all_cases() -> dict[str, Case]:
    cases = {
        "network": Case(network, plain_network),
        "pool": Case(pool_step, plain_pool_step),
        "evaluation": Case(evaluation_step, plain_evaluation_step),
    }
    for distance in DISTANCES:
        for classes in (10, 100):
            sides = (partial(form, distance, classes) for form in (prepare, plain_prepare))
            cases[f"prepare-{distance}-{classes}"] = Case(*sides)
        for ipc in (1, 10, 50):
            cases[f"distance-{distance}-{ipc}"] = Case(partial(call_distance, distance, ipc))
    for method in ("dm", "idm", "bacon"):
        for classes in (10, 100):
            for ipc in (1, 10, 50):
                plain = partial(plain_descend, method, classes, ipc) if classes * ipc < 5000 else None
                ours = partial(descend, method, classes, ipc)
                cases[f"descend-{method}-{classes}-{ipc}"] = Case(ours, plain)
    return cases


CASES = _all_cases()
