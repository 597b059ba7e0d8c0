"""Every derivative of a model against central differences, for users who want to see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from surefield.potentials.evaluate import check_frames, evaluate
from surefield.potentials.potential import HasPotential, Potential, as_potential, trainable
from surefield.potentials.vector_potential import VectorPotential
from surefield.structures.graph import collate
from surefield.structures.tensors import VOIGT
from surefield.testing.frames import strained

__all__ = ["GradientCheck", "check_gradients"]

#: Parameters that are moved at most; they are spread evenly over all.
_MOST_PARAMETERS = 200


@dataclass(frozen=True)
class GradientCheck:
    """Largest difference between a derivative and central differences, one row per block.

    Attributes:
        block: which derivative.
        difference: largest absolute difference.
        scale: largest absolute value of the derivative.
        where: component with the largest difference.
    """

    block: str
    difference: float
    scale: float
    where: str

    @property
    def relative(self) -> float:
        """Difference relative to the largest value."""
        return self.difference / self.scale if self.scale > 0 else self.difference

    def __str__(self) -> str:
        return f"{self.block:<40s} {self.difference:10.2e} {self.relative:10.2e}   {self.where}"


def check_gradients(
    model: Potential | HasPotential, images: Sequence[Atoms], d: float = 1e-5
) -> list[GradientCheck]:
    """Compare all derivatives of a model with central differences, and print the worst of each block.

    Blocks are forces (by positions), stress (by strain), parameter gradients of energy and forces, and for
    models of an electrode the excess electrons (by its potential). Everything is evaluated in float64.

    Args:
        model: a potential, or a handle such as `NeuralNetwork`.
        images: structures; a few small ones tell as much as many.
        d: displacement, in Å, of the strain, in units of the parameters, in V.

    Returns:
        One row per block, worst image first in it.
    """
    potential = as_potential(model)
    check_frames(potential, images)
    precise = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float64) if eqx.is_inexact_array(leaf) else leaf, potential
    )
    worst: dict[str, GradientCheck] = {}
    for index, atoms in enumerate(images):
        for row in _image_rows(precise, atoms, d):
            named = GradientCheck(row.block, row.difference, row.scale, f"image {index}, {row.where}")
            known = worst.get(row.block)
            if known is None or named.relative > known.relative:
                worst[row.block] = named
    print(f"{'derivative':<40s} {'difference':>10s} {'relative':>10s}   worst")
    for row in worst.values():
        print(row)
    return list(worst.values())


def _image_rows(potential: Potential, atoms: Atoms, d: float) -> list[GradientCheck]:
    def slopes(moved: Callable[[float], list[Atoms]]) -> Float[np.ndarray, " n"]:
        up, down = (np.array([p.energy for p in potential.predict(moved(s))]) for s in (d, -d))
        return (up - down) / (2 * d)

    (prediction,) = potential.predict([atoms])
    assert prediction.forces is not None
    places = [(a, x) for a in range(len(atoms)) for x in range(3)]
    names = [f"atom {a} {'xyz'[x]}" for a, x in places]
    values = slopes(lambda s: [_displaced(atoms, *place, s) for place in places])
    rows = [_compare("forces by positions, eV/Å", -prediction.forces.ravel(), values, names)]
    if prediction.stress is not None:
        values = slopes(lambda s: [strained(atoms, k, s) for k in range(6)]) / atoms.get_volume()
        rows.append(_compare("stress by strain, eV/Å^3", prediction.stress, values, VOIGT))
    if prediction.excess_electrons is not None:
        phi, electrons = float(prediction.electrode_potential or 0.0), np.array([prediction.excess_electrons])
        values = slopes(lambda s: [_at_potential(atoms, phi + s)])
        rows.append(_compare("electrons by potential, e", electrons, values, ["N_e"]))
    return [*rows, *_parameter_rows(potential, atoms, d)]


def _parameter_rows(potential: Potential, atoms: Atoms, d: float) -> list[GradientCheck]:
    graph = collate([potential.neighborhood(atoms)], dtype=np.float64)
    rebuild, vector = _flat(potential)
    weights = np.random.default_rng(0).normal(size=(graph.positions.shape[0], 3))
    chosen = np.unique(np.linspace(0, len(vector) - 1, min(len(vector), _MOST_PARAMETERS)).astype(int))
    steps = d * jax.nn.one_hot(chosen, len(vector), dtype=vector.dtype)
    functions: dict[str, Callable[[jax.Array], jax.Array]] = {
        "energy by parameters": lambda v: evaluate(rebuild(v), graph).energy[0],
        "forces (weighted) by parameters": lambda v: jnp.sum(weights * evaluate(rebuild(v), graph).forces),
    }
    rows = []
    for block, function in functions.items():
        gradient, up, down = jax.jit(
            lambda v, f=function: (
                jax.grad(f)(v),
                *jnp.split(jax.lax.map(f, jnp.concatenate([v + steps, v - steps])), 2),
            )
        )(vector)
        values = np.asarray(up - down) / (2 * d)
        rows.append(_compare(block, np.asarray(gradient)[chosen], values, [f"parameter {i}" for i in chosen]))
    return rows


def _flat(potential: Potential) -> tuple[Callable[[jax.Array], Potential], jax.Array]:
    if isinstance(potential, VectorPotential):
        return potential.with_vector, potential.vector
    moving, fixed = eqx.partition(potential, trainable(potential))
    vector, unravel = ravel_pytree(moving)
    return (lambda v: eqx.combine(unravel(v), fixed)), vector


def _compare(
    block: str,
    values: Float[np.ndarray, " n"],
    slopes: Float[np.ndarray, " n"],
    names: Sequence[str],
) -> GradientCheck:
    difference = np.abs(values - slopes)
    worst = int(difference.argmax())
    return GradientCheck(block, float(difference[worst]), float(np.abs(values).max()), names[worst])


def _displaced(atoms: Atoms, atom: int, axis: int, amount: float) -> Atoms:
    moved = atoms.copy()
    moved.positions[atom, axis] += amount
    return moved


def _at_potential(atoms: Atoms, phi: float) -> Atoms:
    moved = atoms.copy()
    moved.info["electrode_potential"] = phi
    return moved
