"""DATM, its constant-memory variant, and PAD: the authors' own iterations, and what must hold beyond them."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from golden_trajectories import GoldenImages, GoldenTrajectories, permutations
from scripted import GivenExperts, ScriptedContext, ScriptedData, ScriptedDraws
from support import assert_close, golden, golden_network, tensor
from torch import Tensor

from harness.core.context import Context
from harness.core.data import Dataset
from harness.core.data.toy import toy
from harness.core.distilled import Distilled
from harness.core.errors import DataError, DivergedError, UserError
from harness.engine.options import Options
from harness.engine.plan import check_methods
from methods import datm, pad, resolve
from methods.shared import aligned, trajectories
from methods.shared.aligned import Jury, Learned, SoftMatch
from methods.shared.trajectories import Segment, StatelessStudent, Step

ARCH = "ConvNetW8D2"
SMALL: dict[str, Any] = {
    "iterations": 3,
    "student_steps": 4,
    "match_epochs": 1,
    "max_start": 2,
    "batch_syn": 4,
    "lr_img": 1.0,
    "lr_label": 1.0,
    "alpha0": 0.05,
    "experts": 2,
    "expert_epochs": 2,
    "expert_batch": 10,
    "expert_lr": 0.1,
}


def replay(
    method: Any, arrays: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> tuple[Distilled, list[SoftMatch], list[dict[str, Tensor]]]:
    """`distill` with the golden trajectories, draws and first images and logits; its states step by step."""
    batches = arrays["batches"]
    first_images, first_logits = tensor(arrays["x0"]), tensor(arrays["y0"])
    experts = GoldenTrajectories(arrays)
    thrifty = "constant_memory" in settings
    monkeypatch.setattr(trajectories, "train_experts", lambda *arguments, **named: experts)
    monkeypatch.setattr(
        aligned, "begin", lambda *arguments: (torch.arange(len(first_images)), first_logits.clone())
    )
    matches: list[SoftMatch] = []
    way = "step_by_step" if thrifty else "unrolled"
    original = getattr(aligned, way)

    def spy(*arguments: Any) -> SoftMatch:
        matches.append(original(*arguments))
        return matches[-1]

    monkeypatch.setattr(aligned, way, spy)
    starts = arrays["start"].reshape(-1)
    chosen = arrays.get("expert", [0] * len(starts))
    config = method.Config(
        iterations=len(batches),
        **{name: float(arrays[name]) for name in ("lr_img", "lr_lr", "alpha0")},
        lr_label=float(arrays["lr_y"]),
        momentum_label=float(arrays.get("momentum_y", 0.9)),
        threshold=float(arrays.get("threshold", 1e9)),
        student_steps=int(arrays["syn_steps"]),
        match_epochs=int(arrays["expert_epochs"]),
        max_start=max(1, int(starts.max()) + 1),
        batch_syn=int(arrays["batch_syn"]),
        strategy="",
        **settings,
    )
    student = golden_network(arrays, "e0t0_" if "e0t0_00" in arrays else "t0_", "names", "ConvNet")
    draws = {
        "segment": [torch.tensor(int(v)) for pair in zip(chosen, starts, strict=True) for v in pair],
        "order": permutations(batches, len(first_images), config.batch_syn),
    }
    context = ScriptedContext([student], draws)
    data = GoldenImages(first_images, first_logits.shape[1])
    with ScriptedDraws():
        made = method.distill(
            data, len(first_images) // first_logits.shape[1], config=config, context=context
        )
    assert experts.asked == [
        (int(k), int(t) + shift)
        for k, t in zip(chosen, starts, strict=True)
        for shift in (0, config.match_epochs)
    ]
    return made, matches, context.states


@pytest.mark.slow
@pytest.mark.parametrize(
    ("item", "settings"),
    [
        pytest.param("trace_datm", {}, marks=pytest.mark.golden("trace_datm", "datm")),
        pytest.param(
            "trace_datm_tesla",
            datm.VARIANTS["tesla"],
            marks=pytest.mark.golden("trace_datm_tesla", "datm"),
        ),
    ],
)
def test_the_authors_iterations(item: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden(item)
    made, matches, states = replay(datm, arrays, monkeypatch, **settings)
    iterations = len(arrays["loss"])
    assert len(matches) == iterations
    for k, match in enumerate(matches):
        assert_close(match.loss, arrays["loss"][k])
        assert_close(match.by_alpha, arrays["alpha_grad"][k])
        assert_close(match.by_images, arrays[f"grad_x{k}"])
        assert_close(match.by_logits, arrays[f"grad_y{k}"])
    last = iterations - 1
    assert_close(made.images, arrays[f"x{iterations}"])
    assert_close(made.labels, tensor(arrays[f"y{iterations}"]).softmax(dim=1).numpy())
    assert_close(torch.tensor(made.learned_lr), arrays["alpha"][last])
    for k, state in enumerate(states[1:], start=1):
        assert_close(state["images"], arrays[f"x{k}"])
        assert_close(state["logits"], arrays[f"y{k}"])
        assert_close(state["alpha"], arrays["alpha"][k - 1])
        assert int(state["made"]) == int(arrays["stepped"][:k].sum())


@pytest.mark.golden("trace_pad", "pad")
def test_pad_leaves_out_the_authors_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("trace_pad")
    masks = [name.removesuffix("_batches") for name in arrays if name.endswith("_batches")]
    assert masks
    for mask in masks:
        with monkeypatch.context() as patch:
            one = {"batches": arrays[f"{mask}_batches"][None]}
            ratios = {name: float(arrays[name]) for name in ("depth_ratio", "loss_ratio")}
            made, (match,), _ = replay(
                pad, arrays | one, patch, mask=mask, data_order=False, scorers=1, **ratios
            )
        assert_close(match.loss, arrays[f"{mask}_loss"])
        assert_close(match.by_alpha, arrays[f"{mask}_alpha_grad"])
        assert_close(match.by_images, arrays[f"{mask}_grad_x"])
        assert_close(match.by_logits, arrays[f"{mask}_grad_y"])
        assert_close(made.images, arrays[f"{mask}_x1"])
        assert_close(made.labels, tensor(arrays[f"{mask}_y1"]).softmax(dim=1).numpy())
        assert_close(torch.tensor(made.learned_lr), arrays[f"{mask}_alpha"])


@pytest.mark.golden("datm_range", "datm", "pad")
def test_starts_grow_as_the_authors_do() -> None:
    arrays = golden("datm_range")
    cases = [name.removesuffix("_low") for name in arrays if name.endswith("_low")]
    assert cases
    for case in cases:
        values = {name: int(arrays[f"{case}_{name}"]) for name in ("min_start", "max_start", "current")}
        config = datm.Config(
            min_start=values["min_start"],
            max_start=values["max_start"],
            first_max_start=values["current"] if arrays[f"{case}_sequential"] else None,
            growth=int(arrays[f"{case}_expansion"]),
            expert_epochs=values["max_start"] + 1,
        )
        found = [aligned.starts(config, k) for k in range(len(arrays[f"{case}_low"]))]
        assert [part.start for part in found] == arrays[f"{case}_low"].tolist()
        assert [part.stop for part in found] == arrays[f"{case}_high"].tolist()


def golden_jury(arrays: dict[str, Any]) -> tuple[Jury, ScriptedData, int]:
    """The experts of the file, its images as a dataset drawn from in the file's order, and its ipc."""
    count = len({name.partition("_")[0] for name in arrays if name.startswith("e") and name.endswith("_00")})
    nets = {(k, 0): golden_network(arrays, f"e{k}_", "names", "ConvNet") for k in range(count)}
    experts: Any = GivenExperts(nets)
    experts.settings = SimpleNamespace(epochs=0)
    net = golden_network(arrays, "e0_", "names", "ConvNet")
    data = ScriptedData(arrays | {"init_idx": arrays["r_idx"], "real_idx": [arrays["order"]]})
    return Jury(experts, net, Context()), data, int(arrays["ipc"])


