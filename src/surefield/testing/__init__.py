"""Contracts that every potential, uncertainty, selector and score keeps, as checks that anyone can call."""

from surefield.testing.gradients import GradientCheck, check_gradients
from surefield.testing.potentials import check_potential
from surefield.testing.scores import check_score
from surefield.testing.selectors import check_selector
from surefield.testing.uncertainties import check_uncertainty

__all__ = [
    "GradientCheck",
    "check_gradients",
    "check_potential",
    "check_score",
    "check_selector",
    "check_uncertainty",
]
