"""What trains members: the loss of their deviations, and what a learner supplies to the loop of epochs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from surefield.quantities import quantity
from surefield.uncertainty.architecture import LLPRTraining

__all__ = [
    "Displacements",
    "Learner",
    "Scored",
    "Term",
    "entry_losses",
    "gradient_steps",
    "kinds_of",
    "terms_of",
]

#: Smallest standard deviation that a loss sees, in units of the residuals.
_RELATIVE_FLOOR: Final = 1e-3

Displacements = Float[np.ndarray, "n_members n_features"]


class Term(NamedTuple):
    """One term of the loss: its kind, its weight and the floor of variances."""

    loss: str
    weight: float
    eps: float


class Scored(NamedTuple):
    """All labels of a quantity in one set that count.

    Attributes:
        deviations: of the members from their mean.
        residuals: prediction minus label; of energies in total.
        components: of the quantity, counted through.
        atoms: of the structure.
    """

    deviations: Float[np.ndarray, "n n_members"]
    residuals: Float[np.ndarray, " n"]
    components: Int[np.ndarray, " n"]
    atoms: Int[np.ndarray, " n"]


class Learner(ABC):
    """Parameters that are trained, the data they are trained on, and steps."""

    #: Pytree of arrays at the start.
    start: Any

    @abstractmethod
    def scored(self, parameters: Any, part: int) -> dict[str, Scored]:
        """Deviations and residuals of the set to train on (0) or to choose by (1), by quantity."""

    @abstractmethod
    def prepared(self, terms: Mapping[str, Term], optimizer: optax.GradientTransformation) -> None:
        """Get ready for steps with this loss."""

    @abstractmethod
    def batches(self, epoch: int) -> Sequence[Any]:
        """Batches of an epoch, in an order of the seed and the epoch alone."""

    @abstractmethod
    def step(self, parameters: Any, state: Any, batch: Any, rate: float) -> tuple[Any, Any]:
        """Parameters and state of the optimiser after one step; members stay centred."""


def kinds_of(target: str) -> tuple[str, ...]:
    """Quantities whose labels the members of a target are trained on."""
    return ("energy", "forces", "stress") if target == "energy" else (target,)


def terms_of(training: LLPRTraining, target: str, valid: Mapping[str, Scored]) -> dict[str, Term]:
    """Terms of the loss that have a weight and labels; floors are relative to residuals at the start."""
    term = training.term(target)
    weights = {"forces": term.gradients.positions.weight, "stress": term.gradients.strain.weight}
    terms = {}
    for name, scored in valid.items():
        weight = weights.get(name, term.weight)
        if weight > 0 and len(scored.residuals):
            per = scored.atoms if quantity(name).per_atom else np.ones(len(scored.atoms))
            scale = float(np.sqrt(np.mean((scored.residuals / per) ** 2)) * per.mean())
            terms[name] = Term(term.name, weight, term.eps or (_RELATIVE_FLOOR * scale) ** 2)
    return terms


def gradient_steps(training: LLPRTraining) -> optax.GradientTransformation:
    """Clipped steps of Adam or AdamW with a rate of one."""
    decay = () if training.weight_decay is None else (optax.add_decayed_weights(training.weight_decay),)
    return optax.chain(optax.clip_by_global_norm(training.grad_clip_norm), optax.scale_by_adam(), *decay)


def entry_losses(
    deviations: Float[Array, "n n_members"], residuals: Float[Array, " n"], eps: Array, loss: str
) -> Float[Array, " n"]:
    """Loss of each label; see `ensemble_loss`."""
    n_members = deviations.shape[1]
    if loss == "empirical_crps_ensemble":
        signs = 2.0 * jnp.arange(n_members) - n_members + 1
        pairs = jnp.sort(deviations, axis=1) @ signs.astype(deviations.dtype)
        return jnp.mean(jnp.abs(deviations + residuals[:, None]), axis=1) - pairs / n_members**2
    variance = jnp.maximum(jnp.sum(deviations**2, axis=1) / (n_members - 1), eps)
    if loss == "ensemble_nll":
        return 0.5 * (jnp.log(variance) + residuals**2 / variance)
    s = jnp.sqrt(variance)
    z = residuals / s
    normal = jax.scipy.stats.norm
    return s * (z * (2 * normal.cdf(z) - 1) + 2 * normal.pdf(z) - 1 / jnp.sqrt(jnp.pi))
