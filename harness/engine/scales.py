"""Scales: how much of the papers' settings a run affords. Each is its own track; tables never mix them."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.errors import UnknownNameError


@dataclass(frozen=True)
class Scale:
    """Defaults that a scale sets; methods give their own shortened settings under its name."""

    name: str
    summary: str
    arch: str  # network that distils and that is trained for evaluation
    protocol: str  # name in harness.engine.protocol
    evals: int  # fresh networks trained on each distilled set
    seeds: int  # distillation seeds 0..seeds-1
    leaderboard: bool  # whether its results may stand in BENCHMARKS.md


SCALES = {
    scale.name: scale
    for scale in (
        Scale("paper", "the papers' own settings: GPU days", "ConvNet", "dc-1000", 5, 5, True),
        Scale("cpu", "a laptop's track: smaller network, fewer steps", "ConvNetW32", "dc-cpu", 3, 2, True),
        Scale("smoke", "first contact and tests: seconds", "ConvNetW16", "dc-smoke", 2, 1, False),
    )
}


def scale_named(name: str) -> Scale:
    """The scale of that name; UnknownNameError lists the choices."""
    if name not in SCALES:
        raise UnknownNameError("scale", name, SCALES)
    return SCALES[name]
