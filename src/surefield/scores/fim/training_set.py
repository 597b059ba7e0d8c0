"""`FIMTrainingSetScore`: what each configuration of a training set says of a potential's parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, final

import jax
import numpy as np
from ase import Atoms
from jaxtyping import Float

from surefield.errors import ConfigError, DataError
from surefield.execution.executor import get_executor
from surefield.execution.in_flight import map_ordered
from surefield.execution.memory import check_memory
from surefield.scores.fim.information import (
    DifferentiatedModel,
    Information,
    information,
    read_method,
    symmetrised,
    warn_of_steps,
)
from surefield.scores.fim.masks import RowWeights, evaluated_quantities, row_weights
from surefield.scores.fim.parameters import OptimizedParameters, optimized_parameters, read_potential
from surefield.scores.fim.transforms import (
    ParameterTransform,
    read_transform,
    transform_as_data,
    transform_description,
)
from surefield.scoring import ConfigurationScore, ScoreQuantity
from surefield.scoring.array_files import load_array
from surefield.scoring.results import check_finite_rows

__all__ = ["FIMTrainingSetScore"]

Matrix = Float[np.ndarray, "n_parameters n_parameters"]


@final
class FIMTrainingSetScore(ConfigurationScore):
    """Fisher information matrix I = J^T W J of energies, forces or stresses of each configuration.

    Rows of J are derivatives of the potential's predictions by its parameters phi, W the inverse variances of
    the data (1 without `noise`). I is the Gauss-Newton Hessian of half the weighted squared residuals, not a
    Hessian of the energy. Source: Kurniawan et al., J. Chem. Phys. 156, 214103 (2022).

    Attributes:
        fim_index_to_parameter: row of the last FIM to `{"parameter": name, "extent": place}`.
        derivative_errors: estimated relative error of each column of the last J; zero where exact.
    """

    key: ClassVar[str] = "fim_training_set_score"
    quantity: ClassVar[ScoreQuantity] = ScoreQuantity.SENSITIVITY
    array_arguments: ClassVar[tuple[str, ...]] = ("list_of_mask", "ensemble")
    argument_forms: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"transform": transform_as_data}
    per_configuration: ClassVar[tuple[str, ...]] = (
        "list_of_mask",
        "evaluate_kwargs.compute_energy",
        "evaluate_kwargs.compute_forces",
        "evaluate_kwargs.compute_stress",
    )

    def __init__(self) -> None:
        self.fim_index_to_parameter: dict[int, dict[str, str | int]] = {}
        self.derivative_errors: Float[np.ndarray, " n_parameters"] = np.zeros(0)

    def settings(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def compute(
        self,
        atoms: Atoms,
        score_quantity: Any,
        potential: Any,
        parameters_optimize: Mapping[str, Sequence[Any]] | str | None = None,
        transform: Any = None,
        evaluate_kwargs: Mapping[str, Any] | None = None,
        derivative_kwargs: Mapping[str, Any] | None = None,
        mask: Any = None,
        *,
        noise: Mapping[str, float] | None = None,
        return_jacobian: bool = False,
        ensemble: Any = None,
    ) -> Any:
        """Fisher information of one configuration.

        Args:
            mask: 0 or 1 for every row (forces: 3i + a, or (n_atoms, 3)), or a `.npy` or `.txt` file.
            return_jacobian: give the weighted rows, of which the FIM is J^T J, as well.
            atoms, score_quantity, potential, parameters_optimize, transform, evaluate_kwargs,
                derivative_kwargs, noise, ensemble: as for `compute_batch`.

        Returns:
            (P, P), or a tuple of it and J (n_rows, P).
        """
        self.check_quantity(score_quantity)
        results, jacobians = self._computed(
            [self.one(atoms)],
            potential=potential,
            parameters_optimize=parameters_optimize,
            transform=transform,
            evaluate_kwargs=evaluate_kwargs,
            derivative_kwargs=derivative_kwargs,
            list_of_mask=None if mask is None else [mask],
            noise=noise,
            ensemble=ensemble,
            jacobian=return_jacobian,
            mask_name="mask",
        )
        return (results[0], jacobians[0]) if return_jacobian else results[0]

    def compute_batch(
        self,
        list_of_atoms: Sequence[Atoms],
        score_quantity: Any,
        potential: Any,
        parameters_optimize: Mapping[str, Sequence[Any]] | str | None = None,
        transform: Any = None,
        evaluate_kwargs: Mapping[str, Any] | None = None,
        derivative_kwargs: Mapping[str, Any] | None = None,
        list_of_mask: Sequence[Any] | None = None,
        nprocs: int = 1,
        *,
        noise: Mapping[str, float] | None = None,
        ensemble: Any = None,
        executor: Executor | str | None = None,
    ) -> list[Matrix]:
        """Fisher information of every configuration, in their order.

        Args:
            list_of_atoms: configurations; they are not changed.
            score_quantity: SENSITIVITY.
            potential: one of ours, a handle or an uncertainty around one, `{'potential_type': ..,
                'potential_args': {..}}`; or a list of these, an ensemble of which the mean FIM is taken.
            parameters_optimize: see `optimized_parameters`.
            transform: coordinates in which the FIM is stated, see `read_transform`.
            evaluate_kwargs: `compute_energy` (False), `compute_forces` (True), `compute_stress` (False): each
                True, False, or a list with one per configuration.
            derivative_kwargs: `method` ('autodiff', 'central', 'forward', 'backward') and `step` (absolute,
                in the transformed parameters; 10 % of them by default).
            list_of_mask: None, or a mask or None for each configuration, see `compute`.
            nprocs: processes among which the configurations are divided.
            noise: standard deviations of energy (eV), forces (eV/Å) and stress (eV/Å^3) of the data; with it
                quantities may be combined.
            ensemble: (n_members, P) values of the parameters, of which the mean FIM is taken.
            executor: where the configurations are divided to, instead of `nprocs`.

        Returns:
            One (P, P) float64 matrix per configuration: symmetric, without negative eigenvalues but for
            rounding.

        Raises:
            ConfigError: arguments that are unknown, missing or contradict each other.
            DataError: masks or structures that cannot be used, with the configuration.
            PotentialError: structures that the potential cannot serve.
        """
        self.check_quantity(score_quantity)
        results, _ = self._computed(
            self.several(list_of_atoms),
            potential=potential,
            parameters_optimize=parameters_optimize,
            transform=transform,
            evaluate_kwargs=evaluate_kwargs,
            derivative_kwargs=derivative_kwargs,
            list_of_mask=list_of_mask,
            noise=noise,
            ensemble=ensemble,
            nprocs=nprocs,
            executor=executor,
        )
        return results

    def _computed(
        self,
        frames: list[Atoms],
        *,
        jacobian: bool = False,
        mask_name: str = "list_of_mask",
        nprocs: int = 1,
        executor: Executor | str | None = None,
        **arguments: Any,
    ) -> tuple[list[Matrix], list[np.ndarray]]:
        noise, masks = arguments["noise"], arguments["list_of_mask"]
        chosen = evaluated_quantities(arguments["evaluate_kwargs"], len(frames), combined=noise is not None)
        weights = row_weights(frames, chosen, masks, noise, name=mask_name)
        with jax.enable_x64(True):  # whatever the user has set
            models = _models(
                arguments["potential"],
                arguments["parameters_optimize"],
                read_transform(arguments["transform"]),
                arguments["derivative_kwargs"],
                arguments["ensemble"],
            )
        _check_size(len(models), len(frames), len(models[0].parameters.entries))
        parts = _divided(models, frames, weights, jacobian, nprocs, executor)
        members = [_joined([part[m] for part in parts]) for m in range(len(models))]
        first = models[0]
        errors = np.max([m.errors for m in members], axis=0)
        warn_of_steps(first, errors)
        self.fim_index_to_parameter = first.parameters.fim_index_to_parameter
        self.derivative_errors = errors
        fims = members[0].fims
        if len(members) > 1:
            of_members = zip(*(m.fims for m in members), strict=True)
            fims = [symmetrised(np.mean(several, axis=0)) for several in of_members]
        stacked = zip(*(m.jacobians for m in members), strict=True)
        jacobians = [np.concatenate(rows) / np.sqrt(len(members)) for rows in stacked]
        with jax.enable_x64(True):
            steps = first.steps
        described = {**arguments, "transform": transform_description(first.transform)}
        notes = {
            "fim_index_to_parameter": self.fim_index_to_parameter,
            "derivative": {
                "method": first.method,
                "steps": None if steps is None else steps.tolist(),
                "relative_errors": errors.tolist(),
            },
        }
        return self.recorded(fims, described, notes=notes), jacobians


def _check_size(n_members: int, n_frames: int, n_parameters: int) -> None:
    """Refuse matrices that do not fit into memory; those of all members are held until the mean is taken."""
    held = n_frames * (n_members + (n_members > 1)) + 3
    check_memory(
        "Fisher information",
        8.0 * held * n_parameters**2,
        f"{n_frames} matrices of {n_parameters} x {n_parameters} numbers",
        "take fewer parameters, such as parameters_optimize='last_layer', or fewer configurations at once",
    )


def _models(
    potential: Any,
    asked: Any,
    transform: ParameterTransform | None,
    derivative_kwargs: Mapping[str, Any] | None,
    ensemble: Any,
) -> list[DifferentiatedModel]:
    """The potential with its parameters; several of an ensemble."""
    potentials = list(potential) if isinstance(potential, list | tuple) else [potential]
    if not potentials:
        raise ConfigError("potential is an empty list")
    if ensemble is not None and len(potentials) > 1:
        raise ConfigError("an ensemble is either a list of potentials or an array of parameters, not both")
    parameters = [optimized_parameters(read_potential(p), asked) for p in potentials]
    if ensemble is not None:
        parameters = _at_each(parameters[0], ensemble)
    for i, of_member in enumerate(parameters):
        if of_member.entries != parameters[0].entries:
            raise ConfigError(
                "the members of an ensemble must have the same parameters",
                where=f"potential[{i}]",
                got=f"{len(of_member.entries)}: {', '.join(of_member.names[:9])}",
                expected=f"{len(parameters[0].entries)}: {', '.join(parameters[0].names[:9])}",
            )
    numerical = any(p.chosen.potential.numerical for p in parameters)
    method, step = read_method(derivative_kwargs, numerical=numerical)
    return [DifferentiatedModel(p, transform, method, step).checked() for p in parameters]


def _at_each(parameters: OptimizedParameters, ensemble: Any) -> list[OptimizedParameters]:
    """The same parameters at each of several values."""
    values = np.asarray(load_array(ensemble, "ensemble"), np.float64)
    n = len(parameters.entries)
    if values.ndim != 2 or values.shape[1] != n or not len(values):
        expected = f"(n_members, {n}): the parameters of each member"
        raise DataError("ensemble", got=values.shape, expected=expected)
    check_finite_rows(values, "ensemble")
    chosen = parameters.chosen
    return [
        dataclasses.replace(
            parameters, chosen=dataclasses.replace(chosen, potential=chosen.at(theta)), values=theta
        )
        for theta in values
    ]


def _divided(
    models: list[DifferentiatedModel],
    frames: list[Atoms],
    weights: list[RowWeights],
    jacobian: bool,
    nprocs: int,
    executor: Executor | str | None,
) -> list[list[Information]]:
    """Information of every member for consecutive parts of the configurations."""
    if not isinstance(nprocs, int) or isinstance(nprocs, bool) or nprocs < 1:
        raise ConfigError("nprocs", got=repr(nprocs), expected="a whole number of processes, at least 1")
    if executor is not None and nprocs > 1:
        raise ConfigError("nprocs has no effect on an executor of your own; give one of both")
    n_parts = min(len(frames), nprocs)
    if executor is not None:
        n_parts = min(len(frames), 4 * (getattr(executor, "_max_workers", None) or 4))
    call = partial(_of_part, models, jacobian)
    if n_parts == 1 and executor is None:
        return [call((frames, weights))]
    cuts = np.linspace(0, len(frames), n_parts + 1).round().astype(int)
    # Calculators are of no use to the jobs, and may not be sent to them.
    bare = [atoms.copy() for atoms in frames]
    parts = [(bare[a:b], weights[a:b]) for a, b in pairwise(cuts)]
    if executor is not None and not isinstance(executor, str):
        return map_ordered(executor, call, parts)
    with get_executor(executor or "processes", n_parts if executor is None else None) as pool:
        return map_ordered(pool, call, parts)


def _of_part(
    models: list[DifferentiatedModel], jacobian: bool, part: tuple[list[Atoms], list[RowWeights]]
) -> list[Information]:
    with jax.enable_x64(True):  # a setting of each thread
        return [information(model, *part, jacobian=jacobian) for model in models]


def _joined(parts: list[Information]) -> Information:
    errors = np.max([p.errors for p in parts], axis=0)
    return Information([f for p in parts for f in p.fims], [j for p in parts for j in p.jacobians], errors)
