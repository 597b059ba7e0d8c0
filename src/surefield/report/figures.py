"""Figures of a report; the only module that imports plotly.

Errors are shown in meV/atom and meV/Å, values in eV and eV/Å. Colours are those of Okabe and Ito, told apart
by readers with any colour vision. Every function returns None when there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtri

from surefield.calibration.metrics import binned_rmv_rmse, calibration_curve
from surefield.report.run import Curve, Pick
from surefield.report.scales import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PALETTE,
    VERMILION,
    axis,
    density_marker,
    sample,
)

try:
    import plotly.graph_objects as go
    from plotly.offline import get_plotlyjs
except ImportError as error:
    raise ImportError("reports need plotly: pip install 'surefield[report]'") from error

__all__ = [
    "SCORES",
    "Figure",
    "bars",
    "calibration",
    "correlation",
    "coverage_by_group",
    "coverage_history",
    "distribution",
    "error_against_sigma",
    "feature_map",
    "gains",
    "learning_curve",
    "method_colors",
    "parity",
    "plotly_source",
    "replay_curve",
    "residuals",
    "spectrum",
    "training_curve",
]

Values = Float64[np.ndarray, " n"]
Figure = go.Figure

KIND_COLORS: Final = {"forces": BLUE, "energy": VERMILION, "stress": GREEN}
QUANTILES: Final = ((0.5, "dot"), (math.erf(math.sqrt(0.5)), "solid"), (0.95, "dash"))
#: Label, unit and factor from eV or eV/Å of the scores that are drawn.
SCORES: Final = {
    "energy_mae": ("Energy MAE", "meV/atom", 1e3),
    "energy_rmse": ("Energy RMSE", "meV/atom", 1e3),
    "forces_mae": ("Force MAE", "meV/Å", 1e3),
    "forces_rmse": ("Force RMSE", "meV/Å", 1e3),
}


def plotly_source() -> str:
    """The JavaScript library, to be put into a page once."""
    return get_plotlyjs()


def method_colors(methods: Iterable[str]) -> dict[str, str]:
    """A colour per method in the order given; the baseline `random` is grey."""
    named = [name for name in dict.fromkeys(methods) if name != "random"]
    return {"random": GREY} | {name: PALETTE[k % len(PALETTE)] for k, name in enumerate(named)}


def learning_curve(curves: Sequence[Curve], score: str) -> go.Figure | None:
    """A test score (key of `SCORES`) against the number of labels.

    The line is the mean over seeds at label counts that every seed of the method has reached, the band their
    range, faint lines are the seeds.
    """
    label, unit, factor = SCORES[score]
    series = {
        method: [(curve.n_labels, factor * curve.test[score]) for curve in group]
        for method, group in _by_method(curves).items()
    }
    return _against_labels(series, f"{label} on test set ({unit})", log_y=True)


def replay_curve(
    labels: Mapping[str, np.ndarray], errors: Mapping[str, np.ndarray], title: str
) -> go.Figure | None:
    """An error against the number of labels, by method (n_seeds, n_rounds); drawn as `learning_curve`."""
    series = {
        method: list(zip(labels[method].astype(int), values, strict=True))
        for method, values in errors.items()
    }
    return _against_labels(series, title, log_y=True)


def coverage_history(curves: Sequence[Curve], kind: str) -> go.Figure | None:
    """Share of test errors of a kind within one predicted σ, against the number of labels."""
    series: dict[str, list[tuple[np.ndarray, Values]]] = {}
    for method, group in _by_method(curves).items():
        for curve in group:
            values = curve.calibration.get(kind, {}).get("coverage_68")
            if values is not None:
                series.setdefault(method, []).append((curve.n_labels, 100 * values))
    figure = _against_labels(series, "Errors within one σ (%)", log_y=False)
    if figure is not None:
        figure.add_hline(y=68.3, line={"color": INK, "dash": "dot", "width": 1.5})
        figure.add_annotation(
            text="ideal 68.3 %", xref="paper", x=1, xanchor="right", y=68.3, yanchor="bottom", showarrow=False
        )
        figure.update_yaxes(range=[0, 102])
    return figure


def training_curve(metrics: Mapping[str, Values], kind: str) -> go.Figure | None:
    """Training history against the epoch: `loss`, or training and validation RMSE of `energy` or `forces`."""
    x, x_title = metrics.get("epoch"), "Epoch"
    if x is None or not np.isfinite(x).any():
        x, x_title = metrics.get("step"), "Step"
    if x is None:
        return None
    if kind == "loss":
        lines = [("loss", "training loss", INK, "solid", 1.0)]
        title = "Training loss (weighted, no unit)"
    else:
        _, unit, factor = SCORES[f"{kind}_rmse"]
        lines = [
            (f"train_{kind}_rmse", "training", GREY, "dash", factor),
            (f"valid_{kind}_rmse", "validation", KIND_COLORS[kind], "solid", factor),
        ]
        title = f"{'Force' if kind == 'forces' else 'Energy'} RMSE ({unit})"
    figure = _figure(x_title, title)
    drawn: list[Values] = []
    for column, name, color, dash, factor in lines:
        y = factor * metrics.get(column, np.full_like(x, np.nan))
        known = np.isfinite(x) & np.isfinite(y)
        if known.any():
            drawn.append(y[known])
            mode = "lines+markers" if known.sum() < 40 else "lines"
            _line(figure, x[known], y[known], color, 2.5, dash, name=name, mode=mode, marker={"size": 6})
    if not drawn:
        return None
    figure.update_yaxes(**axis(np.concatenate(drawn), log=True))
    figure.update_layout(showlegend=len(lines) > 1)
    return figure


def parity(reference: Values, predicted: Values, name: str, unit: str) -> go.Figure | None:
    """Predictions against reference values (n,) of one unit, coloured by how many points are near.

    At most `MAX_POINTS` are drawn: the largest errors and a fixed random sample of the rest.
    """
    known = np.isfinite(reference) & np.isfinite(predicted)
    if not known.any():
        return None
    x, y = reference[known], predicted[known]
    shown = sample(np.abs(y - x))
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    pad = 0.04 * (high - low) or 1.0
    ends = [low - pad, high + pad]
    figure = _figure(f"Reference {name} ({unit})", f"Predicted {name} ({unit})")
    _line(figure, ends, ends, INK, 1.2, "dash", hoverinfo="skip")
    figure.add_scatter(x=x[shown], y=y[shown], mode="markers", marker=density_marker(x, y, shown))
    figure.update_layout(showlegend=False)
    return _square(figure, range=ends, nticks=7)


def residuals(reference: Values, errors: Values, name: str, unit: str) -> go.Figure | None:
    """Prediction minus label (shown in thousandths of the unit) against the label, both (n,)."""
    known = np.isfinite(reference) & np.isfinite(errors)
    if not known.any():
        return None
    x, y = reference[known], 1e3 * errors[known]
    shown = sample(np.abs(y))
    figure = _figure(f"Reference {name} ({unit})", f"Error of {name} (m{unit})")
    figure.add_scatter(x=x[shown], y=y[shown], mode="markers", marker=density_marker(x, y, shown))
    figure.add_hline(y=0, line={"color": INK, "dash": "dash", "width": 1.2})
    figure.update_layout(showlegend=False)
    return figure


def feature_map(arrays: Mapping[str, np.ndarray]) -> go.Figure | None:
    """Training set, pool (n, 2) and picks (indices of the pool) in the plane of their features.

    Where several methods are compared, the picks of each (`picks_METHOD`) have its colour.
    """
    train, pool, picks, shares = (arrays.get(key) for key in ("train", "pool", "picks", "shares"))
    if train is None or pool is None or picks is None or shares is None or not len(pool):
        return None
    titles = [
        f"{word} component ({100 * x:.1f} % of the variance)"
        for word, x in zip(("First", "Second"), shares, strict=True)
    ]
    figure = _figure(*titles)
    for points, name, color, size in ((train, "training set", GREY, 6), (pool, "pool", "#56B4E9", 7)):
        shown = sample(np.zeros(len(points)))
        marker = {"size": size, "color": color, "opacity": 0.6}
        figure.add_scatter(x=points[shown, 0], y=points[shown, 1], mode="markers", name=name, marker=marker)
    edge = {"color": "white", "width": 1.5}
    methods = {key.removeprefix("picks_"): own for key, own in arrays.items() if key.startswith("picks_")}
    colors = {"picks": VERMILION}
    if len(methods) > 1:
        colors = {name: color for name, color in method_colors(methods).items() if name in methods}
    # What several methods picked shows all of them: the later ones are smaller.
    for place, (name, color) in enumerate(sorted(colors.items(), key=lambda pair: pair[0] != "random")):
        own = methods[name] if len(methods) > 1 else picks
        figure.add_scatter(
            x=pool[own, 0],
            y=pool[own, 1],
            mode="markers" if len(methods) > 1 else "markers+text",
            name=name,
            text=[str(k + 1) for k in range(len(own))],
            textposition="top center",
            marker={"size": max(13 - 2 * place, 7), "symbol": "diamond", "color": color, "line": edge},
        )
    return figure


def error_against_sigma(residuals: Values, sigma: Values, name: str, unit: str) -> go.Figure | None:
    """Absolute errors against predicted σ, both (n,) in eV or eV/Å and shown in meV, on logarithmic axes.

    Lines are y = σΦ⁻¹((1+p)/2) for p = 0.5, 0.683 and 0.95; diamonds are the RMSE against the root mean
    variance of bins of equal count.
    """
    scored = np.isfinite(residuals) & np.isfinite(sigma) & (sigma > 0)
    if not scored.any():
        return None
    r, s = 1e3 * residuals[scored], 1e3 * sigma[scored]
    figure = _figure(f"Predicted σ of {name} (m{unit})", f"Absolute error of {name} (m{unit})")
    drawn = np.abs(r) > 0  # an error of exactly zero has no place on a logarithmic axis
    size, spread = np.abs(r[drawn]), s[drawn]
    if len(size):
        shown = sample(size / spread)
        marker = density_marker(np.log10(spread), np.log10(size), shown)
        figure.add_scatter(
            x=spread[shown], y=size[shown], mode="markers", marker=marker, name="errors", showlegend=False
        )
    low, high = float(s.min()) / 1.15, float(s.max()) * 1.15
    for level, dash in QUANTILES:
        slope = float(ndtri((1 + level) / 2))
        ends = [slope * low, slope * high]
        _line(figure, [low, high], ends, INK, 1.8, dash, name=f"{100 * level:.3g} %", hoverinfo="skip")
    rmv, rmse = binned_rmv_rmse(r, s)
    edge = {"color": "white", "width": 1.5}
    marker = {"symbol": "diamond", "size": 11, "color": VERMILION, "line": edge}
    figure.add_scatter(x=rmv, y=rmse, mode="markers", name="RMSE per bin", marker=marker)
    # a few errors near zero must not stretch the axis over many decades
    floor = max(float(np.quantile(size, 0.005)), 1e-4 * high) if len(size) else low
    figure.update_xaxes(**axis(np.array([low, high]), log=True, pad=0.0))
    figure.update_yaxes(**axis(np.array([floor, max(float(np.max(np.abs(r))), 1.96 * high)]), log=True))
    return figure


def calibration(scored: Mapping[str, tuple[Values, Values]]) -> go.Figure | None:
    """Observed against expected share of errors in central intervals; kind to residuals and σ, each (n,)."""
    if not scored:
        return None
    figure = _figure("Expected share of errors inside (%)", "Observed share of errors inside (%)")
    colors = method_colors(scored) | KIND_COLORS
    for kind, (residuals, sigma) in scored.items():
        levels, observed = calibration_curve(residuals, sigma)
        _line(figure, 100 * levels, 100 * observed, colors[kind], 3, name=kind)
    _line(figure, [0, 100], [0, 100], INK, 1.2, "dash", name="ideal", hoverinfo="skip")
    for text, x, y in (("σ too large", 22, 88), ("σ too small", 78, 12)):
        figure.add_annotation(text=text, x=x, y=y, showarrow=False, font={"color": GREY, "size": 13})
    return _square(figure, range=[0, 100], dtick=20)


def coverage_by_group(shares: Mapping[str, Mapping[str, float]], ideal: float) -> go.Figure | None:
    """Share of errors within the interval of probability `ideal`, by group, a bar for each estimator."""
    if not shares:
        return None
    figure, colors = _figure("Group", "Share of errors inside (%)"), method_colors(shares)
    for name, of_groups in shares.items():
        heights = [100 * share for share in of_groups.values()]
        figure.add_bar(x=list(of_groups), y=heights, name=name, marker={"color": colors[name]})
    figure.add_hline(y=100 * ideal, line={"color": INK, "dash": "dash", "width": 1.2})
    figure.update_yaxes(range=[0, 100])
    return figure


def gains(picks: Sequence[Pick]) -> go.Figure | None:
    """Gain of every pick in the order of labelling; a line per method, seed and round."""
    known = [pick for pick in picks if math.isfinite(pick.gain)]
    if not known or not any(pick.gain for pick in known):
        return None
    colors = method_colors(pick.method for pick in known)
    in_loop = any(pick.seed is not None for pick in known)
    figure = _figure("Number of labels" if in_loop else "Pick", "Gain of the pick (unit of the method)")
    groups: dict[tuple[str, int | None], dict[int, list[Pick]]] = {}
    for pick in known:
        groups.setdefault((pick.method, pick.seed), {}).setdefault(pick.round, []).append(pick)
    named: set[str] = set()
    for (method, seed), rounds in groups.items():
        x: list[float | None] = []
        y: list[float | None] = []
        for picked in rounds.values():
            x += [pick.n_labels + pick.order + 1 for pick in picked] + [None]
            y += [pick.gain for pick in picked] + [None]  # the gap parts the rounds
        _line(
            figure,
            x,
            y,
            colors[method],
            2,
            name=method or "selection",
            legendgroup=method,
            showlegend=method not in named,
            mode="lines+markers",
            opacity=1.0 if not named or seed is None else 0.65,
            marker={"size": 6, "symbol": _symbol(seed)},
            hovertemplate="%{x}: %{y:.3g}"
            + ("" if seed is None else f"<extra>{method}, seed {seed}</extra>"),
        )
        named.add(method)
    figure.update_yaxes(**axis(np.array([pick.gain for pick in known]), log=True))
    ends = [pick.n_labels + pick.order + 1 for pick in known]
    if max(ends) - min(ends) < 12:
        figure.update_xaxes(dtick=1)  # there are no parts of a pick
    return figure


def distribution(values: Values, name: str, unit: str) -> go.Figure | None:
    """How many values lie where; on a logarithmic axis where they are positive and span decades."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, high = float(known.min()), float(known.max())
    logarithmic = low > 0 and high > 30 * low
    edges = np.geomspace(low, high, 41) if logarithmic else np.linspace(low, high + (high == low), 41)
    counts, _ = np.histogram(known, edges)
    middle = np.sqrt(edges[:-1] * edges[1:]) if logarithmic else 0.5 * (edges[:-1] + edges[1:])
    figure = _figure(f"{name} ({unit})" if unit else name, "Number")
    figure.add_bar(x=middle, y=counts, width=np.diff(edges), marker={"color": BLUE})
    figure.update_xaxes(type="log" if logarithmic else "linear")
    figure.update_layout(showlegend=False, bargap=0)
    return figure


