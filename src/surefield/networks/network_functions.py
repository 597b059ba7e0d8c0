"""Element networks atom by atom in plain NumPy: outputs, derivatives and their gradients in closed form.

The plain counterpart of the compiled potentials, for inspection and for checking them. One atom has the
features `afp` (n_features,); `derafp` is their derivative with respect to one coordinate of one atom. The
derivatives follow R. Rojas, Neural Networks (Springer 1996), chapter 7, whose names are kept. Image-centred
models have no elements: `symbol` is then None and `afp` are the 3N coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.networks.raveler import Raveler
from surefield.potentials.network_parameters import CONSTANT, check_activation

__all__ = [
    "atomic_energy",
    "atomic_energy_gradient",
    "calculate_charge_fp",
    "calculate_charge_fpprime",
    "calculate_dOutputs_dInputs",
    "calculate_nodal_outputs",
    "calculate_ohat_D_delta",
    "force",
    "force_gradient",
]

Nodes = dict[int, Float[np.ndarray, " n_nodes"]]
Matrices = dict[int, Float[np.ndarray, "n_rows n_columns"]]


#: Anything with the attributes weights, scalings, fprange and activation; `output_activation` ('linear' or
#: 'activation') may be absent: 'linear'.
NetworkParameters = Any


def calculate_nodal_outputs(parameters: NetworkParameters, afp: ArrayLike, symbol: str | None) -> Nodes:
    """Outputs of all nodes of one atom's network.

    Args:
        parameters: weights, fprange, activation, output_activation of the model.
        afp: features of the atom, (n_features,).
        symbol: its element; None for an image-centred model.

    Returns:
        {0: scaled input, 1..L: hidden layers, L+1: output node}.

    Raises:
        DataError: wrong number of features.
        PotentialError: the model does not know the element.
    """
    weights = _layers(parameters, symbol)
    afp = _features("afp", afp, weights)
    low, scale, varies = _scaling(parameters, symbol, len(afp))
    constant = afp if _bounded(parameters) else 0.0
    outputs = {0: np.where(varies, -1.0 + (afp - low) * scale, constant)}
    for k, weight in weights.items():
        outputs[k] = _act(
            _activation_of(parameters, k, len(weights)), outputs[k - 1] @ weight[:-1] + weight[-1]
        )
    return outputs


def calculate_dOutputs_dInputs(
    parameters: NetworkParameters,
    derafp: ArrayLike,
    outputs: Mapping[int, ArrayLike],
    nsymbol: str | None,
) -> Nodes:
    """Derivatives of all nodes along one direction of the features.

    Args:
        parameters: of the model.
        derafp: derivative of the atom's features with respect to one coordinate, (n_features,).
        outputs: what `calculate_nodal_outputs` returned for this atom.
        nsymbol: element of the atom whose features these are; None for an image-centred model.

    Returns:
        {0: derivative of the scaled input, 1..L+1: derivative of each node}.
    """
    weights = _layers(parameters, nsymbol)
    derafp = _features("derafp", derafp, weights)
    _, scale, varies = _scaling(parameters, nsymbol, len(derafp))
    constant = derafp if _bounded(parameters) else 0.0
    derivatives = {0: np.where(varies, derafp * scale, constant)}
    for k, weight in weights.items():
        first, _ = _slopes(_activation_of(parameters, k, len(weights)), outputs[k])
        derivatives[k] = first * (derivatives[k - 1] @ weight[:-1])
    return derivatives


def calculate_ohat_D_delta(
    parameters: NetworkParameters,
    outputs: Mapping[int, ArrayLike],
    W: Mapping[int, ArrayLike],
) -> tuple[Matrices, Matrices, Matrices]:
    """Quantities of back-propagation, from which do/dW_k = ohat[k-1].T @ delta[k].T, bias row last.

    Args:
        parameters: activation and output_activation of the model.
        outputs: what `calculate_nodal_outputs` returned.
        W: weights of the layers 1..L+1 without their bias rows, (n_in, n_out) each.

    Returns:
        ohat: rows [o_k, 1], (1, n_k + 1), k = 0..L.
        D: diagonal matrices of act'(node), (n_k, n_k), k = 0..L+1; of the input as if it were an activated
            node; 1 for a linear output node.
        delta: columns D_k W_(k+1) delta_(k+1), (n_k, 1), k = 1..L+1, delta_(L+1) = D_(L+1).
    """
    last = len(W)
    values = {k: np.asarray(outputs[k], dtype=np.float64).reshape(-1) for k in range(last + 1)}
    ohat = {k: np.append(values[k], 1.0)[None, :] for k in range(last)}
    D = {k: np.diag(_slopes(_activation_of(parameters, k, last), value)[0]) for k, value in values.items()}
    delta = {last: D[last].copy()}
    for k in range(last - 1, 0, -1):
        delta[k] = D[k] @ np.asarray(W[k + 1], dtype=np.float64) @ delta[k + 1]
    return ohat, D, delta


def atomic_energy(parameters: NetworkParameters, afp: ArrayLike, symbol: str | None = None) -> float:
    """Energy of one atom, slope o + intercept, in eV; of the whole image for an image-centred model."""
    scaling = _scalings(parameters, symbol)
    outputs = calculate_nodal_outputs(parameters, afp, symbol)
    return float(scaling["slope"] * outputs[max(outputs)][0] + scaling["intercept"])


def force(
    parameters: NetworkParameters,
    afp: ArrayLike,
    derafp: ArrayLike,
    symbol: str | None = None,
) -> float:
    """What one atom's energy adds to a force component, -slope do/dx . dx/dR, in eV/Å.

    Args:
        parameters: of the model.
        afp: features of the atom (the centre), (n_features,).
        derafp: their derivative with respect to the coordinate along which the force acts, 1/Å.
        symbol: element of the centre; None for an image-centred model.
    """
    outputs = calculate_nodal_outputs(parameters, afp, symbol)
    derivatives = calculate_dOutputs_dInputs(parameters, derafp, outputs, symbol)
    return float(-_scalings(parameters, symbol)["slope"] * derivatives[max(derivatives)][0])


def atomic_energy_gradient(
    parameters: NetworkParameters, afp: ArrayLike, symbol: str | None = None
) -> Float[np.ndarray, " n_parameters"]:
    """Gradient of `atomic_energy` with respect to the whole parameter vector, in the order of `Raveler`."""
    weights = _layers(parameters, symbol)
    slope = float(_scalings(parameters, symbol)["slope"])
    outputs = calculate_nodal_outputs(parameters, afp, symbol)
    W = {k: weight[:-1] for k, weight in weights.items()}
    ohat, _, delta = calculate_ohat_D_delta(parameters, outputs, W)
    gradient = {k: slope * ohat[k - 1].T @ delta[k].T for k in weights}
    return _whole_vector(parameters, symbol, gradient, 1.0, outputs[len(weights)][0])


def force_gradient(
    parameters: NetworkParameters,
    afp: ArrayLike,
    derafp: ArrayLike,
    symbol: str | None = None,
) -> Float[np.ndarray, " n_parameters"]:
    """Gradient of `force` with respect to the whole parameter vector, in the order of `Raveler`.

    With a_k = [o_(k-1), 1] W_k, o_k = act(a_k), u_k = v_(k-1) W_k and v_k = act'(a_k) u_k, the derivatives of
    v_(L+1) with respect to u_k and a_k are delta_k and gamma_k = act'(a_k) W_(k+1) gamma_(k+1) +
    act''(a_k) u_k W_(k+1) delta_(k+1); then dv/dW_k = [o_(k-1), 1]^T gamma_k^T + [v_(k-1), 0]^T delta_k^T.
    """
    weights = _layers(parameters, symbol)
    slope = float(_scalings(parameters, symbol)["slope"])
    outputs = calculate_nodal_outputs(parameters, afp, symbol)
    derivatives = calculate_dOutputs_dInputs(parameters, derafp, outputs, symbol)
    gradient = {}
    by_output, by_derivative = np.zeros(1), np.ones(1)
    for k in range(len(weights), 0, -1):
        first, second = _slopes(_activation_of(parameters, k, len(weights)), outputs[k])
        along = derivatives[k - 1] @ weights[k][:-1]
        delta = first * by_derivative
        gamma = first * by_output + second * along * by_derivative
        gradient[k] = -slope * (
            np.outer(np.append(outputs[k - 1], 1.0), gamma)
            + np.outer(np.append(derivatives[k - 1], 0.0), delta)
        )
        by_output, by_derivative = weights[k][:-1] @ gamma, weights[k][:-1] @ delta
    return _whole_vector(parameters, symbol, gradient, 0.0, -derivatives[len(weights)][0])


def calculate_charge_fp(
    z_position: ArrayLike,
    image_eta: ArrayLike,
    interface: ArrayLike,
    image_potential: ArrayLike,
) -> Any:
    """Charge fingerprint Phi exp(-eta (z - z0)) at and above the interface, else 0.

    Args:
        z_position: height z of an atom, Å; numbers or arrays, which are broadcast, here and below.
        image_eta: decay eta, 1/Å.
        interface: height z0 of the interface, Å.
        image_potential: electrode potential Phi, V.

    Returns:
        A float for numbers, else an array.

    Source: Chen et al., npj Comput. Mater. 9 (2023), doi 10.1038/s41524-023-01007-6.
    """
    height = np.subtract(z_position, interface, dtype=np.float64)
    # Clipped, so that the exponential of an atom deep in the slab does not overflow.
    decay = np.exp(-np.asarray(image_eta) * np.maximum(height, 0.0))
    values = np.where(height >= 0, np.asarray(image_potential) * decay, 0.0)
    return float(values) if values.ndim == 0 else values


def calculate_charge_fpprime(
    z_position: ArrayLike,
    image_eta: ArrayLike,
    interface: ArrayLike,
    image_potential: ArrayLike,
    convention: str = "exact",
) -> Any:
    """Derivative of the charge fingerprint with respect to z at a fixed interface, V/Å.

    Args:
        z_position: as in `calculate_charge_fp`.
        image_eta: as there.
        interface: as there.
        image_potential: as there.
        convention: 'exact', or 'amp-1.1', which multiplies by z - z0 as release 1.1 of Amp did by mistake.

    Raises:
        ConfigError: unknown convention.
    """
    if convention not in ("exact", "amp-1.1"):
        raise ConfigError("unknown convention", got=repr(convention), expected="'exact' or 'amp-1.1'")
    slopes = -np.asarray(image_eta) * calculate_charge_fp(z_position, image_eta, interface, image_potential)
    if convention == "amp-1.1":
        slopes = slopes * np.subtract(z_position, interface)
    return float(slopes) if np.ndim(slopes) == 0 else slopes


def _bounded(parameters: NetworkParameters) -> bool:
    """Whether the output node carries the activation; constant features then keep their value."""
    kind = getattr(parameters, "output_activation", "linear")
    if kind not in ("linear", "activation"):
        raise ConfigError("unknown output_activation", got=repr(kind), expected="'linear' or 'activation'")
    return kind == "activation"


def _activation_of(parameters: NetworkParameters, layer: int, last: int) -> str:
    if layer == last and not _bounded(parameters):
        return "linear"
    return check_activation(parameters.activation)


def _act(activation: str, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    if activation == "tanh":
        return np.tanh(x)
    # The tanh form of the logistic function cannot overflow.
    return 0.5 * (1.0 + np.tanh(0.5 * x)) if activation == "sigmoid" else x


def _slopes(activation: str, output: ArrayLike) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """First and second derivative of an activation, from its value."""
    o = np.asarray(output, dtype=np.float64)
    if activation == "tanh":
        return 1.0 - o**2, -2.0 * o * (1.0 - o**2)
    if activation == "sigmoid":
        return o * (1.0 - o), o * (1.0 - o) * (1.0 - 2.0 * o)
    return np.ones_like(o), np.zeros_like(o)


def _own(name: str, values: Any, symbol: str | None) -> Any:
    """Entry of an element; everything for an image-centred model."""
    if symbol is None:
        if isinstance(values, Mapping) and not ({1, "slope"} & set(values)):
            fix = "give the element; None is for image-centred models, which have none"
            raise ConfigError("symbol is None", where=name, expected=" or ".join(values), fix=fix)
        return values
    if symbol not in values:
        raise PotentialError(
            "unknown element", where=name, got=symbol, expected=", ".join(sorted(map(str, values)))
        )
    return values[symbol]


def _layers(parameters: NetworkParameters, symbol: str | None) -> Matrices:
    layers = _own("weights", parameters.weights, symbol)
    return {k: np.asarray(layers[k], dtype=np.float64) for k in range(1, len(layers) + 1)}


def _scalings(parameters: NetworkParameters, symbol: str | None) -> Mapping[str, float]:
    return _own("scalings", parameters.scalings, symbol)


def _features(name: str, values: ArrayLike, weights: Matrices) -> Float[np.ndarray, " n_features"]:
    array = np.asarray(values, dtype=np.float64)
    expected = len(weights[1]) - 1
    if array.shape != (expected,):
        raise DataError(f"wrong number of features in {name}", got=array.shape, expected=(expected,))
    return array


def _scaling(
    parameters: NetworkParameters, symbol: str | None, n_features: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower ends, 2/length and whether a feature varies; one pair [low, high] is for all features."""
    ranges = np.asarray(_own("fprange", parameters.fprange, symbol), dtype=np.float64)
    if ranges.shape not in ((2,), (n_features, 2)):
        raise DataError("wrong fprange", got=ranges.shape, expected=f"({n_features}, 2) or one pair (2,)")
    low, high = np.broadcast_to(ranges, (n_features, 2)).T
    varies = high - low > CONSTANT
    return low, 2.0 / np.where(varies, high - low, 1.0), varies


def _whole_vector(
    parameters: NetworkParameters, symbol: str | None, gradient: Matrices, intercept: float, slope: float
) -> Float[np.ndarray, " n_parameters"]:
    """Gradient of one network's parameters among zeros for those of the other elements."""
    own: Any = {"intercept": intercept, "slope": float(slope)}
    weights: Any = gradient
    if symbol is not None:
        zero = {"intercept": 0.0, "slope": 0.0}
        weights = {
            element: gradient if element == symbol else {k: np.zeros(np.shape(w)) for k, w in layers.items()}
            for element, layers in parameters.weights.items()
        }
        own = {element: own if element == symbol else zero for element in parameters.scalings}
    return Raveler(weights, own).to_vector(weights, own)