@pytest.mark.golden("datm_init", "datm", "pad")
def test_experts_choose_and_label_the_first_images(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("datm_init")
    for rows_at_once in (256, 3):
        monkeypatch.setattr(aligned, "_ROWS", rows_at_once)
        jury, data, ipc = golden_jury(arrays)
        rows, logits = aligned.begin(jury, data, ipc, datm.Config(), jury.context)  # type: ignore[arg-type]
        by_class = rows.view(-1, ipc)
        assert by_class.sort(dim=1).values.tolist() == arrays["idx_sorted"].tolist()
        place = {int(row): k for k, row in enumerate(arrays["idx"].flatten())}
        wanted = tensor(arrays["y0"])[[place[int(row)] for row in rows]]
        assert_close(logits, wanted.numpy())


@pytest.mark.golden("datm_init", "datm", "pad")
def test_random_first_images_are_labelled_by_one_expert() -> None:
    arrays = golden("datm_init")
    jury, data, ipc = golden_jury(arrays)
    context = ScriptedContext([], {"teacher": [tensor(arrays["r_expert"])]})
    config = datm.Config(initial="random")
    with ScriptedDraws():
        rows, logits = aligned.begin(jury, data, ipc, config, context)  # type: ignore[arg-type]
    assert rows.tolist() == arrays["r_idx"].flatten().tolist()
    assert_close(logits, arrays["r_y0"])


@pytest.fixture(scope="module")
def data() -> Dataset:
    return toy(num_classes=3, shape=(3, 8, 8), per_class=20)


class Judges(Jury):
    """Experts whose answers are written down: (experts, N, classes)."""

    def __init__(self, answers: Tensor, data: Dataset) -> None:
        self.__dict__.update(answers=answers, context=Context(), images=data.batch(torch.arange(len(data))))

    def __len__(self) -> int:
        return len(self.answers)

    def logits(self, expert: int, images: Tensor) -> Tensor:
        rows = [int((self.images == image).flatten(1).all(dim=1).nonzero()[0, 0]) for image in images]
        return self.answers[expert][rows]


def test_images_that_no_expert_knows_come_last_and_are_labelled_by_all(data: Dataset) -> None:
    wrong = torch.nn.functional.one_hot((data.labels + 1) % 3, 3).float()
    known = wrong.clone()
    known[:2] = torch.nn.functional.one_hot(data.labels[:2], 3).float()
    orders = [(data.labels == c).nonzero().flatten().flip(0) for c in range(3)]
    jury = Judges(torch.stack([wrong, known]), data)
    rows = aligned.rightly_classified(jury, data, orders, 4)
    assert rows.view(3, 4).tolist() == [[1, 0, 19, 18], [39, 38, 37, 36], [59, 58, 57, 56]]
    logits = aligned.mean_logits(jury, data.batch(rows), data.labels[rows])
    torch.testing.assert_close(logits[:2], known[[1, 0]])
    torch.testing.assert_close(logits[2:], (wrong + known)[rows[2:]] / 2)
    with pytest.raises(DataError, match="class 0 has 20 images, fewer than the 21 asked for"):
        aligned.rightly_classified(jury, data, orders, 21)


@dataclasses.dataclass
class Scene:
    """All that a way to match trajectories is given."""

    student: StatelessStudent
    segment: Segment
    learned: Learned
    steps: list[Step]

    def match(self, matching: Callable[..., SoftMatch], distance: Any = aligned.normalised) -> SoftMatch:
        learned = Learned(*(part.detach().clone().requires_grad_() for part in self.learned.parts.values()))
        return matching(self.student, self.segment, learned, self.steps, distance)


def scene(
    data: Dataset, student_steps: int = 4, strategy: str = "color_crop_cutout_flip_scale_rotate"
) -> Scene:
    """A segment of an expert and the draws for a student."""
    config = datm.Config(**SMALL | {"student_steps": student_steps, "strategy": strategy})
    context = Context(arch=ARCH)
    known = trajectories.flat_experts(data, config, context)
    images = data.batch(data.index.balanced(2, context.generator("init")))
    logits = torch.randn(len(images), 3, generator=context.generator("labels"))
    return Scene(
        StatelessStudent(context, context.network(data), logits, strategy),
        trajectories.draw_segment(known, config, context),
        Learned(images, logits, torch.tensor(config.alpha0)),
        trajectories.draw_steps(images, strategy, config, context),
    )


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["none", "depth", "loss"])
def test_a_single_step_is_the_same_in_constant_memory(data: Dataset, mask: Any) -> None:
    stage = scene(data, student_steps=1)
    distance = pad.chosen_distance(pad.Config(mask=mask))
    plain, thrifty = (stage.match(way, distance) for way in (aligned.unrolled, aligned.step_by_step))
    for field in ("loss", "by_images", "by_logits", "by_alpha"):
        scale = float(getattr(plain, field).abs().max())
        torch.testing.assert_close(getattr(thrifty, field), getattr(plain, field), rtol=0, atol=3e-5 * scale)


