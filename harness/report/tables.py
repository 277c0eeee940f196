"""Markdown tables of a set of records: accuracies by method and ipc, and what they cost, per track."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

from harness.records import Provenance, Record
from harness.report.markdown import MISSING, count, memory, one_line, plural, seconds, table
from harness.report.reported import UNTRACED, ReportedFigures, load_reported
from harness.report.tracks import EMPTY, Cell, Grid, Row, Track, by_track, grid_of

T = TypeVar("T")
Tables: TypeAlias = Mapping[Track, str]

LEGEND = (
    "Accuracies are test accuracies in percent after the last epoch: mean ± sample standard deviation over"
    " all networks of all seeds, and in brackets distillation seeds × networks trained from scratch on each"
    f" distilled set. Bold is the best of a column, {MISSING} was not run. *Reported* figures are those that"
    " papers print; their sources are in results/reported.csv."
)
COST_LEGEND = (
    "Cost of one trial, mean over the seeds; memory, FLOPs and images forwarded are those of distillation,"
    " memory is the highest of any seed, and evaluation is that of all networks of a trial."
)
FLOOR = "random"  # the method that all others should beat
COST_HEADERS = (
    "method",
    "settings",
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


def summary_markdown(records: Sequence[Record]) -> str:
    """The tables of these records with the legend, as `run` and `report` print them."""
    return with_legend(tables_by_track(records, load_reported()))


def with_legend(tables: Tables, level: int = 2) -> str:
    """The legend, then one section for each track, under headings of the given level."""
    return f"{LEGEND}\n\n{_sections(tables, level)}"


def sections(records: Iterable[Record], reported: ReportedFigures, level: int = 2) -> str:
    """One section for each track, under headings of the given level."""
    return _sections(tables_by_track(records, reported), level)


def tables_by_track(records: Iterable[Record], reported: ReportedFigures) -> Tables:
    """What stands under the heading of each track, tracks in the order in which they are shown."""
    return {track: track_markdown(track, members, reported) for track, members in by_track(records).items()}


def _sections(tables: Tables, level: int) -> str:
    return "\n".join(f"{'#' * level} {track.heading}\n\n{text}" for track, text in tables.items())


def track_markdown(track: Track, records: Sequence[Record], reported: ReportedFigures) -> str:
    """Both tables of one track, each with the line that says under which conditions it came about."""
    grid = grid_of(records)
    figures = reported if _comparable(track) else {}
    blocks = [
        _accuracy_table(track, grid, figures),
        _conditions(track, records),
        *_reported_notes(track, grid, figures, reported),
        "\n".join(_misses(grid)),
        _below_floor(grid),
    ]
    if any(cell.done for cell in grid.values()):
        blocks += [_cost_table(grid), f"{_conditions(track, records)} {COST_LEGEND}"]
    return "\n\n".join(block for block in blocks if block) + "\n"


def hardware(provenance: Provenance | None) -> str:
    """Where a trial ran, for people: the GPU's name, or the CPU's with the number of threads."""
    if provenance is None:
        return "unknown hardware"
    if provenance.device != "cpu":
        return provenance.device
    return f"{one_line(provenance.cpu or 'unknown CPU')} with {plural(provenance.threads, 'thread')}"


def _accuracy_table(track: Track, grid: Grid, figures: ReportedFigures) -> str:
    rows = list(dict.fromkeys(row for row, _ in grid))
    columns = {"method": [row.label for row in rows]}
    for ipc in sorted({ipc for _, ipc in grid}):
        column = [grid.get((row, ipc), EMPTY) for row in rows]
        best = _best(column)
        columns[f"ipc {ipc}"] = [cell.text(best) for cell in column]
        printed = [figures.get((row.method, track.dataset, ipc)) for row in rows]
        if any(printed):
            columns[f"ipc {ipc} reported"] = [figure.text if figure else MISSING for figure in printed]
    return table(list(columns), list(zip(*columns.values(), strict=True)))


def _best(column: Iterable[Cell]) -> float | None:
    """Highest mean of a column as shown; None if there is nothing to compare."""
    means = [cell.mean for cell in column if cell.mean is not None]
    return max(means) if len(means) > 1 else None


def _conditions(track: Track, records: Iterable[Record]) -> str:
    places = sorted({hardware(record.provenance) for record in records if record.status == "done"})
    measured = f" Measured on {'; '.join(places)}." if places else ""
    protocol = f"{track.protocol} {track.protocol_version}"
    folder = f", image folder {track.listing}" if track.listing else ""
    return f"Protocol {protocol}, network {track.arch}, {track.precision}{folder}.{measured}"


def _comparable(track: Track) -> bool:
    """Whether papers speak of the same data: the dataset itself, at its size, with the field's network."""
    itself = track.dataset_source == track.dataset and track.image_size is None and not track.zca
    return itself and track.budget_flops is None and track.arch.startswith("ConvNet")


