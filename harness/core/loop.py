"""The loops of a run: progress, checkpoints, compute budget, compilation and cost, kept out of the methods.

A loop is entered by name and goes on where a killed run left it:

    for step in runtime.steps(total, {"images": images, "optimizer": optimizer}):
        ...

Everything random comes from `runtime.generator(role)`, whose states belong to the checkpoint, so a resumed
run ends with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harness.core import clock
from harness.core.clock import Cost
from harness.core.errors import DivergedError, UserError
from harness.core.faults import passing
from harness.core.files import replacing
from harness.core.nets import Features
from harness.core.seeds import seed_for

P = ParamSpec("P")
R = TypeVar("R")

# Work left, in FLOPs, above which compiling repays its half minute; measured on two CPU cores and, for
# CUDA, scaled by the ratio of the devices' speeds.
COMPILE_PAYS_FLOPS = {"cpu": 2e13, "cuda": 2e15}
SNAPSHOTS = "snapshots"  # folder beside the checkpoint
CHECKPOINT_SHARE = 0.02  # of the time that writing checkpoints may take

logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """What can be saved and restored: modules, optimisers, pools."""

    def state_dict(self) -> dict[str, Any]:
        """State as plain values and tensors."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Restore a state made by `state_dict`."""


State = Mapping[str, "Tensor | Stateful"]


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


@dataclass(frozen=True)
class Progress:
    """Where a phase stands; `loss` is the last one logged."""

    phase: str
    step: int
    total: int
    loss: float | None


