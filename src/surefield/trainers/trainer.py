"""What all trainers share: the call, its checks, and the two ways to run it: here, or as a submitted job."""

from __future__ import annotations

import abc
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, ClassVar, Literal, final

from ase import Atoms

from surefield.errors import ConfigError, ExecutionError
from surefield.execution.workflow import Workflow
from surefield.execution.workflows import get_workflow
from surefield.potentials.potential import Potential
from surefield.storage import PotentialRegistry, Storage
from surefield.trainers.classes import TRAINERS, trainer_class
from surefield.trainers.handle import BareHandle, PotentialHandle
from surefield.trainers.inputs import Inputs, gather
from surefield.trainers.job_folder import write_inputs, write_script
from surefield.trainers.result import Call, FitResult, TrainingResult
from surefield.trainers.run import evaluated, execute, read_result
from surefield.training.breakdown import LossBreakdown, Pairs
from surefield.training.dataset import Sample
from surefield.training.problem import Problem, Weights

__all__ = ["Trainer"]

WorkflowLike = Workflow | Mapping[str, Any] | Executor | None


class Trainer(abc.ABC):
    """Fits a potential to stored configurations and leaves a folder from which everything can be repeated.

    Attributes:
        trains: classes of potentials that the trainer can fit.
        handles: handles that users give it.
        bracket: form of its loss: 'rows' is the sum over all weighted residual rows, 'sum' and 'mean' go over
            configurations with forces divided by 3n and stress by 6.
        energy_per_atom: whether the loss counts energies per atom.
        training_split: share of the configurations that is fitted.
        loss_method: 'mse', or 'mae' for absolute values.
        seed: of everything random, where the call names none.
    """

    trains: ClassVar[tuple[type[Potential], ...]]
    handles: ClassVar[tuple[type[PotentialHandle], ...]]
    bracket: ClassVar[Literal["rows", "sum", "mean"]] = "rows"
    energy_per_atom: bool = True
    training_split: float = 1.0
    loss_method: str = "mse"
    seed: int = 0

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """Constructor arguments, fit for JSON, from which the same class makes the same trainer."""

    @abc.abstractmethod
    def fit(self, model: Potential, problem: Problem) -> FitResult:
        """Minimise the loss over the training configurations, starting from a potential."""

    @abc.abstractmethod
    def refusal(self, handle: PotentialHandle, *, per_atom_weights: bool) -> str | None:
        """Why this trainer cannot fit this potential with these arguments; None: it can."""

    @abc.abstractmethod
    def weighted(
        self, configurations: Sequence[Sample], handle: PotentialHandle, fitted: Collection[str]
    ) -> list[Sample]:
        """Copies with the factors of groups or weights files.

        Args:
            configurations: all of a call.
            handle: of the potential.
            fitted: ids of those that are fitted.
        """

    @abc.abstractmethod
    def minimised_rows(
        self, model: Potential, configurations: Sequence[Sample], weights: Weights
    ) -> Iterable[Pairs] | None:
        """Weighted rows that the fit minimises, by configuration; None: errors of all labels times weights.

        Args:
            model: fitted.
            configurations: with their weights.
            weights: of the residuals.
        """

    @abc.abstractmethod
    def own_split(
        self, configurations: Sequence[Sample], handle: PotentialHandle, seed: int
    ) -> tuple[list[int], list[int]] | None:
        """Training and validation indices where settings of the potential rule them; None: they do not."""

    @final
    def train(
        self,
        path_type: str,
        potential: PotentialHandle | Potential,
        storage: Storage | Sequence[Atoms],
        dataset_list: str | Sequence[str] | None = None,
        workflow: WorkflowLike = None,
        eweight: float = 1.0,
        fweight: float = 1.0,
        vweight: float = 1.0,
        per_atom_weights: Any = False,
        write_training_script: bool = True,
        upload_to_kimkit: bool = True,
        *,
        training_split: float | None = None,
        split: Mapping[str, list[str]] | str | None = None,
        seed: int | None = None,
        register: bool | None = None,
        registry: PotentialRegistry | str | Path | None = None,
        fork_potential: bool = False,
        force_error_log: bool = False,
    ) -> TrainingResult:
        """Train here and now.

        Args:
            path_type: name of the run; its folder is `<root>/<trainer>/<path_type>/<number>`.
            potential: a handle, or a potential of a class that this trainer fits. A handle changes only after
                the fit succeeded and was saved.
            storage: a storage, or a list of labelled structures.
            dataset_list: ids or names of datasets; None for a list of structures.
            workflow: where the run folder is made; None: `./trainer` on this machine.
            eweight: weight of energy residuals (eV/atom); the loss goes with its square.
            fweight: weight of force residuals (eV/Å).
            vweight: weight of stress residuals (eV/Å^3).
            per_atom_weights: see `read_atom_weights`.
            write_training_script: write `training_script.py`, which repeats this call.
            upload_to_kimkit: keep the trained potential in the registry.
            training_split: share that is fitted; None: the trainer's.
            split: fixed ids, or a key of `info` whose equal values stay together.
            seed: of everything random; None: the trainer's, which is 0 where it has none.
            register: the same as `upload_to_kimkit`.
            registry: registry or its folder; `./potentials` by default.
            fork_potential: give a potential that came from a registry a new id.
            force_error_log: write `force_errors/`, the errors of the forces on training atoms; those of the
                trained potential where the trainer itself logs none on its way. See `ForceErrorLog`.

        Raises:
            ConfigError: an argument is not usable, or the potential is not one this trainer fits.
            DataError: labels, weights or geometries that cannot be used.
        """
        arguments = (eweight, fweight, vweight, upload_to_kimkit, training_split, split, seed)
        call = self._call(path_type, *arguments, register, registry, fork_potential, force_error_log)
        handle, inputs = self._prepare(potential, storage, dataset_list, per_atom_weights)
        folder = get_workflow(workflow).make_path(type(self).__name__, path_type)
        if write_training_script:
            write_script(folder, self, handle, inputs, call, dataset_list)
        execute(self, handle, inputs, call, folder)
        return read_result(folder, handle)

    @final
    def submit_train(
        self,
        path_type: str,
        potential: PotentialHandle | Potential,
        storage: Storage | Sequence[Atoms],
        dataset_list: str | Sequence[str] | None,
        workflow: WorkflowLike,
        job_details: Mapping[str, Any] | None = None,
        eweight: float = 1.0,
        fweight: float = 1.0,
        vweight: float = 1.0,
        per_atom_weights: Any = False,
        upload_to_kimkit: bool = True,
        *,
        training_split: float | None = None,
        split: Mapping[str, list[str]] | str | None = None,
        seed: int | None = None,
        register: bool | None = None,
        registry: PotentialRegistry | str | Path | None = None,
        fork_potential: bool = False,
        force_error_log: bool = False,
    ) -> str:
        """Train as a job of a workflow; returns its id. Arguments as in `train`.

        The job folder is self-contained: potential, configurations, weights and all arguments as data.

        Args:
            job_details: nodes, tasks, walltime in minutes and so on; see `Workflow.submit_job`.
        """
        arguments = (eweight, fweight, vweight, upload_to_kimkit, training_split, split, seed)
        call = self._call(path_type, *arguments, register, registry, fork_potential, force_error_log)
        handle, inputs = self._prepare(potential, storage, dataset_list, per_atom_weights)
        flow = get_workflow(workflow)
        folder = flow.make_path(type(self).__name__, path_type)
        write_inputs(folder, self, handle, inputs, call)
        command = [sys.executable, "-m", "surefield.trainers.job", str(folder)]
        return flow.submit_job(command, folder, job_details)

    @final
    def load_from_submitted_training(
        self, calc_id: str, potential: PotentialHandle | Potential, workflow: WorkflowLike = None
    ) -> TrainingResult:
        """Wait for a submitted training and take its result into the potential.

        Raises:
            ExecutionError: the job failed or was cancelled; with the last lines of its log.
        """
        flow = get_workflow(workflow)
        flow.block_until_completed([calc_id])
        status = flow.get_job_status(calc_id)
        if status.state != "done":
            raise ExecutionError(f"the training {calc_id} {status.state}: {status.message}")
        return read_result(Path(status.path), self._handle(potential))

    @final
    def evaluate_loss(
        self,
        potential: PotentialHandle | Potential,
        storage: Storage | Sequence[Atoms],
        dataset_list: str | Sequence[str] | None = None,
        eweight: float = 1.0,
        fweight: float = 1.0,
        vweight: float = 1.0,
        per_atom_weights: Any = False,
    ) -> LossBreakdown:
        """Loss and errors at the present parameters, on all configurations, without a fit."""
        handle, inputs = self._prepare(potential, storage, dataset_list, per_atom_weights)
        return evaluated(self, handle, inputs, _weights(eweight, fweight, vweight))

    def _prepare(
        self, potential: Any, storage: Any, dataset_list: Any, per_atom_weights: Any
    ) -> tuple[PotentialHandle, Inputs]:
        handle = self._handle(potential)
        weighs = per_atom_weights is not None and per_atom_weights is not False
        reason = self.refusal(handle, per_atom_weights=weighs)
        if reason is not None:
            raise ConfigError(reason)
        inputs = gather(storage, dataset_list, per_atom_weights)
        handle.build_potential()
        return handle, inputs

    def _handle(self, potential: Any) -> PotentialHandle:
        if isinstance(potential, self.handles):
            return potential
        if isinstance(potential, Potential) and _same_class(potential, self.trains):
            return BareHandle(potential)
        if isinstance(potential, BareHandle) and _same_class(potential.model, self.trains):
            return potential
        raise ConfigError(_cannot_train(self, potential))

    def _call(
        self,
        path_type: str,
        eweight: float,
        fweight: float,
        vweight: float,
        upload: bool,
        training_split: float | None,
        split: Mapping[str, list[str]] | str | None,
        seed: int | None,
        register: bool | None,
        registry: PotentialRegistry | str | Path | None,
        fork: bool,
        force_error_log: bool,
    ) -> Call:
        root = registry.root if isinstance(registry, PotentialRegistry) else registry or "./potentials"
        weights = _weights(eweight, fweight, vweight)
        return Call(
            path_type=_checked_name(path_type),
            eweight=weights.energy,
            fweight=weights.forces,
            vweight=weights.stress,
            upload_to_kimkit=upload if register is None else register,
            training_split=self.training_split if training_split is None else training_split,
            split=dict(split) if isinstance(split, Mapping) else split,
            seed=int(self.seed if seed is None else seed),
            registry=str(Path(root).resolve()),
            fork_potential=fork,
            force_error_log=force_error_log,
        )


