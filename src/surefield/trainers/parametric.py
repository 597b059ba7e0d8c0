"""Physics models fitted to data: the trainer `ParametricModelTrainer`, and the handle `KIMPotential`."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import numpy as np
import yaml
from ase import Atoms
from jaxtyping import Float

from surefield.errors import ConfigError, PotentialError
from surefield.execution.identity import digest
from surefield.files import json_text, write_atomic
from surefield.formats.kim import driver_of, write_kim_model
from surefield.formats.kim_models import find_driver, find_model
from surefield.potentials.parametric.edges import BondPotential
from surefield.potentials.parametric.free_parameters import FreeParameters
from surefield.potentials.parametric.parameters import ParametricPotential
from surefield.potentials.potential import Potential
from surefield.trainers.handle import PotentialHandle, arguments_of
from surefield.trainers.kim_potential import KIMPotential, read_parameters
from surefield.trainers.manifest import Manifest, read_manifest, weighted_by_file
from surefield.trainers.result import FORCE_ERRORS, FitResult
from surefield.trainers.trainer import Trainer
from surefield.training.breakdown import LossForm
from surefield.training.dataset import Sample
from surefield.training.evaluations import KeptEvaluations
from surefield.training.force_errors import ForceErrorLog, finish_log, open_log
from surefield.training.minimize import METHODS, check_method, minimize
from surefield.training.parametric_objective import BondLoss, OpaqueLoss
from surefield.training.problem import EVALUATIONS, Problem, Weights

__all__ = ["KIMPotential", "ParametricModelTrainer"]

Vector = Float[np.ndarray, " n_free"]


@final
class ParametricModelTrainer(Trainer):
    """Fits named parameters of a physics model with a minimiser of scipy and exact gradients.

    The loss is the sum over configurations of (weighted residual of the total energy)^2, the mean square of
    the weighted force components and that of the stress components; see `Trainer`.

    Args:
        model_name: KIM id of the model, or a name that stands for it; it must be that of the potential.
        params_to_update: names; `{name: {'transform_name': 'LogParameterTransform', 'value', 'bounds'}}`; or
            KLIFF's `{name: [['default'], [v, 'fix'], [v, lo, hi]]}`; or a list of these.
        training_split: share of the configurations that is fitted.
        loss_method: 'mse', or 'mae' for absolute values.
        max_evals: largest number of evaluations of the loss.
        optimization_method: name of a method in `minimize.METHODS`.
        scratch: folder in which every fit makes a new one, with the best parameters so far in `best.json`.
        manifest: dictionary or YAML file with these settings and more; see `Manifest`.
        energy_per_atom: whether the loss counts energies per atom.
        seed: of the split that a manifest asks for.
        log_per_atom_pred: write `force_errors/`, one row per accepted iteration; see `ForceErrorLog`.

    Raises:
        ConfigError: an argument is not usable, or the manifest says something else.
    """

    trains: ClassVar = (ParametricPotential,)
    handles: ClassVar = (KIMPotential,)
    bracket: ClassVar[Literal["rows", "sum", "mean"]] = "sum"

    def __init__(
        self,
        model_name: str | None = None,
        params_to_update: Sequence[Any] | Mapping[str, Any] | None = None,
        training_split: float = 1.0,
        loss_method: str = "mse",
        max_evals: int = 1000,
        optimization_method: str = "L-BFGS-B",
        scratch: str | Path | None = None,
        *,
        manifest: Mapping[str, Any] | str | Path | None = None,
        energy_per_atom: bool = False,
        seed: int = 1234,
        log_per_atom_pred: bool = False,
    ) -> None:
        self.manifest, self._document = (Manifest(), None) if manifest is None else read_manifest(manifest)
        self.model_name = self._agreed("model_name", model_name, None)
        self.params_to_update = self._agreed("params_to_update", params_to_update, None)
        self.loss_method = self._agreed("loss_method", loss_method, "mse")
        self.optimization_method = self._agreed("optimization_method", optimization_method, "L-BFGS-B")
        self.seed = self._agreed("seed", seed, 1234)
        self.training_split, self.max_evals = training_split, max_evals
        self.scratch = None if scratch is None else Path(scratch)
        self.energy_per_atom = bool(energy_per_atom)
        self.log_per_atom_pred = log_per_atom_pred or self.manifest.log_per_atom_pred
        self._check()

    def settings(self) -> dict[str, Any]:
        """Constructor arguments."""
        return arguments_of(self, manifest=self._document)

    def frames(self) -> list[Atoms]:
        """Structures of the file that the manifest names, for `train(..., trainer.frames())`."""
        return self.manifest.frames()

    def refusal(self, handle: PotentialHandle, *, per_atom_weights: bool) -> str | None:
        """Why this potential cannot be fitted, or with these weights."""
        model = handle.model
        if not _is_called(model, handle, self.model_name):
            name = handle.kim_id or type(model).__name__
            return f"the trainer was made for model_name {self.model_name!r}, the potential is {name}"
        if not isinstance(model, BondPotential):
            if METHODS[self.optimization_method].needs == "rows":
                return f"{self.optimization_method} needs derivatives that {handle.kim_id} does not have"
            if not getattr(model, "writable", True):
                return f"the driver of {handle.kim_id} cannot write its parameters, so a fit would be lost"
        asked = self.manifest.weights_file
        if per_atom_weights and asked is not None and _weighs_atoms(asked):
            return f"per_atom_weights and the forces of {asked} both weigh atoms: give one of them"
        return None

    def weighted(
        self, configurations: Sequence[Sample], handle: PotentialHandle, fitted: Collection[str]
    ) -> list[Sample]:
        """Copies with the weights of the manifest."""
        samples = list(configurations)
        if self.manifest.weights_file is not None:
            samples, _ = weighted_by_file(self.manifest.weights_file, samples)
        if self.manifest.factors:
            samples = [_scaled(c, self.manifest.factors) for c in samples]
        return samples

    def minimised_rows(self, model: Potential, configurations: Sequence[Sample], weights: Weights) -> None:
        """None: it minimises errors of labels times weights."""

    def own_split(
        self, configurations: Sequence[Sample], handle: PotentialHandle, seed: int
    ) -> tuple[list[int], list[int]] | None:
        """The split of the manifest."""
        return self.manifest.split(len(configurations), self.seed)

    def fit(self, model: Potential, problem: Problem) -> FitResult:
        """Minimise the loss from the start values; the best parameters seen are the result.

        Raises:
            ConfigError: parameters or bounds that do not fit the model or the method.
            DataError: the loss at the start is not finite.
        """
        assert isinstance(model, ParametricPotential)
        free = FreeParameters.asked(self.params_to_update, _started(model, self.manifest))
        check_method(self.optimization_method, free.bounded)
        start = free.applied(_started(model, self.manifest))
        form = LossForm("sum", self.loss_method, self.energy_per_atom)
        kind = BondLoss if isinstance(start, BondPotential) else OpaqueLoss
        loss = kind(start, free, problem, form, model.cutoff)
        names = free.names()
        title = f"{self.manifest.name}: " if self.manifest.name else ""
        what = f"{type(model).__name__}, free: {', '.join(names)}; {self.optimization_method}"
        problem.run.log(title + what)
        record = _Record(self, loss, problem, names)
        # Neither of the two changes what an evaluation gives: a longer fit goes on from a shorter one.
        settings = {k: v for k, v in self.settings().items() if k not in ("max_evals", "scratch")}
        known = KeptEvaluations(loss, problem.kept(EVALUATIONS, start, digest(settings)))
        if known.n_known:
            problem.run.log(f"{known.n_known} evaluations are known, and not done again")
        minimum = minimize(
            known,
            free.coordinates(free.start),
            free.bounds(),
            self.optimization_method,
            max_evals=self.max_evals,
            options=self.manifest.options,
            accepted=record.accepted,
        )
        best = loss.model(minimum.x)
        record.finish(best)
        values = dict(zip(names, np.asarray(best.vector).tolist(), strict=True))
        problem.run.log(f"loss {minimum.loss!r} at {values}")
        _export(self.manifest, best, problem)
        notes = {"parameters": values, "loss": minimum.loss}
        history = minimum.history
        return FitResult(best, minimum.success, minimum.message, history, len(history), notes)

    def _agreed(self, name: str, given: Any, default: Any) -> Any:
        """The value of the call or of the manifest, which must not differ."""
        if name not in self.manifest.arguments:
            return given
        written = self.manifest.arguments[name]
        if given not in (default, written):
            raise ConfigError(f"{name} is {given!r} in the call and {written!r} in the manifest")
        return written

    def _check(self) -> None:
        if not self.model_name or not isinstance(self.model_name, str):
            raise ConfigError("ParametricModelTrainer needs model_name, such as a KIM id")
        if not self.params_to_update:
            raise ConfigError("ParametricModelTrainer needs params_to_update, the parameters to fit")
        if self.loss_method not in ("mse", "mae"):
            raise ConfigError(f"loss_method must be 'mse' or 'mae', got {self.loss_method!r}")
        method = check_method(self.optimization_method, False)
        if method.needs == "rows" and self.loss_method != "mse":
            raise ConfigError(f"{self.optimization_method} minimises squares: loss_method must be 'mse'")
        whole = isinstance(self.max_evals, int) and not isinstance(self.max_evals, bool)
        if not whole or self.max_evals < 1:
            raise ConfigError(f"max_evals must be a whole number from 1, got {self.max_evals!r}")
        if not 0 < self.training_split <= 1:
            raise ConfigError(f"training_split must lie in (0, 1], got {self.training_split}")


def _started(model: ParametricPotential, manifest: Manifest) -> ParametricPotential:
    """The model, at the parameters of the manifest's file if it names one."""
    if manifest.model_path is None:
        return model
    return read_parameters(Path(manifest.model_path), driver_of(model), model)


