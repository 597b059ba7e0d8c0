"""Reference energies, forces and stresses of structures: found, checked, converted to eV and Å, reported."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, final

import numpy as np
from ase import Atoms

from surefield import units
from surefield.errors import DataError, nearest
from surefield.keys import BARE, CONVERTED
from surefield.quantities import Quantity, Values, labelled, names, quantity
from surefield.structures.label_sources import (
    FREE_ENERGY,
    candidate_keys,
    has_stale_results,
    is_reference,
    keys_present,
    look_up,
    spellings,
)
from surefield.structures.read import Frames, read_frames
from surefield.structures.stated_units import check_stated_units
from surefield.structures.tensors import VOIGT, to_voigt, volume

__all__ = [
    "DIAGONAL_STRESS",
    "KindReport",
    "LabelReport",
    "Labels",
    "check_named",
    "resolve_labels",
    "stated",
]

#: Entry of `info` of structures whose stress label has xx, yy, zz only; the other components have no label.
DIAGONAL_STRESS = "stress_is_diagonal"

_log = logging.getLogger(__name__)
_RELATIVE = 1e-6
_ABSOLUTE = {"strain": 1e-8}
Mapped = Mapping[str, str | Sequence[str] | None]


@final
class Labels(Values):
    """Reference values of one structure by the names of quantities, float64; None where there is none.

    `energy` is the total energy in eV, `forces` are (n_atoms, 3) in eV/Å, `stress` is (6,) in eV/Å^3, Voigt
    xx yy zz yz xz xy, positive = tensile. NaN only marks masked-out entries.
    """


@dataclass(frozen=True)
class KindReport:
    """Which keys one kind of label was taken from.

    Attributes:
        keys: key and number of structures, most used first.
        missing: structures without this label.
        unused: keys that were there too.
        differing: those of them whose values differ from the labels, which are REF_ ones then.
        not_finite: structures whose label is not finite, so that they are without.
    """

    keys: tuple[tuple[str, int], ...]
    missing: int
    unused: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    not_finite: int = 0

    @property
    def present(self) -> int:
        """Structures with this label."""
        return sum(count for _, count in self.keys)


@dataclass(frozen=True)
class LabelReport:
    """What was taken as label; `str` gives the line that is printed.

    Attributes:
        n_frames: number of structures.
        kinds: for each quantity, the keys used.
        stale: structures whose calculator holds results of another geometry; these were not used.
    """

    n_frames: int
    kinds: Mapping[str, KindReport]
    stale: int = 0

    def __str__(self) -> str:
        parts = []
        for kind, report in self.kinds.items():
            if not report.keys:
                parts.append(f"no {kind}")
                continue
            used = " and ".join(f"{key} ({count})" for key, count in report.keys)
            missing = f", {report.missing} without" if report.missing else ""
            missing += f", {report.not_finite} of them not finite" if report.not_finite else ""
            differing = (
                f", not from {' and '.join(report.differing)}, which differs" if report.differing else ""
            )
            parts.append(f"{kind} from {used}{missing}{differing}")
        stale = (
            f"; {self.stale} structures moved after their calculation, results not used" if self.stale else ""
        )
        return f"labels of {self.n_frames} structures: {'; '.join(parts)}{stale}"


def resolve_labels(
    frames: Frames | Sequence[Atoms],
    mapping: Mapped | None = None,
    units: Mapping[str, str] | None = None,
    require: Sequence[str] = ("energy", "forces"),
    allow_nan: bool = False,
    *,
    stress_sign: Literal[1, -1] = 1,
    voigt_order: str = "xx yy zz yz xz xy",
    supplies: Collection[str] | None = None,
) -> tuple[list[Labels], LabelReport]:
    """Find the labels of every structure, in the order mapping, REF_*, calculator, known aliases.

    One key serves all structures of a kind. A label is numbers of the right shape: what else stands under an
    alias is passed over. Not finite, it counts as missing. Where there is a REF_ label, others are not asked;
    a bare `E` or `F`, which states no unit, is used where the mapping names it. Virials (eV) become stresses,
    -virial/V.

    Args:
        frames: structures.
        mapping: kind to key, e.g. `{"energy": "my_energy", "stress": None}`; None means do not use, a list of
            keys means the first that a structure has. "calculator.energy" is a result of the calculator,
            other keys are in `info` (forces: `arrays`), then in the calculator's results.
        units: of the labels in a file that does not state them itself, `{"energy": "kcal/mol",
            "length": "Å", "stress": "kbar"}`; forces are in energy/length; stress without an own unit in
            energy/length^3. Positions stay Å.
        require: kinds that every structure must have.
        allow_nan: let labels that are not finite pass, as masks.
        stress_sign: 1 when positive is tensile (ASE), -1 when positive is compressive (VASP's output).
        voigt_order: order of the components where a stress has six numbers.
        supplies: names of the quantities that matter; None: those that follow from energies, and those that
            the mapping names.

    Returns:
        One `Labels` per structure, and the report.

    Raises:
        DataError: a required label is missing or not finite, two candidates disagree, a shape or unit of a
            label is wrong that is mapped or named REF_*, or a structure states other units than eV and Å.
    """
    frames = read_frames(frames)
    chosen_keys = _checked_mapping(mapping)
    factors = _factors(units or {})
    stated = next((i for i, atoms in enumerate(frames) if units and CONVERTED in atoms.info), None)
    if stated is not None:
        raise DataError(
            f"the file states its units ({frames[stated].info[CONVERTED]}) and is converted",
            where=frames.origin(stated),
            got=f"units={dict(units or {})}",
            fix="leave them out",
        )
    order = _checked_order(voigt_order)
    if stress_sign not in (1, -1):
        raise DataError(f"stress_sign must be 1 (positive = tensile) or -1, got {stress_sign}")
    shaped = partial(_shaped, frames, order=order, sign=stress_sign)
    values: dict[str, list[Any]] = {}
    reports: dict[str, KindReport] = {}
    used: list[dict[str, str]] = [{} for _ in frames]
    for kind in dict.fromkeys([*labelled(), *labelled(supplies or ()), *chosen_keys]):
        explicit = kind in chosen_keys
        candidates = chosen_keys[kind] if explicit else candidate_keys(kind)
        present = [
            _usable(frames, i, kind, look_up(atoms, kind, candidates, explicit=explicit), explicit, shaped)
            for i, atoms in enumerate(frames)
        ]
        if explicit:
            picks, differing = [next(iter(entry), None) for entry in present], ()
        else:
            picks, differing = _pick(frames, kind, candidates, present)
        for keys_of, key in zip(used, picks, strict=True):
            keys_of |= {} if key is None else {kind: key}
        factor = factors.get(quantity(kind).source, 1.0)
        values[kind] = [None if key is None else present[i][key] * factor for i, key in enumerate(picks)]
        counts = Counter(key for key in picks if key is not None)
        others = tuple(dict.fromkeys(key for entry in present for key in entry if key not in counts))
        lost = 0 if allow_nan else _drop_not_finite(frames, kind, values[kind], picks, kind in require)
        missing = sum(value is None for value in values[kind])
        reports[kind] = KindReport(tuple(counts.most_common()), missing, others, differing, lost)
    if all(factor == 1.0 for factor in factors.values()):  # else it is the user who knows the units
        for i, atoms in enumerate(frames):
            check_stated_units(atoms, frames.origin(i), used[i])
    for atoms, stress in zip(frames, values["stress"], strict=True):
        if stress is not None and atoms.info.get(DIAGONAL_STRESS):
            stress[VOIGT.index("yz") :] = np.nan
    report = LabelReport(len(frames), reports, sum(has_stale_results(atoms) for atoms in frames))
    _check_required(frames, require, values, report)
    numbers = [dict(zip(values, column, strict=True)) for column in zip(*values.values(), strict=True)]
    return [Labels(**{kind: _plain(v) for kind, v in row.items()}) for row in numbers], report


def check_named(frames: Frames, mapping: Mapped | None) -> None:
    """Refuse keys that no structure of a training set has: these are misspelt.

    Args:
        frames: structures.
        mapping: as `resolve_labels` takes it.

    Raises:
        DataError: a kind whose keys no structure has.
    """
    for kind, keys in _checked_mapping(mapping).items():
        if keys and len(frames) and not any(look_up(a, kind, keys, explicit=True) for a in frames):
            raise DataError(
                f"no structure has {' or '.join(map(repr, keys))}, named as the key of its {kind},",
                where=frames.origin(0).partition(" of ")[2] or None,
                fix=f"{nearest(keys[0], keys_present(frames[0]).split(', '))}; usual names are found without "
                "being named",
            )


def stated(atoms: Atoms, labels: Labels) -> Labels:
    """Labels for checks of their numbers: of a stress that has its diagonal alone, these (3,)."""
    if labels.stress is None or not atoms.info.get(DIAGONAL_STRESS):
        return labels
    return labels.replace(stress=labels.stress[: VOIGT.index("yz")])


def _plain(value: np.ndarray | None) -> float | np.ndarray | None:
    return float(value) if value is not None and value.ndim == 0 else value


def _usable(
    frames: Frames, i: int, kind: str, entries: Mapping[str, Any], explicit: bool, shaped: Callable[..., Any]
) -> dict[str, Any]:
    """Those of the values under some keys that are labels."""
    usable: dict[str, Any] = {}
    for key, value in entries.items():
        try:
            usable[key] = shaped(i, kind, key, value)
        except _NoLabel as error:
            if explicit or is_reference(key):
                raise DataError(str(error)) from None
    # With smeared electrons the free energy is another quantity: it stands in, and does not compete.
    others = [key for key in usable if FREE_ENERGY not in key.lower()]
    return usable if explicit or not others else {key: usable[key] for key in others}


def _pick(
    frames: Frames, kind: str, candidates: Sequence[str], present: list[dict[str, Any]]
) -> tuple[list[str | None], tuple[str, ...]]:
    """Choose one key for all structures; refuse candidates that disagree or that take turns.

    Returns:
        The key of each structure, and keys that differ from REF_ labels.
    """
    differing: dict[str, None] = {}
    for i, entry in enumerate(present):
        reference = {key: value for key, value in entry.items() if is_reference(key)}
        _check_agreement(frames, i, kind, reference or entry)
        if reference and len(entry) > len(reference):
            first = next(iter(reference.values()))
            differing |= dict.fromkeys(key for key, value in entry.items() if _difference(kind, first, value))
    order = [key.lower() for key in candidates]
    keys = dict.fromkeys(key for entry in present for key in entry)
    chosen = min(keys, key=lambda key: order.index(key.lower()), default=None)
    if chosen is None:
        return [None] * len(present), ()
    bare = [_bare(frames[i], kind) if chosen not in entry else None for i, entry in enumerate(present)]
    turns = [i for i, entry in enumerate(present) if chosen not in entry and (entry or bare[i])]
    if turns:
        other = next(iter(present[turns[0]]), bare[turns[0]])
        raise DataError(
            f"{kind} is called {chosen!r} in {sum(chosen in e for e in present)} structures but {other!r} in "
            f"{frames.origin(turns[0])} and {len(turns) - 1} more, which lack {chosen!r}; two names may be "
            f"two levels of theory or units; if they are the same, say mapping={{{kind!r}: [{chosen!r}, "
            f"{other!r}]}}, otherwise mapping={{{kind!r}: {chosen!r}}}"
        )
    return [chosen if chosen in entry else None for entry in present], tuple(differing)


def _bare(atoms: Atoms, kind: str) -> str | None:
    """Key of numbers that may be a label, whose name is too short to say so."""
    entry = quantity(kind)
    for name in spellings([*atoms.info, *atoms.arrays]).get(BARE.get(kind, "").lower(), ()):
        value = np.asarray(atoms.arrays.get(name) if name in atoms.arrays else atoms.info[name])
        if value.dtype.kind in "iuf" and value.shape == entry.shape(len(atoms)):
            return name
    return None


def _check_agreement(frames: Frames, i: int, kind: str, entry: dict[str, Any]) -> None:
    if len(entry) < 2:
        return
    first, *others = entry
    for key in others:
        difference = _difference(kind, entry[first], entry[key])
        if difference:
            raise DataError(
                f"two labels for the {kind} disagree in {frames.origin(i)}: {first!r} {_short(entry[first])} "
                f"and {key!r} {_short(entry[key])} (differ by up to {difference:.3g}); say which one to "
                f"use: mapping={{{kind!r}: {first!r}}}"
            )


def _difference(kind: str, reference: Any, value: Any) -> float:
    """Largest difference of two labels where both are finite; 0 if it is rounding."""
    reference, value = np.asarray(reference), np.asarray(value)
    both = np.isfinite(reference) & np.isfinite(value)
    largest = float(np.abs(value - reference)[both].max(initial=0.0))
    limit = _RELATIVE * np.abs(reference[both]).max(initial=0.0) + _ABSOLUTE.get(quantity(kind).source, 1e-6)
    return largest if largest > limit else 0.0


def _short(value: np.ndarray) -> str:
    if value.ndim == 0:
        return f"= {float(value):.9g}"
    flat = ", ".join(f"{x:.4g}" for x in value.ravel()[:3])
    return f"= [{flat}, ...]"


def _drop_not_finite(
    frames: Frames, kind: str, values: list[Any], picks: list[str | None], required: bool
) -> int:
    """Take labels that are not finite out, and count them; refused where every structure needs one."""
    faults = [i for i, value in enumerate(values) if value is not None and not np.isfinite(value).all()]
    for i in faults:
        bad = np.argwhere(~np.isfinite(np.atleast_1d(values[i])))
        where = f" on atom {bad[0][0]}" if quantity(kind).per == "atom" else ""
        text = f"{kind} ({picks[i]!r}) is not finite{where} in {frames.origin(i)} ({len(bad)} entries)"
        if required:
            raise DataError(
                f"{text}; remove the structure, or pass allow_nan=True if NaN marks entries that are not to "
                "be trained on"
            )
        if i == faults[0]:
            _log.warning("%s and %d more: no label there", text, len(faults) - 1)
        values[i] = None
    return len(faults)


def _check_required(
    frames: Frames, require: Sequence[str], values: dict[str, list[Any]], report: LabelReport
) -> None:
    for kind in require:
        if kind not in values:
            raise DataError(f"unknown kind of label {kind!r}; {nearest(kind, values)}")
        missing = [i for i, value in enumerate(values[kind]) if value is None]
        if missing:
            i = missing[0]
            stale = (
                "; its calculator holds results of another geometry" if has_stale_results(frames[i]) else ""
            )
            raise DataError(
                f"no {kind} in {frames.origin(i)} and {len(missing) - 1} more of {report.n_frames} structures"
                f"{stale}; keys present: {keys_present(frames[i])}; {_way_out(frames[i], kind)}"
            )


def _way_out(atoms: Atoms, kind: str) -> str:
    bare = _bare(atoms, kind)
    if bare is None:
        return f"name the key: mapping={{{kind!r}: ...}}"
    unit, doubt = "...", f"{bare!r} alone states no unit and may be something else"
    if {"i", "time", "E"} <= {*atoms.info}:
        unit, doubt = "'Hartree'", f"{doubt} (CP2K's comment lines have it in hartree)"
    return (
        f"{doubt}; if it is the {kind}, name it and its unit: "
        f"convert_labels(source, energy_unit={unit}, mapping={{{kind!r}: {bare!r}}})"
    )


class _NoLabel(Exception):
    """A value that is no label, and why."""


def _shaped(frames: Frames, i: int, kind: str, key: str, value: Any, order: list[int], sign: int) -> Any:
    atoms = frames[i]
    entry = quantity(kind)
    try:
        array = np.asarray(value)
    except ValueError:  # lists of several lengths
        array = np.empty((), dtype=object)
    if array.dtype.kind not in "iuf":  # text with digits and truth values are no labels either
        raise _wrong(frames, i, kind, key, "numbers", repr(str(value)[:60]))
    array = array.astype(np.float64)
    if entry.source != "strain":
        shape = entry.shape(len(atoms))
        if array.shape != shape and not (shape == () and array.size == 1):
            got = array.shape if shape else f"shape {array.shape}"
            raise _wrong(frames, i, kind, key, _words(entry), got)
        return array.reshape(shape)
    while array.ndim > 1 and len(array) == 1:
        array = array[0]
    if array.shape == (6,):
        array = array[order]
    elif array.shape in ((9,), (3, 3)):
        array = _voigt(frames, i, key, array.reshape(3, 3))
    else:
        raise _wrong(frames, i, kind, key, "(3, 3), (9,) or (6,)", array.shape)
    if "virial" not in key.lower():
        return sign * array
    if volume(atoms.cell.array) < 1e-6:
        raise DataError(
            f"a virial ({key!r}) needs a cell with a volume in {frames.origin(i)}; leave it out with "
            "mapping={'stress': None}"
        )
    return -array / volume(atoms.cell.array)


def _words(entry: Quantity) -> str:
    """Shape of a label in words."""
    if entry.per == "atom":
        return f"({', '.join(map(str, ('n_atoms', *entry.components)))})"
    return str(entry.components) if entry.components else "one number"


def _voigt(frames: Frames, i: int, key: str, tensor: np.ndarray) -> np.ndarray:
    scale = np.nanmax(np.abs(tensor), initial=0.0)
    asymmetry = np.nanmax(np.abs(tensor - tensor.T), initial=0.0)
    if asymmetry > 1e-3 * scale + 1e-6:
        raise DataError(
            f"stress ({key!r}) is not symmetric in {frames.origin(i)}: components differ by {asymmetry:.3g} "
            f"of {scale:.3g}; leave it out with mapping={{'stress': None}} or repair the file"
        )
    return to_voigt(0.5 * (tensor + tensor.T))


def _wrong(frames: Frames, i: int, kind: str, key: str, needed: str, got: object) -> _NoLabel:
    return _NoLabel(
        f"{kind} must be {needed}, got {got} in {frames.origin(i)} ({len(frames[i])} atoms, key {key!r}); "
        f"keys present: {keys_present(frames[i])}"
    )


def _factors(declared: Mapping[str, str]) -> dict[str, float]:
    """Factor of labels by the source of their quantity."""
    units.check_declared(declared)
    factors = {"energy": 1.0, "length": 1.0}
    factors |= {name: units.DECLARED[name][unit] for name, unit in declared.items()}
    density = factors["energy"] / factors["length"] ** 3
    return {
        "energy": factors["energy"],
        "gradient": factors["energy"] / factors["length"],
        "strain": factors.get("stress", density),
    }


def _checked_mapping(mapping: Mapped | None) -> dict[str, tuple[str, ...]]:
    checked: dict[str, tuple[str, ...]] = {}
    for kind, key in (mapping or {}).items():
        if kind not in labelled(names()):
            raise DataError(f"unknown kind of label {kind!r} in mapping; {nearest(kind, labelled(names()))}")
        checked[kind] = () if key is None else (key,) if isinstance(key, str) else tuple(key)
    return checked


def _checked_order(text: str) -> list[int]:
    """Index of each of ASE's components in a stress of the declared order."""
    given = ["".join(sorted(part)) for part in text.lower().split()]
    if sorted(given) != sorted(VOIGT):
        raise DataError(f"voigt_order must name {' '.join(VOIGT)} each once, got {text!r}")
    return [given.index(component) for component in VOIGT]
