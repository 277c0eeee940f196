"""`python -m harness compare A B`: two methods, two results folders, or results at two git revisions.

Cells are compared within a track at one ipc: the difference A - B with its 95 % interval, and what A costs
in units of B. Seconds are compared on the same hardware only. Where the networks' predictions lie beside the
records of both, single test images are compared as well (`harness.report.by_image`). A is the baseline and B
the candidate when a run of CI is to fail on a loss.
"""

from __future__ import annotations

import statistics
import subprocess
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import msgspec

import methods
from harness.core.errors import UnknownNameError, UserError
from harness.core.text import MISSING, plural, table
from harness.engine.provenance import SUBMITTED
from harness.engine.record_files import collect
from harness.engine.records import Record, hardware
from harness.report import by_image
from harness.report.by_image import Paths, compare_images, images_table, kept
from harness.report.frames import print_problems
from harness.report.paired import Paired
from harness.report.standing import told_cost
from harness.report.stats import Difference, differences
from harness.report.tracks import Track, by_track

Kind = Literal["method", "folder", "revision"]
Verdict = Literal["better", "worse", "undecided"]

LEGEND = (
    "Differences of test accuracy in percentage points, with a 95 % interval over the seeds; n is the number"
    " of seeds, paired where both sides share them. Costs are those of distillation: A's over B's, memory the"
    " highest of any seed; seconds only where both ran on the same hardware."
)


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its label, its records, and where predictions of theirs lie, by their ids."""

    label: str
    records: Sequence[Record]
    predictions: Paths = field(default_factory=dict)


@dataclass(frozen=True)
class Key:
    """What two sides are compared in: a track, an ipc, and the method's row where there are several."""

    track: Track
    ipc: int
    method: str
    settings: str = ""


@dataclass(frozen=True)
class Ratios:
    """What A costs in units of B; None where a side does not know it, or ran elsewhere."""

    seconds: float | None
    flops: float | None
    host_bytes: float | None
    device_bytes: float | None


