"""LD: real images keep their pixels and are given learned labels.

Bohdal, Yang & Hospedales, "Flexible Dataset Distillation: Learn Labels Instead of Images", 2020 (arXiv
2006.08572). The images x are real ones, fixed; their labels y are rows of probabilities. A network w learns
from them all along, and at every real batch it is asked how one step on the images would have served it:

    minimise  CE(real batch; w - lr grad_w CE(x, y; w))        over y

by Adam, after which each row is cut to [0, 1] and divided by its sum. When the network no longer gets better
on the real batches another one takes its place. In `ld@rr` the step is replaced by ridge regression: with Phi
the last hidden layer of the images, a one appended,

    W_l = Phi^T (Phi Phi^T + lambda I)^-1 y,   W <- 0.99 W + 0.01 W_l,   logits = s (hidden W[:-1] + W[-1]),

the labels learn through W_l alone, and then the network and s learn from the images by the same W. Every so
often a fresh network learns from the labels as they are; those on which it does best on images left out are
the outcome. Reported on CIFAR-10 by KIP's paper: 25.7, 38.3, 42.5 % at ipc 1, 10, 50, with the networks that
are `--arch AlexCifarNet` here, and `--arch LeNet` for MNIST (60.9, 87.3, 93.3 %); by which of the two
algorithms is not said. At cpu scale 240 updates of the labels are few: on CIFAR-10 at ipc 10 its sets stay
below random images whose labels a network gave that was stopped early (`random@soft`), at ipc 1 they are
ahead.

Departures from the authors' code (ondrejbohdal/label-distillation `label_distillation_or2.py`,
`label_distillation_rr.py`): a tenth of the train images is left out, where theirs are 5000, or 10 000 of
MNIST; real and inner batches are drawn anew each time, not in passes; networks learn from the set by the
benchmark's protocols, with its augmentation, not by as many steps of Adam as the last networks took here;
a row of zeros is an error and not a division by zero; at cpu scale labels begin near the true ones, where
evenly spread ones would need some 18 000 steps. The FLOPs and images that records tell, and that a budget
cuts, leave out the fresh networks that judge the labels, about a sixth of the whole at cpu scale.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from harness.core.adam import Adam
from harness.core.augment import usual_strategy
from harness.core.checkpoint import Stateful
from harness.core.context import Context
from harness.core.data import Dataset, HeldOut, draw_uniform
from harness.core.distilled import Distilled, class_labels
from harness.core.errors import DivergedError
from harness.core.nets import Network, reinitialise
from harness.core.passes import pieces
from harness.core.settings import Steps, setting
from methods import resolve

REGIME = "stored"

_AT_ONCE = 256  # images left out that are judged together
_LATEST = 3  # networks whose lives tell how long one learns best


@dataclass(frozen=True)
class Config:
    """Settings of LD; the defaults are those of its commands for CIFAR-10 at ipc 10."""

    algorithm: Literal["second_order", "ridge"] = setting(
        "second_order", "how labels learn: through a step of the network, or through ridge regression"
    )
    iterations: int = setting(17_600, "updates of the labels", length=True)
    batch_real: int = setting(1024, "real images per update")
    batch_inner: int = setting(50, "images of the set per update, at most as many as there are")
    lr_label: float = setting(1e-3, "learning rate of the labels, by Adam")
    lr_net: float = setting(1e-3, "learning rate of the networks, by Adam")
    inner_lr: float = setting(0.01, "learning rate of the step that labels learn through")
    gap: int = setting(50, "updates without a better mean of as many before a network is replaced")
    validate_every: int = setting(220, "updates from one choice of labels to the next; 0: the last ones")
    true_share: float = setting(
        0.0, "share of the true class in the labels at the start, the rest spread evenly over all classes"
    )
    ridge: float = setting(1.0, "lambda of the ridge regression")
    memory: float = setting(0.99, "share of the earlier ones in the weights of the ridge regression")
    lr_scale: float = setting(0.01, "learning rate of s, the scale of the logits, by Adam")


VARIANTS = {"rr": {"algorithm": "ridge"}}

# Images per update by ipc, and longer runs from 200 images on.
_BY_IPC: dict[int, dict[str, Any]] = {
    1: {"batch_inner": 10},
    2: {"batch_inner": 10},
    5: {"batch_inner": 25},
    10: {},
    20: {"iterations": 35_200, "gap": 200},
    50: {"iterations": 35_200, "gap": 200},
}
_MNIST = {"validate_every": 245}
PAPER: dict[tuple[str, int], dict[str, Any]] = {
    **{("cifar10", ipc): row for ipc, row in _BY_IPC.items()},
    **{
        ("mnist", ipc): {**row, **_MNIST, "iterations": 39_200 if ipc >= 20 else 19_600}
        for ipc, row in _BY_IPC.items()
    },
    ("cifar100", 1): {"batch_inner": 100, "iterations": 35_200, "gap": 100},
    **{("*", ipc): row for ipc, row in _BY_IPC.items()},
}

SCALED: dict[str, dict[str, Any]] = {
    "cpu": {
        "iterations": 240,
        "batch_real": 256,
        "lr_label": 1e-2,
        "inner_lr": 0.05,
        "true_share": 0.7,
        "validate_every": 120,
    },
    "smoke": {"iterations": 20, "batch_real": 32, "gap": 4, "validate_every": 10},
}


def steps_of(config: Config) -> Steps:
    """The loop, and what an update costs: a real batch, and images of the set there and back twice."""
    real = config.batch_real

    def passes(classes: int, ipc: int) -> tuple[float, float]:
        inner = min(config.batch_inner, classes * ipc)
        if config.algorithm == "ridge":
            return real + 3 * inner, inner
        return 3 * real + 7 * inner, real + 3 * inner

    return Steps(config.iterations, labels="soft", passes=passes)


def distill(
    dataset: str | Dataset, ipc: int, *, config: Config | None = None, context: Context | None = None
) -> Distilled:
    """Learn labels of `ipc` real images per class."""
    context = context or Context()
    data = context.dataset(dataset)
    config = config or resolve("ld", data.name, ipc).config
    real, held_out = (data, None) if config.validate_every == 0 else data.hold_out()
    images = real.batch(real.index.balanced(ipc, context.generator("init")))
    labels = Labels(initial_labels(data, ipc, config), config)
    learner = learner_of(context.network(data), images, config)
    rule = RestartRule(config.gap)
    best = None if held_out is None else BestLabels(context, data, images, config, held_out)

    state: dict[str, Stateful] = {"labels": labels, "learner": learner, "rule": rule}
    if best is not None:
        state["best"] = best
    for step in context.steps(config.iterations, state):
        batch = draw_uniform(len(real), config.batch_real, context.generator("real"))
        rows = draw_uniform(len(images), config.batch_inner, context.generator("inner"))
        loss, error = learner.teach(labels, rows, real.batch(batch), real.labels[batch])
        if rule.ends(told(error, labels)):
            learner.restart(context.generator("net"))
        if best is not None and (step + 1) % config.validate_every == 0:
            best.judge(labels, rule.length)
        context.log(loss)

    chosen = labels.rows if best is None or best.rows is None else best.rows
    strategy = usual_strategy(data.name)
    return Distilled.of(data, images, labels=chosen, method="ld", config=config, augmentation=strategy)


def initial_labels(data: Dataset, ipc: int, config: Config) -> Tensor:
    """Rows (C * ipc, C) for class-major images: evenly spread, but for `true_share` of the true class."""
    true = F.one_hot(class_labels(data.num_classes, ipc, data.device), data.num_classes).float()
    return config.true_share * true + (1 - config.true_share) / data.num_classes


def told(error: Tensor, labels: Labels) -> float:
    """The error of an update, which the host must know; DivergedError for labels that are none any more."""
    found, least = torch.stack([error, labels.least.double()]).tolist()
    if not least > 0:
        raise DivergedError("the labels of an image ended as zeros or no numbers; lower lr_label")
    return float(found)


class Labels:
    """The learned labels, rows (n, C) of probabilities, with their Adam.

    least: the smallest sum of a row before it was divided by it; 0 or no number if that cannot be done.
    """

    def __init__(self, rows: Tensor, config: Config) -> None:
        self.rows = rows.requires_grad_()
        self.least = rows.detach().sum(dim=1).min()
        self._adam = Adam([self.rows], lr=config.lr_label)

    def step(self, loss: Tensor) -> None:
        """A step down that loss, all rows by their moments."""
        (self.rows.grad,) = torch.autograd.grad(loss, self.rows)
        self._adam.step()
        with torch.no_grad():
            cut = self.rows.clamp_(0, 1)
            sums = cut.sum(dim=1, keepdim=True)
            self.least = sums.min()
            cut.div_(sums)

    def state_dict(self) -> dict[str, Any]:
        """Rows and moments."""
        return {"rows": self.rows.detach(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both."""
        with torch.no_grad():
            self.rows.copy_(state["rows"])
        self._adam.load_state_dict(state["adam"])


