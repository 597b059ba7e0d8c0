"""Dropout networks: the handle `KliffBPPotential` and the trainer `DUNNTrainer`."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, final

import equinox as eqx
import jax
import numpy as np

from surefield.descriptors.behler import Hyperparams, behler_functions
from surefield.errors import ConfigError
from surefield.formats.dunn import FILES, read_dropout_files, write_dropout_files
from surefield.potentials.dropout_network import DropoutNetwork, draw_masks
from surefield.potentials.potential import Potential, SumPotential, TrainingData
from surefield.structures.offsets import energy_offsets
from surefield.trainers.handle import POTENTIAL_FILE, PotentialHandle, arguments_of, saved_model
from surefield.trainers.result import FitResult
from surefield.trainers.trainer import Trainer
from surefield.training.dataset import Sample
from surefield.training.gradient_steps import OPTIMIZERS, DropoutStep, FitSettings, fit_steps
from surefield.training.problem import Problem, Weights

__all__ = ["DUNNTrainer", "KliffBPPotential"]

LOSS_METHODS: Final = ("mse", "mae")
#: Members of a trained network with dropout, for predictions and for KIM's files.
N_MEMBERS: Final = 100
_LOG_OPTIONS: Final = ("every", "dtype", "histogram_edges")
_SILICON: Final[Mapping[str, float]] = MappingProxyType({"Si-Si": 5.0})


@final
class KliffBPPotential(PotentialHandle):
    """Symmetry functions and a tanh network for the energy of each atom, with dropout or without.

    With dropout the trained potential predicts the mean over 100 members, as KIM's driver does; see
    `DropoutEnsemble` for the spread.

    Args:
        species: chemical symbols.
        model_driver: stored; it has no effect, since no KIM back end is needed.
        kim_api: stored; likewise without effect.
        cutoff_type: 'cos'.
        cutoff: radius of each pair of elements, Å.
        hyperparams: 'set51', 'set30' or lists; see `behler_functions`.
        norm: standardise each feature over the training atoms.
        neurons: widths of the hidden layers.
        kim_id: id in a registry that this potential came from.
        dropout: rate in (0, 1); 0 for none.
        parameter_path: folder of KIM's parameter files or of saved files, or a saved file, to start from.
            Other arguments that are not left at their defaults must agree with it.
        model_name_prefix: first part of the ids that a registry gives.

    Raises:
        ConfigError: an argument that is not usable.
    """

    def __init__(
        self,
        species: Sequence[str] | str,
        model_driver: str | None = None,
        kim_api: str | None = None,
        cutoff_type: str = "cos",
        cutoff: Mapping[str, float] | float = _SILICON,
        hyperparams: Hyperparams = "set51",
        norm: bool = True,
        neurons: Sequence[int] = (10, 10),
        kim_id: str | None = None,
        *,
        dropout: float = 0.0,
        parameter_path: str | Path | None = None,
        model_name_prefix: str = "DUNN_surefield",
    ) -> None:
        super().__init__(
            species, kim_id=kim_id, parameter_path=parameter_path, model_name_prefix=model_name_prefix
        )
        self.model_driver = model_driver
        self.kim_api = kim_api
        self.cutoff_type = cutoff_type
        self.cutoff = dict(cutoff) if isinstance(cutoff, Mapping) else cutoff
        self.hyperparams = hyperparams
        self.norm = norm
        self.neurons = neurons
        self.dropout = dropout
        if parameter_path is None:
            self._from_settings()

    def settings(self) -> dict[str, Any]:
        """Constructor arguments."""
        lists = self.hyperparams
        plain = lists if isinstance(lists, str) else {k: list(v) for k, v in lists.items()}
        path = None if self.parameter_path is None else Path(self.parameter_path)
        return arguments_of(self, hyperparams=plain, neurons=tuple(self.neurons), parameter_path=path)

    def make(self) -> DropoutNetwork:
        """Network with start values, or that of `parameter_path`.

        Raises:
            PotentialError: nothing there, or no dropout network.
            ConfigError: arguments that do not agree with the file.
        """
        if self.parameter_path is None:
            return self._from_settings()
        network = self.read(Path(self.parameter_path))
        self._check_agreement(network)
        return network

    def read(self, path: Path) -> DropoutNetwork:
        """The network of a saved file, or of a folder with one or with KIM's files."""
        if path.is_dir() and not (path / POTENTIAL_FILE).is_file() and (path / FILES[0]).is_file():
            return read_dropout_files(path)
        return saved_model(path, DropoutNetwork, "not a dropout network")

    def export_files(self, folder: Path) -> list[Path]:
        """KIM's files, with which the folder installs as a KIM model; none for several elements."""
        model = self.model
        if not isinstance(model, DropoutNetwork) or len(model.species) > 1:
            return []
        name = "_".join((self.model_name_prefix, *self.species))
        return write_dropout_files(folder, model, "".join(c if c.isalnum() else "_" for c in name))

    def _from_settings(self) -> DropoutNetwork:
        descriptor = behler_functions(self.species, self.hyperparams, self.cutoff, self.cutoff_type)
        if not isinstance(self.norm, bool):
            raise ConfigError(f"norm must be True or False, got {self.norm!r}")
        return DropoutNetwork(descriptor, self.neurons, self.dropout, self.norm)

    def _check_agreement(self, network: DropoutNetwork) -> None:
        if sorted(network.descriptor.symbols) != sorted(set(self.species)):
            raise ConfigError(
                "species do not agree with the file",
                where=self.parameter_path,
                got=self.species,
                expected=list(network.descriptor.symbols),
            )
        defaults = inspect.signature(type(self)).parameters
        given = {
            name: getattr(self, name)
            for name in ("neurons", "norm", "dropout")
            if getattr(self, name) != defaults[name].default
        }
        for name, value in given.items():
            own = getattr(network, name)
            if (tuple(value) if name == "neurons" else value) != own:
                where = self.parameter_path
                raise ConfigError(
                    f"{name} does not agree with the file", where=where, got=value, expected=own
                )
        names = ("hyperparams", "cutoff", "cutoff_type")
        if any(getattr(self, name) != defaults[name].default for name in names):
            radii = self.cutoff if self.cutoff != dict(_SILICON) else network.cutoff
            own = behler_functions(self.species, self.hyperparams, radii, self.cutoff_type)
            if own != network.descriptor:
                raise ConfigError(
                    "hyperparams and cutoff do not agree with the file",
                    where=self.parameter_path,
                    fix="leave them out: the file says them",
                )


