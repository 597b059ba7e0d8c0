"""What a figure draws of its numbers: axes with round ticks, a sample of the points, their density."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from jaxtyping import Float64

__all__ = ["BLUE", "GREEN", "GREY", "INK", "PALETTE", "VERMILION", "axis", "density_marker", "sample"]

#: Of Okabe and Ito, told apart by readers with any colour vision.
BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
GREY: Final = "#7A828C"
INK: Final = "#1F2933"
PALETTE: Final = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9")

Values = Float64[np.ndarray, " n"]

#: Written into an SVG, more points than this make a page slow.
MAX_POINTS: Final = 3000
#: Of these, so many are kept for the largest errors.
WORST_POINTS: Final = 200
DENSITY_BINS: Final = 80
#: Fewer points than this are drawn larger and in one colour.
FEW_POINTS: Final = 300
POINT_COLOR: Final = BLUE


def sample(weight: Values) -> np.ndarray:
    """Indices to draw, at most `MAX_POINTS`: the largest weights and a fixed random sample."""
    rng = np.random.default_rng(0)
    if len(weight) <= MAX_POINTS:
        return rng.permutation(len(weight))
    order = np.argsort(weight, kind="stable")
    rest = rng.choice(order[:-WORST_POINTS], MAX_POINTS - WORST_POINTS, replace=False)
    return np.concatenate([rest, order[-WORST_POINTS:]])


def density_marker(x: Values, y: Values, shown: np.ndarray) -> dict[str, Any]:
    """Markers of the `shown` points, coloured by the logarithm of how many of all points share their cell."""
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=DENSITY_BINS)
    column = np.clip(np.searchsorted(x_edges, x[shown], side="right") - 1, 0, DENSITY_BINS - 1)
    row = np.clip(np.searchsorted(y_edges, y[shown], side="right") - 1, 0, DENSITY_BINS - 1)
    density = np.log10(np.maximum(counts[column, row], 1))  # rounding at an edge may point to an empty cell
    few = len(shown) < FEW_POINTS
    return {
        "size": 7 if few else 4.5,
        "opacity": 0.85 if few else 0.7,
        "color": POINT_COLOR if few else density,
        "colorscale": "Viridis",
        "showscale": False,
    }


def axis(values: np.ndarray, log: bool, pad: float = 0.05) -> dict[str, Any]:
    """Logarithmic axis with round ticks where the values are positive and spread, else linear from zero."""
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if not log or low <= 0 or high < 1.5 * low:
        return {"rangemode": "tozero"} if low >= 0 else {}
    span = math.log10(high / low)
    start, stop = math.log10(low) - pad * span, math.log10(high) + pad * span
    digits = (1,) if span > 2.5 else (1, 2, 5) if span > 1 else (1, 1.5, 2, 3, 4, 5, 7)
    decades = range(math.floor(start), math.ceil(stop) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in digits]
    ticks = [tick for tick in ticks if start <= math.log10(tick) <= stop]
    return {
        "type": "log",
        "range": [start, stop],
        "tickvals": ticks,
        "ticktext": [f"{tick:.5g}" for tick in ticks],
    }
