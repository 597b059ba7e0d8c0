"""Networks as the dictionaries of the documented interface: weights, scalings and fingerprint ranges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from surefield.errors import ConfigError
from surefield.networks.raveler import Raveler
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.potentials.electrode.charge_network import ChargeNetwork
from surefield.potentials.element_networks import ElementNetworks
from surefield.potentials.image_network import ImageNetwork

__all__ = ["fprange_of", "network_dicts", "with_dicts", "with_fprange", "with_static"]

Network = AtomicNetwork | ImageNetwork | ChargeNetwork
N = TypeVar("N", bound=Network)


def network_dicts(network: Network) -> dict[str, Any]:
    """All parameters as copies, by the names and in the order of the arguments of `Raveler`.

    Weights are `{element: {layer: array}}`, arrays (n_in + 1, n_out) with the bias last; scalings `{element:
    {'intercept', 'slope'}}`. An image-centred network has no element level.
    """
    if isinstance(network, ImageNetwork):
        scalings = {"intercept": float(network.intercept), "slope": float(network.slope)}
        return {"weights": _numbered(network.networks[0], 0), "scalings": scalings}
    symbols = network.descriptor.symbols
    places = {symbol: symbols.index(symbol) for symbol in sorted(symbols)}

    def weights(networks: ElementNetworks) -> dict[str, Any]:
        return {symbol: _numbered(networks, place) for symbol, place in places.items()}

    def numbers(values: Array) -> dict[str, float]:
        return {symbol: float(values[place]) for symbol, place in places.items()}

    def scalings_of(intercepts: Array, slopes: Array) -> dict[str, dict[str, float]]:
        low, slope = numbers(intercepts), numbers(slopes)
        return {symbol: {"intercept": low[symbol], "slope": slope[symbol]} for symbol in places}

    if isinstance(network, AtomicNetwork):
        scalings = scalings_of(network.offsets, network.slopes)
        return {"weights": weights(network.networks[0]), "scalings": scalings}
    chi, q = network.networks
    return {
        "weights": weights(chi),
        "scalings": scalings_of(network.intercepts, network.slopes),
        "charge_weights": weights(q),
        "charge_scalings": scalings_of(network.charge_intercepts, network.charge_slopes),
        "Ei": numbers(network.offsets),
        "Jii": numbers(network.hardness),
    }


def _numbered(networks: ElementNetworks, place: int) -> dict[int, np.ndarray]:
    return dict(enumerate(networks.matrices(place), start=1))


def with_static(network: N, **changes: Any) -> N:
    """Copy with other settings of the same shape, such as `activation` or `keep`."""
    other = type(network).from_config({**network.config(), **changes})
    return jax.tree.unflatten(jax.tree.structure(other), jax.tree.leaves(network))


def with_dicts(network: N, **changes: Any) -> N:
    """Copy with other weights, scalings, ... of the same shapes; see `network_dicts`."""
    known = network_dicts(network)
    vector = Raveler(**known).to_vector(**{**known, **changes})
    return network.with_vector(jnp.asarray(vector))


_RANGES: Final[Mapping[str, Callable[[Any], tuple[Array, Array]]]] = {
    "fprange": lambda network: (network.low, network.high),
    "charge_fprange": lambda network: (network.charge_low, network.charge_high),
}


def _counts(network: Network, name: str) -> list[int]:
    """Inputs of each element that ranges are of."""
    return list(network.networks[list(_RANGES).index(name)].n_inputs)


def fprange_of(network: Network, name: str = "fprange") -> dict[str, np.ndarray] | np.ndarray:
    """Ranges `{element: (n_features, 2)}`, or (3N, 2) of an image-centred network.

    Args:
        network: potential.
        name: 'fprange', or 'charge_fprange' of [features, charge fingerprints].
    """
    ranges = np.stack([np.asarray(ends, np.float64) for ends in _RANGES[name](network)], axis=-1)
    if isinstance(network, ImageNetwork):
        return ranges
    pairs = zip(network.descriptor.symbols, _counts(network, name), strict=True)
    return {symbol: ranges[place, :n] for place, (symbol, n) in enumerate(pairs)}


def with_fprange(network: N, fprange: Any, name: str = "fprange") -> N:
    """Copy with other ranges; [low, high] may stand for all features of an element."""
    known = _RANGES[name](network)
    counts = _counts(network, name)
    low, high = (np.array(ends, np.float64).reshape(len(counts), -1) for ends in known)
    if isinstance(network, ImageNetwork):
        ranges = {name: fprange}
    else:
        symbols = network.descriptor.symbols
        if not isinstance(fprange, Mapping) or set(fprange) != set(symbols):
            got = sorted(fprange) if isinstance(fprange, Mapping) else type(fprange).__name__
            raise ConfigError(f"{name} does not fit the elements", got=got, expected=list(symbols))
        ranges = {f"{name}[{symbol!r}]": fprange[symbol] for symbol in symbols}
    for place, (n, (where, values)) in enumerate(zip(counts, ranges.items(), strict=True)):
        low[place, :n], high[place, :n] = _checked_range(where, values, n).T
    new = [jnp.asarray(v.reshape(k.shape), k.dtype) for v, k in zip((low, high), known, strict=True)]
    return eqx.tree_at(_RANGES[name], network, new)


def _checked_range(name: str, values: ArrayLike, n_features: int) -> Float[np.ndarray, "n_features 2"]:
    """Ranges as an array (n_features, 2); a single [low, high] serves all features."""
    ranges = np.asarray(values, np.float64)
    if ranges.shape == (2,):
        ranges = np.tile(ranges, (n_features, 1))
    if ranges.shape != (n_features, 2) or not np.all(ranges[:, 1] >= ranges[:, 0]):
        raise ConfigError(
            f"{name} must be [low, high], or one such pair for each feature",
            got=f"shape {ranges.shape}",
            expected=f"({n_features}, 2) with low <= high",
        )
    return ranges
