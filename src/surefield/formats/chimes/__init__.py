"""Files of ChIMES: parameters, settings of a fit, training trajectories."""

from surefield.formats.chimes.params_file import read_params
from surefield.formats.chimes.params_writer import params_text, write_params
from surefield.formats.chimes.setup_file import read_setup, settings_of
from surefield.formats.chimes.xyzf import read_xyzf, write_xyzf

__all__ = [
    "params_text",
    "read_params",
    "read_setup",
    "read_xyzf",
    "settings_of",
    "write_params",
    "write_xyzf",
]
