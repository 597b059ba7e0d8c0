"""Oracles: what labels structures, behind one seam, and the folder where labels are kept."""

from typing import TYPE_CHECKING

from surefield.lazy import import_on_first_use

if TYPE_CHECKING:
    from surefield.loop.oracles.calculator import CalculatorOracle, ase_calculator, emt
    from surefield.loop.oracles.command import command
    from surefield.loop.oracles.config import OracleConfig, make_oracle
    from surefield.loop.oracles.espresso import espresso
    from surefield.loop.oracles.kim import kim
    from surefield.loop.oracles.label_store import LabelStore
    from surefield.loop.oracles.lammps import lammps
    from surefield.loop.oracles.oracle import Oracle, Outcome
    from surefield.loop.oracles.quantum_chemistry import pyscf
    from surefield.loop.oracles.replay import ReplayOracle
    from surefield.loop.oracles.tight_binding import tblite

__all__ = [
    "CalculatorOracle",
    "LabelStore",
    "Oracle",
    "OracleConfig",
    "Outcome",
    "ReplayOracle",
    "ase_calculator",
    "command",
    "emt",
    "espresso",
    "kim",
    "lammps",
    "make_oracle",
    "pyscf",
    "tblite",
]

import_on_first_use(
    __name__,
    {
        "surefield.loop.oracles.calculator": ("CalculatorOracle", "ase_calculator", "emt"),
        "surefield.loop.oracles.command": ("command",),
        "surefield.loop.oracles.espresso": ("espresso",),
        "surefield.loop.oracles.kim": ("kim",),
        "surefield.loop.oracles.lammps": ("lammps",),
        "surefield.loop.oracles.quantum_chemistry": ("pyscf",),
        "surefield.loop.oracles.config": ("OracleConfig", "make_oracle"),
        "surefield.loop.oracles.label_store": ("LabelStore",),
        "surefield.loop.oracles.oracle": ("Oracle", "Outcome"),
        "surefield.loop.oracles.replay": ("ReplayOracle",),
        "surefield.loop.oracles.tight_binding": ("tblite",),
    },
)
