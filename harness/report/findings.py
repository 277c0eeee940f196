"""What BENCHMARKS.md opens with: at most ten findings, each a sentence with its figures and how to repeat it.

Of each question the boards of a leaderboard scale are asked in turn, those with most methods first, until one
answers. What the intervals over seeds do not support is not written: a lead is named only where its interval
leaves out 0, a count counts such leads alone, and of BACON and the method whose loop it shares the interval
itself is the answer. How two methods stand is told of every ipc of the datasets that have a full board, for
or against.
Intervals are of one comparison each, not of all of them together.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TypeAlias

import msgspec

from harness.core.text import in_flops, plural
from harness.engine.protocol import PROTOCOLS, regime_named
from harness.engine.records import FLOOR, SOFT_FLOOR, Trial
from harness.engine.scales import SCALES
from harness.report.boards import PACKED, PARENT, SUBJECT, Board, Gap, boards, mean_of, percent_text
from harness.report.formats import Block, Items, Paragraph, code, plain, strong
from harness.report.paper.cells import SCALE, info_of, protocol_of, published, regime_of
from harness.report.reported import ReportedFigures
from harness.report.standing import Scored, costs_of, foremost, overspent
from harness.report.stats import Difference, Groups, difference, differences, estimate, rank_intervals
from harness.report.tables import difference_text, interval_text, reported_for
from harness.report.tracks import Cell, typed_dataset
from methods import JOIN

TITLE = "Findings"
MOST = 10
FEWEST = 10  # methods that somebody leads
STEPS = 3  # methods that make a front
WITHIN = 2  # standard deviations that count as agreement
TIES = 6  # rivals that a leader may have beside it
CORESETS = ("random", "herding", "kcenter", "kmeans", "forgetting", PACKED)
SIMPLE = "dm"  # the plainest loop that takes any distance
EVERYTHING = "make benchmarks"
ABLATIONS = "make ablations"
LEGEND = (
    "Written by the same program from the same records. Accuracies are in percent, gaps in percentage points,"
    " intervals of 95 % over distillation seeds, each of one comparison and not corrected for how many there"
    " are; what is clear has an interval that leaves out 0. Behind each stands the command that repeats it."
)


@dataclass(frozen=True)
class Finding:
    """A sentence in Markdown, and the command that makes its records anew.

    compared: the method that it compares with and the one that it is about, if it is a comparison of two.
    """

    words: str
    command: str
    compared: tuple[str, str] | None = None

    @property
    def item(self) -> str:
        """The line of the page."""
        return f"{self.words} {code(self.command)}"


Question: TypeAlias = Callable[[Board], Finding | None]


def opening(shown: Sequence[Scored], reported: ReportedFigures) -> list[Block]:
    """The findings of these tracks, beside figures of papers; [] where there is none."""
    found = list(itertools.islice(findings(shown, reported), MOST))
    return [Paragraph(LEGEND), Items([one.item for one in found])] if found else []


def findings(shown: Sequence[Scored], reported: ReportedFigures) -> Iterator[Finding]:
    """All that the records answer: leaders by dataset and at equal compute, then each question in turn."""
    usual = [board for board in boards(shown) if _is_usual(board)]
    ordered = sorted(usual, key=lambda board: (-len(board.measured), -board.ipc, board.track.order))
    free = [board for board in ordered if board.track.budget_flops is None]
    tight = [board for board in ordered if board.track.budget_flops is not None]
    full = [board for board in free if len(_field(board)) >= FEWEST]
    # One leader of each dataset, where most methods were measured.
    fields = {board.track.dataset: board for board in reversed(full)}
    yield from filter(None, map(leader, reversed(fields.values())))
    # A comparison of two needs no full board; datasets on which few methods ever were are left out.
    told = [board for board in free if board.track.dataset in fields]
    first = [_answer(leader, tight), *(_answer(question, free, told) for question in QUESTIONS)]
    rest = (_answer(question, free, told) for question in FURTHER_QUESTIONS)
    yield from filter(None, itertools.chain(first, [agreement(shown, reported)], rest))


def _answer(question: Question, asked: Iterable[Board], told: Sequence[Board] = ()) -> Finding | None:
    """What the first board says that has an answer; a comparison is told of these others as well."""
    for board in asked:
        if found := question(board):
            others: dict[str, Board] = {}  # of each dataset and ipc the first, where most was measured
            for one in told:
                if one.track.scale == board.track.scale and _place(one) != _place(board):
                    others.setdefault(_place(one), one)
            return _told_of_others(found, others.values())
    return None


def _told_of_others(found: Finding, others: Iterable[Board]) -> Finding:
    """A comparison of two methods with how they stand on other boards, whichever it is."""
    theirs, ours = found.compared or ("", "")
    both = [board for board in others if {theirs, ours} <= _field(board).keys()]
    gaps = [(board, board.gap(hard_protocol(board), board.home, theirs, ours)) for board in both]
    known = [(board, gap) for board, gap in gaps if gap.found.low is not None]
    if not known:
        return found
    told = "; ".join(f"{gap.figures} on {_place(board)}" for board, gap in known)
    typed = shlex.split(found.command)
    more = {
        "--dataset": [typed_dataset(board.track) for board, _ in known],
        "--ipc": [str(board.ipc) for board, _ in known],
    }
    for option, values in more.items():
        at = typed.index(option) + 1
        typed[at] = ",".join(dict.fromkeys([typed[at], *values]))
    return replace(found, words=f"{found.words} Elsewhere it is {told}.", command=shlex.join(typed))


def leader(board: Board) -> Finding | None:
    """Who is the most accurate, and who is not told apart from it; None if that is too many."""
    protocol, field = hard_protocol(board), _field(board)
    if len(field) < FEWEST:
        return None
    best = foremost(rank_intervals(field), {name: mean_of(groups) for name, groups in field.items()})
    behind = differences({name: (field[best], groups) for name, groups in field.items() if name != best})
    ties = sorted(name for name, found in behind.items() if not (found.clear and found.mean > 0))
    if len(ties) > TIES:
        return None
    rest = f"all but {_listed(ties)}" if ties else "all others"
    where, kept, budget = "", "", board.track.budget_flops
    if budget is not None:
        where, kept = f" with {in_flops(budget)} for each distillation", " that keep to it"
    found = estimate(field[best])
    interval = "" if found.low is None or found.high is None else f" {interval_text(found.low, found.high)}"
    return Finding(
        f"{strong(f'{plain(best)} leads on {_place(board)}{where}')} with {percent_text(found.mean)} %"
        f"{interval}, clearly ahead of {rest} of {plural(len(field), 'method')}{kept}.",
        repeated(board, [best, *ties], [protocol]),
    )


def packing(board: Board) -> Finding | None:
    """How far images packed into tiles are ahead of as many plain ones: no distillation yet."""
    protocol = hard_protocol(board)
    if {FLOOR, PACKED} - _field(board).keys():
        return None
    gap = board.gap(protocol, board.home, FLOOR, PACKED)
    if not gap.found.clear:
        return None
    return Finding(
        f"{strong('Packing alone')}, four random images in the tiles of one, is worth {gap.figures}"
        f" points over random images on {_place(board)} ({percent_text(gap.ours)} and"
        f" {percent_text(gap.theirs)} %).",
        repeated(board, [FLOOR, PACKED], [protocol]),
        (FLOOR, PACKED),
    )


def beyond_packing(board: Board) -> Finding | None:
    """How many methods are clearly ahead of images that were only packed."""
    field = _field(board)
    floor = field.get(PACKED)
    distilled = {name: groups for name, groups in field.items() if name not in CORESETS}
    if floor is None or not distilled:
        return None
    found = differences({name: (groups, floor) for name, groups in distilled.items()})
    ahead, behind = _clear(found)
    if not ahead and not behind:
        return None
    return Finding(
        f"{strong('Clearly ahead of packed random images')} on {_place(board)}: {len(ahead)} of"
        f" {plural(len(found), 'distillation method')}{_named(ahead)}; clearly behind: {len(behind)}.",
        EVERYTHING,
    )


def against_parent(board: Board) -> Finding | None:
    """BACON beside IDM, whose loop it shares: the interval, whichever it says, and what it costs."""
    return _side_by_side(board, SUBJECT, PARENT, "BACON is {} IDM", ", whose loop it shares,")


def in_simple_loop(board: Board) -> Finding | None:
    """The same of BACON's distance in DM's loop, beside DM."""
    ours = f"{SIMPLE}{JOIN}{SUBJECT}"
    return _side_by_side(board, ours, SIMPLE, "BACON's distance in DM's loop is {} DM's own", "")


def _side_by_side(board: Board, ours: str, theirs: str, claim: str, aside: str) -> Finding | None:
    """Two methods by their difference; `claim` has a place for how one stands beside the other."""
    protocol = hard_protocol(board)
    cells = board.cell(ours, protocol), board.cell(theirs, protocol)
    if cells[0] is None or cells[1] is None:
        return None
    gap = board.gap(protocol, board.home, theirs, ours)
    if gap.found.low is None:
        return None
    return Finding(
        f"{strong(claim.format(_beside(gap)))}{aside} on {_place(board)}: {gap.figures}"
        f" over {plural(gap.found.seeds, 'seed')}{_cost_of(cells[0], cells[1])}.",
        repeated(board, [theirs, ours], [protocol]),
        (theirs, ours),
    )


def own_settings(board: Board) -> Finding | None:
    """What becomes of BACON with other weights of its terms: those that differ clearly, and the rest."""
    protocol = hard_protocol(board)
    own, changed = board.cell(SUBJECT, protocol), board.changed(SUBJECT, protocol)
    if own is None or not changed:
        return None
    found = differences({settings: (groups, own.groups) for settings, groups in changed.items()})
    ahead, behind = _clear(found)
    if not ahead and not behind:
        return None
    parts = [
        f"{words} with {'; '.join(f'{plain(name)} ({difference_text(found[name])})' for name in names)}"
        for words, names in (("clearly better", ahead), ("clearly worse", behind))
        if names
    ]
    rest = [plain(name) for name in found if name not in {*ahead, *behind}]
    parts += [f"not told apart with {'; '.join(rest)}"] if rest else []
    return Finding(
        f"{strong('BACON with other settings than its own')} on {_place(board)} is {'; '.join(parts)}.",
        ABLATIONS,
    )


def front(board: Board) -> Finding | None:
    """The methods that are each clearly ahead of all that cost less: accuracy against FLOPs."""
    steps = staircase(board, hard_protocol(board))
    if len(steps) < STEPS:
        return None
    shown = ", ".join(
        f"{plain(name)} ({in_flops(flops)}, {percent_text(accuracy)} %)" for name, flops, accuracy in steps
    )
    return Finding(
        f"{strong('The front of accuracy and compute')} on {_place(board)}, each clearly ahead of all that"
        f" cost less: {shown}.",
        EVERYTHING,
    )


def staircase(board: Board, protocol: str) -> list[tuple[str, float, float]]:
    """Names, FLOPs and accuracies of the methods that are each clearly ahead of every cheaper one."""
    cells = board.cells(protocol)
    costs = {name: costs_of(cell.done).flops for name, cell in cells.items()}
    groups = {name: cell.groups for name, cell in cells.items()}
    known = sorted(
        (flops, -mean_of(groups[name]), name) for name, flops in costs.items() if flops is not None
    )
    steps: list[tuple[str, float, float]] = []
    cheaper: list[str] = []
    for flops, lost, name in known:
        found = differences({other: (groups[name], groups[other]) for other in cheaper})
        if all(gap.clear and gap.mean > 0 for gap in found.values()):
            steps.append((name, flops, -lost))
        cheaper.append(name)
    return steps


def equal_steps(board: Board) -> Finding | None:
    """What becomes of BACON's lead over plain images where every set is trained on for as many steps."""
    usual = hard_protocol(board)
    matched = board.equal_steps
    if matched is None or any(
        board.cell(method, protocol) is None for method in (SUBJECT, FLOOR) for protocol in (usual, matched)
    ):
        return None
    before, after = (board.gap(protocol, board.home, FLOOR) for protocol in (usual, matched))
    if not (before.found.clear and after.found.clear):
        return None
    packed = ""
    if board.cell(PACKED, matched):
        packed = f", over packed ones it is {board.gap(matched, board.home, PACKED).figures}"
    return Finding(
        f"{strong('At equal steps of the optimiser')} BACON's lead over random images on {_place(board)} is"
        f" {after.figures} instead of {before.figures}{packed}.",
        repeated(board, [FLOOR, PACKED, SUBJECT], [usual, matched]),
    )


