"""What to label next: feature kernels and batch selection. Arrays in, indices out."""

from typing import TYPE_CHECKING

from surefield.lazy import import_on_first_use

if TYPE_CHECKING:
    from surefield.acquisition.replay import replay
    from surefield.acquisition.select import select
    from surefield.selection.constraints import Constraints
    from surefield.selection.duplicates import find_duplicates, sanity_filter, structure_key
    from surefield.selection.feature_function import (
        compute_features,
        create_feature_fn,
    )
    from surefield.selection.feature_maps import (
        FeatureTransformation,
        FullGradientRPFeatures,
        IdentityFeatures,
        LastLayerForceFeatures,
        LastLayerGradientFeatures,
        PerAtomFeatures,
        ScaleFeatures,
        ShiftFeatures,
    )
    from surefield.selection.feature_store import FeatureStore
    from surefield.selection.features import Features
    from surefield.selection.kernel import KernelMatrix
    from surefield.selection.kernel_selection import (
        kernel_selection,
    )
    from surefield.selection.methods import kmeanspp_probabilities, max_dist_selection
    from surefield.selection.replay_result import Replay
    from surefield.selection.select_rows import select_features, select_rows
    from surefield.selection.selection import Dropped, Reason, Selection
    from surefield.selection.stopping import LabelledRound, StopDecision, stop_now
    from surefield.selection.structure_inputs import (
        OTFInMemoryDataset,
    )
    from surefield.selection.transforms import (
        ACSRF,
        L2,
        PCA,
        ACSGrad,
        Center,
        PerAtom,
        Posterior,
        RowTransform,
        Scale,
        Sketch,
        Standardise,
        Whiten,
        described_transforms,
        transform_features,
        transforms_from,
    )
    from surefield.sensitivity.layers import extract_feature_params

__all__ = [
    "ACSRF",
    "L2",
    "PCA",
    "ACSGrad",
    "Center",
    "Constraints",
    "Dropped",
    "FeatureStore",
    "FeatureTransformation",
    "Features",
    "FullGradientRPFeatures",
    "IdentityFeatures",
    "KernelMatrix",
    "LabelledRound",
    "LastLayerForceFeatures",
    "LastLayerGradientFeatures",
    "OTFInMemoryDataset",
    "PerAtom",
    "PerAtomFeatures",
    "Posterior",
    "Reason",
    "Replay",
    "RowTransform",
    "Scale",
    "ScaleFeatures",
    "Selection",
    "ShiftFeatures",
    "Sketch",
    "Standardise",
    "StopDecision",
    "Whiten",
    "compute_features",
    "create_feature_fn",
    "described_transforms",
    "extract_feature_params",
    "find_duplicates",
    "kernel_selection",
    "kmeanspp_probabilities",
    "max_dist_selection",
    "replay",
    "sanity_filter",
    "select",
    "select_features",
    "select_rows",
    "stop_now",
    "structure_key",
    "transform_features",
    "transforms_from",
]

import_on_first_use(
    __name__,
    {
        # What starts from structures stands in a layer above; it is offered here beside its ingredients.
        "surefield.acquisition.replay": ("replay",),
        "surefield.acquisition.select": ("select",),
        "surefield.selection.constraints": ("Constraints",),
        "surefield.selection.duplicates": (
            "find_duplicates",
            "sanity_filter",
            "structure_key",
        ),
        "surefield.selection.feature_function": (
            "compute_features",
            "create_feature_fn",
        ),
        "surefield.selection.feature_maps": (
            "FeatureTransformation",
            "FullGradientRPFeatures",
            "IdentityFeatures",
            "LastLayerForceFeatures",
            "LastLayerGradientFeatures",
            "PerAtomFeatures",
            "ScaleFeatures",
            "ShiftFeatures",
        ),
        "surefield.selection.kernel_selection": ("kernel_selection",),
        "surefield.selection.structure_inputs": ("OTFInMemoryDataset",),
        "surefield.sensitivity.layers": ("extract_feature_params",),
        "surefield.selection.feature_store": ("FeatureStore",),
        "surefield.selection.features": ("Features",),
        "surefield.selection.kernel": ("KernelMatrix",),
        "surefield.selection.methods": (
            "kmeanspp_probabilities",
            "max_dist_selection",
        ),
        "surefield.selection.select_rows": (
            "select_features",
            "select_rows",
        ),
        "surefield.selection.selection": (
            "Dropped",
            "Reason",
            "Selection",
        ),
        "surefield.selection.replay_result": ("Replay",),
        "surefield.selection.stopping": ("LabelledRound", "StopDecision", "stop_now"),
        "surefield.selection.transforms": (
            "ACSGrad",
            "ACSRF",
            "Center",
            "L2",
            "PCA",
            "PerAtom",
            "Posterior",
            "RowTransform",
            "Scale",
            "Sketch",
            "Standardise",
            "Whiten",
            "described_transforms",
            "transform_features",
            "transforms_from",
        ),
    },
)
