"""A trained potential goes on: element offsets found anew, the last layer solved around the one it has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase.data import atomic_numbers

from surefield.errors import ConfigError
from surefield.potentials.evaluate import predict
from surefield.potentials.learned_part import learned_part
from surefield.potentials.potential import (
    HasPotential,
    LastLayerPotential,
    Potential,
    TrainingData,
    as_potential,
)
from surefield.potentials.saving import load_potential
from surefield.structures.labels import Labels
from surefield.structures.offsets import energy_offsets
from surefield.training.checkpoint import PartialSums
from surefield.training.dataset import AT_ONCE, Sample
from surefield.training.growth import grafted
from surefield.training.loss import LossWeights, residuals
from surefield.training.readout import Solution, solve_readout

__all__ = ["check_body", "continued", "solve_around", "starting_potential", "with_fitted_offsets"]

_log = logging.getLogger(__name__)

#: Strengths that are tried: up to those that leave a last layer as it is, where there are few labels.
RIDGES: Final = tuple(float(x) for x in np.logspace(-8, 2, 15))


def starting_potential(given: HasPotential | str | Path) -> Potential:
    """A trained potential to go on from: itself, what holds it, or its file.

    Raises:
        PotentialError: a file that holds no potential.
    """
    return load_potential(given) if isinstance(given, str | Path) else as_potential(given)


def check_body(potential: Potential) -> None:
    """Raise `ConfigError` if a potential has no last layer that could be trained alone."""
    learned = learned_part(potential)
    if not isinstance(learned, LastLayerPotential):
        kind = type(learned).__name__
        raise ConfigError(f"train_body=False trains the last layer alone, and {kind} has no linear one")


def continued(
    start: Potential,
    potential: Potential,
    samples: Sequence[Sample],
    isolated_atoms: Mapping[str | int, float],
) -> Potential:
    """A trained potential with the element offsets of new labels, before anything else is fitted.

    Offsets of elements with a free atom are its energy; then the energies per atom of all elements that occur
    change by what fits the residuals best, in the least squares: other labels have another zero of energy.
    A last layer that can be solved for and predicts forces worse than zeros do is not kept: an exact solution
    may be wild on other structures.

    Args:
        start: what was trained.
        potential: the same, grown by the elements that only the samples have.
        samples: labelled; offsets of elements that they lack stay.
        isolated_atoms: energies of free atoms, eV.
    """
    structures = [sample.structure for sample in samples]
    energies = [sample.labels.energy for sample in samples]
    offsets = dict(zip(potential.species, np.asarray(potential.offsets).tolist(), strict=True))
    free = {atomic_numbers[z] if isinstance(z, str) else z: e for z, e in isolated_atoms.items()}
    offsets |= {z: energy for z, energy in free.items() if z in offsets}
    prepared = potential.prepared(TrainingData(structures, energies, offsets))
    # What is taken from the data belongs to the weights of the elements that these were trained for.
    prepared = grafted(start, prepared, but=("offsets",))
    rest = without_predictions(prepared, samples)
    if isinstance(prepared, LastLayerPotential) and prepared.n_solvable and _worse_than_none(samples, rest):
        layer = (jnp.zeros_like(prepared.readout), jnp.zeros_like(prepared.bias))
        prepared = eqx.tree_at(lambda p: (p.readout, p.bias), prepared, layer)
        rest = without_predictions(prepared, samples)
    known = [s for s in rest if s.labels.energy is not None]
    left = [s.labels.energy for s in known]
    values = jnp.asarray([offsets[z] for z in prepared.species], jnp.float64)
    if "offsets" in vars(prepared):
        prepared = eqx.tree_at(lambda p: p.offsets, prepared, values)
    return _shifted(prepared, [s.structure.numbers for s in known], left)


def with_fitted_offsets(potential: Potential, samples: Sequence[Sample]) -> Potential:
    """Copy whose element offsets change by what fits the energies that are left best, in the least squares.

    Gradient steps and their average leave energies that all err to one side by a fraction of a meV per atom,
    which nothing in the last steps is large enough to mend.
    """
    left = residuals(potential, samples).values["energy"]
    known = [i for i, value in enumerate(left) if np.isfinite(value)]
    numbers = [samples[i].structure.numbers for i in known]
    return _shifted(potential, numbers, [-float(left[i]) * samples[i].n_atoms for i in known])


def _shifted(potential: Potential, numbers: Sequence[np.ndarray], energies: Sequence[float]) -> Potential:
    """Copy with element offsets that change by what fits energies best; not of its own zero of energy."""
    if "offsets" not in vars(potential) or not len(energies):
        return potential
    changes = energy_offsets(numbers, energies)
    values = [
        float(offset) + changes.get(z, 0.0)
        for z, offset in zip(potential.species, np.asarray(potential.offsets, np.float64), strict=True)
    ]
    return eqx.tree_at(lambda p: p.offsets, potential, jnp.asarray(values, jnp.float64))


def solve_around(
    start: LastLayerPotential,
    train: Sequence[Sample],
    validation: Sequence[Sample],
    weights: LossWeights,
    *,
    all_columns: bool,
    max_force_rows: int = 60_000,
    progress: Callable[[], None] = lambda: None,
    sums: Callable[[str], PartialSums] = lambda part: PartialSums(None, {}),
) -> tuple[LastLayerPotential, Solution]:
    """`solve_readout` of what a trained potential leaves: its last layer changes as little as it must.

    Args:
        start: a trained potential.
        train, validation, weights, max_force_rows, progress, sums: as there.
        all_columns: of the last layer, not only those of the linear part.
    """
    n_labels = sum(int(np.sum(s.component_weights(k) > 0)) for s in train for k in weights if k in s.labels)
    if n_labels < start.n_features:
        _log.warning(
            "%d labels for %d weights of the last layer: at least %d combinations of them are undetermined, "
            "and stay as they were",
            n_labels,
            start.n_features,
            start.n_features - n_labels,
        )
    change, solution = solve_readout(
        start,
        _left(start, train),
        _left(start, validation),
        weights,
        all_columns=all_columns,
        ridges=RIDGES,
        tolerated=0.0,
        max_force_rows=max_force_rows,
        progress=progress,
        sums=sums,
    )
    layer = (start.readout + change.readout, start.bias + change.bias)
    return eqx.tree_at(lambda p: (p.readout, p.bias), start, layer), solution


def _worse_than_none(samples: Sequence[Sample], residuals: Sequence[Sample]) -> bool:
    """Whether predicted forces are further from their labels than zeros."""
    pairs = [
        (np.nansum(np.square(s.labels.forces)), np.nansum(np.square(r.labels.forces)))
        for s, r in zip(samples, residuals, strict=True)
        if s.labels.forces is not None and r.labels.forces is not None
    ]
    labels, left = np.sum(np.array(pairs), axis=0) if pairs else (0.0, 0.0)
    return bool(left > labels)


def without_predictions(potential: Potential, samples: Sequence[Sample]) -> list[Sample]:
    """Copies of samples whose labels are what a potential leaves of them."""
    copies = []
    for begin in range(0, len(samples), AT_ONCE):
        block = samples[begin : begin + AT_ONCE]
        stress = any("stress" in sample.labels for sample in block)
        frames, structures = [s.atoms for s in block], [s.structure for s in block]
        predictions = predict(potential, frames, stress=stress, neighborhoods=structures)
        for sample, p in zip(block, predictions, strict=True):
            labels = {name: label - p[name] for name, label in sample.labels.results().items() if name in p}
            copies.append(replace(sample, labels=Labels(**labels)))
    return copies


def _left(potential: LastLayerPotential, samples: Sequence[Sample]) -> list[Sample]:
    """`without_predictions`, plus the constant energy, which the exact solution takes away."""
    copies = []
    for sample in without_predictions(potential, samples):
        label, constant = sample.labels.energy, potential.constant_energy(sample.structure.numbers)
        labels = sample.labels if label is None else sample.labels.replace(energy=label + constant)
        copies.append(replace(sample, labels=labels))
    return copies
