"""Tables of a set of records, per track: accuracies by method and ipc, what they leave open, and costs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from harness.core.text import MISSING, count, memory, seconds
from harness.engine.protocol import regime_named
from harness.engine.provenance import OLDER, UNCOMMITTED, UNKNOWN, CodeState
from harness.engine.records import CEILING, FLOOR, Record, hardware, ran_on
from harness.report.beyond import beyond_blocks
from harness.report.claims import claims_table
from harness.report.formats import (
    Block,
    Folded,
    Heading,
    Items,
    Paragraph,
    Table,
    code,
    em,
    markdown,
    plain,
    strong,
)
from harness.report.reported import ALL_IMAGES, UNTRACED, ReportedFigure, ReportedFigures, fitting, z_text
from harness.report.standing import Ranking, Scored, costs_of, overspent, own_key, settings_of, uncounted
from harness.report.stats import CONFIDENCE, FEW_SEEDS, Difference, Estimate, differences
from harness.report.stats import estimate as estimate_of
from harness.report.tracks import EMPTY, Cell, Row, Track

Tables: TypeAlias = Mapping[Track, str]

NOT_RUN = "not run"
SURE = f"{100 * CONFIDENCE:g} %"
REPORTED = em("Reported")
LEGEND = (
    "Accuracies are test accuracies in percent after the last epoch: mean ± sample standard deviation over"
    " all networks of all seeds, and in brackets n: distillation seeds × networks trained from scratch on"
    f" each distilled set. Bold is the best of a column; {em('italics')} are statistically tied with it, that"
    f" is, not told apart: the {SURE} interval of the difference contains 0. {MISSING} was not run, and"
    f" {code(CEILING)} is training on all images, the ceiling, which is the same for every ipc. {REPORTED}"
    f" figures are those that papers print; their sources are in {code('harness/report/data/reported.csv')}."
)
RANKING_LEGEND = (
    "Networks trained on one distilled set are no independent trials of a method, so intervals come from the"
    f" means of the seeds: Student's t with fewer than {FEW_SEEDS} seeds, a bootstrap of whole seeds from"
    f" {FEW_SEEDS} on. Two seeds say little: their intervals hold the truth as often as any others, yet some"
    " come out very wide and some very narrow, so that a method may be tied where a better one is not."
    " Differences, in percentage points, are taken within the seeds that both ran, where those are two or"
    " more. A rank leaves open what the intervals of single differences, not corrected for their number,"
    " leave open. One seed gives no interval and no tie, since nothing shows how much seeds differ."
)
COST_LEGEND = (
    "Cost of one trial, mean over the seeds; memory, FLOPs and images forwarded are those of distillation,"
    " memory is the highest of any seed, and evaluation is that of all networks of a trial. FLOPs are those"
    " of products of matrices and of convolutions."
)
CLAIMS_LEGEND = (
    "Sets that others distilled and handed in, measured here like all others: the accuracy that they"
    " claim, and what a check of their files found."
)
VARIED_LEGEND = (
    "Settings set by hand, beside the same method with its own settings: the difference in percentage points,"
    " taken within the seeds that both ran. They are no competitors and have no rank."
)
CODE_MARKS: Mapping[CodeState, str] = {OLDER: "‡", UNCOMMITTED: "§", UNKNOWN: "§"}
CODE_LEGENDS = {
    "‡": "‡ is measured by older code: what the trial reaches has changed since.",
    "§": "§ is measured by code that was never committed, or is not known.",
}
RENEWAL = f"{code('python -m harness renew')} measures such cells anew and keeps the old records."
RANKING_HEADERS = (
    "method",
    "ipc",
    "n",
    "accuracy",
    f"{SURE} interval",
    "behind the best",
    "rank",
    f"gap to {CEILING}",
)
VARIED_HEADERS = ("method", "ipc", "accuracy", "against its own settings")
COST_HEADERS = (
    "method",
    "settings",
    "hardware",
    "ipc",
    "distillation (s)",
    "evaluation (s)",
    "peak host memory",
    "peak device memory",
    "FLOPs",
    "images forwarded",
    "stored",
    "decoded images",
)
BRIEFLY_OMITTED = {"settings", "images forwarded", "decoded images"}


def with_legend(tables: Tables, tracks: Iterable[Scored]) -> str:
    """The legend, then one section for each track."""
    return f"{markdown(legend(tracks))}\n{sections(tables)}"


def sections(tables: Tables) -> str:
    """One section for each track, under a heading of its own."""
    return "\n".join(f"{markdown([Heading(track.heading, 2)])}\n{text}" for track, text in tables.items())


def legend(tracks: Iterable[Scored]) -> list[Block]:
    """How to read the tables of these tracks."""
    return [Paragraph(LEGEND), Paragraph(RANKING_LEGEND), *code_legend(marks_of(tracks))]


def marks_of(tracks: Iterable[Scored]) -> set[str]:
    """The marks of all cells that are not of the present code."""
    return {
        mark
        for found in tracks
        for cell in (*found.cells.values(), found.ceiling)
        for mark in code_marks(found, cell)
    }


def code_legend(marks: Collection[str]) -> list[Block]:
    """What these marks of cells mean and how to renew what has them; nothing for none."""
    words = [text for mark, text in CODE_LEGENDS.items() if mark in marks]
    return [Paragraph(" ".join([*words, RENEWAL]))] if words else []


def code_marks(found: Scored, cell: Cell) -> str:
    """What stands behind a figure some of whose records are not of the present code."""
    return marks_text(found.code_of(cell))


def marks_text(states: Iterable[CodeState]) -> str:
    """What stands behind a figure whose records are of such code."""
    return "".join(sorted({CODE_MARKS[state] for state in states if state in CODE_MARKS}))


def blocks_by_track(
    tracks: Iterable[Scored], reported: ReportedFigures, *, brief: bool = False
) -> dict[Track, list[Block]]:
    """What stands under the heading of each track, in no format yet.

    `brief` puts ranks beside the accuracies and folds the rest.
    """
    return {found.track: _track_blocks(found, reported, brief=brief) for found in tracks}


def tables_of(found: Mapping[Track, Sequence[Block]]) -> Tables:
    """The same in Markdown, for each track."""
    return {track: markdown(blocks) for track, blocks in found.items()}


def document(found: Mapping[Track, Sequence[Block]], tracks: Iterable[Scored]) -> list[Block]:
    """The legend, then the sections under headings of level 2."""
    blocks = legend(tracks)
    for track, section in found.items():
        blocks += [Heading(track.heading, 2), *section]
    return blocks


def _track_blocks(found: Scored, reported: ReportedFigures, *, brief: bool) -> list[Block]:
    """The tables of one track, with the line that says under which conditions it came about."""
    track, records = found.track, found.records
    figures = reported_for(track, reported)
    notes = _reported_notes(found, figures, reported)
    blocks: list[Block] = [
        accuracy_table(found, figures, ranks=brief),
        Paragraph(_conditions(track, records)),
    ]
    blocks += map(Paragraph, notes)
    if reasons := list(misses(found)):
        blocks.append(Items(reasons))
    for note in filter(None, (_below_floor(found), _beyond_budget(found), _same_sets(found))):
        blocks.append(Paragraph(note))
    if claims := claims_table(records):
        blocks += [claims, Paragraph(CLAIMS_LEGEND)]
    varied, ranking, beyond = _varied_blocks(found), _ranking_blocks(found), beyond_blocks(found)
    costs: list[Block] = []
    if any(record.status == "done" for record in records):
        legend = f"{_conditions(track, records)} {COST_LEGEND}{_uncounted(found)}"
        costs = [_cost_table(found, brief=brief), Paragraph(legend)]
    if not brief:
        return [*blocks, *varied, *ranking, *beyond, *costs]
    folded = {
        "What a changed setting is worth": varied,
        "Intervals, distances to the best, gaps to the ceiling": ranking,
        "Beyond accuracy: over random images, towards all images, calibration": beyond,
        "What it cost": costs,
    }
    return [*blocks, *(Folded(summary, inner) for summary, inner in folded.items() if inner)]


def accuracy_table(found: Scored, figures: ReportedFigures, *, ranks: bool = False) -> Table:
    """Accuracies by method and ipc, what papers report beside them, and the ceiling in the last row.

    With `ranks` the ranks beside them, and methods by accuracy instead of by name.
    """
    rows = list(dict.fromkeys(row for row, _ in found.grid))
    if ranks:
        rows = _by_accuracy(rows, found)
    columns = {"method": [*(plain(row.label) for row in rows), CEILING]}
    ceiling = _unranked_text(found.ceiling, code_marks(found, found.ceiling))
    whole = figures.get((CEILING, found.track.dataset, ALL_IMAGES))
    for ipc in found.ipcs:
        cells = [(found.grid.get((row, ipc), EMPTY), found.rankings.get((row, ipc))) for row in rows]
        column = [_cell_text(cell, ranking, code_marks(found, cell)) for cell, ranking in cells]
        columns[f"ipc {ipc}"] = [*column, ceiling]
        rankings = [ranking for _, ranking in cells]
        if ranks and any(ranking and ranking.estimate.low is not None for ranking in rankings):
            columns[f"ipc {ipc} rank"] = [*map(_rank, rankings), MISSING]
        printed = [figures.get((row.method, found.track.dataset, ipc)) for row in rows]
        if any(printed):
            ours = rankings if found.track.at_paper_scale else [None] * len(rows)
            columns[f"ipc {ipc} reported"] = [*map(_printed, printed, ours), _printed(whole)]
    return Table(list(columns), list(zip(*columns.values(), strict=True)))


def _by_accuracy(rows: Iterable[Row], found: Scored) -> list[Row]:
    """The most accurate first, at the ipc at which the most were measured; the rest by name at the end."""
    measured = Counter(ipc for _, ipc in found.rankings)
    ipc = max(measured, key=lambda ipc: (measured[ipc], ipc), default=None)
    means = {row: ranking.estimate.mean for (row, at), ranking in found.rankings.items() if at == ipc}
    return sorted(rows, key=lambda row: (-means.get(row, -1.0), row))


def varied_table(found: Scored) -> Table | None:
    """Settings set by hand beside the methods' own; None where nothing was."""
    measured = {key: cell for key, cell in found.varied.items() if cell.groups}
    own = {key: found.grid[own_key(key)].groups for key in measured}
    gaps = differences({key: (cell.groups, own[key]) for key, cell in measured.items() if own[key]})
    rows = [
        [
            *(plain(row.label), str(ipc)),
            _unranked_text(cell, code_marks(found, cell)),
            difference_text(gaps[row, ipc]) if (row, ipc) in gaps else MISSING,
        ]
        for (row, ipc), cell in measured.items()
    ]
    return Table(VARIED_HEADERS, rows) if rows else None


