"""What selections save on four real sets: `python benchmarks/replay_sets.py [Si Mo 3BPA NbMoTaW]`.

`sf.replay` with five seeds on sets whose labels are known. The learner is a potential whose body is not
trained: the last layer of a default `MomentNetwork`, solved on energies and forces of the structures that are
labelled, with the ridge that does best on a fifth of them. Rows are computed once, so that a learning curve
of many rounds costs seconds; what is saved with trained bodies may differ (`replay.py`). Methods see what
the forces of a structure say about the last layer of the same potential (`ll_force`), as `sf.select` does by
default; other features are an argument.

Si and Mo (mlearn, all groups) and their published tests; 3BPA: 300 K and two thirds of 600 K, tested on the
last third; NbMoTaW: 400 unary and binary cells mixed, tested on 120 of the published tests.

The bars: on at least three sets the default method needs at most 60 % of the labels that random selection
needs for its final force RMSE, on none more than 105 % for its MAE.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve

import surefield as sf
from surefield.potentials.potential import TrainingData
from surefield.selection.label_share import LabelShare, label_share
from surefield.selection.replay_result import RANDOM, Replay
from surefield.sensitivity.rows import structure_rows
from surefield.structures.read import Frames, read_frames
from surefield.training.dataset import prepare

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
METHOD, SEEDS = "bait_f", 5
SAVING, LOSS, N_SETS = 0.6, 1.05, 3
#: An energy per atom counts as this many force components with the same residual in units of 0.1 eV/Å.
ENERGY_WEIGHT = 100.0
RIDGES = np.logspace(-9, -2, 8)

#: Files of pool and test set, how many of each (None: all), labels at first and a round, rounds that count.
SETS: dict[str, tuple[list[str], list[str], int | None, int | None, int, int, int]] = {
    "Si": (["mlearn/Si_train"], ["mlearn/Si_test"], None, None, 4, 4, 9),
    "Mo": (["mlearn/Mo_train"], ["mlearn/Mo_test"], None, None, 4, 4, 9),
    "3BPA": (["3bpa/train_300K", "3bpa/test_600K_sub"], [], None, None, 10, 10, 9),
    "NbMoTaW": (
        ["NbMoTaW/train_unary", "NbMoTaW/train_binary"],
        ["NbMoTaW/test_unary", "NbMoTaW/test_binary"],
        400,
        120,
        10,
        10,
        9,
    ),
}


def frames_of(name: str) -> tuple[list, list]:
    """Pool and test set."""
    pool_files, test_files, n_pool, n_test, *_ = SETS[name]
    rng = np.random.default_rng(0)
    pool, test = (
        [atoms for file in files for atoms in read_frames(DATA / f"{file}.xyz.xz")]
        for files in (pool_files, test_files)
    )
    if name == "3BPA":
        hot = list(read_frames(DATA / "3bpa/test_600K_sub.xyz.xz"))
        held = {*rng.permutation(len(hot))[: len(hot) // 3].tolist()}
        test = [atoms for i, atoms in enumerate(hot) if i in held]
        pool = pool[: -len(hot)] + [atoms for i, atoms in enumerate(hot) if i not in held]
    kept = [np.sort(rng.permutation(len(part))[:n]) for part, n in ((pool, n_pool), (test, n_test))]
    pool, test = ([part[i] for i in places] for part, places in zip((pool, test), kept, strict=True))
    return pool, test


class ExactLastLayer:
    """A learner of `sf.replay`: the last layer of a fixed body, solved on energies and forces."""

    def __init__(self, potential: sf.MomentNetwork, frames: Sequence[Any]) -> None:
        data = prepare(frames, potential)
        assert len(data.samples) == len(frames)
        structures = [sample.structure for sample in data.samples]
        elements = list(potential.species)
        counts = np.array([[np.sum(s.numbers == z) for z in elements] for s in structures], dtype=np.float64)
        energies = np.array([sample.labels.energy for sample in data.samples])
        offsets = np.linalg.lstsq(counts, energies, rcond=None)[0]
        known = TrainingData(
            structures, energies.tolist(), dict(zip(elements, offsets.tolist(), strict=True))
        )
        self.potential = potential.prepared(known)
        sizes = counts.sum(axis=1)
        self.shares, self.energies = counts / sizes[:, None], energies / sizes
        self.rows: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        layer = self.potential.last_layer()
        for sample, rows, count in zip(data.samples, structure_rows(layer, structures), counts, strict=True):
            n, forces = sample.structure.n_atoms, rows.forces
            assert forces is not None
            assert sample.labels.forces is not None
            energy = np.concatenate([rows.energy, count]) / n
            padded = np.concatenate([forces, np.zeros((len(forces), len(elements)))], axis=1)
            self.rows.append(np.concatenate([energy[None], padded]).astype(np.float32))
            self.labels.append(np.concatenate([[sample.labels.energy / n], sample.labels.forces.ravel()]))
        self._last: tuple[list[int], np.ndarray] = ([], np.zeros((0, 0)))
        self.places = {id(atoms): i for i, atoms in enumerate(frames)}

    def __call__(self, known: Frames, test: Frames, seed: int) -> Mapping[str, Any]:
        """Residuals of energies per atom (eV) and force components (eV/Å)."""
        places = [self.places[id(atoms)] for atoms in known]
        order = np.random.default_rng(seed).permutation(len(places))
        # Element offsets first: no ridge may pull on them.
        offsets = np.linalg.lstsq(self.shares[places], self.energies[places], rcond=None)[0]
        for i, energy in enumerate(self.energies - self.shares @ offsets):
            self.labels[i][0] = energy
        held, fitted = ([places[i] for i in part] for part in np.split(order, [max(1, len(order) // 5)]))
        # Labels only grow within an arm, so the sum over all of them is kept; what is held out is taken off.
        whole, known_rights = self.gram(places), self.rights(fitted)
        more = self.sums(held), self.rights(held)
        gram, right = whole - more[0], known_rights
        scores = []
        for ridge in RIDGES:
            weights = solve(gram, right, ridge)
            of_held = np.concatenate([self.residual(i, weights)[1:] for i in held])
            scores.append(float(np.mean(of_held**2)))
        weights = solve(whole, right + more[1], RIDGES[int(np.argmin(scores))])
        residuals = [self.residual(self.places[id(atoms)], weights) for atoms in test]
        return {"energy": [r[0] for r in residuals], "forces": [r[1:] for r in residuals]}

    def gram(self, places: list[int]) -> np.ndarray:
        """Sum over all labels, from that of the last call where these were added to."""
        before, gram = self._last
        if not before or places[: len(before)] != before:
            before, gram = [], np.zeros((self.rows[0].shape[1],) * 2)
        gram = gram + self.sums(places[len(before) :])
        self._last = places, gram
        return gram

    def weights(self, place: int) -> np.ndarray:
        """Of a structure's rows: the energy's, then those of the forces."""
        weight = np.ones(len(self.rows[place]))
        weight[0] = ENERGY_WEIGHT * np.sqrt(len(weight) / 3)
        return weight

    def sums(self, places: Sequence[int]) -> np.ndarray:
        """Weighted sum of squares of rows."""
        gram = np.zeros((self.rows[0].shape[1],) * 2)
        for i in places:
            rows = self.weights(i)[:, None] * self.rows[i].astype(np.float64)
            gram += rows.T @ rows
        return gram

    def rights(self, places: Sequence[int]) -> np.ndarray:
        """Weighted sum of products of rows and labels."""
        return sum(
            ((self.weights(i) ** 2 * self.labels[i]) @ self.rows[i].astype(np.float64) for i in places),
            start=np.zeros(self.rows[0].shape[1]),
        )

    def residual(self, place: int, weights: np.ndarray) -> np.ndarray:
        """Prediction minus label: energy per atom, then forces."""
        return self.rows[place] @ weights - self.labels[place]


def solve(gram: np.ndarray, right: np.ndarray, ridge: float) -> np.ndarray:
    """Weights with a ridge relative to the scale of every column."""
    # Columns that hardly vary among a few structures may vary a lot among others.
    scale = np.sqrt(np.maximum(np.diag(gram), 1e-5 * np.median(np.diag(gram))))
    scaled = gram / scale[:, None] / scale
    return cho_solve(cho_factor(scaled + ridge * len(right) * np.eye(len(right))), right / scale) / scale


def share_of(result: Replay, method: str, error: str) -> LabelShare:
    """Labels for random's error one round before the last, so that shares above 100 % can be told."""
    curves, labels = result.errors["forces"][error], result.labels
    return label_share(labels[method], curves[method], labels[RANDOM][:, :-1], curves[RANDOM][:, :-1])


