"""Accuracy against what distillation costs, with the Pareto front, and peak memory."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from harness.core.text import MISSING
from harness.engine.records import Record, hardware
from harness.report.plots.axes import CostScale, cost_scale
from harness.report.plots.labels import Name, beside_points
from harness.report.plots.scenes import Absent, Drawn, Outcome, Scene, percent, safe
from harness.report.plots.style import ACCENT, COLOURS, GREY, MARKERS, FigureLayout, figure_of, percent_axis
from harness.report.standing import told_cost
from harness.report.tracks import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOMINATED = "#666666"
LOGARITHMIC_FROM = 6.0
FEWEST = 2  # methods, below which there is nothing to compare


class CostPoint(NamedTuple):
    """A method at one ipc: its mean cost over seeds and its accuracy in percent with the 95 % interval."""

    row: Row
    cost: float
    accuracy: float
    low: float | None
    high: float | None


def against_flops(scene: Scene) -> Iterator[Outcome]:
    """One figure: accuracy against FLOPs of distillation, a panel for each ipc."""
    points = {ipc: _points(scene, ipc, "flops", None) for ipc in scene.ipcs}
    points = {ipc: found for ipc, found in points.items() if len(found) >= FEWEST}
    if not points:
        yield Absent("fewer than two methods have FLOPs on record at any ipc; run a second method")
        return
    title = "Accuracy by compute"
    yield Drawn("flops", _scatter(scene, points, title, "FLOPs of distillation", ""))


def against_seconds(scene: Scene) -> Iterator[Outcome]:
    """One figure for each hardware: accuracy against seconds of distillation, a panel for each ipc."""
    for place, several in _places(scene):
        found = {ipc: _points(scene, ipc, "seconds", place) for ipc in scene.ipcs}
        points = {ipc: found for ipc, found in found.items() if len(found) >= FEWEST}
        if not points:
            yield Absent(
                f"fewer than two methods were timed on {place} at any ipc; run a second method there"
            )
            continue
        title = "Accuracy by time"
        figure = _scatter(scene, points, title, "seconds of distillation", f" Measured on {place}.")
        yield Drawn("seconds" + (f"-{safe(place)}" if several else ""), figure)


def peak_memory(scene: Scene) -> Iterator[Outcome]:
    """One figure for each hardware: the highest memory of any seed for each method and ipc."""
    for place, several in _places(scene):
        facts = {
            "device memory": _peaks(scene, place, "peak_device_bytes"),
            "host memory": _peaks(scene, place, "peak_host_bytes"),
        }
        known = {name: peaks for name, peaks in facts.items() if peaks}
        if not known:
            yield Absent(f"no record made on {place} holds a peak of memory")
            continue
        yield Drawn("memory" + (f"-{safe(place)}" if several else ""), _memory(scene, known, place))


def pareto_front(points: Sequence[CostPoint]) -> list[CostPoint]:
    """The points that no other beats, ascending in cost.

    None is at least as accurate at no more cost, and better in one of both.
    """
    front: list[CostPoint] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.accuracy, point.row)):
        better = not front or point.accuracy > front[-1].accuracy
        equal = bool(front) and (point.accuracy, point.cost) == (front[-1].accuracy, front[-1].cost)
        if better or equal:
            front.append(point)
    return front


def _places(scene: Scene) -> Iterator[tuple[str, bool]]:
    """Hardware on which records of the scene were made, and whether there are several."""
    places = sorted({hardware(r.made_in) for r in scene.records if r.status == "done" and r.distill})
    yield from ((place, len(places) > 1) for place in places)


def _costs(records: Sequence[Record], name: str, place: str | None) -> list[float]:
    here = [r for r in records if place is None or hardware(r.made_in) == place]
    values = (told_cost(record, name) for record in here)
    return [value for value in values if value is not None]


def _points(scene: Scene, ipc: int, name: str, place: str | None) -> list[CostPoint]:
    points = []
    for row in scene.rows:
        costs = _costs(scene.done(row, ipc), name, place)
        if costs and (row, ipc) in scene.estimates:
            found = scene.estimates[row, ipc]
            bounds = percent(found.low), percent(found.high)
            points.append(CostPoint(row, statistics.fmean(costs), 100 * found.mean, *bounds))
    return points


def _scatter(
    scene: Scene, points: Mapping[int, Sequence[CostPoint]], title: str, x_label: str, where: str
) -> Figure:
    scales = {ipc: cost_scale(point.cost for point in found) for ipc, found in points.items()}
    zero = next((scale.note for scale in scales.values() if scale.note), "")
    note = (
        f"Filled and bold: the Pareto front, methods that none beats in both accuracy and cost; hollow: all "
        f"others. Up and left is better. {scene.seeds_note().capitalize()}; faint bars: 95 % intervals of "
        f"the mean over seeds, cut off at the panel's edge. Cost is the mean over seeds.{zero}{where}"
    )
    crowded = max(map(len, points.values())) > 10
    layout = FigureLayout(
        title,
        scene.track.heading,
        note,
        len(points),
        min(2, len(points)),
        *((6.0, 5.0) if crowded else (5.0, 3.6)),
    )
    figure, panels = figure_of(layout)
    for axes, (ipc, found) in zip(panels, points.items(), strict=True):
        axes.set_title(f"ipc {ipc}")
        scales[ipc].apply(axes, x_label)
        percent_axis(axes)
        _draw_points(axes, scales[ipc], found)
    return figure


def _draw_points(axes: Axes, scale: CostScale, points: Sequence[CostPoint]) -> None:
    front = pareto_front(points)
    low, high = min(point.accuracy for point in points), max(point.accuracy for point in points)
    room = max(1.0, 0.1 * (high - low))
    axes.set_ylim(max(0.0, low - room), min(100.5, high + room))
    for point in points:
        if point.low is not None and point.high is not None:
            colour = ACCENT if point in front else GREY
            axes.vlines(
                scale.place(point.cost),
                point.low,
                point.high,
                color=colour,
                alpha=0.22,
                linewidth=0.8,
                zorder=1,
            )
    others = [point for point in points if point not in front]
    _marks(
        axes, scale, others, marker="s", markerfacecolor="white", markeredgecolor=DOMINATED, markersize=4.5
    )
    _marks(axes, scale, front, marker="o", markerfacecolor=ACCENT, markeredgecolor="white", markersize=7.0)
    axes.plot(
        [scale.place(point.cost) for point in front],
        [point.accuracy for point in front],
        color=ACCENT,
        linewidth=1.3,
        drawstyle="steps-post",
        zorder=2,
    )
    names = [
        Name(s.row.label, scale.place(s.cost), s.accuracy, ACCENT if s in front else DOMINATED, s in front)
        for s in points
    ]
    beside_points(axes, names, [(scale.place(point.cost), point.accuracy) for point in front])


def _marks(axes: Axes, scale: CostScale, points: Sequence[CostPoint], **look: object) -> None:
    xs, ys = [scale.place(point.cost) for point in points], [point.accuracy for point in points]
    axes.plot(xs, ys, linestyle="none", zorder=3, **look)  # type: ignore[arg-type]


def _peaks(scene: Scene, place: str, name: str) -> dict[Row, dict[int, float]]:
    """Highest bytes of any seed by row and ipc."""
    peaks: dict[Row, dict[int, float]] = defaultdict(dict)
    for row in scene.rows:
        for ipc in scene.ipcs:
            found = _costs(scene.done(row, ipc), name, place)
            if found:
                peaks[row][ipc] = max(found)
    return dict(peaks)


def _memory(scene: Scene, facts: Mapping[str, Mapping[Row, Mapping[int, float]]], place: str) -> Figure:
    first = next(iter(facts.values()))
    members = {row for peaks in facts.values() for row in peaks}
    rows = sorted(members, key=lambda row: (max(first.get(row, {0: 0.0}).values()), row))
    note = (
        "Highest memory of any seed while distilling, that of the Python process itself included; mark: ipc."
        f" Measured on {place}. Methods from least to most by the first panel, from the bottom up."
    )
    title = "Peak memory of distillation"
    layout = FigureLayout(
        title, scene.track.heading, note, len(facts), len(facts), width=4.8, height=1.1 + 0.17 * len(rows)
    )
    figure, panels = figure_of(layout)
    for axes, (name, peaks) in zip(panels, facts.items(), strict=True):
        _draw_peaks(axes, rows, peaks, scene.ipcs)
        axes.set_xlabel(f"peak {name}")
        if axes is not panels[0]:
            axes.tick_params(labelleft=False)
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=max(1, len(texts)))
    return figure


def _draw_peaks(
    axes: Axes, rows: Sequence[Row], peaks: Mapping[Row, Mapping[int, float]], ipcs: Sequence[int]
) -> None:
    _memory_axis(axes, [value for values in peaks.values() for value in values.values()])
    for place, row in enumerate(rows):
        if not peaks.get(row):
            axes.annotate(
                f"{MISSING} unknown", (0.01, place), xycoords=("axes fraction", "data"), va="center"
            )
    for index, ipc in enumerate(ipcs):
        places = [place for place, row in enumerate(rows) if ipc in peaks.get(row, {})]
        # Moved apart a little, so that equal peaks of several ipcs do not hide one another.
        shift = 0.36 * (0.5 - (index + 0.5) / len(ipcs))
        axes.plot(
            [peaks[rows[place]][ipc] for place in places],
            [place + shift for place in places],
            linestyle="none",
            marker=MARKERS[index % len(MARKERS)],
            markersize=4.5,
            color=COLOURS[index % len(COLOURS)],
            label=f"ipc {ipc}",
            zorder=3,
        )
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)


def _memory_axis(axes: Axes, sizes: Sequence[float]) -> None:
    """From zero, or logarithmic where the sizes differ too much to tell small ones apart."""
    low, high = min(sizes), max(sizes)
    if low > 0 and high / low > LOGARITHMIC_FROM:
        axes.set_xscale("log", base=2)
        axes.set_xlim(low / 1.3, high * 1.3)
        powers = range(math.ceil(math.log2(low / 1.3)), math.floor(math.log2(high * 1.3)) + 1)
        stride = -(-len(powers) // 6)
        ticks = [2.0**power for power in powers[::stride]]
    else:
        axes.set_xlim(0, high * 1.06)
        ticks = _memory_ticks(high)
    axes.set_xticks(ticks, [_size(tick) for tick in ticks])
    axes.set_xticks([], minor=True)


def _memory_ticks(highest: float) -> list[float]:
    """Five or so round numbers of bytes from 0 up: multiples of a power of two."""
    step = 1.0
    while highest / step > 5:
        step *= 2
    return [step * number for number in range(int(highest / step) + 1)]


def _size(size: float) -> str:
    """Bytes as a round number, `512 MiB`."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(len(units) - 1, int(math.log2(size) / 10)) if size >= 1 else 0
    return f"{size / 1024.0**power:g} {units[power]}" if size else "0"
