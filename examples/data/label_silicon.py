"""Strained and rattled cubic Si8 cells, labelled with LDA plane waves by Quantum ESPRESSO.

    apt install quantum-espresso
    pip install ase
    OMP_NUM_THREADS=1 python examples/data/label_silicon.py

About 10 s a label on one core. A killed run goes on where it stopped.
"""

import argparse
import hashlib
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.espresso import Espresso, EspressoProfile
from labelling import Label, force_check, label, saved_frames, work_folder, write_record, write_set

NAME = "silicon_lda"
PSEUDO = "Si.pz-vbc.UPF"
DFT = {
    "xc": "LDA (PZ)",
    "pseudopotential": PSEUDO,
    "ecutwfc_Ry": 30.0,
    "kpts": [2, 2, 2],
    "koffset": [1, 1, 1],
    "smearing": "gaussian",
    "degauss_Ry": 0.01,
    "conv_thr_Ry": 1e-9,
    "energy": "free energy E - TS, of which the forces and the stress are derivatives",
}
SAMPLING = {
    "cell": "Si8, conventional diamond",
    "lattice_constant_A": 5.40,
    "largest_strain": 0.04,
    "rattle_stdev_A": [0.02, 0.25],
    "smallest_distance_A": 1.7,
}


def sample(n: int, seed: int) -> list[Atoms]:
    """Independent draws: six strains, a rattle amplitude, displacements; the first 70 % are train."""
    rng = np.random.default_rng(seed)
    largest = SAMPLING["largest_strain"]
    frames = []
    for index in range(n):
        strained = bulk("Si", "diamond", a=SAMPLING["lattice_constant_A"], cubic=True)
        upper = np.triu(rng.uniform(-largest, largest, (3, 3)))
        strain = upper + np.triu(upper, 1).T
        strained.set_cell(strained.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        amplitude = rng.uniform(*SAMPLING["rattle_stdev_A"])
        frame = rattled(strained, amplitude, rng)
        frame.info = {
            "config_type": "strained_rattled",
            "rattle_A": round(float(amplitude), 4),
            "split": "train" if index < round(0.7 * n) else "test",
        }
        frames.append(frame)
    return frames


def rattled(atoms: Atoms, amplitude: float, rng: np.random.Generator) -> Atoms:
    """Normal displacements; drawn again, at the same amplitude, when two atoms come too close."""
    while True:
        frame = atoms.copy()
        frame.positions += rng.normal(scale=amplitude, size=frame.positions.shape)
        distances = frame.get_all_distances(mic=True)
        if distances[np.triu_indices(len(frame), 1)].min() > SAMPLING["smallest_distance_A"]:
            return frame


def calculate(atoms: Atoms, profile: EspressoProfile) -> Label:
    """Energy (eV), forces (eV/Å) and stress (eV/Å^3, positive = tensile)."""
    with tempfile.TemporaryDirectory() as folder:
        work = atoms.copy()
        work.calc = Espresso(
            profile=profile,
            directory=folder,
            pseudopotentials={"Si": PSEUDO},
            kpts=tuple(DFT["kpts"]),
            koffset=tuple(DFT["koffset"]),
            input_data={
                "control": {"tprnfor": True, "tstress": True},
                "system": {
                    "ecutwfc": DFT["ecutwfc_Ry"],
                    "occupations": "smearing",
                    "smearing": DFT["smearing"],
                    "degauss": DFT["degauss_Ry"],
                },
                "electrons": {"conv_thr": DFT["conv_thr_Ry"]},
            },
        )
        try:
            work.get_potential_energy()
        except subprocess.CalledProcessError as error:
            if error.returncode == 2:  # pw.x: the SCF loop ran out of steps
                return None
            raise
        return exact_results(Path(folder) / "pwscf.xml")


def exact_results(path: Path) -> Label:
    """All digits of the results of pw.x (its text output has eight decimals); atomic units in the file."""
    output = ET.parse(path).getroot().find("output")
    if output.findtext("convergence_info/scf_conv/convergence_achieved") != "true":
        return None
    forces = np.array(output.findtext("forces").split(), float).reshape(-1, 3)
    stress = np.array(output.findtext("stress").split(), float).reshape(3, 3)
    return {
        "REF_energy": float(output.findtext("total_energy/etot")) * units.Hartree,
        "REF_forces": (forces * units.Hartree / units.Bohr).tolist(),
        # pw.x counts pressure as positive; nine numbers in a row are what extxyz readers expect
        "REF_stress": (-stress * units.Hartree / units.Bohr**3).ravel().tolist(),
    }


def stress_check(frame: Atoms, profile: EspressoProfile, step: float = 0.005) -> dict[str, float]:
    """Largest stress component of a labelled frame and the same by central difference of energies (eV/Å^3).

    The plane waves change with the cell at a fixed cutoff, so that the two differ by the Pulay stress.
    """
    stress = frame.info["REF_stress"].reshape(3, 3)
    i, j = np.unravel_index(np.abs(stress).argmax(), (3, 3))
    direction = np.zeros((3, 3))
    direction[i, j] += 0.5
    direction[j, i] += 0.5
    energies = []
    for sign in (1, -1):
        strained = frame.copy()
        strained.set_cell(frame.cell.array @ (np.eye(3) + sign * step * direction), scale_atoms=True)
        energies.append(calculate(strained, profile)["REF_energy"])
    return {
        "stress": float(stress[i, j]),
        "central_difference": (energies[0] - energies[1]) / (2 * step * frame.get_volume()),
        "strain": step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=100, help="number of frames (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder (default: this one)")
    parser.add_argument(
        "--pseudo-dir",
        type=Path,
        default=Path("/usr/share/espresso/pseudo"),
        help=f"folder of {PSEUDO} (default: %(default)s, of Debian's quantum-espresso-data)",
    )
    args = parser.parse_args()
    profile = EspressoProfile(command="pw.x", pseudo_dir=args.pseudo_dir)
    sha256 = hashlib.sha256((args.pseudo_dir / PSEUDO).read_bytes()).hexdigest()
    record = {
        "name": NAME,
        "n": args.n,
        "seed": args.seed,
        "labels": {
            "engine": "Quantum ESPRESSO pw.x",
            "version": profile.version(),
            **DFT,
            "pseudopotential_sha256": sha256,
        },
        "sampling": {"ase": version("ase"), **SAMPLING},
    }
    work = work_folder(args.out, record)
    frames = saved_frames(work / "frames.xyz", lambda: sample(args.n, args.seed))
    labelled = label(frames, lambda atoms: calculate(atoms, profile), work)
    for split in ("train", "test"):
        part = [frame for frame in labelled if frame.info["split"] == split]
        write_set(args.out / f"{NAME}_{split}.xyz.xz", part)
    write_record(
        args.out / f"{NAME}.json",
        record,
        labelled,
        not_converged=len(frames) - len(labelled),
        force_check=force_check(labelled[0], lambda atoms: calculate(atoms, profile)),
        stress_check=stress_check(labelled[0], profile),
    )
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
