"""The loops of a run, kept out of the methods: their steps, compute budget, compilation and randomness.

A loop is entered by name and goes on where a killed run left it:

    for step in runtime.steps(total, {"images": images, "optimizer": optimizer}):
        ...

Everything random comes from `runtime.generator(role)`, whose states belong to the checkpoint, so a resumed
run ends with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from harness.core import clock
from harness.core.checkpoint import Checkpoint, LoopState, Saved, State, pack, restore
from harness.core.clock import Cost
from harness.core.cost import CostCounter, counting, spent_flops
from harness.core.progress import Progress, Reporter
from harness.core.seeds import seed_for
from harness.core.user_cache import keep_compiled

P = ParamSpec("P")
R = TypeVar("R")

# Work left, in FLOPs, above which compiling repays its half minute; measured on two CPU cores and, for
# CUDA, scaled by the ratio of the devices' speeds.
COMPILE_PAYS_FLOPS = {"cpu": 2e13, "cuda": 2e15}


class StoppedEarly(Exception):
    """Raised inside a loop after `stop_after` steps: the caller wanted a few steps only, real or hollow ones.

    `charged_seconds` and `charged_flops` are what work that is charged to the phase took or would take.
    """

    def __init__(
        self,
        loop: LoopState,
        seconds_per_step: float,
        charged_seconds: float = 0.0,
        charged_flops: float = 0.0,
    ) -> None:
        super().__init__(f"stopped after {loop.step} of {loop.total} steps")
        self.seconds_per_step = seconds_per_step
        self.flops_per_step = loop.flops_per_step
        self.step = loop.step
        self.total = loop.total
        self.charged_seconds = charged_seconds
        self.charged_flops = charged_flops

    @property
    def seconds(self) -> float:
        """What all steps of the loop and the charged work would take."""
        return self.seconds_per_step * self.total + self.charged_seconds

    @property
    def flops(self) -> float:
        """FLOPs of all steps of the loop and of the charged work."""
        return self.flops_per_step * self.total + self.charged_flops


class Stopped(BaseException):
    """Raised in a loop that was asked to stop, after its checkpoint was written: a resumed run goes on there.

    No Exception, so that nothing that catches those takes it for a failure.
    """

    def __init__(self, name: str, loop: LoopState) -> None:
        super().__init__(f"stopped after step {loop.step} of {loop.total} of {name}")


class Accelerated(Generic[P, R]):
    """A function that runs plainly until its loop finds that compiling pays, then compiled."""

    def __init__(self, function: Callable[P, R], runtime: Runtime) -> None:
        self._plain = function
        self._runtime = runtime
        self._compiled: Callable[P, R] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, compiled if the runtime is compiling."""
        if not self._runtime.compiling:
            return self._plain(*args, **kwargs)
        if self._compiled is None:
            keep_compiled()
            self._compiled = torch.compile(self._plain, dynamic=False)
        return self._compiled(*args, **kwargs)