class Held:
    """A tensor kept for a backward pass; counts what all of them hold together."""

    now = peak = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        Held.now += tensor.nbytes
        Held.peak = max(Held.peak, Held.now)

    def __del__(self) -> None:
        Held.now -= self.tensor.nbytes


def peak_held(stage: Scene, matching: Callable[..., SoftMatch]) -> int:
    """Most bytes that graphs hold at once."""
    Held.now = Held.peak = 0
    stage.steps = [Step(torch.arange(4), None) for _ in stage.steps]
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        stage.match(matching)
    assert Held.now == 0, "nothing outlives an iteration"
    return Held.peak


@pytest.mark.slow
def test_memory_of_the_variant_does_not_grow_with_the_steps(data: Dataset) -> None:
    stages = {n: scene(data, student_steps=n, strategy="") for n in (10, 20, 40)}
    thrifty = [peak_held(stage, aligned.step_by_step) for stage in stages.values()]
    assert thrifty[0] == thrifty[1] == thrifty[2] > 0
    plain = [peak_held(stages[n], aligned.unrolled) for n in (10, 20)]
    assert plain[1] > 1.9 * plain[0] > 1.9 * thrifty[0]


@pytest.mark.slow
def test_a_step_that_misses_by_too_much_is_not_made(data: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    config = datm.Config(**SMALL | {"threshold": 0.0})
    made = datm.distill(data, 1, config=config, context=Context(arch=ARCH))
    assert made.learned_lr == pytest.approx(config.alpha0)
    assert "no step of datm was made" in caplog.text
    caplog.clear()
    free = dataclasses.replace(config, threshold=1e9)
    moved = datm.distill(data, 1, config=free, context=Context(arch=ARCH))
    assert not torch.equal(moved.images, made.images)
    assert not torch.equal(moved.labels, made.labels)
    assert not caplog.text


@pytest.mark.slow
def test_the_set_has_labels_that_are_probabilities_and_classes(data: Dataset) -> None:
    made = datm.distill(data, 2, config=datm.Config(**SMALL), context=Context(arch=ARCH))
    assert made.labels.shape == (6, 3)
    torch.testing.assert_close(made.labels.sum(dim=1), torch.ones(6))
    assert made.hard_labels().tolist() == [0, 0, 1, 1, 2, 2]
    again = datm.distill(data, 2, config=datm.Config(**SMALL), context=Context(arch=ARCH))
    assert again.digest() == made.digest()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "wrong"), [("lr_label", "labels"), ("lr_img", "images"), ("lr_lr", "learning rates")]
)
def test_what_diverges_is_named_in_a_line(data: Dataset, setting: str, wrong: str) -> None:
    config = datm.Config(**SMALL | {"iterations": 40, setting: float("inf"), "threshold": 1e30})
    with pytest.raises(
        DivergedError, match=f"{wrong} are no longer finite numbers; lower {setting}"
    ) as found:
        datm.distill(data, 1, config=config, context=Context(arch=ARCH))
    assert "\n" not in str(found.value)


