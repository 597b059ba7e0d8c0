"""Feature functions: from structures to rows, by a potential or an ensemble, compiled once per shape."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Array, Float

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.execution.cache import use_compilation_cache
from surefield.execution.callback import errors_from_outside
from surefield.files import json_text
from surefield.potentials.evaluate import check_frames, neighborhoods_of
from surefield.potentials.mean_potential import MeanPotential
from surefield.potentials.potential import HasPotential, Potential, as_potential
from surefield.potentials.saving import arrays_hash
from surefield.selection.feature_maps import (
    FeatureMap,
    FeatureOfStructure,
    FeatureTransformation,
    feature_map,
)
from surefield.selection.feature_store import FeatureStore
from surefield.selection.structure_inputs import (
    InputShape,
    OTFInMemoryDataset,
    common_size,
    input_shapes,
    stacked,
)
from surefield.selection.transforms import RowTransform
from surefield.sensitivity.layers import named_arrays
from surefield.structures.graph import Graph
from surefield.structures.images import image_key
from surefield.structures.neighbors import Neighborhood
from surefield.structures.read import Frames, Source, read_frames

__all__ = [
    "FeatureFunction",
    "check_finite",
    "compute_features",
    "create_feature_fn",
    "members_of",
    "potential_identity",
    "structure_content",
]

#: Structures whose neighbours are held at once.
_HELD: Final = 1024
#: Structures in a batch, where nobody says.
BATCH: Final = 64


class _Ensemble(eqx.Module):
    """Features of all members: side by side, so that kernels are averaged, or added up; both over √M."""

    members: tuple[FeatureOfStructure, ...]
    adds: bool = eqx.field(static=True)
    shared: bool = eqx.field(static=True)

    def __call__(self, inputs: Any) -> Array:
        graphs = [inputs] * len(self.members) if self.shared else inputs
        rows = [member(graph) for member, graph in zip(self.members, graphs, strict=True)]
        if len(rows) == 1:
            return rows[0]
        widths = {row.shape[-1] for row in rows}
        if self.adds and len(widths) > 1:
            raise PotentialError(
                "features of members of different shapes cannot be added", got=sorted(widths)
            )
        joined = sum(rows) if self.adds else jnp.concatenate(rows, axis=-1)
        return joined / np.sqrt(len(rows))


@eqx.filter_jit
def _rows_of_structures(function: FeatureOfStructure, graphs: Any) -> Array:
    return jax.vmap(function)(graphs)


class FeatureFunction:
    """Features of structures, a row each: what `create_feature_fn` gives.

    Attributes:
        spec: how they are made, in words.
        notes: what was chosen where it was left open.
    """

    def __init__(
        self,
        members: Sequence[Potential],
        base: FeatureMap,
        transforms: Sequence[FeatureTransformation] = (),
        compat: str | None = None,
    ) -> None:
        for transform in transforms:
            _check_transform(transform)
        use_compilation_cache()
        bound = [base.bind(member, number, compat) for number, member in enumerate(members)]
        shared = all(jax.tree.structure(member) == jax.tree.structure(members[0]) for member in members)
        adds = base.adds or compat == "apax"
        self._base = _Ensemble(tuple(function for function, _ in bound), adds, shared)
        self._readers = list(members[:1] if shared else members)
        self._dtypes = [reader.dtype for reader in self._readers]
        names = [repr(step) for step in (base, *transforms)]
        count = f" of {len(members)} potentials" if len(members) > 1 else ""
        self.spec = ", ".join(names) + count
        self._members, self._compat = tuple(members), compat
        #: Range of the neighbour lists that is needed, Å.
        self.cutoff = max(member.cutoff for member in members)
        self._equal_sizes = base.equal_sizes()
        self._transforms = tuple(transforms)
        # Without transforms of the user's it is the same function every time, which is traced once.
        self._run = eqx.filter_jit(self._rows) if transforms else _rows_of_structures
        self.notes = tuple(dict.fromkeys(note for _, note in bound if note))

    def __call__(self, inputs: Any) -> Float[Array, "n_structures n_features"]:
        """Features of a batch of `OTFInMemoryDataset.batch()`, or of structures, in order.

        Raises:
            DataError: structures that cannot be computed, or of different sizes where these must be equal.
            PotentialError: an element that a potential does not know.
        """
        if isinstance(inputs, tuple | Graph):
            return self._of_graphs(inputs)
        return jnp.asarray(self.compute(read_frames(inputs)))

    def check(self, frames: Frames) -> None:
        """Raise an error unless all structures can be computed."""
        for reader in self._readers:
            check_frames(reader, frames)
        sizes = [len(atoms) for atoms in frames]
        if self._equal_sizes and len(set(sizes)) > 1:
            other = next(i for i, size in enumerate(sizes) if size != sizes[0])
            raise DataError(
                "these features need structures of one number of atoms",
                got=f"{sizes[0]} in {frames.origins[0]} and {sizes[other]} in {frames.origins[other]}",
                fix="strategy 'gram' serves structures of any size",
            )

    def compute(self, frames: Frames, batch_size: int = BATCH, out: Any = None) -> np.ndarray:
        """Features of structures in order, float64; see `compute_features`."""
        self.check(frames)
        atoms, result = common_size(frames), out
        for start in range(0, len(frames), _HELD):
            part = frames[start : start + _HELD]
            around = [neighborhoods_of(reader, part, checked=True) for reader in self._readers]
            for shape in input_shapes(around[0], batch_size, atoms):
                for at in range(0, len(shape.members), shape.n_structures):
                    members = shape.members[at : at + shape.n_structures].tolist()
                    rows = self._of_members(around, members, shape)
                    check_finite(rows, part[members])
                    if result is None:
                        result = np.empty((len(frames), *rows.shape[1:]))
                    elif result.shape != (len(frames), *rows.shape[1:]):
                        expected = (len(frames), *rows.shape[1:])
                        raise DataError("out has another shape", got=result.shape, expected=expected)
                    result[[start + i for i in members]] = rows
        if result is None:
            raise DataError("no structures to compute features of")
        return result

    def fill(self, store: FeatureStore, frames: Frames, batch_size: int = BATCH) -> FeatureStore:
        """Have the features of structures in a store; only shards that are not there are computed."""
        self.check(frames)
        contents = [structure_content(atoms) for atoms in frames]
        how = json_text([self.spec, self._compat, [potential_identity(member) for member in self._members]])
        store.fill(contents, how, lambda start, stop: self.compute(frames[start:stop], batch_size))
        return store

    def _of_members(
        self, around: Sequence[Sequence[Neighborhood]], members: Sequence[int], shape: InputShape
    ) -> np.ndarray:
        """Rows of some structures, each as every reader reads it."""
        graphs = [
            stacked([of[i] for i in members], dtype, n_atoms=shape.n_atoms, n_neighbors=shape.n_neighbors)
            for of, dtype in zip(around, self._dtypes, strict=True)
        ]
        rows = self._of_graphs(tuple(graphs) if len(graphs) > 1 else graphs[0], shape.n_structures)
        return np.asarray(rows, np.float64)

    def _of_graphs(self, graphs: Any, size: int = 0) -> Array:
        first: Any = graphs if isinstance(graphs, Graph) else graphs[0]
        if isinstance(graphs, tuple) != (len(self._readers) > 1):
            raise DataError(
                "members of this ensemble read structures in different ways",
                fix="give structures, feature_fn(frames), not batches of a data set",
            )
        if first.numbers.ndim == 1:
            return self._of_graphs(jax.tree.map(lambda leaf: np.asarray(leaf)[None], graphs))
        if self._equal_sizes and not np.all(first.numbers):
            fix = "give structures of one number of atoms, feature_fn(frames)"
            raise DataError("these features need structures without padding", fix=fix)
        count = len(first.numbers)
        # Few sizes, so that few programs are compiled; nothing is computed of what fills a batch up.
        size = size or next(8**k for k in range(9) if 8**k >= count)
        each: list[Graph] = [graphs] if isinstance(graphs, Graph) else list(graphs)
        each = [_filled(graph, size, dtype) for graph, dtype in zip(each, self._dtypes, strict=True)]
        graphs = each[0] if len(each) == 1 else tuple(each)
        with errors_from_outside():
            return self._run(self._base, graphs)[:count]

    def _rows(self, base: _Ensemble, graphs: Any) -> Array:
        function: FeatureOfStructure = base
        for transform in self._transforms:
            function = transform.apply(function)
            if not callable(function):
                kind = type(transform).__name__
                raise ConfigError(f"{kind}.apply must return a function of one structure", got=repr(function))
        return jax.vmap(function)(graphs)


def create_feature_fn(
    model: Potential | HasPotential | Sequence[Potential | HasPotential],
    params: Any,
    base_feature_map: FeatureMap | Mapping[str, Any],
    feature_transforms: Sequence[FeatureTransformation] = (),
    is_ensemble: bool = False,
) -> FeatureFunction:
    """Function from batches of structures to features.

    The base map comes first, then the average over the members of an ensemble, then the transforms in order,
    then all structures of a batch at once; the whole is compiled once for each shape.

    Args:
        model: potential or uncertainty; with `is_ensemble` also several potentials.
        params: None: the model's own; or others, as its array part or as nested dictionaries by the names of
            its attributes; with `is_ensemble`, members on a new first axis of every array.
        base_feature_map: `LastLayerGradientFeatures()` or another map.
        feature_transforms: such as `PerAtomFeatures()`.
        is_ensemble: whether kernels of several members are averaged.

    Raises:
        ConfigError: something that is no feature map or transform of functions.
        PotentialError: parameters that do not fit, or a potential without such features.
    """
    if isinstance(model, Sequence) and not is_ensemble:
        raise ConfigError("several potentials are an ensemble", fix="is_ensemble=True")
    members = _members(model, params, is_ensemble)
    return FeatureFunction(members, feature_map(base_feature_map), tuple(feature_transforms))


def compute_features(
    feature_fn: FeatureFunction | Callable[[Any], Any], dataset: Any, *, out: Any = None
) -> Any:
    """Features of all structures in order, float64.

    Args:
        feature_fn: of `create_feature_fn`; or any function from a list of `Atoms` to rows.
        dataset: structures, or files of them; `OTFInMemoryDataset`; or another object whose `batch()` gives
            the inputs of `feature_fn`, alone or as the first of a tuple.
        out: (n_structures, n_features) array or memory map that takes the rows; or a `FeatureStore`, which
            keeps them on disk, so that work that was interrupted goes on.

    Returns:
        (n_structures, n_features), or `out`.

    Raises:
        DataError: structures that cannot be computed, features that are not finite, or `out` of another
            shape.
    """
    if isinstance(out, FeatureStore):
        return _stored(feature_fn, dataset, out)
    if isinstance(dataset, OTFInMemoryDataset) and isinstance(feature_fn, FeatureFunction):
        if dataset.cutoff < feature_fn.cutoff:
            what = "the cutoff of the data set is shorter than that of the potential"
            raise ConfigError(what, got=dataset.cutoff, expected=feature_fn.cutoff)
        return feature_fn.compute(dataset.frames, dataset.batch_size, out)
    batches: Any = getattr(dataset, "batch", None)
    if callable(batches):
        inputs: Any = batches()
        return _kept(_of_batches(feature_fn, inputs), out)
    frames = read_frames(cast(Source, dataset))
    if isinstance(feature_fn, FeatureFunction):
        return feature_fn.compute(frames, out=out)
    rows = np.asarray(feature_fn(list(frames)), np.float64)
    if len(rows) != len(frames):
        got = f"{len(rows)} rows for {len(frames)} structures"
        raise DataError("the feature function must give one row per structure", got=got)
    check_finite(rows, frames)
    return _kept(rows, out)


def _filled(graph: Graph, size: int, dtype: np.dtype) -> Graph:
    """A stack filled up with copies of its last structure, marked by 0 atoms, in a potential's precision."""
    count = len(graph.numbers)
    places = np.minimum(np.arange(size), count - 1)

    def taken(leaf: Any) -> np.ndarray:
        rows = np.asarray(leaf)[places]
        return rows.astype(dtype) if rows.dtype.kind == "f" else rows

    filled = jax.tree.map(taken, graph)
    return eqx.tree_at(
        lambda g: g.n_atoms, filled, np.where(np.arange(size)[:, None] < count, filled.n_atoms, 0)
    )


