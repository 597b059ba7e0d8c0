"""Replay: does a way of selecting save labels on data that are labelled already, against random selection?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from surefield.acquisition.config import FeatureMap
from surefield.acquisition.select import feature_rows
from surefield.errors import ConfigError, DataError, nearest
from surefield.execution.progress import track
from surefield.files import read_arrays
from surefield.potentials import MomentNetwork
from surefield.potentials.potential import HasPotential, Potential, as_potential
from surefield.selection.constraints import checked_costs
from surefield.selection.duplicates import find_duplicates
from surefield.selection.features import Features, positive_int
from surefield.selection.methods import check_method
from surefield.selection.replay_result import HEADLINE, RANDOM, Replay, error_summary
from surefield.selection.request import generator
from surefield.selection.select_rows import select_features
from surefield.selection.transforms import RowTransform, transform_features
from surefield.structures.labels import Mapped, resolve_labels
from surefield.structures.read import Frames, Source, read_frames
from surefield.structures.splits import split_frames
from surefield.training.config import TrainConfig
from surefield.training.train import train

__all__ = ["Learner", "replay", "ridge_errors"]

#: Per structure of the test set the residuals of each quantity: energy (eV/atom), forces (eV/Å).
Residuals = Mapping[str, Sequence[ArrayLike]]
#: `learner(train, test, seed)`: learn from labelled structures, then predict others.
Learner = Callable[[Frames, Frames, int], Residuals]
_CUTOFF: Final = 5.0
_FEWEST_SEEDS: Final = 3


@dataclass(frozen=True, eq=False)
class _Data:
    frames: Frames
    rows: Float[np.ndarray, "n_structures n_features"]
    energies: Float[np.ndarray, " n_structures"]
    sizes: Int[np.ndarray, " n_structures"]
    composition: Float[np.ndarray, "n_structures n_elements"]
    cost: Float[np.ndarray, " n_structures"]
    groups: list[Hashable] | None
    information: bool

    def residuals(self, learner: str | Learner, known: np.ndarray, test: np.ndarray, seed: int) -> Residuals:
        if callable(learner):
            return learner(self.frames[known], self.frames[test], seed)
        per_atom = self.rows / self.sizes[:, None]
        return {
            "energy": ridge_errors(
                per_atom, self.composition, self.energies / self.sizes, known, test
            ).tolist()
        }


def replay(
    frames: Source,
    methods: Sequence[str],
    *,
    n_init: int,
    batch_size: int,
    n_rounds: int,
    seeds: int = 5,
    test_fraction: float = 0.2,
    test: Source | None = None,
    learner: str | Learner = "ridge",
    features: FeatureMap | str | Path | ArrayLike | Callable[[Frames], ArrayLike] = "ll_grad",
    potential: Potential | HasPotential | None = None,
    config: TrainConfig | None = None,
    transforms: Sequence[RowTransform] = (),
    groups: str | Sequence[Hashable] | None = None,
    cost: ArrayLike | Callable[[Atoms], float] | None = None,
    labels: Mapped | None = None,
    progress: bool | None = None,
) -> Replay:
    """Select from labelled structures in rounds as if they had no labels, and measure what was gained.

    Every seed has one test set and one first training set, shared by all methods; then each method selects,
    gets the labels, and the learner learns anew. Copies of one geometry, and structures of one group, are on
    the same side. `random` always takes part.

    Args:
        frames: labelled structures, or files of them.
        methods: names of selection methods.
        n_init: labels of the first training set, drawn at random.
        batch_size: labels a round.
        n_rounds: rounds of selection.
        seeds: repetitions, at least 3.
        test_fraction: of the structures that are held out.
        test: labelled structures to test on instead, the same for every seed; where features are an array,
            their rows follow those of `frames`.
        learner: `ridge`: ridge regression of energies per atom on the features, with the ridge of the least
            leave-one-out error; seconds. `train`: `sf.train` of `potential` with `config`. Or a function
            `learner(train, test, seed)` that gives residuals, one entry per test structure: `energy` in
            eV/atom, `forces` in eV/Å.
        features: what methods and ridge regression see: a map of `potential` (see `feature_rows`), an array
            (n_structures, n_features) of extensive features, an .npy or .npz file of one, or a function of
            the structures.
        potential: by default an untrained `MomentNetwork` of all elements (5 Å).
        config: how the learner `train` trains.
        transforms: of the features, before the selection.
        groups: an entry of `info`, or one label per structure: groups are not split between training and
            test, and errors are reported by group.
        cost: of a label, per structure or as a function of it; 1 by default.
        labels: explicit keys of the labels, kind to key.
        progress: show a progress bar; None: on a terminal.

    Returns:
        Error curves, differences to random with intervals, verdicts; `print` shows a table.

    Raises:
        ConfigError: unknown method, learner or features; fewer than three seeds; more labels than structures.
        DataError: no energies, features of a wrong shape, a test set that cannot be made, or one of which
            copies are among `frames`.
    """
    names = _checked_methods(methods)
    for name, value in {"n_init": n_init, "batch_size": batch_size, "n_rounds": n_rounds}.items():
        positive_int(value, name)
    if positive_int(seeds, "seeds") < _FEWEST_SEEDS:
        what = "fewer than three repetitions cannot tell a gain from chance"
        raise ConfigError(what, got=f"seeds={seeds}", expected=f"at least {_FEWEST_SEEDS}")
    if isinstance(learner, str) and learner not in ("ridge", "train"):
        raise ConfigError(f"unknown learner {learner!r}: {nearest(learner, ('ridge', 'train'))}")
    labelled, n_test = read_frames(frames), 0
    if test is not None:
        held = read_frames(test)
        n_test = len(held)
        _refuse_shared(labelled, held)
        labelled = Frames((*labelled.atoms, *held.atoms), (*labelled.origins, *held.origins))
    if potential is None and (learner == "train" or isinstance(features, str)):
        species = sorted({symbol for atoms in labelled for symbol in atoms.get_chemical_symbols()})
        potential = MomentNetwork(species=species, cutoff=_CUTOFF)
    if learner == "ridge" and isinstance(features, str) and features == "ll_force":
        fix = "features='ll_grad', or learner='train'"
        raise ConfigError("ridge regression of energies needs rows of energies, not 'll_force'", fix=fix)
    data = _gathered(labelled, features, potential, groups, cost, labels)
    if learner == "train":
        assert potential is not None
        learner = _trained(potential, config or TrainConfig(), labels)
    arms = {name: [] for name in names}
    with track(seeds * len(names), "replay", progress) as bar:
        for seed in range(seeds):
            known, pool, held_out = _split(data, test_fraction, n_test, n_init, seed)
            if len(pool) < batch_size * n_rounds:
                wanted = n_init + batch_size * n_rounds
                got = f"{len(known) + len(pool)} structures outside the test set"
                raise ConfigError("the replay wants more labels than there are", got=got, expected=wanted)
            first = data.residuals(learner, known, held_out, seed)
            for name in names:
                rows = (name, batch_size, n_rounds, transforms)
                arms[name].append(_arm(data, learner, rows, known, pool, held_out, seed, first))
                bar.advance(1, method=name, seed=seed)
    settings = {"n_init": n_init, "batch_size": batch_size, "n_rounds": n_rounds, "seeds": seeds}
    settings |= {"test_fraction": None if n_test else test_fraction, "n_structures": len(labelled)}
    return _result(names, arms, data, settings)


def ridge_errors(
    rows: Float[np.ndarray, "n n_features"],
    composition: Float[np.ndarray, "n n_elements"],
    energies: Float[np.ndarray, " n"],
    known: Int[np.ndarray, " n_known"],
    test: Int[np.ndarray, " n_test"],
) -> Float[np.ndarray, " n_test"]:
    """Residuals of energies per atom, eV: elements by least squares, the rest by ridge regression.

    The ridge has the least sum of squared leave-one-out residuals r_i/(1 − h_i) among 25 from 1e-12 to 1
    times the largest eigenvalue of ΦᵀΦ (Golub, Heath, Wahba, Technometrics 21, 215 (1979)).
    """
    # Elements are taken out of both sides, which is to fit them together with the rest, without a ridge.
    both = np.column_stack([energies, rows])
    left = both - composition @ np.linalg.lstsq(composition[known], both[known], rcond=None)[0]
    width = left[known, 1:].std(axis=0)
    use = width > 1e-10 * np.abs(rows[known]).max(axis=0, initial=1e-300)
    left, scaled = left[:, 0], left[:, 1:][:, use] / width[use]
    if not use.any():
        return left[test]
    u, s, right = np.linalg.svd(scaled[known], full_matrices=False)
    along = u.T @ left[known]
    best, weights = np.inf, np.zeros(len(s))
    for ridge in s[0] ** 2 * np.logspace(-12, 0, 25):
        shrink = s**2 / (s**2 + ridge)
        leverage = np.einsum("ij,j->i", u**2, shrink)
        loo = (left[known] - u @ (shrink * along)) / np.maximum(1 - leverage, 1e-12)
        if (total := float(loo @ loo)) < best:
            best, weights = total, shrink / np.maximum(s, 1e-300) * along
    return left[test] - scaled[test] @ (right.T @ weights)


def _arm(
    data: _Data,
    learner: str | Learner,
    plan: tuple[str, int, int, Sequence[RowTransform]],
    known: np.ndarray,
    pool: np.ndarray,
    test: np.ndarray,
    seed: int,
    residuals: Residuals,
) -> dict[str, Any]:
    """Rounds of one method with one seed."""
    method, batch_size, n_rounds, transforms = plan
    chosen = known.tolist()
    labels, costs, rounds = [len(chosen)], [float(data.cost[chosen].sum())], [residuals]
    for number in range(n_rounds):
        left = np.setdiff1d(pool, chosen)
        rows = (data.rows[chosen], data.rows[left], data.sizes[chosen], data.sizes[left])
        features = Features(*rows, information=data.information)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a batch that is short is in the labels
            picks = select_features(
                method, transform_features(features, transforms), batch_size, seed=1000 * seed + number
            )
        chosen += left[picks.indices].tolist()
        labels.append(len(chosen))
        costs.append(float(data.cost[chosen].sum()))
        rounds.append(data.residuals(learner, np.array(chosen), test, seed))
    return {"labels": labels, "costs": costs, "rounds": rounds, "picks": chosen[len(known) :], "test": test}


def _result(
    names: tuple[str, ...], arms: Mapping[str, list[dict[str, Any]]], data: _Data, settings: dict[str, Any]
) -> Replay:
    quantities = list(arms[names[0]][0]["rounds"][0])
    errors: dict[str, Any] = {quantity: {} for quantity in quantities}
    by_group: dict[str, Any] = {quantity: {} for quantity in quantities}
    for quantity in quantities:
        for name in names:
            summaries = [[error_summary(r[quantity]) for r in arm["rounds"]] for arm in arms[name]]
            for error in summaries[0][0]:
                values = np.array([[summary[error] for summary in row] for row in summaries])
                # Logarithms are taken of these.
                errors[quantity].setdefault(error, {})[name] = np.maximum(values, np.finfo(float).tiny)
            if data.groups is None:
                continue
            for group in dict.fromkeys(data.groups):
                if errors_of := _group_errors(arms, quantity, group, data.groups):
                    by_group[quantity][str(group)] = errors_of
    short = [name for name in names if any(np.ptp(np.diff(arm["labels"])) for arm in arms[name])]
    notes = (f"batches of {', '.join(short)} were short: only copies were left",) if short else ()
    return Replay(
        names,
        tuple(range(settings["seeds"])),
        {name: np.array([arm["labels"] for arm in arms[name]]) for name in names},
        {name: np.array([arm["costs"] for arm in arms[name]]) for name in names},
        errors,
        by_group if data.groups is not None else {},
        {name: [arm["picks"] for arm in arms[name]] for name in names},
        notes,
        settings,
    )


def _group_errors(
    arms: Mapping[str, list[dict[str, Any]]], quantity: str, group: Hashable, groups: list[Hashable]
) -> dict[str, dict[str, np.ndarray]]:
    """Errors of the test structures of a group after the last round, by error and method, of each seed.

    Nothing where no seed has such structures, NaN where one has none.
    """
    summaries: dict[str, list[dict[str, float]]] = {}
    for name, of_seeds in arms.items():
        for arm in of_seeds:
            pairs = zip(arm["test"].tolist(), arm["rounds"][-1][quantity], strict=True)
            members = [residual for index, residual in pairs if groups[index] == group]
            summaries.setdefault(name, []).append(error_summary(members) if members else {})
    if not any(summary for of_seeds in summaries.values() for summary in of_seeds):
        return {}
    return {
        error: {
            name: np.array([one.get(error, np.nan) for one in of_seeds])
            for name, of_seeds in summaries.items()
        }
        for error in HEADLINE
    }


def _split(
    data: _Data, fraction: float, n_test: int, n_init: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First training set, pool and test set (the last `n_test` structures, if any), as indices."""
    if not 0 < fraction < 1:
        raise ConfigError("test_fraction out of range", got=fraction, expected="between 0 and 1")
    rng = generator(seed)
    if n_test:
        test = np.arange(len(data.frames) - n_test, len(data.frames))
    elif data.groups is None:
        _, test = split_frames(data.frames, fraction, seed=seed)
    else:
        test = _held_groups(data.groups, fraction, rng)
    others = rng.permutation(np.setdiff1d(np.arange(len(data.frames)), test))
    if len(others) < n_init + 1 or not len(test):
        raise DataError(
            "no pool is left beside test set and first training set",
            got=f"{len(test)} for the test, {len(others)} others",
            fix="a smaller test_fraction or n_init, or smaller groups",
        )
    return others[:n_init], np.sort(others[n_init:]), np.asarray(test)


