"""The tables read aloud: what the records answer to the questions that a reader comes with, in sentences.

Is a distilled set ahead of real images packed as tightly, at as many steps of the optimiser? On networks that
did not distil it, at one rate for all of them and at a rate chosen for each? Of what it builds on? And under
a teacher's labels, where any images will do? A sentence is said where both sides were measured, and the words
follow from the differences within seeds: a gap is called clear where its interval leaves out 0.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.core.errors import UnknownNameError
from harness.engine.parts import MatchedSteps
from harness.engine.protocol import Protocol, protocol_named
from harness.report.formats import Block, Heading, Items, Paragraph, code, strong
from harness.report.standing import Scored
from harness.report.stats import Difference, Groups, difference
from harness.report.tables import difference_text
from harness.report.tracks import Track

TITLE = "In words"
SUBJECT, PACKED, PARENT, FLOORS = "bacon", "random_packed", "idm", ("random", "herding")
LEGEND = (
    "What the tables below say of BACON, written by the same program from the same records. Gaps are in"
    " percentage points of mean accuracy with their 95 % interval, paired over distillation seeds."
)


class Asked(NamedTuple):
    """What was measured: sets of a method, under a protocol, on a network."""

    method: str
    protocol: str
    network: str


@dataclass(frozen=True)
class Board:
    """Accuracies by seed of all that one network distilled at one ipc.

    `track` is what all of it shares: it has no protocol and no evaluated network.
    """

    track: Track
    ipc: int
    measured: Mapping[Asked, Groups]

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

    def protocol(self, wanted: Callable[[Protocol], bool]) -> str | None:
        """The protocol of that kind under which most was measured beside the subject, if any."""
        known = {asked.protocol for asked in self.measured if asked.method == SUBJECT}
        names = [
            asked.protocol
            for asked in self.measured
            if asked.protocol in known and _is(wanted, asked.protocol)
        ]
        return max(sorted(set(names)), key=names.count) if names else None

    def gap(self, protocol: str, network: str, other: str) -> Gap:
        """The subject's accuracy less another method's."""
        ours, theirs = (self.measured[Asked(name, protocol, network)] for name in (SUBJECT, other))
        return Gap(network, other, _mean(ours), _mean(theirs), difference(ours, theirs), _signs(ours, theirs))


@dataclass(frozen=True)
class Gap:
    """How far the subject is ahead of another method; signs: the sign of the gap in each shared seed."""

    network: str
    other: str
    ours: float
    theirs: float
    found: Difference
    signs: tuple[int, ...]

    @property
    def figures(self) -> str:
        """`+4.9 [-1.2, 11.0]`."""
        return f"{'+' if self.found.mean > 0 and not self.level else ''}{difference_text(self.found)}"

    @property
    def level(self) -> bool:
        """Whether it is no gap as it is shown, to a tenth of a point."""
        return round(abs(self.found.mean), 3) == 0

    @property
    def verdict(self) -> str:
        """What the figures allow to be said."""
        if self.level:
            return "level"
        side = "ahead" if self.found.mean > 0 else "behind"
        if self.found.clear:
            return f"clearly {side}"
        if set(self.signs) != {1 if self.found.mean > 0 else -1}:
            return "not told apart"
        if len(self.signs) == 1:
            return f"{side} in the one seed there is"
        return f"{side} in each of {len(self.signs)} seeds but not clearly"


def findings(shown: Iterable[Scored], *, level: int) -> list[Block]:
    """The sentences of each board that has any, under headings of that level; [] without any."""
    blocks: list[Block] = []
    for board in boards(shown):
        if said := sentences(board):
            title = (
                f"{board.track.dataset} · {board.track.scale} scale · sets by {board.home} · ipc {board.ipc}"
            )
            blocks += [Heading(title, level), Items(said)]
    return [Paragraph(LEGEND), *blocks] if blocks else []


def boards(shown: Iterable[Scored]) -> list[Board]:
    """All that was asked of sets that one network distilled at one ipc, of each dataset and scale.

    A method that ran with several settings has no one accuracy and is left out.
    """
    measured: dict[tuple[Track, int], dict[Asked, Groups]] = defaultdict(dict)
    for found in shown:
        track = dataclasses.replace(found.track, eval_arch="", protocol="", protocol_version="")
        for (row, ipc), cell in found.grid.items():
            if cell.groups and not row.settings:
                asked = Asked(row.method, found.track.protocol, found.track.network)
                measured[track, ipc][asked] = cell.groups
    return [Board(track, ipc, cells) for (track, ipc), cells in measured.items()]


def _has_equal_steps(protocol: Protocol) -> bool:
    return isinstance(protocol.length, MatchedSteps) and protocol.regime == "hard"


def sentences(board: Board) -> list[str]:
    """All that can be said of a board; nothing where none of the questions was asked of it."""
    equal = board.protocol(lambda found: _has_equal_steps(found) and not found.grid)
    tuned = board.protocol(lambda found: _has_equal_steps(found) and bool(found.grid))
    taught = board.protocol(lambda found: found.regime == "teacher" and not found.grid)
    return [
        *_at_home(board, equal),
        *_elsewhere(board, equal, "On other networks, at one rate for all"),
        *_elsewhere(board, tuned, "With the rate chosen for each network on a tenth of train", home=True),
        *_against_parent(board, equal, tuned),
        *_under_teacher(board, taught),
    ]


def _at_home(board: Board, protocol: str | None) -> Iterator[str]:
    if protocol and board.home in board.networks(protocol, SUBJECT, PACKED):
        gap = board.gap(protocol, board.home, PACKED)
        yield (
            f"{strong('Equal steps.')} With as many steps of the optimiser for every set ({code(protocol)}),"
            f" BACON reaches {_percent(gap.ours)} % on {board.home}, real images packed as tightly reach"
            f" {_percent(gap.theirs)} %: {gap.figures}, {gap.verdict}."
        )


def _elsewhere(board: Board, protocol: str | None, words: str, *, home: bool = False) -> Iterator[str]:
    if protocol is None:
        return
    networks = [one for one in board.networks(protocol, SUBJECT, PACKED) if home or one != board.home]
    if networks:
        gaps = [board.gap(protocol, network, PACKED) for network in networks]
        yield f"{strong(f'{words}.')} Against packed real images ({code(protocol)}) BACON is {_each(gaps)}."


def _against_parent(board: Board, *protocols: str | None) -> Iterator[str]:
    """Against the method it changes the loss of, on all networks."""
    parts = []
    for protocol in filter(None, protocols):
        if networks := board.networks(protocol, SUBJECT, PARENT):
            gaps = [board.gap(protocol, network, PARENT) for network in networks]
            parts.append(f"under {code(protocol)} {_each(gaps)}")
    if parts:
        yield f"{strong('Against IDM,')} whose loop it shares, BACON is {'; '.join(parts)}."


def _under_teacher(board: Board, protocol: str | None) -> Iterator[str]:
    if protocol is None:
        return
    gaps = [
        board.gap(protocol, board.home, other)
        for other in FLOORS
        if board.home in board.networks(protocol, SUBJECT, other)
    ]
    if gaps:
        rivals = " and ".join(
            f"{gap.other} {_percent(gap.theirs)} % ({gap.figures}, {gap.verdict})" for gap in gaps
        )
        yield (
            f"{strong('Under a teacher.')} With a teacher's labels at every batch ({code(protocol)}) BACON's"
            f" images reach {_percent(gaps[0].ours)} % on {board.home}, those of {rivals}."
        )


def _each(gaps: Sequence[Gap]) -> str:
    """`clearly ahead on MLP (+1.9 [0.4, 3.4]); not told apart on LeNet (-0.1 [-3.7, 3.5])`."""
    return "; ".join(f"{gap.verdict} on {gap.network} ({gap.figures})" for gap in gaps)


def _is(wanted: Callable[[Protocol], bool], name: str) -> bool:
    """Whether the protocol of that name is of a kind; one that is no longer known is of none."""
    try:
        return wanted(protocol_named(name))
    except UnknownNameError:
        return False


def _mean(groups: Groups) -> float:
    return statistics.fmean(statistics.fmean(values) for values in groups.values())


def _signs(ours: Groups, theirs: Groups) -> tuple[int, ...]:
    gaps = [
        statistics.fmean(ours[seed]) - statistics.fmean(theirs[seed])
        for seed in sorted(ours)
        if seed in theirs
    ]
    return tuple((gap > 0) - (gap < 0) for gap in gaps)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
