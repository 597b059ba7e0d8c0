"""Symmetry functions as KLIFF and KIM's DUNN driver define them: 'set51', 'set30', lists, cutoffs per pair.

G2 = sum_j exp(-eta (r_ij - Rs)^2) fc(r_ij)
G4 = 2^(1-zeta) sum_{j<k} (1 + lambda cos t)^zeta exp(-eta (r_ij^2 + r_ik^2 + r_jk^2))
     fc(r_ij) fc(r_ik) fc(r_jk)

with fc(r) = (cos(pi r/rc) + 1)/2 and a radius rc of each pair of elements. 'set51': Artrith and Behler, Phys.
Rev. B 85, 045439 (2012), as Wen and Tadmor, npj Comput. Mater. 6, 124 (2020), use it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Final

from ase.data import chemical_symbols

from surefield.descriptors.atomic_descriptor import atomic_number
from surefield.descriptors.cutoffs import Cosine
from surefield.descriptors.symmetry_functions import SymmetryFunctions
from surefield.errors import ConfigError, nearest

__all__ = ["CUTOFF_TYPES", "Hyperparams", "behler_functions", "function_lists", "pair_radii"]

#: A name of a set, or {'g2': [{'eta', 'Rs'}, ...], 'g4': [{'zeta', 'lambda', 'eta'}, ...]} with eta per Å^2.
Hyperparams = str | Mapping[str, Sequence[Mapping[str, float]]]

CUTOFF_TYPES: Final = ("cos",)
#: Å; the published exponents are per bohr^2.
_BOHR: Final = 0.529177
_KEYS: Final = {"g2": ("eta", "Rs"), "g4": ("zeta", "lambda", "eta")}


def behler_functions(
    species: Sequence[str],
    hyperparams: Hyperparams = "set51",
    cutoff: Mapping[str, float] | float = 5.0,
    cutoff_type: str = "cos",
) -> SymmetryFunctions:
    """Descriptor with the same functions for each element.

    Columns: one block of all G2 for each element of the neighbour, then one block of all G4 for each pair of
    elements (1-1, 1-2, .., 2-2, ..); elements in the order of their atomic numbers.

    Args:
        species: chemical symbols.
        hyperparams: 'set51', 'set30', or lists of functions; see `function_lists`.
        cutoff: radius of each pair in Å, such as {'Si-Si': 5.0}; a number holds for all pairs.
        cutoff_type: 'cos'.

    Raises:
        ConfigError: another type of cutoff, a pair without radius, or an unusable list.
    """
    if cutoff_type not in CUTOFF_TYPES:
        got = f"unknown cutoff_type {cutoff_type!r}"
        raise ConfigError(got, expected=" or ".join(map(repr, CUTOFF_TYPES)))
    numbers = sorted({atomic_number(symbol, "species") for symbol in species})
    symbols = [chemical_symbols[z] for z in numbers]
    lists = function_lists(hyperparams)
    functions: list[dict[str, Any]] = [
        {"type": "G2", "element": symbol, "eta": entry["eta"], "offset": entry["Rs"]}
        for symbol in symbols
        for entry in lists["g2"]
    ]
    functions += [
        {
            "type": "G4",
            "elements": list(pair),
            "eta": entry["eta"],
            "gamma": entry["lambda"],
            "zeta": entry["zeta"],
        }
        for pair in itertools.combinations_with_replacement(symbols, 2)
        for entry in lists["g4"]
    ]
    if not functions:
        raise ConfigError(f"hyperparams hold no functions: {hyperparams!r}")
    radii = pair_radii(symbols, cutoff)
    largest = max(map(max, radii))
    same = all(radius == largest for row in radii for radius in row)
    own = {symbol: functions for symbol in symbols}
    return SymmetryFunctions.from_lists(
        symbols, Cosine(largest), own, length=1.0, radii=None if same else radii
    )


def function_lists(hyperparams: Hyperparams) -> dict[str, list[dict[str, float]]]:
    """Lists of a set: {'g2': [{'eta', 'Rs'}], 'g4': [{'zeta', 'lambda', 'eta'}]}, eta per Å^2, Rs in Å.

    Args:
        hyperparams: name of a set, or such lists, which are checked; a list may be left out.

    Raises:
        ConfigError: an unknown set, an unknown type of function or key, or a value out of range.
    """
    if isinstance(hyperparams, str):
        if hyperparams not in _SETS:
            known = "known: set51, set30, or a dict of g2 and g4 lists"
            raise ConfigError(f"unknown hyperparams {hyperparams!r}; {known}")
        return _SETS[hyperparams]()
    if not isinstance(hyperparams, Mapping):
        expected = "'set51', 'set30' or a dict of g2 and g4 lists"
        raise ConfigError("unusable hyperparams", got=repr(hyperparams), expected=expected)
    for name in hyperparams:
        if name not in _KEYS:
            raise ConfigError(f"unknown functions {name!r} in hyperparams; {nearest(str(name), _KEYS)}")
    return {
        name: [_entry(entry, keys, f"{name}[{i}]") for i, entry in enumerate(hyperparams.get(name) or ())]
        for name, keys in _KEYS.items()
    }


def _entry(entry: Mapping[str, float], keys: tuple[str, ...], where: str) -> dict[str, float]:
    if not isinstance(entry, Mapping) or set(entry) != set(keys):
        expected = f"a dict of {', '.join(keys)}"
        raise ConfigError(f"unusable {where} of hyperparams", got=repr(entry), expected=expected)
    for key, value in entry.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(float(value)):
            raise ConfigError(f"{key} of {where} in hyperparams must be a finite number, got {value!r}")
    return {key: float(entry[key]) for key in keys}


def pair_radii(symbols: Sequence[str], cutoff: Mapping[str, float] | float) -> tuple[tuple[float, ...], ...]:
    """Symmetric table of radii (Å) from {'Si-Si': 5.0, ...}, where either order of a pair will do.

    Raises:
        ConfigError: a pair that is missing, unknown or given twice, or a radius that is not positive.
    """
    if not isinstance(cutoff, Mapping):
        radius = _radius("cutoff", cutoff)
        return tuple(tuple(radius for _ in symbols) for _ in symbols)
    pairs = {frozenset(pair): "-".join(pair) for pair in itertools.combinations_with_replacement(symbols, 2)}
    radii: dict[frozenset[str], float] = {}
    for name, value in cutoff.items():
        pair = frozenset(str(name).split("-"))
        if pair not in pairs or str(name).count("-") != 1:
            raise ConfigError(f"unknown pair {name!r} in cutoff; {nearest(str(name), pairs.values())}")
        if radii.get(pair, value) != value:
            raise ConfigError(f"cutoff gives two radii for {pairs[pair]}: {radii[pair]} and {value}")
        radii[pair] = _radius(f"cutoff of {name}", value)
    missing = [name for pair, name in pairs.items() if pair not in radii]
    if missing:
        raise ConfigError(f"cutoff has no radius for {', '.join(missing)}; got {dict(cutoff)}")
    return tuple(tuple(radii[frozenset((a, b))] for b in symbols) for a in symbols)


def _radius(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise ConfigError(f"{what} must be a positive number of Å, got {value!r}")
    return float(value)


def _radial(etas: Sequence[float]) -> list[dict[str, float]]:
    return [{"eta": eta / _BOHR**2, "Rs": 0.0} for eta in etas]


def _angular(etas: Sequence[float], zetas: Sequence[int], lambdas: Sequence[int]) -> list[dict[str, float]]:
    return [
        {"zeta": float(zeta), "lambda": float(sign), "eta": eta / _BOHR**2}
        for eta in etas
        for zeta in zetas
        for sign in lambdas
    ]


def _set51() -> dict[str, list[dict[str, float]]]:
    g4 = _angular((0.0001, 0.003, 0.008), (1, 2), (-1, 1))
    g4 += _angular((0.015, 0.025, 0.045, 0.08), (1, 2, 4, 16), (-1, 1))
    left_out = {"zeta": 16.0, "lambda": -1.0, "eta": 0.08 / _BOHR**2}
    g4 = [entry for entry in g4 if entry != left_out]
    return {"g2": _radial((0.001, 0.01, 0.02, 0.035, 0.06, 0.1, 0.2, 0.4)), "g4": g4}


def _set30() -> dict[str, list[dict[str, float]]]:
    g4 = _angular((0.0001, 0.003), (1, 2), (-1, 1)) + _angular((0.008,), (1, 2), (1,))
    g4 += _angular((0.015, 0.025, 0.045), (1, 2, 4, 16), (1,))
    return {"g2": _radial((0.0009, 0.01, 0.02, 0.035, 0.06, 0.1, 0.2, 0.4)), "g4": g4}


_SETS: Final = {"set51": _set51, "set30": _set30}
