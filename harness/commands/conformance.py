"""`python -m harness check METHOD`: does a method keep its contract? On made-up data, without any dataset.

The contract is checked point by point on data of one small family with the whole of the smoke settings, in
seconds; then the points that depend on shapes once more on the families of the real datasets, in a few steps,
which takes a method that treats each class by itself up to some minutes.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator

import methods
from harness.core.augment import usual_strategy
from harness.core.checkpoint import State
from harness.core.context import Context
from harness.core.data import Dataset, Samples, sealed
from harness.core.data.toy import toy
from harness.core.distilled import Distilled
from harness.core.errors import UserError
from harness.core.settings import lengths
from harness.engine.evaluate import evaluate
from harness.engine.parts import Epochs
from harness.engine.protocol import DC, Protocol
from harness.engine.surroundings import with_threads

SCALE = "smoke"
ALL = "all"
MOST_STEPS = 1000  # of a loop, at a scale that is to take seconds
TRAINING = Protocol("check", "one epoch, to see that a network can train on a set", DC, Epochs(0))


class Nonconformity(Exception):
    """A point of the contract that the method breaks, in one line."""


class Killed(BaseException):
    """The end of a run that is to be resumed; no Exception, so that no method catches it."""

    def __init__(self, loop: str) -> None:
        super().__init__(loop)
        self.loop = loop


@dataclass(frozen=True)
class Family:
    """A kind of dataset, (C, H, W) and number of classes, with the ipc, network and steps it is tried with.

    The first class has one image fewer than the `per_class` of the others. `limit_steps` cuts the loops.
    """

    shape: tuple[int, int, int]
    classes: int
    ipc: int
    per_class: int
    arch: str
    limit_steps: int | None = None

    @property
    def name(self) -> str:
        """Shape, classes and ipc, for people."""
        return f"{'x'.join(map(str, self.shape))}, {self.classes} classes, ipc {self.ipc}"

    def data(self) -> Dataset:
        """Made-up data of the family; a single test image for each class."""
        whole = toy(self.classes, self.shape, self.per_class, test_per_class=1)
        train = Samples(whole.images[1:], whole.labels[1:], whole.class_names)

        def open_test() -> Samples:
            test = whole.test()
            return Samples(test.images, test.labels, whole.class_names)

        return Dataset(whole.spec, train, whole.transform, open_test)


SMALL = Family((3, 8, 8), 3, ipc=1, per_class=20, arch="ConvNetW16D2")
# Every shape, number of classes and ipc of the real datasets occurs once, with classes smaller than a batch
# or just large enough to fill 2x2 tiles with images of their own.
FAMILIES = (
    Family((3, 32, 32), 10, ipc=10, per_class=41, arch="ConvNetW8", limit_steps=3),
    Family((1, 28, 28), 200, ipc=1, per_class=5, arch="ConvNetW8D2", limit_steps=2),
    Family((3, 64, 64), 100, ipc=1, per_class=5, arch="ConvNetW4D4", limit_steps=2),
)


@dataclass
class Watch:
    """What the loops of a method do, by name, those of contexts apart included.

    kills: step before which a loop's run is to end with `Killed`.
    steps: number of steps when the loop was last seen.
    totals: steps that loops have that a budget may cut.
    entered: highest step that a run began the loop with.
    """

    kills: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    entered: dict[str, int] = field(default_factory=dict)


class WatchedContext(Context):
    """A context that notes whether the method draws anything at random, and whose loops are watched."""

    def __init__(self, seed: int, watch: Watch, lengths: tuple[str, ...], **named: Any) -> None:
        super().__init__(seed, **named)
        self.draws = False
        self.watch = watch
        self.lengths = lengths
        self._named = named

    def apart(self, seed: int, work: Path | None) -> WatchedContext:
        """A context of work that runs share, watched as well."""
        return WatchedContext(seed, self.watch, self.lengths, **(self._named | {"work": work}))

    def generator(self, role: str, *, on_cpu: bool = False) -> Generator:
        """The named source of randomness; asking for one counts as drawing."""
        self.draws = True
        return super().generator(role, on_cpu=on_cpu)

    def steps(
        self, total: int, state: State, *, name: str = "distill", budgeted: bool = True
    ) -> Iterator[int]:
        """The steps of a loop, noted in the watch, up to where it is to be killed."""
        self._refuse_length(name, total, budgeted)
        watch, entering = self.watch, True
        if budgeted:
            watch.totals[name] = total
        for step in super().steps(total, state, name=name, budgeted=budgeted):
            if entering:
                watch.entered[name] = max(step, watch.entered.get(name, 0))
                entering = False
            if watch.kills.get(name) == step:
                raise Killed(name)
            watch.steps[name] = step + 1
            yield step

    def _refuse_length(self, name: str, total: int, budgeted: bool) -> None:
        """Raise Nonconformity for a loop of a length that no setting tells, or that takes too long here."""
        require(
            total <= MOST_STEPS,
            f"the loop {name!r} has {total} steps at {SCALE} scale, expected at most {MOST_STEPS}; "
            f"shorten it in SCALED[{SCALE!r}]",
        )
        require(
            total <= 1 or not budgeted or bool(self.lengths),
            f"the loop {name!r} has {total} steps, but no setting is said to be its length; "
            "mark it with setting(..., length=True)",
        )


@dataclass(frozen=True)
class Distillation:
    """A distilled set, the context it was made in, and what happened meanwhile that should not.

    test_looks: how often the test split was opened. global_draws: libraries whose global generator changed.
    """

    distilled: Distilled
    context: WatchedContext
    test_looks: int
    global_draws: tuple[str, ...]


class CheckedMethod:
    """The method under check on one family, with the outcome that several points look at."""

    def __init__(self, name: str, family: Family) -> None:
        self.name = name
        self.family = family
        self.module = methods.load(name)
        self.data = family.data()

    def run(
        self, ipc: int | None = None, seed: int = 0, watch: Watch | None = None, **runtime: Any
    ) -> Distillation:
        """Distil the data, as a trial does: at smoke scale, with the test split sealed."""
        family = self.family
        named = {"arch": family.arch, "limit_steps": family.limit_steps, "count": False, **runtime}
        context = WatchedContext(seed, watch or Watch(), lengths(self.module.Config), **named)
        config = methods.resolve(self.name, self.data.name, ipc or family.ipc, SCALE).config
        looks, before = self.data.test_looks, _global_generators()
        with sealed(f"distilling {self.name}"):
            distilled = self.module.distill(self.data, ipc or family.ipc, config=config, context=context)
        draws = tuple(name for name, state in _global_generators().items() if state != before[name])
        return Distillation(distilled, context, self.data.test_looks - looks, draws)

    @cached_property
    def first(self) -> Distillation:
        """Outcome of seed 0, undisturbed; on the small family its cost is counted, as in every trial."""
        return self.run(count=self.family is SMALL)


Point = Callable[[CheckedMethod], None]
# Which points are checked on which families, in this order.
Plan = Mapping[Family, Mapping[str, Point]]


def command(method: str | None, *, quick: bool = False) -> int:
    """Check one method, or every one for None and "all"; returns 0 if all points of the contract are kept.

    Prints one line for each point; `quick` leaves out the families of the real datasets.
    """
    plan = QUICK if quick else FULL
    if method is not None and method != ALL:
        return int(not check(method, plan))
    kept = [check(name, plan) for name in methods.discover()]
    print(f"{sum(kept)} of {len(kept)} methods keep the contract")
    return int(not all(kept))


def check(method: str, plan: Plan) -> bool:
    """Check a method point by point, printing a line for each; returns whether it keeps them all.

    A file that breaks the contract is not run: its breaches are the lines.
    """
    try:
        methods.load(method)
    except methods.ContractError as error:
        for breach in error.breaches:
            print(f"failed  {method}: its file {breach}")
        return False
    kept, total = 0, 0
    with with_threads(1):  # networks this small are slowed down by a second one
        for family, points in plan.items():
            subject = CheckedMethod(method, family)
            for title, point in points.items():
                problem = _problem(point, subject)
                kept, total = kept + (problem is None), total + 1
                what = f"{family.name}: {title}"
                print(f"ok      {what}" if problem is None else f"failed  {what}: {problem}", flush=True)
    print(f"{method}: {kept} of {total} points kept")
    return kept == total


def _problem(point: Point, subject: CheckedMethod) -> str | None:
    """What is wrong at one point, in one line; None if nothing is."""
    try:
        point(subject)
    except Nonconformity as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - a method under check may raise anything
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def require(condition: bool, complaint: str) -> None:
    """Raise Nonconformity unless the condition holds."""
    if not condition:
        raise Nonconformity(complaint)


def returns_a_distilled_set(subject: CheckedMethod) -> None:
    """Images (C * ipc, C, H, W) float32, finite, cut off from autograd, and what is needed to use them."""
    _check_set(subject, subject.first.distilled, subject.family.ipc)


def returns_more_at_a_larger_ipc(subject: CheckedMethod) -> None:
    """The same with twice as many images per class."""
    ipc = 2 * subject.family.ipc
    _check_set(subject, subject.run(ipc).distilled, ipc)


def _check_set(subject: CheckedMethod, distilled: Distilled, ipc: int) -> None:
    require(isinstance(distilled, Distilled), f"distill returned {type(distilled).__name__}, not Distilled")
    sizes = [ipc] * subject.data.num_classes
    if subject.module.IGNORES_IPC:
        sizes = list(subject.data.index.counts)  # a reference that returns all training images
    _check_images(distilled, subject.data, sum(sizes), ipc)
    _check_labels(distilled, sizes)
    _check_description(distilled, subject.data, ipc)


def _check_images(distilled: Distilled, data: Dataset, count: int, ipc: int) -> None:
    images = distilled.images
    expected = (count, *data.shape)
    require(
        tuple(images.shape) == expected, f"images are {tuple(images.shape)} at ipc {ipc}, expected {expected}"
    )
    require(images.dtype == torch.float32, f"images are {images.dtype}, expected torch.float32")
    require(bool(torch.isfinite(images).all()), "images are not all finite")
    require(not images.requires_grad, "images still require gradients; return images.detach()")


def _check_labels(distilled: Distilled, sizes: Sequence[int]) -> None:
    """One label for each image, class after class; `sizes` counts the images of each class."""
    labels, classes = distilled.labels, len(sizes)
    if labels.ndim == 2:
        expected = (sum(sizes), classes)
        decoded = (sum(sizes) * distilled.factor**2, classes)
        require(
            tuple(labels.shape) in (expected, decoded) and labels.dtype == torch.float32,
            f"soft labels are {tuple(labels.shape)} {labels.dtype}, expected {expected} torch.float32",
        )
        require(bool(torch.isfinite(labels).all()), "soft labels are not all finite")
        return
    expected_labels = torch.arange(classes).repeat_interleave(torch.tensor(sizes))
    require(
        labels.dtype == torch.int64 and torch.equal(labels.cpu(), expected_labels),
        f"labels are {labels.tolist()} ({labels.dtype}), expected int64 {expected_labels.tolist()}",
    )


def _check_description(distilled: Distilled, data: Dataset, ipc: int) -> None:
    found = (distilled.ipc, distilled.dataset, distilled.class_names)
    expected = (ipc, data.name, data.class_names)
    require(found == expected, f"ipc, dataset and class names are {found}, expected {expected}")
    images, labels = distilled.decoded()
    count = len(distilled.images) * distilled.factor**2
    require(
        len(images) == len(labels) == count and tuple(images.shape[1:]) == data.shape,
        f"decodes to {tuple(images.shape)} images and {len(labels)} labels, expected {count} of {data.shape}",
    )


def repeats_itself(subject: CheckedMethod) -> None:
    """Two runs with one seed end in the same bytes."""
    require(
        subject.run().distilled.digest() == subject.first.distilled.digest(),
        "two runs with seed 0 differ; take all randomness from context.generator(role)",
    )


def heeds_its_seed(subject: CheckedMethod) -> None:
    """Another seed gives another set, unless the method draws nothing."""
    other = subject.run(seed=1)
    same = other.distilled.digest() == subject.first.distilled.digest()
    require(
        not (same and other.context.draws),
        "seeds 0 and 1 give the same set although the method draws at random",
    )


def survives_kills(subject: CheckedMethod) -> None:
    """Killed in the middle of each loop and resumed each time, it ends in the bytes of an undisturbed run."""
    # A loop of one step is over before anything of it would be saved.
    kills = {name: steps // 2 for name, steps in subject.first.context.watch.steps.items() if steps > 1}
    watch = Watch(dict(kills))
    with tempfile.TemporaryDirectory() as work:
        resumed = _killed_in_turn(subject, watch, Path(work))
    for loop, step in kills.items():
        require(
            watch.entered[loop] == step,
            f"killed before step {step} of the loop {loop!r}, it went on from step {watch.entered[loop]}",
        )
    require(
        resumed.distilled.digest() == subject.first.distilled.digest(),
        "a resumed run ends in other bytes; give context.steps(..., state) all that changes between steps",
    )


def _killed_in_turn(subject: CheckedMethod, watch: Watch, work: Path) -> Distillation:
    """Outcome of a run that is killed and resumed once for each of the watch's `kills`, using them up."""
    while True:
        try:
            return subject.run(watch=watch, work=work / "run", cache=work / "cache", checkpoint_seconds=0.0)
        except Killed as killed:
            del watch.kills[killed.loop]


