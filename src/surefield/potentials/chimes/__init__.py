"""ChIMES: Chebyshev polynomials of the distances in clusters of two to four atoms."""

from surefield.descriptors.chimes.settings import ChimesSettings
from surefield.potentials.chimes.model import Chimes

__all__ = ["Chimes", "ChimesSettings"]
