"""Small figures as SVG text: no package, no script, written in a millisecond."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np

from surefield.report.scales import INK, axis

__all__ = ["WIDTH", "Band", "Line", "Rule", "chart", "shares"]

WIDTH: Final = 560
HEIGHT: Final = 350
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 16, 36, 52
_GRID: Final = "#E4E7EB"
_EDGE: Final = "#52606D"
#: Characters of a legend take about so many pixels each, and its marks so many.
_LETTER, _MARK = 7.2, 30


@dataclass(frozen=True)
class Line:
    """Points that are joined; those that are not finite leave a gap.

    Attributes:
        x: across.
        y: up.
        name: in the legend; lines of the same name and colour are named once, without a name not at all.
        color: of line and points.
        points: 'none', 'all' or 'last', the end of the line alone.
        mark: 'circle', 'triangle' or 'cross'.
        width: of the line; 0: points alone.
        dash: of the line, as SVG wants it.
        told: what each point says when the pointer is on it.
    """

    x: Sequence[float]
    y: Sequence[float]
    name: str = ""
    color: str = INK
    points: str = "all"
    mark: str = "circle"
    width: float = 2.5
    dash: str = ""
    told: Sequence[str] = ()


@dataclass(frozen=True)
class Rule:
    """A horizontal line with words."""

    y: float
    text: str
    color: str = INK


@dataclass(frozen=True)
class Band:
    """A shaded range."""

    low: float
    high: float
    color: str


def chart(
    lines: Sequence[Line],
    x_title: str,
    y_title: str,
    *,
    log_y: bool = False,
    rules: Sequence[Rule] = (),
    bands: Sequence[Band] = (),
    y_range: tuple[float, float] | None = None,
    whole_x: bool = False,
    width: int = WIDTH,
) -> str:
    """A figure of lines and points; empty where there is nothing to draw.

    Args:
        lines: to draw.
        x_title: with its unit.
        y_title: with its unit.
        log_y: of values above zero.
        rules: across the figure; they are in sight.
        bands: across the figure.
        y_range: of the axis; None: what the values need.
        whole_x: ticks are whole numbers.
        width: pixels; the height is that of all figures.
    """
    x = np.array([v for line in lines for v in line.x], np.float64)
    y = np.array([v for line in lines for v in line.y], np.float64)
    usable = np.isfinite(x) & np.isfinite(y) & ((y > 0) if log_y else True)
    if not usable.any():
        return ""
    seen = np.concatenate([y[usable], [rule.y for rule in rules]])
    scale_y = _log_scale(seen) if log_y else _linear_scale(seen, y_range)
    scale_x = _linear_scale(x[usable], None, whole=whole_x, from_zero=False)
    plot = _Plot(scale_x, scale_y, width)
    parts = [plot.ground(bands), plot.grid(), *(plot.rule(rule) for rule in rules)]
    parts += [*(plot.line(line) for line in lines), *(plot.words(rule) for rule in rules)]
    parts += [plot.titles(x_title, y_title), _legend(lines)]
    label = escape(f"{y_title} against {x_title}", quote=True)
    return (
        f'<svg class="chart" viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{label}">'
        + "".join(parts)
        + "</svg>"
    )


def shares(counts: Sequence[tuple[int, str, str]], total: int | None = None) -> str:
    """One bar of counts, each with its name and colour; as wide as its share."""
    whole = total or sum(count for count, _, _ in counts)
    if not whole:
        return ""
    parts, told = [], ", ".join(f"{count} {name}" for count, name, _ in counts if count)
    for count, name, color in counts:
        if count:
            share = 100 * count / whole
            parts.append(
                f'<i style="width:{share:.2f}%;background:{color}" title="{count} {escape(name)}"></i>'
            )
    return f'<span class="shares" role="img" aria-label="{escape(told)}">{"".join(parts)}</span>'


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1 and beyond."""
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)


def _log_scale(values: np.ndarray) -> _Scale:
    values = values[values > 0]
    entries = axis(values, log=True)
    if "range" not in entries:  # less than half a decade
        low, high = float(values.min()) / 1.6, float(values.max()) * 1.6
        entries = axis(np.array([low, high]), log=True, pad=0.0)
    ticks = tuple(zip(entries["tickvals"], entries["ticktext"], strict=True))
    if len(ticks) > 9:
        ticks = (
            tuple(tick for tick in ticks if tick[1].lstrip("0.")[:1] == "1" or tick[1][:1] == "1") or ticks
        )
    low, high = entries["range"]
    return _Scale(low, high, ticks, log=True)


def _linear_scale(
    values: np.ndarray, fixed: tuple[float, float] | None, *, whole: bool = False, from_zero: bool = True
) -> _Scale:
    low, high = fixed or (float(values.min()), float(values.max()))
    if fixed is None and from_zero and low >= 0:
        low = 0.0
    if high <= low:
        low, high = (low - 0.5, high + 0.5) if whole or low else (0.0, 1.0)
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(k for k in (1, 2, 2.5, 5, 10) if (high - low) / (step * k) <= 6)
    step = max(1.0, round(step)) if whole else step
    first = math.ceil(low / step - 1e-9)
    ticks = [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]
    pad = 0.0 if fixed else 0.04 * (high - low)
    below = low if low == 0 and from_zero else low - pad
    return _Scale(below, high + pad, tuple((tick, f"{tick:.6g}") for tick in ticks))


