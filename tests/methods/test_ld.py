"""LD against the iterations of the authors' own loops, and what is ours: the choice of labels, refusals."""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace
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
from harness.core.errors import DivergedError
from harness.core.nets import Network, build
from methods import ld
from methods.ld import Config, RestartRule


class FixedImages:
    """The golden base images and real batches as a dataset: the base comes first, then batch after batch."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        base, real = tensor(arrays["base"]), tensor(arrays["real"])
        self.images = torch.cat([base, real.flatten(0, 1)])
        # Labels of the base images, which are fixed to no class there, are never asked.
        self.labels = torch.cat(
            [torch.zeros(len(base), dtype=torch.int64), tensor(arrays["real_y"]).flatten()]
        )
        self.num_classes = int(arrays["classes"])
        self.class_names = tuple(f"class{c}" for c in range(self.num_classes))
        self.shape = tuple(self.images.shape[1:])
        self.device, self.name = torch.device("cpu"), "golden"
        self.transform = Normalization.of([0.0] * self.shape[0], [1.0] * self.shape[0])
        self.index = SimpleNamespace(balanced=lambda ipc, generator: torch.arange(len(base)))

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor) -> Tensor:
        return self.images[rows]

    def to(self, device: object) -> FixedImages:
        return self


def hashed_lenet(arrays: dict[str, Any], *left_out: str) -> Network:
    net = build(
        "LeNet",
        channels=arrays["base"].shape[1],
        image_size=arrays["base"].shape[2:],
        classes=int(arrays["classes"]),
        generator=torch.Generator().manual_seed(0),
        device="cpu",
    )
    load_hashed(net, int(arrays["salt"]), *left_out)
    return net


class Watched:
    """What a learner of the loop told of each update; entropies: its two losses, as they were computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
        self.losses: list[float] = []
        self.errors: list[float] = []
        self.gradients: list[Tensor] = []
        self.entropies: list[Tensor] = []
        self.learner: Any = None
        teach, step, entropy = kind.teach, ld.Labels.step, F.cross_entropy

        def spy(learner: Any, *arguments: Any) -> Any:
            self.learner = learner
            loss, error = teach(learner, *arguments)
            self.losses.append(float(loss))
            self.errors.append(float(error))
            return loss, error

        def spy_entropy(*arguments: Any) -> Tensor:
            self.entropies.append(entropy(*arguments))
            return self.entropies[-1]

        def spy_step(labels: Any, loss: Tensor) -> None:
            step(labels, loss)
            self.gradients.append(labels.rows.grad.clone())

        monkeypatch.setattr(kind, "teach", spy)
        monkeypatch.setattr(ld.Labels, "step", spy_step)
        monkeypatch.setattr(ld, "F", SimpleNamespace(**vars(F) | {"cross_entropy": spy_entropy}))

    def inner_losses(self, place: int) -> Tensor:
        """Those on images of the set, which of the two losses of an update has that place."""
        return torch.stack(self.entropies[place::2]).detach()


def trace(arrays: dict[str, Any], net: Network, iterations: int, **settings: Any) -> Tensor:
    """The labels after some iterations of our `distill` with all draws given."""
    base, inner = len(arrays["base"]), arrays["idx"].shape[1]
    size = arrays["real"].shape[1]
    rows = {
        "real": [base + size * k + torch.arange(size) for k in range(iterations)],
        "inner": [tensor(given) for given in arrays["idx"][:iterations]],
    }
    config = Config(iterations=iterations, batch_real=size, batch_inner=inner, validate_every=0, **settings)
    data: Any = FixedImages(arrays)
    ipc = base // int(arrays["classes"])
    with ScriptedDraws():
        return ld.distill(data, ipc, config=config, context=ScriptedContext([net], rows)).labels


