"""All that was asked of the sets that one network distilled at one ipc, and how far methods are apart there.

A board joins tracks that differ in the protocol and the network that was trained on the sets, so that a
sentence may compare what one track alone does not hold: accuracy under equal steps, on another network, with
a teacher.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from harness.core.errors import UnknownNameError
from harness.engine.parts import MatchedSteps
from harness.engine.protocol import Protocol, protocol_named
from harness.report.standing import Scored
from harness.report.stats import Difference, Groups, difference
from harness.report.tables import difference_text
from harness.report.tracks import Cell, Track

SUBJECT, PACKED, PARENT, FLOORS = "bacon", "random_packed", "idm", ("random", "herding")


class Asked(NamedTuple):
    """What was measured: sets of a method, under a protocol, on a network."""

    method: str
    protocol: str
    network: str


@dataclass(frozen=True)
class Board:
    """What was measured of all that one network distilled at one ipc.

    `track` is what all of it shares: it has no protocol and no evaluated network. varied: settings set by
    hand of methods whose own are measured as well.
    """

    track: Track
    ipc: int
    measured: Mapping[Asked, Cell]
    varied: Mapping[tuple[str, Asked], Cell]

    @property
    def home(self) -> str:
        """The network that distilled the sets."""
        return self.track.arch

    def networks(self, protocol: str, *methods: str) -> list[str]:
        """Networks on which all these methods were measured, the home first."""
        by_method = [
            {asked.network for asked in self.measured if asked[:2] == (method, protocol)}
            for method in methods
        ]
        return sorted(
            set.intersection(*by_method), key=lambda network: (network != self.home, network.lower())
        )

    def cells(self, protocol: str) -> dict[str, Cell]:
        """What was measured at home under a protocol, by method."""
        here = (protocol, self.home)
        return {asked.method: cell for asked, cell in self.measured.items() if asked[1:] == here}

    def changed(self, method: str, protocol: str) -> dict[str, Groups]:
        """Accuracies at home of a method with other settings, by these."""
        asked = Asked(method, protocol, self.home)
        return {settings: cell.groups for (settings, which), cell in self.varied.items() if which == asked}

    def cell(self, method: str, protocol: str) -> Cell | None:
        """What was measured of a method at home, if anything."""
        return self.measured.get(Asked(method, protocol, self.home))

    @property
    def equal_steps(self) -> str | None:
        """The protocol that makes as many steps of the optimiser on every set, hard labels, if one asked."""
        return self.protocol(lambda found: _has_equal_steps(found) and not found.grid)

    @property
    def tuned_steps(self) -> str | None:
        """The same with a learning rate that is chosen for each network."""
        return self.protocol(lambda found: _has_equal_steps(found) and bool(found.grid))

    def protocol(self, wanted: Callable[[Protocol], bool]) -> str | None:
        """The protocol of that kind under which most was measured beside the subject, if any."""
        known = {asked.protocol for asked in self.measured if asked.method == SUBJECT}
        names = [
            asked.protocol
            for asked in self.measured
            if asked.protocol in known and _is(wanted, asked.protocol)
        ]
        return max(sorted(set(names)), key=names.count) if names else None

    def gap(self, protocol: str, network: str, other: str, method: str = SUBJECT) -> Gap:
        """A method's accuracy less another's."""
        ours, theirs = (self.measured[Asked(name, protocol, network)].groups for name in (method, other))
        return Gap(
            network, other, mean_of(ours), mean_of(theirs), difference(ours, theirs), _signs(ours, theirs)
        )


@dataclass(frozen=True)
class Gap:
    """How far a method is ahead of another; signs: the sign of the gap in each shared seed."""

    network: str
    other: str
    ours: float
    theirs: float
    found: Difference
    signs: tuple[int, ...]

    @property
    def figures(self) -> str:
        """`+4.9 [-1.2, 11.0]`."""
        sign = "+" if self.found.mean > 0 and not _is_nothing(self.found.mean) else ""
        return f"{sign}{difference_text(self.found)}"

    @property
    def level(self) -> bool:
        """Whether it is no gap as it is shown, to a tenth of a point, wherever in its interval it lies."""
        bounds = (self.found.low, self.found.mean, self.found.high)
        return all(_is_nothing(bound) for bound in bounds if bound is not None)

    @property
    def verdict(self) -> str:
        """What the figures allow to be said."""
        if self.level:
            return "level"
        side = "ahead" if self.found.mean > 0 else "behind"
        if self.found.clear:
            return f"clearly {side}"
        if _is_nothing(self.found.mean) or set(self.signs) != {1 if self.found.mean > 0 else -1}:
            return "not told apart"
        if len(self.signs) == 1:
            return f"{side} in the one seed there is"
        return f"{side} in each of {len(self.signs)} seeds but not clearly"


def boards(shown: Iterable[Scored]) -> list[Board]:
    """All that was asked of sets that one network distilled at one ipc, of each dataset and scale.

    Protocols are those of the present version, since boards know them by name alone. A method that ran with
    several settings, none of which are its own, has no one accuracy and is left out.
    """
    measured: dict[tuple[Track, int], dict[Asked, Cell]] = defaultdict(dict)
    varied: dict[tuple[Track, int], dict[tuple[str, Asked], Cell]] = defaultdict(dict)
    for found in shown:
        if not _is_present(found.track):
            continue
        track = dataclasses.replace(found.track, eval_arch="", protocol="", protocol_version="")
        for (row, ipc), cell in found.cells.items():
            if not cell.groups:
                continue
            asked = Asked(row.method, found.track.protocol, found.track.network)
            if not row.settings:
                measured[track, ipc][asked] = cell
            elif (row, ipc) in found.varied:
                varied[track, ipc][row.settings, asked] = cell
    return [Board(*key, cells, varied[key]) for key, cells in measured.items()]


def _is_nothing(gap: float) -> bool:
    """Whether it is shown as 0.0 points."""
    return round(abs(gap), 3) == 0


def percent_text(fraction: float) -> str:
    """Percent to a tenth."""
    return f"{100 * fraction:.1f}"


def mean_of(groups: Groups) -> float:
    """Mean of the seeds' means."""
    return statistics.fmean(statistics.fmean(values) for values in groups.values())


def _is_present(track: Track) -> bool:
    """Whether its protocol is the version that this code runs."""
    return _is(lambda protocol: protocol.version == track.protocol_version, track.protocol)


def _has_equal_steps(protocol: Protocol) -> bool:
    return isinstance(protocol.length, MatchedSteps) and protocol.regime == "hard"


def _is(wanted: Callable[[Protocol], bool], name: str) -> bool:
    """Whether the protocol of that name is of a kind; one that is no longer known is of none."""
    try:
        return wanted(protocol_named(name))
    except UnknownNameError:
        return False


def _signs(ours: Groups, theirs: Groups) -> tuple[int, ...]:
    gaps = [
        statistics.fmean(ours[seed]) - statistics.fmean(theirs[seed])
        for seed in sorted(ours)
        if seed in theirs
    ]
    return tuple((gap > 0) - (gap < 0) for gap in gaps)
