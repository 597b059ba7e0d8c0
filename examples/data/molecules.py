"""Start structures of the demonstrations: malonaldehyde, relaxed with GFN2-xTB.

Its hydrogen bond hands the hydrogen from one oxygen to the other, and back: at 500 K that happens within
picoseconds. Writes malonaldehyde.xyz beside this file.
"""

from __future__ import annotations

from pathlib import Path

from ase import Atoms
from ase.optimize import BFGS
from tblite.ase import TBLite

import surefield as sf

PLACES = {
    "O1": (-1.25, -1.15), "C1": (-1.22, 0.13), "C2": (0.0, 0.85), "C3": (1.22, 0.15), "O2": (1.28, -1.15),
    "H0": (0.35, -1.50), "H1": (-2.17, 0.68), "H2": (0.0, 1.93), "H3": (2.17, 0.68),
}  # fmt: skip


def main() -> None:
    atoms = Atoms([name[0] for name in PLACES], [(x, y, 0.0) for x, y in PLACES.values()])
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    BFGS(atoms, logfile=None).run(fmax=0.005, steps=500)
    relaxed = Atoms(atoms.numbers, atoms.positions - atoms.get_center_of_mass())
    relaxed.info["name"] = "malonaldehyde"
    sf.write_frames(Path(__file__).with_name("malonaldehyde.xyz"), [relaxed])


if __name__ == "__main__":
    main()
