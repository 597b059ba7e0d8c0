"""SNAP: energies that are linear or quadratic in bispectrum components."""