def soft_labels(board: Board) -> Finding | None:
    """What soft labels are worth to random images."""
    protocol, stored = hard_protocol(board), SCALES[board.track.scale].protocols["stored"]
    plain_images, labelled = board.cell(FLOOR, protocol), board.cell(SOFT_FLOOR, stored)
    if plain_images is None or labelled is None:
        return None
    gap = difference(labelled.groups, plain_images.groups)
    if not gap.clear:
        return None
    return Finding(
        f"{strong('Soft labels alone')} are worth {difference_text(gap)} points to random images on"
        f" {_place(board)}.",
        repeated(board, [FLOOR, SOFT_FLOOR], []),
    )


def with_teacher(board: Board) -> Finding | None:
    """How many methods that call for a teacher are clearly ahead of random images with the same one."""
    asked = [name for name in {one.protocol for one in board.measured} if regime_named(name) == "teacher"]
    gaps: dict[str, Difference] = {}
    for protocol in sorted(asked):
        cells = board.cells(protocol)
        if FLOOR not in cells:
            continue
        for name in (name for name in cells if _calls_for(name, protocol, board)):
            gaps[name] = board.gap(protocol, board.home, FLOOR, name).found
    ahead, behind = _clear(gaps)
    if not ahead and not behind:
        return None
    return Finding(
        f"{strong('Clearly ahead of random images that the same teacher labels')} on {_place(board)}:"
        f" {len(ahead)} of {plural(len(gaps), 'method')} with one at every batch{_named(ahead)}; clearly"
        f" behind: {len(behind)}{_named(behind)}.",
        repeated(board, [FLOOR, *sorted(gaps)], sorted(asked)),
    )


