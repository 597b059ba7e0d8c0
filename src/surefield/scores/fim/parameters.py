"""Which numbers of a potential Fisher information is about: `parameters_optimize` and their index."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from surefield.errors import ConfigError, PotentialError, nearest, worded
from surefield.potentials.parametric.free_parameters import FreeParameters, kliff_entries
from surefield.potentials.parametric.parameters import Entry, ParametricPotential
from surefield.potentials.potential import Potential, as_potential, trainable
from surefield.sensitivity.parameter_jacobian import ChosenParameters, in_float64

__all__ = ["LAST_LAYER", "OptimizedParameters", "optimized_parameters", "read_potential"]

#: Word for the weights of the last layer of a network.
LAST_LAYER: Final = "last_layer"
#: So many names are listed in a message.
_LISTED: Final = 30


@dataclass(frozen=True, eq=False)
class OptimizedParameters:
    """The parameters that are the columns of J.

    Attributes:
        chosen: potential with its set values, float64, and where the parameters are in it.
        values: theta, in the units of the potential.
        entries: name and extent of each.
        lower: bounds that were asked for, -inf where none; they have no effect on a FIM.
        upper: the same above.
    """

    chosen: ChosenParameters
    values: Float[np.ndarray, " n_parameters"]
    entries: tuple[Entry, ...]
    lower: Float[np.ndarray, " n_parameters"]
    upper: Float[np.ndarray, " n_parameters"]

    @property
    def names(self) -> tuple[str, ...]:
        """Names for messages, with the extent where a parameter has several numbers."""
        several = {entry.name for entry in self.entries if entry.place > 0}
        return tuple(f"{e.name}[{e.place}]" if e.name in several else e.name for e in self.entries)

    @property
    def fim_index_to_parameter(self) -> dict[int, dict[str, str | int]]:
        """Row and column of the FIM to `{"parameter": name, "extent": place}`."""
        return {i: {"parameter": e.name, "extent": int(e.place)} for i, e in enumerate(self.entries)}

    def at(self, theta: Float[np.ndarray, " n_parameters"]) -> Potential:
        """The potential at other values of the parameters (traceable)."""
        return self.chosen.at(theta)


def read_potential(potential: Any) -> Potential:
    """The potential that an argument means.

    Args:
        potential: one of ours, a handle or an uncertainty around one, or a description
            `{'potential_type': 'KIM', 'potential_args': {...}}` with the arguments of the handle
            (`KIMPotential`, `FitSnapPotential`, `ChIMESPotential`, `KliffBPPotential`).

    Raises:
        ConfigError: anything else, or an unknown type.
    """
    if not isinstance(potential, Mapping):
        return as_potential(potential)
    for key in potential:
        if key not in ("potential_type", "potential_args"):
            raise ConfigError(
                f"potential has an unknown key {key!r}", expected="potential_type, potential_args"
            )
    if "potential_type" not in potential:
        raise ConfigError("potential has no potential_type", got=f"keys {sorted(potential)}")
    # Names in a description are looked up where all handles are known; nothing here depends on one of them.
    classes = importlib.import_module("surefield.trainers.classes")
    name = str(potential["potential_type"])
    known = {_short(handle): handle for handle in classes.HANDLES if handle != "BareHandle"}
    if _short(name) not in known:
        raise ConfigError(f"potential_type {name!r} is not known, {nearest(name, known.values())}")
    handle = classes.look_up(known[_short(name)], classes.HANDLES)
    try:
        return as_potential(handle(**(potential.get("potential_args") or {})))
    except TypeError as error:
        raise ConfigError(f"potential_args of {name}: {error}") from error


def _short(name: str) -> str:
    return name.lower().removesuffix("potential")


def optimized_parameters(
    potential: Any, parameters_optimize: Mapping[str, Sequence[Any]] | str | None = None
) -> OptimizedParameters:
    """Read `parameters_optimize`.

    Args:
        potential: as for `read_potential`; it is not changed.
        parameters_optimize: `{name: [entry, ...]}`, one entry per number of the parameter: `[value]`
            or `['default']` are free, `[.., 'fix']` is not, `[.., low, high]` has bounds. Free entries in the
            order of the dictionary, then of the numbers, are the columns of J. None: all that the potential
            marks as trainable; 'last_layer': the last-layer weights of a network. Parameters of potentials
            without named ones are their arrays, such as 'readout', flattened.

    Raises:
        ConfigError: an unknown name, a wrong number of entries, or nothing that is free.
    """
    model = in_float64(read_potential(potential))
    if parameters_optimize is None:
        return _all(model)
    if isinstance(parameters_optimize, str):
        if parameters_optimize != LAST_LAYER:
            expected = f"None, {LAST_LAYER!r}, or {{name: [entry, ...]}}"
            raise ConfigError("parameters_optimize", got=repr(parameters_optimize), expected=expected)
        return _last_layer(model)
    if not isinstance(parameters_optimize, Mapping):
        expected = f"None, {LAST_LAYER!r}, or {{name: [entry, ...]}}"
        raise ConfigError("parameters_optimize", got=type(parameters_optimize).__name__, expected=expected)
    sizes = _sizes(model)
    for name in parameters_optimize:
        if name not in sizes:
            listed = ", ".join(list(sizes)[:_LISTED])
            more = f" and {len(sizes) - _LISTED} more" if len(sizes) > _LISTED else ""
            near = nearest(str(name), sizes)
            hint = f"; {near}" if near.startswith("did") else ""
            raise ConfigError(
                f"parameters_optimize: {type(model).__name__} has no parameter {name!r}{hint}",
                expected=f"one of {listed}{more}",
            )
    with worded({"params_to_update( leaves nothing free to be fitted)?": "parameters_optimize"}):
        return _named(model, parameters_optimize, sizes)


def _sizes(model: Potential) -> dict[str, int]:
    """Numbers of every parameter that may be free or set."""
    if isinstance(model, ParametricPotential):
        return {name: int(value.size) for name, value in model.values.items()}
    return {name: int(leaf.size) for name, leaf in _arrays(model).items()}


def _arrays(model: Potential) -> dict[str, Any]:
    """Trainable arrays by their paths with dots, in the order of `Potential.vector`."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(model, trainable(model)))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _named(
    model: Potential, asked: Mapping[str, Sequence[Any]], sizes: Mapping[str, int]
) -> OptimizedParameters:
    numbers = {name: kliff_entries(name, entries, sizes[name]) for name, entries in asked.items()}
    free = [(name, i, n) for name, of in numbers.items() for i, n in enumerate(of) if n.free]
    if not free:
        listed = ", ".join(list(sizes)[:_LISTED])
        raise ConfigError("parameters_optimize leaves no parameter free", expected=f"some of {listed}")
    entries = tuple(Entry(name, place) for name, place, _ in free)
    bounds = np.array([n.lower for *_, n in free]), np.array([n.upper for *_, n in free])
    if isinstance(model, ParametricPotential):
        read = FreeParameters.asked(dict(asked), model)
        return OptimizedParameters(ChosenParameters(read.applied(model)), read.start, entries, *bounds)
    starts = dict(zip(sizes, np.cumsum([0, *list(sizes.values())[:-1]]).tolist(), strict=True))
    values = np.asarray(model.vector, np.float64).copy()
    for name, of in numbers.items():
        for place, number in enumerate(of):
            if number.value is not None:
                values[starts[name] + place] = number.value
    places = np.array([starts[e.name] + e.place for e in entries], int)
    chosen = ChosenParameters(model.with_vector(jnp.asarray(values)), places)
    return OptimizedParameters(chosen, values[places], entries, *bounds)


def _all(model: Potential) -> OptimizedParameters:
    if isinstance(model, ParametricPotential):
        entries = model.free
    else:
        entries = tuple(Entry(name, i) for name, leaf in _arrays(model).items() for i in range(leaf.size))
    if not entries:
        raise ConfigError(
            f"{type(model).__name__} marks no parameter as trainable; name some that shall be free"
        )
    return _unbounded(ChosenParameters(model), entries)


def _last_layer(model: Potential) -> OptimizedParameters:
    if isinstance(model, ParametricPotential):
        raise ConfigError(
            f"{type(model).__name__} has no last layer",
            fix="name its parameters, or pass None for all free ones",
        )
    try:
        size = model.last_layer().n_features
    except PotentialError as error:
        raise ConfigError(f"parameters_optimize={LAST_LAYER!r}: {error}") from error
    return _unbounded(
        ChosenParameters(model, last_layer=True), tuple(Entry(LAST_LAYER, i) for i in range(size))
    )


def _unbounded(chosen: ChosenParameters, entries: tuple[Entry, ...]) -> OptimizedParameters:
    infinite = np.full(len(entries), np.inf)
    return OptimizedParameters(chosen, np.asarray(chosen.vector, np.float64), entries, -infinite, infinite)
