"""The table of quantities: what potentials predict, labels state, training fits, and what has a sigma.

Nothing else in the package lists them. A quantity of one's own is one entry, added with `add`; a potential
that gives it in `Potential.outputs` is then trained on it, predicts it, has rows and sigmas of it, and a
report shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, Self

from surefield.errors import ConfigError, nearest

__all__ = [
    "ENSEMBLE",
    "UNCERTAINTY",
    "Quantity",
    "Values",
    "add",
    "fitted",
    "labelled",
    "names",
    "quantity",
    "quantity_of",
    "remove",
    "uncertain",
]


@dataclass(frozen=True)
class Quantity:
    """One entry of the table.

    Attributes:
        name: of the result; `<name>_uncertainty` is its standard deviation, `<name>_ensemble` its members.
        unit: of the values.
        per: what has a value of its own.
        components: shape of one value: () a number, (3,) a vector, (6,) a symmetric tensor in Voigt order.
        source: how it is predicted and where its rows come from: from the 'energy' itself, its 'gradient' by
            positions, its derivative by 'strain' over the volume, or as an 'output' of its own, of which the
            rows are derivatives by the last-layer weights in reverse mode.
        extensive: a sum over atoms: the loss divides its residuals by the number of atoms.
        per_atom: errors and spreads are those of the mean over the atoms.
        fitted: structures may have labels of it, which training fits and an uncertainty is calibrated on.
        aliases: names of its label, whatever their case, besides `REF_<name>`, the calculator's result and
            the name itself; None: its label is not found by name.
        calibration_map: from the raw spread to a standard deviation; None: it has no uncertainty.
        weight: of its mean squared residuals in a training that names none.
        symmetric_zeros: components may vanish by symmetry; these have no uncertainty.
    """

    name: str
    unit: str
    per: Literal["structure", "atom"] = "structure"
    components: tuple[int, ...] = ()
    source: Literal["energy", "gradient", "strain", "output"] = "output"
    extensive: bool = False
    per_atom: bool = False
    fitted: bool = True
    aliases: tuple[str, ...] | None = ()
    calibration_map: str | None = "alpha"
    weight: float = 1.0
    symmetric_zeros: bool = False

    def shape(self, n_atoms: int) -> tuple[int, ...]:
        """Shape of its values for one structure."""
        return (n_atoms, *self.components) if self.per == "atom" else self.components


_TABLE: dict[str, Quantity] = {
    entry.name: entry
    for entry in (
        Quantity(
            "energy",
            "eV",
            source="energy",
            extensive=True,
            per_atom=True,
            aliases=("dft_energy", "energy_dft", "total_energy", "free_energy"),
            calibration_map="alpha_power",
            weight=30.0,
        ),
        Quantity("energies", "eV", per="atom", source="energy", fitted=False),
        Quantity(
            "forces",
            "eV/Å",
            per="atom",
            components=(3,),
            source="gradient",
            aliases=("dft_forces", "dft_force", "force", "forces_dft", "force_dft"),
            calibration_map="structure_floor",
            symmetric_zeros=True,
        ),
        Quantity(
            "stress",
            "eV/Å^3",
            components=(6,),
            source="strain",
            aliases=("dft_stress", "stress_dft"),
            calibration_map="structure_floor",
            weight=0.0,
        ),
        Quantity("charges", "e", per="atom", fitted=False, calibration_map=None),
        # Labels have several names and signs, which `structures.electrode` knows.
        Quantity("excess_electrons", "e", extensive=True, aliases=None, weight=300.0),
        Quantity("electrode_potential", "V", fitted=False, calibration_map=None),
        Quantity("capacitance", "e/V", extensive=True, fitted=False, calibration_map=None),
        Quantity("relative_standard_error", "", fitted=False, calibration_map=None),  # of sampled sigmas
        Quantity("extrapolation", "", per="atom", fitted=False, calibration_map=None),
    )
}
#: What may follow the name of a quantity in results: its standard deviation, and the values of members.
UNCERTAINTY: Final = "_uncertainty"
ENSEMBLE: Final = "_ensemble"
SUFFIXES: Final = (UNCERTAINTY, ENSEMBLE)


def quantity(name: str) -> Quantity:
    """Entry of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in _TABLE:
        raise ConfigError(f"unknown quantity {name!r}; {nearest(name, _TABLE)}")
    return _TABLE[name]


def quantity_of(name: str) -> Quantity:
    """Entry whose value, uncertainty or members have this name.

    Raises:
        ConfigError: there is none.
    """
    return quantity(next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), name))


def names() -> tuple[str, ...]:
    """Names of all quantities."""
    return tuple(_TABLE)


def labelled(supplies: Iterable[str] | None = None) -> tuple[str, ...]:
    """Quantities whose labels are found by name, of those that a potential supplies; None: of any potential.

    Without `supplies` these are the ones that every potential has: those that follow from its energy.
    """
    entries = (q for q in _TABLE.values() if q.fitted and q.aliases is not None)
    if supplies is None:
        return tuple(q.name for q in entries if q.source != "output")
    return tuple(q.name for q in entries if q.name in supplies)


def fitted(supplies: Iterable[str]) -> tuple[str, ...]:
    """Quantities that may have labels, of those that a potential supplies."""
    known = set(supplies)
    return tuple(q.name for q in _TABLE.values() if q.fitted and q.name in known)


def uncertain(supplies: Iterable[str]) -> tuple[str, ...]:
    """Those of the `fitted` quantities that have standard deviations."""
    return tuple(name for name in fitted(supplies) if _TABLE[name].calibration_map is not None)


def add(entry: Quantity) -> None:
    """Add a quantity to the table.

    Raises:
        ConfigError: the name is taken.
    """
    if entry.name in _TABLE:
        raise ConfigError(f"there is a quantity {entry.name!r} already")
    _TABLE[entry.name] = entry


def remove(name: str) -> None:
    """Take a quantity out of the table again."""
    del _TABLE[quantity(name).name]


class Values:
    """Values by the names of their quantities, also as attributes; None where there is none. Not changed.

    Args:
        values: name to value; None is left out.

    Raises:
        ConfigError: a name that is not in the table.
    """

    def __init__(self, **values: Any) -> None:
        for name in values:
            if not self.knows(name):
                raise ConfigError(f"unknown quantity {name!r}; {nearest(name, _TABLE)}")
        self._values = MappingProxyType({name: v for name, v in values.items() if v is not None})

    @classmethod
    def knows(cls, name: str) -> bool:
        """Whether something of a quantity has this name."""
        return name in _TABLE or any(name.endswith(s) and name.removesuffix(s) in _TABLE for s in SUFFIXES)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not self.knows(name):
            raise AttributeError(f"{type(self).__name__} has no {name!r}; {nearest(name, _TABLE)}")
        return self._values.get(name)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *_TABLE]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._values)})"

    def __getstate__(self) -> dict[str, Any]:
        return dict(self._values)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._values = MappingProxyType(dict(state))

    def get(self, name: str, default: Any = None) -> Any:
        """Value of a name, or the default."""
        return self._values.get(name, default)

    def results(self) -> dict[str, Any]:
        """The values that are there, by name."""
        return dict(self._values)

    def replace(self, **changes: Any) -> Self:
        """Copy with other values; None takes one out."""
        return type(self)(**{**self._values, **changes})