def elsewhere(board: Board) -> Finding | None:
    """On how many other networks BACON is clearly ahead of packed images, at the rate that suits each."""
    tuned = board.tuned_steps
    if tuned is None:
        return None
    networks = [name for name in board.networks(tuned, SUBJECT, PACKED) if name != board.home]
    gaps = [board.gap(tuned, network, PACKED) for network in networks]
    ahead, _ = _clear({gap.network: gap.found for gap in gaps})
    if not ahead:
        return None
    shown = "; ".join(f"{gap.network} {gap.figures}" for gap in gaps)
    return Finding(
        f"{strong('On networks that did not distil them')} BACON's sets are clearly ahead of packed random"
        f" images on {len(ahead)} of {len(gaps)}, each at its own rate ({_place(board)}: {shown}).",
        repeated(board, [PACKED, SUBJECT], [tuned], networks),
    )


@dataclass(frozen=True)
class PrintedScore:
    """How many printed standard deviations ours is above a figure that a paper prints.

    own: whether the protocol is the one that our method is asked under.
    """

    method: str
    dataset: str
    ipc: int
    protocol: str
    own: bool
    score: float

    @property
    def cell(self) -> str:
        """What was measured, `dm on mnist ipc 1`."""
        return f"{plain(self.method)} on {self.dataset} ipc {self.ipc}"

    @property
    def near(self) -> bool:
        """Whether that counts as agreement."""
        return abs(self.score) <= WITHIN


