"""Chebyshev polynomials of a transformed distance times the cutoff function, for NumPy and for JAX."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

from surefield.descriptors.chimes.settings import ChimesSettings

__all__ = ["EXTRAPOLATION", "Radial", "penalty", "radial"]

#: Length d over which polynomials level off below the inner cutoff, Å.
EXTRAPOLATION = 0.01


class Radial(NamedTuple):
    """f(r) T_k(r) for k = 0, 1, ... along the first axis, and the derivatives by r.

    Attributes:
        values: (n_powers, ...).
        slopes: the same, 1/Å.
    """

    values: Any
    slopes: Any


def radial(
    xp: ModuleType, r: Any, inner: Any, outer: Any, length: Any, n_powers: int, s: ChimesSettings
) -> Radial:
    """Polynomials and cutoff function of distances.

    Args:
        xp: `numpy` or `jax.numpy`.
        r: distances, Å, of any shape.
        inner: inner cutoffs, Å, that broadcast to r.
        outer: outer cutoffs likewise; they must lie above the inner ones.
        length: lengths of the Morse transformation likewise.
        n_powers: how many polynomials, from T_0.
        s: transformation and cutoff function.
    """
    inside = xp.maximum(r, inner)
    x, dx = _variable(xp, inside, inner, outer, length, s)
    t, dt = [xp.ones_like(x), x], [xp.zeros_like(x), xp.ones_like(x)]
    for _ in range(2, n_powers):
        dt.append(2 * t[-1] + 2 * x * dt[-1] - dt[-2])
        t.append(2 * x * t[-1] - t[-2])
    # Below the inner cutoff (zero above it): T(r_in) + d (exp((r - r_in)/d) - 1) T'(r_in).
    beyond = xp.minimum(r - inner, 0.0) / EXTRAPOLATION
    step, fade = EXTRAPOLATION * xp.expm1(beyond), xp.exp(beyond)
    f, df = _cutoff(xp, r, outer, s)
    slopes = [d * dx for d in dt[:n_powers]]
    values = [p + step * slope for p, slope in zip(t[:n_powers], slopes, strict=True)]
    return Radial(
        xp.stack([f * p for p in values]),
        xp.stack([df * p + f * fade * slope for p, slope in zip(values, slopes, strict=True)]),
    )


def _variable(
    xp: ModuleType, r: Any, inner: Any, outer: Any, length: Any, s: ChimesSettings
) -> tuple[Any, Any]:
    """Variable of the polynomials in [-1, 1] and its derivative by r."""
    if s.transform == "DEFAULT":
        half = 0.5 * (outer - inner)
        return (r - 0.5 * (inner + outer)) / half, xp.ones_like(r) / half
    if s.transform == "MORSE":
        at = [xp.exp(-d / length) for d in (r, inner, outer)]
        slope = -at[0] / length
    else:
        at = [1 / d for d in (r, inner, outer)]
        slope = -(at[0] ** 2)
    half = 0.5 * (at[1] - at[2])
    return (at[0] - 0.5 * (at[1] + at[2])) / half, slope / half


def _cutoff(xp: ModuleType, r: Any, outer: Any, s: ChimesSettings) -> tuple[Any, Any]:
    """Cutoff function, zero from the outer cutoff on, and its derivative."""
    if s.cutoff == "CUBIC":
        rest = xp.maximum(1 - r / outer, 0.0)
        return rest**3, -3 * rest**2 / outer
    width = s.tersoff * outer
    phase = xp.clip((r - (outer - width)) / width, 0.0, 1.0)
    return 0.5 + 0.5 * xp.cos(xp.pi * phase), -0.5 * xp.pi / width * xp.sin(xp.pi * phase)


def penalty(xp: ModuleType, r: Any, inner: Any, s: ChimesSettings) -> Any:
    """Energy that keeps pairs away from the inner cutoff, eV: A_p (r_in + d_p - r)^3 below r_in + d_p."""
    return s.penalty_scale * xp.maximum(inner + s.penalty_distance - r, 0.0) ** 3