@dataclass(frozen=True)
class Compared:
    """One cell: the difference A - B as a fraction, the ratios of costs A / B, what single images show."""

    key: Key
    difference: Difference
    ratios: Ratios
    images: Paired | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether A is better or worse; undecided if the interval holds 0 or is not known."""
        if not self.difference.clear:
            return "undecided"
        return "better" if self.difference.mean > 0 else "worse"

    def loses(self, points: float) -> bool:
        """Whether B is below A by more than so many percentage points with the whole interval."""
        return self.difference.low is not None and 100 * self.difference.low > points


@dataclass(frozen=True)
class Comparison:
    """All cells that both sides have, and one line for whatever could not be compared."""

    a: str
    b: str
    cells: Sequence[Compared]
    notes: Sequence[str]


def command(a: str, b: str, results: Path, *, as_json: bool, fail_below: float | None) -> int:
    """Compare A with B and print the table and the verdict, or one JSON object; returns the exit status.

    Two methods are compared within `results`. 1 if B is worse than A by more than `fail_below` percentage
    points in any cell, its whole interval included, or if a file is no record. UserError if a side is
    nothing known, the two are of different kinds, or they have no cell in common.
    """
    with sides(a, b, results) as (one, other, problems):
        print_problems(problems)
        comparison = compare(one, other)
    failed = [] if fail_below is None else [cell for cell in comparison.cells if cell.loses(fail_below)]
    if as_json:
        print(_as_json(comparison, fail_below, failed))
    else:
        print(as_text(comparison))
        if fail_below is not None:
            print(gate(comparison, fail_below, failed))
    return int(bool(failed or problems))


def compare(a: Side, b: Side) -> Comparison:
    """The comparison of two sides; UserError if no cell is on both."""
    both = [*a.records, *b.records]
    ours, theirs = _cells(a, both), _cells(b, both)
    notes = _on_other_data(ours, theirs)
    pairs = {}
    for key in sorted(ours.keys() & theirs.keys(), key=_order):
        one, other = _matched(ours[key], theirs[key])
        if one and other:
            pairs[key] = one, other
        else:
            notes.append(f"{_named(key)}: the two sides ran different settings, which do not compare")
    if not pairs:
        raise UserError(
            f"nothing to compare: {a.label} and {b.label} have no finished cell in common{_why(notes)}"
        )
    for label, there, here in ((a.label, ours, theirs), (b.label, theirs, ours)):
        if alone := len(there.keys() - here.keys()):
            notes.append(f"{plural(alone, 'cell')} of {label} alone")
    groups = {key: (_accuracies(one), _accuracies(other)) for key, (one, other) in pairs.items()}
    found = differences(groups)
    images, faults = _images(pairs, a, b)
    cells = [Compared(key, found[key], ratios(*pair), images.get(key)) for key, pair in pairs.items()]
    return Comparison(a.label, b.label, cells, [*notes, *faults])


def verdict(comparison: Comparison) -> str:
    """`bacon is better than idm in 3 of 6 cells, worse in 0, undecided in 3; median FLOPs 1.02x`."""
    counts = Counter(cell.verdict for cell in comparison.cells)
    known = [cell.ratios.flops for cell in comparison.cells if cell.ratios.flops is not None]
    seconds = [cell.ratios.seconds for cell in comparison.cells if cell.ratios.seconds is not None]
    costs = [
        f"median {name} {_times(statistics.median(values))}"
        for name, values in (("FLOPs", known), ("seconds", seconds))
        if values
    ]
    return (
        f"{comparison.a} is better than {comparison.b} in {counts['better']} of"
        f" {plural(len(comparison.cells), 'cell')}, worse in {counts['worse']}, undecided in"
        f" {counts['undecided']}; {', '.join(costs) or 'costs unknown'}"
    )


def as_text(comparison: Comparison) -> str:
    """A Markdown table for each track, the notes, and the verdict."""
    tracks = dict.fromkeys(cell.key.track for cell in comparison.cells)
    parts = [f"A is {comparison.a}, B is {comparison.b}. {LEGEND}"]
    for track in tracks:
        cells = [cell for cell in comparison.cells if cell.key.track == track]
        parts.append(f"## {track.heading}\n\n{_table(cells)}")
        if known := [(cell.key.ipc, cell.key.method, cell.images) for cell in cells if cell.images]:
            parts += [by_image.LEGEND, images_table(known)]
    seen = sum(cell.images is not None for cell in comparison.cells)
    remarks = [
        *comparison.notes,
        *_intervals(comparison.cells),
        by_image.coverage(seen, len(comparison.cells)),
    ]
    parts.append("\n".join(f"- {remark}" for remark in remarks))
    return "\n\n".join([*parts, verdict(comparison)])


def gate(comparison: Comparison, points: float, failed: Sequence[Compared]) -> str:
    """Whether the candidate B holds against the baseline A, in words."""
    unknown = sum(cell.difference.low is None for cell in comparison.cells)
    blind = f" ({plural(unknown, 'cell')} without an interval cannot fail)" if unknown else ""
    lost = f"worse than the baseline {comparison.a} by more than {points:g} points"
    if not failed:
        return f"passed: {comparison.b} is in no cell {lost} with its whole interval{blind}"
    named = "; ".join(_named(cell.key) for cell in failed)
    return f"failed: {comparison.b} is {lost} in {plural(len(failed), 'cell')}: {named}{blind}"


def ratios(a: Sequence[Record], b: Sequence[Record]) -> Ratios:
    """Costs of the distillations of A's records over those of B's."""
    places = {hardware(record.made_in) for record in (*a, *b)}
    known = all(record.made_in is not None for record in (*a, *b))
    same = known and len(places) == 1
    return Ratios(
        seconds=_ratio(a, b, "seconds", statistics.fmean) if same else None,
        flops=_ratio(a, b, "flops", statistics.fmean),
        host_bytes=_ratio(a, b, "peak_host_bytes", max),
        device_bytes=_ratio(a, b, "peak_device_bytes", max),
    )


@contextmanager
def sides(a: str, b: str, results: Path) -> Iterator[tuple[Side, Side, list[str]]]:
    """Both sides, and one line for each file that is no record; UserError if they are not of one kind."""
    kinds = kind_of(a), kind_of(b)
    if "method" in kinds and kinds[0] != kinds[1]:
        raise UserError(
            f"{a!r} is a {kinds[0]} and {b!r} a {kinds[1]}; compare two methods, or two folders or revisions"
            " (./NAME is a folder)"
        )
    if a == b:
        raise UserError(f"{a!r} compared with itself; give two methods, two folders or two revisions")
    if kinds[0] == "method":
        yield _of_methods(a, b, results)
        return
    with tempfile.TemporaryDirectory(prefix="harness-compare-") as temporary:
        places = [Path(temporary, side) for side in "ab"]
        yield _of_folders(
            (a, Path(a) if kinds[0] == "folder" else extract(a, places[0])),
            (b, Path(b) if kinds[1] == "folder" else extract(b, places[1])),
        )


def _of_methods(a: str, b: str, results: Path) -> tuple[Side, Side, list[str]]:
    if not results.is_dir():
        raise UserError(f"no folder {results}; pass the one with your records as --results DIR")
    records, problems = collect(results)
    found = [[record for record in records if record.trial.method == name] for name in (a, b)]
    for name, part in zip((a, b), found, strict=True):
        if not part:
            raise UserError(f"no records of {name} under {results}; make some: `python -m harness run ...`")
    # Under a name that both share, so that their cells meet.
    one, other = (list(map(_nameless, part)) for part in found)
    places = [kept(part, results) for part in found]
    return Side(a, one, places[0]), Side(b, other, places[1]), problems


def _of_folders(a: tuple[str, Path], b: tuple[str, Path]) -> tuple[Side, Side, list[str]]:
    problems: list[str] = []
    found = []
    for name, folder in (a, b):
        part = collect(folder)
        if not part.records:
            raise UserError(
                f"no readable records in {name}; expected a results folder, or a revision with one"
            )
        found.append(Side(name, part.records, kept(part.records, folder)))
        problems += part.problems
    return found[0], found[1], problems


def kind_of(name: str) -> Kind:
    """What a side names; UserError if it is neither a method, a folder nor a git revision."""
    known = methods.discover()
    submitted = name.endswith(SUBMITTED) and "/" not in name
    if submitted or name in known or (methods.JOIN in name and "/" not in name and _is_composition(name)):
        return "method"
    if Path(name).is_dir():
        return "folder"
    if _revision(name.partition(":")[0]) is not None:
        return "revision"
    if Path(name).exists():
        raise UserError(f"{name} is a file; expected a method, a results folder or a git revision")
    unknown = UnknownNameError("side", name, known)
    raise UserError(f"{unknown}; nor is it a folder or a git revision (REV or REV:FOLDER)")


def extract(text: str, target: Path) -> Path:
    """Write the results folder of `REV` or `REV:FOLDER` under `target` and return where it lies.

    FOLDER is relative to the root of the repository, `results` without one. UserError if it is not there.
    """
    revision, _, folder = text.partition(":")
    folder = folder.strip("/") or "results"
    top = _git("rev-parse", "--show-toplevel")
    archive = top and _git("-C", top.decode().strip(), "archive", "--format=tar", revision, "--", folder)
    if not archive:
        raise UserError(f"git revision {revision} has no folder {folder}; type {revision}:FOLDER")
    target.mkdir(parents=True)
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        for member in files.getmembers():
            # Only what may be a record, and only within the target.
            content = files.extractfile(member) if member.isfile() and member.name.endswith(".json") else None
            place = (target / member.name).resolve()
            if content is not None and place.is_relative_to(target.resolve()):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content.read())
    return target / folder


def _is_composition(name: str) -> bool:
    try:
        methods.find(name)
    except UserError:
        return False
    return True


def _revision(name: str) -> str | None:
    """The commit that a name stands for in the repository around; None if it stands for none."""
    if not name or name.startswith("-"):
        return None
    found = _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    return found.decode().strip() if found else None


def _git(*arguments: str) -> bytes | None:
    """What git prints; None if it fails or is not installed."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def _nameless(record: Record) -> Record:
    return msgspec.structs.replace(record, trial=msgspec.structs.replace(record.trial, method=""))


