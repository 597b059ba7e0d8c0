"""KIM models without a model of this package: computed by KIM itself, the only module that needs `kimpy`."""

from __future__ import annotations

import ctypes
import difflib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any, ClassVar, Final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.execution.callback import call_outside
from surefield.foreign.computed_batch import computed_batch, geometry_of
from surefield.potentials.abilities import Restricted
from surefield.potentials.parametric.kim_id import parse_id
from surefield.potentials.parametric.parameters import Entry, ParameterForm, ParametricPotential
from surefield.structures.graph import Graph

__all__ = ["OpaqueKIM", "find_installed"]

INSTALL: Final = "pip install 'surefield[kim]' (needs the KIM API with models: apt install openkim-models)"
#: Relative step of derivatives by parameters, fourth order.
_STEP: Final = 1e-3
_STENCIL: Final = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))


@cache
def _kimpy() -> Any:
    """kimpy, with KIM's habit of writing kim.log into the current folder switched off."""
    try:
        # Compiled by its users, so that no type checker may count on it.
        kimpy = importlib.import_module("kimpy")
    except ImportError as error:
        raise PotentialError(f"this KIM model needs KIM itself: {INSTALL}") from error

    class Verbosity(ctypes.Structure):
        _fields_ = (("id", ctypes.c_int),)

    push = ctypes.CDLL("libkim-api.so.2").KIM_Log_PushDefaultVerbosity
    push.argtypes, push.restype = [Verbosity], None
    push(Verbosity(0))
    return kimpy


@cache
def _installed() -> tuple[str, ...]:
    kimpy = _kimpy()
    collections = kimpy.collections.create()
    kind = kimpy.collection_item_type.portableModel
    count = collections.cache_list_of_item_names_by_type(kind)
    return tuple(collections.get_item_name_by_type(i) for i in range(count))


def find_installed(kim_id: str) -> str:
    """Full id of an installed portable model: that version, or the newest one for a short id.

    Raises:
        PotentialError: kimpy is missing, or there is no such model or version; the installed ones are listed.
    """
    wanted = parse_id(kim_id)
    versions = []
    for name in _installed():
        known = parse_id(name)
        same = wanted.number == known.number if wanted.number else wanted.name in (known.name, name)
        if same and wanted.name in (None, known.name, name):
            versions.append(name)
    if not versions:
        close = difflib.get_close_matches(kim_id, _installed(), n=3)
        hint = f"nearest: {', '.join(close)}" if close else f"{len(_installed())} others are installed"
        raise PotentialError(f"KIM has no model {kim_id!r} installed; {hint}")
    if wanted.version is None:
        return max(versions)
    exact = [name for name in versions if parse_id(name).version == wanted.version]
    if not exact:
        raise PotentialError(
            f"KIM has no version {wanted.version} of {kim_id}", got=f"installed: {', '.join(versions)}"
        )
    return exact[0]


@cache
def _calculator(model_id: str) -> Any:
    """The one calculator of a model in this process; parameters are set before every use."""
    _kimpy()
    from ase.calculators.kim import KIM

    return KIM(model_id)