class Learner(Protocol):
    """A network that learns from images of the set, and that shows the labels how they serve it."""

    def teach(self, labels: Labels, rows: Tensor, real: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """One update of the labels and of the network, on rows of the set and a real batch.

        Returns the loss on the real batch and its error in percent, float64, both before the update.
        """

    def learn(self, labels: Tensor, rows: Tensor) -> None:
        """One step of the network alone on rows of the set; labels (n, C)."""

    def logits(self, images: Tensor) -> Tensor:
        """What it says of other images, (n, C)."""

    def restart(self, generator: torch.Generator) -> None:
        """Begin again with a fresh network."""

    def state_dict(self) -> dict[str, Any]:
        """All that it has learned."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""


def learner_of(net: Network, images: Tensor, config: Config) -> Learner:
    """The learner of the algorithm, a fresh network that learns from the set's images (n, ...)."""
    kind = RidgeLearner if config.algorithm == "ridge" else SecondOrderLearner
    return kind(net, images, config)


class SecondOrderLearner:
    """Labels learn through a step of the network on the set's images."""

    def __init__(self, net: Network, images: Tensor, config: Config) -> None:
        self.net, self.images, self.config = net, images, config
        self._weights = dict(net.named_parameters())
        self._adam = Adam(self._weights.values(), lr=config.lr_net)

    def teach(self, labels: Labels, rows: Tensor, real: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """One update of the labels, then one of the network by the labels from before."""
        inner = self._inner_gradient(labels.rows, rows, create_graph=True)
        fast = {
            name: weight - self.config.inner_lr * part
            for (name, weight), part in zip(self._weights.items(), inner, strict=True)
        }
        logits = functional_call(self.net, fast, (real,))
        loss = F.cross_entropy(logits, classes)
        labels.step(loss)
        self._step(inner)
        return loss.detach(), error_percent(logits, classes)

    def learn(self, labels: Tensor, rows: Tensor) -> None:
        """One step of Adam."""
        self._step(self._inner_gradient(labels, rows))

    def logits(self, images: Tensor) -> Tensor:
        """The network's own."""
        found: Tensor = self.net(images)
        return found

    def restart(self, generator: torch.Generator) -> None:
        """Begin again with a fresh network."""
        reinitialise(self.net, generator)
        self._adam.reset()

    def state_dict(self) -> dict[str, Any]:
        """Network and moments."""
        return {"net": self.net.state_dict(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both."""
        self.net.load_state_dict(state["net"])
        self._adam.load_state_dict(state["adam"])

    def _inner_gradient(
        self, labels: Tensor, rows: Tensor, *, create_graph: bool = False
    ) -> tuple[Tensor, ...]:
        loss = F.cross_entropy(self.net(self.images[rows]), labels[rows])
        return torch.autograd.grad(loss, tuple(self._weights.values()), create_graph=create_graph)

    def _step(self, gradient: Sequence[Tensor]) -> None:
        for weight, part in zip(self._weights.values(), gradient, strict=True):
            weight.grad = part.detach()
        self._adam.step()


class RidgeLearner:
    """Labels learn through ridge regression of them on the network's last hidden layer."""

    def __init__(self, net: Network, images: Tensor, config: Config) -> None:
        self.net, self.images, self.config = net, images, config
        last = {id(parameter) for parameter in net.classifier.parameters()}
        self._weights = [parameter for parameter in net.parameters() if id(parameter) not in last]
        self._adam = Adam(self._weights, lr=config.lr_net)
        # The last row is the bias.
        self.ridge = images.new_zeros(net.feature_dim + 1, net.classifier.out_features)
        self.scale = images.new_ones(1).requires_grad_()
        self._scale_adam = Adam([self.scale], lr=config.lr_scale)

    def teach(self, labels: Labels, rows: Tensor, real: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """One update of the labels by a fixed network, then one of the network by the labels from after."""
        hidden = self.net.embed(self.images[rows])
        with torch.no_grad():
            told = self.net.embed(real)
        through_labels = self._moved(hidden.detach(), labels.rows[rows])
        logits = self._read(told, through_labels, self.scale.detach())
        loss = F.cross_entropy(logits, classes)
        before = labels.rows.detach()[rows]
        labels.step(loss)
        self._learn(hidden, before, labels.rows.detach()[rows])
        return loss.detach(), error_percent(logits, classes)

    def learn(self, labels: Tensor, rows: Tensor) -> None:
        """One step of Adam by the ridge regression of the same rows."""
        self._learn(self.net.embed(self.images[rows]), labels[rows], labels[rows])

    def logits(self, images: Tensor) -> Tensor:
        """By the weights of the ridge regression as they are."""
        return self._read(self.net.embed(images), self.ridge, self.scale)

    @torch.no_grad()
    def restart(self, generator: torch.Generator) -> None:
        """Begin again with a fresh network, no weights and the scale 1."""
        reinitialise(self.net, generator)
        self.ridge.zero_()
        self.scale.fill_(1.0)
        self._adam.reset()
        self._scale_adam.reset()

    def state_dict(self) -> dict[str, Any]:
        """Network, weights, scale and moments."""
        return {
            "net": self.net.state_dict(),
            "ridge": self.ridge,
            "scale": self.scale.detach(),
            "adam": self._adam.state_dict(),
            "scale_adam": self._scale_adam.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore all of them."""
        self.net.load_state_dict(state["net"])
        self.ridge.copy_(state["ridge"])
        self.scale.copy_(state["scale"])
        self._adam.load_state_dict(state["adam"])
        self._scale_adam.load_state_dict(state["scale_adam"])

    def _learn(self, hidden: Tensor, solved: Tensor, labels: Tensor) -> None:
        """A step of network and scale: weights that regress on labels `solved`, judged by `labels`."""
        ridge = self._moved(hidden, solved)
        loss = F.cross_entropy(self._read(hidden, ridge, self.scale), labels)
        *by_weights, self.scale.grad = torch.autograd.grad(loss, [*self._weights, self.scale])
        for weight, part in zip(self._weights, by_weights, strict=True):
            weight.grad = part
        self._adam.step()
        self._scale_adam.step()
        self.ridge.copy_(ridge.detach())

    def _moved(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """The running weights (features + 1, C) with those of labels (n, C) on hidden (n, features)."""
        phi = F.pad(hidden, (0, 1), value=1.0)
        gram = phi @ phi.T + self.config.ridge * torch.eye(len(phi), device=phi.device)
        local: Tensor = phi.T @ torch.linalg.solve(gram, labels)
        return self.config.memory * self.ridge + (1 - self.config.memory) * local

    def _read(self, hidden: Tensor, ridge: Tensor, scale: Tensor) -> Tensor:
        """Logits (n, C) by weights of the regression."""
        return scale * (hidden @ ridge[:-1] + ridge[-1])


def error_percent(logits: Tensor, classes: Tensor) -> Tensor:
    """Share of wrong answers in percent, float64."""
    return 100 * (logits.argmax(dim=1) != classes).double().mean()


class RestartRule:
    """When a network has stopped getting better on the real batches, so that another begins.

    Errors of the last `gap` updates are added up; a network's life ends when, `gap` sums in a row not being
    smaller than the smallest before, the next one is not smaller either. What it lived up to then is noted.
    """

    def __init__(self, gap: int) -> None:
        self.gap = gap
        self.lengths: list[int] = []
        self._errors: deque[float] = deque(maxlen=gap)
        self._steps, self._smallest, self._waited = 0, math.inf, 0

    @property
    def length(self) -> int:
        """Steps that a network learns for: a mean of the last noted, or how far the present one has come."""
        latest = self.lengths[-_LATEST:]
        return int(sum(latest) / len(latest)) if latest else self._steps

    def ends(self, error: float) -> bool:
        """Note the error of an update, and tell whether the network's life ends with it."""
        self._errors.append(error)
        self._steps += 1
        if self._steps < self.gap:
            return False
        total = math.fsum(self._errors)
        if total < self._smallest:
            self._smallest, self._waited = total, 0
        elif self._waited < self.gap:
            self._waited += 1
        else:
            self.lengths.append(self._steps - self._waited - 1)
            self._errors.clear()
            self._steps, self._smallest, self._waited = 0, math.inf, 0
            return True
        return False

    def state_dict(self) -> dict[str, Any]:
        """All that was noted."""
        return {
            "lengths": self.lengths,
            "errors": list(self._errors),
            "steps": self._steps,
            "smallest": self._smallest,
            "waited": self._waited,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.lengths = list(state["lengths"])
        self._errors = deque(state["errors"], maxlen=self.gap)
        self._steps, self._smallest, self._waited = state["steps"], state["smallest"], state["waited"]


class BestLabels:
    """The labels by which a fresh network did best on images left out; of equal ones the later."""

    def __init__(
        self, context: Context, data: Dataset, images: Tensor, config: Config, held_out: HeldOut
    ) -> None:
        self.rows: Tensor | None = None
        self._error = math.inf
        self._context, self._held_out = context, held_out
        self._learner = learner_of(context.network(data, "judge"), images, config)
        self._inner, self._images = config.batch_inner, len(images)

    def judge(self, labels: Labels, steps: int) -> None:
        """Keep the labels if a fresh network that learns by them for so many steps does no worse."""
        rows = labels.rows.detach()
        self._learner.restart(self._context.generator("judge"))
        for _ in range(steps):
            chosen = draw_uniform(self._images, self._inner, self._context.generator("judge-rows"))
            self._learner.learn(rows, chosen)
        error = float(self._error_of())
        if error <= self._error:
            self.rows, self._error = rows.clone(), error

    @torch.no_grad()
    def _error_of(self) -> Tensor:
        held_out = self._held_out
        wrong = torch.zeros((), dtype=torch.float64, device=held_out.labels.device)
        for piece in pieces(len(held_out), _AT_ONCE):
            classes = held_out.labels[piece]
            wrong += error_percent(self._learner.logits(held_out.batch(piece)), classes) * len(classes)
        return wrong / len(held_out)

    def state_dict(self) -> dict[str, Any]:
        """The best labels and their error; the network that judged them is of no more use."""
        return {"rows": self.rows, "error": self._error}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        rows: Tensor | None = state["rows"]
        self.rows = None if rows is None else rows.to(self._context.device)
        self._error = state["error"]