def _cells(side: Side, among: Sequence[Record]) -> dict[Key, list[Record]]:
    found: dict[Key, list[Record]] = defaultdict(list)
    for track, records in by_track(side.records, among).items():
        for record in records:
            if record.status == "done" and record.accuracies:
                found[Key(track, record.trial.ipc, record.trial.method)].append(record)
    return dict(found)


def _on_other_data(ours: Iterable[Key], theirs: Iterable[Key]) -> list[str]:
    """A line for each cell that both sides have, but from other images."""
    one, other = _data_by_cell(ours), _data_by_cell(theirs)
    return [
        f"{_named(key)}: A was measured on the images {' or '.join(sorted(one[key]))}, B on "
        f"{' or '.join(sorted(other[key]))} (fingerprints of train and test), which do not compare"
        for key in sorted(one.keys() & other.keys(), key=_order)
        if not one[key] & other[key]
    ]


def _data_by_cell(keys: Iterable[Key]) -> dict[Key, set[str]]:
    found: dict[Key, set[str]] = defaultdict(set)
    for key in keys:
        found[replace(key, track=replace(key.track, data=""))].add(key.track.data)
    return found


def _matched(a: Sequence[Record], b: Sequence[Record]) -> tuple[Sequence[Record], Sequence[Record]]:
    """The configuration of each side that is to be compared; nothing if the choice would be arbitrary.

    One that both ran, else each side's only one, else each side's only one that nobody set by hand.
    """
    ours, theirs = _configurations(a), _configurations(b)
    shared = ours.keys() & theirs.keys()
    if len(shared) == 1:
        name = shared.pop()
        return ours[name], theirs[name]
    one, other = _sole(ours), _sole(theirs)
    return (one, other) if one and other else ((), ())


