"""IDC and DREAM: the authors' losses and choices, and their loop over classes written out plainly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedData
from support import assert_close, golden, golden_convnet, tensor
from torch import Tensor, nn

from harness.core.augment import augment
from harness.core.context import Context
from harness.core.data import ClassBatch
from harness.core.data.toy import toy
from harness.core.errors import UserError
from harness.core.formation import decode
from harness.core.nets import Network
from harness.core.siamese import Siamese
from methods import dream, idc, resolve
from methods.shared.classwise_sgd import ClasswiseSGD
from methods.shared.gradients import GradientMatcher, matched_parameters
from methods.shared.idc_line import training_tiles

UNCHANGED = Siamese("", None)
QUICK = {"outer": 2, "inner": 3, "batch_real": 8, "n_data": 40, "train_batch": 16}


def golden_problem() -> tuple[dict[str, Any], Network, ScriptedData, Tensor, ClassBatch]:
    """The golden class amid others whose images are noise: network, data, tiles and real batch."""
    arrays = golden("match_idc")
    net, noise = golden_convnet(arrays).net, torch.Generator().manual_seed(0)
    label, classes = int(arrays["label"]), len(net.classifier.bias)
    real = torch.randn(classes, *arrays["x_real"].shape, generator=noise)
    own = torch.randn(classes, *arrays["x_syn"].shape, generator=noise)
    real[label], own[label] = tensor(arrays["x_real"]), tensor(arrays["x_syn"])
    labels = torch.arange(classes).repeat_interleave(real.shape[1])
    rows = torch.arange(len(labels))
    scripted = {
        "images": real.flatten(0, 1),
        "labels": labels,
        "init_idx": rows[:1, None],
        "real_idx": rows[:1],
    }
    data = ScriptedData({name: array.numpy() for name, array in scripted.items()})
    batch = ClassBatch(rows, (real.shape[1],) * classes)
    return arrays, net, data, own.flatten(0, 1).requires_grad_(), batch


def assert_golden(losses: Tensor, own: Tensor, arrays: dict[str, Any], name: str) -> None:
    """Loss and gradient of the golden class."""
    label, count = int(arrays["label"]), len(arrays["x_syn"])
    assert_close(losses[label], arrays[name])
    assert own.grad is not None
    assert_close(own.grad[label * count : (label + 1) * count], arrays[f"grad_{name}"])


@pytest.mark.golden("match_idc", "idc", "dream")
@pytest.mark.parametrize(
    ("metric", "name"), [("mse", "mse"), ("l1", "l1"), ("l1_mean", "l1_mean"), ("ours", "cos")]
)
def test_gradient_matching_matches_authors(metric: Any, name: str) -> None:
    arrays, net, data, own, batch = golden_problem()
    match = idc.gradient_match(data, net, idc.Config(metric=metric), Context())  # type: ignore[arg-type]
    assert_golden(match(own, batch, UNCHANGED), own, arrays, name)


@pytest.mark.golden("match_idc", "idc", "dream")
def test_matching_all_gradients_matches_authors() -> None:
    arrays, net, data, own, batch = golden_problem()
    matcher = GradientMatcher(Context(), data, net)  # type: ignore[arg-type]
    parameters = matched_parameters(net, biases=True, classifier=True)
    real = matcher.real_gradients(net, parameters, batch, UNCHANGED)
    losses = matcher.descend(net, parameters, own, UNCHANGED, real, "mse")
    assert_golden(losses, own, arrays, "mse_bias_fc")


@pytest.mark.golden("match_idc", "idc")
@pytest.mark.parametrize(("first", "last", "name"), [(0, -1, "feat02"), (1, 2, "feat12"), (2, -1, "feat22")])
def test_feature_matching_matches_authors(first: int, last: int, name: str) -> None:
    arrays, net, data, own, batch = golden_problem()
    config = idc.Config(match="feat", first_block=first, last_block=last)
    match = idc.feature_match(data, net, config, Context())  # type: ignore[arg-type]
    assert_golden(match(own, batch, UNCHANGED), own, arrays, name)


def test_blocks_that_a_network_lacks_are_refused() -> None:
    net = Context(arch="ConvNetW8").network(toy(shape=(3, 16, 16)))
    with pytest.raises(UserError, match="blocks 3 to -1 are none of the network's 3"):
        idc.Blocks(net, 3, -1)


@settings(max_examples=30)
@given(
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.integers(0, 99),
)
def test_joint_steps_with_a_clamp_between_networks_equal_a_step_per_class(
    classes: int, ipc: int, inner: int, momentum: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(classes * ipc, 1, 2, 2, generator=generator, dtype=torch.float64)
    targets = 3 * torch.randn(3, inner, *start.shape, generator=generator, dtype=torch.float64)

    looped = start.clone().requires_grad_()
    plain = torch.optim.SGD([looped], lr=0.3, momentum=momentum)
    for of_network in targets:
        looped.data.clamp_(0, 1)
        for target in of_network:
            for c in range(classes):
                rows = slice(c * ipc, (c + 1) * ipc)
                plain.zero_grad()
                (0.5 * (looped[rows] - target[rows]).square()).sum().backward()
                plain.step()

    joint = start.clone().requires_grad_()
    optimizer = ClasswiseSGD(joint, classes, 0.3, momentum)
    for of_network in targets:
        optimizer.revise(lambda images: images.clamp_(0, 1))
        for target in of_network:
            joint.grad = (joint.detach() - target).clone()
            optimizer.step()
    torch.testing.assert_close(optimizer.as_stopped(), looped.detach(), rtol=1e-12, atol=1e-12)


def authors_loop(data: Any, ipc: int, config: idc.Config, context: Context) -> Tensor:
    """Normalised images after IDC's loop, class after class; only draws and training are the harness's."""
    batches = idc.RandomBatches(data, config, context)
    pixels = idc.initial_pixels(data, ipc, config.factor, batches).requires_grad_()
    optimizer = torch.optim.SGD([pixels], idc.image_rate(config, ipc, data), config.momentum)
    learner = idc.Learner(data, config, context)
    net = learner.net
    weights = [layer.weight for layer in net.modules() if isinstance(layer, nn.Conv2d)]

    def gradient(images: Tensor, c: int, keep: bool) -> tuple[Tensor, ...]:
        loss = F.cross_entropy(net(images), torch.full((len(images),), c))
        return torch.autograd.grad(loss, weights, create_graph=keep)

    for _ in range(config.outer):
        learner.restart()
        pixels.data.clamp_(0, 1)
        for update in range(config.inner):
            siamese = Siamese.draw(config.strategy, data, context)
            assert siamese.draws is not None
            for c, rows in enumerate(batches.draw().indices.view(data.num_classes, -1)):
                own = data.transform(decode(pixels[c * ipc : (c + 1) * ipc], config.factor))
                real = data.batch(rows)
                both = torch.cat([real, own])
                both = augment(both, config.strategy, siamese.draws.rows(torch.full((len(both),), c)))
                real, own = both.detach()[: len(real)], both[len(real) :]
                pairs = zip(gradient(real, c, False), gradient(own, c, True), strict=True)
                gaps = [a - b for a, b in pairs]
                optimizer.zero_grad()
                sum((g.abs() if config.metric == "l1" else g.square()).sum() for g in gaps).backward()
                optimizer.step()
            if update < config.inner - 1:
                learner.train()
    return data.transform(pixels.detach())


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"factor": 1}, {"metric": "l1", "lr_boost": 20.0}, {"train_strategy": ""}]
)
def test_the_loop_is_the_authors(changes: dict[str, Any]) -> None:
    data = toy(num_classes=3, shape=(3, 8, 8), per_class=20)
    config = idc.Config(**(QUICK | {"lr_boost": 500.0} | changes))
    expected = authors_loop(data, 2, config, Context(seed=1, arch="ConvNetW8D2"))
    distilled = idc.distill(data, 2, config=config, context=Context(seed=1, arch="ConvNetW8D2"))
    start = idc.initial_pixels(data, 2, config.factor, idc.RandomBatches(data, config, Context(seed=1)))
    moved = (expected - data.transform(start)).abs().max()
    assert moved > 0.1
    torch.testing.assert_close(distilled.images, expected, rtol=0, atol=float(2e-4 * moved))


def test_tiles_are_drawn_from_each_class_and_pass_gradients_on() -> None:
    data = toy(num_classes=3, shape=(1, 8, 8), per_class=12)
    pixels = torch.rand(3 * 2, 1, 8, 8, requires_grad=True)
    everything = training_tiles(pixels, data, 2, 128, Context())
    some = training_tiles(pixels, data, 2, 5, Context())
    assert (len(everything), len(some)) == (24, 15)
    for c in range(3):
        own = {tuple(tile.flatten().tolist()) for tile in everything[8 * c : 8 * (c + 1)]}
        drawn = [tuple(tile.flatten().tolist()) for tile in some[5 * c : 5 * (c + 1)]]
        assert len(set(drawn)) == 5
        assert set(drawn) <= own
    (gradient,) = torch.autograd.grad(some[:5].sum(), pixels)
    assert bool(gradient[:2].any())
    assert not bool(gradient[2:].any())


@pytest.mark.parametrize(
    ("dataset", "side", "ipc", "rate"),
    [
        ("cifar10", 32, 1, 5e-4),
        ("cifar10", 32, 10, 5e-3),
        ("cifar10", 32, 50, 2.5e-2),
        ("mnist", 28, 1, 1e-5),
        ("mnist", 28, 50, 5e-4),
        ("fashionmnist", 28, 10, 0.765625e-4),
    ],
)
def test_published_rates(dataset: str, side: int, ipc: int, rate: float) -> None:
    data = toy(num_classes=2, shape=(1, side, side), per_class=2)
    config = resolve("idc", dataset, ipc).config
    assert idc.image_rate(config, ipc, data) == pytest.approx(rate)


@pytest.mark.parametrize("method", ["idc", "idc@i", "idc@feat", "dream"])
@pytest.mark.parametrize("scale", ["paper", "cpu", "smoke"])
def test_every_setting_resolves(method: str, scale: str) -> None:
    for dataset in ("cifar10", "cifar100", "svhn", "mnist", "fashionmnist", "tinyimagenet", "digits"):
        for ipc in (1, 10, 50):
            config = resolve(method, dataset, ipc, scale).config
            assert config.factor == (1 if dataset == "digits" or method == "idc@i" else 2)
            assert config.match == ("feat" if method == "idc@feat" else "grad")
            assert config.match == "grad" or config.metric in idc._FEATURE_DISTANCES


def test_mnist_spares_tiles_but_not_whole_images() -> None:
    tiled, whole = (resolve(name, "mnist", 10).config for name in ("idc", "idc@i"))
    assert [idc.matching_strategy(config) for config in (tiled, whole)] == ["color>crop", "color>crop>cutout"]


@pytest.mark.parametrize(("cutmix", "mixed"), [(0.0, 0), (1.0, 20)])
def test_networks_train_on_augmented_images(cutmix: float, mixed: int) -> None:
    data = toy(num_classes=4, shape=(3, 8, 8), per_class=20)
    learner = idc.Learner(data, idc.Config(cutmix=cutmix), Context(arch="ConvNetW8D2"))
    rows = torch.arange(0, 80, 5)
    soft = 0
    for _ in range(20):
        images, labels = learner.distorted(rows)
        assert images.shape == (16, 3, 8, 8)
        assert not torch.equal(images, data.batch(rows))
        soft += labels.ndim == 2
        if labels.ndim == 2:
            torch.testing.assert_close(labels.sum(dim=1), torch.ones(16))
        else:
            assert torch.equal(labels, data.labels[rows])
    assert soft == mixed


@pytest.mark.parametrize(("n_data", "seen"), [(40, 48), (48, 48), (1, 16)])
def test_networks_train_until_n_data_images_are_seen(n_data: int, seen: int) -> None:
    data = toy(num_classes=4, shape=(3, 8, 8), per_class=20)
    config = idc.Config(n_data=n_data, train_batch=16)
    learner = idc.Learner(data, config, Context(arch="ConvNetW8D2"))
    counts: list[int] = []
    learner.net.register_forward_hook(lambda net, inputs, output: counts.append(len(output)))
    before = [parameter.clone() for parameter in learner.net.parameters()]
    learner.train()
    assert sum(counts) == seen
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.net.parameters(), strict=True))


def test_a_restarted_network_has_no_past() -> None:
    data = toy(num_classes=4, shape=(3, 8, 8), per_class=20)
    learner = idc.Learner(data, idc.Config(n_data=20), Context(arch="ConvNetW8D2"))
    learner.train()
    old = learner.net.classifier.weight.clone()
    learner.restart()
    assert not torch.equal(old, learner.net.classifier.weight)
    assert not learner.optimizer.state_dict()["state"]


@pytest.mark.golden("select_dream", "dream")
def test_selections_match_authors() -> None:
    arrays = golden("select_dream")
    features, centres = tensor(arrays["emb"]), tensor(arrays["cent"])
    query, query_match, query_tiny = (
        arrays[name].tolist() for name in ("query", "query_match", "query_tiny")
    )
    assert dream.nearest_to_each(features, centres[: len(query)], 1).tolist() == query
    assert dream.nearest_samples(features, centres[: len(query)]).tolist() == query
    samples = samples_of_each(features, centres[0], query_match)
    several = centres[: len(query_match) // samples]
    assert dream.nearest_to_each(features, several, samples).tolist() == query_match
    assert dream.nearest_to_any(features, centres, len(query_tiny)).tolist() == query_tiny


def samples_of_each(features: Tensor, first: Tensor, chosen: list[int]) -> int:
    """How many samples were chosen for each centre: as many as are, in order, those nearest to the first."""
    order = (features - first).norm(dim=1).argsort().tolist()
    counts = (count for count in range(1, len(chosen) + 1) if len(chosen) % count == 0)
    return max(count for count in counts if chosen[:count] == order[:count])


@pytest.mark.parametrize("changes", [{}, {"per_cluster": 2}, {"choice": "any"}, {"cluster_pool": 10}])
def test_dream_batches_hold_real_images_of_each_class(changes: dict[str, Any]) -> None:
    data = toy(num_classes=3, shape=(3, 8, 8), per_class=20)
    config = dream.Config(batch_real=6, **changes)
    context = Context(arch="ConvNetW8D2")
    batches = dream.RepresentativeBatches(data, config, context)
    batches.refresh(context.network(data))
    batch = batches.draw()
    assert batch.sizes == (6, 6, 6)
    assert data.labels[batch.indices].tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert batches.draw() is batch


def test_dream_batches_are_nearest_to_centroids_of_the_networks_features() -> None:
    data = toy(num_classes=2, shape=(3, 8, 8), per_class=20)
    context = Context(arch="ConvNetW8D2")
    batches = dream.RepresentativeBatches(data, dream.Config(batch_real=20), context)
    batches.refresh(context.network(data))
    # As many clusters as images: each image is its own centroid.
    assert sorted(batches.draw().indices.tolist()) == list(range(40))
    few = dream.RepresentativeBatches(data, dream.Config(batch_real=1), context)
    net = context.network(data)
    few.refresh(net)
    for c, chosen in enumerate(few.draw().indices):
        members = (data.labels == c).nonzero().flatten()
        features = net.embed(data.batch(members)).detach()
        gaps = (features - features.mean(dim=0)).norm(dim=1)
        assert members[gaps.argmin()] == chosen


def test_dream_starts_from_representatives_even_of_small_classes() -> None:
    data = toy(num_classes=3, shape=(3, 8, 8), per_class=5)
    batches = dream.RepresentativeBatches(data, dream.Config(), Context(arch="ConvNetW8D2"))
    parts = batches.initial(2, 4)
    assert [len(part) for part in parts] == [6] * 4
    for part in parts:
        assert data.labels[part].tolist() == [0, 0, 1, 1, 2, 2]
    assert len(set(torch.cat(parts).tolist())) == 15


@pytest.mark.slow
@pytest.mark.parametrize(("inner", "interval", "expected"), [(5, 2, 6), (4, 4, 2), (3, 10, 2)])
def test_dream_clusters_at_every_interval(
    inner: int, interval: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refreshed, drawn = [], []
    refresh, draw = dream.RepresentativeBatches.refresh, dream.RepresentativeBatches.draw
    monkeypatch.setattr(
        dream.RepresentativeBatches, "refresh", lambda self, net: (refreshed.append(net), refresh(self, net))
    )
    monkeypatch.setattr(dream.RepresentativeBatches, "draw", lambda self: (drawn.append(self), draw(self))[1])
    data = toy(num_classes=2, shape=(3, 8, 8), per_class=10)
    config = dream.Config(**(QUICK | {"inner": inner, "interval": interval}))
    dream.distill(data, 1, config=config, context=Context(arch="ConvNetW8D2"))
    assert (len(refreshed), len(drawn)) == (expected, 2 * inner)