class OpaqueKIM(ParametricPotential, Restricted):
    """A portable model that KIM computes through ASE; slow, and without derivatives of its own.

    Forces come from KIM. Derivatives by parameters are finite differences of KIM's results, so that
    `last_layer` works; second derivatives by positions are refused. Structures are molecules, or periodic in
    three directions.

    Args:
        model_id: full id of an installed model.
        values: parameters; None: those of the installed model.
        species: symbols to serve; None: all that the model knows.
        free: numbers that may change; None: all that are no integers.
    """

    KIND: ClassVar[str] = "opaque_kim"
    #: KIM models need not tell energies of atoms, and give no derivatives by parameters.
    supplies: ClassVar[frozenset[str]] = frozenset({"energy", "forces", "stress"})
    numerical: ClassVar[bool] = True

    model_id: str = eqx.field(static=True)

    def __init__(
        self,
        values: Mapping[str, ArrayLike] | None,
        species: Sequence[str] | None = None,
        *,
        model_id: str,
        free: Iterable[Entry | tuple[str, int]] | None = None,
    ) -> None:
        self.model_id = find_installed(model_id)
        calculator = _calculator(self.model_id)
        known = [
            s
            for s in calculator._kim_model.get_model_supported_species_and_codes()[0]
            if s in chemical_symbols
        ]
        missing = [s for s in species or () if s not in known]
        if missing:
            raise ConfigError(
                f"{self.model_id} does not know {', '.join(missing)}; it knows {', '.join(known)}"
            )
        if values is None:
            values = {name: _published(self.model_id)[name] for name in self.forms}
        super().__init__(values, species or known, free=free)

    @property
    def forms(self) -> Mapping[str, ParameterForm]:
        """Parameters of the driver; their numbers are not tied to combinations of species here."""
        metadata = _calculator(self.model_id).parameters_metadata()
        return {name: ParameterForm("", integer=m["dtype"] == "Integer") for name, m in metadata.items()}

    @property
    def writable(self) -> bool:
        """Whether the driver can write its parameters back to files."""
        kimpy = _kimpy()
        model = _calculator(self.model_id)._kim_model.kim_model
        present, *_ = model.is_routine_present(kimpy.model_routine_name.WriteParameterizedModel)
        return bool(present)

    def options(self) -> dict[str, Any]:
        """Id of the model."""
        return {"model_id": self.model_id}

    def checked_values(
        self, values: Mapping[str, ArrayLike], n_species: int
    ) -> dict[str, Float[Array, "*shape"]]:
        """Float64 arrays of all parameters, as many numbers as the driver has.

        Raises:
            ConfigError: an unknown or missing name, or a wrong number of values.
        """
        published = _published(self.model_id)
        for name in values:
            self.check_name(name)
        arrays = {}
        for name, expected in published.items():
            array = np.asarray(values.get(name, ()), np.float64)
            if array.shape != expected.shape or not np.isfinite(array).all():
                raise ConfigError(
                    f"{self.model_id}: {name}", got=array.shape, expected=f"{expected.shape}, all finite"
                )
            arrays[name] = jnp.asarray(array)
        return arrays

    def ranges(self) -> Float[Array, " n_ranges"]:
        """How far an atom's energy sees at the present parameters, Å."""
        calculator = _set(self.model_id, {k: np.asarray(v) for k, v in self.values.items()})
        return jnp.asarray([calculator._kim_model.get_influence_distance()])

    def check_served(self, atoms: Atoms, where: object) -> None:
        """Refuse structures that are periodic in one or two directions."""
        if atoms.pbc.any() and not atoms.pbc.all():
            raise DataError(
                "a KIM model serves molecules and cells that are periodic in three directions",
                where=where,
                got=f"pbc {atoms.pbc.tolist()}",
                fix="make the cell periodic, with vacuum",
            )

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """The energy of each structure in equal parts on its atoms, eV: KIM gives no others."""
        energies = _energies(self.model_id, dict(self.values), graph.vectors, geometry_of(graph))
        share = energies / jnp.maximum(graph.n_atoms, 1)
        return jnp.where(graph.atom_mask, share[graph.structure], 0.0)


@cache
def _published(model_id: str) -> dict[str, np.ndarray]:
    """Parameters of the installed model, read before anyone changes them."""
    calculator = _calculator(model_id)
    parameters = {}
    for name, metadata in calculator.parameters_metadata().items():
        values = calculator.get_parameters(**{name: list(range(metadata["extent"]))})
        parameters[name] = np.atleast_1d(np.asarray(values[name][1], np.float64))
    return parameters


