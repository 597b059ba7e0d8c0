"""Names in structures that are no quantities: prefixes of labels, groups, weights."""

from __future__ import annotations

from typing import Final

#: Labels with this prefix were written on purpose and win over all but an explicit mapping.
REFERENCE_PREFIX: Final = "REF_"
VIRIAL_ALIASES: Final = ("REF_virial", "REF_virials", "virial", "virials", "dft_virial", "dft_virials")
#: Names that state no unit and mean other things too (a field, a free energy): never a label unasked.
BARE: Final = {"energy": "E", "forces": "F"}

CONFIG_TYPE: Final = "config_type"
#: Per-frame and per-atom weights of the training loss (`atoms.info` and `atoms.arrays`).
STRUCTURE_WEIGHT: Final = "structure_weight"
ATOMIC_WEIGHTS: Final = "atomic_weights"
#: The same as factors of squared residuals: of all terms, of the energy, of the forces on each atom.
WEIGHT: Final = "weight"
ENERGY_WEIGHT: Final = "energy_weight"
FORCE_WEIGHT: Final = "force_weight"
#: What structures call their total charge (e), and their spin: multiplicity, unpaired electrons or S.
CHARGE_KEYS: Final = ("charge", "total_charge", "net_charge", "molecular_charge")
SPIN_KEYS: Final = (
    "spin",
    "total_spin",
    "multiplicity",
    "spin_multiplicity",
    "total_multiplicity",
    "unpaired_electrons",
)

#: Entry of structures whose file stated its units, so that positions and labels have been converted.
CONVERTED: Final = "surefield_units"
