"""Heat maps: methods by classes, and distilled sets by the networks that were trained on them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.core.errors import UserError
from harness.engine.records import CEILING, Record
from harness.report.plots.scenes import Absent, Drawn, Outcome, Scene
from harness.report.plots.style import FigureLayout, figure_of
from harness.report.stats import estimates
from harness.report.tracks import Cell, Row, cell_of, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOUR_MAP = "cividis"  # grows steadily lighter, also in grey, and the colour-blind see it alike
MOST_NUMBERED = 12  # columns above which numbers in the cells would be too small
LETTER_INCHES = 0.08
MISSING_COLOUR = "#F2F2F2"


class Heat(NamedTuple):
    """A table of percentages, None where unknown, with its headings."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    x_label: str


class NetworkCell(NamedTuple):
    """Where a mean over seeds stands: the label of its row, its ipc and the evaluated network."""

    label: str
    ipc: int
    network: str


def by_class(scene: Scene) -> Iterator[Outcome]:
    """A figure for each ipc: accuracy of each method on each class, the best method on top."""
    found = False
    for ipc in scene.ipcs:
        means = {row: mean for row in scene.rows if (mean := _class_means(scene, row, ipc))}
        if means:
            found = True
            yield Drawn(f"classes-ipc{ipc}", _classes(scene, ipc, means))
    if not found:
        yield Absent(
            "no record holds accuracies by class; records made by this version do, run the trials again into "
            "another --results folder"
        )


def across_networks(scene: Scene) -> Iterator[Outcome]:
    """A figure for each ipc that was evaluated with several networks: sets by evaluated networks."""
    crossed = any(record.trial.eval_arch for record in scene.records)
    cells = _cells_by_network([r for r in scene.records if r.trial.method != CEILING], crossed=crossed)
    groups = {key: cell.groups for key, cell in cells.items() if cell.groups}
    means = {key: 100 * estimate.mean for key, estimate in estimates(groups).items()}
    drawn = False
    for ipc in sorted({key.ipc for key in means}):
        here = {key: mean for key, mean in means.items() if key.ipc == ipc}
        if len({key.network for key in here}) > 1:
            drawn = True
            yield Drawn(f"networks-ipc{ipc}", _networks(scene, here, crossed=crossed))
    if not drawn:
        names = ", ".join(sorted({record.trial.network for record in scene.records}))
        yield Absent(
            f"all trials of an ipc were evaluated with one network ({names}); ask the sets with others by"
            " `python -m harness evaluate --eval-arch NAME`, see `python -m harness list archs`"
        )


def _cells_by_network(records: Sequence[Record], *, crossed: bool) -> dict[NetworkCell, Cell]:
    """Cells of sets by evaluated network; which network distilled tells sets apart where they are crossed.

    Otherwise each network has been asked about its own sets, and a row is a method.
    """
    homes = {record.trial.arch for record in records}
    gathered: dict[NetworkCell, list[Record]] = defaultdict(list)
    for row, record in zip(rows_of(records), records, strict=True):
        trial = record.trial
        label = f"{row.label}, by {trial.arch}" if crossed and len(homes) > 1 else row.label
        gathered[NetworkCell(label, trial.ipc, trial.network)].append(record)
    return {key: cell_of(found) for key, found in gathered.items()}


def class_names(scene: Scene, classes: int) -> Sequence[str]:
    """Names of the classes from a distilled set beside the records; without one, their indices."""
    from harness.report.gallery import load_sheet

    for record in scene.records:
        path: Path = record.set_path(scene.results)
        if path.is_file():
            try:
                names = load_sheet(path).class_names
            except UserError:
                continue
            if len(names) == classes:
                return names
    return [str(index) for index in range(classes)]


def _class_means(scene: Scene, row: Row, ipc: int) -> list[float]:
    """Percent by class: mean over the seeds' means over networks; empty if no record knows them."""
    seeds = [
        [_mean(column) for column in zip(*record.class_accuracies, strict=True)]
        for record in scene.done(row, ipc)
        if record.class_accuracies
    ]
    return [100 * _mean(column) for column in zip(*seeds, strict=True)]