@pytest.mark.slow
def test_losses_that_are_no_numbers_end_the_run_when_there_are_too_many(data: Dataset) -> None:
    config = datm.Config(**SMALL | {"iterations": 11, "lr_img": 1e36, "threshold": 1e30})
    with pytest.raises(DivergedError, match="no finite number 10 times in a row; lower lr_img") as found:
        datm.distill(data, 1, config=config, context=Context(arch=ARCH))
    assert "\n" not in str(found.value)
    for k in (1, 9, 10):
        good = Learned(torch.zeros(1), torch.zeros(1), torch.zeros(()))
        if k < 10:
            aligned.check_finite(good, k, "datm")
        else:
            with pytest.raises(DivergedError):
                aligned.check_finite(good, k, "datm")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"min_start": "4", "max_start": "4"}, "expected 0 <= min_start < first_max_start <= max_start"),
        ({"first_max_start": "9", "max_start": "5"}, "to fewer than 9 passes of an expert"),
        ({"min_start": "-1"}, "expected 0 <= min_start"),
        ({"first_max_start": "1", "growth": "0"}, "starts cannot grow in 0 iterations"),
        ({"max_start": "100"}, "up to 101 passes, but experts make 100"),
    ],
)
@pytest.mark.parametrize("method", ["datm", "pad"])
def test_starts_that_do_not_fit_are_refused_while_planning(
    method: str, changes: dict[str, str], said: str
) -> None:
    with pytest.raises(UserError, match=said) as found:
        resolve(method, "cifar10", 1, overrides=changes)
    assert "\n" not in str(found.value)


def test_settings_are_held_against_those_of_the_cell_and_not_against_defaults() -> None:
    late = (("datm", "min_start", "50"),)
    assert max(datm.PAPER["cifar10", 500]["max_start"], 50) == 60 > datm.Config().max_start
    check_methods(Options(methods=("datm",), set=late))
    assert resolve("datm", "cifar10", 500, overrides={"min_start": "50"}).config.min_start == 50
    with pytest.raises(UserError, match="cannot start after 50 to fewer than 20 passes"):
        resolve("datm", "cifar10", 10, overrides={"min_start": "50", "first_max_start": "none"})