def _printed(figure: ReportedFigure | None, ours: Ranking | None = None) -> str:
    """`64.9 ± 3.5`, and behind it how many of these deviations ours is above it, `(z -2.2)`."""
    if figure is None:
        return MISSING
    return figure.text + (z_text(figure.z(ours.estimate.mean)) if ours else "")


def _rank(ranking: Ranking | None) -> str:
    """The ranks left open, `1–9`."""
    if ranking is None:
        return MISSING
    first, last = ranking.rank
    return f"{first}" if first == last else f"{first}–{last}"


def _cell_text(cell: Cell, ranking: Ranking | None, marks: str) -> str:
    """`41.3 ± 1.2 (2×3)`, the best in bold, ties in italics; a status word where nothing was measured."""
    if ranking is None:
        return _unranked_text(cell, marks) if cell.groups else ", ".join(cell.missing) or MISSING
    figure = ranking.estimate.text
    figure = strong(figure) if ranking.best else em(figure) if ranking.tied else figure
    return f"{figure} ({counts_text(cell)}){marks}"


def _unranked_text(cell: Cell, marks: str) -> str:
    if not cell.groups:
        return ", ".join(cell.missing) or NOT_RUN
    return f"{estimate_of(cell.groups).text} ({counts_text(cell)}){marks}"