def trains_a_network(subject: CheckedMethod) -> None:
    """The evaluation accepts the set, whichever labels it has, and a network's loss stays finite."""
    context = Context(arch=subject.family.arch)
    result = evaluate(subject.first.distilled, subject.data, TRAINING, evals=1, context=context)
    require(
        all(map(math.isfinite, result.train_losses)), f"a network trained on it has {result.train_losses}"
    )


def leaves_the_test_split_alone(subject: CheckedMethod) -> None:
    """The test split, sealed during each run here, was never opened."""
    looks = subject.first.test_looks
    require(looks == 0, f"the test split was opened {looks} times")


def leaves_global_randomness_alone(subject: CheckedMethod) -> None:
    """The global generators of torch, numpy and Python are neither seeded nor drawn from."""
    used = ", ".join(subject.first.global_draws)
    require(
        not used, f"the global generator of {used} was used; take randomness from context.generator(role)"
    )


def _global_generators() -> dict[str, object]:
    numpy_state = np.random.get_state(legacy=False)["state"]
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (numpy_state["key"].tobytes(), numpy_state["pos"]),
        "random": random.getstate(),
    }


def says_what_its_loop_does(subject: CheckedMethod) -> None:
    """`steps_of` knows the loop's length, and factor, augmentation and labels of the set that it leaves."""
    config = methods.resolve(subject.name, subject.data.name, subject.family.ipc, SCALE).config
    said, made = subject.module.steps_of(config), subject.first.distilled
    total = sum(subject.first.context.watch.totals.values())
    require(
        said.count >= total,
        f"steps_of says {said.count} steps at {SCALE} scale, but its loop has {total}",
    )
    strategy = usual_strategy(subject.data.name) if said.augmentation is None else said.augmentation
    require(
        (said.factor, strategy) == (made.factor, made.augmentation),
        f"steps_of says factor {said.factor} and augmentation {strategy!r}, the set that it returns says "
        f"{made.factor} and {made.augmentation!r}",
    )
    kind = "hard" if made.labels.ndim == 1 else "soft"
    require(
        said.labels == kind,
        f"steps_of says that labels are {said.labels}, the set that it returns has {kind} ones",
    )


