"""Evaluation against the authors' schedule and loss trace, and its firewall."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import assert_close, golden, golden_network, tensor

from harness.core.context import Context
from harness.core.data import Dataset, Normalization
from harness.core.data.toy import toy
from harness.core.distilled import Distilled
from harness.core.errors import DivergedError, FirewallError, UnknownNameError, UserError
from harness.core.loop import StoppedEarly
from harness.engine import evaluate as evaluation
from harness.engine import training
from harness.engine.evaluate import evaluate
from harness.engine.parts import SGD, CutMix, Epochs
from harness.engine.protocol import DC, IDC, PROTOCOLS, Protocol, Recipe
from harness.engine.schedules import Schedule
from harness.engine.training import Script, TrainingSet, train_network, training_set_of
from methods import kip, random, resolve
from methods.shared.whitening import whitened

SHORT = Protocol("short", "for tests", DC, Epochs(3))


@pytest.mark.golden("eval_synset")
@pytest.mark.parametrize("case", [name[:-2] for name in golden("eval_synset") if name.endswith("_E")])
def test_training_matches_authors(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("eval_synset")
    net = golden_network(arrays, "w", "wnames", "ConvNet")
    batch_losses, epoch_losses = arrays[f"{case}_batch_loss"], arrays[f"{case}_loss"]
    counts = batch_counts(len(arrays["x"]), batch_losses, epoch_losses)
    recipe = dataclasses.replace(DC, batch=counts[0], optimiser=SGD(float(arrays[f"{case}_lr_net"])))
    protocol = Protocol("golden", "", recipe, Epochs(int(arrays[f"{case}_E"])))
    losses: list[float] = []
    backward = training.backward

    def spy(*arguments: object) -> torch.Tensor:
        loss = backward(*arguments)
        losses.append(float(loss))
        return loss

    monkeypatch.setattr(training, "backward", spy)
    training_set = TrainingSet(tensor(arrays["x"]), tensor(arrays["y"]).long())
    last = train_network(net, training_set, protocol, Context(), script=in_order(len(arrays["x"]), counts[0]))
    assert_close(torch.tensor(losses).reshape(batch_losses.shape), batch_losses)
    torch.testing.assert_close(last, float(epoch_losses[-1]), rtol=2e-5, atol=0)
    for k, value in enumerate(net.parameters()):
        assert_close(value, arrays[f"{case}_wf{k:02d}"])
    with torch.no_grad():
        logits, classes = net.eval()(tensor(arrays["x_test"])), tensor(arrays["y_test"]).long()
    scores = [float(F.cross_entropy(logits, classes)), float((logits.argmax(1) == classes).float().mean())]
    assert_close(torch.tensor(scores), arrays[f"{case}_test"])
    schedule = Schedule(recipe.rule, int(arrays[f"{case}_E"]), recipe.optimiser.lr)
    epochs = range(len(epoch_losses))
    assert_close(torch.tensor([schedule.lr_in(epoch) for epoch in epochs]), arrays[f"{case}_lr"])
    fresh = [schedule.restarts_between(epoch - 1, epoch) for epoch in epochs]
    assert fresh == arrays[f"{case}_newopt"].astype(bool).tolist()


def batch_counts(images: int, batch_losses: np.ndarray, epoch_losses: np.ndarray) -> list[int]:
    """Images in each batch of a pass, which no array has: weighted by them, losses have the pass's mean."""
    splits = [[len(part) for part in torch.arange(images).split(size)] for size in range(1, images + 1)]
    fitting = [counts for counts in splits if len(counts) == batch_losses.shape[1]]
    return min(fitting, key=lambda counts: float(np.abs(batch_losses @ counts / images - epoch_losses).max()))


@pytest.mark.slow
def test_networks_learn_and_are_scored_apart() -> None:
    data = toy(num_classes=3, shape=(3, 16, 16))
    distilled = random.distill(data, 5, context=Context(arch="ConvNetW8"))
    plain = dataclasses.replace(distilled, augmentation="")
    result = evaluate(
        plain, data, Protocol("t", "", DC, Epochs(30)), evals=3, context=Context(arch="ConvNetW8")
    )
    assert len(result.accuracies) == len(set(result.train_losses)) == 3
    assert min(result.accuracies) > 0.8
    assert result.decoded_images == 15


