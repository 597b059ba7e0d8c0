"""Loss and gradient of one set of images: everything that is made once and used at every evaluation."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from surefield.execution.identity import computed, contents, digest
from surefield.execution.in_flight import map_ordered
from surefield.files import json_text
from surefield.networks.full_batch.criteria import KINDS
from surefield.networks.full_batch.loss_data import exact_batch, loss_batches
from surefield.networks.full_batch.loss_terms import Shard, Sums, add_sums
from surefield.networks.full_batch.training_images import Terms, TrainingImage
from surefield.potentials.vector_potential import VectorPotential

__all__ = ["ImageLoss", "criterion_values"]

Vector = Float[np.ndarray, " n_parameters"]


class ImageLoss:
    """The loss of some images as a function of the parameters of a potential.

    Args:
        potential: its vector is replaced in every call.
        images: labelled images.
        terms: of the loss.
        factors: of the terms.
        overfit: factor of the sum of squares of the first-layer weights.
        d: step of numerical gradients; None: exact ones.
        n_shards: how many parts of the images are evaluated side by side.
    """

    def __init__(
        self,
        potential: VectorPotential,
        images: Sequence[TrainingImage],
        terms: Terms,
        factors: Float[np.ndarray, " 4"],
        overfit: float = 0.0,
        d: float | None = None,
        n_shards: int = 1,
    ) -> None:
        self.potential, self.images, self.terms, self.factors = potential, images, terms, factors
        self.overfit, self.d, self.n_shards = overfit, d, n_shards
        self.n_parameters = int(potential.vector.size)
        moved = potential.with_vector(jnp.zeros(self.n_parameters))
        pairs = zip(jax.tree.leaves(potential), jax.tree.leaves(moved), strict=True)
        self._trained = [a is not b for a, b in pairs]
        self._seen = potential
        #: Sums of the weights of each term, to which its root mean square refers.
        self.denominators = np.array(
            [
                sum(image.weights["energy"] for image in images),
                sum(image.weight for image in images if image.weights["forces"].any()),
                sum(image.weights["excess_electrons"] for image in images),
                sum(image.weights["stress"] for image in images),
            ]
        )

    def serves(self, potential: VectorPotential) -> bool:
        """Whether a potential differs from that of this object in its vector only."""
        if potential is self._seen:
            return True
        if jax.tree.structure(potential) != jax.tree.structure(self.potential):
            return False
        pairs = zip(jax.tree.leaves(potential), jax.tree.leaves(self.potential), self._trained, strict=True)
        same = all(trained or a is b or np.array_equal(a, b, equal_nan=True) for a, b, trained in pairs)
        self._seen = potential if same else self._seen
        return same

    def loss(
        self,
        vector: Vector,
        gradient: bool,
        *,
        plain: bool = False,
        server: Executor | None = None,
        n_shards: int = 1,
    ) -> dict[str, Any]:
        """Loss, its gradient (0 if not asked for), its terms and largest residuals.

        Args:
            vector: parameters.
            gradient: whether it is wanted.
            plain: without compilation, padding and stored derivatives.
            server: evaluates shards; None: this object's own workers.
            n_shards: number of shards for the server.
        """

        def sums(vector: Vector, gradient: bool) -> Sums:
            if plain:
                return self._plain_shard.sums(vector, self.factors, gradient)
            shards = self._own_shards if server is None else self._shards(n_shards)
            if len(shards) == 1 and server is None:
                return shards[0].sums(vector, self.factors, gradient)
            work = functools.partial(_shard_sums, vector=vector, factors=self.factors, gradient=gradient)
            return add_sums(map_ordered(self._workers if server is None else server, work, shards))

        total = sums(vector, gradient and self.d is None)
        slopes: Any = 0
        if gradient and self.d is None:
            slopes = np.asarray(total.gradient) + self._penalty_slopes(vector)
        elif gradient:
            slopes = self._central_differences(vector, lambda v: self._value(v, sums(v, False)))
        results: dict[str, Any] = {"loss": self._value(vector, total), "dloss_dparameters": slopes}
        values = criterion_values(total.terms, total.largest, self.denominators)
        for k, kind in enumerate(KINDS):
            results[f"{kind}_loss"] = float(total.terms[k])
            results[f"{kind}_maxresid"] = float(total.largest[k])
            results[f"{kind}_rmse"] = values[f"{kind}_rmse"]
            results[f"{kind}_worst"] = total.where[k]
        return results

    def contents(self) -> dict[str, Any]:
        """Hashes of images with labels and weights, by their parts."""
        return contents(image.parts() for image in self.images)

    def fixed(self) -> dict[str, Any]:
        """All of the potential that is not trained: settings, and numbers that may follow from the images."""
        potential = self.potential
        leaves = zip(jax.tree.leaves(potential), self._trained, strict=True)
        fixed = (np.asarray(leaf) for leaf, trained in leaves if not trained)
        return {
            "settings of the networks": digest(type(potential).__name__, json_text(potential.config())),
            "fixed part of the networks": computed(fixed),
        }

    def older_fingerprint(self) -> dict[str, str]:
        """Hashes of all of the potential that is not trained and of all images, as older files have them."""
        images = hashlib.sha256(b"".join(image.digest() for image in self.images))
        networks = hashlib.sha256(
            (type(self.potential).__name__ + json_text(self.potential.config())).encode()
        )
        for leaf, trained in zip(jax.tree.leaves(self.potential), self._trained, strict=True):
            networks.update(str(np.shape(leaf)).encode() + (b"" if trained else np.asarray(leaf).tobytes()))
        return {"images": images.hexdigest(), "networks": networks.hexdigest()}

    def _value(self, vector: Vector, sums: Sums) -> float:
        """The penalty enters here, once, however many shards there are."""
        penalty = float(np.sum(vector[self._first_layer] ** 2)) if self.overfit else 0.0
        return float(self.factors @ sums.terms) + self.overfit * penalty

    def _penalty_slopes(self, vector: Vector) -> Vector | float:
        return 2 * self.overfit * np.where(self._first_layer, vector, 0.0) if self.overfit else 0.0

    def _central_differences(self, vector: Vector, value: Any) -> Vector:
        assert self.d is not None
        gradient = np.zeros_like(vector)
        for i in range(len(vector)):
            step = np.zeros_like(vector)
            step[i] = self.d
            gradient[i] = (value(vector + step) - value(vector - step)) / (2 * self.d)
        return gradient

    @functools.cached_property
    def _first_layer(self) -> Bool[np.ndarray, " n_parameters"]:
        """Which entries of the vector are first-layer weights, by differentiation."""

        def squares(vector: jax.Array) -> jax.Array:
            layers = self.potential.with_vector(vector).first_layers()
            return sum((jnp.sum(layer.astype(jnp.float64) ** 2) for layer in layers), jnp.zeros(()))

        return np.asarray(jax.grad(squares)(jnp.ones(self.n_parameters))) > 0

    @functools.cached_property
    def _plain_shard(self) -> Shard:
        """Images one by one without padding; only features and their derivatives are compiled."""
        images = enumerate(self.images)
        batches = [exact_batch(number, image, self.potential, self.terms) for number, image in images]
        return Shard(self.potential, batches, self.terms, compiled=False)

    @functools.cached_property
    def _own_shards(self) -> list[Shard]:
        return self._shards(self.n_shards)

    def _shards(self, count: int) -> list[Shard]:
        shards = []
        for part in np.array_split(np.arange(len(self.images)), min(count, len(self.images))):
            chosen = [self.images[i] for i in part]
            batches = loss_batches(chosen, self.potential, self.terms, part.tolist())
            shards.append(Shard(self.potential, batches, self.terms))
        return shards

    @functools.cached_property
    def _workers(self) -> Executor:
        return ThreadPoolExecutor(self.n_shards)


def criterion_values(
    terms: Sequence[float] | np.ndarray, largest: Sequence[float] | np.ndarray, denominators: np.ndarray
) -> dict[str, float | None]:
    """Root mean squares and largest residuals; None where no image has such a label."""
    values: dict[str, float | None] = {}
    for kind, term, residual, denominator in zip(KINDS, terms, largest, denominators, strict=True):
        there = denominator > 0
        values[f"{kind}_rmse"] = float(np.sqrt(term / denominator)) if there else None
        values[f"{kind}_maxresid"] = float(residual) if there else None
    return values


def _shard_sums(shard: Shard, vector: Vector, factors: Float[np.ndarray, " 4"], gradient: bool) -> Sums:
    """Importable, so that worker processes find it."""
    return shard.sums(vector, factors, gradient)
