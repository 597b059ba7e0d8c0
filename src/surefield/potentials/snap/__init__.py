"""SNAP: energies that are linear or quadratic in bispectrum components."""

from surefield.potentials.snap.snap import Snap, SnapConfig

__all__ = ["Snap", "SnapConfig"]