def _classes(scene: Scene, ipc: int, means: Mapping[Row, Sequence[float]]) -> Figure:
    rows = sorted(means, key=lambda row: (-_mean(means[row]), row))
    names = class_names(scene, len(means[rows[0]]))
    heat = Heat([row.label for row in rows], names, [means[row] for row in rows], "class")
    note = (
        f"Test accuracy (%) on each class; {scene.seeds_note()}. The best method over all classes on top. "
        "Classes in the order of their labels."
    )
    return _draw(heat, FigureLayout(f"Accuracy by class, ipc {ipc}", scene.track.heading, note))


def _networks(scene: Scene, means: Mapping[NetworkCell, float], *, crossed: bool) -> Figure:
    """The figure of one ipc, the networks that distilled first among the columns."""
    ipc = next(iter(means)).ipc
    homes = sorted({record.trial.arch for record in scene.records})
    networks = sorted({key.network for key in means}, key=lambda name: (crossed and name not in homes, name))
    by_row: dict[str, list[float | None]] = {
        label: [means.get(NetworkCell(label, ipc, network)) for network in networks]
        for label in sorted({key.label for key in means})
    }
    rows = sorted(by_row, key=lambda row: (by_row[row].count(None), -_known_mean(by_row[row]), row))
    heat = Heat(rows, networks, [by_row[row] for row in rows], "evaluated network" if crossed else "network")
    columns = (
        f"the networks of the columns, trained on sets that {' or '.join(homes)} distilled"
        if crossed
        else "sets that were distilled and judged with the network of the column"
    )
    note = (
        f"Test accuracy (%) of {columns}; all else is equal within the figure. Means over the seeds; methods"
        " that ran with most networks on top, then by the mean over these; light: not run."
    )
    named = f"sets by {', '.join(homes)}" if crossed else " | ".join(networks)
    heading = dataclasses.replace(scene.track, arch=named).heading
    title = f"Accuracy by {'evaluated ' if crossed else ''}network, ipc {ipc}"
    return _draw(heat, FigureLayout(title, heading, note))


def _draw(heat: Heat, head: FigureLayout) -> Figure:
    columns = len(heat.columns)
    numbered = columns <= MOST_NUMBERED
    width = max(5.0, 1.9 + (0.52 * columns if numbered else 6.5))
    figure, panels = figure_of(dataclasses.replace(head, width=width, height=1.2 + 0.21 * len(heat.rows)))
    axes = panels[0]
    _mesh(axes, heat, numbered)
    axes.set_yticks(range(len(heat.rows)), heat.rows)
    shown = range(0, columns, 1 if columns <= 2 * MOST_NUMBERED else 10)
    slanted = max(len(heat.columns[index]) for index in shown) * LETTER_INCHES > (width - 2) / len(shown)
    axes.set_xticks(
        shown,
        [heat.columns[index] for index in shown],
        rotation=35 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor",
    )
    axes.set_xlabel(heat.x_label)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure


def _mesh(axes: Axes, heat: Heat, numbered: bool) -> None:
    import numpy as np

    values = np.array(heat.values, dtype=float)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    axes.set_facecolor(MISSING_COLOUR)
    mesh = axes.imshow(
        np.ma.masked_invalid(values), cmap=COLOUR_MAP, vmin=low, vmax=max(high, low + 1), aspect="auto"
    )
    axes.figure.colorbar(mesh, ax=axes, label="%", fraction=0.04, pad=0.02, aspect=25)
    if not numbered:
        return
    middle = (low + max(high, low + 1)) / 2
    for (row, column), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.1f}"
        colour = "black" if np.isnan(value) or value > middle else "white"
        axes.text(column, row, text, ha="center", va="center", size=7.0, color=colour)


def _known_mean(values: Sequence[float | None]) -> float:
    return _mean([value for value in values if value is not None])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
