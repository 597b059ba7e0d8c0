"""All uncertainties side by side on a real molecule: `python benchmarks/estimators.py [--epochs 20]`.

A default moment network is trained on the first 150 structures of 3BPA at 300 K, of which 30 are held out,
with a log of its force errors. Then `uq_compare` fits every estimator that serves it: a constant sigma, LLPR,
the distance in feature space, LTAU, a shallow ensemble and a deep one of four. Dropout needs a network of
its own, with symmetry functions, trained on the same structures. All are scored on the first 100 test
structures at 300 K; the first 100 at 600 K are to be told from them. Fails where force sigmas of LLPR rank
errors worse than those of the deep ensemble, or where its fit takes more than a tenth of the ensemble's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import surefield as sf
from surefield.descriptors.behler import behler_functions
from surefield.structures.read import read_frames
from surefield.uncertainty import Uncertainty
from surefield.uncertainty.build import TrainingRecord

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "3bpa"
N_TRAIN, N_HELD, N_TEST = 120, 30, 100
#: Of the symmetry functions of the dropout network, Å and Å^-2.
CUTOFF = 5.0
G2 = [{"eta": eta, "Rs": rs} for eta in (0.5, 4.0) for rs in (0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)]
G4 = [{"eta": 0.05, "lambda": s, "zeta": zeta} for s in (-1, 1) for zeta in (1, 4)]
COLUMNS = {
    "NLL": "nll", "CRPS": "crps", "area": "miscalibration_area", "ENCE": "ence", "Spearman": "spearman",
    "AUROC errors": "auroc_error", "AUROC out": "auroc_ood", "68 %": "coverage_68", "95 %": "coverage_95",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="of every training")
    parser.add_argument("--seed", type=int, default=0, help="of every training")
    options = parser.parse_args()
    frames = list(read_frames(DATA / "train_300K.xyz.xz")[: N_TRAIN + N_HELD])
    train, held = frames[:N_TRAIN], frames[N_TRAIN:]
    test, warm = (list(read_frames(DATA / f"test_{t}K_sub.xyz.xz")[:N_TEST]) for t in (300, 600))
    species = sorted({symbol for atoms in train for symbol in atoms.get_chemical_symbols()})
    config = sf.TrainConfig(epochs=options.epochs, seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "force-errors"
        begin = time.process_time()
        network = sf.MomentNetwork(species, seed=options.seed)
        fit = sf.train(network, train, held, config=config, force_error_log=log, progress=False)
        trained = time.process_time()
        dropout = of_dropout(species, train, held, config)
        print(f"moment network: {trained - begin:.0f} CPU s; dropout: {time.process_time() - trained:.0f}")
        table = sf.uq_compare(
            fit.potential,
            fit.train_set,
            fit.validation_set,
            test,
            {
                **{kind: kind for kind in ("constant", "llpr", "distance", "ltau", "shallow_ensemble")},
                "deep_ensemble": "deep_ensemble",
                "dropout": dropout,
            },
            ood=warm,
            record=TrainingRecord(config, force_errors=log),
            seed=options.seed,
            progress=False,
        )
    print(f"| quantity | estimator | RMSE | {' | '.join(COLUMNS)} | fit, s | µs per atom |")
    print("|---" * (len(COLUMNS) + 5) + "|")
    for row in table.rows():
        errors = table.scores[row["estimator"]].comparison.test()
        numbers = [1e3 * errors[f"{row['quantity']}_rmse"], *(row[m] for m in COLUMNS.values())]
        numbers += [row["fit_seconds"], 1e6 * row["atom_seconds"]]
        cells = " | ".join("" if x != x else f"{x:.3g}" for x in numbers)
        print(f"| {row['quantity']} | {row['estimator']} | {cells} |")
    print(table.recommendation)
    scores = {name: table.scores[name] for name in ("llpr", "deep_ensemble")}
    ranks = {name: own.metrics["forces"]["spearman"][0] for name, own in scores.items()}
    share = scores["llpr"].fit_seconds / scores["deep_ensemble"].fit_seconds
    print(f"rank correlations {ranks}, LLPR takes {share:.3f} of the fit of the deep ensemble")
    sys.exit(ranks["llpr"] < ranks["deep_ensemble"] or share > 0.1)


def of_dropout(species: list[str], train: list, held: list, config: sf.TrainConfig) -> Uncertainty:
    """A dropout network on symmetry functions, trained on the same structures, and its ensemble."""
    descriptor = behler_functions(species, {"g2": G2, "g4": G4}, CUTOFF)
    network = sf.DropoutNetwork(descriptor, (30, 30), 0.1, seed=config.seed)
    fit = sf.train(network, train, held, config=config, progress=False)
    return sf.DropoutEnsemble.fit(fit.potential, fit.validation_set)


if __name__ == "__main__":
    main()