def members_of(model: Any) -> list[Potential]:
    """Potentials of an ensemble: those given, or the members of a mean of potentials; else the one."""
    if isinstance(model, list | tuple):
        return [member for part in model for member in members_of(part)]
    potential = as_potential(model)
    return list(potential.members) if isinstance(potential, MeanPotential) else [potential]


def _members(model: Any, params: Any, is_ensemble: bool) -> list[Potential]:
    if not is_ensemble:
        potential = as_potential(model)
        return [potential if params is None else _with_params(potential, params)]
    if params is None:
        members = members_of(model)
        if len(members) < 2:
            fix = "give several potentials, or the stacked parameters of the members"
            raise PotentialError("an ensemble needs members", got=type(model).__name__, fix=fix)
        return members
    potential = as_potential(model)
    given, own = _by_path(params, potential), named_arrays(potential)
    counts = {np.shape(array)[0] if np.ndim(array) else 0 for array in given.values()}
    if len(counts) != 1 or any(np.shape(a)[1:] != own[path].shape for path, a in given.items()):
        raise PotentialError(
            "the parameters are not those of an ensemble",
            expected="members on a new first axis of every array",
            fix="stack them, or is_ensemble=False",
        )
    return [_replaced(potential, {p: a[m] for p, a in given.items()}) for m in range(counts.pop())]


