"""`read_xyzf` under the module that it had first; its home is `surefield.formats.chimes`."""

from surefield.lazy import import_on_first_use

# The layer above: nothing is imported before a script of that time asks for it.
import_on_first_use(__name__, {"surefield.formats.chimes.xyzf": ("read_xyzf", "write_xyzf")})
