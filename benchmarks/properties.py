"""Elastic constants of networks trained on DFT data, with sigmas: `python benchmarks/properties.py Si Mo`.

Trains a `MomentNetwork` with all defaults on each mlearn set (Zuo et al., J. Phys. Chem. A 124, 731 (2020);
read in place, not part of the project), fits `LLPR`, and compares elastic constants with those of DFT. These
follow from the set's own strained cells (one component of the strain at a time, ions clamped): stresses as a
polynomial of the strain, all directions that are equal in a cubic crystal together, whose slope at zero is
the constant. Those of the network are taken at the same cell, also with ions clamped. Fails if a constant is
further than 10 % or two sigmas from that of DFT; those that the labels do not settle are left out and said.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk

from surefield.potentials import MomentNetwork
from surefield.properties import ElasticConstants, LatticeConstant
from surefield.structures.read import read_frames
from surefield.training import TrainConfig, train
from surefield.uncertainty import LLPR
from surefield.units import EV_A3_PER_GPA

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "mlearn"
LATTICES = {"Si": "diamond", "Cu": "fcc", "Mo": "bcc", "Li": "bcc"}
CONSTANTS = ("C11", "C12", "C44")
#: Strains up to this size count, normal ones and shears; a cubic polynomial describes the stress there.
LARGEST = (0.085, 0.13)
#: Slopes whose standard error is beyond this share of them are of no use.
USABLE = 0.05


def strains_of(frames: list[Atoms]) -> tuple[float, np.ndarray, np.ndarray]:
    """Edge of the cubic cell, Green-Lagrange strains (n, 6), shears twice, and stresses (n, 6) in GPa."""
    metrics = np.array([atoms.cell.array @ atoms.cell.array.T for atoms in frames])
    # One component is strained at a time, so that the commonest edge is the one without strain.
    edges = np.sqrt(metrics[:, range(3), range(3)]).ravel().round(4)
    values, counts = np.unique(edges, return_counts=True)
    edge = float(values[counts.argmax()])
    green = 0.5 * (metrics / edge**2 - np.eye(3))
    strains = green[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] * [1, 1, 1, 2, 2, 2]
    return edge, strains, np.array([atoms.get_stress() for atoms in frames]) / EV_A3_PER_GPA


def slope(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope at zero of a polynomial through strains and stresses, and its standard error."""
    strain, stress = np.array(pairs).T
    n_terms = 4 if len(np.unique(strain.round(3))) > 5 else 3
    matrix = np.vander(strain, n_terms, increasing=True)
    coefficients, *_ = np.linalg.lstsq(matrix, stress, rcond=None)
    left = stress - matrix @ coefficients
    variance = left @ left / (len(strain) - n_terms) * np.linalg.inv(matrix.T @ matrix)[1, 1]
    return float(coefficients[1]), float(np.sqrt(variance))


def of_dft(frames: list[Atoms]) -> tuple[float, dict[str, tuple[float, float]]]:
    """Edge of the cubic cell, and elastic constants with standard errors, GPa."""
    edge, strains, stresses = strains_of(frames)
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in CONSTANTS}
    for strain, stress in zip(strains, stresses, strict=True):
        component = int(np.abs(strain).argmax())
        size = abs(strain[component])
        others = np.abs(np.delete(strain, component)).max()
        if size > LARGEST[component > 2] or others > max(0.1 * size, 1e-5):
            continue
        if component > 2:
            pairs["C44"].append((strain[component], stress[component]))
            continue
        pairs["C11"].append((strain[component], stress[component]))
        pairs["C12"] += [(strain[component], stress[k]) for k in range(3) if k != component]
    return edge, {name: slope(values) for name, values in pairs.items()}


def measure(element: str, minutes: float | None) -> bool:
    """Print one element; whether all usable constants are within the bars."""
    frames = read_frames(DATA / f"{element}_train.xyz.xz")
    edge, dft = of_dft([atoms for atoms in frames if "lastic" in str(atoms.info["config_type"])])
    lattice = LATTICES[element]
    a = min((edge / n for n in (1, 2, 3, 4)), key=lambda x: abs(x - bulk_length(element)))
    start = time.perf_counter()
    fit = train(MomentNetwork(species=[element]), frames, config=TrainConfig(minutes=minutes))
    trained = time.perf_counter() - start
    uncertain = LLPR.fit(fit.potential, fit.train_set, fit.validation_set, progress=False)
    start = time.perf_counter()
    options = {"clamped": True, "fixed_cell": True}
    prop = ElasticConstants(a, lattice, element, 1e-3, components=CONSTANTS, unit="GPa", **options)
    result = prop.predict(uncertain)
    spent = time.perf_counter() - start
    length = LatticeConstant(a, lattice, element).predict(uncertain)
    relaxed = ElasticConstants(a, lattice, element, components=CONSTANTS, unit="GPa").calculate_property(
        fit.potential
    )
    assert result.sigma is not None
    assert length.sigma is not None
    print(f"\n{element}: trained {trained:.0f} s, elastic constants with sigmas {spent:.0f} s; "
          f"a = {length.value[0]:.4f} ± {length.sigma[0]:.4f} Å (DFT cell {a:.4f} Å)")  # fmt: skip
    good = True
    for name, value, sigma, free in zip(CONSTANTS, result.value, result.sigma, relaxed.value, strict=True):
        line = f"  {name}  {value:7.1f} ± {sigma:5.1f} GPa"
        reference, error = dft[name]
        if not error < USABLE * abs(reference):
            line += f"   DFT {reference:.1f} ± {error:.1f}: not settled by the labels"
        else:
            off, sigmas = value / reference - 1, abs(value - reference) / sigma
            passed = abs(off) < 0.1 and sigmas < 2
            line += f"   DFT {reference:6.1f} ± {error:4.1f}   {100 * off:+5.1f} %, {sigmas:4.1f} sigmas"
            line += "" if passed else "   beyond the bar"
            good &= passed
        print(f"{line}   (relaxed crystal and ions {free:.1f})", flush=True)
    return good


def bulk_length(element: str) -> float:
    """Lattice constant of ASE's tables, which tells how many cells an edge holds."""
    return float(np.linalg.norm(bulk(element, LATTICES[element], cubic=True).cell.array[0]))


def main() -> int:
    """Measure the elements that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("elements", nargs="*", default=list(LATTICES))
    parser.add_argument("--minutes", type=float, help="of each training, with compiling; default: all epochs")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        print(f"no data sets at {DATA}")
        return 0
    return 0 if all([measure(element, arguments.minutes) for element in arguments.elements]) else 1


if __name__ == "__main__":
    sys.exit(main())
