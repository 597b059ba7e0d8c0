"""Accuracy and force uncertainty on mlearn with all defaults: `python benchmarks/mlearn.py Si Cu`.

Sets of one's own are measured likewise: `--data FOLDER` holds `X_train.xyz` and `X_test.xyz` for each name X.

Trains one `MomentNetwork` per element on the published training set and scores it on the published test set,
next to the potentials published with the sets (SNAP, qSNAP, MTP, measured on the same test frames). Then fits
`LLPR` on the frames that were trained on, calibrates it on those that `train` held out, and scores its force
sigma on the test set. The data (Zuo et al., J. Phys. Chem. A 124, 731 (2020)) are read in place and are not
part of the project.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import erf

from surefield.calibration.metrics import coverage, gaussian_nll
from surefield.files import json_text, write_atomic
from surefield.potentials import MomentNetwork
from surefield.structures.doctor.repeats import check_leakage
from surefield.structures.read import read_frames
from surefield.training import Fit, train
from surefield.training.dataset import LabelledSet, prepare
from surefield.training.loss import Residuals, residuals
from surefield.uncertainty import LLPR, uq_metrics

PUBLISHED = {"SNAP": "snap", "qSNAP": "qsnap", "MTP": "mtp"}
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "mlearn"
ONE_SIGMA = float(erf(np.sqrt(0.5)))
N_RESAMPLES = 2000

Interval = tuple[float, float]
Row = dict[str, Any]


def bootstrap(statistic: Callable[[np.ndarray], float], n: int) -> Interval:
    """95 % interval of a statistic of the chosen structures, which are drawn with replacement."""
    rng = np.random.default_rng(0)
    values = [statistic(rng.integers(n, size=n)) for _ in range(N_RESAMPLES)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def test_errors(found: Residuals, chosen: np.ndarray) -> Row:
    """MAE of energies in meV/atom and of force components in eV/Å over some structures, with intervals."""
    energy = 1e3 * np.abs(np.array(found["energy"])[chosen])
    sums = np.array([np.abs(found["forces"][i]).sum() for i in chosen])
    counts = np.array([found["forces"][i].size for i in chosen])
    n = len(chosen)
    return {
        "n_structures": n,
        "energy_mae": float(energy.mean()),
        "energy_interval": bootstrap(lambda i: float(energy[i].mean()), n),
        "forces_mae": float(sums.sum() / counts.sum()),
        "forces_interval": bootstrap(lambda i: float(sums[i].sum() / counts[i].sum()), n),
    }


def force_uncertainty(uncertain: LLPR, test: LabelledSet) -> Row:
    """Scores of the force sigmas; components whose sigma is zero vanish by symmetry and are left out."""
    errors, sigmas = [], []
    predictions = uncertain.predict(test.frames, forces=True)
    for sample, prediction in zip(test.samples, predictions, strict=True):
        errors.append((prediction.forces - sample.labels.forces).ravel())
        sigmas.append(prediction.forces_uncertainty.ravel())
    structure = np.repeat(np.arange(len(errors)), [len(e) for e in errors])
    r, s = np.concatenate(errors), np.concatenate(sigmas)
    kept = s > 0
    n_zero = int(np.sum(~kept))
    r, s, structure = r[kept], s[kept], structure[kept]
    rmse = float(np.sqrt(np.mean(r**2)))
    # Per structure, so that structures can be drawn again.
    gain = gaussian_nll(r, np.full_like(r, rmse)) - gaussian_nll(r, s)
    sums = np.bincount(structure, gain, minlength=len(errors))
    counts = np.bincount(structure, minlength=len(errors))
    return {
        **uq_metrics(r, s),
        "n_symmetry_zero": n_zero,
        "coverage_one_sigma": coverage(r, s, ONE_SIGMA),
        "constant_sigma": rmse,
        "constant_nll": float(gaussian_nll(r, np.full_like(r, rmse)).mean()),
        "nll_gain_interval": bootstrap(lambda i: float(sums[i].sum() / counts[i].sum()), len(errors)),
    }


def sets(data: Path) -> list[str]:
    """Names of the sets of a folder that have both parts."""
    train_part, test_part = (
        {path.name.split(f"_{part}.xyz")[0] for path in data.glob(f"*_{part}.xyz*")}
        for part in ("train", "test")
    )
    return sorted(train_part & test_part)


def measure(element: str, data: Path) -> Row:
    """Train and score one element."""
    paths = [next(iter(sorted(data.glob(f"{element}_{part}.xyz*")))) for part in ("train", "test")]
    start = time.perf_counter()
    frames = read_frames(paths[0])
    species = sorted({int(z) for atoms in frames for z in atoms.numbers})
    fit = train(MomentNetwork(species=species), frames)
    train_minutes = (time.perf_counter() - start) / 60
    test = prepare(paths[1], fit.potential.cutoff)
    found = residuals(fit.potential, test.samples)
    copies = copied_frames(fit, test)
    everything = np.arange(len(test))
    new = np.setdiff1d(everything, copies)
    start = time.perf_counter()
    uncertain = LLPR.fit(fit.potential, fit.train_set, fit.validation_set)
    llpr_minutes = (time.perf_counter() - start) / 60
    return {
        "n_train": len(fit.train_frames),
        "n_validation": len(fit.validation_frames),
        "epochs": len(fit.history),
        "train_minutes": train_minutes,
        "errors": test_errors(found, everything),
        "errors_without_copies": test_errors(found, new) if len(copies) else None,
        "llpr_minutes": llpr_minutes,
        "forces_uncertainty": force_uncertainty(uncertain, test),
    }


def copied_frames(fit: Fit, test: LabelledSet) -> np.ndarray:
    """Test structures that are among the training or validation frames, possibly rotated."""
    known = prepare(fit.train_frames + fit.validation_frames, fit.potential.cutoff)
    labels = [[sample.labels for sample in part.samples] for part in (test, known)]
    findings = check_leakage(test.frames, labels[0], known.frames, labels[1])
    return np.array(sorted({i for finding in findings for i in finding.frames}), dtype=int)


def print_accuracy(rows: dict[str, Row], published: dict[str, Row]) -> None:
    """Errors on the test sets, ours and published."""
    print("\nTest errors, MAE [95 % bootstrap interval over structures]")
    print(f"{'':<4}{'potential':<28}{'minutes':>8}{'epochs':>8}{'E / meV/atom':>24}{'F / eV/Å':>27}")
    for element, row in rows.items():
        ours = {"surefield": row["errors"]}
        if row["errors_without_copies"]:
            n = row["errors_without_copies"]["n_structures"]
            ours[f"surefield, {n} not in train"] = row["errors_without_copies"]
        for name, errors in ours.items():
            first = errors is row["errors"]
            spent = f"{row['train_minutes']:>8.1f}{row['epochs']:>8}" if first else " " * 16
            energy = f"{errors['energy_mae']:.2f} {_interval(errors['energy_interval'], 2)}"
            forces = f"{errors['forces_mae']:.4f} {_interval(errors['forces_interval'], 4)}"
            print(f"{element:<4}{name:<28}{spent}{energy:>24}{forces:>27}")
        for name, key in PUBLISHED.items():
            other = published.get(f"{element}/{key}/test")
            if other is None:
                continue
            energy, forces = f"{other['E_mae']:.2f}", f"{other['F_mae']:.4f}"
            print(f"{element:<4}{name:<28}{'':>16}{energy:>24}{forces:>27}")


def print_uncertainty(rows: dict[str, Row]) -> None:
    """Scores of the force sigmas on the test sets."""
    print(f"\nForce sigma of LLPR on the test sets (a perfect one covers {ONE_SIGMA:.3f} at 1 sigma)")
    print(
        f"{'':<4}{'minutes':>8}{'components':>12}{'coverage':>10}{'miscal. area':>14}{'NLL':>9}"
        f"{'NLL const.':>12}{'gain in NLL':>26}{'left out':>10}"
    )
    for element, row in rows.items():
        u = row["forces_uncertainty"]
        gain = f"{u['constant_nll'] - u['nll']:.3f} {_interval(u['nll_gain_interval'], 3)}"
        print(
            f"{element:<4}{row['llpr_minutes']:>8.1f}{u['n']:>12}{u['coverage_one_sigma']:>10.3f}"
            f"{u['miscalibration_area']:>14.3f}{u['nll']:>9.3f}{u['constant_nll']:>12.3f}{gain:>26}"
            f"{u['n_symmetry_zero']:>10}"
        )


def _interval(interval: Interval, digits: int) -> str:
    return f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("elements", nargs="*", help="names of sets; all in the folder by default")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the sets")
    parser.add_argument("--out", type=Path, help="JSON file for all numbers")
    arguments = parser.parse_args()
    known = sets(arguments.data)
    elements = arguments.elements or known
    if not known:
        print(f"skipped: needs the mlearn sets in {arguments.data}; name their folder with --data")
        return
    if unknown := sorted(set(elements) - set(known)):
        parser.error(f"{arguments.data} has the sets {', '.join(known)}, got {', '.join(unknown)}")
    if arguments.out and not arguments.out.absolute().parent.is_dir():
        parser.error(f"no folder {arguments.out.absolute().parent} to write {arguments.out.name} to")
    table = arguments.data / "measured_accuracy.json"
    published = json.loads(table.read_text()) if table.exists() else {}
    rows: dict[str, Row] = {}
    for element in elements:
        print(f"== {element}", flush=True)
        rows[element] = measure(element, arguments.data)
        if arguments.out:  # after each element: a run that is stopped keeps what it has
            write_atomic(arguments.out, json_text(rows, indent=1) + "\n")
    print_accuracy(rows, published)
    print_uncertainty(rows)


if __name__ == "__main__":
    main()
