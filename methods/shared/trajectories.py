"""What the trajectory-matching methods share: students that follow experts, and an iteration of theirs.

A student starts at the weights of an expert after t passes over the real images and makes N SGD steps on
synthetic minibatches at a learned rate alpha; it should end where the expert is after t + M passes.
MTT differentiates through all N steps, TESLA step by step. FTD's experts are trained towards flat minima;
what DATM and PAD add is in `aligned`.

On CIFAR-10 shapes (ConvNet, 100 images a step, one CPU thread) an unrolled step takes 4 times as long as
one of ordinary training: 1.3 for a gradient that can be differentiated and 2.9 for going back through it. A
third of all is the derivative of group norm's backward pass, which torch puts together from elementwise
operations that wait for memory. The graph of a step holds six of the largest feature maps for each image, 1.8
times what ordinary training keeps: 0.3 GiB, and 9 GiB for the 30 steps that are published at ipc 10. TESLA
holds the graph of one step, and its first pass makes it 1.3 times as slow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from harness.core.augment import Draws, augment, operations, sample_draws, usual_strategy
from harness.core.checkpoint import State
from harness.core.context import Context
from harness.core.data import Dataset, parse
from harness.core.distilled import Distilled, class_labels
from harness.core.errors import UserError
from harness.core.experts import Experts, ExpertSettings, train_experts
from harness.core.gsam import Gsam
from harness.core.nets import Network
from harness.core.settings import Steps, setting
from harness.core.sgd import SGD
from methods import resolve
from methods.contract import Row

Weights = tuple[Tensor, ...]


@dataclass(frozen=True)
class Config:
    """Settings of trajectory matching; the defaults are those that MTT's commands share."""

    iterations: int = setting(5000, "updates of the images and of alpha", length=True)
    lr_img: float = setting(100.0, "learning rate of the images")
    momentum: float = setting(0.5, "momentum of the images and of alpha")
    alpha0: float = setting(0.01, "alpha, the students' learning rate, at the start")
    lr_lr: float = setting(1e-5, "learning rate of alpha")
    student_steps: int = setting(20, "N, SGD steps of a student")
    match_epochs: int = setting(2, "M, passes of the expert that a student has to match")
    max_start: int = setting(20, "T+, students start after fewer passes than this")
    batch_syn: int | None = setting(None, "synthetic images per student step; None: all")
    zca: bool = setting(False, "ZCA whitening in place of mean and standard deviation")
    strategy: str | None = setting(
        None, "DSA operations, also in evaluation; None: the usual ones of the dataset"
    )
    experts: int = setting(100, "networks trained on the real images")
    expert_epochs: int = setting(50, "passes over the real images that an expert makes")
    expert_batch: int = setting(256, "real images per SGD step of an expert")
    expert_lr: float = setting(0.01, "learning rate of the experts")
    expert_steps: int | None = setting(
        None, "SGD steps at which a pass of an expert is cut off; None: whole passes"
    )
    expert_momentum: float = setting(0.0, "momentum of the experts' SGD", added=True)
    expert_weight_decay: float = setting(0.0, "weight decay of the experts", added=True)

    def __post_init__(self) -> None:
        """Refuse students that would have to follow an expert beyond its end."""
        longest = self.max_start - 1 + self.match_epochs
        if longest > self.expert_epochs:
            raise UserError(
                f"students are matched with experts after up to {longest} passes, but experts make "
                f"{self.expert_epochs}; raise expert_epochs or lower max_start"
            )


@dataclass(frozen=True)
class FlatConfig(Config):
    """Settings of trajectory matching with experts that GSAM trains; the defaults are FTD's."""

    gsam_rho: float = setting(0.01, "rho of GSAM, how far its second gradient is taken from the weights")
    gsam_alpha: float = setting(0.3, "alpha of GSAM, how much it heeds the gap between the two losses")


ConfigT = TypeVar("ConfigT", bound=Config)


def by_cell(commands: Mapping[str, Mapping[int, Row]]) -> dict[tuple[str, int], Row]:
    """Published rows by (dataset, ipc); those of CIFAR-10, without whitening, stand in for other datasets."""
    found = {(dataset, ipc): row for dataset, rows in commands.items() for ipc, row in rows.items()}
    return found | {("*", ipc): {**row, "zca": False} for ipc, row in commands["cifar10"].items()}


