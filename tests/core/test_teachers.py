"""Teachers: trained on train alone, once for all who ask, and better than chance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.data.toy import toy
from harness.core.errors import FirewallError, UserError
from harness.core.experts import Experts, ExpertSettings
from harness.core.teachers import RECIPES, Teacher, TeacherRecipe, teacher_network, train_teacher

SHORT = TeacherRecipe("short", 2, 10)


def taught(data: Dataset, **context: object) -> Teacher:
    return train_teacher(Context(arch="ConvNetW8", **context), data, "ConvNetW8BN", SHORT)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Context().dataset("digits")


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("ConvNet", "ConvNetBN"),
        ("convnetw32", "ConvNetW32BN"),
        ("ConvNetBN", "ConvNetBN"),
        ("ConvNetGN", "ConvNetGN"),
        ("ResNet18", "ResNet18BN"),
        ("VGG11BN", "VGG11BN"),
        ("MLP", "ConvNetBN"),
    ],
)
def test_a_teacher_is_of_its_students_kind(student: str, teacher: str) -> None:
    assert teacher_network(student) == teacher


def test_a_teacher_answers_with_logits_in_evaluation_mode(data: Dataset) -> None:
    teacher = taught(data)
    images = data.batch(torch.arange(300))
    answer = teacher(images)
    assert answer.shape == (300, 10)
    assert not answer.requires_grad
    torch.testing.assert_close(teacher(images[:7]), answer[:7], rtol=1e-4, atol=1e-4)
    assert not teacher.net.training
    assert teacher.accuracy > 0.15, "beats chance"
    assert teacher.cost.steps == 2 * 10


@pytest.mark.slow
def test_a_teacher_is_the_same_whoever_trains_it(data: Dataset, tmp_path: Path) -> None:
    first = taught(data, seed=1, cache=tmp_path)
    (kept,) = tmp_path.rglob("*.safetensors")
    written = kept.stat().st_mtime_ns
    again = taught(data, seed=2, cache=tmp_path)
    assert (again.digest, again.accuracy, again.cost) == (first.digest, first.accuracy, first.cost)
    assert kept.stat().st_mtime_ns == written, "taken from the cache"
    assert taught(data, seed=3).digest == first.digest


def test_its_cost_is_charged_to_whoever_asks(data: Dataset, tmp_path: Path) -> None:
    for _ in range(2):
        context = Context(arch="ConvNetW8", cache=tmp_path)
        teacher = train_teacher(context, data, "ConvNetW8BN", SHORT)
        assert context.cost().flops == pytest.approx(teacher.cost.flops)


def test_a_teacher_never_sees_the_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(num_classes=3, shape=(3, 16, 16))
    real = Dataset.batch

    def peeking(self: Dataset, *arguments: object) -> object:
        self.test()
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Dataset, "batch", peeking)
    with pytest.raises(FirewallError):
        taught(data)
    assert data.test_looks == 0


def test_it_is_judged_by_images_that_it_was_not_trained_on(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.core import teachers

    seen: list[int] = []
    real = teachers.train_experts

    def watched(context: Context, learned: Dataset, settings: ExpertSettings) -> Experts:
        seen.append(len(learned))
        return real(context, learned, settings)

    monkeypatch.setattr(teachers, "train_experts", watched)
    teacher = taught(data)
    left = data.hold_out()[1]
    assert seen == [len(data) - len(left)]
    right = (teacher(left.batch(slice(0, len(left)))).argmax(1) == left.labels).float().mean()
    assert teacher.accuracy == pytest.approx(float(right))


def test_a_teacher_that_knows_nothing_is_refused(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.core import teachers

    monkeypatch.setattr(teachers, "_accuracy", lambda *_: 0.1)
    teacher = taught(data)
    with pytest.raises(UserError, match="no better than chance") as found:
        teachers.check_worth(teacher, data.name)
    assert "\n" not in str(found.value)


def test_every_scale_has_a_recipe() -> None:
    from harness.engine.scales import SCALES

    assert RECIPES.keys() == SCALES.keys()