@final
class DUNNTrainer(Trainer):
    """Fits dropout networks by stochastic gradients.

    The loss is the mean over configurations of [(w dE/n)^2 + sum (w dF)^2/3n + sum (w dstress)^2/6]. In every
    step each configuration has masks of its own, the same for all its atoms. Energies of elements are taken
    off by least squares before the fit and are part of the potential. Metrics are those of the network
    without dropout; the state with the least validation loss is kept, the last one without validation set.

    Args:
        use_gpu: train on a graphics processor; False trains on the processor.
        loss_method: 'mse' or 'mae'.
        epochs: passes over the training set.
        batch_size: configurations per step; an epoch is cut into equal batches of at most that many.
        learning_rate: of the optimizer.
        training_split: share of the configurations that is fitted.
        optimizer: one of optax, by name: Adam, SGD and so on.
        log_per_atom_pred: write the errors of the forces on training atoms after each epoch into
            `force_errors/`; a dict with `every`, `dtype` or `histogram_edges`: options of `ForceErrorLog`.

    Raises:
        ConfigError: a value that is not usable; the message lists the legal ones.
    """

    trains: ClassVar[tuple[type[Potential], ...]] = (DropoutNetwork,)
    handles: ClassVar[tuple[type[PotentialHandle], ...]] = (KliffBPPotential,)
    bracket: ClassVar[Literal["rows", "sum", "mean"]] = "mean"

    def __init__(
        self,
        use_gpu: bool = False,
        loss_method: str = "mse",
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        training_split: float = 0.8,
        optimizer: str = "Adam",
        log_per_atom_pred: bool | Mapping[str, Any] = True,
    ) -> None:
        if loss_method not in LOSS_METHODS:
            raise ConfigError(f"unknown loss_method {loss_method!r}; known: {', '.join(LOSS_METHODS)}")
        if not isinstance(optimizer, str) or optimizer.lower() not in OPTIMIZERS:
            raise ConfigError(f"unknown optimizer {optimizer!r}; known: {', '.join(OPTIMIZERS)}")
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise ConfigError(f"{name} must be a whole number, at least 1, got {value!r}")
        for name, value, most in (
            ("learning_rate", learning_rate, float("inf")),
            ("training_split", training_split, 1.0),
        ):
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not (0 < float(value) <= most) or float(value) == float("inf"):
                limit = "a positive number" if most > 1 else "above 0 and at most 1"
                raise ConfigError(f"{name} must be {limit}, got {value!r}")
        if not isinstance(use_gpu, bool):
            raise ConfigError(f"use_gpu must be True or False, got {use_gpu!r}")
        self.use_gpu = bool(use_gpu)
        self.loss_method = loss_method
        self.epochs = int(epochs)
        self.batch_size = int(batch_size)
        self.learning_rate = float(learning_rate)
        self.training_split = float(training_split)
        self.optimizer = optimizer
        self.log_per_atom_pred = _log_options(log_per_atom_pred)

    def settings(self) -> dict[str, Any]:
        """Constructor arguments."""
        return arguments_of(self)

    def refusal(self, handle: PotentialHandle, *, per_atom_weights: bool) -> str | None:
        """None: it fits all potentials of its classes."""
        return None

    def weighted(
        self, configurations: Sequence[Sample], handle: PotentialHandle, fitted: Collection[str]
    ) -> list[Sample]:
        """As they are."""
        return list(configurations)

    def minimised_rows(self, model: Potential, configurations: Sequence[Sample], weights: Weights) -> None:
        """None: it minimises errors of labels times weights."""

    def own_split(self, configurations: Sequence[Sample], handle: PotentialHandle, seed: int) -> None:
        """None: the call rules the split."""

    def fit(self, model: Potential, problem: Problem) -> FitResult:
        """Train the network; a checkpoint in the folder of the run is continued.

        Raises:
            ConfigError: `use_gpu` without a graphics processor.
            PotentialError: a checkpoint of another training.
        """
        with jax.default_device(self._device()):
            baseline = model.baseline if isinstance(model, SumPotential) else None
            network = model.learned if isinstance(model, SumPotential) else model
            assert isinstance(network, DropoutNetwork)
            start = prepared(network, problem)
            step = DropoutStep(self.optimizer.lower(), self.loss_method)
            settings = FitSettings(
                step, self.learning_rate, self.epochs, self.batch_size, self.log_per_atom_pred
            )
            end = fit_steps(start, problem, settings, baseline)
        trained = jax.tree.map(lambda x: jax.numpy.asarray(np.asarray(x)), end.network)
        if trained.dropout:
            masks = draw_masks(trained.neurons, N_MEMBERS, trained.dropout, problem.seed)
            trained = trained.with_masks(masks, trained.dropout)
        if isinstance(model, SumPotential):
            trained = eqx.tree_at(lambda p: p.learned, model, trained)
        return FitResult(
            model=trained,
            success=end.success,
            message=end.message,
            history=tuple(end.history),
            n_evals=end.n_steps,
            notes={"best_epoch": end.best_epoch, "steps": end.n_steps},
        )

    def _device(self) -> Any:
        if not self.use_gpu:
            return jax.devices("cpu")[0]
        try:
            return jax.devices("gpu")[0]
        except RuntimeError:
            fix = "leave use_gpu=False, or install jax for the device: pip install 'jax[cuda12]'"
            platforms = ", ".join(sorted({device.platform for device in jax.devices()}))
            what = "use_gpu=True, but there is no graphics processor"
            raise ConfigError(what, got=platforms, fix=fix) from None


