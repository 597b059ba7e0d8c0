"""One small network per element as plain arrays: start values, outputs, and their order in a flat vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from surefield.potentials.layers import Taker, last_inputs, scale_inputs, zero_pad
from surefield.potentials.network_parameters import random_layers

__all__ = [
    "Layers",
    "appended",
    "beside",
    "first_weights",
    "hidden_outputs",
    "output_widths",
    "random_networks",
    "scaling_parts",
    "taken_scalings",
    "taken_weights",
    "weight_parts",
]

#: Hidden layers of each element.
Layers = list[list[Float[Array, "n_in_plus_1 n_out"]]]


def random_networks(
    rng: np.random.RandomState,
    order: Sequence[int],
    n_inputs: Sequence[int],
    hidden: Sequence[Sequence[int]],
    dtype: np.dtype,
    n_outputs: int = 1,
) -> tuple[Layers, Float[Array, "n_species n_outputs width"], Float[Array, "n_species n_outputs"]]:
    """Start values: hidden layers, weights of the output nodes padded to one width, and their biases.

    Args:
        rng: stream of the start values.
        order: places of the elements in the order of drawing.
        n_inputs: of each element.
        hidden: widths of the hidden layers of each element.
        dtype: of the arrays.
        n_outputs: output nodes, each drawn as if it were the only one.
    """
    layers: Layers = [[] for _ in n_inputs]
    outputs = [np.zeros((1, n_outputs)) for _ in n_inputs]
    for place in order:
        *own, last = random_layers(rng, n_inputs[place], hidden[place])
        layers[place] = [jnp.asarray(w, dtype) for w in own]
        limit = np.sqrt(6.0 / len(last))
        more = limit * (2 * rng.random_sample((len(last), n_outputs - 1)) - 1)
        outputs[place] = np.concatenate([last, more], axis=1)
    readout = np.zeros((len(outputs), n_outputs, max(len(w) - 1 for w in outputs)))
    for rows, w in zip(readout, outputs, strict=True):
        rows[:, : len(w) - 1] = w[:-1].T
    return layers, jnp.asarray(readout, dtype), jnp.asarray([w[-1] for w in outputs], dtype)


def output_widths(n_inputs: Sequence[int], layers: Layers) -> list[int]:
    """Inputs of the output node of each element."""
    return [own[-1].shape[1] if own else n for n, own in zip(n_inputs, layers, strict=True)]


def beside(
    features: Float[Array, "*n width"], more: Float[Array, "*n n_more"], n: int
) -> Float[Array, "*n n_plus_more"]:
    """The first n features, and more after them."""
    return jnp.concatenate([features[..., :n], more], axis=-1)


def appended(
    features: Float[np.ndarray, "n_species width"],
    more: Float[np.ndarray, "n_species n_more"],
    counts: Sequence[int],
) -> Float[np.ndarray, "n_species width_plus_more"]:
    """Per element: values of the features it has, more values right after them, then the padding."""
    rows = [
        np.concatenate([own[:n], extra, own[n:]])
        for own, extra, n in zip(features, more, counts, strict=True)
    ]
    return np.stack(rows)


def hidden_outputs(
    inputs: Callable[[int], Float[Array, "n_atoms n_in"]],
    layers: Layers,
    index: Int[Array, " n_atoms"],
    low: Float[Array, "n_species width"],
    high: Float[Array, "n_species width"],
    activation: str,
    width: int,
    *,
    keep_constant: bool,
) -> Float[Array, "n_atoms width"]:
    """Output of the last hidden layer of the network of each atom's element, zero-padded to a width.

    Args:
        inputs: of the network of an element, not scaled, for all atoms.
        layers: hidden layers of each element.
        index: element of each atom.
        low: least input over the training set.
        high: largest input.
        activation: of the hidden nodes.
        width: of the result.
        keep_constant: what `scale_inputs` does with inputs that do not vary.
    """
    total = None
    for place, own in enumerate(layers):
        x = inputs(place)
        n = x.shape[1]
        x = scale_inputs(x, low[place, :n], high[place, :n], keep_constant=keep_constant)
        found = zero_pad(last_inputs(x, own, activation), width)
        total = found if total is None else jnp.where((index == place)[:, None], found, total)
    assert total is not None
    return total


def weight_parts(
    order: Sequence[int],
    layers: Layers,
    readout: Float[Array, "n_species width"],
    bias: Float[Array, " n_species"],
    widths: Sequence[int],
) -> list[Float[Array, " n"]]:
    """Weights of each element in an order: layer by layer, row by row, the bias last."""
    parts: list[Array] = []
    for place in order:
        parts += [layer.ravel() for layer in layers[place]]
        parts += [readout[place, : widths[place]], bias[place : place + 1]]
    return parts


def taken_weights(
    take: Taker,
    order: Sequence[int],
    layers: Layers,
    readout: Float[Array, "n_species width"],
    bias: Float[Array, " n_species"],
    widths: Sequence[int],
) -> tuple[Layers, Float[Array, "n_species width"], Float[Array, " n_species"]]:
    """Copies of the arrays of `weight_parts` with values from a vector."""
    layers = list(layers)
    for place in order:
        layers[place] = [take(layer) for layer in layers[place]]
        own = slice(widths[place])
        readout = readout.at[place, own].set(take(readout[place, own]))
        bias = bias.at[place].set(take(bias[place]))
    return layers, readout, bias


def scaling_parts(
    order: Sequence[int], intercepts: Float[Array, " n_species"], slopes: Float[Array, " n_species"]
) -> list[Float[Array, " n"]]:
    """Intercept and slope of each element in an order."""
    return [jnp.stack([intercepts[place], slopes[place]]) for place in order]


def taken_scalings(
    take: Taker,
    order: Sequence[int],
    intercepts: Float[Array, " n_species"],
    slopes: Float[Array, " n_species"],
) -> tuple[Float[Array, " n_species"], Float[Array, " n_species"]]:
    """Copies of the arrays of `scaling_parts` with values from a vector."""
    for place in order:
        intercepts = intercepts.at[place].set(take(intercepts[place]))
        slopes = slopes.at[place].set(take(slopes[place]))
    return intercepts, slopes


def first_weights(
    layers: Layers, readout: Float[Array, "n_species width"], widths: Sequence[int]
) -> list[Float[Array, "n_in n_out"]]:
    """Weights of the first layer of each element, without biases."""
    return [own[0][:-1] if own else readout[place, : widths[place], None] for place, own in enumerate(layers)]