@dataclass(frozen=True)
class _Plot:
    x: _Scale
    y: _Scale
    width: int

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels."""
        return (
            _LEFT + self.x.share(x) * (self.width - _LEFT - _RIGHT),
            HEIGHT - _BOTTOM - self.y.share(y) * (HEIGHT - _TOP - _BOTTOM),
        )

    def ground(self, bands: Sequence[Band]) -> str:
        """White, with the bands."""
        width, height = self.width - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
        parts = [f'<rect x="{_LEFT}" y="{_TOP}" width="{width}" height="{height}" fill="#fff"/>']
        for band in bands:
            ends = [
                min(max(self.y.share(v), 0.0), 1.0) if v > 0 or not self.y.log else 0.0
                for v in (band.low, band.high)
            ]
            top, tall = HEIGHT - _BOTTOM - ends[1] * height, (ends[1] - ends[0]) * height
            parts.append(
                f'<rect x="{_LEFT}" y="{top:.1f}" width="{width}" height="{tall:.1f}" fill="{band.color}" '
                'fill-opacity="0.10"/>'
            )
        return "".join(parts)

    def grid(self) -> str:
        """Ticks with their lines, and the frame."""
        right, bottom = self.width - _RIGHT, HEIGHT - _BOTTOM
        parts = []
        for value, text in self.y.ticks:
            at = self.at(0 if not self.x.log else 1, value)[1]
            parts.append(f'<path d="M{_LEFT} {at:.1f}H{right}" stroke="{_GRID}"/>')
            parts.append(_text(_LEFT - 8, at + 4.5, text, "end"))
        for value, text in self.x.ticks:
            at = _LEFT + self.x.share(value) * (right - _LEFT)
            parts.append(f'<path d="M{at:.1f} {bottom}v5" stroke="{_EDGE}"/>')
            parts.append(_text(at, bottom + 20, text, "middle"))
        size = f'width="{right - _LEFT}" height="{bottom - _TOP}"'
        return "".join([*parts, f'<rect x="{_LEFT}" y="{_TOP}" {size} fill="none" stroke="{_EDGE}"/>'])

    def height(self, rule: Rule) -> float:
        """Of a rule, in pixels from above."""
        return _TOP + (1 - self.y.share(rule.y)) * (HEIGHT - _TOP - _BOTTOM)

    def rule(self, rule: Rule) -> str:
        """A line."""
        path = f'<path d="M{_LEFT} {self.height(rule):.1f}H{self.width - _RIGHT}" stroke="{rule.color}"'
        return f'{path} stroke-width="1.5" stroke-dasharray="6 4"/>'

    def words(self, rule: Rule) -> str:
        """What a rule means, above it at the right, or below where there is no room."""
        at = self.height(rule)
        below = at < _TOP + 20
        right = self.width - _RIGHT - 8
        return _text(right, at + (17 if below else -6), rule.text, "end", rule.color, halo=True)

    def line(self, line: Line) -> str:
        """A line and its points."""
        known = [
            (k, *self.at(a, b))
            for k, (a, b) in enumerate(zip(line.x, line.y, strict=True))
            if math.isfinite(a) and math.isfinite(b) and (b > 0 or not self.y.log)
        ]
        parts = []
        if line.width > 0 and len(known) > 1:
            joined = "".join(
                f"{'L' if known[i - 1][0] == k - 1 and i else 'M'}{a:.1f} {b:.1f}"
                for i, (k, a, b) in enumerate(known)
            )
            dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
            parts.append(
                f'<path d="{joined}" fill="none" stroke="{line.color}" stroke-width="{line.width:g}" '
                f'stroke-linejoin="round"{dash}/>'
            )
        drawn = known[-1:] if line.points == "last" else known if line.points == "all" else []
        for k, a, b in drawn:
            told = f"<title>{escape(line.told[k])}</title>" if k < len(line.told) else ""
            parts.append(
                f'<g fill="{line.color}" stroke="#fff" stroke-width="1.2">{_mark(line.mark, a, b)}{told}</g>'
            )
        return "".join(parts)

    def titles(self, x_title: str, y_title: str) -> str:
        """Of both axes."""
        middle = _LEFT + (self.width - _LEFT - _RIGHT) / 2
        half = _TOP + (HEIGHT - _TOP - _BOTTOM) / 2
        across = (
            f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle" class="axis">{escape(x_title)}</text>'
        )
        return across + (
            f'<text transform="translate(16 {half}) rotate(-90)" text-anchor="middle" class="axis">'
            f"{escape(y_title)}</text>"
        )


def _mark(kind: str, x: float, y: float) -> str:
    if kind == "triangle":
        return f'<path d="M{x:.1f} {y - 6.5:.1f}l6 10.5h-12z"/>'
    if kind == "cross":
        arm = f"M{x - 5:.1f} {y - 5:.1f}l10 10M{x + 5:.1f} {y - 5:.1f}l-10 10"
        return f'<path d="{arm}" stroke="{INK}" stroke-width="2.6" fill="none"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2"/>'


def _text(x: float, y: float, text: str, anchor: str, color: str = _EDGE, *, halo: bool = False) -> str:
    shown, kind = escape(text.replace("-", "−")), ' class="halo"' if halo else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}"{kind}>{shown}</text>'


def _legend(lines: Sequence[Line]) -> str:
    """Names in a row above the figure."""
    named: dict[tuple[str, str], tuple[str, str, bool]] = {}
    for line in lines:
        if line.name:
            named.setdefault((line.name, line.color), (line.mark, line.dash, line.width > 0))
    if len(named) < 2:
        return ""
    parts, left = [], float(_LEFT)
    for (name, color), (mark, dash, joined) in named.items():
        if joined:
            dashes = f' stroke-dasharray="{dash}"' if dash else ""
            parts.append(f'<path d="M{left:.1f} 18h22" stroke="{color}" stroke-width="3"{dashes}/>')
        else:
            parts.append(f'<g fill="{color}">{_mark(mark, left + 11, 18)}</g>')
        parts.append(_text(left + _MARK, 23, name, "start", INK))
        left += _MARK + 22 + _LETTER * len(name)
    return "".join(parts)
