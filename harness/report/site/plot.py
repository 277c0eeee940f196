"""The accuracy-compute plot as a Vega-Lite specification; the page gives it data and colours."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from harness.core.errors import UserError
from harness.report.site.vendor import EXTRA

POINTS, CURVES, FLOORS = "points", "curves", "floors"
ACCURACY = "test accuracy (%)"
HEIGHT = 420
NAME_SIZE = 11  # of the names in pixels, as static/plot.js reckons with
HOVER = {
    "label": "method",
    "figure": "accuracy (%)",
    "interval": "95 % interval",
    "flops_text": "FLOPs",
    "seconds_text": "time",
    "counts": "n",
}


def specification() -> dict[str, Any]:
    """Intervals, points and curves over FLOPs on a log axis; what took no FLOPs is a dashed line.

    Its data sets `points`, `curves` and `floors` are empty and named, for the page to fill: rows with
    `label`, `flops`, percentages `accuracy`, `low` and `high`, texts for hovering, `color` and `shape`, and
    in points and floors `name`, what is written `dx` and `dy` pixels from the mark or the line's beginning.
    """
    try:
        import altair as alt
    except ModuleNotFoundError:
        raise UserError(EXTRA) from None
    chart = alt.layer(_floors(alt), _curves(alt), _bars(alt), _points(alt), *_names(alt))
    made: dict[str, Any] = chart.properties(width="container", height=HEIGHT).to_dict()
    return made | {"datasets": {POINTS: [], CURVES: [], FLOORS: []}}


def _x(alt: ModuleType) -> Any:
    scale = alt.Scale(type="log", nice=False, padding=24)
    axis = alt.Axis(format="~s", grid=False, tickCount=6, labelOverlap=True)
    return alt.X("flops:Q", title="FLOPs of distillation", scale=scale, axis=axis)


def _y(alt: ModuleType, field: str = "accuracy") -> Any:
    scale = alt.Scale(zero=False, nice=True)
    return alt.Y(f"{field}:Q", title=ACCURACY, scale=scale, axis=alt.Axis(tickCount=6))


def _color(alt: ModuleType) -> Any:
    return alt.Color("color:N", scale=None)


def _floors(alt: ModuleType) -> Any:
    base = alt.Chart(alt.NamedData(name=FLOORS)).mark_rule(strokeDash=[5, 4], strokeWidth=2)
    return base.encode(y=_y(alt), color=_color(alt), tooltip=_tooltip(alt))


def _curves(alt: ModuleType) -> Any:
    base = alt.Chart(alt.NamedData(name=CURVES)).mark_line(strokeWidth=1.25, opacity=0.6)
    return base.encode(x=_x(alt), y=_y(alt), color=_color(alt), detail=["label:N", "seed:N"])


def _bars(alt: ModuleType) -> Any:
    base = alt.Chart(alt.NamedData(name=POINTS)).transform_filter("isValid(datum.low)")
    return base.mark_rule(strokeWidth=1.5, opacity=0.45).encode(
        x=_x(alt), y=_y(alt, "low"), y2="high:Q", color=_color(alt)
    )


def _points(alt: ModuleType) -> Any:
    base = alt.Chart(alt.NamedData(name=POINTS)).mark_point(filled=True, size=110, opacity=1)
    shape = alt.Shape("shape:N", scale=None)
    return base.encode(
        x=_x(alt), y=_y(alt), color=_color(alt), shape=shape, tooltip=_tooltip(alt), href="href:N"
    )


def _names(alt: ModuleType) -> list[Any]:
    """Names beside the points and on the lines: there are more methods than colours."""
    places = {side: alt.ExprRef(f"datum.{side}") for side in ("dx", "dy")}
    look = {"align": "left", "baseline": "middle", "fontSize": NAME_SIZE, **places}
    x = {POINTS: _x(alt), FLOORS: alt.value(0)}
    return [
        alt.Chart(alt.NamedData(name=data))
        .mark_text(**look)
        .encode(x=x[data], y=_y(alt), text="name:N", color=_color(alt))
        for data in (POINTS, FLOORS)
    ]


def _tooltip(alt: ModuleType) -> list[Any]:
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in HOVER.items()]
