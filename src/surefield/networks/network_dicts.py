"""Networks as the dictionaries of the documented interface: weights, scalings and fingerprint ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, explain
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.potentials.image_network import ImageNetwork
from surefield.potentials.network_parameters import Raveler

__all__ = ["fprange_of", "given_range", "weights_and_scalings", "with_dicts", "with_fprange", "with_static"]

Network = AtomicNetwork | ImageNetwork
N = TypeVar("N", bound=Network)


def weights_and_scalings(network: Network) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Weights `{element: {layer: array}}` and scalings `{element: {'intercept', 'slope'}}`, as copies.

    An image-centred network has no element level. Arrays are (n_in + 1, n_out) with the bias last.
    """
    if isinstance(network, ImageNetwork):
        last = np.append(np.asarray(network.readout[0]), np.asarray(network.bias)).reshape(-1, 1)
        scalings = {"intercept": float(network.intercept), "slope": float(network.slope)}
        return _numbered([*network.layers, last]), scalings
    weights, scalings = {}, {}
    for place in sorted(range(len(network.species)), key=lambda i: network.descriptor.symbols[i]):
        symbol, layers = network.descriptor.symbols[place], network.layers[place]
        width = layers[-1].shape[1] if layers else network.descriptor.n_features[place]
        last = np.append(np.asarray(network.readout[place, :width]), np.asarray(network.bias[place]))
        weights[symbol] = _numbered([*layers, last.reshape(-1, 1)])
        scalings[symbol] = {
            "intercept": float(network.offsets[place]),
            "slope": float(network.slopes[place]),
        }
    return weights, scalings


def _numbered(layers: list[Any]) -> dict[int, np.ndarray]:
    return {i: np.array(layer, dtype=np.float64) for i, layer in enumerate(layers, start=1)}


def with_static(network: N, **changes: Any) -> N:
    """Copy with other settings of the same shape, such as `activation` or `keep`."""
    made = type(network).from_config({**network.config(), **changes})
    return jax.tree.unflatten(jax.tree.structure(made), jax.tree.leaves(network))


def with_dicts(network: N, weights: Mapping[Any, Any], scalings: Mapping[Any, Any]) -> N:
    """Copy with other weights and scalings of the same shapes."""
    return network.with_vector(jnp.asarray(Raveler(weights, scalings).to_vector(weights, scalings)))


def fprange_of(network: Network) -> dict[str, np.ndarray] | np.ndarray:
    """Ranges `{element: (n_features, 2)}`, or (3N, 2) of an image-centred network."""
    low, high = np.asarray(network.low, np.float64), np.asarray(network.high, np.float64)
    if isinstance(network, ImageNetwork):
        return np.stack([low, high], axis=1)
    counts = network.descriptor.n_features
    return {
        chemical_symbols[z]: np.stack([low[i, : counts[i]], high[i, : counts[i]]], axis=1)
        for i, z in enumerate(network.species)
    }


def with_fprange(network: N, fprange: Any) -> N:
    """Copy with other ranges; [low, high] may stand for all features of an element."""
    low, high = np.array(network.low, np.float64), np.array(network.high, np.float64)
    if isinstance(network, ImageNetwork):
        found = given_range("fprange", fprange, len(low))
        low, high = found[:, 0], found[:, 1]
    else:
        symbols = network.descriptor.symbols
        if not isinstance(fprange, Mapping) or set(fprange) != set(symbols):
            got = sorted(fprange) if isinstance(fprange, Mapping) else type(fprange).__name__
            raise ConfigError(explain("fprange does not fit the elements", got=got, expected=list(symbols)))
        for place, (symbol, n) in enumerate(zip(symbols, network.descriptor.n_features, strict=True)):
            found = given_range(f"fprange[{symbol!r}]", fprange[symbol], n)
            low[place, :n], high[place, :n] = found[:, 0], found[:, 1]
    values = (jnp.asarray(low, network.low.dtype), jnp.asarray(high, network.high.dtype))
    return eqx.tree_at(lambda p: (p.low, p.high), network, values)


def given_range(name: str, values: ArrayLike, n_features: int) -> Float[np.ndarray, "n_features 2"]:
    """Ranges as an array (n_features, 2); a single [low, high] serves all features."""
    found = np.asarray(values, np.float64)
    if found.shape == (2,):
        found = np.tile(found, (n_features, 1))
    if found.shape != (n_features, 2) or not np.all(found[:, 1] >= found[:, 0]):
        raise ConfigError(
            explain(
                f"{name} must be [low, high], or one such pair for each feature",
                got=f"shape {found.shape}",
                expected=f"({n_features}, 2) with low <= high",
            )
        )
    return found
