"""`read_snap` and `write_snap` under the module that they had first; they live in `formats.snap`."""

from surefield.lazy import import_on_first_use

# The layer above: nothing is imported before a script of that time asks for it.
import_on_first_use(__name__, {"surefield.formats.snap": ("read_snap", "write_snap")})
