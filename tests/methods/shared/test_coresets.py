"""Coreset selections against the authors' choices, and on real digits."""

from __future__ import annotations

import pytest
import torch
from support import golden, tensor

from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.errors import DataError
from methods import forgetting, herding, idm, kcenter, kmeans, random, random_packed
from methods.shared import clusters

SHORT = {"train_steps": 5, "train_batch": 16}
CORESETS = [random, herding, kcenter, kmeans, forgetting]
STARTS = sorted(key.removesuffix("_start") for key in golden("select_kcenter") if key.endswith("_start"))


@pytest.mark.golden("select_herding", "herding")
def test_herding_matches_authors() -> None:
    arrays = golden("select_herding")
    features, targets = tensor(arrays["features"]), tensor(arrays["targets"])
    for c, expected in enumerate(arrays["herding"]):
        rows = (targets == c).nonzero().flatten()
        assert rows[herding.herd(features[rows], len(expected))].tolist() == expected.tolist()


@pytest.mark.golden("select_kcenter", "kcenter")
@pytest.mark.parametrize("case", STARTS)
def test_kcenter_matches_authors(case: str) -> None:
    arrays = golden("select_kcenter")
    features, start = tensor(arrays["features"]), tensor(arrays[f"{case}_start"])
    expected = arrays[f"{case}_out"].tolist()
    chosen = kcenter.cover(features, start, len(expected) - len(start))
    assert sorted(chosen.tolist()) == expected


@pytest.mark.golden("select_kcenter", "kcenter")
def test_kcenter_from_a_random_start_matches_authors() -> None:
    arrays = golden("select_kcenter")
    start = tensor(arrays["k_rand_first"]).view(1)
    expected = arrays["k_rand_out"].tolist()
    chosen = kcenter.cover(tensor(arrays["features"]), start, len(expected) - 1)
    assert sorted(chosen.tolist()) == expected


@pytest.mark.parametrize("method", CORESETS)
def test_coresets_are_real_images_of_their_class(method: object) -> None:
    data = toy(num_classes=3, per_class=9)
    config = method.Config(**({} if method is random else SHORT))
    distilled = method.distill(data, 4, config=config, context=Context(arch="ConvNetW8"))
    everything = data.batch(torch.arange(len(data)))
    for image, label in zip(distilled.images, distilled.labels, strict=True):
        same = (everything == image).flatten(1).all(dim=1)
        assert data.labels[same].tolist() == [int(label)]
    assert len(torch.unique(distilled.images, dim=0)) == 12


def test_kcenter_starts_differ() -> None:
    data = toy(num_classes=3, per_class=20)
    mean = kcenter.distill(data, 1, config=kcenter.Config(**SHORT), context=Context(arch="ConvNetW8"))
    other = kcenter.Config(**SHORT, start="random")
    drawn = kcenter.distill(data, 1, config=other, context=Context(arch="ConvNetW8"))
    assert mean.digest() != drawn.digest()


@pytest.mark.parametrize("method", CORESETS)
def test_more_than_a_class_has_is_refused(method: object) -> None:
    config = method.Config(**({} if method is random else SHORT))
    with pytest.raises(DataError, match="choose an ipc of at most"):
        method.distill(toy(per_class=5), 6, config=config, context=Context(arch="ConvNetW8"))