def _is_called(model: Potential, handle: PotentialHandle, name: str) -> bool:
    """Whether a name stands for the model of a handle: its id in any form, its driver or its class."""
    known, driver = find_model(name), find_driver(name)
    if known is not None:
        given = find_model(getattr(handle, "model_id", "")) if hasattr(handle, "model_id") else None
        return given == known if given is not None else type(known.make()) is type(model)
    if driver is not None:
        return type(model) is driver.cls
    return name in (handle.kim_id, getattr(handle, "model_id", None), type(model).__name__)


def _weighs_atoms(path: str) -> bool:
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    return any(isinstance(entry.get("forces"), list) for entry in content if isinstance(entry, dict))


def _scaled(c: Sample, factors: Mapping[str, float]) -> Sample:
    whole = factors.get("config", 1.0)
    return c.scaled(**{kind: whole * factors.get(kind, 1.0) for kind in Weights._fields})


def _export(manifest: Manifest, model: ParametricPotential, problem: Problem) -> None:
    """Write what the manifest wants exported, below the run's folder."""
    asked = manifest.export
    if asked is None:
        return
    folder = problem.run.path(asked.model_path)
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(model, BondPotential):
        raise PotentialError(f"a {type(model).__name__} cannot be exported as a KIM model")
    files = write_kim_model(folder, asked.model_name, model)
    if asked.generate_tarball:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for file in files:
                tar.add(file, f"{asked.model_name}/{file.name}")
        write_atomic(folder / f"{asked.model_name}.tar.gz", buffer.getvalue())


