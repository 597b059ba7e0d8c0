"""Dropout ensembles: the spread over fixed members of a dropout network, calibrated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
from ase import Atoms
from jaxtyping import Float

from surefield.errors import ConfigError, DataError, PotentialError, explain, nearest
from surefield.keys import KINDS, Kind
from surefield.potentials.calculator import SurefieldCalculator
from surefield.potentials.dropout_network import (
    MEAN,
    MEMBERS_AT_ONCE,
    DropoutNetwork,
    check_rate,
    draw_masks,
    member_results,
)
from surefield.potentials.evaluate import check_frames, predict
from surefield.potentials.potential import HasPotential, Potential, SumPotential, as_potential
from surefield.potentials.prediction import Prediction
from surefield.potentials.saving import build, load_arrays, pack, save_arrays, unpack
from surefield.structures.batching import padded_batches
from surefield.structures.labels import Mapped
from surefield.structures.neighbors import Neighborhood
from surefield.structures.read import Source, read_frames
from surefield.training.dataset import Dataset, prepare
from surefield.uncertainty.calibration import fit_calibration_map
from surefield.uncertainty.calibration_maps import AlphaMap, CalibrationMap

__all__ = ["DropoutEnsemble", "EnsemblePrediction"]

#: A force component whose spread is this much smaller than the median one is zero by symmetry.
SYMMETRY_ZERO: Final = 1e-6
#: Default maps from the spread over the members to a standard deviation.
MAPS: Final[Mapping[Kind, str]] = {"energy": "alpha", "forces": "alpha_sigma0", "stress": "alpha_sigma0"}
#: Rate for a network that was trained without dropout.
RATE: Final = 0.1
#: Bytes of the derivatives of a batch, more or less.
_BATCH_BYTES: Final = 2**28
#: Rows and columns of the components xx yy zz yz xz xy.
_VOIGT: Final = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])


@dataclass(frozen=True, eq=False)
class EnsemblePrediction(Prediction):
    """A prediction with the values of all members, which are not calibrated.

    Attributes:
        energy_ensemble: (n_members,) eV.
        forces_ensemble: (n_members, n_atoms, 3) eV/Å.
    """

    energy_ensemble: Float[np.ndarray, " n_members"] | None = None
    forces_ensemble: Float[np.ndarray, "n_members n_atoms 3"] | None = None

    def written_to(self, atoms: Atoms) -> Atoms:
        """Copy of a structure that carries the results, members left out."""
        own = {field.name: getattr(self, field.name) for field in fields(Prediction)}
        return Prediction(**own).written_to(atoms)


class _Members(NamedTuple):
    """Deviation of every member from their mean; the mean is the prediction."""

    energy: Float[np.ndarray, " n_members"]
    energies: Float[np.ndarray, "n_members n_atoms"]
    forces: Float[np.ndarray, "n_members n_atoms 3"] | None
    stress: Float[np.ndarray, "n_members 6"] | None


@dataclass(frozen=True, eq=False, init=False)
class DropoutEnsemble:
    """Predictions of a dropout network with the spread over its members as uncertainty.

    Every member is one fixed set of masks, the same for all atoms and all structures, so it is a smooth
    potential with exact forces. The prediction is the mean over the members. Wen and Tadmor, npj Comput.
    Mater. 6, 124 (2020). Before `calibrated` (or `fit`) sigma is the plain spread (ddof = 1).

    Args:
        potential: a dropout network, a sum of one and a baseline, or a handle of either.
        M: members, at least 2.
        rate: of dropout, in (0, 1); None: that of the training, 0.1 if there was none.
        seed: of the masks; those of a member depend on the seed and the member's number alone.

    Attributes:
        potential: predicts the mean over the members.
        maps: calibration map of each kind.
        force_threshold: spreads of forces that are smaller vanish by symmetry; their sigma is zero.

    Raises:
        ConfigError: a rate outside (0, 1), a network without hidden layers, M < 2, a negative seed.
        PotentialError: a potential that is no dropout network.
    """

    potential: Potential
    maps: Mapping[Kind, CalibrationMap]
    force_threshold: float

    def __init__(
        self, potential: Potential | HasPotential, M: int = 100, rate: float | None = None, seed: int = 0
    ) -> None:
        found = as_potential(potential)
        network = _network(found)
        if isinstance(M, bool) or not isinstance(M, int) or M < 2:
            raise ConfigError(explain("M, the number of members, must be at least 2", got=repr(M)))
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ConfigError(explain("seed must be a whole number, not negative", got=repr(seed)))
        rate = check_rate((network.dropout or RATE) if rate is None else rate, "rate", len(network.neurons))
        masks = draw_masks(network.neurons, M, rate, seed)
        self._set(_with_network(found, network.with_masks(masks, rate)), _plain_maps(), 0.0)

    @classmethod
    def of_members(cls, potential: Potential | HasPotential) -> Self:
        """Ensemble of the members that a network holds, such as one read from KIM's files.

        Raises:
            ConfigError: fewer than two members.
        """
        found = as_potential(potential)
        network = _network(found)
        if network.n_members < 2:
            fix = "use DropoutEnsemble(potential, M, rate, seed), which draws them"
            raise ConfigError(
                explain("the network holds too few members", got=network.n_members, expected=2, fix=fix)
            )
        return cls._made(_with_network(found, network.of_member(MEAN)), _plain_maps(), 0.0)

    @classmethod
    def fit(
        cls,
        potential: Potential | HasPotential,
        calibration: Source | Dataset,
        *,
        M: int = 100,
        rate: float | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Draw members and calibrate their spread; arguments as above and of `calibrated`."""
        return cls(potential, M, rate, seed).calibrated(calibration, **options)

    def calibrated(
        self,
        calibration: Source | Dataset,
        *,
        calibration_map: Mapping[str, str] | None = None,
        calibration_method: str = "squared_residuals",
        labels: Mapped | None = None,
        batch_size: int = 16,
    ) -> Self:
        """Copy whose sigmas are calibrated on data that the potential was not trained on.

        Args:
            calibration: labelled structures; energies, forces and stresses that are there are used.
            calibration_map: kind to map; see `fit_calibration_map`. By default 'alpha' for energies and
                'alpha_sigma0' for the rest.
            calibration_method: of the map 'alpha'.
            labels: explicit keys of the labels.
            batch_size: structures per batch, about.

        Raises:
            ConfigError: an unknown kind.
            DataError: no labelled structure.
            PotentialError: an element that the potential does not know.
        """
        for name in set(calibration_map or {}) - set(KINDS):
            raise ConfigError(f"unknown kind {name!r} in calibration_map, {nearest(name, KINDS)}")
        data = calibration
        if not isinstance(data, Dataset):
            data = prepare(read_frames(data), self.potential, labels=labels, require=())
        everything = self._residuals(data, batch_size).items()
        found: dict[Kind, Any] = {kind: parts for kind, parts in everything if parts}
        if not found:
            raise DataError("no structure for the calibration has a label: energy, forces or stress")
        maps, threshold = dict(_plain_maps()), 0.0
        for kind, parts in found.items():
            r, u = (np.concatenate(column) for column in zip(*parts, strict=True))
            if kind == "forces":
                threshold = SYMMETRY_ZERO * float(np.median(u))
                r, u = r[u > threshold], u[u > threshold]
            name = {**MAPS, **(calibration_map or {})}[kind]
            maps[kind] = fit_calibration_map(
                *(r, u, name),
                method=calibration_method,  # type: ignore[arg-type]
                n_members=self.n_members,
            )
        return self._made(self.potential, maps, threshold)

    @property
    def n_members(self) -> int:
        """Number of members."""
        return _network(self.potential).n_members

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers the potential knows."""
        return self.potential.species

    @property
    def cutoff(self) -> float:
        """Range of the neighbour list, Å."""
        return self.potential.cutoff

    def last_layer(self) -> Any:
        """Last layer of the potential."""
        return self.potential.last_layer()

    def member(self, member: int) -> Potential:
        """The potential of member k > 0, of the full network (0), or the mean (-1)."""
        return _with_network(self.potential, _network(self.potential).of_member(member))

    def predict(
        self,
        frames: Sequence[Atoms],
        *,
        member: int = MEAN,
        per_atom: bool = False,
        forces: bool = False,
        stress: bool = False,
        ensemble: bool = False,
        batch_size: int = 16,
    ) -> list[Prediction]:
        """Predict structures with the uncertainty of the energy, and of what else is asked for.

        Args:
            frames: structures.
            member: -1 for the mean; the predictions of the full network (0) and of single members have no
                uncertainty.
            per_atom: also `energies_uncertainty`.
            forces: also `forces_uncertainty`.
            stress: also `stress_uncertainty`, for periodic structures.
            ensemble: also `energy_ensemble` and, with `forces`, `forces_ensemble`.
            batch_size: structures per batch, about.

        Raises:
            PotentialError: an element the potential does not know, or no such member.
        """
        if member != MEAN:
            return self.member(member).predict(frames, batch_size=batch_size)
        check_frames(self.potential, frames)
        found = [self.potential.neighborhood(atoms) for atoms in frames]
        plain = predict(self.potential, frames, batch_size=batch_size, neighborhoods=found)
        results: list[Prediction | None] = [None] * len(plain)
        for index, members in self._members(found, forces=forces, stress=stress, batch_size=batch_size):
            own = {field.name: getattr(plain[index], field.name) for field in fields(Prediction)}
            own |= self._sigmas(members, found[index].n_atoms, per_atom)
            if ensemble:
                own["energy_ensemble"] = plain[index].energy + members.energy
                if members.forces is not None:
                    own["forces_ensemble"] = plain[index].forces + members.forces
            results[index] = (EnsemblePrediction if ensemble else Prediction)(**own)
        return [prediction for prediction in results if prediction is not None]

    def calculator(self, **options: Any) -> SurefieldCalculator:
        """ASE calculator whose results hold the uncertainties as well; options as in `predict`."""
        asked: dict[str, Any] = {"forces": True, "stress": True}
        return SurefieldCalculator(self, **(asked | options))

    def save(self, path: str | Path) -> None:
        """Save the network, its members and the calibration as one .npz file."""
        header = {
            "potential": self.potential.config(),
            "maps": {kind: found.to_dict() for kind, found in self.maps.items()},
            "force_threshold": self.force_threshold,
        }
        save_arrays(path, "dropout_ensemble", header, pack(self.potential))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load what `save` wrote; see `load_arrays` for the errors."""
        header, arrays = load_arrays(path, "dropout_ensemble")
        maps: dict[Kind, CalibrationMap] = {
            kind: CalibrationMap.from_dict(entry) for kind, entry in header["maps"].items()
        }
        return cls._made(unpack(build(header["potential"]), arrays), maps, header["force_threshold"])

    @classmethod
    def _made(cls, potential: Potential, maps: Mapping[Kind, CalibrationMap], threshold: float) -> Self:
        made = object.__new__(cls)
        made._set(potential, maps, threshold)
        return made

    def _set(self, potential: Potential, maps: Mapping[Kind, CalibrationMap], threshold: float) -> None:
        for name, value in (("potential", potential), ("maps", maps), ("force_threshold", threshold)):
            object.__setattr__(self, name, value)

    def _members(
        self, structures: Sequence[Neighborhood], *, forces: bool, stress: bool, batch_size: int
    ) -> Iterator[tuple[int, _Members]]:
        """Index and members of each structure, batch by batch."""
        network = _network(self.potential)
        if forces or stress:
            per_edge = 24 * (network.descriptor.width + MEMBERS_AT_ONCE)
            largest = max((s.n_atoms * s.n_neighbors for s in structures), default=0)
            batch_size = min(batch_size, max(1, _BATCH_BYTES // max(per_edge * largest, 1)))
        for chunk, graph in padded_batches(structures, batch_size, network.dtype):
            energies, force, virial = member_results(network, graph, forces or stress)
            energies = np.asarray(energies)
            force = np.asarray(force) if forces else None
            virial = np.asarray(virial) if stress else None
            start = 0
            for place, index in enumerate(chunk):
                s = structures[index]
                rows = slice(start, start + s.n_atoms)
                start = rows.stop
                found = None
                if virial is not None and s.periodic:
                    found = _centred(virial[:, place, *_VOIGT] / abs(np.linalg.det(s.cell)))
                own = _centred(energies[:, rows])
                parts = None if force is None else _centred(force[:, rows])
                yield index, _Members(own.sum(axis=1), own, parts, found)

    def _residuals(
        self, data: Dataset, batch_size: int
    ) -> dict[Kind, list[tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]]]:
        """Residuals and spreads of every kind of label, energies per atom; weights of zero leave out."""
        found: dict[Kind, list[tuple[np.ndarray, np.ndarray]]] = {kind: [] for kind in KINDS}
        plain = predict(self.potential, data.frames, neighborhoods=data.structures, batch_size=batch_size)
        samples = data.samples
        forces = any(s.labels.forces is not None for s in samples)
        stress = any(s.labels.stress is not None for s in samples)
        members = self._members(data.structures, forces=forces, stress=stress, batch_size=batch_size)
        for index, m in members:
            sample, labels, prediction = samples[index], samples[index].labels, plain[index]
            if sample.trained_energy and labels.energy is not None:
                r = (prediction.energy - labels.energy) / sample.structure.n_atoms
                found["energy"].append((np.array([r]), _spread(m.energy)[None] / sample.structure.n_atoms))
            if m.forces is not None and labels.forces is not None:
                own = sample.trained_atoms
                assert prediction.forces is not None
                r, u = (prediction.forces - labels.forces)[own], _spread(m.forces)[own]
                found["forces"].append((r.ravel(), u.ravel()))
            if m.stress is not None and labels.stress is not None and sample.weight > 0:
                found["stress"].append((prediction.stress - labels.stress, _spread(m.stress)))
        return found

    def _sigmas(self, members: _Members, n_atoms: int, per_atom: bool) -> dict[str, Any]:
        energy = self.maps["energy"]
        # u is calibrated per atom, as residuals are; the total's sigma is n times that of the mean.
        mean = energy.sigma(_spread(members.energy) / n_atoms)
        result: dict[str, Any] = {"energy_uncertainty": float(mean) * n_atoms}
        if per_atom:
            result["energies_uncertainty"] = energy.sigma(_spread(members.energies))
        if members.forces is not None:
            u = _spread(members.forces)
            result["forces_uncertainty"] = np.where(
                u <= self.force_threshold, 0.0, self.maps["forces"].sigma(u)
            )
        if members.stress is not None:
            result["stress_uncertainty"] = self.maps["stress"].sigma(_spread(members.stress))
        return result


def _network(potential: Potential) -> DropoutNetwork:
    found = potential.learned if isinstance(potential, SumPotential) else potential
    if not isinstance(found, DropoutNetwork):
        fix = "train one with KliffBPPotential(..., dropout=0.1), or use LLPR"
        raise PotentialError(
            explain("DropoutEnsemble needs a dropout network", got=type(found).__name__, fix=fix)
        )
    return found


def _with_network(potential: Potential, network: DropoutNetwork) -> Potential:
    return SumPotential(network, potential.baseline) if isinstance(potential, SumPotential) else network


def _plain_maps() -> dict[Kind, CalibrationMap]:
    return {kind: AlphaMap(1.0, calibrated=False) for kind in KINDS}


def _centred(values: Float[np.ndarray, " n_members *rest"]) -> Float[np.ndarray, " n_members *rest"]:
    return values - values.mean(axis=0)


def _spread(values: Float[np.ndarray, " n_members *rest"]) -> Float[np.ndarray, "*rest"]:
    return values.std(axis=0, ddof=1)
