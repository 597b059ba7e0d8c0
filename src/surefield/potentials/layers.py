"""Fully connected layers of the symmetry-function networks: scaling of inputs, activations, hidden layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from surefield.potentials.config import Activation
from surefield.potentials.network_parameters import CONSTANT

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "excess",
    "last_inputs",
    "output_slope",
    "scale_inputs",
    "zero_pad",
]

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "linear": lambda x: x,
}


def scale_inputs(
    features: Float[Array, "*n width"],
    low: Float[Array, "*n width"],
    high: Float[Array, "*n width"],
    *,
    keep_constant: bool,
) -> Float[Array, "*n width"]:
    """Map [low, high] to [-1, 1]; constant features become 0, or keep their value."""
    varies = high - low > CONSTANT
    scaled = -1 + 2 * (features - low) / jnp.where(varies, high - low, 1.0)
    return jnp.where(varies, scaled, features if keep_constant else 0.0)


def excess(
    features: Float[Array, "n width"],
    low: Float[Array, "n width"],
    high: Float[Array, "n width"],
    used: Bool[Array, "n width"],
) -> Float[Array, "n width"]:
    """Distance of features from [low, high] in units of its length; of constant ones the plain distance."""
    length = high - low
    distance = jnp.maximum(0.0, jnp.maximum(low - features, features - high))
    constant = jnp.where(distance > CONSTANT, distance, 0.0)
    return jnp.where(
        used, jnp.where(length > CONSTANT, distance / jnp.maximum(length, CONSTANT), constant), 0.0
    )


def last_inputs(
    x: Float[Array, "n n_in"], layers: Sequence[Float[Array, "n_in_plus_1 n_out"]], activation: str
) -> Float[Array, "n n_out"]:
    """Output of the hidden layers, o_l = act([o_(l-1), 1] W_l); the input itself without any."""
    act = ACTIVATIONS[activation]
    for layer in layers:
        x = act(x @ layer[:-1] + layer[-1])
    return x


def zero_pad(x: Float[Array, "n few"], width: int) -> Float[Array, "n width"]:
    """Append columns of zeros."""
    return jnp.pad(x, ((0, 0), (0, width - x.shape[1])))


def output_slope(activation: str, node: Float[Array, " n"]) -> Float[Array, " n"]:
    """Derivative of an activation."""
    if activation == "tanh":
        return 1 - jnp.tanh(node) ** 2
    out = ACTIVATIONS[activation](node)
    return out * (1 - out) if activation == "sigmoid" else jnp.ones_like(node)