def agreement(shown: Iterable[Scored], reported: ReportedFigures) -> Finding | None:
    """How many figures of papers ours agree with; of the others, under which protocols they do."""
    scores = list(printed_scores(shown, reported))
    own = [score for score in scores if score.own]
    if not own:
        return None
    # Under which other protocols those are met that are not under their own.
    met = {far: [one for one in scores if _stands_in(one, far)] for far in own if not far.near}
    rest = f"; the others: {', '.join(itertools.starmap(_far_text, met.items()))}" if met else ""
    lead = f"{len(own) - len(met)} of {len(own)} figures that papers print are met at their own scale"
    return Finding(
        f"{strong(lead)} within {WITHIN} of the standard deviations that they print{rest}.",
        _run_of([*own, *itertools.chain(*met.values())]),
    )


def _stands_in(other: PrintedScore, far: PrintedScore) -> bool:
    return other.cell == far.cell and other.near and not other.own


def _far_text(far: PrintedScore, met: Iterable[PrintedScore]) -> str:
    """`dm on mnist ipc 1 (-3.1; -0.2 under dc-digits)`."""
    under = (f"; {one.score:+.1f} under {code(one.protocol)}" for one in met)
    return f"{far.cell} ({far.score:+.1f}{''.join(under)})"


def _run_of(scores: Sequence[PrintedScore]) -> str:
    """The `run` that makes the records behind them, and perhaps others of these methods."""
    special = not all(score.own for score in scores)
    return _run(
        SCALE.name,
        {
            "--dataset": [score.dataset for score in scores],
            "--methods": [score.method for score in scores],
            "--ipc": [str(score.ipc) for score in scores],
            "--protocol": [score.protocol for score in scores] if special else [],
        },
    )


def printed_scores(shown: Iterable[Scored], reported: ReportedFigures) -> Iterator[PrintedScore]:
    """All of the paper scale with published settings, whatever the protocol, beside what is printed."""
    for found in shown:
        if not found.track.at_paper_scale:
            continue
        figures = reported_for(found.track, reported)
        for (row, ipc), ranking in found.rankings.items():
            figure = figures.get((row.method, found.track.dataset, ipc))
            trials = [record.trial for record in found.grid[row, ipc].done]
            score = figure.z(ranking.estimate.mean) if figure else None
            if score is not None and all(map(_has_published_settings, trials)):
                track, own = found.track, all(map(_is_asked_as_printed, trials))
                yield PrintedScore(row.method, track.dataset, ipc, track.protocol, own, score)