def counts_text(cell: Cell) -> str:
    """`2×3`, and what is missing: `1×3; 2 oom`."""
    return "; ".join([cell.counts, *(f"{number} {status}" for status, number in cell.missing.items())])


def _varied_blocks(found: Scored) -> list[Block]:
    """That table and what it is; nothing without one."""
    table = varied_table(found)
    return [table, Paragraph(VARIED_LEGEND)] if table else []


def _ranking_blocks(found: Scored) -> list[Block]:
    """The table of intervals, differences and ranks; a line instead where no cell has a second seed."""
    if not found.rankings:
        return []
    if all(ranking.estimate.low is None for ranking in found.rankings.values()):
        return [Paragraph("No intervals, ties or ranks: with one seed nothing shows how much seeds differ.")]
    rows = [
        [plain(row.label), str(ipc), found.grid[row, ipc].counts, *_ranking_texts(ranking)]
        for (row, ipc), ranking in found.rankings.items()
    ]
    return [Table(RANKING_HEADERS, rows)]


def _ranking_texts(ranking: Ranking) -> list[str]:
    found = ranking.estimate
    return [
        f"{100 * found.mean:.1f}",
        _clipped(found),
        "best" if ranking.behind is None else difference_text(ranking.behind),
        f"{_rank(ranking)} of {ranking.ranked}",
        NOT_RUN if ranking.gap is None else difference_text(ranking.gap),
    ]