def _configurations(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records of one cell by configuration, one for each seed: that with the most networks."""
    found: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in sorted(records, key=lambda r: (len(r.accuracies), r.id)):
        found[msgspec.json.encode(record.trial.config, order="sorted").decode()][record.trial.seed] = record
    return {config: [seeds[seed] for seed in sorted(seeds)] for config, seeds in found.items()}


def _sole(configurations: Mapping[str, Sequence[Record]]) -> Sequence[Record]:
    if len(configurations) == 1:
        return next(iter(configurations.values()))
    untouched = [
        records
        for records in configurations.values()
        if not any(record.trial.source.overrides for record in records)
    ]
    return untouched[0] if len(untouched) == 1 else ()


def _accuracies(records: Iterable[Record]) -> dict[int, list[float]]:
    return {record.trial.seed: record.accuracies for record in records}


def _images(
    pairs: Mapping[Key, tuple[Sequence[Record], Sequence[Record]]], a: Side, b: Side
) -> tuple[dict[Key, Paired], list[str]]:
    """What predictions say of each cell that has them, and one line for each whose files do not compare."""
    found: dict[Key, Paired] = {}
    faults = []
    for key, (one, other) in pairs.items():
        try:
            images = compare_images(one, other, a.predictions, b.predictions)
        except UserError as error:
            faults.append(f"{_named(key)}: {error}")
            continue
        if images is not None:
            found[key] = images
    return found, faults


def _ratio(
    a: Sequence[Record], b: Sequence[Record], name: str, gather: Callable[[Sequence[float]], float]
) -> float | None:
    """One cost of A over B's; None if a record does not know it or B's is nothing."""
    sides = [[told_cost(record, name) for record in side] for side in (a, b)]
    known = [[float(fact) for fact in side if fact is not None] for side in sides]
    if [len(side) for side in known] != [len(a), len(b)]:
        return None
    one, other = map(gather, known)
    return one / other if other else None


def _order(key: Key) -> tuple[Any, ...]:
    return *key.track.order, key.method, key.ipc


def _named(key: Key) -> str:
    return " · ".join(part for part in (key.track.heading, key.method, f"ipc {key.ipc}") if part)


def _why(notes: Sequence[str]) -> str:
    return f" ({'; '.join(notes)})" if notes else "; tracks, ipc and settings must be equal"


def _intervals(cells: Iterable[Compared]) -> list[str]:
    """Why cells have no interval, each reason once with the number of cells."""
    reasons = Counter(cell.difference.note for cell in cells if cell.difference.low is None)
    return [f"{plural(number, 'cell')} without an interval: {reason}" for reason, number in reasons.items()]


def _table(cells: Sequence[Compared]) -> str:
    headers = [
        "ipc",
        "A - B",
        "95 % interval",
        "n",
        "A is",
        "seconds",
        "FLOPs",
        "host memory",
        "device memory",
    ]
    rows = [
        [
            str(cell.key.ipc),
            _points(cell.difference.mean),
            _interval(cell.difference),
            f"{cell.difference.seeds}{' paired' if cell.difference.paired else ''}",
            cell.verdict,
            *(_times(ratio) for ratio in asdict(cell.ratios).values()),
        ]
        for cell in cells
    ]
    if not any(cell.key.method for cell in cells):
        return table(headers, rows, text_columns=0)
    return table(
        ["method", *headers], [[cell.key.method, *row] for cell, row in zip(cells, rows, strict=True)]
    )


def _points(fraction: float) -> str:
    """Percentage points with their sign; nothing is `+0.0`."""
    return f"{round(100 * fraction, 1) + 0.0:+.1f}"


def _interval(difference: Difference) -> str:
    if difference.low is None or difference.high is None:
        return MISSING
    return f"{_points(difference.low)} to {_points(difference.high)}"


def _times(ratio: float | None) -> str:
    return MISSING if ratio is None else f"{ratio:.3g}x" if ratio < 1 or ratio >= 100 else f"{ratio:.2f}x"


def _as_json(comparison: Comparison, fail_below: float | None, failed: Sequence[Compared]) -> str:
    """Differences as fractions, ratios A / B."""
    content = {
        "a": comparison.a,
        "b": comparison.b,
        "verdict": verdict(comparison),
        "cells": [
            {
                "track": asdict(cell.key.track),
                "method": cell.key.method or None,
                "ipc": cell.key.ipc,
                "difference": asdict(cell.difference),
                "a_is": cell.verdict,
                "cost_ratios": asdict(cell.ratios),
                "images": None if cell.images is None else asdict(cell.images),
            }
            for cell in comparison.cells
        ],
        "notes": list(comparison.notes),
        "fail_below_points": fail_below,
        "failed": [_named(cell.key) for cell in failed],
    }
    return msgspec.json.encode(content).decode()
