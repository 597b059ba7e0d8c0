"""`NeuralNetwork`: atom-centred and image-centred networks with the documented surface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Float
from numpy.typing import ArrayLike

from surefield.descriptors.atomic_descriptor import AtomicDescriptor
from surefield.descriptors.derivatives import feature_ranges
from surefield.errors import ConfigError, nearest
from surefield.networks import network_functions
from surefield.networks.fingerprinter import AtomCentered, Fingerprinter
from surefield.networks.fingerprints import Gaussian, ImageCentred
from surefield.networks.model import Model
from surefield.networks.network_dicts import (
    fprange_of,
    network_dicts,
    with_dicts,
    with_fprange,
    with_static,
)
from surefield.networks.parameters import ATOM_CENTERED, IMAGE_CENTERED, Parameters
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.potentials.element_networks import energy_slope, hidden_widths
from surefield.potentials.image_network import ImageNetwork
from surefield.potentials.network_parameters import (
    check_activation,
    check_weights,
    get_initial_scalings,
    get_random_weights,
    hidden_layers,
    hidden_sizes,
)
from surefield.structures.geometry import check_geometry
from surefield.structures.images import HashedImages, hash_images
from surefield.structures.labels import resolve_labels
from surefield.structures.neighbors import neighborhood
from surefield.structures.offsets import Intercepts, least_squares_intercepts
from surefield.structures.read import Frames

__all__ = ["NeuralNetwork"]


class NeuralNetwork(Model):
    """Neural networks on the features of atoms, one per element, or on all coordinates of an image.

    See `AtomicNetwork` and `ImageNetwork` for the formulas.

    Args:
        hiddenlayers: widths of the hidden layers: a sequence or an integer for all elements, or a dict of
            them per element; `()` is a linear model.
        activation: 'tanh', 'sigmoid' or 'linear'.
        weights: start from these: {element: {layer: (n_in + 1, n_out)}}, bias in the last row.
        scalings: keep these: {element: {'intercept', 'slope'}}, eV.
        fprange: ranges that are mapped to [-1, 1]: {element: [[low, high], ...]}, or one [low, high] for all
            features of an element; None takes those of the training images.
        mode: 'atom-centered' or 'image-centered'; None takes that of the descriptor.
        version: None or '2015.12'.
        regressor: minimises the loss; None is `Regressor()`.
        lossfunction: None is `LossFunction()`, which trains on energies.
        fortran: False takes the plain path without compilation, for debugging.
        checkpoints: evaluations between checkpoints; negative keeps all of them, None or 0 writes none.
        randomseed: of the start weights; None draws one, which is logged and saved.
        prescale: start the intercepts at the least-squares fit of the energies, with slopes of 1; has no
            effect if scalings are given.
        output_activation: 'linear', or 'activation' to bound the energy of an atom as older programs do.
        dtype: 'float64' or 'float32'.
        descriptor: used where none is given otherwise, by `surefield.train`; None is `Gaussian()`.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    def __init__(
        self,
        hiddenlayers: Any = (5, 5),
        activation: str = "tanh",
        weights: Mapping[Any, Any] | None = None,
        scalings: Mapping[str, Any] | None = None,
        fprange: Any = None,
        mode: str | None = None,
        version: str | None = None,
        regressor: Any = None,
        lossfunction: Any = None,
        fortran: bool = True,
        checkpoints: int | None = 100,
        randomseed: int | None = None,
        prescale: bool = False,
        *,
        output_activation: str = "linear",
        dtype: str = "float64",
        descriptor: Fingerprinter | None = None,
    ) -> None:
        check_activation(activation)
        _one_of("output_activation", output_activation, ("linear", "activation"))
        _one_of("dtype", dtype, ("float64", "float32"))
        if not isinstance(hiddenlayers, Mapping):
            hidden_sizes(hiddenlayers)
        super().__init__(locals())

    @classmethod
    def of_potential(
        cls, potential: AtomicNetwork | ImageNetwork, status: str | None = None, **settings: Any
    ) -> NeuralNetwork:
        """Model around an existing potential."""
        atomic = isinstance(potential, AtomicNetwork)
        hidden = potential.config()["hidden"]
        model = cls(
            dict(zip(potential.descriptor.symbols, hidden, strict=True)) if atomic else hidden,
            potential.activation,
            mode=ATOM_CENTERED if atomic else IMAGE_CENTERED,
            output_activation=potential.output_activation,
            dtype=str(potential.dtype),
            **settings,
        )
        model._potential, model.status = potential, status
        return model

    @property
    def parameters(self) -> Parameters:
        """Copy of all settings and parameters, with attribute and key access."""
        parameters = Parameters(self._settings)
        if self._potential is not None:
            network = self._network
            parameters.update(network_dicts(network), fprange=fprange_of(network))
            parameters["hiddenlayers"] = _hidden(network)
        return parameters

    @property
    def _network(self) -> AtomicNetwork | ImageNetwork:
        potential = self.potential
        assert isinstance(potential, AtomicNetwork | ImageNetwork)
        return potential

    def _apply(self, name: str, value: Any) -> None:
        if self._potential is None:
            return
        if name in ("weights", "scalings"):
            self._potential = with_dicts(self._network, **{name: value})
        elif name == "fprange":
            self._potential = with_fprange(self._network, value)
        elif name == "activation":
            self._potential = with_static(self._network, activation=check_activation(value))

    def set_up(self, images: HashedImages, descriptor: Fingerprinter) -> None:
        """Make the potential: elements, ranges, weights and scalings, each given or taken from the images."""
        self._settings["mode"] = self._mode(descriptor)
        if isinstance(descriptor, AtomCentered):
            atomic = descriptor.for_images(images)
            if self._potential is not None:
                self._check_same(atomic)
                return
            self._potential = self._atomic(atomic, images)
        else:
            if self._potential is None:
                self._potential = self._image_centred(images)
            for key, atoms in images.items():
                self._potential.check_frame(atoms, images.names[key])
        self.say(f"{len(self._potential.vector)} parameters")

    def set_up_without_images(self, descriptor: AtomCentered) -> None:
        """Make the potential where elements, weights, scalings and ranges are all given.

        Raises:
            ConfigError: one of them is not.
        """
        missing = [name for name in ("weights", "scalings", "fprange") if self._settings[name] is None]
        elements = descriptor.elements
        if missing or elements is None:
            raise ConfigError(f"without images the model needs {', '.join(missing or ['elements'])}")
        self._settings["mode"] = self._mode(descriptor)
        self._potential = self._atomic(descriptor.for_elements(elements), HashedImages({}, {}, {}, ()))

    def warn_of_result(self, frames: Sequence[Atoms]) -> None:
        """Of nothing."""

    def potential_for(self, frames: Frames) -> AtomicNetwork | ImageNetwork:
        """Untrained potential for these structures; what was given (weights, scalings, fprange) is kept."""
        if self._potential is not None:
            return with_static(self._network, keep=("offsets", "slopes", "ranges"))
        descriptor = self._descriptor
        if descriptor is None:
            descriptor = ImageCentred() if self._settings.mode == IMAGE_CENTERED else Gaussian()
        other = NeuralNetwork(**self._settings, descriptor=descriptor)
        check_geometry(frames)
        images = hash_images(frames)
        other.set_up(images, descriptor)
        self._settings["randomseed"] = other._settings.randomseed
        keep = ["ranges"] * (self._settings.fprange is not None)
        keep += ["offsets", "slopes"] * (self._settings.scalings is not None)
        return with_static(other._network, keep=keep)

    def _mode(self, descriptor: Fingerprinter) -> str:
        mode = self._settings.mode
        if mode is not None and mode != descriptor.mode:
            raise ConfigError(
                "mode of the model and the descriptor differ",
                got=f"model {mode!r}, descriptor {descriptor.mode!r}",
                fix="leave mode out: it follows from the descriptor",
            )
        return descriptor.mode

    def _check_same(self, descriptor: AtomicDescriptor) -> None:
        network = self._network
        assert isinstance(network, AtomicNetwork)
        if network.descriptor == descriptor:
            return
        extra = sorted(set(descriptor.symbols) - set(network.descriptor.symbols))
        raise ConfigError(
            "the model was set up with another descriptor",
            got=f"new elements {extra}" if extra else "other functions or another cutoff",
            expected=f"the same functions for {', '.join(network.descriptor.symbols)}",
            fix="use that descriptor, or make a new model",
        )

    def _atomic(self, descriptor: AtomicDescriptor, images: HashedImages) -> AtomicNetwork:
        s, symbols = self._settings, descriptor.symbols
        counts = dict(zip(symbols, descriptor.n_features, strict=True))
        hidden = hidden_layers(s.hiddenlayers, symbols)
        network = AtomicNetwork(
            descriptor,
            [hidden[symbol] for symbol in symbols],
            s.activation,
            s.output_activation,
            dtype=s.dtype,
        )
        weights = s.weights
        if weights is None:
            weights = get_random_weights(hidden, s.activation, counts, seed=self._seed())
        weights = check_weights(_layer_numbers(weights, symbols), hidden, counts)
        scalings = _checked_scalings(s.scalings, symbols) or self._start_scalings(images, symbols)
        fprange = s.fprange
        if fprange is None:
            structures = [neighborhood(atoms, descriptor.cutoff) for atoms in images.values()]
            unseen = {symbol: np.tile([-1.0, 1.0], (n, 1)) for symbol, n in counts.items()}
            fprange = unseen | feature_ranges(descriptor, structures)
        return with_fprange(with_dicts(network, weights=weights, scalings=scalings), fprange)

    def _image_centred(self, images: HashedImages) -> ImageNetwork:
        s = self._settings
        if isinstance(s.hiddenlayers, Mapping):
            raise ConfigError(
                "hiddenlayers of an image-centred model is one sequence, not a dict of elements"
            )
        reference = next(iter(images.values()))
        hidden = hidden_sizes(s.hiddenlayers)
        network = ImageNetwork(reference, hidden, s.activation, s.output_activation, dtype=s.dtype)
        weights = s.weights
        if weights is None:
            weights = get_random_weights(hidden, s.activation, no_of_atoms=len(reference), seed=self._seed())
        weights = check_weights(_layer_numbers(weights, None), hidden, 3 * len(reference))
        scalings = s.scalings
        if scalings is None and s.output_activation == "activation":
            scalings = get_initial_scalings(images, s.activation)
        if scalings is None:
            energies = self._energies(images)
            scalings = {"intercept": energies.mean(), "slope": max(float(energies.std()), 0.01)}
        network = with_dicts(network, weights=weights, scalings=scalings)
        if s.fprange is not None:
            return with_fprange(network, s.fprange)
        for key, atoms in images.items():
            network.check_frame(atoms, images.names[key])
        positions = network.unwrapped(jnp.asarray([atoms.positions for atoms in images.values()]))
        flat = np.asarray(positions).reshape(len(images), -1)
        return with_fprange(network, np.stack([flat.min(axis=0), flat.max(axis=0)], axis=1))

    def _start_scalings(self, images: HashedImages, symbols: Sequence[str]) -> dict[str, dict[str, float]]:
        s = self._settings
        if not s.prescale and s.output_activation == "activation":
            return get_initial_scalings(images, s.activation, symbols)
        known = self.prescale_intercepts(images).intercepts
        intercepts = {symbol: known.get(symbol, 0.0) for symbol in symbols}
        slope = 1.0
        if not s.prescale:
            structures = [neighborhood(atoms, 0.1) for atoms in images.values()]
            offsets = {chemical_symbols.index(symbol): e for symbol, e in intercepts.items()}
            slope = energy_slope(structures, self._energies(images).tolist(), offsets)
        return {symbol: {"intercept": intercepts[symbol], "slope": slope} for symbol in symbols}

    def prescale_intercepts(self, trainingimages: Any) -> Intercepts:
        """Exact minimiser of sum_i ((E_i - sum of intercepts)/N_i)^2; logs what is undetermined."""
        images = hash_images(trainingimages)
        fit = least_squares_intercepts(list(images.values()), self._energies(images))
        if fit.undetermined:
            self.say(
                f"the compositions determine {fit.rank} of {len(fit.intercepts)} intercepts; free: "
                + "; ".join(fit.undetermined)
            )
        return fit

    def _energies(self, images: HashedImages) -> Float[np.ndarray, " n_images"]:
        labels, _ = resolve_labels(list(images.values()), require=("energy",))
        return np.array([label.energy for label in labels])

    def randomize(
        self,
        trainingimages: Any = None,
        weights: bool = True,
        scalings: bool = True,
        seed: int | None = None,
    ) -> None:
        """Draw new start values; what is False stays as it is.

        Raises:
            ConfigError: scalings without images, or the model is not set up.
        """
        if scalings and trainingimages is None:
            raise ConfigError("new scalings need trainingimages; or give scalings=False")
        network, activation = self._network, self._settings.activation
        new: dict[str, Any] = {}
        if isinstance(network, AtomicNetwork):
            symbols = network.descriptor.symbols
            if weights:
                counts = dict(zip(symbols, network.descriptor.n_features, strict=True))
                new["weights"] = get_random_weights(_hidden(network), activation, counts, seed=seed)
            if scalings:
                new["scalings"] = self._start_scalings(hash_images(trainingimages), symbols)
        else:
            if weights:
                n = len(network.numbers)
                new["weights"] = get_random_weights(_hidden(network), activation, no_of_atoms=n, seed=seed)
            if scalings:
                new["scalings"] = get_initial_scalings(hash_images(trainingimages), activation)
        self._potential = with_dicts(network, **new)

    def calculate_atomic_energy(self, afp: ArrayLike, index: int | None, symbol: str | None) -> float:
        """Energy of one atom in eV from its features; `index` is a label only."""
        return network_functions.atomic_energy(self.parameters, afp, symbol)

    def calculate_force(
        self,
        afp: ArrayLike,
        derafp: ArrayLike,
        direction: int,
        nindex: int | None = None,
        nsymbol: str | None = None,
    ) -> float:
        """What a centre adds to the force on a moved atom, -slope do/dx · dx/dR, eV/Å.

        Args:
            afp: features of the centre.
            derafp: their derivative with respect to the coordinate that is moved.
            direction: of that coordinate; a label only, as is `nindex`.
            nindex: index of the centre.
            nsymbol: its element; None for an image-centred model.
        """
        return network_functions.force(self.parameters, afp, derafp, nsymbol)

    def calculate_dAtomicEnergy_dParameters(
        self, afp: ArrayLike, index: int | None = None, symbol: str | None = None
    ) -> Float[np.ndarray, " n_parameters"]:
        """Gradient of the atomic energy itself (not of a squared error) by the parameter vector."""
        return network_functions.atomic_energy_gradient(self.parameters, afp, symbol)

    def calculate_dForce_dParameters(
        self,
        afp: ArrayLike,
        derafp: ArrayLike,
        direction: int,
        nindex: int | None = None,
        nsymbol: str | None = None,
    ) -> Float[np.ndarray, " n_parameters"]:
        """Gradient of `calculate_force` itself (not of a squared error) by the parameter vector."""
        return network_functions.force_gradient(self.parameters, afp, derafp, nsymbol)