@dataclass
class LoopState:
    """Bookkeeping of one named loop."""

    total: int
    step: int = 0
    flops_per_step: float = 0.0
    images_per_step: int = 0
    compiled: bool = False
    generators: dict[str, Tensor] = field(default_factory=dict)


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
        self.resumed = 0
        self._checkpoint = None if work is None else work / "checkpoint.pt"
        self._checkpoint_seconds = checkpoint_seconds
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._stop_after = stop_after
        self._limit_steps = limit_steps
        self._snapshots = snapshots
        self._counts = count
        self._may_compile = compile_loops and _can_compile(self.device)
        self._generators: dict[str, torch.Generator] = {}
        self._loops: dict[str, LoopState] = {}
        self._states: dict[str, State] = {}
        self._loss: Tensor | float | None = None
        self._carried_seconds = 0.0
        self._warmup_seconds = 0.0
        self._carried_peaks: tuple[int | None, int | None] = (None, None)
        self._charged: list[Cost] = []
        self._saved = self._read_checkpoint()
        clock.reset_peaks(self.device)
        self._start = self._reported = self._checkpointed = clock.read(self.device)
        self._warm, self._warm_step = self._start, 0
        self._checkpoint_cost = 0.0

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
        self._loss = loss.detach() if isinstance(loss, Tensor) else loss

    def steps(
        self, total: int, state: State, *, name: str = "distill", budgeted: bool = True
    ) -> Iterator[int]:
        """Indices of the steps left of a loop of `total`, whose `state` is saved and restored.

        The first step is counted (FLOPs, images through networks); with a budget, the number of steps of a
        `budgeted` loop is what the budget buys.
        """
        loop = self._enter(name, total, state, limited=budgeted)
        while loop.step < loop.total:
            first, first_compiled = loop.step == 0, self.compiling and not loop.compiled
            warming_up = first or first_compiled
            started = clock.read(self.device) if warming_up else time.perf_counter()
            if first and self._counts:
                with self._counting(loop):
                    yield 0
            else:
                yield loop.step
            loop.compiled = self.compiling
            loop.step += 1
            if first:
                self._settle(loop, budgeted)
            if warming_up:
                self._warm, self._warm_step = clock.read(self.device), loop.step
                self._warmup_seconds += self._warm - started
            self._after_step(name, loop)
        self._leave(name, loop)

    @property
    def rehearsing(self) -> bool:
        """Whether a few steps are timed and nothing is kept of them: stand-ins may then replace results."""
        return self._stop_after is not None and self._checkpoint is None

    @contextmanager
    def off_the_clock(self) -> Iterator[None]:
        """Keep the seconds and peaks of the work inside out of this phase; `charge` says what it costs."""
        self._carried_peaks = self._peaks()
        started = clock.read(self.device)
        try:
            yield
        finally:
            self._start += clock.read(self.device) - started
            clock.reset_peaks(self.device)

    def charge(self, cost: Cost) -> None:
        """Add the cost of work done off the clock, now or in an earlier run whose result is used again.

        A resumed run charges anew: checkpoints hold the cost of the loops alone.
        """
        self._charged.append(cost)

    def steps_of(self, name: str) -> int:
        """Steps that a loop has made, runs before a kill included; 0 for one that was never entered."""
        return self._loops[name].step if name in self._loops else 0

    def cost(self) -> Cost:
        """What this phase has cost so far, runs before a kill and charged work included."""
        return reduce(_plus, self._charged, self._own_cost())

    def _own_cost(self) -> Cost:
        peak_host_bytes, peak_device_bytes = self._peaks()
        return Cost(
            seconds=self._carried_seconds + clock.read(self.device) - self._start,
            warmup_seconds=self._warmup_seconds,
            steps=sum(loop.step for loop in self._loops.values()),
            flops=sum(loop.flops_per_step * loop.step for loop in self._loops.values()),
            images_forwarded=sum(loop.images_per_step * loop.step for loop in self._loops.values()),
            peak_host_bytes=peak_host_bytes,
            peak_device_bytes=peak_device_bytes,
            compiled=any(loop.compiled for loop in self._loops.values()),
        )

    def _peaks(self) -> tuple[int | None, int | None]:
        """Peak bytes on the host and on the device so far, runs before a kill included."""
        host, on_device = clock.peak_host_bytes(), clock.peak_device_bytes(self.device)
        return _larger(host, self._carried_peaks[0]), _larger(on_device, self._carried_peaks[1])

    def _enter(self, name: str, total: int, state: State, *, limited: bool) -> LoopState:
        if name in self._loops:
            raise ValueError(f"two loops named {name!r} in one phase; give each its own name")
        loop = LoopState(total)
        saved = self._saved["loops"].get(name) if self._saved else None
        if saved is not None and self._saved is not None:
            loop = LoopState(**saved)
            _restore(state, self._saved["states"][name])
            under_way = loop.step < loop.total
            self._restore_generators(self._saved["generators"] if under_way else loop.generators)
        loop.total = self._limited(loop.total) if limited else loop.total
        self._loops[name] = loop
        self._states[name] = state
        self.compiling = loop.step > 0 and self._compiling_pays(loop)
        return loop

    def _leave(self, name: str, loop: LoopState) -> None:
        self.compiling = False
        loop.generators = {role: made.get_state() for role, made in self._generators.items()}
        self._check_finite(name, loop)

    @contextmanager
    def _counting(self, loop: LoopState) -> Iterator[None]:
        images = 0

        def count(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            nonlocal images
            if isinstance(module, Features):
                images += len(inputs[0])
            return tuple(_no_leaf(part) for part in inputs)

        # Before the counter's own hook, which cannot follow a leaf that enters a module as it is. A hook may
        # return other inputs, though its annotation does not say so.
        hook = nn.modules.module.register_module_forward_pre_hook(count)  # type: ignore[arg-type]
        counter = FlopCounterMode(display=False)
        try:
            with counter:
                yield
        finally:
            hook.remove()
        loop.flops_per_step = float(counter.get_total_flops())
        loop.images_per_step = images
        # Counting holds on to tensors, whose blocks the C library would keep for the rest of the run.
        clock.release_freed_memory()

    def _settle(self, loop: LoopState, budgeted: bool) -> None:
        """After the first step: how many steps the budget buys, and whether compiling them pays."""
        if budgeted and self.budget_flops is not None and loop.flops_per_step > 0:
            spent = sum(other.flops_per_step * other.step for other in self._loops.values())
            spent += sum(cost.flops for cost in self._charged)
            left = self.budget_flops - spent + loop.flops_per_step * loop.step
            loop.total = self._limited(max(1, int(left // loop.flops_per_step)))
        self.compiling = self._compiling_pays(loop)

    def _limited(self, total: int) -> int:
        return total if self._limit_steps is None else min(total, self._limit_steps)

    def _compiling_pays(self, loop: LoopState) -> bool:
        """A rule of FLOPs, not of seconds: a resumed run must decide as the first one did."""
        work = loop.flops_per_step * loop.total
        return self._may_compile and work > COMPILE_PAYS_FLOPS.get(self.device.type, float("inf"))

    def _after_step(self, name: str, loop: LoopState) -> None:
        if self._stop_after is not None and loop.step >= min(self._stop_after, loop.total):
            warm_seconds = clock.read(self.device) - self._warm
            seconds_per_step = warm_seconds / max(1, loop.step - self._warm_step)
            seconds, flops = (sum(getattr(c, part) for c in self._charged) for part in ("seconds", "flops"))
            raise StoppedEarly(loop, seconds_per_step, seconds, flops)
        now = time.perf_counter()
        last = loop.step == loop.total
        if now - self._reported >= 1.0 or last:
            self._reported = now
            self._check_finite(name, loop)
            if self._on_progress is not None:
                loss = None if self._loss is None else float(self._loss)
                self._on_progress(Progress(name, loop.step, loop.total, loss))
        if self._checkpoint is not None and not last:
            self._keep(self._checkpoint, name, loop)

    def _keep(self, checkpoint: Path, name: str, loop: LoopState) -> None:
        """Write the checkpoint if it is time to or the loop is to stop here; then raise `Stopped`."""
        stopping = self._should_stop is not None and self._should_stop()
        now = time.perf_counter()
        if name == "distill" and self._is_look(loop):
            self._write_checkpoint(checkpoint.parent / SNAPSHOTS / f"{loop.step}.pt")
        pause = max(self._checkpoint_seconds, self._checkpoint_cost / CHECKPOINT_SHARE)
        if self._checkpoint_seconds == 0:
            pause = 0.0
        if stopping or now - self._checkpointed >= pause:
            self._check_finite(name, loop)
            self._write_checkpoint(checkpoint)
            self._checkpointed = clock.read(self.device)
            self._checkpoint_cost = self._checkpointed - now
        if stopping:
            raise Stopped(name, loop)

    def _is_look(self, loop: LoopState) -> bool:
        """Whether this step is one of those that a curve has a point for; the last one is not counted."""
        before, now = ((loop.step - back) * self._snapshots // loop.total for back in (1, 0))
        return now > before

    def _check_finite(self, name: str, loop: LoopState) -> None:
        if self._loss is not None and not bool(torch.isfinite(torch.as_tensor(self._loss)).all()):
            raise DivergedError(
                f"the loss of {name} is {float(self._loss)} at step {loop.step} of {loop.total}; "
                f"a smaller learning rate may help (--set METHOD.lr_img=...)"
            )

    def _write_checkpoint(self, path: Path) -> None:
        cost = self._own_cost()
        payload = {
            "loops": {name: asdict(loop) for name, loop in self._loops.items()},
            "states": {name: _pack(state) for name, state in self._states.items()},
            "generators": {role: made.get_state() for role, made in self._generators.items()},
            "seconds": cost.seconds,
            "warmup_seconds": cost.warmup_seconds,
            "peaks": (cost.peak_host_bytes, cost.peak_device_bytes),
            "resumed": self.resumed,
        }
        # By way of a file of Python: torch's own writer forgets the reason why it could not write.
        with replacing(path) as aside, aside.open("wb") as file:
            torch.save(payload, file)

    def _read_checkpoint(self) -> dict[str, Any] | None:
        if self._checkpoint is None or not self._checkpoint.exists():
            return None
        try:
            saved: dict[str, Any] = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            if passing(error) is not None:
                raise
            logger.warning("checkpoint %s is unreadable (%s); starting afresh", self._checkpoint, error)
            return None
        self.resumed = saved["resumed"] + 1
        self._carried_seconds = saved["seconds"]
        self._warmup_seconds = saved["warmup_seconds"]
        self._carried_peaks = saved["peaks"]
        return saved

    def _restore_generators(self, states: dict[str, Tensor]) -> None:
        for role, state in states.items():
            on_cpu = len(state) == len(torch.Generator("cpu").get_state())
            self.generator(role, on_cpu=on_cpu).set_state(state)


def _no_leaf(value: Any) -> Any:
    """A view of a tensor that is a leaf and requires a gradient; anything else as it is."""
    is_leaf = isinstance(value, Tensor) and value.requires_grad and value.is_leaf
    return value.view_as(value) if is_leaf else value


def _pack(state: State) -> dict[str, Any]:
    return {
        key: part.detach() if isinstance(part, Tensor) else part.state_dict() for key, part in state.items()
    }


def _restore(state: State, saved: Mapping[str, Any]) -> None:
    if set(state) != set(saved):
        raise UserError(
            f"the checkpoint holds {sorted(saved)}, this code wants {sorted(state)}: it is another "
            "version's; delete the trial's folder under results/.work"
        )
    for key, part in state.items():
        if isinstance(part, Tensor):
            part.data.copy_(saved[key])
        else:
            part.load_state_dict(saved[key])


def _plus(a: Cost, b: Cost) -> Cost:
    """Cost of both."""
    return Cost(
        seconds=a.seconds + b.seconds,
        warmup_seconds=a.warmup_seconds + b.warmup_seconds,
        steps=a.steps + b.steps,
        flops=a.flops + b.flops,
        images_forwarded=a.images_forwarded + b.images_forwarded,
        peak_host_bytes=_larger(a.peak_host_bytes, b.peak_host_bytes),
        peak_device_bytes=_larger(a.peak_device_bytes, b.peak_device_bytes),
        compiled=a.compiled or b.compiled,
    )


def _larger(a: int | None, b: int | None) -> int | None:
    known = [value for value in (a, b) if value is not None]
    return max(known) if known else None


def _can_compile(device: torch.device) -> bool:
    """On the CPU, torch.compile needs a C++ compiler on the machine."""
    return device.type != "cpu" or shutil.which(os.environ.get("CXX", "g++")) is not None
