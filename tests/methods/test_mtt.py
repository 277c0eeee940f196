"""MTT and TESLA: the authors' own iterations, and what must hold beyond them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_trajectories import GoldenTrajectories
from scripted import ScriptedContext, ScriptedData, ScriptedDraws
from support import assert_close, golden, golden_network, tensor
from torch import Tensor
from trials import digits_trial

from harness.core import experts
from harness.core.context import Context
from harness.core.data import ZCA, Dataset
from harness.core.data.toy import toy
from harness.core.distilled import Distilled
from harness.core.errors import UserError
from harness.core.experts import train_experts
from harness.engine.protocol import protocol_named
from harness.engine.settings import RunSettings
from harness.engine.training import training_set_of
from harness.engine.trial import run_trial
from methods import mtt, resolve, tesla
from methods.shared import trajectories
from methods.shared.trajectories import Match, Segment, StatelessStudent, Step

ARCH = "ConvNetW8D2"
SMALL: dict[str, Any] = {
    "iterations": 3,
    "student_steps": 4,
    "match_epochs": 1,
    "max_start": 2,
    "batch_syn": 4,
    "lr_img": 1.0,
    "alpha0": 0.05,
    "experts": 2,
    "expert_epochs": 2,
    "expert_batch": 10,
    "expert_lr": 0.1,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("item", "method", "way"),
    [
        pytest.param("trace_mtt", mtt, "unrolled", marks=pytest.mark.golden("trace_mtt", "mtt")),
        pytest.param("trace_tesla", tesla, "step_by_step", marks=pytest.mark.golden("trace_tesla", "tesla")),
    ],
)
def test_the_authors_iterations(item: str, method: Any, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden(item)
    experts = GoldenTrajectories(arrays)
    monkeypatch.setattr(trajectories, "train_experts", lambda *arguments: experts)
    matches: list[Match] = []
    batches: list[list[list[int]]] = []
    original = getattr(method, way)

    def spy(*arguments: Any, **named: Any) -> Match:
        matches.append(original(*arguments, **named))
        batches.append([step.rows.tolist() for step in arguments[-1]])
        return matches[-1]

    monkeypatch.setattr(method, way, spy)
    iterations, target = len(arrays["loss"]), int(arrays["expert_epochs"])
    config = method.Config(
        iterations=iterations,
        **{name: float(arrays[name]) for name in ("lr_img", "lr_lr", "alpha0")},
        student_steps=int(arrays["syn_steps"]),
        match_epochs=target,
        max_start=int(arrays["start"].max()) + 1,
        batch_syn=int(arrays["batch_syn"]),
        strategy="",
    )
    draws = {
        "segment": [torch.tensor(int(value)) for start in arrays["start"] for value in (0, start)],
        "order": [tensor(rows) for rows in arrays["perm"].reshape(-1, arrays["perm"].shape[-1])],
    }
    context = ScriptedContext([golden_network(arrays, "t0_", "names", "ConvNet")], draws)
    data: Any = ScriptedData(arrays | {"real_idx": []})
    with ScriptedDraws():
        made = method.distill(data, arrays["init_idx"].shape[1], config=config, context=context)
    assert experts.asked == [(0, int(start) + shift) for start in arrays["start"] for shift in (0, target)]
    assert batches == [[row[row >= 0].tolist() for row in steps] for steps in arrays["batches"]]
    assert made.labels.tolist() == arrays["y_syn"].tolist()
    for k, match in enumerate(matches):
        assert_close(match.loss, arrays["loss"][k])
        assert_close(match.by_images, arrays[f"grad{k}"])
        assert_close(match.by_alpha, arrays["alpha_grad"][k])
    for k, state in enumerate(context.states):
        assert_close(state["images"], arrays[f"x{k}"])
        assert_close(state["alpha"], arrays["alpha"][k - 1] if k else arrays["alpha0"])
    assert_close(made.images, arrays[f"x{iterations}"])
    assert_close(torch.tensor(made.learned_lr), arrays["alpha"][-1])


@pytest.fixture(scope="module")
def data() -> Dataset:
    return toy(num_classes=3, shape=(3, 8, 8), per_class=20)


@dataclasses.dataclass
class Scene:
    """All that a way to match trajectories is given."""

    student: StatelessStudent
    segment: Segment
    images: Tensor
    alpha: Tensor
    steps: list[Step]

    def match(self, matching: Callable[..., Match], **named: Any) -> Match:
        images, alpha = (value.detach().clone().requires_grad_() for value in (self.images, self.alpha))
        return matching(self.student, self.segment, images, alpha, self.steps, **named)


def scene(data: Dataset, student_steps: int = 4, *, ipc: int = 2, soft: bool = False) -> Scene:
    """A segment of an expert and the draws for a student, augmented; with hard labels or soft ones."""
    config = mtt.Config(**SMALL | {"student_steps": student_steps})
    context, strategy = Context(arch=ARCH), "color_crop_cutout_flip_scale_rotate"
    known = train_experts(context, data, trajectories.expert_settings(config, strategy))
    images = data.batch(data.index.balanced(ipc, context.generator("init")))
    labels = data.labels[data.index.balanced(ipc, context.generator("init"))]
    if soft:
        labels = torch.rand(len(images), 3, generator=context.generator("labels")).softmax(dim=1)
    return Scene(
        StatelessStudent(context, context.network(data), labels, strategy),
        trajectories.draw_segment(known, config, context),
        images,
        torch.tensor(config.alpha0),
        trajectories.draw_steps(images, strategy, config, context),
    )


def surrogate(scene: Scene) -> Match:
    """TESLA's objective by autograd: each gradient taken at weights through which nothing flows back."""
    images, alpha = (value.detach().clone().requires_grad_() for value in (scene.images, scene.alpha))
    weights, total = scene.segment.start, [torch.zeros_like(w) for w in scene.segment.start]
    for step in scene.steps:
        gradient = scene.student.gradient(weights, images[step.rows], step, create_graph=True)
        total = [sum_of + part for sum_of, part in zip(total, gradient, strict=True)]
        weights = tuple((w - alpha * part).detach() for w, part in zip(weights, gradient, strict=True))
    end = tuple(
        w - alpha * sum_of.detach() - (sum_of - sum_of.detach()) * alpha.detach()
        for w, sum_of in zip(scene.segment.start, total, strict=True)
    )
    loss = trajectories.squared_distance(end, scene.segment.target) / scene.segment.length
    by_images, by_alpha = torch.autograd.grad(loss, (images, alpha))
    return Match(loss.detach(), by_images, by_alpha)


