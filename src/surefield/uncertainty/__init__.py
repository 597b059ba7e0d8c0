"""Uncertainty: wraps a potential and predicts with calibrated standard deviations."""

from typing import TYPE_CHECKING

from surefield.lazy import import_on_first_use

if TYPE_CHECKING:
    from surefield.calibration.fit import calibrate_alpha, fit_calibration_map
    from surefield.calibration.metrics import uq_metrics
    from surefield.sensitivity.covariance import RowCovariance
    from surefield.sensitivity.posterior import LLPRPosterior, evidence_regularizer, val_nll_regularizer
    from surefield.uncertainty.compare import uq_compare
    from surefield.uncertainty.constant import ConstantUncertainty
    from surefield.uncertainty.deep_ensemble import DeepEnsemble
    from surefield.uncertainty.dropout_ensemble import DropoutEnsemble
    from surefield.uncertainty.feature_distance import FeatureDistance
    from surefield.uncertainty.guard import SigmaWarning
    from surefield.uncertainty.intervals import ConformalIntervals
    from surefield.uncertainty.last_layer_ensemble import ensemble_loss, ensemble_predict, sample_ensemble
    from surefield.uncertainty.llpr import LLPR
    from surefield.uncertainty.ltau import LTAU
    from surefield.uncertainty.ltau_details import LTAUDetails
    from surefield.uncertainty.ltau_score import LTAUForcesUQScore
    from surefield.uncertainty.quality_report import quality_report
    from surefield.uncertainty.shallow_ensemble import ShallowEnsemble
    from surefield.uncertainty.uncertainty import Uncertainty

__all__ = [
    "LLPR",
    "LTAU",
    "ConformalIntervals",
    "ConstantUncertainty",
    "DeepEnsemble",
    "DropoutEnsemble",
    "FeatureDistance",
    "LLPRPosterior",
    "LTAUDetails",
    "LTAUForcesUQScore",
    "RowCovariance",
    "ShallowEnsemble",
    "SigmaWarning",
    "Uncertainty",
    "calibrate_alpha",
    "ensemble_loss",
    "ensemble_predict",
    "evidence_regularizer",
    "fit_calibration_map",
    "quality_report",
    "sample_ensemble",
    "uq_compare",
    "uq_metrics",
    "val_nll_regularizer",
]

import_on_first_use(
    __name__,
    {
        "surefield.sensitivity.covariance": ("RowCovariance",),
        "surefield.sensitivity.posterior": ("LLPRPosterior", "evidence_regularizer", "val_nll_regularizer"),
        "surefield.calibration.fit": ("calibrate_alpha", "fit_calibration_map"),
        "surefield.uncertainty.compare": ("uq_compare",),
        "surefield.uncertainty.constant": ("ConstantUncertainty",),
        "surefield.uncertainty.deep_ensemble": ("DeepEnsemble",),
        "surefield.uncertainty.dropout_ensemble": ("DropoutEnsemble",),
        "surefield.uncertainty.feature_distance": ("FeatureDistance",),
        "surefield.uncertainty.guard": ("SigmaWarning",),
        "surefield.uncertainty.intervals": ("ConformalIntervals",),
        "surefield.uncertainty.last_layer_ensemble": ("ensemble_loss", "ensemble_predict", "sample_ensemble"),
        "surefield.uncertainty.llpr": ("LLPR",),
        "surefield.uncertainty.ltau": ("LTAU",),
        "surefield.uncertainty.ltau_details": ("LTAUDetails",),
        "surefield.uncertainty.ltau_score": ("LTAUForcesUQScore",),
        "surefield.calibration.metrics": ("uq_metrics",),
        "surefield.uncertainty.quality_report": ("quality_report",),
        "surefield.uncertainty.shallow_ensemble": ("ShallowEnsemble",),
        "surefield.uncertainty.uncertainty": ("Uncertainty",),
    },
)