def _one_of(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {name} {value!r}, {nearest(str(value), known)}")


def _hidden(network: AtomicNetwork | ImageNetwork) -> Any:
    """Widths of the hidden layers, by element in the order of symbols where there are elements."""
    widths = [tuple(own) for own in hidden_widths(network.networks[0].layers)]
    if isinstance(network, ImageNetwork):
        return widths[0]
    return dict(sorted(zip(network.descriptor.symbols, widths, strict=True)))


def _layer_numbers(weights: Mapping[Any, Any], symbols: Sequence[str] | None) -> dict[Any, Any]:
    """Layers by number, also where a file has them as text."""
    if symbols is None:
        return {int(k): v for k, v in weights.items()}
    return {
        symbol: {int(k): v for k, v in layers.items()} if isinstance(layers, Mapping) else layers
        for symbol, layers in weights.items()
    }


def _checked_scalings(
    scalings: Mapping[str, Any] | None, symbols: Sequence[str]
) -> dict[str, dict[str, float]] | None:
    if scalings is None:
        return None
    complete = set(scalings) == set(symbols) and all(
        set(entry) == {"intercept", "slope"} for entry in scalings.values()
    )
    if not complete:
        raise ConfigError(
            "scalings do not fit the elements",
            got=dict(scalings),
            expected=f"'intercept' and 'slope' for each of {', '.join(symbols)}",
        )
    return {symbol: {k: float(v) for k, v in scalings[symbol].items()} for symbol in symbols}
