"""What a killed run goes on from: the state of its loops, written to a file from time to time."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypedDict, cast

import torch
from torch import Tensor

from harness.core.errors import UserError
from harness.core.faults import passing
from harness.core.files import replacing

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


@dataclass
class LoopState:
    """Bookkeeping of one named loop; `planned` are its steps if nothing cuts it short, 0 if unknown."""

    total: int
    step: int = 0
    flops_per_step: float = 0.0
    images_per_step: int = 0
    compiled: bool = False
    planned: int = 0
    generators: dict[str, Tensor] = field(default_factory=dict)


class Saved(TypedDict):
    """Content of a checkpoint; all but `seconds`, `warmup_seconds`, `peaks` and `resumed` by name.

    loops: fields of each `LoopState`. states: what each loop's state packs. generators: their states.
    peaks: bytes on the host and on the device. resumed: how often the run was begun again before.
    """

    loops: dict[str, dict[str, Any]]
    states: dict[str, dict[str, Any]]
    generators: dict[str, Tensor]
    seconds: float
    warmup_seconds: float
    peaks: tuple[int | None, int | None]
    resumed: int


class Checkpoint:
    """The file of one phase, `<work>/checkpoint.pt`, and when it is time to write it.

    Args:
        work: folder of the file.
        least_seconds: between two checkpoints; 0 writes one after every step.
        snapshots: copies of the loop "distill" to keep, evenly spaced, as `<work>/snapshots/<step>.pt`.
    """

    def __init__(self, work: Path, least_seconds: float, snapshots: int) -> None:
        self.path = work / "checkpoint.pt"
        self._least_seconds = least_seconds
        self._snapshots = snapshots
        self._written = time.perf_counter()
        self._writing_seconds = 0.0

    def read(self) -> Saved | None:
        """What a killed run left; None if there is nothing, or nothing that can be read."""
        if not self.path.exists():
            return None
        try:
            return cast(Saved, torch.load(self.path, map_location="cpu", weights_only=True))
        except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            if passing(error) is not None:
                raise
            logger.warning("checkpoint %s is unreadable (%s); starting afresh", self.path, error)
            return None

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last one, so that writing takes a small share of it."""
        if self._least_seconds == 0:
            return True
        pause = max(self._least_seconds, self._writing_seconds / CHECKPOINT_SHARE)
        return time.perf_counter() - self._written >= pause

    def write(self, saved: Saved) -> None:
        """Replace the checkpoint."""
        started = time.perf_counter()
        _write(self.path, saved)
        self._written = time.perf_counter()
        self._writing_seconds = self._written - started

    def wants_snapshot(self, name: str, loop: LoopState) -> bool:
        """Whether this step is one of those that a curve has a point for; the last one is not counted."""
        before, now = ((loop.step - back) * self._snapshots // loop.total for back in (1, 0))
        return name == "distill" and now > before

    def write_snapshot(self, step: int, saved: Saved) -> None:
        """Keep the checkpoint of this step for `harness.engine.curve`."""
        _write(self.path.parent / SNAPSHOTS / f"{step}.pt", saved)


def pack(state: State) -> dict[str, Any]:
    """A loop's state as plain values and tensors."""
    return {
        key: part.detach() if isinstance(part, Tensor) else part.state_dict() for key, part in state.items()
    }


def restore(state: State, saved: Mapping[str, Any]) -> None:
    """Bring a loop's state to what `pack` made of it; UserError if it has other parts."""
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


def _write(path: Path, saved: Saved) -> None:
    # By way of a file of Python: torch's own writer forgets the reason why it could not write.
    with replacing(path) as aside, aside.open("wb") as file:
        torch.save(saved, file)
