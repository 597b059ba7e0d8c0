"""Start values of element networks: sizes of layers, weights, scalings; and checks of those that are given.

Everything is float64 NumPy. One network is `weights = {1: array, 2: array, ...}`, each (n_in + 1, n_out) with
the bias in the last row, and `scalings = {'intercept': eV, 'slope': eV}`. Atom-centred models have one per
element, `{'Cu': ..., 'Pt': ...}`; an image-centred model has one without the element level. After Khorshidi
and Peterson, Comput. Phys. Commun. 207, 310 (2016).
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from jaxtyping import Float

from surefield.errors import ConfigError, DataError

__all__ = [
    "ACTIVATION_NAMES",
    "check_activation",
    "check_elements_of",
    "check_weights",
    "float_array",
    "get_initial_scalings",
    "get_random_weights",
    "hidden_layers",
    "hidden_sizes",
    "image_energies",
    "random_layers",
]

ACTIVATION_NAMES = ("tanh", "sigmoid", "linear")
Images = Mapping[str, Atoms] | Sequence[Atoms]
#: A feature whose range over the training images is smaller than this is constant.
CONSTANT = 1e-8
Layers = dict[int, Float[np.ndarray, "n_in_plus_1 n_out"]]
Sizes = int | Sequence[int]


def check_activation(activation: str) -> str:
    """Return the name of an activation.

    Raises:
        ConfigError: it is none of the three.
    """
    if activation not in ACTIVATION_NAMES:
        raise ConfigError(
            "unknown activation", got=repr(activation), expected="'tanh', 'sigmoid' or 'linear'"
        )
    return activation


def hidden_sizes(hiddenlayers: Sizes, where: str = "hiddenlayers") -> tuple[int, ...]:
    """Numbers of nodes of one network's hidden layers; `()` for a linear model.

    Args:
        hiddenlayers: sequence of positive integers, or one for a single layer.
        where: what the error message names.

    Raises:
        ConfigError: not integers, or not positive.
    """
    expected = "positive integers, one per hidden layer, as in (5, 5)"
    try:
        if isinstance(hiddenlayers, Mapping | str | bytes):
            raise TypeError
        one = np.ndim(hiddenlayers) == 0  # type: ignore[arg-type]
        sizes = tuple(operator.index(n) for n in ([hiddenlayers] if one else hiddenlayers))  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise ConfigError("unusable layers", where=where, got=hiddenlayers, expected=expected) from None
    if min(sizes, default=1) < 1:
        raise ConfigError("a layer without nodes", where=where, got=sizes, expected=expected)
    return sizes


def hidden_layers(
    hiddenlayers: Sizes | Mapping[str, Sizes], elements: Iterable[str]
) -> dict[str, tuple[int, ...]]:
    """Give every element its hidden layers.

    Args:
        hiddenlayers: the same sequence (or integer: one layer) for all elements, or a dict of them; depths
            may differ, `()` is a linear model.
        elements: symbols of the model.

    Returns:
        Element to numbers of nodes, elements sorted.

    Raises:
        ConfigError: an element is missing or not one of the model's, or a size is not a positive integer.
    """
    names = sorted(set(elements))
    if not isinstance(hiddenlayers, Mapping):
        return dict.fromkeys(names, hidden_sizes(hiddenlayers))
    check_elements_of("hiddenlayers", hiddenlayers, names)
    return {name: hidden_sizes(hiddenlayers[name], f"hiddenlayers[{name!r}]") for name in names}


def random_layers(
    rng: np.random.RandomState, n_inputs: int, sizes: Sequence[int]
) -> list[Float[np.ndarray, "n_in_plus_1 n_out"]]:
    """Draw one network: each layer U(-eps, eps), eps = sqrt(6/(n_in + n_out)), bias row included.

    The variance is that of Glorot and Bengio, AISTATS 2010.
    """
    nodes = [n_inputs, *sizes, 1]
    layers = []
    for n_in, n_out in itertools.pairwise(nodes):
        width = 2.0 * np.sqrt(6.0 / (n_in + n_out))
        layers.append(rng.random_sample((n_in + 1, n_out)) * width - width / 2.0)
    return layers


def get_random_weights(
    hiddenlayers: Sizes | Mapping[str, Sizes],
    activation: str,
    len_of_fps: int | Mapping[str, int] | None = None,
    no_of_atoms: int | None = None,
    seed: int | None = None,
) -> dict[Any, Any]:
    """Draw start weights from NumPy's legacy stream: elements sorted, then layers in order.

    Args:
        hiddenlayers: atom-centred: element to layers (or one sequence for all the elements of `len_of_fps`);
            image-centred: one sequence.
        activation: 'tanh', 'sigmoid' or 'linear'; all three start from the same range.
        len_of_fps: number of features of an atom, one for all elements or one per element.
        no_of_atoms: number of atoms N of an image-centred model, whose network has 3N inputs.
        seed: of `numpy.random.RandomState`; None takes fresh entropy.

    Returns:
        Element to {layer from 1: (n_in + 1, n_out)}; image-centred without the element level.

    Raises:
        ConfigError: not exactly one of `len_of_fps` and `no_of_atoms`, or a wrong argument.
    """
    check_activation(activation)
    if (len_of_fps is None) == (no_of_atoms is None):
        got = "neither" if len_of_fps is None else "both"
        fix = "len_of_fps is for atom-centred networks, no_of_atoms for image-centred ones"
        raise ConfigError("number of inputs unclear", got=got, expected="len_of_fps or no_of_atoms", fix=fix)
    rng = np.random.RandomState(seed)
    if no_of_atoms is not None:
        return _numbered(random_layers(rng, 3 * no_of_atoms, hidden_sizes(hiddenlayers)))  # type: ignore[arg-type]
    per_element = next((d for d in (hiddenlayers, len_of_fps) if isinstance(d, Mapping)), None)
    if per_element is None:
        fix = "give hiddenlayers or len_of_fps as a dict of elements"
        raise ConfigError("the elements are unknown", got=f"hiddenlayers={hiddenlayers!r}", fix=fix)
    layers = hidden_layers(hiddenlayers, per_element)
    widths = _per_element("len_of_fps", len_of_fps, list(layers))
    return {
        element: _numbered(random_layers(rng, widths[element], sizes)) for element, sizes in layers.items()
    }


def _numbered(layers: Sequence[np.ndarray]) -> Layers:
    return dict(enumerate(layers, start=1))


def _per_element(name: str, value: Any, elements: Sequence[str]) -> dict[str, int]:
    if not isinstance(value, Mapping):
        return dict.fromkeys(elements, int(value))
    check_elements_of(name, value, elements)
    return {element: int(value[element]) for element in elements}


def check_elements_of(name: str, entries: Any, elements: Iterable[str]) -> None:
    """Raise `ConfigError` unless a dictionary has an entry for each of the elements and no other."""
    present, wanted = set(entries) if isinstance(entries, Mapping) else set(), set(elements)
    if present != wanted:
        groups = {"missing": sorted(wanted - present), "too many": sorted(map(str, present - wanted))}
        got = " and ".join(f"{', '.join(names)} {what}" for what, names in groups.items() if names)
        expected = f"an entry for each of {', '.join(sorted(wanted)) or 'no element'}"
        raise ConfigError(f"{name} does not fit the elements", got=got, expected=expected)


def check_weights(
    weights: Mapping[Any, Any],
    hiddenlayers: Sequence[int] | Mapping[str, Sequence[int]],
    n_inputs: int | Mapping[str, int],
) -> dict[Any, Any]:
    """Check given weights against the sizes of the networks.

    Args:
        weights: element to {layer: (n_in + 1, n_out)}; image-centred without the element level.
        hiddenlayers: element to hidden layers as `hidden_layers` returns; image-centred: one sequence.
        n_inputs: number of inputs, one for all or one per element.

    Returns:
        The same as float64 arrays, copied.

    Raises:
        ConfigError: elements, layers or shapes differ, or a weight is not a finite number.
    """
    if not isinstance(hiddenlayers, Mapping):
        return _checked_layers("weights", weights, hidden_sizes(hiddenlayers), int(n_inputs))  # type: ignore[arg-type]
    check_elements_of("weights", weights, hiddenlayers)
    widths = _per_element("the number of features", n_inputs, list(hiddenlayers))
    return {
        element: _checked_layers(f"weights[{element!r}]", weights[element], tuple(sizes), widths[element])
        for element, sizes in hiddenlayers.items()
    }


def _checked_layers(name: str, layers: Mapping[int, Any], sizes: tuple[int, ...], n_inputs: int) -> Layers:
    nodes = [n_inputs, *sizes, 1]
    shapes = {k: (nodes[k - 1] + 1, nodes[k]) for k in range(1, len(nodes))}
    if not isinstance(layers, Mapping) or set(layers) != set(shapes):
        got = list(layers) if isinstance(layers, Mapping) else type(layers).__name__
        raise ConfigError("wrong layers", where=name, got=got, expected=list(shapes))
    checked = {}
    for k, shape in shapes.items():
        checked[k] = float_array(layers[k], f"{name}[{k}]")
        if checked[k].shape != shape:
            fix = "rows are inputs and, last, the bias; columns are nodes"
            raise ConfigError(
                "wrong shape", where=f"{name}[{k}]", got=checked[k].shape, expected=shape, fix=fix
            )
        if not np.isfinite(checked[k]).all():
            raise ConfigError(f"{name}[{k}] has values that are not finite")
    return checked


def float_array(values: Any, where: str) -> np.ndarray:
    """Copy as a float64 array."""
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError("not an array of numbers", where=where, got=type(values).__name__) from None


def _named(images: Images | Atoms) -> Iterator[tuple[str, Atoms]]:
    if isinstance(images, Atoms):
        images = [images]
    pairs = images.items() if isinstance(images, Mapping) else enumerate(images)
    return ((f"image {name}", atoms) for name, atoms in pairs)


def image_energies(images: Images | Atoms) -> Float[np.ndarray, " n_structures"]:
    """Total energies in eV from the calculators of images, without the contribution of constraints.

    Raises:
        DataError: an image has no energy, or one that is not finite.
    """
    energies = []
    for name, atoms in _named(images):
        try:
            energy = float(atoms.get_potential_energy(apply_constraint=False))
        except (RuntimeError, NotImplementedError) as error:
            fix = "attach a calculator that holds it (ASE's SinglePointCalculator)"
            raise DataError(f"{name} has no energy", got=error or None, fix=fix) from None
        if not math.isfinite(energy):
            raise DataError("energy is not finite", where=name, got=energy)
        energies.append(energy)
    return np.array(energies)


def get_initial_scalings(
    images: Images, activation: str, elements: Iterable[str] | None = None, seed: int | None = None
) -> dict[str, Any]:
    """Choose slope and intercept so that the output range covers the energies of the images.

    hi and lo are the largest and smallest total energy, each divided by the number of atoms of its image:
    tanh (hi+lo)/2 and (hi-lo)/2; sigmoid lo and hi-lo; linear (hi+lo)/2 and 1e-10 (hi-lo)/2.

    Args:
        images: list of Atoms, or dict of key to Atoms, with energies from their calculators.
        activation: 'tanh', 'sigmoid' or 'linear'.
        elements: symbols, which all get the same values; None for an image-centred model, whose hi and lo are
            not divided.
        seed: has nothing to act on, these values are not random; kept for the documented call.

    Returns:
        Element to {'intercept', 'slope'} in eV per atom, or for an image-centred model one such dict in eV.

    Raises:
        ConfigError: unknown activation.
        DataError: no images, or an image without an energy.
    """
    check_activation(activation)
    energies = image_energies(images)
    if not len(energies):
        raise DataError("initial scalings need at least one image, got none")
    highest, lowest = int(np.argmax(energies)), int(np.argmin(energies))
    hi, lo = float(energies[highest]), float(energies[lowest])
    if elements is not None:
        sizes = [len(atoms) for _, atoms in _named(images)]
        hi, lo = hi / sizes[highest], lo / sizes[lowest]
    if activation == "sigmoid":
        intercept, slope = lo, hi - lo
    else:
        intercept, slope = (hi + lo) / 2.0, (hi - lo) / 2.0
    if activation == "linear":
        slope *= 1e-10
    if elements is None:
        return {"intercept": intercept, "slope": slope}
    return {element: {"intercept": intercept, "slope": slope} for element in elements}