def correlation(matrix: np.ndarray, names: Sequence[str]) -> go.Figure | None:
    """A positive semidefinite matrix with its diagonal scaled to 1; nothing for many rows."""
    if len(matrix) > 60 or not np.isfinite(matrix).all():
        return None
    scale = np.sqrt(np.maximum(np.diag(matrix), 0.0))
    scaled = np.divide(
        matrix, np.outer(scale, scale), out=np.zeros(matrix.shape), where=np.outer(scale, scale) > 0
    )
    figure = _figure("", "")
    ends = [[0.0, BLUE], [0.5, "#FFFFFF"], [1.0, VERMILION]]
    figure.add_heatmap(z=scaled, x=list(names), y=list(names), zmin=-1, zmax=1, colorscale=ends)
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category", autorange="reversed")
    return figure


def spectrum(eigenvalues: Values) -> go.Figure | None:
    """Eigenvalues in falling order, those above zero on a logarithmic axis."""
    shown = np.where(eigenvalues > 0, eigenvalues, np.nan)
    if not np.isfinite(shown).any():
        return None
    figure = _figure("Direction", "Eigenvalue")
    figure.add_scatter(
        x=np.arange(1, len(shown) + 1), y=shown, mode="markers", marker={"color": BLUE, "size": 8}
    )
    figure.update_yaxes(type="log", exponentformat="power")
    figure.update_layout(showlegend=False)
    return figure


