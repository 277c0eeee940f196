"""Loops: resuming gives the same bytes, budgets buy steps, costs are counted, divergence is caught."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.core.context import Context
from harness.core.data.toy import toy
from harness.core.distilled import Distilled
from harness.core.errors import DivergedError
from harness.core.loop import Runtime, Stopped, StoppedEarly
from harness.core.progress import Progress
from methods import bacon, dm

SETTINGS = dm.Config(iterations=6, batch_real=8)


@pytest.fixture(autouse=True)
def _checkpoint_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.core.checkpoint.CHECKPOINT_SHARE", 1e9)


def run_dm(work: Path | None = None, **named: object) -> tuple[Distilled, Context]:
    context = Context(**{"arch": "ConvNetW8", "work": work, "checkpoint_seconds": 0.0} | named)
    return dm.distill(toy(), 2, config=SETTINGS, context=context), context


@pytest.mark.parametrize("method", [dm, bacon])
@pytest.mark.parametrize("stop", [1, 3, pytest.param(5, marks=pytest.mark.slow)])
def test_resumed_run_ends_with_the_same_bytes(method: object, stop: int, tmp_path: Path) -> None:
    config = (
        SETTINGS if method is dm else bacon.Config(iterations=6, batch_real=8, train_steps=1, train_batch=8)
    )
    data = toy()
    whole = method.distill(data, 2, config=config, context=Context(arch="ConvNetW8"))
    named = {"arch": "ConvNetW8", "work": tmp_path, "checkpoint_seconds": 0.0}
    with pytest.raises(StoppedEarly):
        method.distill(data, 2, config=config, context=Context(**named, stop_after=stop))
    context = Context(**named)
    resumed = method.distill(data, 2, config=config, context=context)
    assert resumed.digest() == whole.digest()
    # The checkpoint of the step at which it was stopped had not been written.
    assert context.resumed == (1 if stop > 1 else 0)


def after(asked: int) -> Callable[[], bool]:
    """A `should_stop` that says yes for the first time when it is asked for the `asked`th time."""
    count = itertools.count(1)
    return lambda: next(count) >= asked


@pytest.mark.parametrize("step", [1, 3, 5])
def test_loop_that_is_asked_to_stop_goes_on_at_the_very_step(step: int, tmp_path: Path) -> None:
    seldom = {"arch": "ConvNetW8", "checkpoint_seconds": 1000.0}
    whole = dm.distill(toy(), 2, config=SETTINGS, context=Context(**seldom))
    with pytest.raises(Stopped, match=f"stopped after step {step} of 6 of distill"):
        run_dm(tmp_path, should_stop=after(step), **seldom)
    assert steps_kept(tmp_path) == {"distill": step}
    told: list[Progress] = []
    resumed, context = run_dm(tmp_path, should_stop=lambda: False, on_progress=told.append, **seldom)
    assert context.resumed == 1
    assert resumed.digest() == whole.digest()


def steps_kept(work: Path) -> dict[str, int]:
    saved = torch.load(work / "checkpoint.pt", weights_only=True)
    return {name: loop["step"] for name, loop in saved["loops"].items()}


def test_loop_that_is_over_stops_in_the_next(tmp_path: Path) -> None:
    def two_loops(should_stop: Callable[[], bool]) -> list[str]:
        runtime, done = Runtime(work=tmp_path, checkpoint_seconds=1000.0, should_stop=should_stop), []
        for name, steps in (("one", 1), ("two", 3)):
            for step in runtime.steps(steps, {"total": torch.zeros(())}, name=name):
                done.append(f"{name} {step}")
        return done

    with pytest.raises(Stopped, match="of two"):
        two_loops(lambda: True)
    assert steps_kept(tmp_path) == {"one": 1, "two": 1}
    assert two_loops(lambda: False) == ["two 1", "two 2"]


def test_run_that_could_keep_nothing_is_not_asked_to_stop() -> None:
    assert run_dm(should_stop=lambda: True)[0].digest() == run_dm()[0].digest()


def test_loop_that_diverged_writes_no_checkpoint_to_stop(tmp_path: Path) -> None:
    def run() -> None:
        runtime = Runtime(work=tmp_path, should_stop=lambda: True)
        for _ in runtime.steps(5, {}):
            runtime.log(float("nan"))

    with pytest.raises(DivergedError):
        run()
    assert not list(tmp_path.iterdir())


def test_costs_of_a_killed_run_are_carried_on(tmp_path: Path) -> None:
    _, whole = run_dm()
    with pytest.raises(StoppedEarly):
        run_dm(tmp_path, stop_after=4)
    _, resumed = run_dm(tmp_path)
    assert resumed.cost().steps == whole.cost().steps == 6
    assert resumed.cost().flops == whole.cost().flops > 0
    assert resumed.cost().images_forwarded == whole.cost().images_forwarded == 6 * (3 * 8 + 6)


def test_budget_buys_steps() -> None:
    _, whole = run_dm()
    per_step = whole.cost().flops / 6
    _, bought = run_dm(budget_flops=10.5 * per_step)
    assert bought.cost().steps == 10
    _, poor = run_dm(budget_flops=0.1 * per_step)
    assert poor.cost().steps == 1


def planned(tmp_path: Path | None = None, stop: int = 99, **named: object) -> list[tuple[int, int]]:
    """Index of each step of a loop of six, and how many were planned then."""
    context, seen = Context(**{"arch": "ConvNetW8", "work": tmp_path, "checkpoint_seconds": 0.0} | named), []
    net, data, images = context.network(toy()), toy(), torch.zeros(2)
    for step in context.steps(6, {"images": images}):
        if step == stop:
            break
        seen.append((step, context.planned_steps()))
        net(data.batch(slice(0, 4)))
        images += 1
    return seen


def test_a_schedule_learns_how_long_its_loop_is_planned_to_be(tmp_path: Path) -> None:
    assert planned() == [(k, 6) for k in range(6)]
    assert planned(limit_steps=2) == [(0, 6), (1, 6)], "cut short, it is the same loop"
    context = Context(arch="ConvNetW8")
    net = context.network(toy())
    for _ in context.steps(1, {"images": torch.zeros(2)}):
        net(toy().batch(slice(0, 4)))
    poor = {"budget_flops": 3.5 * context.cost().flops}
    assert planned(**poor) == [(0, 6), (1, 3), (2, 3)], "what a budget buys is known after the first step"
    assert planned(tmp_path, stop=2, **poor) == [(0, 6), (1, 3)]
    assert planned(tmp_path, **poor) == [(2, 3)], "after a kill too"


def test_images_may_enter_a_network_as_they_are() -> None:
    """The counter of FLOPs follows no leaf; a method need not know."""
    data, context = toy(), Context(arch="ConvNetW8")
    net = context.network(data)
    images = data.batch(torch.arange(4)).requires_grad_()
    for _ in context.steps(2, {"images": images}):
        (gradient,) = torch.autograd.grad(net(images).square().sum(), images)
        assert gradient.abs().sum() > 0
    assert context.cost().images_forwarded == 8
    assert context.cost().flops > 0


def test_unreadable_checkpoint_starts_afresh(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    resumed, context = run_dm(tmp_path)
    assert context.resumed == 0
    assert resumed.digest() == run_dm()[0].digest()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_the_loop(bad: float) -> None:
    def run() -> None:
        runtime = Runtime()
        for _ in runtime.steps(5, {}):
            runtime.log(torch.tensor(bad))

    with pytest.raises(DivergedError, match=r"the loss of distill is (nan|inf) at step 5 of 5"):
        run()


def test_exploding_images_are_one_clear_error() -> None:
    config = dm.Config(iterations=6, batch_real=8, lr_img=1e30)
    with pytest.raises(DivergedError, match="a smaller learning rate may help"):
        dm.distill(toy(), 1, config=config, context=Context(arch="ConvNetW8NN"))


def test_progress_is_told() -> None:
    seen: list[Progress] = []
    run_dm(on_progress=seen.append)
    assert seen[-1].step == seen[-1].total == 6
    assert seen[-1].loss is not None


def test_seeds_are_named_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, _ = run_dm(seed=0)
    again, _ = run_dm(seed=0)
    other, _ = run_dm(seed=1)
    assert first.digest() == again.digest() != other.digest()
    assert torch.equal(before, torch.get_rng_state())
    a, b = Runtime(0), Runtime(0)
    b.generator("another role")
    assert torch.equal(torch.rand(3, generator=a.generator("x")), torch.rand(3, generator=b.generator("x")))


def test_loop_names_must_differ() -> None:
    runtime = Runtime()
    list(runtime.steps(1, {}))
    with pytest.raises(ValueError, match="two loops named"):
        list(runtime.steps(1, {}))


def test_finished_loops_are_not_run_again(tmp_path: Path) -> None:
    def run(stop: bool) -> list[str]:
        runtime = Runtime(work=tmp_path, checkpoint_seconds=0.0)
        done = []
        total: Tensor = torch.zeros(())
        for name in ("first", "second"):
            for step in runtime.steps(3, {"total": total}, name=name):
                total += torch.rand((), generator=runtime.generator("x"))
                done.append(f"{name} {step}")
                if stop and name == "second" and step == 2:
                    raise KeyboardInterrupt
        done.append(f"{float(total):.6f}")
        return done

    with pytest.raises(KeyboardInterrupt):
        run(stop=True)
    resumed = run(stop=False)
    assert resumed[:-1] == ["second 2"]
    for file in tmp_path.iterdir():
        file.unlink()
    assert run(stop=False)[-1] == resumed[-1]


@pytest.mark.slow
def test_compiled_loops_agree_with_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.core.loop.COMPILE_PAYS_FLOPS", {"cpu": 0.0})
    config = bacon.Config(iterations=3, batch_real=8, train_steps=1, train_batch=8)
    images = {}
    for compiled in (False, True):
        context = Context(arch="ConvNetW8", compile_loops=compiled)
        images[compiled] = bacon.distill(toy(), 2, config=config, context=context).images
        assert context.cost().compiled == compiled
    torch.testing.assert_close(images[True], images[False], rtol=1e-4, atol=1e-4)
