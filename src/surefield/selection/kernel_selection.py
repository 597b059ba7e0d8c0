"""`kernel_selection`: from trained potentials and structures to picks, with the arguments of apax."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from surefield.errors import ConfigError, DataError, PotentialError, nearest
from surefield.potentials.potential import HasPotential, Potential
from surefield.potentials.saving import kind_of, load_potential
from surefield.selection.chunked_features import ChunkedFeatures
from surefield.selection.constraints import Constraints, checked_costs
from surefield.selection.duplicates import find_duplicates
from surefield.selection.feature_function import (
    BATCH,
    FeatureFunction,
    check_finite,
    compute_features,
    members_of,
)
from surefield.selection.feature_maps import FeatureMap, FeatureTransformation, feature_map
from surefield.selection.feature_store import FeatureStore
from surefield.selection.features import Features, positive_int
from surefield.selection.kernel import KernelMatrix
from surefield.selection.methods import check_method, max_dist_selection
from surefield.selection.select_rows import select_features
from surefield.selection.selection import Selection
from surefield.selection.transforms import RowTransform, transform_features
from surefield.structures.read import Frames, Source, read_frames

__all__ = ["kernel_selection", "stored_features", "with_costs"]

#: What the command line calls the potential of a run folder.
_OF_RUN: Final = "potential.npz"

ModelSource = str | Path | Potential | HasPotential
Options = FeatureMap | Mapping[str, Any] | Callable[..., Any] | np.ndarray | str | Path
Compatible = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def kernel_selection(
    model_dir: ModelSource | Sequence[ModelSource] | None,
    train_atoms: Source,
    pool_atoms: Source,
    base_fm_options: Options,
    selection_method: str,
    feature_transforms: Sequence[Any] | FeatureTransformation | RowTransform = (),
    selection_batch_size: int | None = 10,
    processing_batch_size: int = BATCH,
    *,
    mode: str | None = None,
    sigma: float = 0.1,
    seed: int = 0,
    compat: str | None = None,
    constraints: Constraints | None = None,
    store: FeatureStore | str | Path | None = None,
) -> Selection | Compatible:
    """Choose which structures of a pool to label next, by the kernel of a potential or of an ensemble.

    Args:
        model_dir: file of a potential, or the folder of the run that made it; a potential or an uncertainty;
            or several, whose kernels are averaged. None with features that need none.
        train_atoms: labelled structures, or files of them; may be empty.
        pool_atoms: candidates, or files of them.
        base_fm_options: `name` of a feature map (`ll_grad`, `ll_force_feat`, `full_grad_rp`, `identity`; {}
            is the first) and what it is set by. Or a function from a list of `Atoms` to rows; or rows, train
            first, as an array or in a file (.npy, or .npz with `train` and `pool`).
        selection_method: as for `select_rows`.
        feature_transforms: in order; those of feature functions (`PerAtomFeatures`, ...) before those that
            are fitted on features (`Posterior`, ...).
        selection_batch_size: picks wanted; None: as many as the budget of the constraints allows; with
            `compat` 0 and None are the whole pool.
        processing_batch_size: structures whose features are computed at once; changes nothing else.
        mode: as for `select_rows`.
        sigma: noise of a label that `max_det` and `bait` assume, relative to the root mean square length of
            the transformed features of the training set (of the pool without any).
        seed: of random methods, and of the projection of `full_grad_rp` where its options name none.
        compat: None; or `apax`, for its rule of `max_dist` (training structures are far from nothing), its
            sum over ensembles, and its averages over output units.
        constraints: excluded structures, quotas of groups, costs and a budget, least distances, copies; see
            `Constraints`. None: copies of structures are dropped (but not with `compat`).
        store: folder that keeps the features of the pool: only those that are not there are computed, and
            `max_dist`, `max_det`, `max_diag` and `random` read them chunk by chunk.

    Returns:
        Picks in order, with gains and reasons; with `compat` the tuple (indices, squared distances, features
        of train, features of the pool).

    Raises:
        ConfigError: unknown method, map, transform, option or mode, or a value out of range.
        DataError: empty pool, structures that cannot be computed, features without information.
        PotentialError: nothing to load, unknown element, no such layer.
    """
    _check_method(selection_method, compat, constraints)
    size = selection_batch_size
    if size is not None:
        size = positive_int(size, "selection_batch_size", smallest=0 if compat else 1)
    batch_size = positive_int(processing_batch_size, "processing_batch_size")
    on_function, on_rows = _sorted_transforms(feature_transforms)
    known, pool = read_frames(train_atoms).of_set("train"), read_frames(pool_atoms).of_set("the pool")
    if not len(pool):
        raise DataError("the pool is empty: there is nothing to select from")
    options = _seeded(base_fm_options, seed)
    sizes = [np.array([len(atoms) for atoms in frames]) for frames in (known, pool)]
    notes: tuple[str, ...] = ()
    if isinstance(options, FeatureMap):
        if reason := options.refused():
            raise ConfigError(f"structures cannot be selected by {options}: {reason}; take strategy 'gram'")
        function = FeatureFunction(_loaded(model_dir), options, on_function, compat)
        g_train, g_pool = _rows(function, known, pool, batch_size, store)
        spec, notes = function.spec, function.notes
    else:
        if on_function or store is not None:
            what = "a store needs" if store is not None else "transforms of feature functions need"
            got = repr(store if store is not None else on_function[0])
            fix = "PerAtom(), Scale() and others change any rows; select_rows takes any store"
            raise ConfigError(f"{what} a feature map of a potential", got=got, fix=fix)
        rows, spec = _given_rows(options, known, pool)
        g_train, g_pool = (rows[: len(known)] if len(known) else None), rows[len(known) :]
    features = stored_features(g_train, g_pool, sizes, spec, in_memory=bool(compat or on_rows))
    if isinstance(features, Features):
        features = transform_features(features, on_rows)
        if compat:
            return _compatible(features, size)
    constraints = with_costs(constraints or Constraints(), pool)
    picks = select_features(
        selection_method,
        features,
        size,
        mode=mode,
        sigma=sigma * features.root_mean_square(),
        seed=seed,
        constraints=constraints,
        dropped=find_duplicates(pool, known) if constraints.deduplicate == "exact" else (),
    )
    return replace(picks, notes=(*notes, *picks.notes))


def _rows(
    function: FeatureFunction,
    known: Frames,
    pool: Frames,
    batch_size: int,
    store: FeatureStore | str | Path | None,
) -> tuple[np.ndarray | None, Any]:
    """Features of train and of the pool, of which nothing is computed before all structures are checked."""
    both = Frames((*known.atoms, *pool.atoms), (*known.origins, *pool.origins))
    if store is None:
        rows = function.compute(both, batch_size)
        return (rows[: len(known)] if len(known) else None), rows[len(known) :]
    function.check(both)
    kept = store if isinstance(store, FeatureStore) else FeatureStore(store)
    g_train = function.compute(known, batch_size) if len(known) else None
    return g_train, function.fill(kept, pool, batch_size)


def stored_features(
    train: Any, pool: Any, sizes: Sequence[np.ndarray], spec: str, *, in_memory: bool
) -> Features | ChunkedFeatures:
    """Rows in memory; those of a store chunk by chunk, unless they are needed as a whole."""
    if isinstance(pool, FeatureStore) and not in_memory:
        return ChunkedFeatures(train, pool, n_atoms_pool=sizes[1], spec=spec)
    return Features(train, np.asarray(pool), *sizes, spec=spec)


def with_costs(constraints: Constraints, frames: Frames) -> Constraints:
    """Constraints with the numbers of a cost that is a function of structures.

    Raises:
        DataError: a cost that is no positive number.
    """
    cost = constraints.cost
    if not callable(cost):
        return constraints
    return replace(constraints, cost=checked_costs([cost(atoms) for atoms in frames], len(frames)))


def _check_method(method: str, compat: str | None, constraints: Constraints | None) -> None:
    check_method(method)
    if compat is None:
        return
    if compat != "apax":
        raise ConfigError(f"unknown compat {compat!r}: {nearest(str(compat), ['apax'])}")
    if method != "max_dist":
        raise ConfigError("compat='apax' has one method", got=repr(method), expected="'max_dist'")
    if constraints is not None:
        raise ConfigError("compat='apax' has no constraints", fix="leave one of the two out")


def _sorted_transforms(transforms: Any) -> tuple[list[FeatureTransformation], list[RowTransform]]:
    """Transforms of feature functions, then those that are fitted on features."""
    given = list(transforms) if isinstance(transforms, list | tuple) else [transforms]
    on_function, on_rows = [], []
    for transform in given:
        if isinstance(transform, RowTransform):
            on_rows.append(transform)
        elif not isinstance(transform, FeatureTransformation) or isinstance(transform, FeatureMap):
            expected = (
                "PerAtomFeatures(), ScaleFeatures(factor), Posterior(sigma), ... of surefield.selection"
            )
            raise ConfigError("no transform of features", got=repr(transform), expected=expected)
        elif on_rows:
            raise ConfigError(
                f"{type(transform).__name__} changes feature functions and cannot come after "
                f"{type(on_rows[-1]).__name__}, which is fitted on features",
                fix="put it first",
            )
        else:
            on_function.append(transform)
    return on_function, on_rows


def _seeded(options: Options, seed: int) -> Any:
    """The feature map of some options; what needs no potential as it is."""
    if isinstance(options, np.ndarray | str | Path) or (
        callable(options) and not isinstance(options, FeatureMap | Mapping)
    ):
        return options
    if isinstance(options, Mapping) and options.get("name") == "full_grad_rp":
        options = {"seed": seed, **options}
    return feature_map(options)  # pyright: ignore[reportArgumentType]


def _loaded(model: Any) -> list[Potential]:
    """Potentials from files, folders of runs, or as they are; of a mean of potentials its members."""
    if isinstance(model, list | tuple):
        if not model:
            raise PotentialError("there is no potential: model_dir is an empty list")
        return [member for part in model for member in _loaded(part)]
    if model is None:
        raise ConfigError("these features need a potential", fix="model_dir='potential.npz'")
    if isinstance(model, str | Path):
        path = Path(model) / _OF_RUN if Path(model).is_dir() else Path(model)
        kind = kind_of(path)
        if kind not in (None, "potential"):
            fix = f"give what surefield.load({str(path)!r}) gives"
            raise PotentialError(f"{path} holds a {kind}, not a potential alone", fix=fix)
        model = load_potential(path)
    return members_of(model)


def _given_rows(options: Any, known: Frames, pool: Frames) -> tuple[np.ndarray, str]:
    """Rows of train and pool that no potential is needed for, and what they are."""
    both = Frames((*known.atoms, *pool.atoms), (*known.origins, *pool.origins))
    if callable(options):
        name = getattr(options, "__name__", type(options).__name__)
        return compute_features(options, both), f"the function {name}"
    rows, spec = options, "array"
    if isinstance(options, str | Path):
        path, spec = Path(options), str(options)
        if not path.is_file():
            raise DataError(f"there is no file of features at {path.resolve()}")
        try:
            rows: Any = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is no file of arrays: {error}") from None
        if not isinstance(rows, np.ndarray):
            if "pool" not in rows or (len(known) and "train" not in rows):
                raise DataError("arrays 'train' and 'pool' are needed", where=path, got=sorted(rows))
            rows = np.concatenate([rows["train"], rows["pool"]]) if len(known) else rows["pool"]
    if np.ndim(rows) != 2 or len(rows) != len(both):
        expected = f"({len(both)}, n_features): {len(known)} rows of train, then {len(pool)} of the pool"
        raise DataError(
            "features do not fit the structures", got=f"shape {np.shape(rows)}", expected=expected
        )
    if (numbers := np.asarray(rows)).dtype.kind == "f":
        check_finite(numbers, both)
    return rows, spec


def _compatible(features: Features, size: int | None) -> Compatible:
    if not features.carry_information():
        got = "rows that are all zero or all equal"
        raise DataError("features carry no information", got=got, fix="check the map")
    matrix = KernelMatrix(np.concatenate([features.train, features.pool]), features.n_train)
    indices, distances = max_dist_selection(matrix, size, compat="apax")
    return indices, distances, np.asarray(features.train), np.asarray(features.pool)