def _log_options(value: bool | Mapping[str, Any]) -> bool | dict[str, Any]:
    if isinstance(value, bool):
        return value
    if not isinstance(value, Mapping) or set(value) - set(_LOG_OPTIONS):
        expected = f"True, False or a dict with {', '.join(_LOG_OPTIONS)}"
        raise ConfigError("unusable log_per_atom_pred", got=repr(value), expected=expected)
    edges = value.get("histogram_edges")
    options = {name: value[name] for name in ("every", "dtype") if name in value}
    return options | ({} if edges is None else {"histogram_edges": np.asarray(edges, float).tolist()})


def prepared(network: DropoutNetwork, problem: Problem) -> DropoutNetwork:
    """The network as a fit starts from it.

    One that was never fitted gets start values from the seed of the run, the energies of the elements and the
    standardisation of the training atoms; a fitted one goes on from what it has.
    """
    if network.fitted:
        return network
    start = DropoutNetwork.from_config(network.config() | {"seed": problem.seed, "n_members": 0})
    structures = [c.structure for c in problem.train]
    energies = [c.labels.energy for c in problem.train]
    return start.prepared(TrainingData(structures, energies, _offsets(problem)))


def _offsets(problem: Problem) -> dict[int, float]:
    known = [c for c in problem.train if problem.residual_weights(c).energy > 0]
    if not known:
        return {}
    return energy_offsets([c.atoms.numbers for c in known], [c.labels.energy for c in known])