def _reported_notes(
    track: Track,
    grid: Grid,
    figures: ReportedFigures,
    reported: ReportedFigures,
) -> Iterator[str]:
    printed = (figures.get((row.method, track.dataset, ipc)) for row, ipc in grid)
    shown = [figure for figure in printed if figure]
    if shown and track.scale == "paper":
        yield "*Reported*: printed by papers and not measured here; each paper has its own settings."
    elif shown:
        yield (
            "*Reported*: printed by papers and not measured here. They were obtained at paper scale with the"
            " papers' own settings and networks, so they are **not comparable** with the"
            f" {track.scale}-scale figures beside them."
        )
    if not all(figure.traced for figure in shown):
        yield f"{UNTRACED} not yet traced to a printed source."
    for original in sorted({dataset for _, dataset, _ in reported}):
        if track.dataset.startswith(f"{original}-"):
            yield (
                f"{track.dataset} is not {original}: what papers report for {original} does not apply to it"
                " and is not shown."
            )


def _misses(grid: Grid) -> Iterator[str]:
    """One list item for each trial without a result, with the reason."""
    for (row, ipc), cell in grid.items():
        for record in cell.missed:
            reason = one_line(record.reason or "no reason was recorded")
            yield f"- {row.label} · ipc {ipc} · seed {record.trial.seed}: {record.status}: {reason}"


def _below_floor(grid: Grid) -> str:
    """Which cells lie below random real images at the same ipc; empty if none does or nothing is random."""
    floors = {ipc: cell.mean for (row, ipc), cell in grid.items() if row.method == FLOOR}
    below: dict[str, list[int]] = defaultdict(list)
    for (row, ipc), cell in grid.items():
        floor = floors.get(ipc)
        if floor is not None and cell.mean is not None and cell.mean < floor:
            below[row.label].append(ipc)
    if not below:
        return ""
    named = "; ".join(f"{label} (ipc {', '.join(map(str, sorted(ipcs)))})" for label, ipcs in below.items())
    return f"Below `{FLOOR}` at the same ipc, for reasons that their files under `methods/` give: {named}."


def _cost_table(grid: Grid) -> str:
    """Costs by method, ipc and, where there are several, hardware: seconds of two machines do not average."""
    groups: dict[tuple[Row, int, str], list[Record]] = defaultdict(list)
    for (row, ipc), cell in grid.items():
        for record in cell.done:
            groups[row, ipc, hardware(record.provenance)].append(record)
    several = len({place for _, _, place in groups}) > 1
    lines = [
        [row.label, _settings(records), *([place] if several else []), str(ipc), *_costs(records)]
        for (row, ipc, place), records in groups.items()
    ]
    headers = [*COST_HEADERS[:2], *(["hardware"] if several else []), *COST_HEADERS[2:]]
    return table(headers, lines, text_columns=3 if several else 2)


def _settings(records: Iterable[Record]) -> str:
    return " / ".join(sorted({record.trial.settings_source for record in records}))


def _costs(records: Sequence[Record]) -> list[str]:
    distill = [record.distill for record in records]
    evaluate = [record.evaluate for record in records]
    return [
        seconds(_mean(distill, lambda cost: cost.seconds)),
        seconds(_mean(evaluate, lambda cost: cost.seconds)),
        memory(_highest(distill, lambda cost: cost.peak_host_bytes)),
        memory(_highest(distill, lambda cost: cost.peak_device_bytes)),
        count(_mean(distill, lambda cost: cost.flops)),
        count(_mean(distill, lambda cost: cost.images_forwarded)),
        memory(_mean(records, lambda record: record.stored_bytes)),
        count(_mean(records, lambda record: record.decoded_images)),
    ]


def _mean(parts: Iterable[T | None], fact: Callable[[T], float | None]) -> float | None:
    """Mean of a fact over the parts that know it; None if none does."""
    known = _known(parts, fact)
    return statistics.fmean(known) if known else None


def _highest(parts: Iterable[T | None], fact: Callable[[T], float | None]) -> float | None:
    return max(_known(parts, fact), default=None)


def _known(parts: Iterable[T | None], fact: Callable[[T], float | None]) -> list[float]:
    facts = (fact(part) for part in parts if part is not None)
    return [value for value in facts if value is not None]