@pytest.mark.parametrize("name", ["depth_ratio", "loss_ratio", "remove_ratio_first", "remove_ratio_second"])
def test_shares_that_leave_nothing_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is 1; expected a share from 0 to below 1"):
        resolve("pad", "cifar10", 1, overrides={name: "1"})
    with pytest.raises(UserError, match="init_ratio is 0; expected a share above 0"):
        resolve("pad", "cifar10", 1, overrides={"init_ratio": "0"})


def test_masks_keep_what_they_say() -> None:
    squares = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    assert pad.deep(squares, 0.5).tolist() == [2, 3, 4]
    assert sorted(pad.differing(squares, 0.5).tolist()) == [0, 2, 4]
    for keep in (pad.deep, pad.differing):
        assert sorted(keep(squares, 0.0).tolist()) == [0, 1, 2, 3, 4]


def test_difficulty_is_how_far_answers_are_from_labels(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = torch.randn(2, len(data), 3, generator=torch.Generator().manual_seed(0))
    jury = Judges(answers, data)
    wanted = (answers.softmax(dim=2) - torch.nn.functional.one_hot(data.labels, 3)).norm(dim=2).mean(dim=0)
    torch.testing.assert_close(pad.el2n(jury, data), wanted)
    monkeypatch.setattr(pad, "_SCORED", 7)
    torch.testing.assert_close(pad.el2n(Judges(answers, data), data), wanted)


@pytest.mark.slow
def test_pads_experts_are_shown_the_easy_images_first(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: deque[Any] = deque()
    original = pad.train_experts

    def spy(context: Context, data: Dataset, settings: Any, **named: Any) -> Any:
        asked.append((settings, named))
        return original(context, data, settings, **named)

    monkeypatch.setattr(pad, "train_experts", spy)
    short = {"scorers": 2, "scorer_epochs": 1, "add_end": 1, "init_ratio": 0.5}
    pad.trained_experts(data, pad.Config(**SMALL | short), Context(arch=ARCH))
    (scoring, _), (settings, named) = asked
    assert (scoring.count, scoring.epochs, scoring.gsam, scoring.curriculum) == (2, 1, None, None)
    assert settings.curriculum.init_ratio == 0.5
    assert settings.gsam is not None
    assert named["difficulty"].shape == (len(data),)
    plain = pad.trained_experts(data, pad.Config(**SMALL | {"data_order": False}), Context(arch=ARCH))
    assert plain.settings == dataclasses.replace(settings, curriculum=None, arch=plain.settings.arch)


@pytest.mark.parametrize("method", ["datm", "datm@tesla", "pad", "pad@loss", "pad@data", "pad@mask"])
@pytest.mark.parametrize("scale", ["paper", "cpu", "smoke"])
def test_every_row_has_settings_that_fit(method: str, scale: str) -> None:
    for dataset in ("cifar10", "cifar100", "tinyimagenet", "mnist", "my-folder"):
        for ipc in (1, 2, 10, 50, 100, 500, 1000):
            config = resolve(method, dataset, ipc, scale).config
            assert config.constant_memory == (method == "datm@tesla")
            whole = {aligned.starts(config, k).stop for k in (0, config.growth, config.iterations)}
            assert max(whole) == config.max_start


def test_published_settings_are_the_authors() -> None:
    fifty = resolve("datm", "cifar10", 50).config
    assert (fifty.student_steps, fifty.match_epochs, fifty.lr_img, fifty.lr_label) == (80, 2, 1000, 2)
    assert (fifty.min_start, fifty.first_max_start, fifty.max_start, fifty.growth) == (0, 20, 40, 2000)
    assert (fifty.zca, fifty.batch_syn, fifty.gsam_rho, fifty.gsam_alpha) == (True, 500, 0.01, 0.3)
    assert resolve("datm", "cifar100", 50).config.initial == "random"
    one = resolve("datm", "cifar10", 1).config
    assert (one.first_max_start, one.threshold, one.lr_lr) == (None, 1.1, 1e-7)
    ten = resolve("pad", "cifar10", 10).config
    assert (ten.mask, ten.depth_ratio, ten.add_end) == ("depth", 0.25, 20)
    assert resolve("pad@loss", "cifar10", 10).config.loss_ratio == 0.5