def assert_matches(got: Match, want: Match) -> None:
    for field in ("loss", "by_images", "by_alpha"):
        scale = float(getattr(want, field).abs().max())
        torch.testing.assert_close(getattr(got, field), getattr(want, field), rtol=0, atol=2e-5 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("soft", [False, True])
def test_tesla_exact_is_the_derivative_at_fixed_weights(data: Dataset, soft: bool) -> None:
    stage = scene(data, soft=soft)
    exact = stage.match(tesla.step_by_step, gradient_factor=tesla.VARIANTS["exact"]["gradient_factor"])
    assert_matches(exact, surrogate(stage))
    halved = stage.match(tesla.step_by_step)
    assert_close(2 * halved.by_images, exact.by_images.numpy(), 1e-6)
    assert torch.equal(halved.by_alpha, exact.by_alpha)


def test_a_single_step_is_the_same_for_both(data: Dataset) -> None:
    stage = scene(data, student_steps=1)
    assert_matches(stage.match(tesla.step_by_step, gradient_factor=2.0), stage.match(mtt.unrolled))


def test_later_weights_carry_the_images_in_mtt_alone(data: Dataset) -> None:
    stage = scene(data)
    unrolled, exact = (stage.match(mtt.unrolled), stage.match(tesla.step_by_step, gradient_factor=2.0))
    torch.testing.assert_close(unrolled.loss, exact.loss)
    difference = (unrolled.by_images - exact.by_images).norm() / exact.by_images.norm()
    assert float(difference) > 1e-3


class Held:
    """A tensor kept for a backward pass; counts what all of them hold together."""

    now = peak = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        Held.now += tensor.nbytes
        Held.peak = max(Held.peak, Held.now)

    def __del__(self) -> None:
        Held.now -= self.tensor.nbytes


def peak_held(stage: Scene, matching: Callable[..., Match]) -> int:
    """Most bytes that graphs hold at once."""
    Held.now = Held.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        stage.match(matching)
    return Held.peak


def test_memory_grows_with_the_steps_in_mtt_and_not_in_tesla(data: Dataset) -> None:
    short, long = scene(data, student_steps=2), scene(data, student_steps=8)
    plain = [
        dataclasses.replace(one, student=dataclasses.replace(one.student, strategy=""))
        for one in (short, long)
    ]
    for one in plain:
        one.steps = [Step(torch.arange(4), None) for _ in one.steps]
    few, many = (peak_held(one, tesla.step_by_step) for one in plain)
    assert few == many > 0
    few, many = (peak_held(one, mtt.unrolled) for one in plain)
    assert many > 3 * few


@pytest.mark.parametrize("matching", [mtt.unrolled, tesla.step_by_step])
def test_nothing_outlives_an_iteration(data: Dataset, matching: Callable[..., Match]) -> None:
    stage = scene(data)
    peak_held(stage, matching)
    assert Held.now == 0


def test_batches_come_from_the_end_of_each_permutation() -> None:
    config = mtt.Config(student_steps=6, batch_syn=4)
    images, context = torch.zeros(10, 1, 8, 8), Context()
    order = torch.randperm(10, generator=Context().generator("order"))
    steps = trajectories.draw_steps(images, "", config, context)
    assert [len(step.rows) for step in steps] == [2, 4, 4] * 2
    assert torch.equal(torch.cat([steps[2].rows, steps[1].rows, steps[0].rows]), order)
    assert not torch.equal(torch.cat([steps[5].rows, steps[4].rows, steps[3].rows]), order)
    whole = trajectories.draw_steps(images, "", dataclasses.replace(config, batch_syn=None), context)
    assert {tuple(step.rows.sort().values.tolist()) for step in whole} == {tuple(range(10))}


def test_segments_are_drawn_over_all_experts_and_starts(data: Dataset) -> None:
    config = mtt.Config(**SMALL | {"max_start": 3, "match_epochs": 2, "expert_epochs": 4})

    class Asked:
        def __init__(self) -> None:
            self.pairs: list[tuple[int, int]] = []

        def __len__(self) -> int:
            return 2

        def parameters(self, expert: int, epoch: int) -> list[Tensor]:
            self.pairs.append((expert, epoch))
            return [torch.full((2,), float(epoch))]

    asked, context = Asked(), Context()
    lengths = {float(trajectories.draw_segment(asked, config, context).length) for _ in range(60)}  # type: ignore[arg-type]
    drawn = set(zip(asked.pairs[::2], asked.pairs[1::2], strict=True))
    assert drawn == {((k, t), (k, t + 2)) for k in range(2) for t in range(3)}
    assert lengths == {8.0}


@pytest.mark.golden("aug_mtt_affine", "mtt", "tesla")
def test_experts_and_students_resample_with_aligned_corners(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligned = []
    for module, name in ((experts, "augment_batch"), (trajectories, "augment")):
        original = getattr(module, name)

        def spy(*arguments: Any, original: Any = original, **named: Any) -> Tensor:
            aligned.append(named["align_corners"])
            return original(*arguments, **named)

        monkeypatch.setattr(module, name, spy)
    mtt.distill(data, 1, config=mtt.Config(**SMALL), context=Context(arch=ARCH))
    assert len(aligned) == 2 * 2 * 6 + 3 * 4, "steps of the experts and of the students"
    assert set(aligned) == {True}


@pytest.mark.slow
def test_the_learned_rate_is_that_of_training_on_the_set(data: Dataset) -> None:
    config = mtt.Config(**SMALL | {"lr_lr": 1e-3})
    distilled = mtt.distill(data, 1, config=config, context=Context(arch=ARCH))
    assert distilled.learned_lr not in (None, config.alpha0)
    protocol = protocol_named("dc-smoke")
    training_set = training_set_of(distilled, protocol, torch.device("cpu"))
    assert training_set.lr == distilled.learned_lr
    course = protocol.course(training_set.size(10), lr=training_set.lr)
    assert course.schedule.lr == distilled.learned_lr
    still = mtt.distill(data, 1, config=dataclasses.replace(config, lr_lr=0.0), context=Context(arch=ARCH))
    assert still.learned_lr == pytest.approx(config.alpha0)


@pytest.mark.slow
def test_a_whitened_trial_from_start_to_record(tmp_path: Path) -> None:
    short = {"zca": True, "iterations": 2, "student_steps": 2, "expert_steps": 2}
    config = dataclasses.asdict(resolve("mtt", "digits", 1, "smoke", short).config)
    trial = digits_trial(method="mtt", config=config, zca=True, arch=ARCH)
    settings = RunSettings(results=tmp_path, data_dir=tmp_path / "data", datasets={"digits": "digits"})
    record = run_trial(trial, settings)
    assert record.status == "done", record.reason
    assert isinstance(Distilled.load(trial.distillation.set_path(tmp_path)).transform, ZCA)
    assert len(list(tmp_path.rglob("experts/*/*.safetensors"))) == config["experts"]


@pytest.mark.slow
def test_soft_labels_are_what_an_expert_makes_of_the_first_images(data: Dataset) -> None:
    config = tesla.Config(**SMALL | tesla.VARIANTS["soft"] | {"lr_img": 0.0, "experts": 1})
    distilled = tesla.distill(data, 2, config=config, context=Context(arch=ARCH))
    known = train_experts(
        Context(arch=ARCH), data, trajectories.expert_settings(config, distilled.augmentation)
    )
    net = Context(arch=ARCH).network(data)
    known.load_into(net, 0, 2)
    torch.testing.assert_close(distilled.labels, net(distilled.images).softmax(dim=1).detach())
    torch.testing.assert_close(distilled.labels.sum(dim=1), torch.ones(6))
    hard = tesla.distill(
        data, 2, config=dataclasses.replace(config, teacher_label=False), context=Context(arch=ARCH)
    )
    assert torch.equal(hard.labels, torch.arange(3).repeat_interleave(2))
    assert torch.equal(hard.images, distilled.images)


@pytest.mark.slow
def test_the_batch_of_labelling_changes_nothing(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tesla.Config(**SMALL | tesla.VARIANTS["soft"] | {"iterations": 1})
    labels = []
    for at_once in (256, 4):
        monkeypatch.setattr(tesla, "_LABELLED_AT_ONCE", at_once)
        labels.append(tesla.distill(data, 2, config=config, context=Context(arch=ARCH)).labels)
    torch.testing.assert_close(*labels)


@pytest.mark.parametrize("method", ["mtt", "tesla", "tesla@exact", "tesla@soft"])
@pytest.mark.parametrize("scale", ["paper", "cpu", "smoke"])
def test_every_setting_has_experts_that_are_long_enough(method: str, scale: str) -> None:
    for dataset in ("cifar10", "cifar100", "tinyimagenet", "mnist", "my-folder"):
        for ipc in (1, 2, 10, 50, 100):
            config = resolve(method, dataset, ipc, scale).config
            settings = trajectories.expert_settings(config, "color")
            assert settings.epochs >= config.max_start - 1 + config.match_epochs
            assert settings.align_corners


def test_published_settings_are_the_authors() -> None:
    ten = resolve("mtt", "cifar10", 10).config
    assert (ten.student_steps, ten.match_epochs, ten.max_start) == (30, 2, 20)
    assert (ten.lr_img, ten.lr_lr, ten.alpha0, ten.batch_syn, ten.zca) == (100, 1e-5, 0.001, None, True)
    assert not resolve("mtt", "cifar10", 50).config.zca
    assert not resolve("mtt", "svhn", 10).config.zca, "nothing is published"
    one = resolve("tesla", "cifar10", 1).config
    assert (one.student_steps, one.max_start, one.lr_img, one.iterations) == (50, 5, 1000, 10_000)
    assert resolve("tesla", "cifar100", 50).config.batch_syn == 125


def test_experts_that_are_too_short_are_refused_before_any_is_trained(data: Dataset) -> None:
    with pytest.raises(UserError, match="up to 3 passes, but experts make 2; raise expert_epochs or lower"):
        mtt.Config(**SMALL | {"max_start": 3})
    with pytest.raises(UserError, match="up to 60 passes, but experts make 50"):
        resolve("mtt", data.name, 1, overrides={"max_start": "59"})