def _set(model_id: str, values: Mapping[str, np.ndarray]) -> Any:
    """The calculator with these parameters."""
    calculator = _calculator(model_id)
    kinds = calculator.parameters_metadata()
    for name, array in values.items():
        numbers = np.asarray(array).reshape(-1).tolist()
        if kinds[name]["dtype"] == "Integer":
            numbers = [round(x) for x in numbers]
        calculator.set_parameters(**{name: [list(range(len(numbers))), numbers]})
    calculator.reset()
    return calculator


def _compute(
    model_id: str, values: Mapping[str, np.ndarray], vectors: np.ndarray, geometry: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Energies of the structures of a batch, and derivatives by bond vectors that give KIM's forces."""
    calculator = _set(model_id, values)

    def results(atoms: Atoms) -> Mapping[str, Any]:
        atoms.wrap()
        calculator.calculate(atoms, ["energy", "forces"], ["positions", "numbers", "cell", "pbc"])
        return calculator.results

    return computed_batch(results, vectors, geometry)


def _call(model_id: str, values: Any, vectors: Array, geometry: Any) -> tuple[Array, Array]:
    shapes = (
        jax.ShapeDtypeStruct(geometry["n_atoms"].shape, jnp.float64),
        jax.ShapeDtypeStruct(vectors.shape, jnp.float64),
    )
    call = partial(_compute, model_id)
    return call_outside(call, shapes, values, vectors, geometry)


def _by_values(index: int, model_id: str, values: Any, tangent: Any, vectors: Array, geometry: Any) -> Array:
    """Derivative of a result of `_compute` along a direction of the parameters, by differences."""
    tangent = {k: jnp.zeros_like(values[k]) if isinstance(t, SymbolicZero) else t for k, t in tangent.items()}
    relative = [jnp.max(jnp.abs(tangent[k]) / jnp.where(v == 0, 1.0, jnp.abs(v))) for k, v in values.items()]
    largest = jnp.max(jnp.stack(relative))
    step = _STEP / jnp.where(largest > 0, largest, 1.0)
    total = 0.0
    for k, weight in _STENCIL:
        moved = {name: v + k * step * tangent[name] for name, v in values.items()}
        total = total + weight * _call(model_id, moved, vectors, geometry)[index]
    return jnp.asarray(total) / step


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _energies(model_id: str, values: Any, vectors: Array, geometry: Any) -> Float[Array, " n_structures"]:
    return _call(model_id, values, vectors, geometry)[0]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _slopes(
    model_id: str, values: Any, vectors: Array, geometry: Any
) -> Float[Array, "n_atoms n_neighbors 3"]:
    return _call(model_id, values, vectors, geometry)[1]


def _moves(tangent: Any) -> bool:
    return any(not isinstance(t, SymbolicZero) for t in jax.tree.leaves(tangent, is_leaf=_is_zero))


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


@partial(_energies.defjvp, symbolic_zeros=True)
def _energies_jvp(model_id: str, primals: Any, tangents: Any) -> tuple[Array, Array]:
    values, vectors, geometry = primals
    by_values, by_vectors, _ = tangents
    change = jnp.zeros(geometry["n_atoms"].shape)
    if not _is_zero(by_vectors):
        # The field's own derivative by parameters is what force rows are made of.
        slopes = _slopes(model_id, values, vectors, geometry)
        per_atom = jnp.sum(slopes * by_vectors, axis=(1, 2))
        change = change + jax.ops.segment_sum(per_atom, geometry["structure"], len(change))
    if _moves(by_values):
        change = change + _by_values(0, model_id, values, by_values, vectors, geometry)
    return _energies(model_id, values, vectors, geometry), change


@partial(_slopes.defjvp, symbolic_zeros=True)
def _slopes_jvp(model_id: str, primals: Any, tangents: Any) -> tuple[Array, Array]:
    values, vectors, geometry = primals
    by_values, by_vectors, _ = tangents
    if not _is_zero(by_vectors):
        raise PotentialError(f"{model_id}: KIM gives no second derivatives by positions")
    change = _by_values(1, model_id, values, by_values, vectors, geometry)
    return _slopes(model_id, values, vectors, geometry), change
