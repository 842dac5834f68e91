"""Training curves of runs as inline SVG, from their ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from patchword.html.page import COLOURS, tag, text

_W, _H = 420, 250  # of the drawing
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 14, 38  # around the plot
_DASHES = ("none", "7 4", "2 4", "10 3 2 3")


@dataclass(frozen=True)
class Curve:
    """A line of a chart: its name and its points, x ascending."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class RunLog:
    """What a run wrote while it trained.

    Attributes:
        loss: (step, loss) of every log line.
        rsum: (epoch, rsum on the selection split) of every epoch.
        steps: optimiser steps taken.
        span_s: seconds from the first line to the last.
    """

    loss: tuple[tuple[float, float], ...] = ()
    rsum: tuple[tuple[float, float], ...] = ()
    steps: int = 0
    span_s: float = 0.0


def read_log(run: Path) -> RunLog:
    """Read ``metrics.jsonl`` of a run folder; empty when there is none. A line that was cut off is left out."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return RunLog()
    lines = []
    for raw in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    times = [line["time"] for line in lines if "time" in line]
    return RunLog(
        tuple((float(line["step"]), float(line["loss"])) for line in lines if line.get("kind") == "train"),
        tuple((float(line["epoch"]), float(line["rsum"])) for line in lines if "rsum" in line),
        max((int(line["step"]) for line in lines if "step" in line), default=0),
        times[-1] - times[0] if times else 0.0,
    )


def chart(
    title: str,
    x_name: str,
    curves: Sequence[Curve],
    *,
    is_log: bool = False,
    reference: tuple[str, float] | None = None,
) -> str:
    """A figure with one line for each curve, each in its own colour and dash.

    Args:
        title: what is drawn, above the figure.
        x_name: what the horizontal axis counts.
        curves: points that are not finite (a loss that diverged) are left out; nothing is drawn without any other.
        is_log: draw the vertical axis logarithmically (values above 0).
        reference: a level to compare with, and its name.
    """
    curves = [Curve(curve.name, tuple(p for p in curve.points if all(map(math.isfinite, p)))) for curve in curves]
    points = [point for curve in curves for point in curve.points if not is_log or point[1] > 0]
    if not points:
        return ""
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    values = [y for _, y in points] + ([reference[1]] if reference else [])
    ticks = log_ticks(min(values), max(values)) if is_log else round_ticks(0.0, max(values))
    scale = _Scale(x_low, x_high, ticks[0], ticks[-1], is_log)
    parts = [_axes(scale, ticks, round_ticks(x_low, x_high, whole=True), x_name)]
    if reference:
        parts.append(_reference(scale, *reference))
    for k, curve in enumerate(curves):
        drawn = [(x, y) for x, y in curve.points if not is_log or y > 0]
        parts.append(_line(scale, drawn, k))
    parts.append(_names(scale, curves))
    about = f"{title}: " + "; ".join(f"{c.name} ends at {c.points[-1][1]:.4g}" for c in curves if c.points)
    drawing = f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{escape(about)}">{"".join(parts)}</svg>'
    return tag("figure", text("figcaption", title) + drawing, class_="card")


@dataclass(frozen=True)
class _Scale:
    """From values to places in the drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    is_log: bool

    def x(self, value: float) -> float:
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1.0)
        return _LEFT + share * (_W - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high, here = (
            (math.log(v) for v in (self.y_low, self.y_high, max(value, self.y_low)))
            if self.is_log
            else (self.y_low, self.y_high, value)
        )
        return _H - _BOTTOM - (here - low) / ((high - low) or 1.0) * (_H - _TOP - _BOTTOM)


def round_ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Four to seven round numbers that cover low..high.

    Example:
        >>> round_ticks(0.0, 455.0), round_ticks(1.0, 4.0, whole=True)
        ([0.0, 100.0, 200.0, 300.0, 400.0, 500.0], [1.0, 2.0, 3.0, 4.0])
    """
    span = (high - low) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    if whole:
        step = max(1.0, step)
        return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [k * step for k in range(math.floor(low / step), math.ceil(high / step - 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Numbers 1, 2 and 5 times powers of ten (powers of ten only, over a wide range) that cover low..high.

    Example:
        >>> log_ticks(30.0, 900.0), log_ticks(2.0, 40000.0)
        ([20.0, 50.0, 100.0, 200.0, 500.0, 1000.0], [1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0])
    """
    steps = (1.0,) if high / low > 1000 else (1.0, 2.0, 5.0)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    marks = [factor * 10.0**power for power in range(first, last + 1) for factor in steps]
    begin = max((k for k, mark in enumerate(marks) if mark <= low), default=0)
    end = min(k for k, mark in enumerate(marks) if mark >= high)
    return marks[begin : max(end, begin + 1) + 1]


def _axes(scale: _Scale, y_ticks: Sequence[float], x_ticks: Sequence[float], x_name: str) -> str:
    parts = []
    for value in y_ticks:
        y = scale.y(value)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" style="stroke:var(--line)"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,.6g}</text>'
        )
    for value in x_ticks:
        parts.append(f'<text x="{scale.x(value):.1f}" y="{_H - _BOTTOM + 18}" text-anchor="middle">{value:,.0f}</text>')
    parts.append(f'<text x="{(_LEFT + _W - _RIGHT) / 2}" y="{_H - 4}" text-anchor="middle">{escape(x_name)}</text>')
    return "".join(parts)


def _reference(scale: _Scale, name: str, value: float) -> str:
    y = scale.y(value)
    return (
        f'<line x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
        f'style="stroke:var(--soft);stroke-dasharray:2 3"/>'
        f'<text x="{_LEFT + 6}" y="{y - 6:.1f}">{escape(name)}</text>'
    )


def _line(scale: _Scale, points: Sequence[tuple[float, float]], k: int) -> str:
    colour = f"var(--c{k % COLOURS + 1})"
    places = [(scale.x(x), scale.y(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    line = (
        f'<polyline points="{path}" style="fill:none;stroke:{colour};stroke-width:2.25;stroke-linejoin:round;'
        f'stroke-dasharray:{_DASHES[k % len(_DASHES)]}"/>'
    )
    dots = places if len(places) <= 40 else places[-1:]
    return line + "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8" style="fill:{colour}"/>' for x, y in dots)


def _names(scale: _Scale, curves: Sequence[Curve]) -> str:
    """The name of every curve near its end, pushed apart where they would touch."""
    ends = sorted(
        ((scale.y(curve.points[-1][1]), k, curve.name) for k, curve in enumerate(curves) if curve.points), reverse=True
    )
    parts, below = [], math.inf
    for y, k, name in ends:  # from the lowest line up
        is_lowest = len(ends) > 1 and below == math.inf and y + 16 < _H - _BOTTOM
        place = max(y + 16 if is_lowest else min(y - 9, below - 15), _TOP + 2)
        below = place
        parts.append(
            f'<text x="{_W - _RIGHT - 2}" y="{place:.1f}" text-anchor="end" '
            f'style="fill:var(--c{k % COLOURS + 1});font-weight:600">{escape(name)}</text>'
        )
    return "".join(parts)