def said(share: LabelShare) -> str:
    """A share of labels, and its 95 % interval."""
    percent = [
        "never" if x is None else f"{100 * x:.0f} %" for x in (share.fraction, *(share.interval or ()))
    ]
    return percent[0] + (f" ({percent[1]} to {percent[2]})" if len(percent) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sets", nargs="*", choices=SETS, default=[*SETS])
    parser.add_argument("--methods", nargs="+", default=[METHOD])
    parser.add_argument("--features", choices=("ll_force", "full_grad_rp", "ll_grad"), default="ll_force")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    saved, lost = [], []
    for name in arguments.sets:
        begin = time.process_time()
        pool, test = frames_of(name)
        species = sorted({symbol for atoms in pool for symbol in atoms.get_chemical_symbols()})
        learner = ExactLastLayer(sf.MomentNetwork(species), [*pool, *test])
        *_, n_init, batch_size, n_rounds = SETS[name]
        result = sf.replay(
            pool,
            arguments.methods,
            test=test,
            n_init=n_init,
            batch_size=batch_size,
            n_rounds=n_rounds + 1,
            seeds=arguments.seeds,
            learner=learner,
            potential=learner.potential,
            features=arguments.features,
            progress=False,
        )
        print(f"\n{name}: {len(pool)} candidates, {len(test)} test structures, {arguments.seeds} seeds")
        print("| method | error | at first | in the end | random | share of random's labels |")
        print("|---|---|---|---|---|---|")
        for method in arguments.methods:
            for error in ("mae", "rmse", "q95", "worst", "max"):
                curve = np.exp(result.curve("forces", error, method)[0])
                random = np.exp(result.curve("forces", error, RANDOM)[0])
                share = share_of(result, method, error)
                values = f"{curve[0]:.4f} | {curve[-2]:.4f} | {random[-2]:.4f} | {said(share)}"
                print(f"| {method} | force {error} | {values} |")
                fraction = np.inf if share.fraction is None else share.fraction
                if method == METHOD and error == "rmse" and fraction <= SAVING:
                    saved.append(name)
                if method == METHOD and error == "mae" and fraction > LOSS:
                    lost.append(name)
        print(f"{time.process_time() - begin:.0f} CPU seconds", flush=True)
    if {*arguments.sets} == {*SETS} and (len(saved) < N_SETS or lost):
        held = f"the bar of the RMSE holds on {saved or 'no set'}"
        sys.exit(f"{METHOD}: {held}, that of the MAE is missed on {lost or 'none'}")


if __name__ == "__main__":
    main()