def _is_asked_as_printed(trial: Trial) -> bool:
    """Whether a trial's protocol is its method's own."""
    regime = regime_of(trial)
    return regime is not None and published(trial, regime)


def _has_published_settings(trial: Trial) -> bool:
    """Whether a trial has the settings that are published; its protocol may be another."""
    regime = regime_named(trial.protocol)
    if regime is None or trial.source.overrides:
        return False
    own = protocol_of(trial.method, SCALE, regime)
    asked = msgspec.structs.replace(trial, protocol=own, protocol_version=PROTOCOLS[own].version)
    return published(asked, regime)


QUESTIONS: tuple[Question, ...] = (packing, beyond_packing, against_parent, front, equal_steps)
# Behind the agreement with papers: the last of them give way where there are too many findings.
FURTHER_QUESTIONS: tuple[Question, ...] = (
    own_settings,
    in_simple_loop,
    elsewhere,
    with_teacher,
    soft_labels,
)


def hard_protocol(board: Board) -> str:
    """The protocol under which a scale asks all sets."""
    return SCALES[board.track.scale].protocol


def repeated(
    board: Board, methods: Sequence[str], protocols: Sequence[str], networks: Sequence[str] = ()
) -> str:
    """The `run` that makes these records of a board anew; the scale's own protocol is not named."""
    track = board.track
    cells = [cell for asked, cell in board.measured.items() if asked.method in methods]
    seeds = max((len(cell.groups) for cell in cells), default=1)
    special = [*protocols] not in ([], [hard_protocol(board)])
    # 2E+12: all digits, as few as there are.
    budget = Decimal(repr(track.budget_flops)).normalize().to_eng_string() if track.budget_flops else None
    return _run(
        track.scale,
        {
            "--dataset": [typed_dataset(track)],
            "--methods": methods,
            "--ipc": [str(board.ipc)],
            "--seeds": [str(seeds)],
            "--protocol": protocols if special else [],
            "--arch": [track.arch] if track.arch != SCALES[track.scale].arch else [],
            "--eval-arch": networks,
            "--budget": [budget] if budget else [],
        },
    )


def _run(scale: str, options: Mapping[str, Iterable[str]]) -> str:
    """`python -m harness run` with these options, each value once; an option without one is left out."""
    words = ["python", "-m", "harness", "run", "--scale", scale]
    for option, values in options.items():
        if distinct := list(dict.fromkeys(values)):
            words += [option, ",".join(distinct)]
    return shlex.join(words)


def _field(board: Board) -> dict[str, Groups]:
    """Accuracies of the methods that were measured at home under the scale's protocol for all sets.

    Those that spent more than the board's budget, if it has one, are not in it.
    """
    cells, budget = board.cells(hard_protocol(board)), board.track.budget_flops
    return {name: cell.groups for name, cell in cells.items() if not overspent(budget, cell)}


def _is_usual(board: Board) -> bool:
    """Whether nothing but the compute budget is out of the ordinary."""
    track = board.track
    special = (track.zca, track.image_size, track.curve, track.data, track.soft_labels)
    return track.precision == "fp32" and not any(special)


def _calls_for(method: str, protocol: str, board: Board) -> bool:
    """Whether a method's own evaluation is that protocol, whose networks a teacher tells."""
    info = info_of(method)
    if info is None or info.regime != "teacher":
        return False
    return protocol_of(method, SCALES[board.track.scale], "teacher") == protocol


def _place(board: Board) -> str:
    return f"{board.track.dataset}, ipc {board.ipc}"


def _beside(gap: Gap) -> str:
    """`clearly ahead of`, as far as the figures go."""
    if gap.level:
        return "level with"
    if gap.found.clear:
        return "clearly ahead of" if gap.found.mean > 0 else "clearly behind"
    return "not told apart from"


def _cost_of(ours: Cell, theirs: Cell) -> str:
    """`, at 1.2 times its FLOPs`, as far as that is known."""
    spent, usual = costs_of(ours.done).flops, costs_of(theirs.done).flops
    return f", at {spent / usual:.2f} times its FLOPs" if spent and usual else ""


def _clear(gaps: Mapping[str, Difference]) -> tuple[list[str], list[str]]:
    """The names whose gap is clear: those ahead, and those behind."""
    clear = {name: gap.mean > 0 for name, gap in gaps.items() if gap.clear}
    return [name for name in clear if clear[name]], [name for name in clear if not clear[name]]


def _named(methods: Sequence[str]) -> str:
    return f" ({_listed(sorted(methods))})" if methods else ""


def _listed(names: Sequence[str]) -> str:
    shown = [plain(name) for name in names]
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
