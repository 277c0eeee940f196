"""Accuracy against images per class, and during distillation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from harness.report.plots.axes import cost_scale
from harness.report.plots.labels import Name, beside_lines
from harness.report.plots.scenes import Absent, Drawn, Outcome, ReferenceAccuracy, Scene, noun, percent, span
from harness.report.plots.style import PALE, PANEL, FigureLayout, MethodStyle, figure_of, percent_axis
from harness.report.standing import told_curve
from harness.report.stats import Estimate, estimates
from harness.report.tracks import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DODGE = 0.012  # distance of neighbouring methods' marks, in widths of the panel
INTERVALS = (
    "bars: 95 % intervals of the mean over seeds (harness/report/stats.py), cut off at the panel's edge"
)


class Point(NamedTuple):
    """A point of a line: x in units of its axis, accuracy as a fraction."""

    x: float
    estimate: Estimate


Line: TypeAlias = Sequence[Point]


class Lines(NamedTuple):
    """Lines to draw, the best first, and how: `place` moves x so that marks of neighbours stay apart."""

    by_row: Mapping[Row, Line]
    prepare: Callable[[Axes], None]
    place: Callable[[float, float], float]
    y_label: str
    ranked: str
    reference: ReferenceAccuracy | None = None


def against_ipc(scene: Scene) -> Iterator[Outcome]:
    """One figure: a line for each method over images per class, in panels of seven by rank."""
    if not scene.rows:
        yield Absent("no trial is done; `python -m harness status` says why")
        return
    lines = {
        row: [Point(ipc, scene.estimates[row, ipc]) for ipc in scene.ipcs if (row, ipc) in scene.estimates]
        for row in scene.rows
    }
    low, high = scene.ipcs[0] / 1.7, scene.ipcs[-1] * 1.7

    def prepare(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.set_xticks(scene.ipcs, [str(ipc) for ipc in scene.ipcs])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("stored images per class (ipc)")

    def place(x: float, position: float) -> float:
        return float(x * (high / low) ** (DODGE * position))

    note = (
        f"Test accuracy after the last epoch, {scene.seeds_note()}; {INTERVALS}. Marks of one ipc are moved "
        f"apart sideways.{_grey_note(lines)}"
    )
    drawing = Lines(lines, prepare, place, "test accuracy (%)", f"at ipc {scene.ipcs[-1]}", scene.reference)
    yield Drawn("ipc", _panels(scene, drawing, "Accuracy by images per class", note))


def during_distillation(scene: Scene) -> Iterator[Outcome]:
    """A figure for each ipc: accuracy on images left out of train against the FLOPs spent up to then."""
    found = False
    for ipc in scene.ipcs:
        lines = {row: line for row in scene.rows if (line := _curve(scene, row, ipc))}
        if lines:
            found = True
            yield Drawn(f"curve-ipc{ipc}", _curves(scene, ipc, lines))
    if not found:
        yield Absent(
            "no record holds a curve; `python -m harness run --curve 10 ...` measures ten points of each"
            " distillation"
        )


def _curves(scene: Scene, ipc: int, lines: Mapping[Row, Line]) -> Figure:
    scale = cost_scale([point.x for line in lines.values() for point in line])

    def prepare(axes: Axes) -> None:
        scale.apply(axes, "FLOPs of distillation up to then")

    def place(x: float, position: float) -> float:
        return scale.place(x)

    seeds = span({point.estimate.seeds for line in lines.values() for point in line})
    networks = span({point.estimate.networks for line in lines.values() for point in line})
    note = (
        f"Accuracy of networks trained on the set as it was then, on a tenth of train from which nothing was "
        f"distilled (not the test split); means over {seeds} {noun(seeds, 'seed')}, {networks} "
        f"{noun(networks, 'network')} in all; bars: 95 % "
        f"intervals over seeds, cut off at the edge.{scale.note}{_grey_note(lines)}"
    )
    title = f"Accuracy during distillation, ipc {ipc}"
    drawing = Lines(lines, prepare, place, "accuracy on left-out train images (%)", "by test accuracy")
    return _panels(scene, drawing, title, note)


def _curve(scene: Scene, row: Row, ipc: int) -> Line:
    """Points at the steps that the curves of all seeds have."""
    curves = [record for record in scene.done(row, ipc) if told_curve(record)]
    by_step: dict[int, dict[int, list[float]]] = {}
    flops: dict[int, list[float]] = {}
    for record in curves:
        for point in record.curve:
            by_step.setdefault(point.step, {})[record.trial.seed] = point.accuracies
            flops.setdefault(point.step, []).append(point.flops)
    shared = {step: seeds for step, seeds in sorted(by_step.items()) if len(seeds) == len(curves)}
    return [
        Point(sum(flops[step]) / len(flops[step]), estimate) for step, estimate in estimates(shared).items()
    ]


def _panels(scene: Scene, drawing: Lines, title: str, note: str) -> Figure:
    """Lines in panels of seven, those of the other panels grey behind them."""
    rows = list(drawing.by_row)
    chunks = [rows[start : start + PANEL] for start in range(0, len(rows), PANEL)]
    layout = FigureLayout(
        title, scene.track.heading, note, len(chunks), min(2, len(chunks)), width=5.2, height=3.5
    )
    figure, panels = figure_of(layout)
    reference = drawing.reference
    for number, (axes, chunk) in enumerate(zip(panels, chunks, strict=True)):
        drawing.prepare(axes)
        axes.set_ylim(*_limits(drawing.by_row, reference))
        for row in rows:
            if row not in chunk:
                _draw_behind(axes, drawing, drawing.by_row[row])
        names = [
            _draw_line(axes, drawing, row, number * PANEL + index, index - (len(chunk) - 1) / 2)
            for index, row in enumerate(chunk)
        ]
        if reference is not None:
            _draw_reference(axes, reference)
        percent_axis(axes, drawing.y_label)
        if len(chunks) > 1:
            axes.set_title(f"ranks {number * PANEL + 1} to {number * PANEL + len(chunk)} {drawing.ranked}")
        beside_lines(axes, names)
    return figure


def _draw_behind(axes: Axes, drawing: Lines, line: Line) -> None:
    xs = [drawing.place(point.x, 0) for point in line]
    axes.plot(xs, [100 * point.estimate.mean for point in line], color=PALE, linewidth=0.7, zorder=1)


def _draw_line(axes: Axes, drawing: Lines, row: Row, rank: int, position: float) -> Name:
    """Draw one line in its style; returns its name for the margin."""
    style, line = MethodStyle.of(rank), drawing.by_row[row]
    xs = [drawing.place(point.x, position) for point in line]
    means = [100 * point.estimate.mean for point in line]
    axes.plot(
        xs,
        means,
        color=style.colour,
        marker=style.marker,
        linestyle=style.dashes,
        markeredgecolor="white",
        markeredgewidth=0.5,
        zorder=3,
    )
    known = [(x, point.estimate) for x, point in zip(xs, line, strict=True) if point.estimate.low is not None]
    if known:
        lows = [percent(estimate.low) or 0.0 for _, estimate in known]
        highs = [percent(estimate.high) or 0.0 for _, estimate in known]
        places = [x for x, _ in known]
        axes.vlines(places, lows, highs, color=style.colour, linewidth=0.9, alpha=0.6, zorder=2)
    return Name(f"{row.label} {means[-1]:.1f}", xs[-1], means[-1], style.ink)


def _draw_reference(axes: Axes, reference: ReferenceAccuracy) -> None:
    """The accuracy on the whole train split as a line across the panel, with its interval and its origin."""
    axes.axhline(reference.percent, color="black", linestyle=(0, (6, 3)), linewidth=1.0, zorder=1)
    if reference.low is not None and reference.high is not None:
        axes.axhspan(reference.low, reference.high, color="black", alpha=0.06, linewidth=0, zorder=0)
    axes.annotate(
        reference.text,
        (0.01, reference.percent),
        (0, 2.5),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        size=7.0,
        color="black",
    )


def _limits(by_row: Mapping[Row, Line], reference: ReferenceAccuracy | None) -> tuple[float, float]:
    """Limits in percent that show every mean; wide intervals may end at them."""
    means = [100 * point.estimate.mean for line in by_row.values() for point in line]
    low, high = min(means), max(means)
    room = max(1.0, 0.12 * (high - low))
    top = high if reference is None else max(high, reference.percent)
    return max(0.0, low - room), min(100.5, top + room)


def _grey_note(lines: Mapping[Row, Line]) -> str:
    return " Grey: the methods of the other panels, in order of rank." if len(lines) > PANEL else ""
