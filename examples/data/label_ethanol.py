"""Ethanol at 300, 500 and 700 K: GFN2-xTB trajectories, labelled with PBE/def2-SVP by PySCF.

    pip install ase tblite pyscf
    OMP_NUM_THREADS=1 python examples/data/label_ethanol.py

About 8 s a label on one core. A killed run goes on where it stopped.
"""

import argparse
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from labelling import Label, force_check, label, saved_frames, work_folder, write_record, write_set
from pyscf import dft, gto
from tblite.ase import TBLite

NAME = "ethanol_pbe"
DFT = {
    "xc": "pbe",
    "basis": "def2-svp",
    "density_fitting": "def2-universal-jfit",
    "grid_level": 3,
    "grid_response": True,  # forces are then the exact derivative, and sum to zero
    "conv_tol_Ha": 1e-9,
}
MD = {
    "method": "GFN2-xTB",
    "ensemble": "Langevin",
    "timestep_fs": 0.5,
    "friction_per_fs": 0.02,
    "equilibration_steps": 1000,
    "steps_between_frames": 200,
    "temperatures_K": [300, 500, 700],
    "trajectories_per_temperature": {"train": 4, "test": 2},
}
SPIN = {"H": 1, "C": 2, "O": 2}


def trajectory(temperature: float, n_frames: int, rng: np.random.Generator) -> list[Atoms]:
    atoms = molecule("CH3CH2OH")
    atoms.calc = TBLite(method=MD["method"], verbosity=0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    md = Langevin(
        atoms,
        MD["timestep_fs"] * units.fs,
        temperature_K=temperature,
        friction=MD["friction_per_fs"] / units.fs,
        fixcm=False,
        rng=rng,
    )
    md.run(MD["equilibration_steps"])
    frames = []
    for _ in range(n_frames):
        md.run(MD["steps_between_frames"])
        centred = atoms.positions - atoms.get_center_of_mass()
        frames.append(Atoms(atoms.get_chemical_symbols(), centred))
    return frames


def sample(n: int, seed: int) -> list[Atoms]:
    """Two thirds train, one third test; no trajectory is in both."""
    frames: list[Atoms] = []
    number = 0
    for split, size in (("train", n - n // 3), ("test", n // 3)):
        temperatures = np.tile(MD["temperatures_K"], MD["trajectories_per_temperature"][split])
        for temperature, part in zip(
            temperatures, np.array_split(np.arange(size), len(temperatures)), strict=True
        ):
            for frame in trajectory(temperature, len(part), np.random.default_rng([seed, number])):
                frame.info = {
                    "config_type": f"md_{temperature}K",
                    "temperature_K": int(temperature),
                    "trajectory": number,
                    "split": split,
                }
                frames.append(frame)
            print(f"trajectory {number}: {temperature} K, {len(part)} frames", flush=True)
            number += 1
    return frames


def calculate(atoms: Atoms) -> Label:
    """Energy (eV) and forces (eV/Å); a single atom is spin-polarised and has no forces."""
    symbols = atoms.get_chemical_symbols()
    single = len(atoms) == 1
    mol = gto.M(
        atom=list(zip(symbols, atoms.positions, strict=True)),
        basis=DFT["basis"],
        spin=SPIN[symbols[0]] if single else 0,
        verbose=0,
    )
    mf = (dft.UKS if single else dft.RKS)(mol, xc=DFT["xc"]).density_fit(auxbasis=DFT["density_fitting"])
    mf.grids.level = DFT["grid_level"]
    mf.conv_tol = DFT["conv_tol_Ha"]
    energy = float(mf.kernel() * units.Hartree)
    if not mf.converged:
        return None
    if single:
        return {"REF_energy": energy}
    gradient = mf.nuc_grad_method()
    gradient.grid_response = DFT["grid_response"]
    return {
        "REF_energy": energy,
        "REF_forces": (-gradient.kernel() * units.Hartree / units.Bohr).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=200, help="number of frames (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder (default: this one)")
    args = parser.parse_args()
    record = {
        "name": NAME,
        "n": args.n,
        "seed": args.seed,
        "labels": {"engine": "PySCF", "version": version("pyscf"), **DFT},
        "sampling": {"engine": "tblite", "version": version("tblite"), "ase": version("ase"), **MD},
    }
    work = work_folder(args.out, record)
    single = [Atoms(s, info={"config_type": "isolated_atom", "split": "e0"}) for s in SPIN]
    frames = saved_frames(work / "frames.xyz", lambda: sample(args.n, args.seed))
    (work / "atoms").mkdir(exist_ok=True)
    atoms = label(single, calculate, work / "atoms")
    labelled = label(frames, calculate, work)
    write_set(args.out / f"{NAME}_atoms.xyz.xz", atoms)
    for split in ("train", "test"):
        part = [frame for frame in labelled if frame.info["split"] == split]
        write_set(args.out / f"{NAME}_{split}.xyz.xz", part)
    write_record(
        args.out / f"{NAME}.json",
        record,
        labelled,
        not_converged=len(frames) + len(single) - len(labelled) - len(atoms),
        force_check=force_check(labelled[0], calculate),
    )
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