class Runtime:
    """Seed, device, precision, budget and checkpoints of one phase of a run.

    Args:
        seed: base of all named generators.
        device: "cpu", "cuda" or "cuda:1".
        precision: "fp32", or "bf16" for autocast of the networks' forward passes.
        budget_flops: compute that the loops may spend; it replaces their own number of steps.
        work: folder for the checkpoint; None keeps none.
        checkpoint_seconds: least time between two checkpoints; 0 writes one after every step.
        on_progress: called with a `Progress` about once a second and after the last step of each loop.
        should_stop: asked after every step but a loop's last; where it says yes, the loop writes its
            checkpoint and raises `Stopped`. A run without `work` is not asked: it would lose everything.
        stop_after: raise `StoppedEarly` after so many steps of the first loop (to time real steps).
        limit_steps: most steps of any loop that a budget may cut (to try a method out).
        compile_loops: whether long loops may be compiled.
        count: whether each loop's first step is counted, which makes it slow; without, `cost` knows no FLOPs,
            and there are none to spend or to tell whether compiling pays.
        snapshots: keep the checkpoint of the loop "distill" at so many moments, evenly spaced, as
            `<work>/snapshots/<step>.pt`, for `harness.engine.curve`.
    """

    def __init__(
        self,
        seed: int = 0,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        *,
        budget_flops: float | None = None,
        work: Path | None = None,
        checkpoint_seconds: float = 30.0,
        on_progress: Callable[[Progress], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        stop_after: int | None = None,
        limit_steps: int | None = None,
        compile_loops: bool = True,
        count: bool = True,
        snapshots: int = 0,
    ) -> None:
        self.seed = seed
        self.device = torch.device(device)
        self.precision = precision
        self.budget_flops = budget_flops
        self.compiling = False
        self._should_stop = should_stop
        self._stop_after = stop_after
        self._limit_steps = limit_steps
        self._counts = count
        self._may_compile = compile_loops and _can_compile(self.device)
        self._generators: dict[str, torch.Generator] = {}
        self._loops: dict[str, LoopState] = {}
        self._states: dict[str, State] = {}
        self._checkpoint = None if work is None else Checkpoint(work, checkpoint_seconds, snapshots)
        self._saved = None if self._checkpoint is None else self._checkpoint.read()
        self.resumed = 0 if self._saved is None else self._saved["resumed"] + 1
        self._costs = CostCounter(self.device, self._saved)
        self._reporter = Reporter(on_progress)

    def generator(self, role: str, *, on_cpu: bool = False) -> torch.Generator:
        """The named source of randomness of this run, on its device unless `on_cpu`."""
        if role not in self._generators:
            made = torch.Generator("cpu" if on_cpu else self.device)
            self._generators[role] = made.manual_seed(seed_for(self.seed, role))
        return self._generators[role]

    def accelerate(self, function: Callable[P, R]) -> Callable[P, R]:
        """The same function, compiled by torch once the loop it runs in is long enough to repay it."""
        return Accelerated(function, self)

    def autocast(self) -> torch.autocast:
        """Context in which networks compute in this run's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def log(self, loss: Tensor | float) -> None:
        """Note the loss of this step; that it is finite is checked whenever progress is shown or saved."""
        self._reporter.log(loss)

    def steps(
        self, total: int, state: State, *, name: str = "distill", budgeted: bool = True
    ) -> Iterator[int]:
        """Indices of the steps left of a loop of `total`, whose `state` is saved and restored.

        The first step is counted (FLOPs, images through networks); with a budget, the number of steps of a
        `budgeted` loop is what the budget buys.
        """
        loop = self._enter(name, total, state, limited=budgeted)
        while loop.step < loop.total:
            first = loop.step == 0
            warming_up = first or (self.compiling and not loop.compiled)
            started = clock.read(self.device) if warming_up else 0.0
            with counting(loop) if first and self._counts else nullcontext():
                yield loop.step
            loop.compiled = self.compiling
            loop.step += 1
            if first:
                self._settle(loop, budgeted)
            if warming_up:
                self._costs.warmed_up(started, loop.step)
            self._after_step(name, loop)
        self._leave(name, loop)

    @property
    def rehearsing(self) -> bool:
        """Whether a few steps are timed and nothing is kept of them: stand-ins may then replace results."""
        return self._stop_after is not None and self._checkpoint is None

    def off_the_clock(self) -> AbstractContextManager[None]:
        """Keep the seconds and peaks of the work inside out of this phase; `charge` says what it costs."""
        return self._costs.off_the_clock()

    def charge(self, cost: Cost) -> None:
        """Add the cost of work done off the clock, now or in an earlier run whose result is used again.

        A resumed run charges anew: checkpoints hold the cost of the loops alone.
        """
        self._costs.charge(cost)

    def steps_of(self, name: str) -> int:
        """Steps that a loop has made, runs before a kill included; 0 for one that was never entered."""
        return self._loops[name].step if name in self._loops else 0

    def planned_steps(self, name: str = "distill") -> int:
        """Steps of a loop under way by its settings or its budget, for schedules, whatever cuts it short."""
        loop = self._loops[name]
        return loop.planned or loop.total

    def cost(self) -> Cost:
        """What this phase has cost so far, runs before a kill and charged work included."""
        return self._costs.total(self._loops.values())

    def _enter(self, name: str, total: int, state: State, *, limited: bool) -> LoopState:
        if name in self._loops:
            raise ValueError(f"two loops named {name!r} in one phase; give each its own name")
        loop = LoopState(total, planned=total)
        if self._saved is not None and name in self._saved["loops"]:
            loop = LoopState(**self._saved["loops"][name])
            restore(state, self._saved["states"][name])
            under_way = loop.step < loop.total
            self._restore_generators(self._saved["generators"] if under_way else loop.generators)
        loop.total = self._limited(loop.total) if limited else loop.total
        self._loops[name] = loop
        self._states[name] = state
        self.compiling = loop.step > 0 and self._compiling_pays(loop)
        return loop

    def _leave(self, name: str, loop: LoopState) -> None:
        self.compiling = False
        loop.generators = self._generator_states()
        self._reporter.check_finite(name, loop.step, loop.total)

    def _settle(self, loop: LoopState, budgeted: bool) -> None:
        """After the first step: how many steps the budget buys, and whether compiling them pays."""
        if budgeted and self.budget_flops is not None and loop.flops_per_step > 0:
            spent = spent_flops(self._loops.values()) + self._costs.charged_flops
            left = self.budget_flops - spent + loop.flops_per_step * loop.step
            loop.planned = max(1, int(left // loop.flops_per_step))
            loop.total = self._limited(loop.planned)
        self.compiling = self._compiling_pays(loop)

    def _limited(self, total: int) -> int:
        return total if self._limit_steps is None else min(total, self._limit_steps)

    def _compiling_pays(self, loop: LoopState) -> bool:
        """A rule of FLOPs, not of seconds: a resumed run must decide as the first one did."""
        work = loop.flops_per_step * loop.total
        return self._may_compile and work > COMPILE_PAYS_FLOPS.get(self.device.type, float("inf"))

    def _after_step(self, name: str, loop: LoopState) -> None:
        if self._stop_after is not None and loop.step >= min(self._stop_after, loop.total):
            raise StoppedEarly(
                loop,
                self._costs.warm_seconds_per_step(loop.step),
                self._costs.charged_seconds,
                self._costs.charged_flops,
            )
        self._reporter.step_done(name, loop.step, loop.total)
        if self._checkpoint is not None and loop.step < loop.total:
            self._keep(self._checkpoint, name, loop)

    def _keep(self, checkpoint: Checkpoint, name: str, loop: LoopState) -> None:
        """Write the checkpoint if it is time to or the loop is to stop here; then raise `Stopped`."""
        stopping = self._should_stop is not None and self._should_stop()
        if checkpoint.wants_snapshot(name, loop):
            checkpoint.write_snapshot(loop.step, self._to_save())
        if stopping or checkpoint.is_due:
            self._reporter.check_finite(name, loop.step, loop.total)
            checkpoint.write(self._to_save())
        if stopping:
            raise Stopped(name, loop)

    def _to_save(self) -> Saved:
        cost = self._costs.own(self._loops.values())
        return {
            "loops": {name: asdict(loop) for name, loop in self._loops.items()},
            "states": {name: pack(state) for name, state in self._states.items()},
            "generators": self._generator_states(),
            "seconds": cost.seconds,
            "warmup_seconds": cost.warmup_seconds,
            "peaks": (cost.peak_host_bytes, cost.peak_device_bytes),
            "resumed": self.resumed,
        }

    def _generator_states(self) -> dict[str, Tensor]:
        return {role: made.get_state() for role, made in self._generators.items()}

    def _restore_generators(self, states: dict[str, Tensor]) -> None:
        for role, state in states.items():
            on_cpu = len(state) == len(torch.Generator("cpu").get_state())
            self.generator(role, on_cpu=on_cpu).set_state(state)


def _can_compile(device: torch.device) -> bool:
    """On the CPU, torch.compile needs a C++ compiler on the machine."""
    return device.type != "cpu" or shutil.which(os.environ.get("CXX", "g++")) is not None
