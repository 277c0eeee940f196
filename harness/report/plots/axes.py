"""An axis for costs: logarithmic, with a place for what costs nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(range(1, 10)))
FEWEST_TICKS = 3
CLOSEST = 0.13  # distance of neighbouring ticks at least, in widths of the range


def short(value: float) -> str:
    """A round number with a decimal prefix: `500 G`, `2 T`; as it is below 1."""
    from matplotlib.ticker import EngFormatter

    return EngFormatter()(value) if value >= 1 else f"{value:g}"


@dataclass(frozen=True)
class CostScale:
    """Where costs stand on a logarithmic axis; a cost of zero stands at `zero`, left of all others."""

    low: float
    high: float
    zero: float | None

    def place(self, cost: float) -> float:
        """The x coordinate of a cost."""
        return cost if cost > 0 or self.zero is None else self.zero

    @property
    def note(self) -> str:
        """A sentence about the place of zero; empty if there is none."""
        return " What costs none stands at 0, left of the dotted line." if self.zero is not None else ""

    def apply(self, axes: Axes, label: str, text: Callable[[float], str] = short) -> None:
        """Make this the x axis, ticks named by `text`."""
        axes.set_xscale("log")
        left = self.low if self.zero is None else self.zero
        margin = (self.high / left) ** 0.06
        axes.set_xlim(left / margin, self.high * margin)
        ticks = _ticks(self.low, self.high)
        names = [text(tick) for tick in ticks]
        if self.zero is not None:
            axes.axvline(
                math.sqrt(self.zero * self.low), color="#999999", linestyle=":", linewidth=0.8, zorder=1
            )
            ticks, names = [self.zero, *ticks], ["0", *names]
        axes.set_xticks(ticks, names)
        axes.set_xticks([], minor=True)
        axes.set_xlabel(label)


def cost_scale(costs: Iterable[float]) -> CostScale:
    """The scale on which all these costs can be shown."""
    known = sorted(costs)
    positive = [cost for cost in known if cost > 0]
    if not positive:
        return CostScale(1.0, 10.0, 1.0 if known else None)
    low, high = positive[0], positive[-1]
    if high / low < 4:
        middle = math.sqrt(low * high)
        low, high = middle / 2, middle * 2
    zero = low / max(1.6, (high / low) ** 0.22) if known[0] <= 0 else None
    return CostScale(low, high, zero)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range: powers of ten, with more between them until there are three or so."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in STEPS:
        every = [step * 10.0**power for power in powers for step in steps]
        ticks = [tick for tick in every if low * 0.98 <= tick <= high * 1.02]
        if len(ticks) >= FEWEST_TICKS:
            break
    return _apart(ticks, (high / low) ** CLOSEST)


def _apart(ticks: Sequence[float], ratio: float) -> list[float]:
    """The ticks without those that are less than `ratio` times the one before."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick >= kept[-1] * ratio:
            kept.append(tick)
    return kept
