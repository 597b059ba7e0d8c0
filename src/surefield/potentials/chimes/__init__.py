"""ChIMES: Chebyshev polynomials of the distances in clusters of two to four atoms."""

from surefield.potentials.chimes.model import Chimes
from surefield.potentials.chimes.settings import ChimesSettings

__all__ = ["Chimes", "ChimesSettings"]
