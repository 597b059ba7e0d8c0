"""Contracts that every potential, uncertainty and selector keeps, as checks that anyone can call."""

from surefield.testing.potentials import check_potential
from surefield.testing.selectors import check_selector
from surefield.testing.uncertainties import check_uncertainty

__all__ = ["check_potential", "check_selector", "check_uncertainty"]
