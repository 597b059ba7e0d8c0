"""Fits of physics models that were killed take no step twice, and end where undisturbed ones end."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from surefield.errors import ConfigError
from surefield.trainers.inputs import gather
from surefield.trainers.parametric import KIMPotential, ParametricModelTrainer
from surefield.trainers.result import Call
from surefield.trainers.run import execute
from surefield.training import checkpoint, evaluations
from surefield.training.parametric_objective import BondLoss
from surefield.training.problem import EVALUATIONS

SILICON = "SW_StillingerWeber_1985_Si__MO_405512056662_006"
#: What asks for values, by method.
ASKED = {"L-BFGS-B": ("gradient",), "Nelder-Mead": ("loss",), "lm": ("rows", "jacobian")}


pytestmark = pytest.mark.filterwarnings("ignore:the fit did not converge")


class Counted:
    """Counts what is computed, and stops the process after some of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
        self.count, self.last = 0, 0
        monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
        monkeypatch.setattr(checkpoint, "SAVE_SHARE", 0.0)
        for name in names:
            monkeypatch.setattr(BondLoss, name, self._counted(getattr(BondLoss, name)))

    def _counted(self, method: Any) -> Any:
        def counted(loss: BondLoss, x: np.ndarray) -> Any:
            if self.count == self.last:
                raise KeyboardInterrupt
            self.count += 1
            return method(loss, x)

        return counted


def fitted(frames: list[Atoms], folder: Path, method: str, seed: int = 1) -> dict[str, Any]:
    trainer = ParametricModelTrainer(
        SILICON, {"A": [[15.0]], "B": [[0.6]]}, optimization_method=method, max_evals=12, seed=seed
    )
    folder.mkdir(exist_ok=True)
    call = Call("a", upload_to_kimkit=False)
    execute(trainer, KIMPotential(SILICON), gather(frames, None, False), call, folder)
    return {name: (folder / name).read_bytes() for name in ("result.json", "history.json")}


@pytest.mark.parametrize("method", ASKED)
def test_a_killed_fit_ends_as_an_undisturbed_one(silicon, tmp_path, monkeypatch, method):
    counted = Counted(monkeypatch, ASKED[method])
    counted.last = 1000
    whole = fitted(silicon, tmp_path / "whole", method)
    total = counted.count
    counted.count, counted.last = 0, 5
    with pytest.raises(KeyboardInterrupt):
        fitted(silicon, tmp_path / "killed", method)
    assert counted.count == 5
    counted.last = 1000
    assert fitted(silicon, tmp_path / "killed", method) == whole
    assert counted.count == total
    assert not (tmp_path / "killed" / EVALUATIONS).exists()


def test_evaluations_of_another_fit_are_refused(silicon, tmp_path, monkeypatch):
    counted = Counted(monkeypatch, ("gradient",))
    counted.last = 3
    with pytest.raises(KeyboardInterrupt):
        fitted(silicon, tmp_path / "a", "L-BFGS-B")
    moved = deepcopy(silicon)  # `silicon` is every test's
    moved[0].calc.results["forces"] += 0.1
    with pytest.raises(ConfigError, match="forces of the training set"):
        fitted(moved, tmp_path / "a", "L-BFGS-B")


def test_results_beyond_the_limit_are_computed_again(silicon, tmp_path, monkeypatch):
    counted = Counted(monkeypatch, ("gradient",))
    counted.last = 1000
    whole = fitted(silicon, tmp_path / "whole", "L-BFGS-B")
    total = counted.count
    monkeypatch.setattr(evaluations, "LARGEST", 3 * 3 * 8)  # of three results
    counted.count, counted.last = 0, 5
    with pytest.raises(KeyboardInterrupt):
        fitted(silicon, tmp_path / "killed", "L-BFGS-B")
    counted.last = 1000
    assert fitted(silicon, tmp_path / "killed", "L-BFGS-B") == whole
    assert counted.count == total + 2
