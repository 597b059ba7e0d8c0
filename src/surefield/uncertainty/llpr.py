"""LLPR: calibrated uncertainties of energies, forces and stresses from the last layer of a potential."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, final

import numpy as np
from jaxtyping import Float

from surefield.calibration.held_out import HeldOut, check_names, fit_maps
from surefield.calibration.maps import (
    AlphaMap,
    AlphaPowerMap,
    AlphaSigma0Map,
    CalibrationMap,
    StructureFloorMap,
)
from surefield.errors import ConfigError, DataError, PotentialError
from surefield.execution.identity import digest
from surefield.execution.memory import check_memory
from surefield.execution.memory_maps import release_compiled
from surefield.execution.process_group import ProcessGroup, n_processes
from surefield.execution.progress import track
from surefield.execution.stopwatch import Stopwatch, times
from surefield.potentials.abilities import ClosedForm, SharedFeatures, Tangent
from surefield.potentials.learned_part import learned_part
from surefield.potentials.potential import (
    HasPotential,
    LastLayerPotential,
    Potential,
    as_potential,
)
from surefield.potentials.saving import load_potential
from surefield.quantities import quantity, uncertain
from surefield.sensitivity.covariance import RowCovariance, peak_memory
from surefield.sensitivity.posterior import LLPRPosterior
from surefield.structures.labels import Mapped
from surefield.structures.neighbors import Neighborhood
from surefield.structures.read import Source
from surefield.training.checkpoint import (
    PartialSums,
    identity_of,
    part_of,
    potential_entries,
    sample_contents,
)
from surefield.training.dataset import LabelledSet, as_labelled
from surefield.uncertainty.abilities import FromFeatures, HasMembers, HasSources
from surefield.uncertainty.architecture import ArchitectureConfig, LLPRTraining, architecture_of
from surefield.uncertainty.ensemble_training import train_members
from surefield.uncertainty.last_layer_ensemble import sample_ensemble
from surefield.uncertainty.member_deviations import displaced
from surefield.uncertainty.member_learner import Displacements
from surefield.uncertainty.quality_report import QualityReport, quality_report
from surefield.uncertainty.row_sums import (
    Blocks,
    Clock,
    HeldRows,
    RowPass,
    fitted_posterior,
    masked_values,
    partial_files,
    quantity_rows,
    row_kinds_of,
    summed_rows,
    sums_of,
    without_offset,
)
from surefield.uncertainty.spread import Spread
from surefield.uncertainty.spreads_along import spreads_along, target_of
from surefield.uncertainty.trained_body import trainable_layer
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["LLPR", "check_size", "fit_memory"]

logger = logging.getLogger(__name__)

Rows = Float[np.ndarray, "n_rows n_features"]
#: Settings that a covariance which is summed anew has no use for.
_OF_TRAINING: Final = {
    *("num_epochs", "train_all_parameters", "best_model_metric", "model_checkpoint", "residual_offset"),
    *("distributed", "distributed_port"),
}
#: Kinds of rows that are summed apart: of energies, forces, stresses.
_KINDS: Final = 3


@final
@dataclass(frozen=True, eq=False)
class LLPR(Uncertainty, FromFeatures, HasMembers, HasSources):
    """Last-layer prediction rigidity around a potential; made by `fit`, and used like a potential.

    sigma = map(u), u^2 = g (C + s^2 I)^-1 g, with g the derivative of the quantity with respect to the
    last-layer weights, C the sum of such rows over the training set (energies, forces, stresses), and one
    calibration map per quantity, fitted on data the potential was not trained on. Force rows that are much
    shorter than others vanish by symmetry.
    Source: Bigi, Chong, Ceriotti, Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024).

    Attributes:
        posterior: of the last-layer weights.
        displacements: of these weights in each member, by target; they add up to zero.
        stale: the potential was trained since, with its members: the posterior is that of another one, and
            sigmas are the spread of the members.
        probes: random weights of the posterior; where there are any, sigmas are sampled from them.
        sets: that a stale posterior is fitted anew on; not saved.
    """

    kind: ClassVar[str] = "llpr"

    posterior: LLPRPosterior
    displacements: Mapping[str, Displacements] = field(default_factory=dict)
    stale: bool = False
    probes: Displacements | None = None
    sets: tuple[LabelledSet, LabelledSet] | None = field(default=None, repr=False)

    @classmethod
    def fit(
        cls,
        potential: Potential | HasPotential | None,
        train: Source | LabelledSet,
        calibration: Source | LabelledSet,
        *,
        config: ArchitectureConfig | Mapping[str, Any] | str | Path | None = None,
        shared_alpha: float = 0.0,
        labels: Mapped | None = None,
        folder: str | Path | None = None,
        progress: bool | None = None,
        **keys: Any,
    ) -> LLPR:
        """Sum the rows of the training set, choose the regulariser, calibrate on held-out data, draw members.

        Args:
            potential: trained, with a linear last layer; or a handle that holds one, such as `NeuralNetwork`;
                None: the file `model_checkpoint`.
            train: structures it was trained on.
            calibration: labelled structures it has not seen.
            config: block `architecture` of a configuration, as a dict or a file; None: its defaults.
            shared_alpha: number of calibration energies that the alpha of the forces counts as when the alpha
                of the energy is fitted; for sets with few structures, which have many forces.
            labels: explicit keys of the labels.
            folder: there already; keeps the rows of an interrupted fit, which goes on from them, and what a
                training of members writes.
            progress: show a progress bar.
            keys: single entries of the block, such as `row_kinds`, `regularizer`, `calibration_map` and
                `num_ensemble_members`; see `LLPRTraining`.

        Raises:
            ConfigError: an unknown key, value or kind; see `ArchitectureConfig`.
            DataError: no labelled structure in one of the sets.
            PotentialError: the potential has no linear last layer, or does not know an element; rows in the
                folder are of other structures or of another potential.
        """
        architecture = architecture_of(config, keys)
        t, members = architecture.training, architecture.model.num_ensemble_members
        if not shared_alpha >= 0:
            raise ConfigError(f"shared_alpha must not be negative, got {shared_alpha}")
        potential = as_potential(_checkpoint_of(t) if potential is None else potential)
        known = uncertain(potential.supplies)
        row_kinds = ("energy",) if t.compat and t.row_kinds is None else t.row_kinds
        _check_possible(potential, t, members, row_kinds)
        layer = _usable_layer(potential)
        options: Any = {"num_workers": t.num_workers, "allow_nan": True}
        sets = [as_labelled(part, potential, labels, **options) for part in (train, calibration)]
        if not all(len(part) for part in sets):
            raise DataError("LLPR needs at least one labelled structure to fit and one to calibrate")
        sets[0], offset = without_offset(sets[0], potential, t.residual_offset)
        sets[1], _ = without_offset(sets[1], potential, t.residual_offset, offset)
        kinds = row_kinds_of(sets, known, row_kinds)
        outputs = [name for name in known if name not in kinds and quantity(name).source == "output"]
        clocks, solving = [Clock(Stopwatch(), Stopwatch()) for _ in sets], Stopwatch()
        group = _group(potential, sets, t)
        parts = (
            sets if group is None else [part[np.arange(len(part))[group.share(len(part))]] for part in sets]
        )
        files = partial_files(folder, potential, parts, kinds, group)
        done = sum(file.done for file in files)
        whole, blocks = () if t.compat else t.per_structure_targets, Blocks()
        if t.model_fields_set & {"batch_size", "max_atoms_per_batch", "min_atoms_per_batch"}:
            blocks = Blocks(t.batch_size, t.max_atoms_per_batch, t.min_atoms_per_batch)
        with (
            nullcontext() if group is None else group,
            track(sum(map(len, parts)), "last-layer rows", progress, done=done) as bar,
        ):
            passes = [
                RowPass(potential, *rest, bar, blocks, whole)
                for rest in zip(parts, clocks, files, strict=True)
            ]
            covariance, thresholds, held, zeros = sums_of(passes, kinds, outputs, layer.n_features, group)
        with solving:
            validation = {kind: held[kind][:2] for kind in kinds if kind in held}
            posterior, weights = fitted_posterior(
                layer, covariance, validation, t.regularizer, t.row_weights, t.compat, zeros
            )
            nothing = HeldRows(np.zeros((0, layer.n_features)), np.zeros(0), np.zeros(0, int))
            rows = {kind: nothing for kind in kinds} | held
            pairs = {name: HeldOut(r, posterior.u(g), numbers) for name, (g, r, numbers) in rows.items()}
            chosen = dict.fromkeys(pairs, "alpha") if t.compat else {}
            maps = fit_maps(pairs, {**chosen, **(t.calibration_map or {})}, t.calibration_method)
        statistics = _statistics(posterior, covariance, held, clocks, solving)
        statistics |= {
            "weights": weights,
            "whole": list(whole),
            "masked": masked_values(sets[0], kinds, zeros),
        }
        if offset:
            statistics["residual_offset"] = offset
            logger.info("energies of the labels exceed those of the potential by %s eV per atom", offset)
        for file in files:
            file.remove()
        maps = _completed(maps, outputs, shared_alpha, pairs)
        fitted = cls(potential, maps, thresholds, statistics, posterior)._with_largest(sets[1])
        # All processes train the same members; one of them keeps checkpoints.
        if group is not None and group.rank > 0:
            folder = None
        return fitted._with_members(members, sets, t, None if folder is None else Path(folder))

    def _with_members(
        self,
        members: Mapping[str, int],
        sets: Sequence[LabelledSet],
        training: LLPRTraining,
        folder: Path | None,
    ) -> LLPR:
        """Copy with members by target, trained if the settings say so."""
        fitted, scheme = self, "iid" if training.compat else training.ensemble_sampling
        for target, n_members in members.items():
            fitted = fitted.with_ensemble(n_members, target=target, seed=training.seed, scheme=scheme)
            if training.num_epochs is not None:
                fitted = fitted._with_trained(target, sets, training, folder)
        return fitted

    def _with_trained(
        self, target: str, sets: Sequence[LabelledSet], training: LLPRTraining, folder: Path | None
    ) -> LLPR:
        """Copy with the members of a target trained; `statistics` has the metrics of every epoch."""
        start = self.displacements[target]
        trained = train_members(self.potential, start, sets, self.thresholds, training, target, folder)
        told = {"epoch": trained.epoch, "history": trained.history}
        statistics = {**self.statistics, f"training of {target} members": told}
        displacements = {**self.displacements, target: trained.displacements}
        fitted = self._replaced(displacements=displacements, statistics=statistics)
        if not training.train_all_parameters:
            return fitted
        kept = training.model_dump(mode="json", exclude_unset=True, exclude=_OF_TRAINING)
        moved = fitted._replaced(
            potential=trained.potential,
            statistics={**statistics, "architecture": kept},
            sets=(sets[0], sets[1]),
        )
        return moved._by_members()

    def _by_members(self) -> LLPR:
        """Copy whose sigmas are the spread of the members, as it is."""
        one = AlphaMap(1.0, calibrated=False)
        maps = {name: one for name in self.maps if target_of(name) in self.displacements}
        return self._replaced(stale=True, maps=maps)

    def refit_covariance(
        self,
        train: Source | LabelledSet | None = None,
        calibration: Source | LabelledSet | None = None,
        *,
        labels: Mapped | None = None,
        progress: bool | None = None,
    ) -> LLPR:
        """Copy with the covariance, the regulariser and the calibration of the potential as it is now.

        That makes sigmas analytic again after a training of all parameters; members stay as they are.

        Args:
            train: structures it was trained on; None: those of the fit, which are known until it is saved.
            calibration: labelled structures it has not seen; None: those of the fit.
            labels: explicit keys of the labels.
            progress: show a progress bar.

        Raises:
            DataError: no structures given, and none known.
        """
        given = (train, calibration)
        if train is None or calibration is None:
            if self.sets is None or given != (None, None):
                fix = "refit_covariance(train, calibration)"
                raise DataError("the covariance needs both sets, which a file does not hold", fix=fix)
            train, calibration = self.sets
        settings = dict(self.statistics.get("architecture", {}))
        fitted = LLPR.fit(self.potential, train, calibration, labels=labels, progress=progress, **settings)
        kept = {name: value for name, value in self.statistics.items() if name.startswith("training of")}
        statistics = {**fitted.statistics, **kept}
        return fitted._replaced(displacements=self.displacements, statistics=statistics)

    def with_sigmas(self, source: str, method: str, n_probes: int, seed: int) -> LLPR:
        """Copy whose sigmas have a source and a method, see `predict`."""
        if source == "ensemble" and not self.displacements:
            fix = "with_ensemble(n_members), or num_ensemble_members"
            raise ConfigError("LLPR has no members whose spread could be the sigma", fix=fix)
        if source == "analytic" or (method == "sampled" and source == "auto"):
            self._check_posterior("analytic sigmas")
        if method == "sampled":
            if source == "ensemble":
                raise ConfigError("the spread of the members is not sampled", fix="source='analytic'")
            if isinstance(n_probes, bool) or not isinstance(n_probes, int) or n_probes < 2:
                raise ConfigError("n_probes must be at least 2", got=repr(n_probes))
            rng = np.random.Generator(np.random.Philox(key=seed))
            drawn = rng.standard_normal((n_probes, self.posterior.n_features))
            return self._replaced(probes=self.posterior.color(drawn))
        return self._by_members() if source == "ensemble" else self

    def sampling_error(self) -> float | None:
        """Of sigmas that are sampled: 1/sqrt(2(M-1)) of M probes; None of others."""
        return None if self.probes is None else float(1 / np.sqrt(2 * (len(self.probes) - 1)))

    def _check_posterior(self, what: str) -> None:
        if self.stale:
            raise PotentialError(
                f"no {what}: the potential was trained with its members since the covariance was summed",
                fix="refit_covariance(), or source='ensemble'",
            )

    def with_ensemble(
        self,
        n_members: int,
        *,
        target: str = "energy",
        seed: int = 0,
        scheme: Literal["iid", "moment_matched"] = "moment_matched",
    ) -> LLPR:
        """Copy with members drawn from the posterior, see `sample_ensemble`.

        Members of the energy are those of forces and stresses, too: each is one energy surface, so that their
        spread has the alpha of the energy.

        Raises:
            ConfigError: fewer than two members, an unknown target or scheme.
        """
        self._check_posterior("members to draw")
        targets = tuple(n for n in self.maps if n == "energy" or quantity(n).source == "output")
        check_names([target], targets, "of ensemble")
        alpha = float(getattr(self.maps[target], "alpha", np.nan))
        if not alpha > 0:
            fix = f"calibration_map={{'{target}': 'alpha'}}"
            raise ConfigError(f"members need the map alpha of {target}", got=self.maps[target].name, fix=fix)
        members = sample_ensemble(self.posterior, alpha, n_members, seed, scheme)
        return self._replaced(displacements={**self.displacements, target: members})

    def update(self, frames: Source | LabelledSet, *, labels: Mapped | None = None) -> LLPR:
        """Copy whose posterior knows further labelled structures; the potential stays as it is.

        C gains their rows, weighted as before; regulariser and calibration are kept, and so are members.

        Raises:
            DataError: no labelled structure.
        """
        self._check_posterior("covariance to update")
        data, kinds = (
            as_labelled(frames, self.potential, labels, allow_nan=True),
            tuple(self.statistics["rows"]),
        )
        clock, whole = Clock(Stopwatch(), Stopwatch()), self.statistics.get("whole", ())
        with track(len(data), "last-layer rows", False) as bar:
            adding = RowPass(self.potential, data, clock, PartialSums(None, {}), bar, whole=whole)
            more, _ = summed_rows(adding, kinds, self.posterior.n_features)
        if not more.n_rows:
            raise DataError("no structure has a label whose rows were summed", expected=", ".join(kinds))
        weights = {kind: self.statistics["weights"][kind] for kind in more.n_rows}
        matrix = self.posterior.covariance + more.combined(weights)
        posterior = LLPRPosterior.from_covariance(matrix, self.posterior.varsigma2)
        counts = {kind: n + more.n_rows.get(kind, 0) for kind, n in self.statistics["rows"].items()}
        changed = {"rank": posterior.rank, "effective_dof": posterior.effective_dof, "rows": counts}
        return self._replaced(posterior=posterior, statistics={**self.statistics, **changed})

    def report(self, test: Source | LabelledSet, *, labels: Mapped | None = None) -> QualityReport:
        """How good the sigmas are on labelled structures, beside constant ones; see `quality_report`."""
        return quality_report(self, test, labels=labels)

    def count_members(self) -> int:
        """Members of the energy, if any were drawn."""
        return len(self.displacements.get("energy", ()))

    def member_potential(self, member: int) -> Potential:
        """The potential with displaced last-layer weights."""
        return displaced(self.potential, self.displacements["energy"][member - 1])

    def spreads(
        self, structures: Sequence[Neighborhood], names: Collection[str], *, batch_size: int
    ) -> Iterator[tuple[int, Mapping[str, Spread]]]:
        """Index of each structure and its spreads from the posterior; one structure after the other.

        Those over members or probes come batch by batch.
        """
        if self.stale or self.probes is not None:
            along, options = self.displacements, {"batch_size": batch_size}
            if self.probes is not None:
                along = {target_of(name): self.probes for name in names}
            yield from spreads_along(
                self.last_layer(), along, self.displacements, structures, names, **options
            )
            return
        for index, rows in enumerate(quantity_rows(self.last_layer(), structures, names)):
            n_atoms = structures[index].n_atoms
            yield index, {name: self._spread(name, g, n_atoms) for name, g in rows.items()}

    @cached_property
    def _elements_of_blocks(self) -> np.ndarray | None:
        """Element of each block of the last layer, 0 of one for all; None where rows are made otherwise."""
        layer = learned_part(self.potential)
        if not isinstance(layer, LastLayerPotential) or isinstance(layer, Tangent):
            return None
        if isinstance(layer, ClosedForm) and not isinstance(layer, SharedFeatures):
            return None
        return np.zeros(1, int) if layer.one_block else np.array(layer.species)

    def features_suffice(self, names: Collection[str]) -> bool:
        """Energies follow from the inputs of the last layer, and so do their spreads."""
        analytic = not self.stale and self.probes is None and self.posterior.cholesky is None
        return analytic and {"energy", "energies"}.issuperset(names) and self._elements_of_blocks is not None

    def spreads_of_features(
        self,
        features: Float[np.ndarray, "n_atoms n_site_features"],
        structure: Neighborhood,
        names: Collection[str],
    ) -> dict[str, Spread]:
        """Spreads of the energy of a structure and of its atoms."""
        elements = self._elements_of_blocks
        assert elements is not None
        blocks = (
            np.searchsorted(elements, structure.numbers)
            if len(elements) > 1
            else np.zeros(structure.n_atoms, int)
        )
        total, atoms = self.posterior.energy_spreads(features, blocks, len(elements))
        known = {"energy": Spread(np.asarray(total / structure.n_atoms)), "energies": Spread(atoms)}
        return {name: known[name] for name in names}

    def _spread(self, name: str, rows: Rows, n_atoms: int) -> Spread:
        entry = quantity(name)
        shape = entry.shape(n_atoms)
        lengths = np.linalg.norm(rows, axis=1).reshape(shape) if entry.symmetric_zeros else None
        if name == "energies":
            vectors = self.posterior.whiten_blocks(rows, self.last_layer().readout.shape[0])
        else:
            vectors = self.posterior.whiten(rows)
        u = np.linalg.norm(vectors, axis=1).reshape(shape)
        drawn = self.displacements.get(name if entry.source == "output" else "energy")
        members = None
        if drawn is not None:
            members = (n_atoms if entry.per_atom else 1) * (drawn @ rows.T).reshape(-1, *shape)
        return Spread(u, lengths, members, vectors.reshape(*shape, -1))

    def arrays(self) -> dict[str, np.ndarray]:
        """The posterior and the members."""
        lower = self.posterior.cholesky
        return {
            "eigenvalues": self.posterior.eigenvalues,
            "factor": self.posterior.factor,
            "varsigma2": np.array(self.posterior.varsigma2),
            **({} if lower is None else {"cholesky": lower}),
            **{f"members:{name}": drawn for name, drawn in self.displacements.items()},
            **({"stale": np.array(True)} if self.stale else {}),
        }

    @classmethod
    def fields_from(cls, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The posterior and the members."""
        parts = arrays["eigenvalues"], arrays["factor"], arrays.get("cholesky")
        return {
            "posterior": LLPRPosterior(float(arrays["varsigma2"]), *parts),
            "displacements": part_of(arrays, "members:"),
            "stale": "stale" in arrays,
        }