def bars(values: Mapping[str, float], title: str) -> go.Figure | None:
    """A number by name."""
    if not values:
        return None
    figure = _figure("", title)
    figure.add_bar(x=list(values), y=list(values.values()), marker={"color": BLUE}, width=0.3)
    figure.update_layout(showlegend=False)
    return figure


def _symbol(seed: int | None) -> str:
    return ("circle", "diamond", "square", "triangle-up", "x")[(seed or 0) % 5]


def _by_method(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Curves per method; the baseline last, so that it does not lead the legend."""
    groups: dict[str, list[Curve]] = {}
    for curve in sorted(curves, key=lambda curve: curve.method == "random"):
        groups.setdefault(curve.method, []).append(curve)
    return groups


def _against_labels(
    series: Mapping[str, Sequence[tuple[np.ndarray, Values]]], title: str, log_y: bool
) -> go.Figure | None:
    colors = method_colors(series)
    figure = _figure("Number of labels", title)
    counts: list[np.ndarray] = []
    values: list[np.ndarray] = []
    for method, seeds in series.items():
        seeds = [(n[np.isfinite(y)], y[np.isfinite(y)]) for n, y in seeds]
        seeds = [(n, y) for n, y in seeds if len(n)]
        if not seeds:
            continue
        counts += [n for n, _ in seeds]
        values += [y for _, y in seeds]
        _add_method(figure, method, seeds, colors[method])
    if not values:
        return None
    across = axis(np.concatenate(counts), log=True)
    figure.update_xaxes(**across if "type" in across else {})  # a short run need not start at no labels
    figure.update_yaxes(**axis(np.concatenate(values), log=log_y))
    return figure


def _add_method(
    figure: go.Figure, method: str, seeds: Sequence[tuple[np.ndarray, Values]], color: str
) -> None:
    """Band, faint lines of the seeds and mean line of one method."""
    shared = set.intersection(*(set(n.tolist()) for n, _ in seeds))
    common = np.array(sorted(shared), dtype=np.int64)
    rows = np.array([[dict(zip(n.tolist(), y, strict=True))[k] for k in common.tolist()] for n, y in seeds])
    quiet: dict[str, Any] = {"legendgroup": method, "showlegend": False, "hoverinfo": "skip"}
    if len(seeds) > 1:
        if len(common):
            x = np.concatenate([common, common[::-1]])
            y = np.concatenate([rows.max(axis=0), rows.min(axis=0)[::-1]])
            _line(figure, x, y, color, 0, fill="toself", fillcolor=_faint(color), **quiet)
        for n, y in seeds:
            _line(figure, n, y, color, 1, opacity=0.45, **quiet)
    if len(common):
        dash, symbol = ("dash", "square") if method == "random" else ("solid", "circle")
        name = f"{method} ({len(seeds)} seeds)" if len(seeds) > 1 else method
        marker, mode = {"size": 8, "symbol": symbol}, "lines+markers"
        mean = rows.mean(axis=0)
        _line(figure, common, mean, color, 3, dash, name=name, mode=mode, marker=marker, legendgroup=method)


def _line(
    figure: go.Figure, x: Any, y: Any, color: str, width: float, dash: str = "solid", **more: Any
) -> None:
    figure.add_scatter(
        **{"x": x, "y": y, "mode": "lines", "line": {"color": color, "width": width, "dash": dash}} | more
    )


def _square(figure: go.Figure, **axis: Any) -> go.Figure:
    """The figure with two axes of one scale."""
    figure.update_xaxes(constrain="domain", **axis)
    figure.update_yaxes(constrain="domain", scaleanchor="x", scaleratio=1, **axis)
    return figure


def _faint(color: str) -> str:
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def _figure(x_title: str, y_title: str) -> go.Figure:
    style = {
        "showline": True,
        "linecolor": "#52606D",
        "mirror": True,
        "ticks": "outside",
        "tickcolor": "#52606D",
        "ticklen": 5,
        "gridcolor": "#E4E7EB",
        "zeroline": False,
        "automargin": True,
        "title": {"standoff": 10, "font": {"size": 15}},
    }
    template = go.layout.Template(layout={"xaxis": style, "yaxis": style})
    figure = go.Figure(layout={"template": template})
    figure.update_layout(
        font={
            "family": "system-ui, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif",
            "size": 14,
            "color": INK,
        },
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="white",
        margin={"l": 72, "r": 16, "t": 40, "b": 60},
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        hoverlabel={"font": {"size": 13}},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#9AA5B1", "activecolor": BLUE},
        xaxis_title_text=x_title,
        yaxis_title_text=y_title,
    )
    return figure
