"""`python -m harness check METHOD`: does a method keep its contract? On made-up data, in seconds."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator

import methods
from harness.data import Dataset, sealed
from harness.data.toy import toy
from harness.errors import UserError
from harness.loop import StoppedEarly
from methods.api import Context, Distilled

ARCH = "ConvNetW16D2"
SCALE = "smoke"
IPCS = (1, 2)


class Nonconformity(Exception):
    """A point of the contract that the method breaks, in one line."""


class WatchedContext(Context):
    """A context that notes whether the method draws anything at random."""

    def __init__(self, seed: int, **runtime: Any) -> None:
        super().__init__(seed, arch=ARCH, **runtime)
        self.draws = False

    def generator(self, role: str, *, on_cpu: bool = False) -> Generator:
        """The named source of randomness; asking for one counts as drawing."""
        self.draws = True
        return super().generator(role, on_cpu=on_cpu)


@dataclass(frozen=True)
class Outcome:
    """A distilled set and the context it was made in."""

    distilled: Distilled
    context: WatchedContext


class Subject:
    """The method under check, with the outcomes that several points look at, made at their first use."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.module = methods.load(name)
        self.data = toy(num_classes=3, shape=(3, 8, 8))

    def run(self, ipc: int = 1, context: WatchedContext | None = None) -> Outcome:
        """Distil the toy data, as a trial does: at smoke scale, with the test split sealed."""
        context = context or WatchedContext(seed=0)
        config = methods.resolve(self.name, self.data.name, ipc, SCALE).config
        with sealed(f"distilling {self.name}"):
            distilled = self.module.distill(self.data, ipc, config=config, context=context)
        return Outcome(distilled, context)

    @cached_property
    def first(self) -> Outcome:
        """Outcome of seed 0 at ipc 1, undisturbed."""
        return self.run()


def command(method: str) -> int:
    """Print one line for each point of the contract; returns 0 if the method keeps all of them."""
    subject = Subject(method)
    failures = 0
    with _one_thread():
        for title, point in POINTS.items():
            problem = _problem(point, subject)
            failures += problem is not None
            print(f"ok      {title}" if problem is None else f"failed  {title}: {problem}", flush=True)
    print(f"{method}: {len(POINTS) - failures} of {len(POINTS)} points kept")
    return int(failures > 0)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Networks this small are slowed down by a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _problem(point: Callable[[Subject], None], subject: Subject) -> str | None:
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


def returns_a_distilled_set(subject: Subject) -> None:
    """Images (C * ipc, C, H, W) float32, finite, cut off from autograd, and what is needed to use them."""
    for ipc in IPCS:
        distilled = subject.first.distilled if ipc == 1 else subject.run(ipc).distilled
        require(
            isinstance(distilled, Distilled), f"distill returned {type(distilled).__name__}, not Distilled"
        )
        _check_images(distilled, subject.data, ipc)
        _check_labels(distilled, subject.data, ipc)
        _check_description(distilled, subject.data, ipc)


def _check_images(distilled: Distilled, data: Dataset, ipc: int) -> None:
    images = distilled.images
    expected = (data.num_classes * ipc, *data.shape)
    require(
        tuple(images.shape) == expected, f"images are {tuple(images.shape)} at ipc {ipc}, expected {expected}"
    )
    require(images.dtype == torch.float32, f"images are {images.dtype}, expected torch.float32")
    require(bool(torch.isfinite(images).all()), "images are not all finite")
    require(not images.requires_grad, "images still require gradients; return images.detach()")


def _check_labels(distilled: Distilled, data: Dataset, ipc: int) -> None:
    labels, classes = distilled.labels, data.num_classes
    if labels.ndim == 2:
        expected = (classes * ipc, classes)
        require(
            tuple(labels.shape) == expected and labels.dtype == torch.float32,
            f"soft labels are {tuple(labels.shape)} {labels.dtype}, expected {expected} torch.float32",
        )
        require(bool(torch.isfinite(labels).all()), "soft labels are not all finite")
        return
    expected_labels = torch.arange(classes).repeat_interleave(ipc)
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


def repeats_itself(subject: Subject) -> None:
    """Two runs with one seed end in the same bytes."""
    require(
        subject.run().distilled.digest() == subject.first.distilled.digest(),
        "two runs with seed 0 differ; take all randomness from context.generator(role)",
    )


def heeds_its_seed(subject: Subject) -> None:
    """Another seed gives another set, unless the method draws nothing."""
    other = subject.run(context=WatchedContext(seed=1))
    same = other.distilled.digest() == subject.first.distilled.digest()
    require(
        not (same and other.context.draws),
        "seeds 0 and 1 give the same set although the method draws at random",
    )


def survives_a_kill(subject: Subject) -> None:
    """Stopped midway and gone on with from its checkpoint, it ends in the bytes of an undisturbed run."""
    steps = subject.first.context.cost().steps
    if steps < 3:
        # Such a run is over before its first checkpoint would be of use.
        return
    with tempfile.TemporaryDirectory() as work:
        settings: dict[str, Any] = {"work": Path(work), "checkpoint_seconds": 0.0}
        try:
            subject.run(context=WatchedContext(seed=0, stop_after=steps // 2, **settings))
            raise Nonconformity("a run cannot be stopped; loop over context.steps(...)")
        except StoppedEarly:
            resumed = subject.run(context=WatchedContext(seed=0, **settings))
    require(resumed.context.resumed == 1, "the stopped run left no checkpoint to go on from")
    require(
        resumed.distilled.digest() == subject.first.distilled.digest(),
        "a resumed run ends in other bytes; give context.steps(..., state) all that changes between steps",
    )


def leaves_the_test_split_alone(subject: Subject) -> None:
    """The test split, sealed during each run here, was never opened."""
    looks = subject.first.context.dataset(subject.data).test_looks
    require(looks == 0, f"the test split was opened {looks} times")


def leaves_global_randomness_alone(subject: Subject) -> None:
    """The global generators of torch, numpy and Python are neither seeded nor drawn from."""
    before = _global_generators()
    subject.run()
    used = [library for library, state in _global_generators().items() if state != before[library]]
    require(
        not used,
        f"the global generator of {', '.join(used)} was used; take randomness from context.generator(role)",
    )


def _global_generators() -> dict[str, object]:
    numpy_state = np.random.get_state(legacy=False)["state"]
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (numpy_state["key"].tobytes(), numpy_state["pos"]),
        "random": random.getstate(),
    }


def refuses_unknown_settings(subject: Subject) -> None:
    """A misspelt setting is an error, and not ignored."""
    try:
        methods.resolve(subject.name, subject.data.name, 1, SCALE, {"no_such_setting": 1})
    except UserError:
        return
    raise Nonconformity("the unknown setting no_such_setting was accepted")


def saves_and_loads(subject: Subject) -> None:
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


POINTS: dict[str, Callable[[Subject], None]] = {
    "right shapes and labels, finite values at ipc 1 and 2": returns_a_distilled_set,
    "the same seed gives the same bytes": repeats_itself,
    "another seed gives another set, unless nothing is drawn": heeds_its_seed,
    "killed and resumed equals undisturbed": survives_a_kill,
    "the test split is never touched": leaves_the_test_split_alone,
    "global random generators are left alone": leaves_global_randomness_alone,
    "unknown settings are refused": refuses_unknown_settings,
    "saved and loaded, it is the same bit for bit": saves_and_loads,
}
