"""Minimises the loss of a model: chooses the optimizer, resumes, writes checkpoints, keeps the best."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from surefield.errors import ConfigError, nearest
from surefield.execution.cache import use_compilation_cache
from surefield.execution.memory_maps import release_compiled
from surefield.files import json_text
from surefield.networks.full_batch.checkpoints import Checkpoints, CheckpointState
from surefield.networks.full_batch.interruption import interruptible
from surefield.networks.full_batch.loss_function import LossFunction
from surefield.networks.full_batch.optimizers import (
    BFGS,
    LBFGS,
    OptaxOptimizer,
    OptimizerEnd,
    SteppableOptimizer,
    optax_names,
)
from surefield.networks.full_batch.outcome import ConvergenceOccurred, Progress, TrainingStopped
from surefield.networks.full_batch.trainable_model import TrainableModel
from surefield.storage.dataset import package_version
from surefield.training.minimize import ENDLESS, endless_options, run_minimizer

__all__ = ["Regressor"]

Vector = Float[np.ndarray, " n_parameters"]
_STEPPABLE: Final[Mapping[str, Callable[..., SteppableOptimizer]]] = {"BFGS": BFGS, "L-BFGS-B": LBFGS}


class Regressor:
    """Minimises the loss of a model.

    Args:
        optimizer: 'BFGS', 'L-BFGS-B' (without bounds), 'TNC', 'Newton-CG' ('NCG'), 'Nelder-Mead', the name of
            an optimizer of optax ('adam'), or a callable used like `scipy.optimize.minimize`:
            optimizer(fun, x0, jac=gradient, **optimizer_kwargs).
        optimizer_kwargs: its settings. BFGS: gtol 1e-15, maxls 20; L-BFGS-B: ftol 1e-5, gtol 1e-8, maxls
            2000, maxcor 10; optax: learning_rate 1e-3.
        lossprime: whether gradients are used; 'Nelder-Mead' and callables work without.

    Raises:
        ConfigError: an unknown optimizer or setting.
    """

    def __init__(
        self,
        optimizer: str | Callable[..., Any] = "BFGS",
        optimizer_kwargs: Mapping[str, Any] | None = None,
        lossprime: bool = True,
    ) -> None:
        self.optimizer, self.lossprime = optimizer, bool(lossprime)
        self.optimizer_kwargs = dict(optimizer_kwargs or {})
        self._made()

    def regress(self, model: TrainableModel, log: Callable[[str], Any] | None = None) -> bool:
        """Minimise `model.lossfunction`, going on from a checkpoint of the same training if there is one.

        Unless the loss converged, the model is left with the parameters of the lowest loss seen. On Ctrl-C or
        SIGTERM the training ends after the evaluation under way, with a checkpoint.

        Args:
            model: set up, with its loss function attached.
            log: called with lines of text; None: the model's.

        Returns:
            Whether the loss converged; `model.lossfunction.status` and `.reason` say more.

        Raises:
            ConfigError: there is a checkpoint of another training.
        """
        use_compilation_cache()
        release_compiled()
        return _Run(self, model, log or model.log).finish()

    def fingerprint(self) -> str:
        """Text by which a checkpoint is known to be of this optimizer."""
        settings = {name: _text(value) for name, value in self.optimizer_kwargs.items()}
        return json.dumps([_text(self.optimizer), settings, self.lossprime], sort_keys=True)

    def _made(self) -> SteppableOptimizer | None:
        """The steppable optimizer; None where SciPy or the user minimises."""
        name, settings = self.optimizer, self.optimizer_kwargs
        if not isinstance(name, str):
            if not callable(name):
                raise ConfigError(f"optimizer must be a name or a callable, got {type(name).__name__}")
            return None
        if name in ENDLESS:
            return None
        known = [*_STEPPABLE, *ENDLESS, *optax_names()]
        if name not in known:
            raise ConfigError(f"unknown optimizer {name!r}; {nearest(name, known)}")
        if not self.lossprime:
            fix = "use lossprime=True or 'Nelder-Mead'; for numerical gradients there is LossFunction(d=...)"
            raise ConfigError(f"{name} needs gradients; {fix}")
        if name not in _STEPPABLE:
            return OptaxOptimizer(name, **settings)
        make = _STEPPABLE[name]
        arguments = list(inspect.signature(make).parameters)
        for key in settings:
            if key not in arguments:
                raise ConfigError(f"unknown setting {key!r} of {name}; {nearest(key, arguments)}")
        return make(**settings)


def _text(value: Any) -> str:
    """Text of a setting that is the same in another process."""
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    return repr(value)


class _Run:
    """One call of `regress`."""

    def __init__(self, regressor: Regressor, model: TrainableModel, log: Callable[[str], Any] | None) -> None:
        self.regressor, self.model, self.log = regressor, model, log
        self.loss: LossFunction = model.lossfunction
        self.optimizer = regressor._made()
        files = getattr(model, "checkpoint_files", lambda: None)()
        self.files = Checkpoints("", None) if files is None else files
        self.start = np.array(model.vector, np.float64)
        self.state: Any = None
        self.boundary = Progress()
        self.resumed = False

    def finish(self) -> bool:
        """Minimise, keep the right parameters, and say how it ended."""
        loss = self.loss
        loss.reset()
        loss.stop_request = None
        self.fingerprint = {}
        if self.files.every:
            own = {"optimizer": self.regressor.fingerprint(), "version": package_version()}
            start = getattr(self.model, "start_settings", dict)()
            own["criteria"] = json_text([dict(loss.criteria.tolerances), loss.raise_ConvergenceOccurred])
            self.fingerprint = {**loss.fingerprint(), **own, "start": start}
        self._resume()
        loss.on_evaluation = self._evaluated
        try:
            with interruptible(self._interrupt):
                self._minimise()
        finally:
            loss.on_evaluation = None
            loss.stop_request = None
        if loss.status is None:
            raise AssertionError("a training ends with a status")
        converged = loss.status == "converged"
        kept = loss.progress.vector if converged and loss.raise_ConvergenceOccurred else None
        kept = loss.progress.best_vector if kept is None else kept
        self.model.vector = self.start if kept is None else kept
        self._save()
        self._say_end(kept)
        return converged

    def _minimise(self) -> None:
        loss = self.loss
        if loss.status is not None:
            return
        if loss.step >= loss.maxiter:
            loss.end("maxiter", f"{loss.maxiter} evaluations without convergence")
            return
        try:
            reason = self._steps() if self.optimizer is not None else self._call()
        except (ConvergenceOccurred, TrainingStopped):
            return
        except OptimizerEnd as end:
            reason = str(end)
        except KeyboardInterrupt:
            reason = "interrupted: Ctrl-C"
        held = loss.progress.best_converged and not loss.raise_ConvergenceOccurred
        loss.end("converged" if held else "stopped", reason)

    def _steps(self) -> str:
        assert self.optimizer is not None
        state = self.optimizer.start(self.start) if self.state is None else self.state
        while True:
            self.state, self.boundary = state, self.loss.progress
            state = self.optimizer.step(state, self._evaluate)

    def _call(self) -> str:
        regressor = self.regressor
        name, settings = regressor.optimizer, regressor.optimizer_kwargs
        function, gradient = name, regressor.lossprime
        if isinstance(name, str):
            function, settings = minimize, endless_options(name, settings)
            gradient = gradient and name != "Nelder-Mead"
        end = run_minimizer(
            function,  # type: ignore[arg-type]
            self.start,
            self._finite,
            self._value,
            settings,
            gradient=gradient,
        )
        message = getattr(end, "message", None)
        if isinstance(message, list | tuple):
            message = "; ".join(map(str, message))
        return f"the optimizer has ended: {message}" if message else "the optimizer has ended"

    def _evaluate(self, vector: Vector) -> tuple[float, Vector]:
        value, slopes = self.model.get_loss(vector, True)
        return float(value), np.asarray(slopes, np.float64)

    def _finite(self, vector: Vector) -> tuple[float, Vector]:
        """Loss and gradient for an optimizer that would go on from whatever it is given."""
        value, slopes = self._evaluate(vector)
        if not (np.isfinite(value) and np.all(np.isfinite(slopes))):
            raise OptimizerEnd("non-finite loss")
        return value, slopes

    def _value(self, vector: Vector) -> float:
        value = float(self.model.get_loss(vector, False))
        return value if np.isfinite(value) else np.inf

    def _evaluated(self) -> None:
        """After every evaluation, also the last one."""
        step = self.loss.progress.step
        if step == 1 and self.files.every and not self.resumed:
            self.files.save_initial(self.model.potential.with_vector(jnp.asarray(self.start)))
        if self.files.due(step):
            self._save()

    def _save(self) -> None:
        """Nothing is written that could not be read again; an end without an evaluation leaves no trace."""
        if not self.files.every or self.loss.progress.step == 0:
            return
        arrays = {}
        if self.optimizer is not None and self.state is not None:
            arrays = self.optimizer.arrays(self.state)
        self.files.save(
            CheckpointState(
                fingerprint=self.fingerprint,
                progress=self.loss.progress,
                boundary=self.boundary,
                optimizer=arrays,
                random_state=_random_state(),
                status=self.loss.status,
                reason=self.loss.reason,
            )
        )

    def _resume(self) -> None:
        if not self.files.every:
            return
        now = {name: value for name, value in self.fingerprint.items() if name != "criteria"}
        if getattr(self.model, "drawn_start", False):  # the checkpoint has the start that was drawn first
            now["start"] = {}
        checkpoint = self.files.load(now, self.loss.older_fingerprint())
        if checkpoint is None:
            return
        step, self.resumed = checkpoint.progress.step, True
        if self._has_ended(checkpoint):
            self._say(f"the checkpoint of step {step} is the end of this training")
        elif self.optimizer is not None and checkpoint.optimizer:
            self.state = self.optimizer.restored(checkpoint.optimizer)
            self.loss.progress = self.boundary = checkpoint.boundary
            self._say(f"resumed from the checkpoint of step {step}, at step {checkpoint.boundary.step}")
            return
        self.loss.progress = self.boundary = checkpoint.progress
        if checkpoint.progress.best_vector is not None:
            self.start = checkpoint.progress.best_vector
        _set_random_state(checkpoint.random_state)
        name = _text(self.regressor.optimizer)
        self._say(
            f"resumed from the checkpoint of step {step}: {name} cannot go on in the middle and starts again "
            "from the best parameters so far"
        )

    def _has_ended(self, checkpoint: CheckpointState) -> bool:
        """Whether nothing is left to do; criteria may be others than before, and more steps allowed."""
        loss, criteria = self.loss, self.fingerprint["criteria"]
        met = checkpoint.status == "converged" and checkpoint.fingerprint.get("criteria") == criteria
        if not met and checkpoint.progress.step < loss.maxiter:
            return False
        loss.progress, self.boundary = checkpoint.progress, checkpoint.boundary
        if self.optimizer is not None and checkpoint.optimizer:
            self.state = self.optimizer.restored(checkpoint.optimizer)
        if met:
            loss.end("converged", checkpoint.reason)
        return True

    def _interrupt(self, reason: str) -> None:
        self.loss.stop_request = reason
        self._say(f"{reason}: training ends after this evaluation")

    def _say(self, text: str) -> None:
        if self.log is not None:
            self.log(text)

    def _say_end(self, kept: Vector | None) -> None:
        loss = self.loss
        self._say(f"{loss.status} after {loss.step} evaluations: {loss.reason}")
        if kept is None:
            self._say("no finite loss was seen; the parameters are those of the start")
            return
        if loss.status != "converged":
            best = loss.progress
            self._say(f"kept: the parameters of step {best.best_step}, loss {best.best_loss:.6g}")
        if self.log is not None:
            self._say(loss.report(kept))


def _random_state() -> dict[str, np.ndarray]:
    """NumPy's global generator, which optimizers of users may draw from."""
    state: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    _, keys, place, has_gauss, gauss = state
    return {"keys": keys, "numbers": np.array([place, has_gauss, gauss], np.float64)}


def _set_random_state(arrays: Mapping[str, np.ndarray]) -> None:
    if arrays:
        place, has_gauss, gauss = arrays["numbers"].tolist()
        np.random.set_state(("MT19937", arrays["keys"], int(place), int(has_gauss), gauss))  # noqa: NPY002
