"""Scales: how much of the papers' settings a run affords. Each is its own track; tables never mix them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.core.errors import UnknownNameError
from harness.core.regime import Regime
from harness.engine.protocol import PROTOCOLS

if TYPE_CHECKING:
    from methods import MethodInfo


@dataclass(frozen=True)
class Scale:
    """Defaults that a scale sets; methods give their own shortened settings under its name."""

    name: str
    summary: str
    arch: str  # network that distils and that is trained for evaluation
    protocols: Mapping[Regime, str]  # names in harness.engine.protocol, for sets that call for a regime
    evals: int  # fresh networks trained on each distilled set
    seeds: int  # distillation seeds 0..seeds-1
    leaderboard: bool  # whether its results may stand in BENCHMARKS.md

    @property
    def protocol(self) -> str:
        """The protocol for hard labels, which every set can be asked under."""
        return self.protocols["hard"]

    def protocol_for(self, method: MethodInfo, regime: Regime) -> str:
        """The protocol that a method's sets are asked under in a regime: its own, if it calls for that one.

        A protocol that is cut for this scale is taken: "frepo" is "frepo-cpu" at the scale cpu.
        """
        if regime != method.regime or not method.protocol:
            return self.protocols[regime]
        short = f"{method.protocol}-{self.name}"
        return short if short in PROTOCOLS else method.protocol


PAPER: Mapping[Regime, str] = {"hard": "dc-1000", "stored": "sl-1000", "teacher": "kd-300"}
CPU: Mapping[Regime, str] = {"hard": "dc-cpu", "stored": "sl-cpu", "teacher": "kd-cpu"}
SMOKE: Mapping[Regime, str] = {"hard": "dc-smoke", "stored": "sl-smoke", "teacher": "kd-smoke"}

SCALES = {
    scale.name: scale
    for scale in (
        Scale("paper", "the papers' own settings: GPU days", "ConvNet", PAPER, 5, 5, True),
        Scale("cpu", "a laptop's track: smaller network, fewer steps", "ConvNetW32", CPU, 3, 2, True),
        Scale("smoke", "first contact and tests: seconds", "ConvNetW16", SMOKE, 2, 1, False),
    )
}


def scale_named(name: str) -> Scale:
    """The scale of that name; UnknownNameError lists the choices."""
    if name not in SCALES:
        raise UnknownNameError("scale", name, SCALES)
    return SCALES[name]
