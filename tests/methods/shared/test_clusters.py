"""K-means against scikit-learn's, and its start."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor

from methods.shared.clusters import centroids, nearest_samples


def blobs(per_blob: int, blobs: int, dimension: int, seed: int) -> Tensor:
    """Points around well separated centres, mixed."""
    generator = torch.Generator().manual_seed(seed)
    centres = 20 * torch.randn(blobs, dimension, generator=generator)
    points = centres.repeat_interleave(per_blob, dim=0)
    points = points + torch.randn(points.shape, generator=generator)
    return points[torch.randperm(len(points), generator=generator)]


def spread(points: Tensor, means: Tensor) -> float:
    """What k-means minimises."""
    return float(torch.cdist(points, means).amin(dim=1).square().sum())


@pytest.mark.parametrize(("seed", "offset"), [(0, 0.0), (1, 0.0), (2, 1000.0)])
def test_finds_what_scikit_learn_finds_where_clusters_are_clear(seed: int, offset: float) -> None:
    points = blobs(20, 12, 6, seed) + offset
    found = centroids(points, 12, torch.Generator().manual_seed(seed))
    theirs = torch.from_numpy(KMeans(12, n_init=5, random_state=0).fit(points.numpy()).cluster_centers_)
    assert torch.cdist(found, theirs.float()).amin(dim=1).max() < 1e-2


def test_is_as_good_as_scikit_learn_where_they_are_not() -> None:
    points = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    ours = [spread(points, centroids(points, 30, torch.Generator().manual_seed(s))) for s in range(5)]
    fits = [KMeans(30, n_init=1, random_state=s).fit(points.numpy()).inertia_ for s in range(5)]
    assert sum(ours) < 1.02 * sum(fits)


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 999))
def test_every_centroid_is_the_mean_of_its_points(n: int, k: int, seed: int) -> None:
    points = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    means = centroids(points, k, torch.Generator().manual_seed(seed))
    assert means.shape == (min(k, n), 3)
    nearest = torch.cdist(points, means).argmin(dim=1)
    for cluster in nearest.unique():
        torch.testing.assert_close(means[cluster], points[nearest == cluster].mean(dim=0), atol=1e-2, rtol=0)


def test_fewer_iterations_stop_earlier() -> None:
    points = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    after = [
        spread(points, centroids(points, 20, torch.Generator().manual_seed(0), iterations=i))
        for i in (0, 1, 100)
    ]
    assert after[0] > after[1] > after[2]


def test_equal_points_are_no_trouble() -> None:
    means = centroids(torch.ones(5, 2), 3, torch.Generator().manual_seed(0))
    assert torch.equal(means, torch.ones(3, 2))


def test_nearest_samples() -> None:
    points = torch.tensor([[0.0], [1.0], [5.0]])
    assert nearest_samples(points, torch.tensor([[0.9], [0.8], [9.0]])).tolist() == [1, 1, 2]