def check_size(layer: LastLayerPotential) -> None:
    """Refuse a last layer whose covariances do not fit into memory, before any row is computed.

    Raises:
        ConfigError: they do not.
    """
    n = layer.n_features
    detail = f"{n} weights of the last layer, whose eigenbasis takes about {(n / 1e4) ** 3:.1g} hours"
    fix = "use a potential of fewer elements or fewer features per element, or another kind of uncertainty"
    check_memory("LLPR", fit_memory(n), detail, fix)


def fit_memory(n_features: int) -> float:
    """Bytes that a fit takes at its peak."""
    return peak_memory(n_features, _KINDS)


def _usable_layer(potential: Potential) -> LastLayerPotential:
    release_compiled()
    layer = potential.last_layer()
    check_size(layer)
    if not np.any(np.asarray(layer.readout)):
        what = f"all last-layer weights of the {type(layer).__name__} are zero"
        raise PotentialError(what, fix="train it first: sigmas belong to fitted weights")
    return layer


def _check_possible(
    potential: Potential,
    training: LLPRTraining,
    members: Mapping[str, int],
    row_kinds: Sequence[str] | None,
) -> None:
    """Refuse, before the work, what a fit does not do.

    Raises:
        ConfigError: unknown quantities, or training of the potential for several targets.
        PotentialError: a potential without a body that could be trained.
    """
    known = uncertain(potential.supplies)
    check_names({*(row_kinds or ()), *(training.calibration_map or {})}, known, "of row")
    targets = {*members, *training.per_structure_targets, *training.loss_targets}
    check_names(targets, known, "of target")
    if training.train_all_parameters and training.num_epochs is not None:
        trainable_layer(potential)
        if len(members) > 1:
            what = "train_all_parameters: true trains the potential with the members of one target"
            raise ConfigError(what, got=", ".join(members), fix="name one in num_ensemble_members")