def refuses_unknown_settings(subject: CheckedMethod) -> None:
    """A misspelt setting is an error, and not ignored."""
    try:
        methods.resolve(subject.name, subject.data.name, subject.family.ipc, SCALE, {"no_such_setting": 1})
    except UserError:
        return
    raise Nonconformity("the unknown setting no_such_setting was accepted")


def saves_and_loads(subject: CheckedMethod) -> None:
    """A saved set reloads bit for bit, and saving that again gives the same file."""
    distilled = subject.first.distilled
    with tempfile.TemporaryDirectory() as folder:
        path, again = Path(folder, "a.safetensors"), Path(folder, "b.safetensors")
        distilled.save(path)
        loaded = Distilled.load(path)
        loaded.save(again)
        require(path.read_bytes() == again.read_bytes(), "saving a loaded set gives another file")
    require(loaded.digest() == distilled.digest(), "images or labels change when saved and loaded")
    fields = ("ipc", "dataset", "class_names", "method", "factor", "augmentation", "learned_lr")
    changed = [name for name in fields if getattr(loaded, name) != getattr(distilled, name)]
    require(not changed, f"{', '.join(changed)} change when saved and loaded")


# Points that shapes, classes and ipc may break.
SHAPE_POINTS: dict[str, Point] = {
    "right shapes and labels, finite values": returns_a_distilled_set,
    "killed in each loop and resumed equals undisturbed": survives_kills,
    "a network trains on it": trains_a_network,
}
POINTS: dict[str, Point] = {
    **SHAPE_POINTS,
    "right shapes and labels at twice the ipc": returns_more_at_a_larger_ipc,
    "the same seed gives the same bytes": repeats_itself,
    "another seed gives another set, unless nothing is drawn": heeds_its_seed,
    "the test split is never touched": leaves_the_test_split_alone,
    "global random generators are left alone": leaves_global_randomness_alone,
    "steps_of says what the loop does": says_what_its_loop_does,
    "unknown settings are refused": refuses_unknown_settings,
    "saved and loaded, it is the same bit for bit": saves_and_loads,
}
QUICK: Plan = {SMALL: POINTS}
FULL: Plan = {SMALL: POINTS, **dict.fromkeys(FAMILIES, SHAPE_POINTS)}
