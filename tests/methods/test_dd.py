"""DD against the authors' own outer steps, and what is ours: the steps that a set keeps, and its refusals."""

from __future__ import annotations

import dataclasses
from collections import deque
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scripted import ScriptedContext, ScriptedDraws
from support import assert_close, golden, load_hashed, tensor
from torch import Tensor

from harness.core.context import Context
from harness.core.data import Normalization
from harness.core.data.toy import toy
from harness.core.distilled import Distilled
from harness.core.errors import DivergedError, UserError
from harness.core.learned_steps import LearnedSteps
from harness.core.nets import Network, build
from harness.engine.evaluate import evaluate
from harness.engine.protocol import protocol_named
from methods import dd, resolve
from methods.dd import Config

SHAPE = (3, 8, 8)
ARCH = "ConvNetW8D2"
# The golden images' advised tolerance: the sign of a gradient of hardly anything is a whole step of Adam.
IMAGES = 5e-5


class RealBatches:
    """The golden real batches as a dataset, batch after batch."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.images, self.labels = tensor(arrays["real"]).flatten(0, 1), tensor(arrays["real_y"]).flatten()
        self.num_classes = int(arrays["classes"])
        self.class_names = tuple(f"class{c}" for c in range(self.num_classes))
        self.shape = tuple(self.images.shape[1:])
        self.device, self.name = torch.device("cpu"), "golden"
        self.transform = Normalization.of([0.0] * self.shape[0], [1.0] * self.shape[0])

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor) -> Tensor:
        return self.images[rows]

    def to(self, device: object) -> RealBatches:
        return self


def fresh(arrays: dict[str, Any], arch: str) -> Network:
    _, _, channels, height, width = arrays["real"].shape
    return build(
        arch,
        channels=channels,
        image_size=(height, width),
        classes=int(arrays["classes"]),
        generator=torch.Generator().manual_seed(0),
        device="cpu",
    )


def trace(
    arrays: dict[str, Any], arch: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[Distilled, list[dict[str, Tensor]]]:
    """The set after the outer steps of our `distill` with all draws given, and the states before each."""
    iterations, size = arrays["real"].shape[:2]
    classes, each = int(arrays["classes"]), int(arrays["per_class"])
    salts = deque(int(salt) for salt in arrays["salts"].tolist() * iterations)
    monkeypatch.setattr(dd, "draw_xavier", lambda net, generator: load_hashed(net, salts.popleft()))
    monkeypatch.setattr(dd, "initial_images", lambda *_: tensor(arrays["x0"]).clone())
    batches, epochs = int(arrays["distill_steps"]), int(arrays["distill_epochs"])
    config = Config(
        iterations=iterations,
        steps=batches,
        unrolled=batches * epochs,
        step_size=float(arrays["distill_lr"]),
        lr=float(arrays["lr"]),
        decays=0,
        batch_real=size,
        networks=len(arrays["salts"]),
    )
    rows = [size * k + torch.arange(size) for k in range(iterations)]
    assert arrays["label"].tolist() == [c for c in range(classes) for _ in range(each)]
    data: Any = RealBatches(arrays)
    context = ScriptedContext([fresh(arrays, arch)], {"real": rows})
    with ScriptedDraws():
        return dd.distill(data, batches * each, config=config, context=context), context.states


@pytest.mark.slow
@pytest.mark.parametrize(
    ("item", "arch"),
    [
        pytest.param(item, arch, marks=pytest.mark.golden(item, "dd"))
        for item, arch in (("trace_dd", "LeNet"), ("trace_dd_alex", "AlexCifarNet"))
    ],
)
def test_outer_steps_equal_the_authors(item: str, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden(item)
    taken: list[list[Tensor]] = []
    step, log = dd.Adam.step, Context.log
    losses: list[float] = []

    def spy(self: Any) -> None:
        taken.append([parameter.grad.clone() for parameter in self._parameters])
        step(self)

    def heard(self: Any, loss: Tensor) -> None:
        losses.append(float(loss))
        log(self, loss)

    monkeypatch.setattr(dd.Adam, "step", spy)
    monkeypatch.setattr(Context, "log", heard)
    made, states = trace(arrays, arch, monkeypatch)
    assert len(taken) == len(arrays["loss"])
    for k, (by_images, by_raw) in enumerate(taken):
        assert_close(by_images, arrays[f"grad{k}"])
        assert_close(by_raw, arrays[f"grad_raw{k}"])
    for k, state in enumerate(states):
        assert_close(state["images"], arrays[f"x{k}"], relative=IMAGES)
        assert_close(state["raw"], arrays[f"raw{k}"])
    assert made.steps is not None
    assert_close(made.images[made.steps.rows], arrays[f"x{len(taken)}"], relative=IMAGES)
    assert_close(made.steps.sizes, F.softplus(tensor(arrays[f"raw{len(taken)}"])).numpy())
    assert losses == pytest.approx(arrays["loss"].mean(axis=1).tolist(), rel=2e-5)


def small(**settings: Any) -> tuple[Any, Distilled]:
    """A set of three classes at ipc 4 in two batches, with its data."""
    data = toy(3, SHAPE, 20, test_per_class=4)
    config = Config(
        **{"iterations": 6, "steps": 2, "unrolled": 5, "batch_real": 24, "step_size": 0.05} | settings
    )
    return data, dd.distill(data, 4, config=config, context=Context(arch=ARCH))


@pytest.mark.slow
def test_images_are_class_after_class_and_rows_find_them() -> None:
    _, made = small()
    assert made.steps is not None
    assert made.labels.tolist() == [c for c in range(3) for _ in range(4)]
    assert made.steps.rows.tolist() == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]
    assert len(made.steps) == 5
    start = Config().step_size
    assert not torch.allclose(made.steps.sizes, torch.full((5,), start)), "sizes were learned"


def by_hand(made: Distilled, net: Network) -> None:
    """The learned steps, written out."""
    assert made.steps is not None
    for t, size in enumerate(made.steps.sizes.tolist()):
        rows = made.steps.rows[t % 2]
        loss = F.cross_entropy(net(made.images[rows]), made.labels[rows])
        with torch.no_grad():
            for weight, part in zip(
                net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True
            ):
                weight -= size * part


@pytest.mark.slow
def test_the_native_protocol_makes_exactly_these_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.engine import training

    data, made = small(initialisation="fixed")
    assert made.steps is not None
    assert made.steps.seed is not None
    context = Context(arch=ARCH)
    ends: list[Network] = []
    follow = training.follow_steps

    def spy(net: Network, *arguments: Any, **named: Any) -> float:
        ends.append(net)
        return follow(net, *arguments, **named)

    monkeypatch.setattr(training, "follow_steps", spy)
    found = evaluate(made, data, protocol_named("dd"), evals=2, context=context)
    expected = Context(arch=ARCH).network(data)
    made.steps.initialise(expected, torch.Generator())
    by_hand(made, expected)
    for net in ends:
        for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert found.accuracies[0] == found.accuracies[1], "one initialisation"
    assert (found.optimizer_steps, found.augmentation, found.regime) == (5, "", "hard")
    assert found.learning_rate == pytest.approx(float(made.steps.sizes.mean()))


@pytest.mark.slow
def test_networks_that_start_anywhere_differ() -> None:
    data, made = small(unrolled=8, step_size=0.1)
    assert made.steps is not None
    assert made.steps.seed is None
    context = Context(arch=ARCH)
    found = evaluate(made, data, protocol_named("dd"), evals=2, context=context)
    assert found.train_losses[0] != found.train_losses[1]


@pytest.mark.slow
def test_ordinary_protocols_take_the_images_alone() -> None:
    from harness.engine.parts import Epochs
    from harness.engine.protocol import DC, Protocol

    data, made = small()
    brief = Protocol("brief", "", DC, Epochs(2))
    context = Context(arch=ARCH)
    alone = evaluate(dataclasses.replace(made, steps=None), data, brief, evals=1, context=context)
    both = evaluate(made, data, brief, evals=1, context=Context(arch=ARCH))
    assert both.train_losses == alone.train_losses


@pytest.mark.slow
def test_the_file_keeps_the_steps_and_older_files_stay_readable(tmp_path: Path) -> None:
    _, made = small(initialisation="fixed")
    path = tmp_path / "set.safetensors"
    made.save(path)
    again = Distilled.load(path)
    assert made.steps is not None
    assert again.steps is not None
    assert torch.equal(again.steps.rows, made.steps.rows)
    assert torch.equal(again.steps.sizes, made.steps.sizes)
    assert again.steps.seed == made.steps.seed
    assert again.digest() == made.digest()
    other = dataclasses.replace(
        made, steps=LearnedSteps(made.steps.rows, made.steps.sizes * 2, made.steps.seed)
    )
    assert other.digest() != made.digest(), "step sizes are part of the set"
    plain = dataclasses.replace(made, steps=None)
    plain.save(path)
    assert b'"steps":' not in path.read_bytes(), "files of other sets are what they were"
    assert Distilled.load(path).steps is None


@pytest.mark.slow
def test_an_ordinary_dataset_says_what_it_drops() -> None:
    _, made = small()
    with pytest.warns(UserWarning, match="an ordinary dataset drops the order of 5 steps and their sizes"):
        made.to_dataset()


def test_images_of_a_class_are_shared_out_evenly() -> None:
    shares = {ipc: dd.batches_of(ipc, Config()) for ipc in (1, 7, 10, 12, 11, 50)}
    assert shares == {1: 1, 7: 7, 10: 10, 12: 6, 11: 1, 50: 10}
    assert dd.batches_of(8, Config(unrolled=3)) == 2
    with pytest.raises(UserError, match="out to 4 steps, and 6 are no multiple of that"):
        dd.batches_of(6, Config(steps=4))
    with pytest.raises(UserError, match="dd makes 3 steps on 4 batches of images; choose --set"):
        dd.steps_of(Config(steps=4, unrolled=3))


def test_settings_are_the_authors() -> None:
    mnist, cifar = (resolve("dd@fixed", name, 10).config for name in ("mnist", "cifar10"))
    assert (mnist.step_size, cifar.step_size) == (0.02, 0.001)
    assert (dd.batches_of(10, cifar), cifar.unrolled, cifar.initialisation) == (10, 30, "fixed")


@pytest.mark.slow
def test_step_sizes_that_diverge_are_one_line() -> None:
    with pytest.raises(DivergedError, match="the loss of distill is nan at step"):
        small(lr=float("inf"))
    data = toy(3, SHAPE, 20, test_per_class=1)
    images, sizes = torch.zeros(1, 3, *SHAPE), torch.tensor([0.0])
    with pytest.raises(DivergedError, match="step sizes of dd ended as zero or no numbers; lower lr"):
        dd.finished(data, 1, images, sizes, None, Config())
