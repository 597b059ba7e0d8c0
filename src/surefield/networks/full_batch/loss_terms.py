"""The terms of the loss of one batch: sums of weighted squared residuals, maxima, exact gradient.

energy  sum_i w_i wE_i ((E_i - Ê_i)/N_i)^2
force   sum_i w_i sum_a wF_ia |F_ia - F̂_ia|^2 / (3 sum_a wF_ia)
charge  sum_i w_i ((Q_i - Q̂_i)/N_i)^2
stress  sum_i w_i (1/6) sum_k (sigma_ik - ref)^2
Khorshidi and Peterson, Comput. Phys. Commun. 207, 310 (2016).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from surefield.networks.full_batch.criteria import KINDS
from surefield.networks.full_batch.loss_data import LossBatch, LossData
from surefield.networks.full_batch.training_images import Terms
from surefield.potentials.evaluate import composition_energy, evaluate
from surefield.potentials.potential import DescriptorPotential
from surefield.potentials.vector_potential import VectorPotential
from surefield.structures.graph import edge_forces, edge_virials, sum_atoms
from surefield.structures.tensors import to_voigt

__all__ = ["Predictions", "Shard", "Sums", "add_sums", "predictions"]

_N = len(KINDS)


class Predictions(NamedTuple):
    """What the loss compares with labels; None where a term is not there."""

    energy: Float[Array, " n_structures"]
    forces: Float[Array, "n_atoms 3"] | None
    charge: Float[Array, " n_structures"] | None
    stress: Float[Array, "n_structures 6"] | None


class Sums(NamedTuple):
    """Terms of the loss, each in the order energy, force, charge, stress.

    Attributes:
        terms: without their coefficients.
        largest: largest residuals: eV/atom, eV/Å, e/atom, eV/Å^3; 0 without any.
        where: number of the image and of its atom (-1: the image as a whole) of each of them.
        gradient: of the sum of coefficients times terms; None if not asked for.
    """

    terms: Float[np.ndarray, " 4"]
    largest: Float[np.ndarray, " 4"]
    where: tuple[tuple[int, int], ...]
    gradient: Float[np.ndarray, " n_parameters"] | None


def add_sums(parts: Iterable[Sums]) -> Sums:
    """Sums over several batches, maxima of their residuals."""
    total, *others = parts
    for part in others:
        larger = part.largest > total.largest
        gradient = None
        if total.gradient is not None and part.gradient is not None:
            gradient = total.gradient + part.gradient
        total = Sums(
            total.terms + part.terms,
            np.where(larger, part.largest, total.largest),
            tuple(b if take else a for a, b, take in zip(total.where, part.where, larger, strict=True)),
            gradient,
        )
    return total


def predictions(potential: VectorPotential, data: LossData, terms: Terms) -> Predictions:
    """Energies, and what else the loss needs, of a batch (traceable)."""
    predict = _from_graph if data.features is None else _from_features
    return predict(potential, data, terms)


def _from_graph(potential: VectorPotential, data: LossData, terms: Terms) -> Predictions:
    graph = data.graph
    if not (terms.force or terms.stress):
        energies = jnp.where(graph.atom_mask, potential.site_energies(graph), 0.0)
        charges = potential.outputs(graph)["charges"] if terms.charge else None
        return _gathered(potential, data, energies, None, charges, None)
    results = evaluate(potential, graph)
    return Predictions(
        results.energy,
        results.forces.astype(jnp.float64),
        sum_atoms(results.outputs["charges"], graph) if terms.charge else None,
        _voigt_stress(results.virial, data) if terms.stress else None,
    )


def _from_features(potential: VectorPotential, data: LossData, terms: Terms) -> Predictions:
    assert isinstance(potential, DescriptorPotential)
    graph, features = data.graph, data.features
    assert features is not None
    charges = None
    if terms.charge:
        charges = potential.feature_charges(features, graph)  # type: ignore[attr-defined]
    if data.primes is None and data.jacobian is None:
        energies = potential.feature_energies(features, graph)
        return _gathered(potential, data, energies, None, charges, None)

    def total(features: Array, positions: Array) -> tuple[Array, Array]:
        moved = eqx.tree_at(lambda g: g.positions, graph, positions)
        energies = potential.feature_energies(features, moved)
        return jnp.sum(energies), energies

    places = (0, 1) if potential.reads_positions else (0,)
    slopes, energies = jax.grad(total, argnums=places, has_aux=True)(features, graph.positions)
    virial = None
    if data.primes is not None:
        size = data.primes.shape[0]
        forces = -(data.primes @ slopes[0].reshape(size, -1, 1)).reshape(-1, 3)
    else:
        by_vectors = jnp.einsum("nkxg,ng->nkx", data.jacobian, slopes[0])
        forces = edge_forces(by_vectors, graph)
        virial = edge_virials(by_vectors, graph) if terms.stress else None
    if potential.reads_positions:
        forces = forces - slopes[1]
        if virial is not None:
            direct = sum_atoms(jnp.einsum("na,nb->nab", graph.positions, slopes[1]), graph)
            virial = virial + 0.5 * (direct + jnp.swapaxes(direct, -1, -2))
    return _gathered(potential, data, energies, forces, charges, virial)


def _gathered(
    potential: VectorPotential,
    data: LossData,
    energies: Array,
    forces: Array | None,
    charges: Array | None,
    virial: Array | None,
) -> Predictions:
    graph = data.graph
    return Predictions(
        sum_atoms(energies.astype(jnp.float64), graph) + composition_energy(potential, graph),
        None if forces is None else forces.astype(jnp.float64),
        None if charges is None else sum_atoms(charges.astype(jnp.float64), graph),
        None if virial is None else _voigt_stress(virial, data),
    )


def _voigt_stress(virial: Array, data: LossData) -> Float[Array, "n_structures 6"]:
    return to_voigt(virial.astype(jnp.float64) / data.graph.volume[:, None, None])


def _terms(
    potential: VectorPotential, data: LossData, terms: Terms
) -> tuple[Float[Array, " 4"], Float[Array, " 8"]]:
    """Terms of the loss; largest residuals, and where they are."""
    energy, forces, charge, stress = predictions(potential, data, terms)
    n, labels, weights = jnp.maximum(data.graph.n_atoms, 1), data.labels, data.weights
    # A component without a label is NaN.
    known = ~jnp.isnan(labels["stress"]) if terms.stress else jnp.zeros(())
    residuals = (
        ((energy - labels["energy"]) / n, weights["energy"], 1.0) if terms.energy else None,
        (forces - labels["forces"], weights["forces"][:, None], 1.0) if forces is not None else None,
        ((charge + labels["excess_electrons"]) / n, weights["excess_electrons"], 1.0)
        if charge is not None
        else None,
        (stress - labels["stress"], weights["stress"][:, None] * known, 6.0) if stress is not None else None,
    )
    zero = jnp.zeros(())
    sums, largest, where = [], [], []
    for entry in residuals:
        if entry is None:
            for results in (sums, largest, where):
                results.append(zero)
            continue
        residual, weight, divisor = entry
        # Where there is no label a prediction may be anything, even infinite.
        residual = jnp.where(weight > 0, residual, 0.0)
        sums.append(jnp.sum(weight * residual**2) / divisor)
        size = jnp.abs(jax.lax.stop_gradient(residual)).ravel()
        largest.append(jnp.max(size))
        where.append(jnp.argmax(size).astype(jnp.float64))
    return jnp.stack(sums), jnp.stack(largest + where)


def _plain_program(treedef: Any, terms: Terms, gradient: bool) -> Callable[..., Array]:
    """Function (vector, coefficients, arrays of potential and batch) -> all results in one array."""

    def loss(vector: Array, coefficients: Array, leaves: Sequence[Array]) -> tuple[Array, Array]:
        potential, data = jax.tree.unflatten(treedef, leaves)
        sums, largest = _terms(potential.with_vector(vector), data, terms)
        return jnp.dot(coefficients, sums), jnp.concatenate([sums, largest])

    def value(vector: Array, coefficients: Array, leaves: Sequence[Array]) -> Array:
        return loss(vector, coefficients, leaves)[1]

    def value_and_gradient(vector: Array, coefficients: Array, leaves: Sequence[Array]) -> Array:
        slopes, results = jax.grad(loss, has_aux=True)(vector, coefficients, leaves)
        return jnp.concatenate([results, slopes])

    return value_and_gradient if gradient else value


@functools.lru_cache(maxsize=256)
def _program(treedef: Any, terms: Terms, gradient: bool) -> Callable[..., Array]:
    """The same, compiled."""
    return jax.jit(_plain_program(treedef, terms, gradient))


@dataclass(eq=False)
class Shard:
    """Some batches with the potential; sums of the loss over them.

    Attributes:
        potential: of any parameters; the vector of a call takes their place.
        batches: on the device.
        terms: of the loss.
        compiled: once per shape; False evaluates operation by operation, to check against.
    """

    potential: VectorPotential
    batches: Sequence[LossBatch]
    terms: Terms
    compiled: bool = True
    _prepared: list[tuple[Any, list[Array]]] = field(default_factory=list, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        # Programs cannot be sent to other processes; they are made there again.
        return self.__dict__ | {"_prepared": []}

    def sums(
        self,
        vector: Float[np.ndarray, " n_parameters"],
        coefficients: Float[np.ndarray, " 4"],
        gradient: bool,
    ) -> Sums:
        """Sums over the batches of this shard."""
        if not self._prepared:
            # Flattening costs more than a call.
            for batch in self.batches:
                leaves, treedef = jax.tree.flatten((self.potential, batch.data))
                self._prepared.append((treedef, [jnp.asarray(leaf) for leaf in leaves]))
        # All batches are started before the first result is waited for.
        program = _program if self.compiled else _plain_program
        started = [
            program(treedef, self.terms, gradient)(vector, coefficients, leaves)
            for treedef, leaves in self._prepared
        ]
        return add_sums(
            self._unpacked(batch, np.asarray(results))
            for batch, results in zip(self.batches, started, strict=True)
        )

    def _unpacked(self, batch: LossBatch, results: np.ndarray) -> Sums:
        terms, largest, where = results[: 3 * _N].reshape(3, _N)
        gradient = results[3 * _N :]
        places = []
        for kind, place in zip(KINDS, where.astype(int).tolist(), strict=True):
            if kind == "force":
                places.append(batch.image_of_row(place // 3))
            else:
                row = place // 6 if kind == "stress" else place
                places.append((batch.images[min(row, len(batch.images) - 1)], -1))
        return Sums(terms, largest, tuple(places), gradient if gradient.size else None)