def test_same_seed_same_numbers_and_another_seed_others() -> None:
    data = toy(shape=(3, 16, 16))
    distilled = random.distill(data, 2, context=Context(arch="ConvNetW8"))
    runs = [
        evaluate(distilled, data, SHORT, evals=2, context=Context(seed, arch="ConvNetW8")).train_losses
        for seed in (5, 5, 6)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_test_split_is_opened_once_and_only_after_training(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy()
    distilled = random.distill(data, 1, context=Context(arch="ConvNetW8"))
    looks_while_training = []
    train = evaluation.train_network

    def spy(*arguments: object, **named: object) -> float:
        looks_while_training.append(data.test_looks)
        return train(*arguments, **named)

    monkeypatch.setattr(evaluation, "train_network", spy)
    result = evaluate(distilled, data, SHORT, evals=3, context=Context(arch="ConvNetW8"))
    assert looks_while_training == [0, 0, 0]
    assert result.test_looks == data.test_looks == 1


def test_a_training_loop_that_touches_the_test_split_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy()
    distilled = random.distill(data, 1, context=Context(arch="ConvNetW8"))

    def cheat(*arguments: object, **named: object) -> float:
        return float(data.test().labels.sum())

    monkeypatch.setattr(evaluation, "train_network", cheat)
    with pytest.raises(FirewallError):
        evaluate(distilled, data, SHORT, evals=1, context=Context(arch="ConvNetW8"))


def test_a_set_of_another_shape_or_normalisation_is_refused() -> None:
    data = toy(shape=(3, 8, 8))
    distilled = random.distill(data, 1, context=Context(arch="ConvNetW8"))
    other = dataclasses.replace(distilled, transform=Normalization.of([0.0] * 3, [1.0] * 3))
    with pytest.raises(UserError, match="normalised otherwise"):
        evaluate(other, data, SHORT, evals=1, context=Context(arch="ConvNetW8"))
    with pytest.raises(UserError, match="the distilled set is for 3 classes"):
        evaluate(distilled, toy(shape=(1, 8, 8)), SHORT, evals=1, context=Context(arch="ConvNetW8"))


def test_pieces_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(shape=(3, 16, 16))
    distilled = random.distill(data, 6, context=Context(arch="ConvNetW8"))
    losses = []
    for rows in (None, 5):
        monkeypatch.setattr(training, "rows_per_piece", lambda net, shape, rows=rows: rows)
        result = evaluate(distilled, data, SHORT, evals=1, context=Context(arch="ConvNetW8"))
        losses.append(result.train_losses[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def in_order(count: int, batch: int) -> Script:
    """All images of a set, batch after batch, unmixed."""
    return Script(lambda: torch.arange(count).split(batch), lambda count, size: None)


def small_set(**changed: object) -> Distilled:
    """Two images of each of three classes, without augmentation unless asked for."""
    distilled = random.distill(toy(shape=(3, 16, 16)), 2, context=Context(arch="ConvNetW8"))
    return dataclasses.replace(distilled, **({"augmentation": ""} | changed))


def losses_of(distilled: Distilled, protocol: Protocol = SHORT) -> list[float]:
    """Last losses of two networks."""
    context = Context(3, arch="ConvNetW8")
    return evaluate(distilled, toy(shape=(3, 16, 16)), protocol, evals=2, context=context).train_losses


@pytest.mark.slow
@pytest.mark.parametrize(
    "protocol", [SHORT, dataclasses.replace(SHORT, recipe=dataclasses.replace(DC, mixing=CutMix()))]
)
def test_soft_labels_that_are_certain_train_as_hard_ones_do(protocol: Protocol) -> None:
    hard = small_set()
    certain = small_set(labels=F.one_hot(hard.labels, 3).float())
    assert losses_of(certain, protocol) == pytest.approx(losses_of(hard, protocol), rel=1e-5)
    unsure = small_set(labels=certain.labels * 0.7 + 0.1)
    assert losses_of(unsure, protocol) != pytest.approx(losses_of(hard, protocol), rel=1e-2)


def test_the_soft_labels_of_an_image_are_those_of_its_tiles() -> None:
    """Each image has one colour, which tells in what row of the labels to look."""
    labels = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    images = torch.arange(6.0)[:, None, None, None].expand(-1, 3, 16, 16)
    packed = small_set(images=images, labels=labels, factor=2)
    training_set = training_set_of(packed, SHORT, torch.device("cpu"))
    assert len(training_set.images) == 24
    assert torch.equal(training_set.labels, labels[training_set.images[:, 0, 0, 0].round().long()])


@pytest.mark.parametrize(
    ("strategy", "epochs"),
    [("", 3), ("none", 3), ("color", 6), ("flip>crop", 6), ("dc:crop_noise", 6)],
)
def test_sets_without_augmentation_are_trained_on_for_fewer_epochs(strategy: str, epochs: int) -> None:
    context = Context(arch="ConvNetW8")
    protocol = Protocol("t", "", DC, Epochs(5, plain=2))
    training_set = training_set_of(small_set(augmentation=strategy), protocol, context.device)
    train_network(context.network(toy(shape=(3, 16, 16))), training_set, protocol, context)
    assert context.cost().steps == epochs


def test_random_resized_crops_are_told_as_part_of_the_augmentation() -> None:
    protocol = PROTOCOLS["kd-bssl-smoke"]
    found = training_set_of(small_set(augmentation="color"), protocol, torch.device("cpu"))
    assert (found.augmentation, found.augmented) == ("resized_crop>flip", True)
    plain = dataclasses.replace(found, strategy="")
    assert (plain.augmentation, plain.augmented) == ("resized_crop", True)
    whole = dataclasses.replace(plain, smallest_crop=None)
    assert (whole.augmentation, whole.augmented) == ("", False)


@pytest.mark.slow
def test_each_kind_of_augmentation_is_obeyed() -> None:
    losses = [
        losses_of(small_set(augmentation=strategy))
        for strategy in ("", "dc:crop_scale_rotate", "dc:crop", "crop", "color_crop")
    ]
    assert len({tuple(pair) for pair in losses}) == 5
    assert losses_of(small_set(augmentation="dc:crop_scale_rotate")) == losses[1]


@pytest.mark.parametrize("strategy", ["colour", "dc:blur", "dc:", "crop>dc:crop", "color_"])
def test_an_unknown_augmentation_is_refused(strategy: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown augmentation"):
        losses_of(small_set(augmentation=strategy))


def test_a_distilled_learning_rate_replaces_the_protocols() -> None:
    faster = dataclasses.replace(SHORT, recipe=dataclasses.replace(DC, optimiser=SGD(0.03)))
    assert losses_of(small_set(learned_lr=0.03)) == losses_of(small_set(), faster)
    assert losses_of(small_set(learned_lr=0.03)) != losses_of(small_set())
    assert losses_of(small_set(learned_lr=DC.optimiser.lr)) == losses_of(small_set())


@pytest.mark.parametrize("rate", [0.0, -0.01, float("nan"), float("inf")])
def test_a_distilled_learning_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(DivergedError, match=r"learning rate .* that was distilled along"):
        losses_of(small_set(learned_lr=rate))


def test_idcs_rate_falls_without_a_restart_of_the_momentum() -> None:
    data, distilled = toy(shape=(3, 16, 16)), small_set()
    protocol = Protocol("t", "", Recipe("", rule=IDC.rule, batch=4), Epochs(6))
    context = Context(arch="ConvNetW8")
    net, twin = context.network(data), Context(arch="ConvNetW8").network(data)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [4, 5], gamma=0.2)
    train_network(net, TrainingSet(*distilled.decoded()), protocol, context, script=in_order(6, 4))
    for _ in range(6):
        for batch in torch.arange(6).split(4):
            optimizer.zero_grad()
            F.cross_entropy(twin(distilled.images[batch]), distilled.labels[batch]).backward()
            optimizer.step()
        scheduler.step()
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_protocol_may_bring_its_own_augmentation() -> None:
    protocol, device = PROTOCOLS["idc-1000"], torch.device("cpu")
    strategies = [
        training_set_of(small_set(augmentation="color", dataset=name), protocol, device).strategy
        for name in ("cifar10", "svhn")
    ]
    assert strategies == ["flip>color>crop_scale_rotate", "color>crop_scale_rotate"]


@pytest.mark.slow
def test_cutmix_mixes_images_and_labels_by_the_same_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each class has a colour of its own, so that the labels can be read off the images."""
    data = toy(shape=(3, 16, 16))
    images = torch.eye(3).repeat_interleave(2, dim=0)[:, :, None, None].expand(-1, -1, 16, 16)
    training_set = TrainingSet(images.contiguous(), torch.arange(3).repeat_interleave(2))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    backward = training.backward

    def spy(forward: object, net: object, images: torch.Tensor, loss_of: partial, *rest: object) -> object:
        seen.append((images, loss_of.args[1].rows))
        return backward(forward, net, images, loss_of, *rest)

    monkeypatch.setattr(training, "backward", spy)
    protocol = Protocol("t", "", Recipe("", rule=IDC.rule, mixing=CutMix(0.5)), Epochs(200))
    context = Context(arch="ConvNetW8")
    train_network(context.network(data), training_set, protocol, context)
    mixed = [(images, labels) for images, labels in seen if labels.ndim == 2]
    assert len(seen) == 200
    assert 70 <= len(mixed) <= 130
    for images, labels in mixed:
        torch.testing.assert_close(images.mean(dim=(2, 3)), labels)
    shares = torch.stack([labels.amax(dim=1).mean() for _, labels in mixed])
    assert shares.min() < 0.7
    assert shares.max() == 1


def test_training_with_cutmix_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    data = toy(shape=(3, 16, 16))
    protocol = dataclasses.replace(
        PROTOCOLS["idc-1000"], recipe=dataclasses.replace(IDC, batch=4), length=Epochs(12)
    )

    def train(**settings: object) -> float:
        context = Context(arch="ConvNetW8", **settings)
        training_set = training_set_of(small_set(), protocol, context.device)
        return train_network(context.network(data), training_set, protocol, context)

    work = {"work": tmp_path, "checkpoint_seconds": 0.0}
    with pytest.raises(StoppedEarly):
        train(stop_after=10, **work)
    assert train(**work) == train()


def in_a_kernel(data: Dataset, **changes: object) -> Distilled:
    """A set that KIP made of the data in a few steps."""
    config = dataclasses.replace(resolve("kip@fc", data.name, 2, "smoke").config, iterations=30, **changes)
    return kip.distill(data, 2, config=config, context=Context())


@pytest.mark.slow
def test_a_set_is_evaluated_through_the_whitening_of_its_method(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(num_classes=3, shape=(3, 16, 16))
    made = in_a_kernel(data, zca_reg=0.1)
    seen: list[torch.Tensor] = []
    answers = evaluation.answers

    def spy(net: object, test: evaluation.Split, context: Context) -> object:
        seen.append(test.batch(slice(None)))
        return answers(net, test, context)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluation, "answers", spy)
    evaluate(made, data, SHORT, evals=1, context=Context(arch="ConvNetW8"))
    assert torch.equal(seen[0], whitened(data, 0.1, unit_norm=True).transform(data.test().images))
    plain = Normalization.fit(data.images)(data.test().images)
    assert not torch.allclose(seen[0], plain, atol=0.1)


def test_no_teacher_is_asked_about_images_that_a_method_whitened() -> None:
    data = toy(num_classes=3, shape=(3, 16, 16))
    with pytest.raises(UserError, match=r"protocol kd-cpu asks a teacher.*--set kip\.zca_reg=0"):
        evaluate(
            in_a_kernel(data, zca_reg=0.1),
            data,
            PROTOCOLS["kd-cpu"],
            evals=1,
            context=Context(arch="ConvNetW8"),
        )


def test_the_kernel_is_scored_beside_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(num_classes=3, shape=(3, 16, 16))
    made, context = in_a_kernel(data), Context(arch="ConvNetW8")
    assert made.ridge is not None
    result = evaluate(made, data, SHORT, evals=1, context=context)
    test = data.test()
    told = made.ridge.predict(made.images, made.labels, test.batch(slice(None))).argmax(dim=1)
    assert result.kernel_accuracy == float((told == test.labels).double().mean()) > 0.5
    none = dataclasses.replace(made, ridge=None)
    assert evaluation.kernel_accuracy(none, test, context.device) is None
    monkeypatch.setattr(evaluation, "MOST_KERNEL_SECONDS", 0.0)
    assert evaluation.kernel_accuracy(made, test, context.device) is None
