"""The order in which PAD's experts see the images, and that experts keep to it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from support import golden
from torch import Tensor

from harness.core import experts as experts_module
from harness.core.context import Context
from harness.core.curriculum import Curriculum, Syllabus
from harness.core.data import Dataset
from harness.core.data.toy import toy
from harness.core.experts import ExpertSettings, train_experts

ARCH = "ConvNetW4D2"
CURRICULUM = Curriculum(0.5, 1, 2, 3, 0.2, 0.4)
SETTINGS = ExpertSettings(count=1, epochs=5, batch=8, lr=0.1, curriculum=CURRICULUM)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return toy(num_classes=3, shape=(3, 8, 8), per_class=10)


@pytest.fixture(scope="module")
def difficulty(data: Dataset) -> Tensor:
    return torch.rand(len(data), generator=torch.Generator().manual_seed(1))


@pytest.mark.golden("pad_data", "pad")
def test_each_pass_sees_what_the_authors_see() -> None:
    arrays = golden("pad_data")
    curriculum = Curriculum(
        init_ratio=float(arrays["init"]),
        add_end=int(arrays["add"]),
        remove_first=int(arrays["rm1"]),
        remove_second=int(arrays["rm2"]),
        remove_ratio_first=float(arrays["r1"]),
        remove_ratio_second=float(arrays["r2"]),
    )
    count = int(arrays["n"])
    parts = [curriculum.shown(epoch, count) for epoch in range(int(arrays["E"]))]
    assert [[part.start, part.stop] for part in parts] == arrays["range"].tolist()


def test_everything_at_once_where_nothing_is_added() -> None:
    assert dataclasses.replace(CURRICULUM, add_end=0).shown(0, 10) == range(10)


def test_the_easiest_of_each_class_come_first(data: Dataset, difficulty: Tensor) -> None:
    syllabus = Syllabus(CURRICULUM, difficulty, data)
    for epoch, part in enumerate([slice(0, 5), slice(0, 10), slice(0, 10), slice(2, 10), slice(4, 10)]):
        shown = syllabus.shown(epoch)
        assert syllabus.count(epoch) == int(shown.sum())
        for c in range(3):
            rows = (data.labels == c).nonzero().flatten()
            wanted = rows[difficulty[rows].argsort()][part]
            assert set(rows[shown[rows]].tolist()) == set(wanted.tolist())


def test_experts_see_that_and_nothing_else(
    data: Dataset, difficulty: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    original = Dataset.batch
    monkeypatch.setattr(
        Dataset, "batch", lambda self, rows: seen.append(rows.clone()) or original(self, rows)
    )
    train_experts(Context(arch=ARCH), data, SETTINGS, difficulty=difficulty)
    syllabus = Syllabus(CURRICULUM, difficulty, data)
    sizes = [2, 4, 4, 3, 3]  # steps of the passes over 15, 30, 30, 24, 18 images
    for epoch, passed in enumerate(torch.cat(part).sort().values for part in split(seen, sizes)):
        assert torch.equal(passed, syllabus.shown(epoch).nonzero().flatten())
    seen.clear()
    train_experts(
        Context(arch=ARCH), data, dataclasses.replace(SETTINGS, steps_per_epoch=1), difficulty=difficulty
    )
    assert [len(rows) for rows in seen] == [8] * 5


def split(parts: list[Tensor], sizes: list[int]) -> list[list[Tensor]]:
    assert len(parts) == sum(sizes)
    found = iter(parts)
    return [[next(found) for _ in range(size)] for size in sizes]


def test_other_difficulties_are_other_experts(data: Dataset, difficulty: Tensor) -> None:
    def key(settings: ExpertSettings, hard: Tensor | None) -> str:
        settings = dataclasses.replace(settings, arch=ARCH)
        syllabus = experts_module._syllabus(settings, hard, data)
        return experts_module._ExpertTrainer(Context(arch=ARCH), data, settings, syllabus).key

    plain = dataclasses.replace(SETTINGS, curriculum=None)
    later = dataclasses.replace(SETTINGS, curriculum=dataclasses.replace(CURRICULUM, add_end=2))
    keys = [key(SETTINGS, difficulty), key(SETTINGS, -difficulty), key(later, difficulty), key(plain, None)]
    assert len(set(keys)) == 4
    assert key(SETTINGS, 2 * difficulty) == keys[0], "the order alone decides"


def test_a_curriculum_without_difficulties_is_a_mistake(data: Dataset) -> None:
    with pytest.raises(ValueError, match="needs the difficulty"):
        train_experts(Context(arch=ARCH), data, SETTINGS)


class Killed(Exception):
    """Ends a run as a kill would."""


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 7, 14])
def test_a_killed_expert_goes_on_within_its_curriculum(
    data: Dataset, difficulty: Tensor, tmp_path: Any, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: str) -> list[Tensor]:
        context = Context(arch=ARCH, cache=tmp_path / folder, checkpoint_seconds=0.0)
        return train_experts(context, data, SETTINGS, difficulty=difficulty).parameters(0, 5)

    whole, made, original = run("whole"), [0], experts_module.train_step

    def counted(*arguments: Any) -> Any:
        made[0] += 1
        if made[0] == at + 1:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(experts_module, "train_step", counted)
    with pytest.raises(Killed):
        run("cut")
    monkeypatch.setattr(experts_module, "train_step", original)
    assert all(map(torch.equal, run("cut"), whole))