def settled(
    method: str, dataset: str | Dataset, ipc: int, config: ConfigT | None, context: Context
) -> tuple[Dataset, ConfigT]:
    """The real images, and these settings or else the method's for them.

    A dataset asked for by name is whitened if the settings say so; one that is given is used as it is.
    """
    name = parse(dataset, context.data_dir).name if isinstance(dataset, str) else dataset.name
    settings: ConfigT = config or resolve(method, name, ipc).config
    return context.dataset(dataset, zca=settings.zca), settings


def steps_of(config: Config) -> Steps:
    """The loop; the steps of its students and the training of the experts are not in it."""
    return Steps(config.iterations, augmentation=config.strategy)


@dataclass(frozen=True)
class Step:
    """A student's step: rows of the synthetic set (b,) and their augmentation."""

    rows: Tensor
    draws: Draws | None


@dataclass(frozen=True)
class Segment:
    """A stretch of an expert's trajectory; `length` is the squared distance between its ends."""

    start: Weights
    target: Weights
    length: Tensor


@dataclass(frozen=True)
class StatelessStudent:
    """A network without weights of its own, and what it learns from besides the synthetic images.

    labels: (n,) classes or (n, classes) soft labels of the synthetic images.
    """

    context: Context
    net: Network
    labels: Tensor
    strategy: str

    def gradient(self, weights: Weights, batch: Tensor, step: Step, *, create_graph: bool = False) -> Weights:
        """Gradient of the mean cross entropy of the step's images (b, ...) by the weights, at these weights.

        With `create_graph` it can be differentiated by the images, and by the weights if they require it.
        """
        leaves = tuple(w if w.requires_grad else w.detach().requires_grad_() for w in weights)
        if step.draws is not None:
            batch = augment(batch, self.strategy, step.draws, align_corners=True)
        named = {name: leaf for (name, _), leaf in zip(self.net.named_parameters(), leaves, strict=True)}
        with self.context.autocast():
            logits: Tensor = functional_call(self.net, named, (batch,))
        loss = F.cross_entropy(logits.float(), self.labels[step.rows])
        return torch.autograd.grad(loss, leaves, create_graph=create_graph)


@dataclass(frozen=True)
class Match:
    """Normalised distance of a student's end from the target, and its gradients by images and alpha."""

    loss: Tensor
    by_images: Tensor
    by_alpha: Tensor


# Lets a student make its steps along a segment on images (n, ...) at rate alpha; how is the method's own.
Matching = Callable[[StatelessStudent, Segment, Tensor, Tensor, Sequence[Step]], Match]
# Labels for initial images (n, ...) by the experts.
Labelling = Callable[[Network, Experts, Tensor], Tensor]


@dataclass(frozen=True)
class Run:
    """What a loop updates, images (n, ...) and alpha, and what it does so by."""

    data: Dataset
    config: Config
    context: Context
    experts: Experts
    student: StatelessStudent
    images: Tensor
    alpha: Tensor
    optimizer: SGD

    @property
    def state(self) -> State:
        """All that changes from step to step."""
        return {"images": self.images, "alpha": self.alpha, "optimizer": self.optimizer}

    def update(self, matching: Matching) -> None:
        """Let a student follow a stretch of an expert, and make one step of the images and of alpha."""
        segment = draw_segment(self.experts, self.config, self.context)
        steps = draw_steps(self.images, self.student.strategy, self.config, self.context)
        match = matching(self.student, segment, self.images, self.alpha, steps)
        self.images.grad, self.alpha.grad = match.by_images, match.by_alpha
        self.optimizer.step()
        self.context.log(match.loss)

    def distilled(self, images: Tensor, method: str) -> Distilled:
        """The set of these images (n, ...), and the rate that was learned."""
        return Distilled.of(
            self.data,
            images,
            labels=self.student.labels,
            method=method,
            config=self.config,
            augmentation=self.student.strategy,
            learned_lr=self.alpha.item(),
        )


def begin(
    data: Dataset,
    ipc: int,
    config: Config,
    context: Context,
    experts: Experts,
    *,
    labelling: Labelling | None = None,
) -> Run:
    """Real images and the first alpha; hard labels unless `labelling` gives others."""
    images = data.batch(data.index.balanced(ipc, context.generator("init"))).requires_grad_()
    net = context.network(data)
    labels = class_labels(data.num_classes, ipc, data.device)
    if labelling is not None:
        labels = labelling(net, experts, images.detach())
    alpha = torch.tensor(config.alpha0, device=data.device, requires_grad=True)
    optimizer = SGD(
        [{"params": [images], "lr": config.lr_img}, {"params": [alpha], "lr": config.lr_lr}],
        momentum=config.momentum,
    )
    student = StatelessStudent(context, net, labels, strategy_of(config, data))
    return Run(data, config, context, experts, student, images, alpha, optimizer)


