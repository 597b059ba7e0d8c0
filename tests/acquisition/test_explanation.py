"""Reasons of picks as data, and the map of features."""

from __future__ import annotations

import numpy as np
import pytest

from surefield.acquisition.explanation import explain, feature_map
from surefield.selection.select_rows import select_rows


class Sure:
    """An uncertainty with the same sigmas for all structures."""

    maps = ("energy", "forces")

    def predict(self, frames, *, forces):
        sigma = {"energy_uncertainty": 0.2, "forces_uncertainty": np.array([[0.1, 0.1, 0.1]])}
        return [sigma for _ in frames]


def test_every_pick_knows_sigma_group_and_nearest_training_structure(copper):
    train, pool = copper[:2], copper[2:5]
    pool = [atoms.copy() for atoms in pool]
    pool[1].info["config_type"] = "hot"
    picks = select_rows("max_dist", np.array([[0.1], [5.0], [0.9]]), np.array([[0.0], [1.0]]), 1)
    (entry,), arrays = explain(picks, train, pool, Sure())
    assert entry == {
        "rule": "max_dist",
        "value": 16.0,
        "origin": "frame 1",
        "group": "hot",
        "sigma": {"energy": 0.2 / len(pool[1]), "forces": pytest.approx(0.1)},
        "nearest": "frame 1",
        "distance": 4.0,
    }
    assert arrays["picks"].tolist() == [1]
    assert (len(arrays["train"]), len(arrays["pool"])) == (2, 3)


@pytest.mark.parametrize("n_features", [3, 50])
def test_the_map_keeps_distances_of_features_that_lie_in_a_plane(n_features):
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.standard_normal((n_features, 2)))[0].T
    flat = rng.standard_normal((12, 2)) * [3.0, 1.0]
    rows = flat @ plane + 7.0
    arrays = feature_map(rows[:5], rows[5:])
    points = np.concatenate([arrays["train"], arrays["pool"]])
    assert arrays["shares"].sum() == pytest.approx(1.0)
    distances = [np.linalg.norm(x[:, None] - x, axis=2) for x in (points, flat)]
    np.testing.assert_allclose(*distances, atol=1e-9)
    lengths = np.linalg.norm(rows, axis=1)[:, None]
    long = feature_map(rows[:5] * lengths[:5], rows[5:] * lengths[5:], squares=True)
    np.testing.assert_allclose(long["pool"], feature_map(rows[:5], rows[5:])["pool"], atol=1e-9)
