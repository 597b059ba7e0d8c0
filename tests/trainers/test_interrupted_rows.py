"""Linear fits that were interrupted while their rows were summed go on where they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from surefield.errors import PotentialError
from surefield.potentials.chimes import Chimes, ChimesSettings
from surefield.potentials.potential import LastLayerPotential
from surefield.potentials.snap.snap import Snap, SnapConfig
from surefield.trainers import ChIMESTrainer, FitSnapTrainer
from surefield.trainers.fitting import Fitting
from surefield.trainers.handle import BareHandle
from surefield.trainers.inputs import gather, make_configurations
from surefield.trainers.result import Call
from surefield.trainers.run import execute
from surefield.training import checkpoint
from surefield.training.problem import ROW_SUMS, Problem, TrainingRun, Weights


def snap() -> Snap:
    return Snap.from_settings(SnapConfig(cutoff=3.6, twojmax=2), ["Cu"])


def chimes() -> Chimes:
    return Chimes(ChimesSettings(("Cu",), (4, 2, 0), (1.2,), (4.6,), (1.6,)))


TRAINERS: dict[str, tuple[Fitting, Callable[[], Any]]] = {
    "fitsnap": (FitSnapTrainer(), snap),
    **{f"chimes {name}": (ChIMESTrainer(name), chimes) for name in ("svd", "fast_svd", "ridgecv")},
}


class Stop:
    """Counts configurations, and interrupts after some of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.last = 0, 0
        monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
        monkeypatch.setattr(checkpoint, "SAVE_SHARE", 0.0)
        save = checkpoint.PartialSums.save

        def counted(sums: checkpoint.PartialSums, arrays: Callable[[], Mapping[str, np.ndarray]]) -> None:
            save(sums, arrays)
            self.count += 1
            if self.count == self.last:
                raise KeyboardInterrupt

        monkeypatch.setattr(checkpoint.PartialSums, "save", counted)


def fitted(name: str, frames: list[Atoms], folder: Path, energy: float = 1.0) -> np.ndarray:
    trainer, make = TRAINERS[name]
    weights = Weights(energy, 1.0, 1.0)
    samples = make_configurations(make(), gather(frames, None, False), weights)
    folder.mkdir(exist_ok=True)
    result = trainer.fit(make(), Problem(tuple(samples), (), weights, 0, TrainingRun(folder)))
    assert isinstance(result.model, LastLayerPotential)
    return np.append(result.model.readout, result.model.bias)


@pytest.mark.parametrize("last", [3, 8], ids=["rows", "solution"])
@pytest.mark.parametrize("name", TRAINERS)
def test_rows_that_are_summed_are_not_made_again(
    copper: list[Atoms], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, last: int
) -> None:
    whole = fitted(name, copper, tmp_path / "whole")
    stop = Stop(monkeypatch)
    stop.last = last
    with pytest.raises(KeyboardInterrupt):
        fitted(name, copper, tmp_path / "stopped")
    with pytest.raises(PotentialError, match=r"belongs to another training.*rows"):
        fitted(name, copper, tmp_path / "stopped", energy=2.0)
    assert stop.count == last
    np.testing.assert_allclose(fitted(name, copper, tmp_path / "stopped"), whole, rtol=1e-9, atol=1e-12)
    assert stop.count == len(copper)


def test_the_sums_are_removed_with_the_end_of_the_run(
    copper: list[Atoms], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, call = gather(copper, None, False), Call("a", upload_to_kimkit=False)
    stop = Stop(monkeypatch)
    stop.last = 5
    with pytest.raises(KeyboardInterrupt):
        execute(FitSnapTrainer(), BareHandle(snap()), inputs, call, tmp_path)
    assert (tmp_path / ROW_SUMS).exists()
    execute(FitSnapTrainer(), BareHandle(snap()), inputs, call, tmp_path)
    assert stop.count == len(copper)
    assert (tmp_path / "result.json").exists()
    assert not (tmp_path / ROW_SUMS).exists()
