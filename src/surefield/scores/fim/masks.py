"""Which rows of which quantities count for each configuration: `evaluate_kwargs`, masks and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from ase import Atoms
from jaxtyping import Bool, Float

from surefield.errors import ConfigError, DataError, check_known
from surefield.scoring.array_files import is_path, load_array
from surefield.sensitivity.parameter_jacobian import QUANTITIES

__all__ = ["RowWeights", "evaluated_quantities", "row_weights"]

_DEFAULTS: Final = {"energy": False, "forces": True, "stress": False}


@dataclass(frozen=True, eq=False)
class RowWeights:
    """Weights of the rows of one configuration.

    Attributes:
        by_quantity: factor of every row of each quantity that was asked for, in the order energy, forces,
            stress; zero where masked.
    """

    by_quantity: Mapping[str, Float[np.ndarray, " n_rows"]]

    @property
    def quantities(self) -> tuple[str, ...]:
        """What was asked for."""
        return tuple(self.by_quantity)

    @property
    def n_rows(self) -> int:
        """Rows of all quantities."""
        return sum(len(factors) for factors in self.by_quantity.values())

    def starts(self) -> dict[str, int]:
        """Place of the first row of each quantity."""
        sizes = [len(factors) for factors in self.by_quantity.values()]
        return dict(zip(self.by_quantity, np.cumsum([0, *sizes]).tolist(), strict=False))


def evaluated_quantities(
    evaluate_kwargs: Mapping[str, Any] | None, n: int, *, combined: bool
) -> list[tuple[str, ...]]:
    """Quantities of each configuration.

    Args:
        evaluate_kwargs: `compute_energy` (False), `compute_forces` (True), `compute_stress` (False): each a
            truth value, or a list of one or n.
        n: number of configurations.
        combined: whether several may be asked for at once, which needs their noise.

    Raises:
        ConfigError: an unknown key, no truth value, or none or several quantities of one configuration.
        DataError: a list of another length.
    """
    asked = dict(evaluate_kwargs or {})
    names = {f"compute_{name}": name for name in QUANTITIES}
    check_known(asked, names, "evaluate_kwargs has no entry {}")
    columns = {name: _truth_values(key, asked.get(key, _DEFAULTS[name]), n) for key, name in names.items()}
    chosen = [tuple(name for name in QUANTITIES if columns[name][i]) for i in range(n)]
    for i, quantities in enumerate(chosen):
        if len(quantities) == 1 or (quantities and combined):
            continue
        raise ConfigError(
            "evaluate_kwargs must ask for exactly one quantity of every configuration",
            where=f"configuration {i}",
            got=" and ".join(quantities) or "none",
            fix="give noise={'energy': .., 'forces': .., 'stress': ..} to combine several, or repeat the "
            "configuration"
            if quantities
            else "set one of compute_energy, compute_forces, compute_stress to True",
        )
    return chosen


def _truth_values(key: str, value: Any, n: int) -> list[bool]:
    values = list(value) if isinstance(value, list | tuple | np.ndarray) and np.ndim(value) == 1 else [value]
    for entry in values:
        if not isinstance(entry, bool | np.bool_):
            raise ConfigError(f"evaluate_kwargs: {key}", got=repr(entry), expected="True or False, or a list")
    if len(values) not in (1, n):
        raise DataError(
            f"evaluate_kwargs: {key} needs one entry per configuration", got=len(values), expected=f"1 or {n}"
        )
    return [bool(entry) for entry in values] * (n if len(values) == 1 else 1)


def row_weights(
    frames: Sequence[Atoms],
    quantities: Sequence[tuple[str, ...]],
    masks: Any = None,
    noise: Mapping[str, float] | None = None,
    *,
    name: str = "list_of_mask",
) -> list[RowWeights]:
    """Weights of all rows.

    Args:
        frames: configurations.
        quantities: of each, see `evaluated_quantities`.
        masks: None, or a list with a mask or None for each configuration: 0 or 1 for every row (of forces
            3i + a, or (n_atoms, 3)), as an array, a list, or a `.npy` or `.txt` file.
        noise: standard deviation of each quantity; None: 1.
        name: of the masks' argument, for messages.

    Raises:
        ConfigError: noise that is not positive, or that is missing for a quantity that was asked for.
        DataError: another number of masks or rows, other numbers than 0 and 1, a stress where there is none.
    """
    sigmas = _sigmas(noise, {q for of in quantities for q in of})
    if masks is None:
        listed: list[Any] = [None] * len(frames)
    elif isinstance(masks, list | tuple) or (isinstance(masks, np.ndarray) and masks.ndim > 1):
        listed = list(masks)
    else:
        what = f"the path {masks}" if is_path(masks) else type(masks).__name__
        expected = f"a list with one mask or None for each of {len(frames)} configurations"
        raise DataError(name, got=what, expected=expected)
    if len(listed) != len(frames):
        raise DataError(
            f"{name} needs one entry (or None) per configuration",
            where=f"configuration {min(len(listed), len(frames))}",
            got=f"{len(listed)} masks",
            expected=len(frames),
        )
    weights = []
    for i, (atoms, of) in enumerate(zip(frames, quantities, strict=True)):
        if "stress" in of and not atoms.pbc.all():
            raise DataError(
                "there is no stress", where=f"configuration {i}", got=f"pbc {atoms.pbc.tolist()}",
                expected="a cell that is periodic in three directions",
            )  # fmt: skip
        sizes = {q: {"energy": 1, "forces": 3 * len(atoms), "stress": 6}[q] for q in of}
        kept = _kept(listed[i], sizes, f"{name}[{i}]" if name.startswith("list") else name, i)
        ends = np.cumsum(list(sizes.values()))[:-1]
        parts = np.split(kept.astype(np.float64), ends)
        weights.append(RowWeights({q: part / sigmas[q] for q, part in zip(of, parts, strict=True)}))
    return weights


def _kept(mask: Any, sizes: Mapping[str, int], name: str, index: int) -> Bool[np.ndarray, " n_rows"]:
    total = sum(sizes.values())
    if mask is None:
        return np.ones(total, bool)
    array = load_array(mask, name)
    n_atoms = sizes.get("forces", 0) // 3
    by_atoms = array.ndim == 2 and array.shape == (n_atoms, 3) and len(sizes) == 1
    if not (by_atoms or array.shape == (total,)):
        counts = ", ".join(f"{quantity} {size}" for quantity, size in sizes.items())
        raise DataError(
            f"{name} has another number of entries than there are rows",
            where=f"configuration {index}",
            got=array.shape if array.ndim > 1 else array.size,
            expected=f"{total} entries, one per row ({counts})",
        )
    flat = array.reshape(-1)
    wrong = (flat != 0) & (flat != 1)
    if wrong.any():
        place = int(np.argmax(wrong))
        raise DataError(
            f"{name} must hold 0 and 1 only", where=f"configuration {index}, entry {place}", got=flat[place],
            expected=f"{total} entries of 0 or 1",
        )  # fmt: skip
    return flat.astype(bool)


def _sigmas(noise: Mapping[str, float] | None, needed: set[str]) -> dict[str, float]:
    if noise is None:
        return dict.fromkeys(QUANTITIES, 1.0)
    if not isinstance(noise, Mapping):
        raise ConfigError("noise", got=repr(noise), expected="{'energy': .., 'forces': .., 'stress': ..}")
    check_known(noise, QUANTITIES, "noise has no quantity {}")
    for name, sigma in noise.items():
        number = isinstance(sigma, int | float | np.number) and not isinstance(sigma, bool)
        if not (number and np.isfinite(sigma) and sigma > 0):
            raise ConfigError(f"noise of {name}", got=repr(sigma), expected="a standard deviation above zero")
    missing = sorted(needed - set(noise))
    if missing:
        raise ConfigError(f"noise has no entry for {', '.join(missing)}, which evaluate_kwargs asks for")
    return {name: float(sigma) for name, sigma in noise.items()}
