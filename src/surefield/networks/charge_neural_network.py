"""`ChargeNeuralNetwork`: grand-canonical energies, forces and charges at an electrode potential."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, DataError
from surefield.networks.fingerprint_derivatives import (
    Image,
    by_component,
    central_differences,
    vector_gradient,
    vector_jacobian,
)
from surefield.networks.fingerprinter import AtomCentered, Fingerprinter
from surefield.networks.fingerprints import Gaussian
from surefield.networks.model import Model
from surefield.networks.network_dicts import fprange_of, network_dicts, with_dicts, with_fprange
from surefield.networks.parameters import ATOM_CENTERED, Parameters
from surefield.networks.raveler import PARTS
from surefield.potentials.electrode.charge_network import ChargeNetwork
from surefield.potentials.electrode.charged_potential import (
    ChargedPotential,
    Sites,
    warn_of_negative_capacitance,
)
from surefield.potentials.electrode.quadratic_charge_network import QuadraticChargeNetwork
from surefield.potentials.evaluate import composition_energy, species_index
from surefield.potentials.network_parameters import check_activation, check_weights, hidden_layers
from surefield.potentials.potential import TrainingData
from surefield.structures.electrode import grand_canonical_energy
from surefield.structures.geometry import check_geometry
from surefield.structures.images import HashedImages, hash_images
from surefield.structures.labels import resolve_labels
from surefield.structures.offsets import energy_offsets
from surefield.structures.read import Frames

__all__ = ["ChargeNeuralNetwork", "calculate_charge_fingerprints_range"]


class ChargeNeuralNetwork(Model):
    """Networks for electronegativity and charge of every atom of an electrode, one pair per element.

    See `ChargeNetwork` for the formulas. Arguments that `NeuralNetwork` has mean the same here.

    Args:
        hiddenlayers: of the electronegativities.
        activation: of their networks.
        weights: start from these.
        scalings: keep these.
        fprange: ranges of the features.
        mode: 'atom-centered' or None.
        version: None or '2015.12'.
        regressor: None is `Regressor()`.
        lossfunction: None is `LossFunction()`.
        fortran: False takes the plain path.
        charge_hiddenlayers: of the charges.
        charge_activation: of their networks.
        charge_weights: start from these.
        charge_scalings: keep these.
        charge_fprange: ranges of [features, charge fingerprints].
        Ei: energy of each element, eV; kept if given.
        Jii: hardness of each element, eV/e^2; kept if given.
        surface_correction: Å.
        slab_metal: element of the electrode; None: that of the first atom of the first image.
        etas: decay constants of the charge fingerprints, 1/Å.
        order: of the charge fingerprints in the potential; only 1.
        electrode_potential: of images that state none, V.
        checkpoints: evaluations between checkpoints.
        randomseed: of the start weights.
        prescale: kept for old scripts: Ei are fitted in any case.
        scheme: 'consistent' or 'amp'; the latter has Amp's numbers with output_activation='activation'.
        force_convention: 'exact', 'fixed-interface' or 'amp-1.1'.
        surface_normal: out of the metal.
        onset_width: Å.
        vdw_radius: of the metal, Å.
        response: 'network', or 'quadratic' for a capacitance that is always positive.
        output_activation: 'linear' or 'activation'.
        dtype: 'float64' or 'float32'.
        descriptor: used where none is given otherwise; None is `Gaussian()`.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    def __init__(
        self,
        hiddenlayers: Any = (5, 5),
        activation: str = "tanh",
        weights: Mapping[str, Any] | None = None,
        scalings: Mapping[str, Any] | None = None,
        fprange: Any = None,
        mode: str | None = None,
        version: str | None = None,
        regressor: Any = None,
        lossfunction: Any = None,
        fortran: bool = True,
        charge_hiddenlayers: Any = (5, 5),
        charge_activation: str = "tanh",
        charge_weights: Mapping[str, Any] | None = None,
        charge_scalings: Mapping[str, Any] | None = None,
        charge_fprange: Any = None,
        Ei: Mapping[str, float] | None = None,
        Jii: Mapping[str, float] | None = None,
        surface_correction: float = 3.0,
        slab_metal: str | None = None,
        etas: Sequence[float] = (2.0, 1.0, 0.5, 0.1),
        order: float = 1.0,
        electrode_potential: float | None = None,
        checkpoints: int | None = 100,
        randomseed: int | None = None,
        prescale: bool = False,
        *,
        scheme: str = "consistent",
        force_convention: str = "exact",
        surface_normal: Sequence[float] = (0.0, 0.0, 1.0),
        onset_width: float = 0.5,
        vdw_radius: float | None = None,
        response: str = "network",
        output_activation: str = "linear",
        dtype: str = "float64",
        descriptor: Fingerprinter | None = None,
    ) -> None:
        arguments = dict(locals())
        check_activation(activation)
        check_activation(charge_activation)
        if order != 1:
            raise ConfigError(
                f"order must be 1: charge fingerprints are linear in the potential; got {order}"
            )
        if response not in ("network", "quadratic"):
            raise ConfigError(f"unknown response {response!r}; it is 'network' or 'quadratic'")
        parts = [name for name in PARTS if arguments[name] is not None]
        if response == "quadratic" and parts:
            raise ConfigError(f"response='quadratic' has other parameters and cannot take {', '.join(parts)}")
        super().__init__(arguments)

    @classmethod
    def of_potential(
        cls, potential: ChargedPotential, status: str | None = None, **settings: Any
    ) -> ChargeNeuralNetwork:
        """Model around an existing potential."""
        config = potential.config()
        symbols = potential.descriptor.symbols
        shared = {
            k: v for k, v in config.items() if k not in ("kind", "descriptor", "hidden", "charge_hidden")
        }
        hidden = {"hiddenlayers": dict(zip(symbols, config["hidden"], strict=True))}
        if "charge_hidden" in config:
            hidden["charge_hiddenlayers"] = dict(zip(symbols, config["charge_hidden"], strict=True))
        response = "network" if isinstance(potential, ChargeNetwork) else "quadratic"
        model = cls(**hidden, **shared, response=response, mode=ATOM_CENTERED, **settings)
        model._potential, model.status = potential, status
        return model

    @property
    def parameters(self) -> Parameters:
        """Copy of all settings and parameters, with attribute and key access."""
        parameters, potential = Parameters(self._settings), self._potential
        if isinstance(potential, ChargeNetwork):
            parameters.update(network_dicts(potential))
            parameters.update({name: fprange_of(potential, name) for name in ("fprange", "charge_fprange")})
        return parameters

    @property
    def _charged(self) -> ChargedPotential:
        potential = self.potential
        assert isinstance(potential, ChargedPotential)
        return potential

    def _apply(self, name: str, value: Any) -> None:
        if self._potential is None:
            return
        if name == "electrode_potential":
            self._potential = self._charged.at_potential(value)
        elif name in PARTS and isinstance(self._potential, ChargeNetwork):
            self._potential = with_dicts(self._potential, **{name: value})
        elif name not in ("checkpoints", "randomseed", "prescale", "fortran", "version"):
            raise ConfigError(f"{name} cannot be changed once the networks exist; make a new model")

    def set_up(self, images: HashedImages, descriptor: Fingerprinter) -> None:
        """Make the potential: what is given is kept, the rest comes from the images."""
        if not isinstance(descriptor, AtomCentered):
            raise ConfigError("charges need an atom-centred descriptor such as Gaussian()")
        self._settings["mode"] = ATOM_CENTERED
        atomic = descriptor.for_images(images)
        if self._potential is not None:
            if self._charged.descriptor != atomic:
                raise ConfigError("the model was set up with another descriptor; make a new model")
            return
        metal = self._settings.slab_metal
        radius = self._settings.vdw_radius
        if metal is None:
            metal = next(iter(images.values())).get_chemical_symbols()[0]
            radius = 1.7 if radius is None else radius
        untrained = self._untrained(atomic, metal, radius)
        frames = images.frames
        for i, atoms in enumerate(frames):
            untrained.check_frame(atoms, frames.origin(i))
        labels, _ = resolve_labels(frames, {"forces": None, "stress": None}, require=("energy",))
        energies = [
            grand_canonical_energy(atoms, float(label.energy or 0.0), frames.origin(i))
            for i, (atoms, label) in enumerate(zip(frames, labels, strict=True))
        ]
        structures = [untrained.neighborhood(atoms) for atoms in frames]
        offsets = energy_offsets([s.numbers for s in structures], energies)
        self._potential = self._with_given(untrained.prepared(TrainingData(structures, energies, offsets)))
        self.say(f"{len(self._potential.vector)} parameters")

    def _untrained(self, atomic: Any, metal: str | None, radius: float | None) -> ChargedPotential:
        s, symbols = self._settings, atomic.symbols
        hidden = hidden_layers(s.hiddenlayers, symbols)
        shared = {
            name: s[name]
            for name in (
                "etas",
                "surface_correction",
                "force_convention",
                "surface_normal",
                "onset_width",
                "electrode_potential",
                "dtype",
            )
        }
        shared |= {"slab_metal": metal, "vdw_radius": radius, "seed": self._seed() % 2**32}
        first = [hidden[symbol] for symbol in symbols]
        if s.response == "quadratic":
            return QuadraticChargeNetwork(atomic, first, s.activation, **shared)
        charge_hidden = hidden_layers(s.charge_hiddenlayers, symbols)
        return ChargeNetwork(
            atomic,
            first,
            [charge_hidden[symbol] for symbol in symbols],
            s.activation,
            s.charge_activation,
            scheme=s.scheme,
            output_activation=s.output_activation,
            **shared,
        )

    def _with_given(self, potential: ChargedPotential) -> Any:
        """Copy with all parts that were given."""
        if not isinstance(potential, ChargeNetwork):
            return potential
        s, symbols = self._settings, potential.descriptor.symbols
        parts = {name: s[name] for name in PARTS if s[name] is not None}
        for networks, prefix in zip(potential.networks, ("", "charge_"), strict=True):
            name = f"{prefix}weights"
            if name in parts:
                layers = {e: {int(k): v for k, v in w.items()} for e, w in parts[name].items()}
                counts = dict(zip(symbols, networks.n_inputs, strict=True))
                parts[name] = check_weights(
                    layers, hidden_layers(s[f"{prefix}hiddenlayers"], symbols), counts
                )
        potential = with_dicts(potential, **parts)
        for name in ("fprange", "charge_fprange"):
            if s[name] is not None:
                potential = with_fprange(potential, s[name], name)
        return potential

    @classmethod
    def imported(cls, descriptor: AtomCentered, model: dict[str, Any], path: Path) -> ChargeNeuralNetwork:
        """Model of an older program's file: its scheme, with exact forces.

        Raises:
            DataError: unknown keys.
            ConfigError: parameters are missing.
        """
        names = (
            *("hiddenlayers", "activation", "weights", "scalings", "fprange", "version"),
            *("charge_hiddenlayers", "charge_activation", "charge_weights", "charge_scalings"),
            *("charge_fprange", "Ei", "Jii", "surface_correction", "slab_metal", "etas"),
        )
        settings = {name: model.pop(name) for name in names if model.get(name) is not None}
        left = {k: v for k, v in model.items() if v is not None and k not in ("mode", "order", "prescale")}
        if left:
            raise DataError("unknown keys in the model of the file", where=path, got=sorted(left))
        missing = {"weights", "scalings", "fprange", "charge_weights", "charge_fprange", "Ei"} - set(settings)
        elements = descriptor.elements
        if missing or elements is None:
            raise ConfigError(f"the model in {path} has no {', '.join(sorted(missing) or ['elements'])}")
        network = cls(**settings, scheme="amp", force_convention="exact", output_activation="activation")
        atomic = descriptor.for_elements(elements)
        untrained = network._untrained(atomic, network._settings.slab_metal, None)
        network._potential = network._with_given(untrained)
        return network

    def potential_for(self, frames: Frames) -> ChargedPotential:
        """Untrained potential for these structures; what was given is kept."""
        if self._potential is None:
            check_geometry(frames)
            self.set_up(hash_images(frames), self._descriptor or Gaussian())
        return self._charged

    def warn_of_result(self, frames: Sequence[Atoms]) -> None:
        """Warn of negative capacitances."""
        warn_of_negative_capacitance(self._charged, frames)

    # Energies, charges and their derivatives from fingerprints.

    def calculate_gc_energy(self, fingerprints: Any, wf: float, qfp_append: ArrayLike) -> tuple[float, float]:
        """Grand-canonical energy (eV) and charge (e) of an image from fingerprints.

        Fingerprints know no positions: functions of the height are qfp_append/wf, and z0 is fixed.

        Args:
            fingerprints: of the atoms.
            wf: electrode potential, V.
            qfp_append: charge fingerprint of every atom.

        Returns:
            Omega and Q; `atomic_energies` and `atomic_charges` then hold those of the atoms.
        """
        image = Image(self.potential, fingerprints)
        sites = self._sites(self.potential, image, wf, qfp_append)
        omega, charges = self._charged.site_omega(sites), self._charged.site_charges(sites)
        table = dict(zip(self.potential.species, np.asarray(self.potential.offsets).tolist(), strict=True))
        offsets = [table[z] for z in np.asarray(image.graph.numbers).tolist()]
        self.atomic_energies, self.atomic_charges = np.asarray(omega) + offsets, np.asarray(charges)
        return float(self.atomic_energies.sum()), float(self.atomic_charges.sum())

    def calculate_gc_forces(
        self,
        fingerprints: Any,
        fingerprintprimes: Mapping[Any, Any],
        wf: float,
        qfp_append: ArrayLike,
        qfpprime_append: ArrayLike,
    ) -> Float[np.ndarray, "n_atoms 3"]:
        """Forces in eV/Å at constant potential; arguments as `calculate_gc_energy`.

        Args:
            fingerprints: of the atoms.
            fingerprintprimes: their derivatives.
            wf: electrode potential, V.
            qfp_append: charge fingerprint of every atom.
            qfpprime_append: their derivatives with respect to the atom's own height.
        """
        image = Image(self.potential, fingerprints, fingerprintprimes)
        return np.asarray(self._gc_forces(self.potential, image, wf, qfp_append, qfpprime_append))

    def calculate_dgcEnergy_dParameters(
        self, fingerprints: Any, wf: float, qfp_append: ArrayLike
    ) -> tuple[Float[np.ndarray, " n_parameters"], Float[np.ndarray, " n_parameters"]]:
        """Gradients of Omega and of Q with respect to the parameter vector."""
        image = Image(self.potential, fingerprints)
        return (
            vector_gradient(self.potential, lambda p: self._gc_totals(p, image, wf, qfp_append)[0]),
            vector_gradient(self.potential, lambda p: self._gc_totals(p, image, wf, qfp_append)[1]),
        )

    def calculate_dgcForces_dParameters(
        self,
        fingerprints: Any,
        fingerprintprimes: Mapping[Any, Any],
        wf: float,
        qfp_append: ArrayLike,
        qfpprime_append: ArrayLike,
    ) -> dict[tuple[int, int], Float[np.ndarray, " n_parameters"]]:
        """Gradient of each force component (atom, direction) with respect to the parameter vector."""
        image = Image(self.potential, fingerprints, fingerprintprimes)
        return vector_jacobian(
            self.potential, lambda p: self._gc_forces(p, image, wf, qfp_append, qfpprime_append)
        )

    def calculate_numerical_dgcEnergy_dParameters(
        self, fingerprints: Any, wf: float, qfp_append: ArrayLike, d: float = 1e-5
    ) -> tuple[Float[np.ndarray, " n_parameters"], Float[np.ndarray, " n_parameters"]]:
        """The same by central differences."""
        image = Image(self.potential, fingerprints)
        totals = central_differences(
            self.potential, lambda p: jnp.stack(self._gc_totals(p, image, wf, qfp_append)), d
        )
        return totals[:, 0], totals[:, 1]

    def calculate_numerical_dgcForces_dParameters(
        self,
        fingerprints: Any,
        fingerprintprimes: Mapping[Any, Any],
        wf: float,
        qfp_append: ArrayLike,
        qfpprime_append: ArrayLike,
        d: float = 1e-5,
    ) -> dict[tuple[int, int], Float[np.ndarray, " n_parameters"]]:
        """The same by central differences."""
        image = Image(self.potential, fingerprints, fingerprintprimes)
        return by_component(
            central_differences(
                self.potential, lambda p: self._gc_forces(p, image, wf, qfp_append, qfpprime_append), d
            )
        )

    @staticmethod
    def _sites(potential: Any, image: Image, wf: float, qfp: ArrayLike) -> Sites:
        phi = jnp.full(len(image.graph.numbers), float(wf))
        decays = jnp.asarray(qfp) / phi[:, None]
        return Sites(jnp.asarray(image.features), decays, phi, species_index(potential, image.graph))

    def _gc_totals(self, potential: Any, image: Image, wf: float, qfp: ArrayLike) -> tuple[Array, Array]:
        sites = self._sites(potential, image, wf, qfp)
        omega = jnp.sum(potential.site_omega(sites)) + jnp.sum(composition_energy(potential, image.graph))
        return omega, jnp.sum(potential.site_charges(sites))

    def _gc_forces(
        self, potential: Any, image: Image, wf: float, qfp: ArrayLike, qfp_prime: ArrayLike
    ) -> Float[Array, "n_atoms 3"]:
        sites = self._sites(potential, image, wf, qfp)

        def total(features: Array, decays: Array) -> Array:
            return jnp.sum(potential.site_omega(sites._replace(features=features, decays=decays)))

        by_feature, by_decay = jax.grad(total, argnums=(0, 1))(sites.features, sites.decays)
        along = jnp.sum(by_decay * jnp.asarray(qfp_prime) / sites.phi[:, None], axis=1)
        normal = jnp.asarray(self._charged.interface.normal)
        return image.contracted(by_feature) - along[:, None] * normal


def calculate_charge_fingerprints_range(
    fp: AtomCentered, images: Any, qfp_append: Mapping[str, ArrayLike]
) -> dict[str, Float[np.ndarray, "n_features 2"]]:
    """Smallest and largest value of each feature and charge fingerprint, for each element.

    Args:
        fp: descriptor.
        images: list of Atoms, file, or dict of `hash_images`.
        qfp_append: by key of each image, the charge fingerprint of every atom, (n_atoms, n_etas).
    """
    hashed = hash_images(images)
    fp.calculate_fingerprints(hashed)
    rows: dict[str, list[np.ndarray]] = {}
    for key in hashed:
        for (symbol, values), more in zip(fp.fingerprints[key], np.asarray(qfp_append[key]), strict=True):
            rows.setdefault(symbol, []).append(np.concatenate([values, np.atleast_1d(more)]))
    return {
        symbol: np.stack([np.min(inputs, axis=0), np.max(inputs, axis=0)], axis=1)
        for symbol, inputs in rows.items()
    }