def condense(
    data: Dataset,
    ipc: int,
    config: Config,
    context: Context,
    matching: Matching,
    method: str,
    *,
    labelling: Labelling | None = None,
) -> Distilled:
    """Update images and alpha by a way to match trajectories; hard labels unless `labelling` gives others."""
    experts = train_experts(context, data, expert_settings(config, strategy_of(config, data)))
    run = begin(data, ipc, config, context, experts, labelling=labelling)
    for _ in context.steps(config.iterations, run.state):
        run.update(matching)
    return run.distilled(run.images, method)


def strategy_of(config: Config, data: Dataset) -> str:
    """DSA operations of experts, students and evaluation."""
    return usual_strategy(data.name) if config.strategy is None else config.strategy


def flat_experts(data: Dataset, config: FlatConfig, context: Context) -> Experts:
    """Experts trained by GSAM."""
    return train_experts(context, data, flat_settings(config, strategy_of(config, data)))


def flat_settings(config: FlatConfig, strategy: str) -> ExpertSettings:
    """How experts are trained by GSAM; of their hundred snapshots half precision tells all that matters."""
    gsam = Gsam(config.gsam_rho, config.gsam_rho, config.gsam_alpha)
    return replace(expert_settings(config, strategy), gsam=gsam, half=True)


def expert_settings(config: Config, strategy: str) -> ExpertSettings:
    """The experts' part of the configuration."""
    return ExpertSettings(
        count=config.experts,
        epochs=config.expert_epochs,
        batch=config.expert_batch,
        lr=config.expert_lr,
        momentum=config.expert_momentum,
        weight_decay=config.expert_weight_decay,
        strategy=strategy,
        align_corners=True,
        steps_per_epoch=config.expert_steps,
    )


def draw_segment(experts: Experts, config: Config, context: Context, starts: range | None = None) -> Segment:
    """A stretch of `match_epochs` passes of a random expert from a random start, one of `starts` if given."""
    starts = range(config.max_start) if starts is None else starts
    generator = context.generator("segment", on_cpu=True)
    expert = int(torch.randint(len(experts), (), generator=generator))
    first = int(torch.randint(starts.start, starts.stop, (), generator=generator))
    start = tuple(experts.parameters(expert, first))
    target = tuple(experts.parameters(expert, first + config.match_epochs))
    return Segment(start, target, squared_distance(start, target))


def draw_steps(images: Tensor, strategy: str, config: Config, context: Context) -> list[Step]:
    """The minibatches of a student's steps, each with an augmentation drawn plainly.

    A permutation of the set is cut into batches, which are used from the last (which may be smaller) to the
    first; then comes another permutation.
    """
    size = config.batch_syn or len(images)
    waiting: list[Tensor] = []
    steps = []
    for _ in range(config.student_steps):
        if not waiting:
            order = torch.randperm(len(images), generator=context.generator("order", on_cpu=True))
            waiting = list(order.split(size))
        rows, draws = waiting.pop(), None
        if operations(strategy):
            generator = context.generator("augment", on_cpu=True)
            shape = (images.shape[2], images.shape[3])
            draws = sample_draws(strategy, len(rows), shape, generator, one_operation=True)
        steps.append(Step(rows.to(images.device, non_blocking=True), draws))
    return steps


def whole_way(
    student: StatelessStudent, start: Weights, pixels: Tensor, rate: Tensor, steps: Sequence[Step]
) -> tuple[Weights, list[Tensor]]:
    """Where the steps end on images (n, ...) at a rate, and the sum of their gradients; no graph is kept."""
    weights, total = start, [torch.zeros_like(weight) for weight in start]
    for step in steps:
        gradient = student.gradient(weights, pixels[step.rows], step)
        weights = descended(weights, gradient, rate)
        for sum_of, part in zip(total, gradient, strict=True):
            sum_of.add_(part)
    return weights, total


@torch.no_grad()
def descended(weights: Weights, gradient: Weights, rate: Tensor) -> Weights:
    """The weights after an SGD step, as leaves of a graph of their own."""
    return tuple(weight - rate * part for weight, part in zip(weights, gradient, strict=True))


def minus(a: Weights, b: Weights) -> Weights:
    """Differences of the weights."""
    return tuple(x - y for x, y in zip(a, b, strict=True))


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product of all weights together."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def squared_distance(a: Weights, b: Weights) -> Tensor:
    """Squared Euclidean distance of all weights together."""
    return torch.stack([x.square().sum() for x in minus(a, b)]).sum()
