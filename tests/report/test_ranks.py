"""One rank over many cells: by hand, with known truth, ties, and what is not ranked and why."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report.ranks import Ranks, Scores, block, mean_ranks, ranks
from harness.report.stats import Groups


def board(cells: Mapping[str, Mapping[str, float]], seeds: int = 1, spread: float = 0.0) -> Scores[str]:
    """Two networks for each seed around the given means."""
    away = [spread * (seed - (seeds - 1) / 2) for seed in range(seeds)]
    return {
        cell: {
            method: {seed: [mean + gap - 0.01, mean + gap + 0.01] for seed, gap in enumerate(away)}
            for method, mean in found.items()
        }
        for cell, found in cells.items()
    }


THREE = {"x": {"a": 0.9, "b": 0.5, "c": 0.4}, "y": {"a": 0.5, "b": 0.6, "c": 0.4}}


def test_mean_rank_borda_and_win_rate_by_hand() -> None:
    found = ranks(board(THREE))
    assert [(one.method, one.place, one.rank) for one in found.standings] == [
        ("a", 1, 1.5),
        ("b", 1, 1.5),
        ("c", 3, 3.0),
    ]
    assert [one.borda for one in found.standings] == [3, 3, 0]
    assert [one.win_rate for one in found.standings] == [0.75, 0.75, 0]
    assert sum(one.borda for one in found.standings) == 2 * 3, "as many as there are comparisons"
    assert found.cells == ["x", "y"]


def test_equal_accuracies_share_the_mean_of_their_ranks() -> None:
    assert mean_ranks(np.array([[0.5, 0.7, 0.5, 0.1, 0.7]])).tolist() == [[3.5, 1.5, 3.5, 5, 1.5]]
    assert mean_ranks(np.array([0.1 + 0.2, 0.3])).tolist() == [1.5, 1.5], "they differ by rounding alone"


@given(st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=6))
def test_ranks_always_sum_to_the_same(values: list[list[int]]) -> None:
    names = "abcd"
    scores = board({str(k): dict(zip(names, row, strict=True)) for k, row in enumerate(values)})
    found = ranks(scores)
    assert sum(one.rank for one in found.standings) == pytest.approx(10)
    assert np.mean([one.win_rate for one in found.standings]) == pytest.approx(0.5)
    assert [one.rank for one in found.standings] == sorted(one.rank for one in found.standings)
    for one in found.standings:
        for interval in (one.over_seeds, one.over_cells):
            assert interval is None or 1 <= interval[0] <= one.rank + 1e-9 <= interval[1] + 2e-9 <= 4 + 4e-9


def test_one_seed_everywhere_gives_no_interval_over_seeds_and_one_cell_none_over_two_cells() -> None:
    more = THREE | {"z": THREE["x"]}
    assert {one.over_seeds for one in ranks(board(more)).standings} == {None}
    assert all(one.over_cells for one in ranks(board(more)).standings)
    few = ranks(board(THREE, seeds=2, spread=0.01))
    assert {one.over_cells for one in few.standings} == {None}
    assert all(one.over_seeds for one in few.standings)


def test_cells_that_agree_by_chance_leave_open_what_seeds_leave_open() -> None:
    numbers = np.random.default_rng(5)
    scores = simulated(numbers, np.tile(0.3 * np.arange(5.0), (3, 1)), 2)
    for one in ranks(scores).standings:
        assert one.over_seeds is not None
        assert one.over_cells is not None
        assert one.over_cells[0] <= one.over_seeds[0] <= one.over_seeds[1] <= one.over_cells[1]


def test_what_seeds_do_to_all_methods_alike_does_not_matter() -> None:
    far = ranks(board(THREE, seeds=2, spread=0.3))
    assert [one.over_seeds for one in far.standings] == [(1.5, 1.5), (1.5, 1.5), (3, 3)]


def test_a_method_with_one_seed_takes_its_noise_from_the_others() -> None:
    scores = {cell: dict(found) for cell, found in board(THREE).items()}
    for found in scores.values():
        found["c"] = {0: [0.45], 1: [0.50], 2: [0.40]}
    intervals = {one.method: one.over_seeds for one in ranks(scores).standings}
    assert intervals["a"] is not None
    assert intervals["c"] is not None
    assert intervals["c"][0] < intervals["c"][1]


def test_who_lacks_cells_is_named_and_not_imputed() -> None:
    cells = {cell: dict(found) for cell, found in THREE.items()}
    cells["y"]["late"] = 0.99
    cells["z"] = {"a": 0.1, "late": 0.2}
    found = ranks(board(cells))
    assert [one.method for one in found.standings] == ["a", "b", "c"]
    assert found.lacking == {"late": ["x"]}
    assert found.left_out == {"z": ["b", "c"]}
    assert found.standings[0].rank == 1.5, "places of those who are not ranked are not taken"


def test_a_method_without_accuracies_was_not_measured() -> None:
    scores = {cell: {**found, "oom": {0: []}} for cell, found in board(THREE).items()}
    assert ranks(scores).lacking == {}, "nothing is known of it anywhere"
    scores["y"] = {**scores["y"], "oom": {0: [], 1: [0.5]}}
    assert ranks(scores).lacking == {"oom": ["x"]}


@pytest.mark.parametrize(
    "scores", [{}, {"x": {"a": {0: [0.5]}}}, {"x": {"a": {0: [0.5]}}, "y": {"b": {0: [0.5]}}}]
)
def test_nothing_to_compare_gives_no_standings(scores: Mapping[str, Mapping[str, Groups]]) -> None:
    found = ranks(scores)
    assert (found.standings, found.cells) == ([], [])


def test_the_block_with_the_most_measured_pairs_is_chosen() -> None:
    many = {f"m{k}" for k in range(26)}
    measured = {"digits 1": {"m0", "m1"}, "cifar 1": many, "cifar 10": many, "digits 10": {"m0", "m1"}}
    assert block(measured) == (sorted(many), ["cifar 1", "cifar 10"])
    few = {f"cell {k}": {"a", "b"} for k in range(9)} | {"wide": {"a", "b", "c", "d"}}
    assert block(few) == (["a", "b"], list(few))


@given(st.dictionaries(st.sampled_from("uvwxyz"), st.sets(st.sampled_from("abcdef")), max_size=6))
def test_every_method_of_the_block_has_every_cell_and_no_single_cell_beats_it(
    measured: dict[str, set[str]],
) -> None:
    methods, cells = block(measured)
    assert all(set(methods) <= measured[cell] for cell in cells)
    assert len(methods) * len(cells) >= max(
        (len(found) for found in measured.values() if len(found) > 1), default=0
    )
    assert len(methods) != 1


def simulated(numbers: np.random.Generator, true: np.ndarray, seeds: int) -> Scores[int]:
    """Accuracies around true (cells, methods) means; half of the noise is what a seed does to all methods."""
    cells, methods = true.shape
    noise = numbers.normal(size=(cells, methods, seeds)) + 0.5 * numbers.normal(size=(cells, 1, seeds))
    found = (true[..., None] + noise) / 1000
    return {
        cell: {
            f"m{one:02}": {s: [float(found[cell, one, s])] for s in range(seeds)} for one in range(methods)
        }
        for cell in range(cells)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("methods", "cells", "seeds", "gap", "low", "high"),
    [
        (8, 4, 2, 1.0, 0.93, 0.997),
        (8, 4, 5, 0.5, 0.92, 0.997),
        (20, 4, 2, 0.8, 0.93, 0.997),
        (10, 12, 2, 1.0, 0.92, 0.99),
        (10, 12, 2, 0.3, 0.85, 0.96),
    ],
)
def test_intervals_cover_the_ranks_of_the_true_means(
    methods: int, cells: int, seeds: int, gap: float, low: float, high: float
) -> None:
    numbers = np.random.default_rng(0)
    strength = gap * np.arange(methods)
    covered, beyond = [], []
    population = mean_ranks(strength + gap * numbers.normal(size=(4000, methods))).mean(axis=0)
    for _ in range(30):
        true = strength + gap * numbers.normal(size=(cells, methods))
        truth = mean_ranks(true).mean(axis=0)
        for one in ranks(simulated(numbers, true, seeds)).standings:
            place = int(one.method[1:])
            assert one.over_seeds is not None
            assert one.over_cells is not None
            covered.append(one.over_seeds[0] - 1e-9 <= truth[place] <= one.over_seeds[1] + 1e-9)
            beyond.append(one.over_cells[0] <= population[place] <= one.over_cells[1])
    assert low <= np.mean(covered) <= high
    assert np.mean(beyond) >= 0.88, "Student's t over a few cells, whose ranks are not normal"


def test_the_same_board_gives_the_same_numbers_whatever_the_order() -> None:
    scores = simulated(np.random.default_rng(1), np.arange(12.0).reshape(3, 4), 3)
    turned = {cell: dict(reversed(list(found.items()))) for cell, found in scores.items()}
    first, second = ranks(scores), ranks(turned)
    assert isinstance(first, Ranks)
    assert first == second
