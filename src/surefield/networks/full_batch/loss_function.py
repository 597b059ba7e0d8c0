"""The documented loss of full-batch training: terms, convergence criteria, progress, and when it ends."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from surefield.errors import ConfigError
from surefield.files import json_text
from surefield.networks.full_batch.arguments import at_least_one, new_names, positive, shard_count
from surefield.networks.full_batch.criteria import (
    DEFAULT_CONVERGENCE,
    KINDS,
    Coefficients,
    Criteria,
    checked_coefficient,
)
from surefield.networks.full_batch.evaluation import ImageLoss, criterion_values
from surefield.networks.full_batch.given_fingerprints import with_given_fingerprints
from surefield.networks.full_batch.outcome import ConvergenceOccurred, Progress, Status, TrainingStopped
from surefield.networks.full_batch.training_images import (
    Terms,
    is_charged,
    training_images,
)
from surefield.structures.images import Images, hash_images
from surefield.structures.label_sources import results_of

__all__ = ["LossFunction"]

Vector = Float[np.ndarray, " n_parameters"]
_UNITS = {"energy": "eV/atom", "force": "eV/Å", "charge": "e/atom", "stress": "eV/Å^3"}


class LossFunction:
    """Sum of squared residuals of energies, forces, charges and stresses, and when it is small enough.

    energy_loss = sum_i w_i wE_i ((E_i - Ê_i)/N_i)^2
    force_loss = sum_i w_i sum_a wF_ia |F_ia - F̂_ia|^2 / (3 sum_a wF_ia)
    charge_loss = sum_i w_i ((Q_i - Q̂_i)/N_i)^2
    stress_loss = sum_i w_i (1/6) sum_k (sigma_ik - ref)^2
    loss = c_E energy_loss + c_F force_loss + c_Q charge_loss + c_S stress_loss + overfit P

    with sums over unique images and P the sum of squares of the first-layer weights without biases. Weights
    are in the images: info `weight` and `energy_weight`, arrays `force_weight`, 1 unless given. Khorshidi and
    Peterson, Comput. Phys. Commun. 207, 310 (2016).

    Args:
        energy_coefficient: c_E; None switches the term off with its criteria.
        force_coefficient: c_F; becomes None if there is no force criterion, which is the default.
        charge_coefficient: c_Q, for models with charges; becomes None without a charge criterion.
        convergence: tolerances over `default_parameters['convergence']`; None: no such criterion. Keys
            energy_, force_, charge_, stress_ with rmse, maxresid; eV/atom, eV/Å, e/atom, eV/Å^3.
        parallel: number of shards, as integer or `{'cores': n}`; None: the model's.
        overfit: factor of P.
        raise_ConvergenceOccurred: whether `get_loss` raises when all criteria hold, or returns.
        log_losses: one line in the log per evaluation.
        d: None: exact gradient. A number: central differences with steps of this size.
        weight_duplicates: whether copies of an image count.
        maxiter: evaluations after which training stops, without success.
        nft_ids: [(key of `hash_images` or number of the image, atom), ...]: these images have a force term of
            these atoms and nothing else.
        stress_coefficient: c_S; None: no stress term.
        validation: images whose loss chooses the best parameters; without them it is the loss itself.
        patience: stop when that has not improved for so many evaluations.
        **old: `energy_tol` and the like, deprecated.

    Raises:
        ConfigError: an unknown name or a value out of range.

    Attributes:
        status: 'converged', 'maxiter', 'stopped', or None while training.
        reason: how it ended, one line.
        progress: evaluations so far and the best of them.
        on_evaluation: called without arguments after every evaluation; for checkpoints.
        stop_request: if set, the next evaluation is the last, for this reason.
    """

    default_parameters: ClassVar[dict[str, Any]] = {"convergence": dict(DEFAULT_CONVERGENCE)}

    def __init__(
        self,
        energy_coefficient: float | None = 1.0,
        force_coefficient: float | None = 0.04,
        charge_coefficient: float | None = 10.0,
        convergence: Mapping[str, float | None] | None = None,
        parallel: int | Mapping[str, Any] | None = None,
        overfit: float = 0.0,
        raise_ConvergenceOccurred: bool = True,
        log_losses: bool = True,
        d: float | None = None,
        weight_duplicates: bool = False,
        maxiter: int = 100000,
        nft_ids: Sequence[tuple[str | int, int]] | None = None,
        *,
        stress_coefficient: float | None = None,
        validation: Images | None = None,
        patience: int | None = None,
        **old: Any,
    ) -> None:
        renamed = new_names(old, list(inspect.signature(LossFunction).parameters)[:-1])
        criteria = Criteria.over_defaults({**renamed, **(convergence or {})})
        values = (energy_coefficient, force_coefficient, charge_coefficient, stress_coefficient)
        coefficients = {
            kind: checked_coefficient(f"{kind}_coefficient", value)
            for kind, value in zip(KINDS, values, strict=True)
        }
        for kind in KINDS:
            if kind in ("force", "charge") and not criteria.uses(kind):
                coefficients[kind] = None
            if coefficients[kind] is None:
                criteria = criteria.without(kind)
        self.coefficients, self.criteria = Coefficients(**coefficients), criteria
        self.parallel = parallel
        self.overfit = checked_coefficient("overfit", overfit) or 0.0
        self.raise_ConvergenceOccurred = bool(raise_ConvergenceOccurred)
        self.log_losses = bool(log_losses)
        self.d = None if d is None else positive("d", d)
        self.weight_duplicates = bool(weight_duplicates)
        self.maxiter = at_least_one("maxiter", maxiter)
        self.nft_ids = tuple((name, int(atom)) for name, atom in nft_ids or ())
        self.validation = validation
        self.patience = None if patience is None else at_least_one("patience", patience)
        shard_count(parallel)
        self._model: Any = None
        self._log: Callable[[str], Any] | None = None
        self._images: Images | None = None
        self._given: tuple[Mapping[str, Any], Mapping[str, Any] | None] | None = None
        self._evaluations: dict[str, ImageLoss] = {}
        self.on_evaluation: Callable[[], Any] | None = None
        self.stop_request: str | None = None
        self.reset()

    def attach_model(
        self,
        model: Any,
        images: Images | None = None,
        fingerprints: Mapping[str, Any] | None = None,
        fingerprintprimes: Mapping[str, Any] | None = None,
        charge_fp_appends: Mapping[str, Any] | None = None,
        charge_fpprime_appends: Mapping[str, Any] | None = None,
        log: Callable[[str], Any] | None = None,
    ) -> None:
        """Bind a model and its training images; data go to the device at the first evaluation.

        Args:
            model: see `TrainableModel`.
            images: labelled images, as `hash_images` takes them; None keeps those attached before.
            fingerprints: by image key, list of (symbol, features) per atom, in place of the descriptor's.
            fingerprintprimes: by image key, their derivatives; needed with fingerprints where forces are
                trained.
            charge_fp_appends: not accepted: charge fingerprints follow from the images.
            charge_fpprime_appends: likewise.
            log: called with lines of text; None: the model's.

        Raises:
            ConfigError: derivatives without fingerprints, or charge fingerprints.
        """
        if charge_fp_appends or charge_fpprime_appends:
            raise ConfigError(
                "charge fingerprints cannot be given: the potential makes them from the positions and the "
                "electrode potential of the images; leave charge_fp_appends and charge_fpprime_appends out"
            )
        if fingerprintprimes is not None and (fingerprints is None or images is None):
            raise ConfigError("fingerprintprimes need fingerprints, and both need images")
        self._model, self._log = model, log
        if images is not None:
            self._images = images
            self._given = None if fingerprints is None else (fingerprints, fingerprintprimes)
            self._evaluations.clear()
            self.reset()

    def reset(self) -> None:
        """Start counting again: steps and best parameters; data, compiled programs and workers stay."""
        self.progress = Progress()
        self.status: Status | None = None
        self.reason = ""

    @property
    def step(self) -> int:
        """Evaluations so far."""
        return self.progress.step

    @property
    def forcetraining(self) -> bool:
        """Whether forces are used; if not, no derivative of a descriptor is computed."""
        return self.coefficients.force is not None

    @property
    def parameters(self) -> dict[str, Any]:
        """Copy of the settings."""
        return {
            **{f"{kind}_coefficient": c for kind, c in self.coefficients._asdict().items()},
            "convergence": dict(self.criteria.tolerances),
            "overfit": self.overfit,
            "d": self.d,
            "weight_duplicates": self.weight_duplicates,
            "maxiter": self.maxiter,
            "nft_ids": list(self.nft_ids),
            "patience": self.patience,
        }

    def get_loss(self, parametervector: ArrayLike, lossprime: bool) -> dict[str, Any]:
        """Loss of a parameter vector; counts a step.

        Args:
            parametervector: (n_parameters,).
            lossprime: whether the gradient is wanted.

        Returns:
            loss, dloss_dparameters (0 without lossprime), and of energy, force, charge and stress: _loss,
            _maxresid, _rmse (None: no such label) and _worst ((image, atom) of the largest residual; atom -1:
            the image as a whole); validation_loss where there are validation images.

        Raises:
            ConvergenceOccurred: all criteria hold.
            TrainingStopped: that was the last evaluation for another reason.
        """
        evaluation = self._evaluation("training")
        vector = _checked(parametervector, evaluation)
        results = evaluation.loss(vector, lossprime, plain=self._plain)
        compared = results["loss"]
        if self.validation is not None:
            compared = self._evaluation("validation").loss(vector, False, plain=self._plain)["loss"]
            results["validation_loss"] = compared
        converged = self.check_convergence(**{name: results[name] for name in _CHECKED if name in results})
        self.progress = self.progress.after(vector, results["loss"], compared, converged)
        observer = getattr(self._model, "observer", None)
        if observer is not None:
            observer(self._model, vector, results["loss"])
        end = self._end(converged)
        if self.on_evaluation is not None:
            self.on_evaluation()
        if end is not None:
            raise end
        return results

    def calculate_loss(self, parametervector: ArrayLike, lossprime: bool) -> dict[str, Any]:
        """The same numbers as `get_loss` from plain operations, image by image; no step is counted.

        To check against: it takes up to a second an image, because nothing is compiled.
        """
        evaluation = self._evaluation("training")
        return evaluation.loss(_checked(parametervector, evaluation), lossprime, plain=True)

    def process_parallels(
        self, vector: ArrayLike, server: Executor, n_pids: int, lossprime: bool = True
    ) -> dict[str, Any]:
        """The same numbers as `get_loss` from shards of the images; no step is counted.

        Args:
            vector: parameters.
            server: evaluates the shards.
            n_pids: number of shards.
            lossprime: whether the gradient is wanted.
        """
        evaluation = self._evaluation("training")
        count = at_least_one("n_pids", n_pids)
        return evaluation.loss(_checked(vector, evaluation), lossprime, server=server, n_shards=count)

    def check_convergence(
        self,
        loss: float,
        energy_loss: float,
        force_loss: float,
        charge_loss: float,
        energy_maxresid: float,
        force_maxresid: float,
        charge_maxresid: float,
        stress_loss: float = 0.0,
        stress_maxresid: float = 0.0,
        validation_loss: float | None = None,
    ) -> bool:
        """Whether all criteria hold; writes the line of this step to the log."""
        losses = (energy_loss, force_loss, charge_loss, stress_loss)
        largest = (energy_maxresid, force_maxresid, charge_maxresid, stress_maxresid)
        evaluation = self._evaluation("training")
        criteria = self.criteria if evaluation.terms.charge else self.criteria.without("charge")
        values = criterion_values(losses, largest, evaluation.denominators)
        held = criteria.held(values)
        if self.log_losses:
            if self.step == 0:
                self._say_start(criteria)
            mark = "" if validation_loss is None else f"  validation {validation_loss:.5e}"
            self.say(criteria.line(self.step, loss, values, mark))
        return bool(held) and all(held.values()) and bool(np.isfinite(loss))

    def say(self, text: str) -> None:
        """Write a line to the log, if there is one."""
        log = self._log or getattr(self._model, "log", None)
        if log is not None:
            log(text)

    def end(self, status: Status, reason: str) -> None:
        """Note how the training ended."""
        self.status, self.reason = status, reason

    def report(self, vector: ArrayLike) -> str:
        """Errors of a parameter vector and where the largest residuals are, one line per term."""
        evaluation = self._evaluation("training")
        results = evaluation.loss(_checked(vector, evaluation), False, plain=self._plain)
        lines = []
        for kind in KINDS:
            if results[f"{kind}_rmse"] is None:
                continue
            image, atom = results[f"{kind}_worst"]
            place = evaluation.images[image].sample.id + ("" if atom < 0 else f", atom {atom}")
            lines.append(
                f"{kind}: RMSE {results[f'{kind}_rmse']:.4g} {_UNITS[kind]}, largest residual "
                f"{results[f'{kind}_maxresid']:.4g} {_UNITS[kind]} ({place})"
            )
        return "\n".join(lines)

    def fingerprint(self) -> dict[str, Any]:
        """Texts and hashes of all data and settings on which the path of a training depends."""
        training = self._evaluation("training")
        validation = None if self.validation is None else self._evaluation("validation").contents()
        return {
            "training set": training.contents(),
            "validation set": validation,
            **training.fixed(),
            "loss function": json_text([*self.coefficients, self.overfit, self.d]),
        }

    def older_fingerprint(self) -> dict[str, str]:
        """What files of older versions state of the images and of what is not trained."""
        stated = {**self._evaluation("training").older_fingerprint(), "validation images": "none"}
        if self.validation is not None:
            stated["validation images"] = self._evaluation("validation").older_fingerprint()["images"]
        return stated

    @property
    def _plain(self) -> bool:
        return getattr(self._model, "fortran", True) is False

    def _evaluation(self, which: str) -> ImageLoss:
        """That of the training or the validation images; made anew when more than the vector has changed."""
        if self._model is None or self._images is None:
            raise ConfigError("no model or no images are attached: call attach_model(model, images=...)")
        # Of any vector: it comes with every call, and putting it in each time would cost more than the loss.
        potential = getattr(self._model, "shape", None) or self._model.potential
        known = self._evaluations.get(which)
        if known is not None and known.serves(potential):
            return known
        c = self.coefficients
        charge = c.charge is not None and is_charged(potential)
        terms = Terms(c.energy is not None, c.force is not None, charge, c.stress is not None)
        training = which == "training"
        images = training_images(
            self._images if training else self.validation,  # type: ignore[arg-type]
            potential,
            terms,
            weight_duplicates=self.weight_duplicates,
            nft_ids=self.nft_ids if training else (),
        )
        if training and self._given is not None:
            images = with_given_fingerprints(images, potential, terms, *self._given)
        evaluation = ImageLoss(
            potential,
            images,
            terms,
            np.array([0.0 if factor is None else factor for factor in c]),
            self.overfit if training else 0.0,
            self.d,
            shard_count(getattr(self._model, "parallel", None) if self.parallel is None else self.parallel),
        )
        self._evaluations[which] = evaluation
        return evaluation

    def _end(self, converged: bool) -> Exception | None:
        """What the latest evaluation means for the training."""
        progress = self.progress
        if converged and self.raise_ConvergenceOccurred:
            self.end("converged", "all criteria hold")
            return ConvergenceOccurred(f"all criteria hold at step {progress.step - 1}")
        if self.stop_request is not None:
            return self._stop("stopped", f"interrupted: {self.stop_request}")
        if progress.step >= self.maxiter:
            return self._stop("maxiter", f"{self.maxiter} evaluations without convergence")
        if self.patience is not None and progress.step - 1 - progress.best_step >= self.patience:
            what = "plateau: the loss" if self.validation is None else "validation: its loss"
            return self._stop("stopped", f"{what} has not improved for {self.patience} evaluations")
        return None

    def _stop(self, status: Status, reason: str) -> TrainingStopped:
        self.end(status, reason)
        return TrainingStopped(status, reason)

    def _say_start(self, criteria: Criteria) -> None:
        """What a user should know about the data, and the head of the table."""
        evaluation, images = self._evaluation("training"), hash_images(self._images or ())
        self.say(f"loss of {len(evaluation.images)} different images")
        if not self.forcetraining and any("forces" in results_of(atoms) for atoms in images.values()):
            self.say(
                "forces in the data are not used; to train on them give a criterion, such as "
                "convergence={'force_rmse': 0.02}"
            )
        unstated = sum("grand_canonical" not in atoms.info for atoms in images.values())
        if is_charged(evaluation.potential) and unstated:
            self.say(
                f"{unstated} images do not say whether their energy is grand-canonical: it is taken as Omega "
                "(info['grand_canonical'] = False: it is E)"
            )
        if not criteria.active:
            self.say("no convergence criteria: training ends by maxiter, patience or the optimizer")
        self.say(criteria.header())


_CHECKED = (
    "loss",
    *(f"{kind}_{what}" for what in ("loss", "maxresid") for kind in KINDS),
    "validation_loss",
)


def _checked(values: ArrayLike, evaluation: ImageLoss) -> Vector:
    """Copy of a parameter vector as float64.

    Raises:
        ConfigError: wrong length.
    """
    vector = np.array(values, np.float64)
    if vector.shape != (evaluation.n_parameters,):
        raise ConfigError(
            "parameter vector of wrong shape", got=vector.shape, expected=(evaluation.n_parameters,)
        )
    return vector
