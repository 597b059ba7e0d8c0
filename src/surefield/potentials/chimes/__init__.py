"""ChIMES: Chebyshev polynomials of the distances in clusters of two to four atoms."""

from surefield.potentials.chimes.model import Chimes
from surefield.potentials.chimes.params_file import read_params
from surefield.potentials.chimes.params_writer import params_text, write_params
from surefield.potentials.chimes.settings import ChimesSettings
from surefield.potentials.chimes.setup_file import read_setup, settings_of
from surefield.potentials.chimes.xyzf import read_xyzf

__all__ = [
    "Chimes",
    "ChimesSettings",
    "params_text",
    "read_params",
    "read_setup",
    "read_xyzf",
    "settings_of",
    "write_params",
]
