"""Lists of symmetry functions as users write them: dicts, checked and turned into records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final, Self

import numpy as np
from ase.data import chemical_symbols

from surefield.descriptors.atomic_descriptor import atomic_number
from surefield.errors import ConfigError, nearest

__all__ = ["Function", "make_default_symmetry_functions", "make_symmetry_functions"]

_KEYS: Final = {
    "G2": ("type", "element", "eta", "offset"),
    "G4": ("type", "elements", "eta", "gamma", "zeta"),
    "G5": ("type", "elements", "eta", "gamma", "zeta"),
}


@dataclass(frozen=True)
class Function:
    """One symmetry function.

    Attributes:
        type: "G2", "G4" or "G5".
        elements: atomic number of the neighbour (G2), or of the two neighbours, ascending (G4, G5).
        eta: exponent; divided by Rc^2 it is per Å^2.
        offset: centre of the Gaussian, Å (G2).
        gamma: factor of the cosine (G4, G5).
        zeta: power (G4, G5).
    """

    type: str
    elements: tuple[int, ...]
    eta: float
    offset: float = 0.0
    gamma: float = 1.0
    zeta: float = 1.0

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], where: str) -> Self:
        """Check one entry of a list of functions.

        Args:
            entry: `type`, `element` or `elements`, `eta`, and `offset` or `gamma`, `zeta`.
            where: for messages, such as "function 3 of Cu".

        Raises:
            ConfigError: an unknown type or key, one that is missing, or a value out of range.
        """
        if not isinstance(entry, Mapping):
            raise ConfigError("not a symmetry function", where=where, got=repr(entry), expected="a dict")
        kind = entry.get("type")
        if not isinstance(kind, str) or kind not in _KEYS:
            raise ConfigError(f"unknown type {kind!r} in {where}; known: G2, G4, G5")
        known = _KEYS[kind]
        for key in entry:
            if key not in known:
                raise ConfigError(f"unknown key {key!r} in {where} ({kind}); {nearest(key, known)}")
        for key in known:
            if key not in entry and key != "offset":
                raise ConfigError(f"{key!r} is missing", where=f"{where} ({kind})", got=dict(entry))
        symbols = [entry["element"]] if kind == "G2" else entry["elements"]
        if not isinstance(symbols, list | tuple) or len(symbols) != (1 if kind == "G2" else 2):
            expected = "a list of two, such as ['Cu', 'Pt']"
            raise ConfigError(f"elements of {kind}", where=where, got=repr(symbols), expected=expected)
        elements = tuple(sorted(atomic_number(symbol, where) for symbol in symbols))
        numbers = {key: _number(key, entry.get(key, 0.0), where) for key in known if key not in _SYMBOLS}
        if numbers["eta"] < 0:
            raise ConfigError(f"eta must not be negative in {where}, got {numbers['eta']}")
        if kind != "G2":
            _check_power(numbers["zeta"], numbers["gamma"], where)
        return cls(kind, elements, **numbers)

    def todict(self) -> dict[str, Any]:
        """Entry of a list of functions, as `from_dict` takes it."""
        symbols = [chemical_symbols[z] for z in self.elements]
        if self.type == "G2":
            return {"type": "G2", "element": symbols[0], "eta": self.eta, "offset": self.offset}
        angular = {"eta": self.eta, "gamma": self.gamma, "zeta": self.zeta}
        return {"type": self.type, "elements": sorted(symbols), **angular}

    @property
    def name(self) -> str:
        """Such as "G2 Cu eta=0.05 offset=0" or "G4 Cu-Pt eta=0.005 gamma=1 zeta=4"."""
        symbols = "-".join(sorted(chemical_symbols[z] for z in self.elements))
        if self.type == "G2":
            return f"G2 {symbols} eta={self.eta:.4g} offset={self.offset:g}"
        return f"{self.type} {symbols} eta={self.eta:.4g} gamma={self.gamma:g} zeta={self.zeta:g}"


_SYMBOLS: Final = ("type", "element", "elements")


def make_symmetry_functions(
    elements: Sequence[str],
    type: str,
    etas: Sequence[float],
    offsets: Sequence[float] | None = None,
    zetas: Sequence[float] | None = None,
    gammas: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """List of symmetry functions, for `Gs` of `Gaussian`.

    Args:
        elements: chemical symbols of the neighbours.
        type: "G2", "G4" or "G5".
        etas: exponents.
        offsets: centres in Å (G2 only); 0 by default.
        zetas: powers (G4 and G5 only).
        gammas: factors of the cosine (G4 and G5 only).

    Returns:
        Dicts; G2 by eta, element, offset; G4 and G5 by eta, zeta, gamma, unordered pair of elements.

    Raises:
        ConfigError: an unknown type, or arguments that are missing or of the other type.
    """
    if type not in _KEYS:
        raise ConfigError(f"unknown type {type!r} of symmetry functions; known: G2, G4, G5")
    for symbol in elements:
        atomic_number(symbol, "elements")
    if type == "G2":
        if zetas is not None or gammas is not None:
            raise ConfigError("zetas and gammas are for G4 and G5, got them for G2")
        return [
            {"type": type, "element": element, "eta": float(eta), "offset": float(offset)}
            for eta in etas
            for element in elements
            for offset in ([0.0] if offsets is None else offsets)
        ]
    if offsets is not None:
        raise ConfigError(f"offsets are for G2, got them for {type}")
    if zetas is None or gammas is None:
        raise ConfigError(f"{type} needs zetas and gammas, got zetas={zetas}, gammas={gammas}")
    pairs = [sorted([a, b]) for i, a in enumerate(elements) for b in elements[i:]]
    return [
        {"type": type, "elements": list(pair), "eta": float(eta), "gamma": float(gamma), "zeta": float(zeta)}
        for eta in etas
        for zeta in zetas
        for gamma in gammas
        for pair in pairs
    ]


def make_default_symmetry_functions(elements: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Default functions, the same for each element: 20 for two elements, 36 for three, 56 for four.

    G2 with four exponents from 0.05 to 5 (logarithmic), G4 with eta 0.005, zeta 1 and 4, gamma 1 and -1.
    """
    elements = sorted(elements)
    etas = np.logspace(np.log10(0.05), np.log10(5.0), num=4).tolist()
    functions = make_symmetry_functions(elements, "G2", etas)
    functions += make_symmetry_functions(elements, "G4", [0.005], zetas=[1.0, 4.0], gammas=[1.0, -1.0])
    return {element: [dict(function) for function in functions] for element in elements}


def _number(key: str, value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(float(value)):
        raise ConfigError(f"{key} must be a finite number in {where}, got {value!r}")
    return float(value)


def _check_power(zeta: float, gamma: float, where: str) -> None:
    if zeta <= 0:
        raise ConfigError(f"zeta must be positive in {where}, got {zeta}")
    if zeta != int(zeta) and abs(gamma) > 1:
        fix = "1 + gamma cos t may be negative, and has no such power"
        raise ConfigError(
            f"zeta {zeta} is not whole, so gamma must be in [-1, 1] in {where}, got {gamma}; {fix}"
        )