def _refuse_shared(frames: Frames, test: Frames) -> None:
    """Refuse a pool that holds copies of test structures (DataError)."""
    shared = [copy for copy in find_duplicates(frames, test) if copy.kept_in == "train"]
    if shared:
        first = shared[0]
        assert first.kept is not None
        raise DataError(
            f"{len(shared)} structures are copies of test structures",
            where=frames.origin(first.index),
            got=f"a copy of {test.origin(first.kept)}",
            fix="remove them from frames or from test",
        )


def _held_groups(groups: Sequence[Hashable], fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Structures of groups drawn at random, as many groups as fit into a share, but one at least."""
    labels = list(dict.fromkeys(groups))
    held, n_test = [], 0
    for place in rng.permutation(len(labels)).tolist():
        size = sum(group == labels[place] for group in groups)
        if not held or n_test + size <= fraction * len(groups):
            held.append(labels[place])
            n_test += size
    return np.flatnonzero([group in held for group in groups])


def _gathered(
    frames: Frames,
    features: Any,
    potential: Any,
    groups: str | Sequence[Hashable] | None,
    cost: Any,
    mapping: Mapped | None,
) -> _Data:
    labels, _ = resolve_labels(frames, mapping, require=("energy",))
    energies = np.array([np.nan if label.energy is None else label.energy for label in labels])
    if not np.isfinite(energies).all():
        raise DataError(
            "structure without energy", where=frames.origin(int(np.argmax(~np.isfinite(energies))))
        )
    sizes = np.array([len(atoms) for atoms in frames])
    elements = np.unique(np.concatenate([atoms.numbers for atoms in frames]))
    counts = np.array([[np.sum(atoms.numbers == z) for z in elements] for atoms in frames])
    rows = Features(None, _rows(frames, features, potential)).pool
    if len(rows) != len(frames):
        raise DataError("features must have one row per structure", got=len(rows), expected=len(frames))
    if callable(cost):
        cost = [cost(atoms) for atoms in frames]
    costs = np.ones(len(frames)) if cost is None else checked_costs(cost, len(frames))
    if isinstance(groups, str):
        key, groups = groups, []
        for i, atoms in enumerate(frames):
            if key not in atoms.info:
                raise DataError(f"no entry {key!r} in info", where=frames.origin(i))
            groups.append(atoms.info[key])
    if groups is not None and len(groups) != len(frames):
        raise DataError("groups must have one label per structure", got=len(groups), expected=len(frames))
    listed = None if groups is None else list(groups)
    information = isinstance(features, str) and features == "ll_force"
    return _Data(frames, rows, energies, sizes, counts / sizes[:, None], costs, listed, information)


def _rows(frames: Frames, features: Any, potential: Any) -> Any:
    if callable(features):
        return features(frames)
    if isinstance(features, str | Path) and Path(features).suffix in (".npy", ".npz"):
        path = Path(features)
        if path.suffix == ".npz":
            return next(iter(read_arrays(path).values()))
        if not path.is_file():
            raise DataError(f"no file of features at {path.resolve()}")
        return np.load(path, allow_pickle=False)
    if isinstance(features, str):
        return feature_rows(potential, frames, features)  # pyright: ignore[reportArgumentType]
    return np.asarray(features)


def _trained(potential: Potential | HasPotential, config: TrainConfig, mapping: Mapped | None) -> Learner:
    """Learner that trains a potential anew."""
    plain = as_potential(potential)

    def learn(known: Frames, test: Frames, seed: int) -> Residuals:
        settings = config.model_copy(update={"seed": seed})
        fit = train(plain, known, validation=0.2, config=settings, labels=mapping, progress=False)
        labels, _ = resolve_labels(test, mapping, require=("energy",))
        predictions = fit.potential.predict(test)
        pairs = list(zip(predictions, labels, strict=True))
        residuals: dict[str, Sequence[ArrayLike]] = {
            "energy": [(p.energy - label.energy) / len(a) for (p, label), a in zip(pairs, test, strict=True)]
        }
        if all(label.forces is not None for label in labels):
            residuals["forces"] = [np.ravel(p.forces - label.forces) for p, label in pairs]
        return residuals

    return learn


def _checked_methods(methods: Sequence[str]) -> tuple[str, ...]:
    methods = (methods,) if isinstance(methods, str) else methods
    for name in methods:
        check_method(name)
    return (*dict.fromkeys(name for name in methods if name != RANDOM), RANDOM)
