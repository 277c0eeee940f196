"""Distilled images: those of one method, methods side by side, and the nearest real ones below them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.core.errors import UserError
from harness.engine.records import Record
from harness.report import gallery as pictures
from harness.report.plots.scenes import Absent, Drawn, Outcome, Scene, safe
from harness.report.plots.style import FigureLayout, figure_of
from harness.report.tracks import Row

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from harness.report.nearest import Matches

MOST_CLASSES, MOST_IMAGES = 10, 10
METHODS_A_PAGE = 4
TILE_INCHES = 0.55
CAPTION_SHARE = 0.34  # height of the strip below a real image for its distance, in tiles
NO_SETS = (
    "no distilled set (.safetensors) lies beside the records, with which they are not committed;"
    " `python -m harness run` with the same options and another --results folder makes them"
)


class Tiles(NamedTuple):
    """Rows of images (None leaves a place white) with their headings, and captions below their images."""

    rows: Sequence[Sequence[NDArray[np.uint8] | None]]
    row_names: Sequence[str]
    column_names: Sequence[str]
    captions: Sequence[Sequence[str]] = ()


class StoredSet(NamedTuple):
    """A record whose distilled set lies beside it."""

    row: Row
    record: Record
    path: Path


def gallery(scene: Scene) -> Iterator[Outcome]:
    """A figure for each method and ipc: a row for each class, a column for each stored image."""
    found = [(ipc, entry) for ipc in scene.ipcs for entry in _found(scene, ipc)]
    if not found:
        yield Absent(NO_SETS)
    for ipc, entry in found:
        try:
            sheet = pictures.load_sheet(entry.path)
        except UserError as error:
            yield Absent(str(error))
            continue
        yield Drawn(f"gallery-{safe(entry.row.label)}-ipc{ipc}", _gallery(scene, entry, sheet))


def side_by_side(scene: Scene) -> Iterator[Outcome]:
    """A figure for each ipc: a row for each method, its first stored image of each class."""
    drawn = False
    for ipc in scene.ipcs:
        sheets, problems = _sheets(_found(scene, ipc))
        yield from map(Absent, problems)
        if len(sheets) > 1:
            drawn = True
            yield Drawn(f"compare-ipc{ipc}", _compare(scene, ipc, sheets))
    if not drawn:
        yield Absent(f"fewer than two methods to put side by side: {NO_SETS}")


def nearest(scene: Scene) -> Iterator[Outcome]:
    """Figures of up to four methods for each ipc: an image of each class above the nearest real one."""
    found = {ipc: entries for ipc in scene.ipcs if (entries := _found(scene, ipc))}
    if not found:
        yield Absent(NO_SETS)
        return
    from harness.report.nearest import nearest_real, train_split

    try:
        data = train_split(next(iter(found.values()))[0].record, scene.data_dir)
        for ipc, entries in found.items():
            matches = [(entry, nearest_real(entry.path, data)) for entry in entries]
            pages = [matches[k : k + METHODS_A_PAGE] for k in range(0, len(matches), METHODS_A_PAGE)]
            for number, page in enumerate(pages, start=1):
                part = f"-{number}" if len(pages) > 1 else ""
                yield Drawn(f"nearest-ipc{ipc}{part}", _nearest(scene, ipc, page))
    except UserError as error:
        yield Absent(str(error))


def _found(scene: Scene, ipc: int) -> list[StoredSet]:
    """For each method the lowest seed whose distilled set lies beside its record."""
    entries = []
    for row in scene.rows:
        for record in scene.done(row, ipc):
            path = record.set_path(scene.results)
            if path.is_file():
                entries.append(StoredSet(row, record, path))
                break
    return entries


def _sheets(entries: Sequence[StoredSet]) -> tuple[list[tuple[StoredSet, pictures.SetImages]], list[str]]:
    sheets, problems = [], []
    for entry in entries:
        try:
            sheets.append((entry, pictures.load_sheet(entry.path)))
        except UserError as error:
            problems.append(str(error))
    return sheets, problems


def _gallery(scene: Scene, entry: StoredSet, sheet: pictures.SetImages) -> Figure:
    members = sheet.by_class()[:MOST_CLASSES]
    longest = max(map(len, members), default=0)
    numbers = [str(number + 1) for number in range(min(MOST_IMAGES, longest))]
    rows = [[sheet.pixels[m[k]] if k < len(m) else None for k in range(len(numbers))] for m in members]
    names = sheet.class_names[: len(rows)]
    # Lying rather than standing: few images of many classes would make a tall figure.
    lying = len(numbers) < len(names)
    tiles = Tiles(list(zip(*rows, strict=True)), numbers, names) if lying else Tiles(rows, names, numbers)
    note = (
        f"The stored images of seed {entry.record.trial.seed} as pixels in [0, 1], values outside cut off; a"
        f" {'column' if lying else 'row'} for each class. {_limits_note(len(sheet.class_names), longest)}"
        f"{_formation_note([sheet.factor])}"
    )
    title = f"Distilled by {entry.row.label}, ipc {entry.record.trial.ipc}"
    return _draw(tiles, FigureLayout(title, scene.track.heading, note))


def _compare(scene: Scene, ipc: int, sheets: Sequence[tuple[StoredSet, pictures.SetImages]]) -> Figure:
    names = sheets[0][1].class_names
    rows = []
    for _, sheet in sheets:
        members = sheet.by_class()[:MOST_CLASSES]
        rows.append([sheet.pixels[m[0]] if len(m) else None for m in members])
    labels = [_label(scene, entry) for entry, _ in sheets]
    note = (
        "The first stored image of each class, a row for each method, the best on top; in brackets its test "
        f"accuracy (%), mean over the seeds. {_limits_note(len(names), 0)}"
        f"{_formation_note([sheet.factor for _, sheet in sheets])}{_seeds_note([e for e, _ in sheets])}"
    )
    tiles = Tiles(rows, labels, names[:MOST_CLASSES])
    return _draw(tiles, FigureLayout(f"Methods side by side, ipc {ipc}", scene.track.heading, note))


def _nearest(scene: Scene, ipc: int, page: Sequence[tuple[StoredSet, Matches]]) -> Figure:
    names = page[0][1].class_names[:MOST_CLASSES]
    rows: list[list[NDArray[np.uint8] | None]] = []
    labels: list[str] = []
    captions: list[list[str]] = []
    for entry, match in page:
        places = [_place(match, index) for index in range(len(names))]
        rows.append([None if place is None else match.synthetic[place] for place in places])
        rows.append([None if place is None else match.real[place] for place in places])
        labels += [entry.row.label, "nearest real"]
        captions += [[], ["" if place is None else _caption(match, place) for place in places]]
    note = (
        "Above: a decoded synthetic image of each class. Below: the nearest of all images of its train split"
        " and its distance, the root mean squared pixel difference in [0, 1]; where it is of another class,"
        f" that is named. {_limits_note(len(page[0][1].class_names), 0)}"
        f"{_seeds_note([entry for entry, _ in page])}"
    )
    tiles = Tiles(rows, labels, names, captions)
    return _draw(tiles, FigureLayout(f"Nearest real images, ipc {ipc}", scene.track.heading, note))


def _place(match: Matches, index: int) -> int | None:
    """Row of the first image of a class; None if the set has none of it."""
    return next((place for place, found in enumerate(match.classes.tolist()) if found == index), None)


def _caption(match: Matches, place: int) -> str:
    real = int(match.real_classes[place])
    other = "" if real == match.classes[place] else f"\n{match.class_names[real]}"
    return f"{match.distances[place]:.3f}{other}"


def _draw(tiles: Tiles, head: FigureLayout) -> Figure:
    columns = max(1, len(tiles.column_names))
    below = [CAPTION_SHARE if captions else 0.0 for captions in tiles.captions] or [0.0] * len(tiles.rows)
    longest = max(map(len, tiles.row_names), default=0)
    width = max(5.2, 0.5 + 0.075 * longest + TILE_INCHES * columns)
    height = 0.55 + TILE_INCHES * (len(tiles.rows) + sum(below))
    figure, panels = figure_of(dataclasses.replace(head, width=width, height=height))
    axes = panels[0]
    mosaic = pictures.mosaic(tiles.rows, below)
    middle = mosaic.height / 2, mosaic.width / 2
    axes.imshow(mosaic.canvas, interpolation="nearest")
    axes.set_anchor("W")
    axes.set_yticks([top + middle[0] for top in mosaic.tops], tiles.row_names)
    _name_columns(axes, [left + middle[1] for left in mosaic.lefts[:columns]], tiles.column_names)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for top, captions in zip(mosaic.tops, tiles.captions, strict=False):
        for left, text in zip(mosaic.lefts, captions, strict=False):
            place = left + middle[1], top + mosaic.height + 1
            axes.text(*place, text, ha="center", va="top", size=5.8, linespacing=1.0)
    return figure


def _name_columns(axes: Axes, places: Sequence[float], names: Sequence[str]) -> None:
    """Names above the columns, slanted where they are long."""
    slanted = max(map(len, names), default=0) > 6
    axes.set_xticks(
        places,
        names,
        rotation=30 if slanted else 0,
        ha="left" if slanted else "center",
        rotation_mode="anchor",
    )
    axes.xaxis.tick_top()


def _label(scene: Scene, entry: StoredSet) -> str:
    found = scene.estimates[entry.row, entry.record.trial.ipc]
    return f"{entry.row.label} ({100 * found.mean:.1f})"


def _limits_note(classes: int, images: int) -> str:
    """What is left out, as sentences with a blank at the end; empty if all is shown."""
    some = f"The first {MOST_CLASSES} of {classes} classes. " if classes > MOST_CLASSES else ""
    return some + (f"The first {MOST_IMAGES} of {images} images. " if images > MOST_IMAGES else "")


def _formation_note(factors: Sequence[int]) -> str:
    tiled = sorted({factor for factor in factors if factor > 1})
    if not tiled:
        return ""
    return f"An image of {' or '.join(f'{n}x{n}' for n in tiled)} tiles decodes to as many training images. "


def _seeds_note(entries: Sequence[StoredSet]) -> str:
    seeds = sorted({entry.record.trial.seed for entry in entries})
    return f"Seed {', '.join(map(str, seeds))}."
