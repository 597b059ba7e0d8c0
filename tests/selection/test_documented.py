"""Every name that apax documents: importable here, with its arguments, their order and their defaults."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from surefield import selection

EMPTY = inspect.Parameter.empty
#: Arguments with their defaults, in their order; fields of maps are given by name.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "kernel_selection": {
        "model_dir": EMPTY,
        "train_atoms": EMPTY,
        "pool_atoms": EMPTY,
        "base_fm_options": EMPTY,
        "selection_method": EMPTY,
        "feature_transforms": (),
        "selection_batch_size": 10,
        "processing_batch_size": 64,
    },
    "create_feature_fn": {
        "model": EMPTY,
        "params": EMPTY,
        "base_feature_map": EMPTY,
        "feature_transforms": (),
        "is_ensemble": False,
    },
    "compute_features": {"feature_fn": EMPTY, "dataset": EMPTY},
    "extract_feature_params": {"params": EMPTY, "layer_name": EMPTY},
    "KernelMatrix": {"g": EMPTY, "n_train": EMPTY},
    "max_dist_selection": {"matrix": EMPTY, "batch_size": None},
    "OTFInMemoryDataset": {"atoms_list": EMPTY, "cutoff": EMPTY, "bs": 1},
    "LastLayerGradientFeatures": {"name": "ll_grad", "layer_name": "dense_2"},
    "LastLayerForceFeatures": {"name": "ll_force_feat", "layer_name": "dense_2", "strategy": "raw"},
    "FullGradientRPFeatures": {"name": "full_grad_rp", "num_rp": 512},
    "IdentityFeatures": {"name": EMPTY},
    "FeatureTransformation": {},
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_names_and_arguments_of_apax(name: str, project: Path) -> None:
    found = inspect.signature(getattr(selection, name)).parameters
    ordered = [p for p in found.values() if p.kind is not inspect.Parameter.VAR_POSITIONAL]
    wanted = ARGUMENTS[name]
    assert {p.name: p.default for p in ordered[: len(wanted)]} == wanted
    assert [p.name for p in ordered[: len(wanted)]] == list(wanted)
    assert f"`{name}`" in (project / "docs" / "coming-from" / "apax.md").read_text("utf-8")


def test_attributes_of_apax() -> None:
    matrix = selection.KernelMatrix([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], 1)
    assert (matrix.n_train, matrix.num_columns, matrix.g.shape) == (1, 3, (3, 2))
    assert matrix.diagonal.tolist() == [1.0, 4.0, 2.0]
    assert matrix.compute_column(2).tolist() == [1.0, 2.0, 2.0]
    assert matrix.score(2).tolist() == [1.0, 2.0, 0.0]
    plain = selection.FeatureTransformation()
    assert plain.apply(len) is len