def blobs(per_blob: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Points around four far corners, and the corners."""
    corners = torch.tensor([[0.0, 0.0], [0.0, 10.0], [10.0, 0.0], [10.0, 10.0]])
    noise = torch.randn(4 * per_blob, 2, generator=torch.Generator().manual_seed(0))
    return corners.repeat_interleave(per_blob, dim=0) + 0.1 * noise, corners


def test_centroids_find_clusters_and_depend_on_the_generator_alone() -> None:
    points, corners = blobs()
    found = clusters.centroids(points, 4, torch.Generator().manual_seed(1))
    assert torch.cdist(corners, found).amin(dim=1).max() < 0.3
    assert torch.equal(found, clusters.centroids(points, 4, torch.Generator().manual_seed(1)))
    starts = {
        clusters.centroids(points, 3, torch.Generator().manual_seed(seed)).sum().item() for seed in range(8)
    }
    assert len(starts) > 1


def test_there_are_never_more_centroids_than_points() -> None:
    generator = torch.Generator().manual_seed(0)
    assert clusters.centroids(torch.eye(3), 5, generator).shape == (3, 3)
    assert clusters.centroids(torch.ones(4, 2), 3, generator).shape == (3, 2)


def test_nearest_samples_may_repeat_and_kmeans_takes_none_twice() -> None:
    points, corners = blobs()
    centres = torch.cat([corners, corners[:1]])
    nearest = clusters.nearest_samples(points, centres)
    assert nearest[0] == nearest[4]
    assert torch.equal(nearest, (points[None] - centres[:, None]).norm(dim=2).argmin(dim=1))
    chosen = kmeans.nearest_distinct(points, centres)
    assert torch.equal(chosen[:4], nearest[:4])
    gaps = (points - corners[0]).norm(dim=1)
    assert chosen[4] == gaps.argsort()[1]


def test_forgetting_events_are_counted_as_in_a_plain_loop() -> None:
    data = toy(num_classes=3, per_class=20)
    generator = torch.Generator().manual_seed(0)
    counter = forgetting.ForgettingCounter(data)
    last, events, learnt = [0.0] * 60, [0] * 60, [False] * 60
    draws = forgetting.EpochDraws(torch.arange(60), 16, Context())
    for step in range(40):
        indices = draws.draw(step)
        predictions = torch.randint(3, (len(indices),), generator=generator)
        predictions[indices == 7] = (data.labels[7] + 1) % 3
        counter.watch(indices, predictions)
        for sample, prediction in zip(indices.tolist(), predictions.tolist(), strict=True):
            right = float(prediction == int(data.labels[sample]))
            events[sample] += last[sample] - right > 0.01
            last[sample] = right
            learnt[sample] = learnt[sample] or right == 1.0
    assert sum(events) > 50
    assert counter.forgotten("least").tolist() == events
    assert not learnt[7]
    most = counter.forgotten("most")
    assert (most[7] > most[[n for n in range(60) if learnt[n]]]).all()


def test_every_epoch_sees_every_image_once() -> None:
    draws = forgetting.EpochDraws(torch.arange(5, 26), 8, Context())
    epochs = [torch.cat([draws.draw(3 * epoch + k).clone() for k in range(3)]) for epoch in range(4)]
    assert all(sorted(epoch.tolist()) == list(range(5, 26)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_equally_forgotten_images_are_ordered_by_the_seed() -> None:
    counts = torch.tensor([0, 3, 0, 3, 0, 5])
    chosen = {
        tuple(forgetting.highest(counts, 4, torch.Generator().manual_seed(seed)).tolist())
        for seed in range(20)
    }
    assert {order[0] for order in chosen} == {5}
    assert {order[1:3] for order in chosen} == {(1, 3), (3, 1)}
    assert {order[3] for order in chosen} == {0, 2, 4}


def test_forgetting_chooses_from_its_candidates_only(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(num_classes=3, per_class=30)
    seen: list[torch.Tensor] = []
    watch = forgetting.ForgettingCounter.watch

    def spy(self: forgetting.ForgettingCounter, indices: torch.Tensor, predictions: torch.Tensor) -> None:
        seen.append(indices.clone())
        watch(self, indices, predictions)

    monkeypatch.setattr(forgetting.ForgettingCounter, "watch", spy)
    config = forgetting.Config(train_steps=8, train_batch=8, candidates=3)
    distilled = forgetting.distill(data, 4, config=config, context=Context(arch="ConvNetW8"))
    candidates = torch.cat(seen).unique()
    assert data.labels[candidates].bincount().tolist() == [4, 4, 4]
    chosen = torch.unique(distilled.images.flatten(1), dim=0)
    assert torch.equal(chosen, torch.unique(data.batch(candidates).flatten(1), dim=0))


def test_random_packed_is_what_idm_starts_from() -> None:
    data = toy(num_classes=3, per_class=20)
    packed = random_packed.distill(data, 2, context=Context(4, arch="ConvNetW8"))
    config = idm.Config(iterations=1, lr_img=0.0, batch_real=4, train_steps=1, train_batch=4)
    started = idm.distill(data, 2, config=config, context=Context(4, arch="ConvNetW8"))
    assert packed.factor == 2
    assert torch.equal(packed.images, started.images)
    assert len(packed.decoded()[0]) == 4 * len(packed.images)
