"""Dropout ensembles: the spread over fixed members of a dropout network, calibrated."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self, final

import numpy as np
from jaxtyping import Float

from surefield.calibration.maps import AlphaMap
from surefield.errors import ConfigError, PotentialError
from surefield.potentials.dropout_network import (
    MEAN,
    MEMBERS_AT_ONCE,
    DropoutNetwork,
    check_rate,
    draw_masks,
    member_results,
)
from surefield.potentials.learned_part import learned_part, with_learned_part
from surefield.potentials.potential import HasPotential, Potential, as_potential
from surefield.quantities import uncertain
from surefield.structures.batching import padded_batches
from surefield.structures.neighbors import Neighborhood
from surefield.structures.read import Source
from surefield.structures.tensors import row_slices, to_voigt, volume
from surefield.training.dataset import LabelledSet
from surefield.uncertainty.abilities import HasMembers
from surefield.uncertainty.spread import Spread, check_n_members, spread_of_members
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["DropoutEnsemble"]

#: Rate for a network that was trained without dropout.
RATE: Final = 0.1
#: Bytes of the derivatives of a batch, more or less.
_BATCH_BYTES: Final = 2**28


@final
@dataclass(frozen=True, eq=False, init=False)
class DropoutEnsemble(Uncertainty, HasMembers):
    """Predictions of a dropout network with the spread over its members as uncertainty.

    Every member is one fixed set of masks, the same for all atoms and all structures, so it is a smooth
    potential with exact forces. The prediction is the mean over the members. Wen and Tadmor, npj Comput.
    Mater. 6, 124 (2020). Before `calibrated` (or `fit`) sigma is the plain spread (ddof = 1).

    Args:
        potential: a dropout network, a sum of one and a baseline, or a handle of either.
        M: members, at least 2.
        rate: of dropout, in (0, 1); None: that of the training, 0.1 if there was none.
        seed: of the masks; those of a member depend on the seed and the member's number alone.

    Raises:
        ConfigError: a rate outside (0, 1), a network without hidden layers, M < 2, a negative seed.
        PotentialError: a potential that is no dropout network.
    """

    kind: ClassVar[str] = "dropout_ensemble"
    first_member: ClassVar[int] = 0
    prefix: ClassVar[str] = ""

    def __init__(
        self, potential: Potential | HasPotential, M: int = 100, rate: float | None = None, seed: int = 0
    ) -> None:
        plain = as_potential(potential)
        network = _network(plain)
        check_n_members(M)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ConfigError("seed must be a whole number, not negative", got=repr(seed))
        rate = check_rate((network.dropout or RATE) if rate is None else rate, "rate", len(network.neurons))
        masks = draw_masks(network.neurons, M, rate, seed)
        ready = self._uncalibrated(with_learned_part(plain, network.with_masks(masks, rate)))
        vars(self).update(vars(ready))

    @classmethod
    def of_members(cls, potential: Potential | HasPotential) -> Self:
        """Ensemble of the members that a network holds, such as one read from KIM's files.

        Raises:
            ConfigError: fewer than two members.
        """
        plain = as_potential(potential)
        network = _network(plain)
        if network.n_members < 2:
            fix = "use DropoutEnsemble(potential, M, rate, seed), which draws them"
            raise ConfigError("the network holds too few members", got=network.n_members, expected=2, fix=fix)
        return cls._uncalibrated(with_learned_part(plain, network.of_member(MEAN)))

    @classmethod
    def _uncalibrated(cls, potential: Potential) -> Self:
        maps = {name: AlphaMap(1.0, calibrated=False) for name in uncertain(potential.supplies)}
        statistics = {"n_members": _network(potential).n_members}
        return cls._of(potential=potential, maps=maps, thresholds={}, statistics=statistics)

    @classmethod
    def fit(
        cls,
        potential: Potential | HasPotential,
        calibration: Source | LabelledSet,
        *,
        M: int = 100,
        rate: float | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Draw members and calibrate their spread; arguments as above and of `calibrated`."""
        return cls(potential, M, rate, seed).calibrated(calibration, **options)

    def count_members(self) -> int:
        """Number of members."""
        return _network(self.potential).n_members

    def member_potential(self, member: int) -> Potential:
        """The network with the masks of a member, or the full network (0)."""
        return with_learned_part(self.potential, _network(self.potential).of_member(member))

    def spreads(
        self, structures: Sequence[Neighborhood], names: Collection[str], *, batch_size: int
    ) -> Iterator[tuple[int, Mapping[str, Spread]]]:
        """Index of each structure and the spreads over the members, batch by batch."""
        network = _network(self.potential)
        derivatives = "forces" in names or "stress" in names
        if derivatives:
            per_edge = 24 * (network.descriptor.width + MEMBERS_AT_ONCE)
            largest = max((s.n_atoms * s.n_neighbors for s in structures), default=0)
            batch_size = min(batch_size, max(1, _BATCH_BYTES // max(per_edge * largest, 1)))
        for chunk, graph in padded_batches(structures, batch_size, network.dtype):
            results = member_results(network, graph, derivatives)
            energies, forces, virials = (None if r is None else np.asarray(r) for r in results)
            assert energies is not None
            slices = row_slices(structures[index].n_atoms for index in chunk)
            for place, (index, rows) in enumerate(zip(chunk, slices, strict=True)):
                s = structures[index]
                members = {"energies": _centred(energies[:, rows])}
                members["energy"] = members["energies"].sum(axis=1)
                if forces is not None:
                    members["forces"] = _centred(forces[:, rows])
                if virials is not None and s.periodic:
                    members["stress"] = _centred(to_voigt(virials[:, place]) / volume(s.cell))
                yield (
                    index,
                    {
                        name: spread_of_members(name, members[name], s.n_atoms)
                        for name in names
                        if name in members
                    },
                )

    def arrays(self) -> dict[str, np.ndarray]:
        """Nothing: the members are part of the network."""
        return {}

    @classmethod
    def fields_from(cls, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Nothing."""
        return {}


def _network(potential: Potential) -> DropoutNetwork:
    network = learned_part(potential)
    if not isinstance(network, DropoutNetwork):
        fix = "train one with KliffBPPotential(..., dropout=0.1), or use LLPR"
        raise PotentialError("DropoutEnsemble needs a dropout network", got=type(network).__name__, fix=fix)
    return network


def _centred(values: Float[np.ndarray, " n_members *rest"]) -> Float[np.ndarray, " n_members *rest"]:
    return values - values.mean(axis=0)