def _clipped(found: Estimate) -> str:
    """The interval of a mean, no further than accuracies go."""
    if found.low is None or found.high is None:
        return "one seed"
    return interval_text(max(found.low, 0.0), min(found.high, 1.0))


def difference_text(difference: Difference) -> str:
    """`1.2 [0.4, 2.0]` in percentage points, or why there is no interval."""
    if difference.low is None or difference.high is None:
        return f"{_points(difference.mean)} (one seed)"
    return f"{_points(difference.mean)} {interval_text(difference.low, difference.high)}"


def interval_text(low: float, high: float) -> str:
    """`[0.4, 2.0]` in percentage points."""
    return f"[{_points(low)}, {_points(high)}]"


def _points(fraction: float) -> str:
    """Percentage points to a tenth, without a negative zero."""
    return f"{round(100 * fraction, 1) + 0.0:.1f}"


def _conditions(track: Track, records: Iterable[Record]) -> str:
    done = [record for record in records if record.status == "done"]
    places = sorted({hardware(run) for record in done for run in (record.made_in, record.provenance)})
    measured = f" Measured on {'; '.join(places)}." if places else ""
    protocol = f"{track.protocol} {track.protocol_version}"
    networks = f"{track.eval_arch} on sets by {track.arch}" if track.eval_arch else track.arch
    folder = f", image folder {track.listing}" if track.listing else ""
    disputed = (
        f" Records of {track.dataset} were made from different images and do not compare: these are of data"
        f" {track.data} (fingerprints of train and test)."
    )
    return (
        f"Protocol {protocol}, network {networks}, {track.precision}{folder}.{measured}"
        f"{disputed if track.data else ''}"
    )


def reported_for(track: Track, reported: ReportedFigures) -> ReportedFigures:
    """Those figures of papers that may stand beside the track's."""
    if not track.as_in_papers:
        return {}
    regime = "stored" if track.soft_labels else regime_named(track.protocol)
    return reported if regime is None else fitting(reported, regime)


def _reported_notes(found: Scored, figures: ReportedFigures, reported: ReportedFigures) -> Iterator[str]:
    track = found.track
    printed = (figures.get((row.method, track.dataset, ipc)) for row, ipc in found.grid)
    shown = [figure for figure in printed if figure]
    whole = figures.get((CEILING, track.dataset, ALL_IMAGES))
    if shown and track.at_paper_scale:
        yield (
            f"{REPORTED}: printed by papers and not measured here; each paper has its own settings. z: how"
            " many of the standard deviations that are printed ours is above it."
        )
    elif shown:
        yield (
            f"{REPORTED}: printed by papers and not measured here. They were obtained at paper scale with the"
            f" papers' own settings and networks, so they are {strong('not comparable')} with the"
            f" {track.scale}-scale figures beside them."
        )
    if shown and not all(figure.traced for figure in [*shown, *([whole] if whole else [])]):
        yield f"{UNTRACED} not yet traced to a printed source."
    for original in sorted({dataset for _, dataset, _ in reported}):
        if track.dataset.startswith(f"{original}-"):
            yield (
                f"{track.dataset} is not {original}: what papers report for {original} does not apply to it"
                " and is not shown."
            )


def misses(found: Scored) -> Iterator[str]:
    """One list item for each trial without a result, with the reason."""
    cells = [(row.label, ipc, cell) for (row, ipc), cell in found.cells.items()]
    for label, ipc, cell in [*cells, (CEILING, None, found.ceiling)]:
        for record in cell.missed:
            reason = plain(record.reason or "no reason was recorded")
            place = f"ipc {record.trial.ipc if ipc is None else ipc} · seed {record.trial.seed}"
            yield f"{plain(label)} · {place}: {record.status}: {reason}"