def potential_identity(potential: Potential) -> list[Any]:
    """What tells a potential from others: its class, its configuration where it has one, its arrays."""
    try:
        config = potential.config()
    except PotentialError:
        config = None
    return [type(potential).__qualname__, config, arrays_hash(potential)]


def structure_content(atoms: Atoms) -> str:
    """Hash of all that potentials read of a structure, to the last digit."""
    digest = hashlib.sha256(image_key(atoms).encode())
    for values, kind in ((atoms.numbers, "<i4"), (atoms.pbc, "u1"), (atoms.cell.array, "<f8")):
        digest.update(np.ascontiguousarray(values, kind).tobytes())
    digest.update(np.ascontiguousarray(atoms.positions, "<f8").tobytes())
    return digest.hexdigest()


def _with_params(potential: Potential, params: Any) -> Potential:
    given, own = _by_path(params, potential), named_arrays(potential)
    for path, array in given.items():
        if np.shape(array) != own[path].shape:
            what = f"the parameters {'.'.join(path)} do not fit {type(potential).__name__}"
            stacked_ones = np.shape(array)[1:] == own[path].shape
            fix = "is_ensemble=True, if these are the members of an ensemble" if stacked_ones else ""
            raise PotentialError(what, got=np.shape(array), expected=own[path].shape, fix=fix)
    return _replaced(potential, given)


