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
from surefield.selection.transforms import ACSRF as ACSRF
from surefield.selection.transforms import L2 as L2
from surefield.selection.transforms import PCA as PCA
from surefield.selection.transforms import ACSGrad as ACSGrad
from surefield.selection.transforms import Center as Center
from surefield.selection.transforms import PerAtom as PerAtom
from surefield.selection.transforms import Posterior as Posterior
from surefield.selection.transforms import RowTransform as RowTransform
from surefield.selection.transforms import Scale as Scale
from surefield.selection.transforms import Sketch as Sketch
from surefield.selection.transforms import Standardise as Standardise
from surefield.selection.transforms import Whiten as Whiten
from surefield.selection.transforms import transform_features as transform_features

__all__ = [
    "ACSRF",
    "L2",
    "PCA",
    "ACSGrad",
    "Center",
    "Dropped",
    "Features",
    "KernelMatrix",
    "PerAtom",
    "Posterior",
    "Reason",
    "RowTransform",
    "Scale",
    "Selection",
    "Sketch",
    "Standardise",
    "Whiten",
    "find_duplicates",
    "kmeanspp_probabilities",
    "max_dist_selection",
    "sanity_filter",
    "select_features",
    "select_rows",
    "structure_key",
    "transform_features",
]