def _weights(eweight: float, fweight: float, vweight: float) -> Weights:
    given = {"eweight": eweight, "fweight": fweight, "vweight": vweight}
    for name, value in given.items():
        fine = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
        if not fine:
            raise ConfigError(f"unusable {name}", got=repr(value), expected="a finite number >= 0")
    return Weights(float(eweight), float(fweight), float(vweight))


def _checked_name(path_type: Any) -> str:
    path = Path(path_type) if isinstance(path_type, str) else None
    if not path_type or path is None or path.is_absolute() or ".." in path.parts or path == Path():
        raise ConfigError("unusable path_type", got=repr(path_type), expected="a relative name without '..'")
    return str(path)


def _cannot_train(trainer: Trainer, potential: Any) -> str:
    model = potential.model if isinstance(potential, BareHandle) else potential
    able = [
        name
        for name in TRAINERS
        if isinstance(potential, trainer_class(name).handles)
        or (isinstance(model, Potential) and _same_class(model, trainer_class(name).trains))
    ]
    fix = f"use {' or '.join(able)}" if able else f"trainers: {', '.join(TRAINERS)}"
    return f"{type(trainer).__name__} cannot train a {type(potential).__name__}; {fix}"


def _same_class(model: Potential, kinds: tuple[type[Potential], ...]) -> bool:
    """Whether a potential, or the learned part of a sum, is of these classes."""
    return isinstance(model, kinds) or isinstance(getattr(model, "learned", None), kinds)
