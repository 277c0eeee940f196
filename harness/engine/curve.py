"""Accuracy during distillation: the set as it was after some steps, judged on images left out of train.

The loop keeps its checkpoint of each look (`Runtime(snapshots=...)`). Entered again from one, with no step
left to make, a method returns the set of that moment, by its own code and whatever its state is made of.
Networks trained on that set are tested on a tenth of the train split from which nothing was distilled; the
test split stays sealed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness.engine.record_files import write_atomically
from harness.engine.records import CurvePoint

if TYPE_CHECKING:
    from harness.core.context import Context
    from harness.core.data import HeldOut
    from harness.core.distilled import Distilled
    from harness.engine.protocol import Protocol


@dataclass(frozen=True)
class CurveEvaluator:
    """Evaluates the set of a moment: networks trained on it under a protocol, tested on images left out.

    context_of: a fresh context for the k-th network after so many steps.
    """

    held_out: HeldOut
    protocol: Protocol
    networks: int
    context_of: Callable[[int, int], Context]

    def accuracies(self, distilled: Distilled, step: int) -> list[float]:
        """One accuracy in [0, 1] for each network."""
        from harness.engine.scoring import accuracy
        from harness.engine.training import train_network, training_set_of

        found = []
        held_out = distilled.view_of(self.held_out)
        for k in range(self.networks):
            context = self.context_of(step, k)
            training_set = training_set_of(distilled, self.protocol, context.device)
            net = context.network(held_out, role="network")
            train_network(net, training_set, self.protocol, context)
            found.append(accuracy(net, held_out, context))
        return found


def measure(
    work: Path, evaluator: CurveEvaluator, distil_to: Callable[[Path, int], tuple[Distilled, float]]
) -> Iterator[CurvePoint]:
    """The points of a trial whose work folder has snapshots; those measured before a kill are kept.

    `distil_to` enters the method again from a folder's checkpoint, with a number of steps, and returns the
    set and the FLOPs that it took up to then.
    """
    from harness.core.checkpoint import SNAPSHOTS

    for snapshot in sorted((work / "distill" / SNAPSHOTS).glob("*.pt"), key=lambda path: int(path.stem)):
        step, done = int(snapshot.stem), snapshot.with_suffix(".json")
        if not done.is_file():
            again = work / f"curve-{step}"
            again.mkdir(exist_ok=True)
            shutil.copyfile(snapshot, again / "checkpoint.pt")
            distilled, flops = distil_to(again, step)
            point = CurvePoint(step, flops, evaluator.accuracies(distilled, step))
            write_atomically(done, msgspec.json.encode(point))
            shutil.rmtree(again)
        yield msgspec.json.decode(done.read_bytes(), type=CurvePoint)
