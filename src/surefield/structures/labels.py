"""Reference energies, forces and stresses of structures: found, checked, converted to eV and Å, reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms

from surefield import units
from surefield.errors import DataError, nearest
from surefield.keys import KINDS, Kind
from surefield.structures.label_sources import candidate_keys, has_stale_results, keys_present, look_up
from surefield.structures.read import Frames, read_frames

__all__ = ["KindReport", "LabelReport", "Labels", "resolve_labels"]

#: ASE's order of the six stress components.
VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")
_RELATIVE = 1e-6
_ABSOLUTE: dict[Kind, float] = {"energy": 1e-6, "forces": 1e-6, "stress": 1e-8}
Mapped = Mapping[Kind, str | Sequence[str] | None]


@dataclass(frozen=True, eq=False)
class Labels:
    """Reference values of one structure; None where there is none. NaN only marks masked-out entries.

    Attributes:
        energy: total energy in eV.
        forces: (n_atoms, 3) in eV/Å, float64.
        stress: (6,) in eV/Å^3, float64, Voigt xx yy zz yz xz xy, positive = tensile.
        excess_electrons: number, positive = added; filled in by `electrode.grand_canonical_labels` alone.
    """

    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    excess_electrons: float | None = None


@dataclass(frozen=True)
class KindReport:
    """Which keys one kind of label was taken from.

    Attributes:
        keys: key and number of structures, most used first.
        missing: structures without this label.
        unused: keys that agreed with the chosen one where both were present.
    """

    keys: tuple[tuple[str, int], ...]
    missing: int
    unused: tuple[str, ...] = ()

    @property
    def present(self) -> int:
        """Structures with this label."""
        return sum(count for _, count in self.keys)


@dataclass(frozen=True)
class LabelReport:
    """What was taken as label; `str` gives the line that is printed.

    Attributes:
        n_frames: number of structures.
        kinds: for energy, forces and stress, the keys used.
        stale: structures whose calculator holds results of another geometry; these were not used.
    """

    n_frames: int
    kinds: Mapping[Kind, KindReport]
    stale: int = 0

    def __str__(self) -> str:
        parts = []
        for kind, report in self.kinds.items():
            if not report.keys:
                parts.append(f"no {kind}")
                continue
            used = " and ".join(f"{key} ({count})" for key, count in report.keys)
            missing = f", {report.missing} without" if report.missing else ""
            parts.append(f"{kind} from {used}{missing}")
        stale = (
            f"; {self.stale} structures moved after their calculation, results not used" if self.stale else ""
        )
        return f"labels of {self.n_frames} structures: {'; '.join(parts)}{stale}"


def resolve_labels(
    frames: Frames | Sequence[Atoms],
    mapping: Mapped | None = None,
    units: Mapping[str, str] | None = None,
    require: Sequence[Kind] = ("energy", "forces"),
    allow_nan: bool = False,
    *,
    stress_sign: Literal[1, -1] = 1,
    voigt_order: str = "xx yy zz yz xz xy",
) -> tuple[list[Labels], LabelReport]:
    """Find the labels of every structure, in the order mapping, REF_*, calculator, known aliases.

    One key serves all structures of a kind. Virials (eV) become stresses, -virial/V.

    Args:
        frames: structures.
        mapping: kind to key, e.g. `{"energy": "my_energy", "stress": None}`; None means do not use, a list of
            keys means the first that a structure has. "calculator.energy" is a result of the calculator,
            other keys are in `info` (forces: `arrays`), then in the calculator's results.
        units: of the labels in the file, `{"energy": "kcal/mol", "length": "Å", "stress": "kbar"}`; forces
            are in energy/length; stress without an own unit in energy/length^3. Positions stay Å.
        require: kinds that every structure must have.
        allow_nan: let NaN entries pass, as masks.
        stress_sign: 1 when positive is tensile (ASE), -1 when positive is compressive (VASP's output).
        voigt_order: order of the components where a stress has six numbers.

    Returns:
        One `Labels` per structure, and the report.

    Raises:
        DataError: a required label is missing, two candidates disagree, a shape or unit is wrong, an entry is
            not finite.
    """
    frames = read_frames(frames)
    chosen_keys = _checked_mapping(mapping)
    factors = _factors(units or {})
    order = _checked_order(voigt_order)
    if stress_sign not in (1, -1):
        raise DataError(f"stress_sign must be 1 (positive = tensile) or -1, got {stress_sign}")
    values: dict[Kind, list[Any]] = {}
    reports: dict[Kind, KindReport] = {}
    for kind in KINDS:
        explicit = kind in chosen_keys
        candidates = chosen_keys[kind] if explicit else candidate_keys(kind)
        found = [
            {
                key: _shaped(frames, i, kind, key, value, order, stress_sign)
                for key, value in look_up(atoms, kind, candidates, anywhere=explicit).items()
            }
            for i, atoms in enumerate(frames)
        ]
        picks = _pick_explicit(found) if explicit else _pick(frames, kind, candidates, found)
        values[kind] = [None if key is None else found[i][key] * factors[kind] for i, key in enumerate(picks)]
        counts = Counter(key for key in picks if key is not None)
        others = tuple(dict.fromkeys(key for entry in found for key in entry if key not in counts))
        reports[kind] = KindReport(tuple(counts.most_common()), picks.count(None), others)
        if not allow_nan:
            _check_finite(frames, kind, values[kind], picks)
    report = LabelReport(len(frames), reports, sum(has_stale_results(atoms) for atoms in frames))
    _check_required(frames, require, values, report)
    labels = [
        Labels(None if energy is None else float(energy), forces, stress)
        for energy, forces, stress in zip(values["energy"], values["forces"], values["stress"], strict=True)
    ]
    return labels, report


def _pick_explicit(found: list[dict[str, Any]]) -> list[str | None]:
    return [next(iter(entry), None) for entry in found]


def _pick(
    frames: Frames, kind: Kind, candidates: Sequence[str], found: list[dict[str, Any]]
) -> list[str | None]:
    """Choose one key for all structures; refuse candidates that disagree or that take turns."""
    for i, entry in enumerate(found):
        _check_agreement(frames, i, kind, entry)
    present = [key for key in candidates if any(key in entry for entry in found)]
    if not present:
        return [None] * len(found)
    chosen = present[0]
    turns = [i for i, entry in enumerate(found) if entry and chosen not in entry]
    if turns:
        other = next(iter(found[turns[0]]))
        raise DataError(
            f"{kind} is called {chosen!r} in {sum(chosen in e for e in found)} structures but {other!r} in "
            f"{frames.origin(turns[0])} and {len(turns) - 1} more, which lack {chosen!r}; two names may be "
            f"two levels of theory; if they are the same, say mapping={{{kind!r}: [{chosen!r}, {other!r}]}}, "
            f"otherwise mapping={{{kind!r}: {chosen!r}}}"
        )
    return [chosen if chosen in entry else None for entry in found]


def _check_agreement(frames: Frames, i: int, kind: Kind, entry: dict[str, Any]) -> None:
    if len(entry) < 2:
        return
    first, *others = entry
    reference = np.asarray(entry[first])
    for key in others:
        value = np.asarray(entry[key])
        both = np.isfinite(reference) & np.isfinite(value)
        difference = np.abs(value - reference)[both]
        limit = _RELATIVE * np.abs(reference[both]).max(initial=0.0) + _ABSOLUTE[kind]
        if difference.max(initial=0.0) > limit:
            raise DataError(
                f"two labels for the {kind} disagree in {frames.origin(i)}: {first!r} {_short(reference)} "
                f"and {key!r} {_short(value)} (differ by up to {difference.max():.3g}); say which one to "
                f"use: mapping={{{kind!r}: {first!r}}}"
            )


def _short(value: np.ndarray) -> str:
    if value.ndim == 0:
        return f"= {float(value):.9g}"
    flat = ", ".join(f"{x:.4g}" for x in value.ravel()[:3])
    return f"= [{flat}, ...]"


def _check_finite(frames: Frames, kind: Kind, values: list[Any], picks: list[str | None]) -> None:
    for i, value in enumerate(values):
        if value is None or np.isfinite(value).all():
            continue
        bad = np.argwhere(~np.isfinite(np.atleast_1d(value)))
        where = f" on atom {bad[0][0]}" if kind == "forces" else ""
        raise DataError(
            f"{kind} ({picks[i]!r}) is not finite{where} in {frames.origin(i)} ({len(bad)} entries); remove "
            "the structure, or pass allow_nan=True if NaN marks entries that are not to be trained on"
        )


def _check_required(
    frames: Frames, require: Sequence[Kind], values: dict[Kind, list[Any]], report: LabelReport
) -> None:
    for kind in require:
        if kind not in KINDS:
            raise DataError(f"unknown kind of label {kind!r}; {nearest(kind, KINDS)}")
        missing = [i for i, value in enumerate(values[kind]) if value is None]
        if missing:
            i = missing[0]
            stale = (
                "; its calculator holds results of another geometry" if has_stale_results(frames[i]) else ""
            )
            raise DataError(
                f"no {kind} in {frames.origin(i)} and {len(missing) - 1} more of {report.n_frames} structures"
                f"{stale}; keys present: {keys_present(frames[i])}; name the key: mapping={{{kind!r}: ...}}"
            )


def _shaped(frames: Frames, i: int, kind: Kind, key: str, value: Any, order: list[int], sign: int) -> Any:
    atoms = frames[i]
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise _wrong(frames, i, kind, key, "numbers", repr(str(value)[:60])) from None
    if kind == "energy":
        if array.size != 1:
            raise _wrong(frames, i, kind, key, "one number", f"shape {array.shape}")
        return array.reshape(())
    if kind == "forces":
        if array.shape != (len(atoms), 3):
            raise _wrong(frames, i, kind, key, "(n_atoms, 3)", array.shape)
        return array
    is_virial = "virial" in key.lower()
    if array.shape == (6,):
        array = array[order]
    elif array.size == 9 and array.shape in ((9,), (3, 3)):
        array = _voigt(frames, i, key, array.reshape(3, 3))
    else:
        raise _wrong(frames, i, kind, key, "(3, 3), (9,) or (6,)", array.shape)
    if not is_virial:
        return sign * array
    volume = abs(np.linalg.det(atoms.cell.array))
    if volume < 1e-6:
        raise DataError(f"a virial ({key!r}) needs a cell with a volume in {frames.origin(i)}")
    return -array / volume


def _voigt(frames: Frames, i: int, key: str, tensor: np.ndarray) -> np.ndarray:
    scale = np.nanmax(np.abs(tensor), initial=0.0)
    asymmetry = np.nanmax(np.abs(tensor - tensor.T), initial=0.0)
    if asymmetry > 1e-3 * scale + 1e-6:
        raise DataError(
            f"stress ({key!r}) is not symmetric in {frames.origin(i)}: components differ by {asymmetry:.3g} "
            f"of {scale:.3g}; leave it out with mapping={{'stress': None}} or repair the file"
        )
    xx, yy, zz = np.diag(tensor)
    yz, xz, xy = (0.5 * (tensor[a, b] + tensor[b, a]) for a, b in ((1, 2), (0, 2), (0, 1)))
    return np.array([xx, yy, zz, yz, xz, xy])


def _wrong(frames: Frames, i: int, kind: Kind, key: str, needed: str, got: object) -> DataError:
    return DataError(
        f"{kind} must be {needed}, got {got} in {frames.origin(i)} ({len(frames[i])} atoms, key {key!r}); "
        f"keys present: {keys_present(frames[i])}"
    )


def _factors(declared: Mapping[str, str]) -> dict[Kind, float]:
    tables = {"energy": units.ENERGY, "length": units.LENGTH, "stress": units.STRESS}
    factors = {"energy": 1.0, "length": 1.0}
    for name, unit in declared.items():
        if name not in tables:
            raise DataError(f"unknown entry {name!r} of units; {nearest(name, tables)}")
        if unit not in tables[name]:
            raise DataError(f"unknown {name} unit {unit!r}; {nearest(unit, tables[name])}")
        factors[name] = tables[name][unit]
    density = factors["energy"] / factors["length"] ** 3
    return {
        "energy": factors["energy"],
        "forces": factors["energy"] / factors["length"],
        "stress": factors.get("stress", density),
    }


def _checked_mapping(mapping: Mapped | None) -> dict[str, tuple[str, ...]]:
    checked: dict[str, tuple[str, ...]] = {}
    for kind, key in (mapping or {}).items():
        if kind not in KINDS:
            raise DataError(f"unknown kind of label {kind!r} in mapping; {nearest(kind, KINDS)}")
        checked[kind] = () if key is None else (key,) if isinstance(key, str) else tuple(key)
    return checked


def _checked_order(text: str) -> list[int]:
    """Index of each of ASE's components in a stress of the declared order."""
    given = ["".join(sorted(part)) for part in text.lower().split()]
    if sorted(given) != sorted(VOIGT):
        raise DataError(f"voigt_order must name {' '.join(VOIGT)} each once, got {text!r}")
    return [given.index(component) for component in VOIGT]
