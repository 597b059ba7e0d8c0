"""Fisher information beside numerical derivatives through KIM: `python benchmarks/fisher_information.py`.

Case fim_sw of ../shared/reference/scores: forces of Stillinger-Weber silicon, 20 periodic cells of 8 and 64
atoms, eight parameters, one of them (q) zero. The peer is numdifftools' Jacobian with Richardson's
extrapolation of the forces of the KIM model; both in this process, one after the other. Counted is everything
from structures to matrices: neighbours, derivatives, sums, metadata. Fails over a bar: 30 times faster once
compiled, equal to 1e-6 of sqrt(F_ii F_jj), and equal to the exact reference to 1e-10.

The peer needs `pip install numdifftools kimpy` and the KIM API with its models; without them it is left out.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

import surefield as sf

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "reference" / "scores"
NAME = "SW_StillingerWeber_1985_Si"
FACTOR, EQUAL, EXACT = 30.0, 1e-6, 1e-10


def structures() -> list[Atoms]:
    inputs = np.load(FOLDER / "inputs" / "fim_sw_configurations.npz")
    ends = np.cumsum(inputs["n_atoms"])[:-1]
    return [
        Atoms(f"Si{len(x)}", positions=x, cell=cell, pbc=True)
        for x, cell in zip(np.split(inputs["positions"], ends), inputs["cells"], strict=True)
    ]


def deviation(fims: Any, expected: np.ndarray) -> float:
    """Largest difference in units of sqrt(F_ii F_jj)."""
    size = np.sqrt(np.diagonal(expected, axis1=1, axis2=2))
    return float(np.abs((np.stack(fims) - expected) / (size[:, :, None] * size[:, None])).max())


def by_kim(frames: list[Atoms], names: list[str], values: np.ndarray) -> list[np.ndarray]:
    """Richardson-extrapolated derivatives of KIM's forces."""
    import numdifftools

    from surefield.foreign.opaque_kim import _calculator, find_installed

    calculator = _calculator(find_installed(NAME))

    def forces_of(atoms: Atoms) -> Any:
        def forces(theta: np.ndarray) -> np.ndarray:
            calculator.set_parameters(
                **{name: [[0], [float(v)]] for name, v in zip(names, theta, strict=True)}
            )
            calculator.reset()
            calculator.calculate(atoms, ["forces"], ["positions"])
            return calculator.results["forces"].reshape(-1).copy()

        return forces

    rows = [numdifftools.Jacobian(forces_of(atoms))(values) for atoms in frames]
    return [j.T @ j for j in rows]


def main() -> int:
    frames, reference = structures(), np.load(FOLDER / "expected" / "fim_sw.npz")
    names, values = [str(name) for name in reference["parameters"]], reference["values"]
    potential = sf.KIMPotential(NAME)
    score = sf.FIMTrainingSetScore()
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        fims = score.compute_batch(frames, "SENSITIVITY", potential, {name: [["default"]] for name in names})
        seconds.append(time.perf_counter() - begin)
    warm = float(np.median(seconds[1:]))
    exact = deviation(fims, reference["fim"])
    q = names.index("q")
    print(f"surefield: {1e3 * warm:.1f} ms (first call, with compiling: {seconds[0]:.1f} s)")
    print(f"against the exact reference: {exact:.1e}, row of q = 0: ", end="")
    print(f"{np.abs(np.stack(fims)[:, q] / reference['fim'][:, q] - 1).max():.1e}")
    missing = [name for name in ("numdifftools", "kimpy") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"numdifftools through KIM: left out, {' and '.join(missing)} not installed")
        return int(exact > EXACT)
    begin = time.perf_counter()
    peer = by_kim(frames, names, values)
    peer_seconds = time.perf_counter() - begin
    equal = deviation(fims, np.stack(peer))
    print(
        f"numdifftools through KIM: {peer_seconds:.2f} s, {peer_seconds / warm:.0f} times; {equal:.1e} apart"
    )
    return int(exact > EXACT or equal > EQUAL or peer_seconds / warm < FACTOR)


if __name__ == "__main__":
    sys.exit(main())
