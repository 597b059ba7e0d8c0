"""Potentials of electrodes: grand-canonical energies that depend on an electrode potential."""
