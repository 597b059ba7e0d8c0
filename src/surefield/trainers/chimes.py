"""ChIMES models fitted by linear least squares, with or without penalties."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final, final

import numpy as np
from ase.data import atomic_numbers
from jaxtyping import Float

from surefield.descriptors.chimes.settings import EV_PER_KCAL_MOL
from surefield.errors import ConfigError, DataError, check_known
from surefield.execution.identity import digest
from surefield.files import atomic_path
from surefield.formats.chimes import read_params, read_setup, settings_of, write_params
from surefield.potentials.chimes import Chimes
from surefield.potentials.learned_part import learned_part
from surefield.potentials.potential import Potential
from surefield.trainers.handle import POTENTIAL_FILE, PotentialHandle, arguments_of, saved_model
from surefield.trainers.result import FitResult, TrainingWarning
from surefield.trainers.trainer import Trainer
from surefield.training.breakdown import Pairs
from surefield.training.checkpoint import PartialSums, part_of
from surefield.training.chimes_rows import FitRows, chimes_part, fit_rows, row_kinds
from surefield.training.dataset import Sample
from surefield.training.least_squares import LinearSolution, StreamedRows, solve
from surefield.training.linear import with_coefficients
from surefield.training.normal_equations import NormalEquations
from surefield.training.problem import ROW_SUMS, Problem, TrainingRun, Weights

__all__ = ["ChIMESPotential", "ChIMESTrainer"]

ALGORITHMS: Final = ("svd", "fast_svd", "ridge", "ridgecv", "lasso", "lassolars", "lars", "dlars", "dlasso")
#: They need no more rows than columns.
_REGULARISED: Final = frozenset(ALGORITHMS) - {"svd", "fast_svd"}
PARAMS: Final = "params.txt"
#: Kinds of labels by the first two letters of the labels of rows; all others are forces.
_KINDS: Final = {"+1": "energy", "s_": "stress"}


@final
class ChIMESPotential(PotentialHandle):
    """Handle around a `Chimes` potential.

    Args:
        species: chemical symbols; the file's types must be the same ones, in any order.
        settings_path: `fm_setup.in`, or a dictionary with its keys (see `read_setup`); None: all comes from
            the parameter file.
        parameter_path: `params.txt`, a saved potential, or a folder that holds one of them, to start from.
        kim_id: id in a registry that this potential came from.
        model_name_prefix: first part of the ids that a registry gives.

    Raises:
        ConfigError: neither settings nor parameters, or settings that are not understood.
        DataError: a file that is missing or malformed.
    """

    def __init__(
        self,
        species: Sequence[str] | str,
        settings_path: str | Path | Mapping[str, Any] | None = None,
        parameter_path: str | Path | None = None,
        kim_id: str | None = None,
        *,
        model_name_prefix: str = "surefield",
    ) -> None:
        super().__init__(
            species, kim_id=kim_id, parameter_path=parameter_path, model_name_prefix=model_name_prefix
        )
        if settings_path is None and parameter_path is None:
            raise ConfigError(
                "ChIMESPotential needs settings_path (fm_setup.in) or parameter_path (params.txt)"
            )
        self._setup = dict(settings_path) if isinstance(settings_path, Mapping) else None
        if settings_path is not None and not isinstance(settings_path, Mapping):
            self._setup = read_setup(settings_path)
        self._start = None if parameter_path is None else str(Path(parameter_path).resolve())
        if self._setup is not None:
            self._check_species(Chimes(settings_of(self._setup)))

    def settings(self) -> dict[str, Any]:
        """Constructor arguments; the content of a settings file, not its path."""
        return arguments_of(self, settings_path=self._setup, parameter_path=self._start)

    def make(self) -> Chimes:
        """The potential of the settings, with the coefficients of the parameter file, or zeros."""
        fresh = None if self._setup is None else Chimes(settings_of(self._setup))
        if self._start is None:
            assert fresh is not None
            return fresh
        start = self.read(Path(self._start))
        self._check_species(start)
        if fresh is None:
            return start
        if fresh.settings.names != start.settings.names:
            raise ConfigError(
                "the parameters do not fit the settings",
                where=self._start,
                got=f"{start.n_features} columns",
                expected=f"the {fresh.n_features} columns of the settings",
                fix="give the settings the file was fitted with, or leave one of the two out",
            )
        return fresh.with_coefficients(start.coefficients)

    def read(self, path: Path) -> Chimes:
        """The potential of a saved file, of `params.txt`, or of a folder with one of them."""
        if path.is_dir() and not (path / POTENTIAL_FILE).exists():
            path = path / PARAMS
        if path.is_dir() or path.suffix == ".npz":
            return saved_model(path, Chimes, "not a Chimes potential")
        return read_params(path)

    def _check_species(self, potential: Chimes) -> None:
        own = sorted(atomic_numbers[s] for s in self.species)
        if own != list(potential.species):
            got, expected = list(self.species), list(potential.settings.types)
            raise ConfigError("species are not the types of the file", got=got, expected=expected)

    def export_files(self, folder: Path) -> list[Path]:
        """Write `params.txt` for the public calculator; nothing for transformations that it does not read."""
        model = learned_part(self.model)
        if not isinstance(model, Chimes) or model.settings.transform != "MORSE":
            return []
        write_params(folder / PARAMS, model)
        return [folder / PARAMS]


@final
class ChIMESTrainer(Trainer):
    """Fits a ChIMES model by one of several linear solvers; all of them honour the weights.

    Rows and weights are those of all trainers, or, with `compat='chimes_lsq'`, those of chimes_lsq: forces,
    stresses (kcal/mol/Å^3, three rows, or nine where `FITSTRS` is 'ALL') and the total energy three times,
    `FITENER` and `FITSTRS` deciding whether they are there. The penalty of short distances is no part of the
    rows: its share of the labels is taken off first, but not with `compat`, where the peer leaves it.

    Args:
        algorithm: 'svd' (singular values below eps times the largest are dropped), 'fast_svd' (the same from
            the normal equations), 'ridge', 'ridgecv' (the penalty is chosen by folds of configurations),
            'lasso', 'lassolars', 'lars', 'dlars' (lars), 'dlasso' (lassolars).
        eps: of 'svd' and 'fast_svd'.
        alpha: of 'ridge': |W(Ax - b)|^2 + alpha |x|^2; of the sparse ones: 1/(2 rows) |W(Ax - b)|^2 + alpha
            sum |x| with x in kcal/mol.
        folds: of 'ridgecv'.
        fit_energy_offsets: fit the energy of each type as well, where energies are fitted; else it stays.
        compat: 'chimes_lsq', or None.
        row_weights: one number per row of `compat='chimes_lsq'`, as array or file, in place of all others.
        keep_rows: write `design.npz` (A, b, w, row_label, column) into the folder of the run.

    Raises:
        ConfigError: unknown names, numbers out of range, row weights without `compat`.
        DataError: a file of row weights that cannot be read.
    """

    trains: ClassVar[tuple[type[Potential], ...]] = (Chimes,)
    handles: ClassVar[tuple[type[PotentialHandle], ...]] = (ChIMESPotential,)

    def __init__(
        self,
        algorithm: str = "svd",
        eps: float = 1e-5,
        alpha: float = 1e-4,
        folds: int = 4,
        fit_energy_offsets: bool = True,
        *,
        compat: str | None = None,
        row_weights: str | Path | Sequence[float] | np.ndarray | None = None,
        keep_rows: bool = False,
    ) -> None:
        check_known([algorithm], ALGORITHMS, "unknown algorithm {}")
        if not (0 <= eps < 1 and 0 <= alpha < float("inf") and folds >= 2):
            got = f"eps {eps}, alpha {alpha}, folds {folds}"
            raise ConfigError("out of range", got=got, expected="0 <= eps < 1, alpha >= 0, folds >= 2")
        if compat not in (None, "chimes_lsq"):
            raise ConfigError("unknown compat", got=repr(compat), expected="'chimes_lsq' or None")
        if row_weights is not None and compat is None:
            raise ConfigError("row_weights needs compat='chimes_lsq': only there a row has a fixed place")
        self.algorithm, self.eps, self.alpha, self.folds = algorithm, float(eps), float(alpha), int(folds)
        self.fit_energy_offsets, self.compat, self.keep_rows = fit_energy_offsets, compat, keep_rows
        self.row_weights = None if row_weights is None else _read_row_weights(row_weights)

    def settings(self) -> dict[str, Any]:
        """Constructor arguments, fit for JSON; row weights as numbers."""
        return arguments_of(self)

    def refusal(self, handle: PotentialHandle, *, per_atom_weights: bool) -> str | None:
        """Row weights leave no place for weights of atoms."""
        if per_atom_weights and self.row_weights is not None:
            return "row_weights replaces all other weights: give either row_weights or per_atom_weights"
        return None

    def fit(self, model: Potential, problem: Problem) -> FitResult:
        """Make the rows, solve for the coefficients."""
        linear = chimes_part(model)
        if self.row_weights is not None:
            self._check_only_row_weights(problem)
        _warn_of_short_pairs(linear, problem.train)
        names = linear.settings.names
        columns = self._fitted_columns(linear, problem)
        fixed = np.delete(linear.coefficients, columns) / EV_PER_KCAL_MOL
        n, validates = len(columns), self.algorithm == "ridgecv"
        normal = self.algorithm == "fast_svd"
        equations = NormalEquations(n) if normal else StreamedRows(n, self.folds if validates else 1)
        plain, largest, taken = NormalEquations(n), np.zeros(n), 0
        kept: list[FitRows] = []
        sums = (
            PartialSums(None, {})
            if self.keep_rows
            else problem.kept(ROW_SUMS, model, digest(self.settings()))
        )
        done, known = 0, sums.load()
        if known is not None:
            done, taken, largest = int(known["done"]), int(known["taken"]), known["largest"]
            equations.go_on_from(part_of(known, "weighted:"))
            plain.go_on_from(part_of(known, "plain:"))

        def state() -> dict[str, np.ndarray]:
            parts = {"weighted:": equations.arrays(), "plain:": plain.arrays()}
            found = {prefix + name: v for prefix, arrays in parts.items() for name, v in arrays.items()}
            return {"done": np.array(place + 1), "taken": np.array(taken), "largest": largest, **found}

        left = replace(problem, train=problem.train[done:])
        for place, rows in enumerate(fit_rows(model, left, compat=self.compat), start=done):
            w = rows.w if self.row_weights is None else self._own_weights(taken, len(rows.w))
            taken += len(w)
            a, b = rows.a[:, columns], rows.b - np.delete(rows.a, columns, axis=1) @ fixed
            np.maximum(largest, np.abs(a).max(axis=0, initial=0.0), out=largest)
            equations.add(w[:, None] * a, w * b, fold=place * equations.n_folds // len(problem.train))
            plain.add(a, b)
            if self.keep_rows:
                kept.append(FitRows(a, b, w, rows.labels))
            sums.save(state)
        self._check_counts(taken, n)
        empty = [names[c] for c, size in zip(columns, largest, strict=True) if size == 0]
        if empty:
            _warn(f"{len(empty)} of {n} columns are zero, nothing determines {_short(empty)}")
        if isinstance(equations, NormalEquations):
            solution = equations.solved(self.eps)
        else:
            folds = equations.cross_validation() if validates else ()
            solution = solve(equations.reduced(), self.algorithm, eps=self.eps, alpha=self.alpha, folds=folds)
        coefficients = linear.coefficients.copy()
        coefficients[columns] = solution.x * EV_PER_KCAL_MOL
        if kept:
            _write_rows(problem.run.path("design.npz"), kept, [names[c] for c in columns])
        unweighted = replace(solution, rss=plain.sse(solution.x))
        notes = {"unweighted_rmse": unweighted.rmse, "unweighted_bic": unweighted.bic, "zero_columns": empty}
        return self._result(model, coefficients, solution, notes)

    def weighted(
        self, configurations: Sequence[Sample], handle: PotentialHandle, fitted: Collection[str]
    ) -> list[Sample]:
        """As they are."""
        return list(configurations)

    def own_split(self, configurations: Sequence[Sample], handle: PotentialHandle, seed: int) -> None:
        """None: the call rules the split."""

    def minimised_rows(
        self, model: Potential, configurations: Sequence[Sample], weights: Weights
    ) -> Iterator[Pairs] | None:
        """Rows of chimes_lsq times their weights, with `compat`."""
        if self.compat is None:
            return None
        linear = chimes_part(model)
        problem = Problem(tuple(configurations), (), weights, 0, TrainingRun(Path()))
        return self._weighted_rows(model, problem, linear.coefficients / EV_PER_KCAL_MOL)

    def _weighted_rows(self, model: Potential, problem: Problem, x: np.ndarray) -> Iterator[Pairs]:
        taken = 0
        for rows in fit_rows(model, problem, compat=self.compat):
            w = rows.w if self.row_weights is None else self._own_weights(taken, len(rows.w))
            taken += len(w)
            kinds = np.array([_KINDS.get(label[:2], "forces") for label in rows.labels])
            pairs = {}
            for kind in Weights._fields:
                of = kinds == kind
                pairs[kind] = w[of] * (rows.a[of] @ x), w[of] * rows.b[of]
            yield pairs
        self._check_counts(taken, 0)

    def _result(
        self, model: Potential, coefficients: np.ndarray, solution: LinearSolution, more: Mapping[str, Any]
    ) -> FitResult:
        notes = {
            "algorithm": self.algorithm,
            "rank": solution.rank,
            "condition": solution.condition,
            "rmse": solution.rmse,
            "bic": solution.bic,
            "rows": solution.n_rows,
            "columns": len(solution.x),
            "parameters": solution.n_parameters,
            "alpha": solution.alpha,
            "row_unit": "" if self.compat is None else "of chimes_lsq (kcal/mol, Å) times weights",
            **more,
        }
        text = f"rank {solution.rank} of {len(solution.x)}, weighted rmse {solution.rmse:.6g} (kcal/mol, Å)"
        message = "; ".join(filter(None, [text, solution.message]))
        trained = with_coefficients(model, coefficients)
        return FitResult(trained, solution.converged, message, notes=notes)

    def _fitted_columns(self, linear: Chimes, problem: Problem) -> list[int]:
        """All coefficients, and the energy offsets where energies say something about them."""
        n = linear.settings.n_coefficients
        with_energies = any(
            "+1" in row_kinds(linear, c, problem.residual_weights(c), self.compat) for c in problem.train
        )
        return list(range(linear.n_features if self.fit_energy_offsets and with_energies else n))

    def _check_only_row_weights(self, problem: Problem) -> None:
        other = [
            name for name, w in zip(("eweight", "fweight", "vweight"), problem.weights, strict=True) if w != 1
        ]
        uneven = [c.id for c in problem.train if c.weight != 1 or np.any(c.atom_weights != 1)]
        if other or uneven or problem.validation:
            got = ", ".join(other) or (
                f"weights of configuration {uneven[0]}" if uneven else "a validation set"
            )
            fix = "leave them at 1, fit all configurations, or leave row_weights out"
            raise ConfigError("row_weights replaces all other weights", got=got, fix=fix)

    def _own_weights(self, taken: int, n: int) -> Float[np.ndarray, " n_rows"]:
        """The next n row weights; ones where they have run out, which `_check_counts` finds."""
        assert self.row_weights is not None
        weights = np.ones(n)
        part = self.row_weights[taken : taken + n]
        weights[: len(part)] = part
        return weights

    def _check_counts(self, n_rows: int, n_columns: int) -> None:
        if self.row_weights is not None and len(self.row_weights) != n_rows:
            raise DataError(f"{len(self.row_weights)} row weights given, the data have {n_rows} rows")
        if n_rows < n_columns and self.algorithm not in _REGULARISED:
            raise DataError(
                f"{self.algorithm!r} cannot fit more columns than rows",
                got=f"{n_columns} columns, {n_rows} rows",
                fix="add configurations, lower the orders, or use a penalty (ridge, lasso, lars)",
            )


def _write_rows(path: Path, parts: Sequence[FitRows], names: Sequence[str]) -> None:
    a, b, w = (np.concatenate(arrays) for arrays in zip(*(part[:3] for part in parts), strict=True))
    labels = [label for part in parts for label in part.labels]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, A=a, b=b, w=w, row_label=np.array(labels), column=np.array(names))


def _read_row_weights(given: Any) -> Float[np.ndarray, " n_rows"]:
    try:
        if isinstance(given, str | Path):
            path = Path(given)
            values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, ndmin=1)
        else:
            values = np.asarray(given, np.float64)
        values = np.asarray(values, np.float64).reshape(-1)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"row_weights must be numbers or a file of numbers: {error}") from None
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(wrong):
        got = values[wrong[0]]
        raise DataError("unusable row weight", where=f"row {wrong[0]}", got=got, expected=">= 0, finite")
    return values


def _warn_of_short_pairs(linear: Chimes, train: Sequence[Sample]) -> None:
    """Pairs at or below S_MINIM: chimes_lsq leaves them out of its columns, surefield extrapolates."""
    counts: dict[str, int] = {}
    shortest: dict[str, float] = {}
    for c in train:
        for label, (n, r) in linear.inside(c.structure).items():
            counts[label] = counts.get(label, 0) + n
            shortest[label] = min(shortest.get(label, r), r)
    if counts:
        parts = [f"{n} {label} (shortest {shortest[label]:.4g} Å)" for label, n in counts.items()]
        _warn(f"pairs at or below S_MINIM, where the polynomials are extrapolated: {', '.join(parts)}")


def _warn(text: str) -> None:
    warnings.warn(text, TrainingWarning, stacklevel=3)


def _short(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
