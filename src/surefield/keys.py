"""Names under which labels are found and results are stored, in one place."""

from __future__ import annotations

from typing import Final, Literal

Kind = Literal["energy", "forces", "stress"]

ENERGY: Final = "energy"
FORCES: Final = "forces"
STRESS: Final = "stress"
ENERGIES: Final = "energies"
KINDS: Final[tuple[Kind, ...]] = ("energy", "forces", "stress")

#: Labels are looked for under these names after the calculator's results, in this order.
LABEL_ALIASES: Final[dict[Kind, tuple[str, ...]]] = {
    "energy": ("dft_energy", "DFT_energy", "energy_dft", "Energy", "total_energy", "free_energy", "E"),
    "forces": ("dft_forces", "DFT_forces", "force", "forces_dft", "Forces", "F"),
    "stress": ("dft_stress", "DFT_stress", "stress_dft", "Stress"),
}
#: Labels with this prefix were written on purpose and win over all but an explicit mapping.
REFERENCE_PREFIX: Final = "REF_"
VIRIAL_ALIASES: Final[tuple[str, ...]] = ("REF_virial", "REF_virials", "virial", "virials", "dft_virial")

CONFIG_TYPE: Final = "config_type"
#: Per-frame and per-atom weights of the training loss (`atoms.info` and `atoms.arrays`).
STRUCTURE_WEIGHT: Final = "structure_weight"
ATOMIC_WEIGHTS: Final = "atomic_weights"
#: The same as factors of squared residuals: of all terms, of the energy, of the forces on each atom.
WEIGHT: Final = "weight"
ENERGY_WEIGHT: Final = "energy_weight"
FORCE_WEIGHT: Final = "force_weight"


def uncertainty(name: str) -> str:
    """Name of the calibrated standard deviation of a result."""
    return f"{name}_uncertainty"


def ensemble(name: str) -> str:
    """Name of the member values of a result (member axis first)."""
    return f"{name}_ensemble"