def local_weights(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The weights that each ridge regression finds, before they are mixed with the earlier ones."""
    found: list[Tensor] = []
    moved = ld.RidgeLearner._moved

    def spy(learner: Any, hidden: Tensor, labels: Tensor) -> Tensor:
        alone = copy.copy(learner)
        alone.config = dataclasses.replace(learner.config, memory=0.0)
        found.append(moved(alone, hidden.detach(), labels.detach()))
        return moved(learner, hidden, labels)

    monkeypatch.setattr(ld.RidgeLearner, "_moved", spy)
    return found


def weight_sums(weights: list[Tensor]) -> Tensor:
    every = torch.cat([weight.detach().flatten() for weight in weights])
    return torch.stack([every.sum(), every.abs().sum(), every.square().sum()])


@pytest.fixture
def begun_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the labels begin at those of a golden file, for any number of images."""
    kept = SimpleNamespace(of=lambda data, images, labels, **rest: SimpleNamespace(labels=labels.detach()))
    monkeypatch.setattr(ld, "Distilled", kept)

    def begin(arrays: dict[str, Any]) -> None:
        monkeypatch.setattr(ld, "initial_labels", lambda *_: tensor(arrays["y0"]).clone())

    return begin


@pytest.mark.golden("trace_ld_or2", "ld")
def test_iterations_of_the_second_order_version(begun_at: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("trace_ld_or2")
    begun_at(arrays)
    count = len(arrays["outer_loss"])
    for k in range(1, count + 1):
        with monkeypatch.context() as patch:
            watched = Watched(patch, ld.SecondOrderLearner)
            net = hashed_lenet(arrays)
            labels = trace(arrays, net, k, inner_lr=float(arrays["inner_lr"]))
        assert_close(labels, arrays[f"y{k}"])
        assert_close(watched.gradients[-1], arrays[f"grad_y{k - 1}"])
        assert_close(net.fc_3.weight, arrays[f"fc3_{k}"])
        assert_close(next(net.parameters()), arrays[f"conv1_{k}"])
        assert_close(weight_sums(list(net.parameters())), arrays["wsum"][k - 1])
    assert_close(torch.tensor(watched.losses), arrays["outer_loss"])
    assert_close(watched.inner_losses(0), arrays["inner_loss"])
    assert watched.errors == pytest.approx(arrays["error"].tolist())


@pytest.mark.golden("trace_ld_rr", "ld@rr")
def test_iterations_of_the_ridge_regression_version(begun_at: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("trace_ld_rr")
    begun_at(arrays)
    start = ld.RidgeLearner.__init__

    def begin(self: Any, *arguments: Any) -> None:
        start(self, *arguments)
        self.ridge.copy_(tensor(arrays["W0"]))
        self.scale.data.fill_(float(arrays["scale0"]))

    monkeypatch.setattr(ld.RidgeLearner, "__init__", begin)
    last = [name for name, _ in hashed_lenet(arrays).named_parameters()][len(arrays["names"]) :]
    count, tolerance = len(arrays["outer_loss"]), 6e-5
    for k in range(1, count + 1):
        with monkeypatch.context() as patch:
            watched = Watched(patch, ld.RidgeLearner)
            net = hashed_lenet(arrays, *last)
            local = local_weights(patch)
            labels = trace(arrays, net, k, algorithm="ridge")
        learner = watched.learner
        assert_close(labels, arrays[f"y{k}"], tolerance)
        assert_close(watched.gradients[-1], arrays[f"grad_y{k - 1}"], tolerance)
        assert_close(next(net.parameters()), arrays[f"conv1_{k}"], tolerance)
        assert_close(weight_sums(list(net.parameters())[: -len(last)]), arrays["wsum"][k - 1], tolerance)
        assert_close(local[-1], arrays[f"local{k - 1}"], tolerance)
        assert_close(learner.ridge, arrays[f"W{k}"], tolerance)
        assert learner.scale.item() == pytest.approx(float(arrays["scale"][k - 1]), rel=tolerance)
        if f"fc2_grad{k - 1}" in arrays:
            assert_close(net.fc_2.weight.grad, arrays[f"fc2_grad{k - 1}"], tolerance)
        if f"scale_grad{k - 1}" in arrays:
            assert_close(learner.scale.grad, arrays[f"scale_grad{k - 1}"], tolerance)
    assert_close(torch.tensor(watched.losses), arrays["outer_loss"], tolerance)
    assert_close(watched.inner_losses(1), arrays["feat_loss"], tolerance)
    assert watched.errors == pytest.approx(arrays["error"].tolist())


@pytest.mark.golden("ld_restart", "ld", "ld@rr")
def test_networks_are_replaced_when_the_authors_replace_theirs() -> None:
    arrays = golden("ld_restart")
    rule = RestartRule(int(arrays["gap"]))
    ends = [rule.ends(float(error)) for error in arrays["error"]]
    assert ends == arrays["restart"].astype(bool).tolist()
    assert rule.lengths == arrays["steps"].tolist()


def test_the_rule_goes_on_from_what_was_saved() -> None:
    arrays = golden("ld_restart")
    errors, half = arrays["error"].tolist(), len(arrays["error"]) // 2
    whole, first, second = (RestartRule(int(arrays["gap"])) for _ in range(3))
    ends = [whole.ends(error) for error in errors]
    begun = [first.ends(error) for error in errors[:half]]
    second.load_state_dict(first.state_dict())
    assert begun + [second.ends(error) for error in errors[half:]] == ends
    assert (second.lengths, second.length) == (whole.lengths, whole.length)


SMALL = Config(iterations=12, batch_real=16, batch_inner=6, gap=3, validate_every=4)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["second_order", "ridge"])
def test_labels_are_probabilities_of_fixed_real_images(algorithm: Any) -> None:
    data = toy(3, (3, 8, 8), 20, test_per_class=1)
    config = dataclasses.replace(SMALL, algorithm=algorithm, lr_label=0.05)
    made = ld.distill(data, 2, config=config, context=Context(arch="ConvNetW8D2"))
    torch.testing.assert_close(made.labels.sum(dim=1), torch.ones(6))
    assert (made.labels >= 0).all()
    assert not torch.allclose(made.labels, torch.full_like(made.labels, 1 / 3)), "labels were learned"
    real = data.batch(slice(None)).flatten(1)
    assert all((image == real).all(dim=1).any() for image in made.images.flatten(1)), "pixels were not"


def test_the_labels_that_did_best_on_images_left_out_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([30.0, 10.0, 10.0, 20.0])
    seen: list[Tensor] = []
    judge = ld.BestLabels.judge

    def spy(self: Any, labels: ld.Labels, steps: int) -> None:
        seen.append(labels.rows.detach().clone())
        judge(self, labels, steps)

    monkeypatch.setattr(ld.BestLabels, "judge", spy)
    monkeypatch.setattr(ld.BestLabels, "_error_of", lambda self: next(errors))
    data = toy(3, (3, 8, 8), 20, test_per_class=1)
    config = Config(iterations=16, batch_real=16, batch_inner=6, validate_every=4, lr_label=0.05)
    made = ld.distill(data, 2, config=config, context=Context(arch="ConvNetW8D2"))
    assert torch.equal(made.labels, seen[2]), "of equal ones the later"


def test_labels_that_diverge_are_one_line() -> None:
    data = toy(3, (3, 8, 8), 20, test_per_class=1)
    config = Config(iterations=40, batch_real=16, batch_inner=2, validate_every=0, lr_label=float("inf"))
    with pytest.raises(
        DivergedError, match="labels of an image ended as zeros or no numbers; lower lr_label"
    ):
        ld.distill(data, 2, config=config, context=Context(arch="ConvNetW8D2"))


@pytest.mark.slow
def test_networks_of_other_papers_take_colour_and_more_classes() -> None:
    for arch, shape in (("LeNet", (3, 32, 32)), ("AlexCifarNet", (1, 28, 28))):
        data = toy(12, shape, 4, test_per_class=1)
        config = Config(iterations=2, batch_real=8, batch_inner=4, validate_every=0)
        made = ld.distill(data, 1, config=config, context=Context(arch=arch))
        assert made.labels.shape == (12, 12)
