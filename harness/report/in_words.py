"""The tables read aloud: what the records answer to the questions that a reader comes with, in sentences.

Is a distilled set ahead of real images packed as tightly, at as many steps of the optimiser? On networks that
did not distil it, at one rate for all of them and at a rate chosen for each? Of what it builds on? And under
a teacher's labels, where any images will do? A sentence is said where both sides were measured, and the words
follow from the differences within seeds: a gap is called clear where its interval leaves out 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from harness.report.boards import FLOORS, PACKED, PARENT, SUBJECT, Board, Gap, boards, percent_text
from harness.report.formats import Block, Heading, Items, Paragraph, code, strong
from harness.report.standing import Scored

TITLE = "In words"
LEGEND = (
    "What the tables below say of BACON, written by the same program from the same records. Gaps are in"
    " percentage points of mean accuracy with their 95 % interval, paired over distillation seeds."
)


def said_of(shown: Iterable[Scored], *, level: int) -> list[Block]:
    """The sentences of each board that has any, under headings of that level; [] without any."""
    blocks: list[Block] = []
    for board in boards(shown):
        if said := sentences(board):
            title = (
                f"{board.track.dataset} · {board.track.scale} scale · sets by {board.home} · ipc {board.ipc}"
            )
            blocks += [Heading(title, level), Items(said)]
    return [Paragraph(LEGEND), *blocks] if blocks else []


def sentences(board: Board) -> list[str]:
    """All that can be said of a board; nothing where none of the questions was asked of it."""
    equal, tuned = board.equal_steps, board.tuned_steps
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
            f" BACON reaches {percent_text(gap.ours)} % on {board.home}, real images packed as tightly reach"
            f" {percent_text(gap.theirs)} %: {gap.figures}, {gap.verdict}."
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
            f"{gap.other} {percent_text(gap.theirs)} % ({gap.figures}, {gap.verdict})" for gap in gaps
        )
        yield (
            f"{strong('Under a teacher.')} With a teacher's labels at every batch ({code(protocol)}) BACON's"
            f" images reach {percent_text(gaps[0].ours)} % on {board.home}, those of {rivals}."
        )


def _each(gaps: Sequence[Gap]) -> str:
    """`clearly ahead on MLP (+1.9 [0.4, 3.4]); not told apart on LeNet (-0.1 [-3.7, 3.5])`."""
    return "; ".join(f"{gap.verdict} on {gap.network} ({gap.figures})" for gap in gaps)
