"""FitSNAP-type potentials: the handle `FitSnapPotential` and the trainer `FitSnapTrainer`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols

from surefield.errors import DataError, PotentialError, nearest
from surefield.formats.snap import read_snap, write_snap
from surefield.potentials.learned_part import learned_part
from surefield.potentials.potential import Potential, SumPotential
from surefield.potentials.saving import load_potential
from surefield.potentials.snap.snap import Snap
from surefield.structures.labels import Labels
from surefield.trainers.fitsnap_settings import FitSnapSettings, fitsnap_settings, read_sections
from surefield.trainers.handle import POTENTIAL_FILE, PotentialHandle, arguments_of
from surefield.trainers.result import FitResult
from surefield.trainers.trainer import Trainer
from surefield.training.breakdown import GROUP_KEYS, group_of
from surefield.training.dataset import Sample
from surefield.training.least_squares import StreamedRows, solve
from surefield.training.linear import linear_rows, with_coefficients
from surefield.training.problem import ROW_SUMS, Problem, Weights

__all__ = ["FitSnapPotential", "FitSnapTrainer"]

#: Name of the files for LAMMPS, without suffix.
PREFIX: Final = "fitsnap_potential"
#: FitSNAP's constant, bar per eV/Å^3; weights of groups are per bar.
BAR: Final = 1.6021765e6
#: Singular values below this part of the largest are dropped, as in FitSNAP.
_CUT: Final = 1e-13


@final
class FitSnapPotential(PotentialHandle):
    """Handle around a SNAP potential, linear or quadratic, with or without a reference pair potential.

    Args:
        species: chemical symbols.
        model_driver: of a KIM back end; stored, without effect here.
        kim_api: likewise.
        settings_path: settings file of FitSNAP (INI), dictionary with the same sections, or None for 2J = 6,
            rcutfac 4.67637, wj 1 and radelem 0.5 of each type, least squares by SVD.
        kim_item_type: of a KIM back end; stored, without effect here.
        parameter_path: start parameters: .snapcoeff and .snapparam (without suffix), or what was saved.
        kim_id: id in a registry that this potential came from.
        model_name_prefix: first part of the ids that a registry gives.

    Raises:
        ConfigError: settings that are unknown, make no sense, or are not supported.
    """

    def __init__(
        self,
        species: Sequence[str] | str,
        model_driver: str | None = None,
        kim_api: str | None = None,
        settings_path: str | Path | Mapping[str, Mapping[str, Any]] | None = None,
        kim_item_type: str = "simulator-model",
        parameter_path: str | Path | None = None,
        kim_id: str | None = None,
        model_name_prefix: str = "FitSnap",
    ) -> None:
        super().__init__(
            species, kim_id=kim_id, parameter_path=parameter_path, model_name_prefix=model_name_prefix
        )
        self.model_driver, self.kim_api, self.kim_item_type = model_driver, kim_api, kim_item_type
        self.sections = read_sections(settings_path)
        self.fit_settings: FitSnapSettings = fitsnap_settings(self.sections, self.species)
        self._start = None if parameter_path is None else str(Path(parameter_path).resolve())

    def settings(self) -> dict[str, Any]:
        """Constructor arguments; the content of a settings file, not its path."""
        return arguments_of(self, settings_path=self.sections or None, parameter_path=self._start)

    def make(self) -> Snap | SumPotential:
        """The potential of the settings, with the start parameters, or zeros."""
        own = self.fit_settings
        snap = Snap(own.descriptor, own.quadratic)
        made = snap if own.reference is None else SumPotential(snap, own.reference)
        if self._start is None:
            return made
        start = self.read(Path(self._start))
        if self.sections and start.config() != made.config():
            raise PotentialError(
                "the start parameters do not fit the settings",
                where=self._start,
                fix="give the settings they were fitted with, or none",
            )
        return start

    def export_files(self, folder: Path) -> list[Path]:
        """Write the files for LAMMPS: .snapcoeff, .snapparam, .mod."""
        return write_snap(folder / PREFIX, self.model, self.fit_settings.types)  # type: ignore[arg-type]

    def read(self, path: Path) -> Snap | SumPotential:
        """The potential of files for LAMMPS (path without suffix), or of what was saved.

        Raises:
            PotentialError: nothing there, damaged, no SNAP potential, or one of other elements.
        """
        if path.is_dir():
            path = path / (POTENTIAL_FILE if (path / POTENTIAL_FILE).exists() else PREFIX)
        model = load_potential(path) if path.suffix == ".npz" else read_snap(path)
        if not isinstance(learned_part(model), Snap):
            raise PotentialError(f"{path} holds a {type(model).__name__}, not a SNAP potential")
        symbols = [chemical_symbols[z] for z in model.species]
        if sorted(symbols) != sorted(self.species):
            raise PotentialError(
                "the file has other elements", where=path, got=symbols, expected=self.species
            )
        return model  # type: ignore[return-value]


@final
class FitSnapTrainer(Trainer):
    """Fits SNAP by weighted linear least squares: minimises the sum of (w r)^2 over all rows.

    Solver, groups, kinds of labels and the reference potential are those of the potential's settings. Groups:
    their eweight, fweight and vweight (per bar) multiply those of the call; sizes make a seeded split, the
    validation set being the testing size, or without one all that is not fitted; `smartweights` divides all
    three by the number of the group's fitted configurations, fweight by 3 n_atoms and vweight by 6 as well.
    `[ESHIFT]` is added to the energies, so that the potential and all errors are those of the shifted
    energies, as FitSNAP has it. With `bzeroflag` the constants are zero and not fitted.
    """

    trains: ClassVar[tuple[type[Potential], ...]] = (Snap,)
    handles: ClassVar[tuple[type[PotentialHandle], ...]] = (FitSnapPotential,)

    def settings(self) -> dict[str, Any]:
        """None."""
        return {}

    def refusal(self, handle: PotentialHandle, *, per_atom_weights: bool) -> str | None:
        """None: it fits all potentials of its classes."""
        return None

    def minimised_rows(self, model: Potential, configurations: Sequence[Sample], weights: Weights) -> None:
        """None: it minimises errors of labels times weights."""

    def weighted(
        self, configurations: Sequence[Sample], handle: PotentialHandle, fitted: Collection[str]
    ) -> list[Sample]:
        """Copies with the weights of their groups (zero for kinds of labels not used), energies shifted."""
        if not isinstance(handle, FitSnapPotential):
            return list(configurations)
        settings = handle.fit_settings
        samples = []
        names = _group_names(configurations, settings)
        sizes = Counter(n for c, n in zip(configurations, names, strict=True) if c.id in fitted)
        for c, name in zip(configurations, names, strict=True):
            factors = np.array(settings.used, float)
            if name is not None:
                group = settings.groups[name]
                factors *= (group.energy, group.forces, group.stress * BAR)
                if settings.smartweights:
                    factors /= max(sizes[name], 1) * np.array([1, 3 * c.n_atoms, 6])
            shifted = replace(c, labels=_shifted(c, settings.shifts))
            samples.append(shifted.scaled(**dict(zip(Weights._fields, factors.tolist(), strict=True))))
        return samples

    def own_split(
        self, configurations: Sequence[Sample], handle: PotentialHandle, seed: int
    ) -> tuple[list[int], list[int]] | None:
        """Training and validation indices by the sizes of the groups; None if all are fitted."""
        if not isinstance(handle, FitSnapPotential):
            return None
        settings = handle.fit_settings
        if all(group.whole for group in settings.groups.values()):
            return None
        names = _group_names(configurations, settings)
        train, test = [], []
        for name in settings.groups:
            members = [i for i, n in enumerate(names) if n == name]
            parts = _drawn(members, name, settings, settings.random_seed or seed)
            train += parts[0]
            test += parts[1]
        if not train:
            raise DataError("[GROUPS] leaves nothing to fit", expected="a training size above 0")
        return sorted(train), sorted(test)

    def fit(self, model: Potential, problem: Problem) -> FitResult:
        """Stream the rows of all configurations through QR, then solve."""
        settings = problem.handle.fit_settings if isinstance(problem.handle, FitSnapPotential) else None
        layer = model.last_layer()
        assert isinstance(layer, Snap)
        fit_bias = not layer.descriptor.bzeroflag
        rows = StreamedRows(layer.readout.size + (layer.bias.size if fit_bias else 0))
        sums = problem.kept(ROW_SUMS, model)
        done, known = 0, sums.load()
        if known is not None:
            done = int(known["done"])
            rows.go_on_from(known)
        left = problem.train[done:]
        parts = linear_rows(model, left, problem.residual_weights, fit_bias=fit_bias)
        for number, part in enumerate(parts, start=done + 1):
            rows.add(part.a, part.b)
            sums.save(lambda number=number: {"done": np.array(number), **rows.arrays()})
        solver, alpha = ("svd", 0.0) if settings is None else (settings.solver, settings.alpha)
        solution = solve(rows.reduced(), solver, eps=_CUT, alpha=alpha)
        fitted = with_coefficients(model, solution.x)
        if not fit_bias:
            zeros = jnp.zeros_like(layer.bias)
            fitted = eqx.tree_at(lambda p: p.last_layer().bias, fitted, zeros)
        notes = {
            "solver": solver,
            "rank": solution.rank,
            "columns": len(solution.x),
            "condition": solution.condition,
            "rows": solution.n_rows,
            "energy_shifts": {} if settings is None else dict(settings.shifts),
        }
        text = f"{solver}: rank {solution.rank} of {len(solution.x)}, condition {solution.condition:.3g}"
        message = "; ".join(filter(None, [text, solution.message]))
        return FitResult(fitted, solution.converged, message, notes=notes)


def _group_names(configurations: Sequence[Sample], settings: FitSnapSettings) -> list[str] | list[None]:
    """Group of each configuration; None where the settings have no groups.

    Raises:
        DataError: a configuration without a group, or in one that the settings do not have.
    """
    if not settings.groups:
        return [None] * len(configurations)
    groups = []
    for c in configurations:
        name = group_of(c)
        if name is None:
            fix = f"give it info[{GROUP_KEYS[0]!r}], or leave [GROUPS] out"
            raise DataError(f"configuration {c.id} has no group", got=list(c.atoms.info), fix=fix)
        if name not in settings.groups:
            raise DataError(
                f"configuration {c.id}: [GROUPS] has no group {name!r}; {nearest(name, settings.groups)}"
            )
        groups.append(name)
    return groups


def _drawn(
    members: Sequence[int], name: str, settings: FitSnapSettings, seed: int
) -> tuple[list[int], list[int]]:
    """Those of a group that are fitted and tested; a draw by its name, which other groups do not change."""
    try:
        n_train, n_test = settings.groups[name].counts(len(members))
    except ValueError as error:
        raise DataError(f"group {name!r} in [GROUPS] has too few configurations: {error}") from None
    rng = np.random.default_rng([int(seed), *name.encode()])
    drawn = [members[i] for i in rng.permutation(len(members))]
    return drawn[:n_train], drawn[n_train : n_train + n_test]


def _shifted(sample: Sample, shifts: Mapping[str, float]) -> Labels:
    """Labels with the energy of each element added to the energy."""
    if not shifts or "energy" not in sample.labels:
        return sample.labels
    shift = sum(shifts.get(symbol, 0.0) for symbol in sample.atoms.get_chemical_symbols())
    return Labels(**{**sample.labels.results(), "energy": sample.labels.energy + shift})
