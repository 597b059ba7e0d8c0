"""What to label next: feature kernels and batch selection. Arrays in, indices out."""

from surefield.selection.duplicates import find_duplicates as find_duplicates
from surefield.selection.duplicates import sanity_filter as sanity_filter
from surefield.selection.duplicates import structure_key as structure_key
from surefield.selection.features import Features as Features
from surefield.selection.kernel import KernelMatrix as KernelMatrix
from surefield.selection.methods import kmeanspp_probabilities as kmeanspp_probabilities
from surefield.selection.methods import max_dist_selection as max_dist_selection
from surefield.selection.select_rows import select_features as select_features
from surefield.selection.select_rows import select_rows as select_rows
from surefield.selection.selection import Dropped as Dropped
from surefield.selection.selection import Reason as Reason
from surefield.selection.selection import Selection as Selection

__all__ = [
    "Dropped",
    "Features",
    "KernelMatrix",
    "Reason",
    "Selection",
    "find_duplicates",
    "kmeanspp_probabilities",
    "max_dist_selection",
    "sanity_filter",
    "select_features",
    "select_rows",
    "structure_key",
]