def _group(potential: Potential, sets: Sequence[LabelledSet], training: LLPRTraining) -> ProcessGroup | None:
    """The processes that share the rows; None where there is one."""
    if not training.distributed or n_processes() == 1:
        return None
    contents = {str(place): sample_contents(part.samples) for place, part in enumerate(sets)}
    identity = identity_of(**potential_entries(potential), **contents)
    return ProcessGroup.of_launcher(training.distributed_port, digest(json.dumps(identity)))


def _checkpoint_of(training: LLPRTraining) -> Potential:
    if training.model_checkpoint is None:
        raise ConfigError("no potential", fix="give one, or model_checkpoint, the file of a trained one")
    return load_potential(training.model_checkpoint)


def _statistics(
    posterior: LLPRPosterior,
    covariance: RowCovariance,
    held: Mapping[str, HeldRows],
    clocks: Sequence[Clock],
    solving: Stopwatch,
) -> dict[str, Any]:
    bare, rest = (sum(clock[i].seconds for clock in clocks) for i in (0, 1))
    return {
        "rows": dict(covariance.n_rows),
        "varsigma2": posterior.varsigma2,
        "n_features": posterior.n_features,
        "rank": posterior.rank,
        "effective_dof": posterior.effective_dof,
        "calibration_rows": {name: len(of.residuals) for name, of in held.items()},
        "cost": {
            "fit": times(bare, bare + rest + solving.seconds),
            "prediction": times(clocks[1].bare.seconds, sum(watch.seconds for watch in clocks[1])),
        },
    }


