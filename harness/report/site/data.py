"""Rows of the web leaderboard, from records and from what papers report: plain values, ready for JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from harness.core.text import MISSING, count, memory, one_line, percent, seconds
from harness.engine.provenance import CODE_WORDS, CodeState
from harness.engine.records import CEILING, Record, hardware
from harness.report.protocols import REGIMES
from harness.report.reported import ALL_IMAGES, REPORTED_CSV, UNTRACED, ReportedFigure, load_reported
from harness.report.standing import Ranking, Scored, costs_of, overspent, scored, told_curve
from harness.report.stats import Estimate, estimate
from harness.report.tracks import Cell, Row, Track

UNKNOWN = "not recorded"
OF_THE_PAPER = "the paper's own"
MEASURED, SUBMITTED, REPORTED = "measured", "submitted", "reported"
DIGEST_LETTERS = 8  # of the digest of an image folder, in the table; its records' pages have all


class PlacedCell(NamedTuple):
    """A row's records and where they stand; `ipc` is ALL_IMAGES and `ranking` None for the ceiling.

    code: of which code its finished records are, where that was asked.
    """

    track: Track
    row: Row
    ipc: int
    cell: Cell
    ranking: Ranking | None
    code: Sequence[CodeState] = ()


class Seed(msgspec.Struct, frozen=True):
    """A record of a row: its distillation seed and the id that names its page."""

    seed: int
    id: str


class LeaderboardRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the leaderboard: a method in one configuration at one ipc, in one track.

    `arch` is the network that distilled and `network` the one that was trained on the set. `label` is the
    method with the settings that tell it from its other rows, `track` says what must be equal for two
    accuracies to compare. `ipc` is ALL_IMAGES for training on the whole train split. Accuracies are fractions
    in [0, 1]; a fact that is not known is None, and `figure` and the other texts then say so.
    `note` says what a reader should know of the figure.
    """

    label: str
    method: str
    dataset: str
    ipc: int
    scale: str
    arch: str
    network: str
    protocol: str
    regime: str
    labels: str
    augmentation: str
    kind: str
    track: str
    conditions: str = ""
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    figure: str = MISSING
    interval: str = ""
    counts: str = ""
    place: str = ""
    best: bool = False
    tied: bool = False
    note: str = ""
    seconds: float | None = None
    seconds_text: str = MISSING
    flops: float | None = None
    flops_text: str = MISSING
    memory_bytes: float | None = None
    memory_text: str = MISSING
    source: str = ""
    url: str = ""
    records: tuple[Seed, ...] = ()


class CurveRow(msgspec.Struct, frozen=True, kw_only=True):
    """A look at a set while it was distilled; accuracy in [0, 1] on images left out of the train split."""

    label: str
    track: str
    ipc: int
    seed: int
    flops: float
    accuracy: float


def places(records: Iterable[Record], code: Mapping[str, CodeState] | None = None) -> list[PlacedCell]:
    """The rows of these records, in the order in which tables show them, the ceiling of a track last.

    `code`: of which code the records are, by their ids.
    """
    return [place for found in scored(records, code) for place in _places(found)]


def measured_rows(found: Iterable[PlacedCell]) -> list[LeaderboardRow]:
    """One row for each place; one without any result shows the statuses of its trials."""
    return [_measured(place) for place in found]


def curve_rows(found: Iterable[PlacedCell]) -> list[CurveRow]:
    """The looks at all sets during distillation, empty where none was taken."""
    return [
        CurveRow(
            label=place.row.label,
            track=_heading(place.track),
            ipc=place.ipc,
            seed=record.trial.seed,
            flops=point.flops,
            accuracy=statistics.fmean(point.accuracies),
        )
        for place in found
        for record in place.cell.done
        for point in told_curve(record)
        if point.accuracies
    ]


def reported_rows(path: Path = REPORTED_CSV) -> list[LeaderboardRow]:
    """The figures that papers print, one for each method, dataset and ipc."""
    rows = [_reported(*key, figure) for key, figure in load_reported(path).items()]
    return sorted(rows, key=lambda row: (row.dataset, row.ipc, row.method))


def regime(record: Record) -> str:
    """What the networks were told of the images, as recorded: `hard labels`, `stored soft labels`, ..."""
    return UNKNOWN if record.regime is None else REGIMES[record.regime]


def label_kind(record: Record) -> str:
    """`hard` or `soft`, of the labels that are stored with the set, as recorded."""
    return record.label_kind or UNKNOWN


def augmentation(record: Record) -> str:
    """The strategy that was really used while networks were trained, as recorded."""
    return UNKNOWN if record.augmentation is None else record.augmentation or "none"


def link_of(source: str) -> str:
    """The web address that a source begins with; empty if there is none."""
    first = source.split(maxsplit=1)[0] if source.strip() else ""
    return first if first.startswith(("https://", "http://")) else ""


def _places(found: Scored) -> Iterator[PlacedCell]:
    for (row, ipc), cell in found.cells.items():
        yield PlacedCell(found.track, row, ipc, cell, found.rankings.get((row, ipc)), found.code_of(cell))
    if found.ceiling.done or found.ceiling.missed:
        code = found.code_of(found.ceiling)
        yield PlacedCell(found.track, Row(CEILING, ""), ALL_IMAGES, found.ceiling, None, code)


def records_of(place: PlacedCell) -> tuple[Record, ...]:
    """All records of a row, those with a result first."""
    return (*place.cell.done, *place.cell.missed)