def _below_floor(found: Scored) -> str:
    """Which cells are clearly below random real images at the same ipc; empty if none is."""
    measured = {key: found.grid[key].groups for key in found.rankings}
    floors = {ipc: groups for (row, ipc), groups in measured.items() if row == Row(FLOOR, "")}
    gaps = differences({key: (floors[key[1]], own) for key, own in measured.items() if key[1] in floors})
    below: dict[str, list[int]] = defaultdict(list)
    for (row, ipc), gap in gaps.items():
        if gap.clear and gap.mean > 0:
            below[plain(row.label)].append(ipc)
    if not below:
        return ""
    return (
        f"Clearly below {code(FLOOR)} at the same ipc (where a reason is known, the file under"
        f" {code('methods/')} gives it): {_with_ipcs(below)}."
    )


def _with_ipcs(found: Mapping[str, Iterable[int]]) -> str:
    """`forgetting (ipc 1, 10); kcenter (ipc 10)`."""
    return "; ".join(f"{label} (ipc {', '.join(map(str, sorted(ipcs)))})" for label, ipcs in found.items())


def _beyond_budget(found: Scored) -> str:
    """Which cells spent more than the track's budget; empty if none did."""
    spent = {key: overspent(found.track.budget_flops, cell) for key, cell in found.grid.items()}
    named = [
        f"{plain(row.label)} (ipc {ipc}: {count(flops)})" for (row, ipc), flops in spent.items() if flops
    ]
    if not named:
        return ""
    return (
        "Beyond the budget, which cuts the steps on the images and not what has to be there before them (a"
        f" teacher, say), and so not ranked: {'; '.join(named)}."
    )


def _uncounted(found: Scored) -> str:
    """Which methods' FLOPs are not told, and why; empty if all are."""
    left_out = {row.method: uncounted(row.method) for row, _ in found.cells}
    return "".join(
        f" None are told of {plain(method)}, whose steps take {what} instead."
        for method, what in left_out.items()
        if what
    )


def _same_sets(found: Scored) -> str:
    """Which rows are of the same sets, byte for byte, under several names; empty if none are."""
    makers: dict[tuple[frozenset[object], int], list[str]] = defaultdict(list)
    for (row, ipc), cell in found.grid.items():
        sets = {(record.trial.seed, record.images_digest, *record.accuracies) for record in cell.done}
        if sets and all(record.images_digest for record in cell.done):
            makers[frozenset(sets), ipc].append(plain(row.label))
    twins: dict[str, list[int]] = defaultdict(list)
    for (_, ipc), labels in makers.items():
        if len(labels) > 1:
            twins[" and ".join(sorted(labels))].append(ipc)
    if not twins:
        return ""
    return f"The same sets, byte for byte, and so the same figures: {_with_ipcs(twins)}."


def _cost_table(found: Scored, *, brief: bool) -> Table:
    """Costs by method, ipc and, where there are several, hardware: seconds of two machines do not average.

    `brief`: without what few look for.
    """
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    cells = [(row.label, str(ipc), cell.done) for (row, ipc), cell in found.cells.items()]
    for label, ipc, done in [*cells, (CEILING, MISSING, found.ceiling.done)]:
        for record in done:
            groups[label, ipc, ran_on(record)].append(record)
    several = len({place for _, _, place in groups}) > 1
    lines = [
        [plain(label), plain(settings_of(records)), place, ipc, *_costs(records)]
        for (label, ipc, place), records in groups.items()
    ]
    omitted = (BRIEFLY_OMITTED if brief else set()) | (set() if several else {"hardware"})
    kept = [column for column, header in enumerate(COST_HEADERS) if header not in omitted]
    return Table(
        [COST_HEADERS[column] for column in kept],
        [[line[column] for column in kept] for line in lines],
        text_columns=kept.index(COST_HEADERS.index("ipc")),
    )


def _costs(records: Sequence[Record]) -> list[str]:
    costs = costs_of(records)
    return [
        seconds(costs.distill_seconds),
        seconds(costs.evaluate_seconds),
        memory(costs.peak_host_bytes),
        memory(costs.peak_device_bytes),
        count(costs.flops),
        count(costs.images_forwarded),
        memory(costs.stored_bytes),
        count(costs.decoded_images),
    ]
