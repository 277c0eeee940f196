"""What a figure may show: the chosen records of one track, as cells with their estimates."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from harness.core.errors import UnknownNameError, UserError
from harness.engine.records import CEILING, Record
from harness.report.reported import ALL_IMAGES, load_reported
from harness.report.stats import Estimate, estimates
from harness.report.tracks import Cell, Grid, Row, Track, by_track, grid_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEVERAL_ARCHS = "several networks"


@dataclass(frozen=True)
class Selection:
    """Which figures of which records are wanted; an empty choice is all of them."""

    kinds: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    ipcs: tuple[int, ...] = ()

    def of(self, records: Sequence[Record]) -> list[Record]:
        """The chosen records; an error for a name that no record bears. `whole` is never left out."""
        _known("dataset", self.datasets, {record.trial.dataset for record in records})
        _known("method", self.methods, {record.trial.method for record in records})
        _known("scale", self.scales, {record.trial.scale for record in records})
        _known("ipc", map(str, self.ipcs), {str(record.trial.ipc) for record in records})
        return [record for record in records if self._wants(record)]

    def _wants(self, record: Record) -> bool:
        trial = record.trial
        whole = trial.method == CEILING
        return (
            (not self.datasets or trial.dataset in self.datasets)
            and (not self.scales or trial.scale in self.scales)
            and (not self.methods or whole or trial.method in self.methods)
            and (not self.ipcs or whole or trial.ipc in self.ipcs)
        )


class Drawn(NamedTuple):
    """A finished figure and its file's name without folder and suffix."""

    name: str
    figure: Figure


class Absent(NamedTuple):
    """Why something could not be drawn from the records, and what would mend that."""

    reason: str


Outcome: TypeAlias = Drawn | Absent


class ReferenceAccuracy(NamedTuple):
    """Accuracy on the whole train split, in percent: measured here, or reported by a paper."""

    percent: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class Scene:
    """The records of one track, and what lies beside them."""

    track: Track
    records: tuple[Record, ...]
    results: Path
    data_dir: Path
    cells: Grid = field(repr=False)

    @classmethod
    def of(cls, track: Track, records: Sequence[Record], results: Path, data_dir: Path) -> Scene:
        """Gather the records of a track into cells."""
        return cls(track, tuple(records), results, data_dir, grid_of(records))

    @cached_property
    def estimates(self) -> Mapping[tuple[Row, int], Estimate]:
        """Estimates of the cells that were measured, `whole` left out; fractions in [0, 1]."""
        measured = {key: cell for key, cell in self.cells.items() if key[0].method != CEILING}
        return estimates_of(measured, lambda record: record.accuracies)

    @cached_property
    def rows(self) -> list[Row]:
        """Measured rows, the best at the highest ipc first; those without a figure there come later."""
        best: dict[Row, tuple[int, float]] = {}
        for (row, ipc), estimate in self.estimates.items():
            best[row] = max(best.get(row, (0, 0.0)), (ipc, estimate.mean))
        return sorted(best, key=lambda row: (-best[row][0], -best[row][1], row))

    @property
    def ipcs(self) -> list[int]:
        """Measured numbers of images per class, ascending."""
        return sorted({ipc for _, ipc in self.estimates})

    def done(self, row: Row, ipc: int) -> tuple[Record, ...]:
        """Finished records of a cell."""
        cell = self.cells.get((row, ipc))
        return cell.done if cell else ()

    @cached_property
    def reference(self) -> ReferenceAccuracy | None:
        """Accuracy on the whole train split: measured, else reported where papers speak of the same."""
        measured = {key: cell for key, cell in self.cells.items() if key[0].method == CEILING}
        found = list(estimates_of(measured, lambda record: record.accuracies).values())
        if found:
            whole = found[-1]
            text = f"whole train split, measured: {100 * whole.mean:.1f}"
            return ReferenceAccuracy(100 * whole.mean, percent(whole.low), percent(whole.high), text)
        return reported_whole(self.track)

    def seeds_note(self) -> str:
        """How many seeds and networks the means are of."""
        seeds = span({estimate.seeds for estimate in self.estimates.values()})
        networks = span({estimate.networks for estimate in self.estimates.values()})
        distilled = f"{seeds} distillation {noun(seeds, 'seed')}"
        return f"means over {distilled}, {networks} {noun(networks, 'network')} in all"


def scenes_of(records: Iterable[Record], results: Path, data_dir: Path) -> list[Scene]:
    """One scene for each track, in the order in which tracks are shown."""
    return [Scene.of(track, found, results, data_dir) for track, found in by_track(records).items()]


def scenes_across_archs(scenes: Sequence[Scene]) -> list[Scene]:
    """Scenes whose tracks differ in nothing but the networks, distilling or evaluated, put together."""
    together: dict[Track, list[Scene]] = {}
    for scene in scenes:
        track = dataclasses.replace(scene.track, arch=SEVERAL_ARCHS, eval_arch="")
        together.setdefault(track, []).append(scene)
    return [
        Scene.of(track, [r for scene in found for r in scene.records], found[0].results, found[0].data_dir)
        for track, found in together.items()
    ]


def estimates_of(
    cells: Mapping[tuple[Row, int], Cell], values: Callable[[Record], Sequence[float]]
) -> dict[tuple[Row, int], Estimate]:
    """Estimate of each cell over `values` of its finished records; cells without any are left out."""
    groups = {
        key: {record.trial.seed: values(record) for record in cell.done if len(values(record))}
        for key, cell in cells.items()
    }
    return estimates({key: seeds for key, seeds in groups.items() if seeds})


def percent(fraction: float | None) -> float | None:
    """A fraction as percent; None stays None."""
    return None if fraction is None else 100 * fraction


def span(numbers: set[int]) -> str:
    """`3`, or `2 to 5` of unequal numbers."""
    low, high = min(numbers, default=0), max(numbers, default=0)
    return str(low) if low == high else f"{low} to {high}"


def noun(number: str, singular: str) -> str:
    """The noun in the number that `span` gave."""
    return singular if number == "1" else f"{singular}s"


def reported_whole(track: Track) -> ReferenceAccuracy | None:
    """What papers report for the whole train split, where the track is one that papers speak of, else None.

    That is a dataset itself, at its own size and not whitened, at paper scale with the field's ConvNet.
    """
    figure = load_reported().get((CEILING, track.dataset, ALL_IMAGES))
    if figure is None or track.scale != "paper" or track.curve or not track.as_in_papers:
        return None
    value = float(figure.accuracy_mean)
    return ReferenceAccuracy(value, None, None, f"whole train split, reported: {value:g} ({figure.arch})")


def slugs(tracks: Sequence[Track]) -> dict[Track, str]:
    """A folder's name for each track: its heading, and a hash where two tracks have the same heading."""
    plain = {track: _slug(track.heading) for track in tracks}
    named = list(plain.values())
    return {
        track: slug if named.count(slug) == 1 else f"{slug}_{_short_hash(repr(track))}"
        for track, slug in plain.items()
    }


def safe(name: str) -> str:
    """A name as part of a file's name: letters, digits and `.+@_-` only."""
    return re.sub(r"[^A-Za-z0-9.+@_-]+", "-", name).strip("-")


def _slug(heading: str) -> str:
    return "_".join(safe(part) for part in heading.split(" · "))


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _known(kind: str, wanted: Iterable[str], present: set[str]) -> None:
    if not present:
        raise UserError("there are no records to draw; run `python -m harness run ...` first")
    for name in wanted:
        if name not in present:
            raise UnknownNameError(f"{kind} (no record has it)", name, present)