def _completed(
    maps: Mapping[str, CalibrationMap], outputs: Sequence[str], shared: float, pairs: Mapping[str, HeldOut]
) -> dict[str, CalibrationMap]:
    """Maps with one for the energy and for every output, though there may be no labels of them.

    The alpha^2 of the energy is averaged with that of the forces, which counts as `shared` energies: rows are
    weighted by precision, so one alpha would serve all kinds if the posterior were exact.
    """
    forces = maps.get("forces")
    # Without energies that count, as in nearsighted training, the forces know the one alpha.
    alone = float(getattr(forces, "alpha", 1.0))
    energy = maps.get("energy") or AlphaMap(alone if alone > 0 else 1.0, calibrated=False)
    # A force alpha of zero is all floor: the spread of the last layer says nothing.
    if (
        shared > 0
        and isinstance(energy, AlphaMap | AlphaPowerMap)
        and isinstance(forces, AlphaMap | AlphaSigma0Map | StructureFloorMap)
        and forces.alpha > 0
    ):
        n = len(pairs["energy"].residuals) if energy.calibrated else 0
        alpha2 = (n * energy.alpha**2 + shared * forces.alpha**2) / (n + shared)
        energy = replace(energy, alpha=float(np.sqrt(alpha2)), calibrated=True)
    unlabelled = AlphaMap(float(getattr(energy, "alpha", 1.0)), calibrated=False)
    return {**{name: unlabelled for name in outputs}, **maps, "energy": energy}
