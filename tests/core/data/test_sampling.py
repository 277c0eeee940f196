"""Index draws: right classes, no repeats, all samples reachable, nothing but the given generator."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.core.data import ClassIndex, draw_uniform
from harness.core.errors import DataError


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


label_lists = st.lists(st.integers(0, 4), min_size=1, max_size=40)


@given(labels=label_lists, per_class=st.integers(1, 12), seed=st.integers(0, 99))
def test_draw_takes_each_class_in_turn_without_repeats(labels, per_class, seed) -> None:
    target = torch.tensor(labels)
    index = ClassIndex(target, 5)
    batch = index.draw(per_class, _generator(seed))
    assert batch.sizes == tuple(min(per_class, labels.count(c)) for c in range(5))
    assert target[batch.indices].tolist() == [c for c, size in enumerate(batch.sizes) for _ in range(size)]
    assert len(set(batch.indices.tolist())) == len(batch.indices)
    assert torch.equal(index.draw(per_class, _generator(seed)).indices, batch.indices)


@given(labels=label_lists)
def test_the_table_lists_every_sample_once(labels) -> None:
    target = torch.tensor(labels)
    index = ClassIndex(target)
    for label, count in enumerate(index.counts):
        assert index.table[label, :count].tolist() == [i for i, c in enumerate(labels) if c == label]


def test_every_sample_is_equally_likely() -> None:
    index, generator = ClassIndex(torch.tensor([0] * 4 + [1] * 8)), _generator()
    draws = torch.cat([index.draw(2, generator).indices for _ in range(2000)]).bincount(minlength=12) / 2000
    assert torch.allclose(draws, torch.tensor([0.5] * 4 + [0.25] * 8), atol=0.05)
    first = (
        torch.stack([index.draw(2, generator).indices[0] for _ in range(2000)]).bincount(minlength=4) / 2000
    )
    assert torch.allclose(first, torch.full((4,), 0.25), atol=0.05)


def test_draw_uniform() -> None:
    generator = _generator()
    batches = [draw_uniform(6, 4, generator) for _ in range(50)]
    assert all(len(set(batch.tolist())) == 4 for batch in batches)
    assert set(torch.cat(batches).tolist()) == set(range(6))
    assert sorted(draw_uniform(3, 10, generator).tolist()) == [0, 1, 2]


def test_balanced() -> None:
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    assert labels[ClassIndex(labels).balanced(2, _generator())].tolist() == [0, 0, 1, 1]
    with pytest.raises(DataError, match=r"class 1 has 1 images, fewer than the 2 asked for; .* at most 1"):
        ClassIndex(torch.tensor([0, 0, 1])).balanced(2, _generator())


def test_global_randomness_is_left_alone() -> None:
    state = torch.get_rng_state()
    index = ClassIndex(torch.tensor([0, 0, 1, 1]))
    index.draw(1, _generator())
    index.balanced(1, _generator())
    draw_uniform(4, 2, _generator())
    assert torch.equal(torch.get_rng_state(), state)
