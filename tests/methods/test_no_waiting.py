"""No step makes the host wait for a GPU: it reads no number from it and sends nothing that stops the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pretended import Device, pretended

import methods
from harness.commands.conformance import SMALL
from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.distilled import Distilled
from harness.core.teachers import TeacherRecipe, train_teacher
from harness.engine.evaluate import evaluate
from harness.engine.parts import Epochs
from harness.engine.protocol import protocol_named

# Where the host must know, and why; by file and function.
DECIDES = {
    "methods/cafe.py query": "the accuracy decides whether images or the network are trained next",
    "methods/ld.py told": "the error decides whether a fresh network takes over",
    "methods/ld.py judge": "images left out decide, now and then, which labels are kept",
    "methods/ncfm.py distill": "the loss decides whether the rate of the images falls",
    "methods/shared/aligned.py condense": "the loss decides whether a step is made",
    "methods/shared/clusters.py centroids": "the centroids' movement decides whether there is another round",
    "harness/core/teachers.py right_answers": "held-out images decide, once in a pass, which network labels",
    "harness/core/experts.py take": "an expert's weights are kept on the host, once in a pass over the data",
}
QUICKLY = ("bacon", "dm", "mtt")
PROTOCOLS = (
    *("dc-cpu", "dc-steps-cpu", "idc-cpu", "ncfm-cpu", "kd-cpu", "kd-bssl-cpu", "kd-mixup-cpu"),
    *("kd-mse-cpu", "kd-mse-gt-cpu"),
    *("sl-cpu", "datm-cpu", "frepo-cpu"),
)


class Stepping(Context):
    """A context whose device is watched during the steps of loops, but for the first of each."""

    def __init__(self, device: Device) -> None:
        super().__init__(0, arch=SMALL.arch, limit_steps=3, compile_loops=False, count=False)
        self.watched = device

    def apart(self, seed: int, work: Any) -> Stepping:
        """One for work that runs share."""
        return Stepping(self.watched)

    def steps(self, *args: Any, **named: Any) -> Iterator[int]:
        """The steps, watched."""
        for step in super().steps(*args, **named):
            self.watched.noting = step > 0
            yield step
            self.watched.noting = False


def unexpected(device: Device) -> str:
    """The places at which the host need not wait, a line each."""
    return "\n".join(wait for wait in device.waits if wait.partition(":")[0] not in DECIDES)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICKLY else pytest.mark.slow)
        for name in [*methods.discover(), "random@soft"]
    ],
)
def test_no_step_of_a_method_waits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = SMALL.data()
    config = methods.resolve(name, data.name, 1, "smoke").config
    with pretended(monkeypatch) as device:
        methods.load(name).distill(data, 1, config=config, context=Stepping(device))
    assert unexpected(device) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_step_of_an_evaluation_waits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(3, (3, 8, 8), 20, test_per_class=2)
    protocol = dataclasses.replace(protocol_named(name), length=Epochs(6))
    with pretended(monkeypatch) as device:
        context = Stepping(device)
        teacher = None
        if protocol.regime == "teacher":
            teacher = train_teacher(context, data, SMALL.arch, TeacherRecipe("a teacher", 2))
        made = _set(data, soft=protocol.regime == "stored")
        evaluate(made, data, protocol, evals=1, context=context, teacher=teacher)
    assert unexpected(device) == ""


def _set(data: Any, *, soft: bool) -> Distilled:
    name = "random@soft" if soft else "random_packed"
    config = methods.resolve(name, data.name, 2, "smoke").config
    return methods.load(name).distill(data, 2, config=config, context=Context(arch=SMALL.arch, limit_steps=3))


@pytest.mark.parametrize(
    "waiting",
    [
        lambda on: float(torch.ones(3, device=on).sum()),
        lambda on: torch.ones(3, device=on)[torch.ones(3, device=on) > 0],
        lambda on: torch.ones(3).to(on),
        lambda on: torch.ones(3, device=on).add(torch.ones(3).to(on)),
        lambda on: torch.tensor([1.0, 2.0], device=on),
        lambda on: torch.ones(3, device=on).tolist(),
    ],
)
def test_waiting_is_seen(waiting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended(monkeypatch) as device:
        monkeypatch.setattr("pretended.OWN", ("tests/",))
        device.noting = True
        waiting(torch.device("cpu"))
    assert sum(device.waits.values()) == 1


def test_going_on_is_not_taken_for_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended(monkeypatch) as device:
        monkeypatch.setattr("pretended.OWN", ("tests/",))
        device.noting, on = True, torch.device("cpu")
        sent = torch.arange(3).to(on, non_blocking=True)
        assert int(torch.randint(5, ())) < 5
        (torch.ones(3, device=on)[sent].sum() * 2).to(on)
    assert not device.waits


def test_afterwards_torch_makes_tensors_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.utils._device._device_constructors.cache_clear()
    with pretended(monkeypatch), torch.device("meta"):
        assert torch.empty(1).is_meta
    with torch.device("meta"):
        assert torch.empty(1).is_meta