def _by_path(params: Any, potential: Potential) -> dict[tuple[str, ...], Any]:
    given, own = named_arrays(params), named_arrays(potential)
    trained = named_arrays(eqx.filter(potential, eqx.is_inexact_array))
    unknown, missing = given.keys() - own.keys(), trained.keys() - given.keys()
    for what, paths in (("unknown", unknown), ("missing", missing)):
        if paths:
            names = ", ".join(sorted(".".join(path) for path in paths))
            known = ", ".join(sorted(".".join(path) for path in trained))
            message = f"{what} parameters of {type(potential).__name__}: {names}"
            raise PotentialError(message, expected=f"arrays for {known}")
    return given


def _replaced(potential: Potential, arrays: Mapping[tuple[str, ...], Any]) -> Potential:
    def new(place: Any, leaf: Any) -> Any:
        path = tuple(jax.tree_util.keystr((key,), simple=True) for key in place)
        return jnp.asarray(arrays[path], leaf.dtype) if path in arrays else leaf

    return jax.tree_util.tree_map_with_path(new, potential)


def _check_transform(transform: Any) -> None:
    if isinstance(transform, RowTransform):
        raise ConfigError(
            f"{type(transform).__name__} is fitted on features and cannot change a feature function",
            fix="give it to kernel_selection, select or select_rows; or PerAtomFeatures, ScaleFeatures here",
        )
    if isinstance(transform, FeatureMap) or not isinstance(transform, FeatureTransformation):
        expected = "PerAtomFeatures(), ScaleFeatures(factor), or a FeatureTransformation of your own"
        raise ConfigError("no transform of feature functions", got=repr(transform), expected=expected)


def check_finite(rows: np.ndarray, frames: Frames) -> None:
    """Raise `DataError` for the first structure with features that are not finite."""
    bad = np.flatnonzero(~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1))
    if len(bad):
        formula = frames[bad[0]].get_chemical_formula()
        fix = "remove this structure, or mend what its features come from"
        raise DataError("features are not finite", where=f"{frames.origins[bad[0]]} ({formula})", fix=fix)


def _of_batches(function: Callable[..., Any], batches: Iterable[Any]) -> np.ndarray:
    """Rows of inputs that come batch by batch, alone or with labels behind them."""
    rows = []
    for batch in batches:
        labelled = isinstance(batch, tuple) and not isinstance(batch[-1], Graph)
        rows.append(np.asarray(function(batch[0] if labelled else batch), np.float64))
    if not rows:
        raise DataError("the data set gives no batches")
    return np.concatenate(rows)


def _stored(function: Any, dataset: Any, store: FeatureStore) -> FeatureStore:
    if not isinstance(function, FeatureFunction):
        fix = "FeatureStore.fill takes any function, and what tells it from others"
        raise ConfigError("a store needs a function of create_feature_fn", got=repr(function), fix=fix)
    if isinstance(dataset, OTFInMemoryDataset):
        return function.fill(store, dataset.frames, dataset.batch_size)
    return function.fill(store, read_frames(dataset))


def _kept(rows: np.ndarray, out: Any) -> np.ndarray:
    if out is None:
        return rows
    if out.shape != rows.shape:
        raise DataError("out has another shape", got=out.shape, expected=rows.shape)
    out[...] = rows
    return out
