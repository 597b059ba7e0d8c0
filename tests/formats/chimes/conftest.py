"""The same small ChIMES potential as in the tests of the potential itself."""

from tests.potentials.chimes.conftest import SETTINGS, chimes, reference

__all__ = ["SETTINGS", "chimes", "reference"]