def _measured(place: PlacedCell) -> LeaderboardRow:
    track, cell, records = place.track, place.cell, records_of(place)
    submitted = any(record.submission is not None for record in records)
    facts = LeaderboardRow(
        label=place.row.label,
        method=place.row.method,
        dataset=track.dataset,
        ipc=place.ipc,
        scale=track.scale,
        arch=track.arch,
        network=track.network,
        protocol=track.protocol,
        regime=_shared(regime(record) for record in cell.done),
        labels=_shared(label_kind(record) for record in cell.done),
        augmentation=_shared(augmentation(record) for record in cell.done),
        kind=SUBMITTED if submitted else MEASURED,
        track=_heading(track),
        conditions=_conditions(track),
        figure=", ".join(cell.missing) or MISSING,
        note="; ".join([*_code_notes(place.code), *filter(None, [_misses(cell)])]),
        records=tuple(Seed(record.trial.seed, record.trial.id) for record in records),
    )
    if not cell.groups:
        return facts
    found = place.ranking.estimate if place.ranking else estimate(cell.groups)
    return msgspec.structs.replace(
        facts,
        **_figures(found, facts.note),
        counts=cell.counts,
        **_ranking(place),
        **_costs(cell.done),
    )


def _figures(found: Estimate, misses: str) -> dict[str, Any]:
    interval = ""
    if found.low is not None and found.high is not None:
        interval = f"{percent(found.low)} to {percent(found.high)}"
    return {
        "accuracy": found.mean,
        "low": found.low,
        "high": found.high,
        "figure": found.text,
        "interval": interval,
        "note": "; ".join(filter(None, (found.note, misses))),
    }


def _ranking(placed: PlacedCell) -> dict[str, Any]:
    """Which ranks the intervals leave open, or why a row has none."""
    ranking = placed.ranking
    if ranking is None:
        if placed.row.method == CEILING:
            return {"place": "all training images: the ceiling, no competitor"}
        beyond = overspent(placed.track.budget_flops, placed.cell)
        return {"place": f"not ranked: {'beyond the budget' if beyond else 'settings set by hand'}"}
    first, last = ranking.rank
    rank = f"{first}" if first == last else f"{first} to {last}"
    place = f"rank {rank} of {ranking.ranked}" if ranking.ranked > 1 else ""
    return {"place": place, "best": ranking.best, "tied": ranking.tied and not ranking.best}


def _costs(records: Sequence[Record]) -> dict[str, Any]:
    """Costs of distillation, mean over the seeds and the highest memory; times of one machine only."""
    costs = costs_of(records)
    several = len({hardware(record.made_in) for record in records}) > 1
    time = None if several else costs.distill_seconds
    on_device = costs.peak_device_bytes is not None
    highest = costs.peak_device_bytes if on_device else costs.peak_host_bytes
    where = "" if highest is None else " GPU" if on_device else " host"
    return {
        "seconds": time,
        "seconds_text": "several machines" if several else _with_unit(seconds(time), "s"),
        "flops": costs.flops,
        "flops_text": count(costs.flops),
        "memory_bytes": highest,
        "memory_text": f"{memory(highest)}{where}",
    }


def _with_unit(text: str, unit: str) -> str:
    return text if text == MISSING else f"{text} {unit}"


def _shared(facts: Iterable[str]) -> str:
    """What all records agree on; all readings where they differ, `not recorded` where there is none."""
    return " / ".join(sorted(set(facts))) or UNKNOWN


def _heading(track: Track) -> str:
    """Name of a track that no other has: two image folders of one name differ in what they list."""
    return f"{track.heading} · folder {track.listing[:DIGEST_LETTERS]}" if track.listing else track.heading


def _conditions(track: Track) -> str:
    """What a track fixes beyond dataset, scale and network: `dc-cpu 1.0, fp32`."""
    extras: Iterator[tuple[str, bool]] = iter(
        (
            ("ZCA", track.zca),
            (f"{track.image_size} px", track.image_size is not None),
            (f"{count(track.budget_flops)}FLOPs budget", track.budget_flops is not None),
            ("distilled from nine tenths of train", track.curve > 0),
        )
    )
    parts = [f"{track.protocol} {track.protocol_version}", track.precision]
    return ", ".join(parts + [text for text, present in extras if present])


def _code_notes(code: Iterable[CodeState]) -> list[str]:
    """What is to be known of a figure that is not of the present code."""
    return [f"measured by {state}: {CODE_WORDS[state]}" for state in code if state in CODE_WORDS]


def _misses(cell: Cell) -> str:
    return "; ".join(
        f"seed {record.trial.seed} {record.status}: {one_line(record.reason or 'no reason was recorded')}"
        for record in cell.missed
    )


def _reported(method: str, dataset: str, ipc: int, figure: ReportedFigure) -> LeaderboardRow:
    return LeaderboardRow(
        label=method,
        method=method,
        dataset=dataset,
        ipc=ipc,
        scale="paper",
        arch=figure.arch,
        network=figure.arch,
        protocol=OF_THE_PAPER,
        regime=UNKNOWN,
        labels=figure.label or UNKNOWN,
        augmentation=UNKNOWN,
        kind=REPORTED,
        track=f"reported by papers · {dataset}",
        conditions=f"{OF_THE_PAPER} settings",
        accuracy=figure.mean,
        figure=figure.bare_text,
        note="" if figure.traced else f"{UNTRACED} not yet traced to a printed source",
        source=figure.source if figure.traced else "",
        url=link_of(figure.source),
    )