@dataclass
class _Record:
    """What a fit writes while it goes on: force errors, the log, the best parameters."""

    trainer: ParametricModelTrainer
    loss: BondLoss | OpaqueLoss
    problem: Problem
    names: list[str]

    def __post_init__(self) -> None:
        self.iteration = 0
        self.log: ForceErrorLog | None = None
        if self.trainer.log_per_atom_pred:
            self.log = open_log(self.problem.run.path(FORCE_ERRORS), self.problem.train)
        self.scratch: Path | None = None
        if self.trainer.scratch is not None:
            self.trainer.scratch.mkdir(parents=True, exist_ok=True)
            self.scratch = Path(tempfile.mkdtemp(prefix="parametric-", dir=self.trainer.scratch))

    def accepted(self, x: Vector) -> None:
        """Called after every iteration."""
        if self.log is not None:
            norms = zip(self.loss.force_errors(x), self.problem.train, strict=True)
            kept = [values for values, sample in norms if "forces" in sample.labels]
            self.log.append(self.iteration, np.concatenate(kept))
        values = self._values(x)
        if self.trainer.manifest.verbose:
            self.problem.run.log(f"iteration {self.iteration}: {values}")
        if self.scratch is not None:
            record = {"iteration": self.iteration, "parameters": values}
            write_atomic(self.scratch / "best.json", json_text(record, indent=1) + "\n")
        self.iteration += 1

    def finish(self, model: ParametricPotential) -> None:
        """Write the descriptors of the trained model: derivatives of atoms' energies by the parameters."""
        if self.log is not None:
            finish_log(self.log, model, self.problem.train)

    def _values(self, x: Vector) -> dict[str, float]:
        return dict(zip(self.names, np.asarray(self.loss.model(x).vector).tolist(), strict=True))
