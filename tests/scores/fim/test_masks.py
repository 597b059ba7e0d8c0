from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from surefield.errors import ConfigError, DataError
from surefield.scores.fim.masks import evaluated_quantities, row_weights

PAIR = Atoms("Si2", positions=[[0, 0, 0], [0, 0, 2.3]])
CELL = bulk("Si")


def test_quantities_by_configuration() -> None:
    assert evaluated_quantities(None, 2, combined=False) == [("forces",)] * 2
    asked = {"compute_forces": [True, False], "compute_energy": [False, True]}
    assert evaluated_quantities(asked, 2, combined=False) == [("forces",), ("energy",)]
    asked = {"compute_energy": np.True_, "compute_stress": [True]}
    assert evaluated_quantities(asked, 1, combined=True) == [("energy", "forces", "stress")]


@pytest.mark.parametrize(
    ("asked", "combined", "error", "message"),
    [
        (
            {"compute_energy": [False, True]},
            False,
            ConfigError,
            "configuration 1; got energy and forces; .*noise=",
        ),
        ({"compute_forces": [True, False]}, False, ConfigError, "in configuration 1; got none"),
        ({"compute_forces": False}, True, ConfigError, "in configuration 0; got none"),
        ({"compute_energy": [True] * 3}, True, DataError, "got 3; expected 1 or 2"),
        ({"compute_energy": 1}, True, ConfigError, "True or False"),
        ({"compute_force": True}, True, ConfigError, "did you mean 'compute_forces'"),
    ],
)
def test_bad_quantities_are_refused(asked, combined, error, message) -> None:
    with pytest.raises(error, match=message):
        evaluated_quantities(asked, 2, combined=combined)


def test_masks_of_every_kind(tmp_path) -> None:
    mask = np.array([1, 1, 1, 0, 0, 0])
    np.save(tmp_path / "m.npy", mask)
    np.savetxt(tmp_path / "m.txt", mask, fmt="%d")
    masks = [
        mask,
        mask.tolist(),
        mask.reshape(2, 3),
        mask.astype(bool),
        tmp_path / "m.npy",
        f"{tmp_path}/m.txt",
        None,
    ]
    got = row_weights([PAIR] * len(masks), [("forces",)] * len(masks), masks)
    for weights in got[:-1]:
        np.testing.assert_array_equal(weights.by_quantity["forces"], mask)
    np.testing.assert_array_equal(got[-1].by_quantity["forces"], np.ones(6))


def test_noise_and_a_mask_over_several_quantities() -> None:
    mask = np.r_[0, np.ones(6), np.zeros(3), np.ones(3)]
    noise = {"energy": 0.1, "forces": 0.5, "stress": 0.25}
    [got] = row_weights([CELL], [("energy", "forces", "stress")], [mask], noise)
    assert got.n_rows == 13
    assert got.starts()["stress"] == 7
    np.testing.assert_array_equal(
        np.concatenate(list(got.by_quantity.values())), [0, *[2.0] * 6, 0, 0, 0, 4, 4, 4]
    )


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([None], r"in configuration 1; got 1 masks; expected 2"),
        ([None] * 3, r"in configuration 2; got 3 masks; expected 2"),
        ([None, [1, 1, 1]], r"list_of_mask\[1\].*in configuration 1; got 3; expected 6 entries.*forces 6"),
        ([None, np.ones((3, 2))], r"in configuration 1; got \(3, 2\)"),
        ([None, [1, 1, 2, 0, 0, 0]], "in configuration 1, entry 2; got 2; expected 6 entries of 0 or 1"),
        ([None, [1, 1, 0.5, 0, 0, 0]], "entry 2; got 0.5"),
        ([None, [1, 1, np.nan, 0, 0, 0]], "entry 2; got nan"),
        ([None, "nowhere.npy"], r"no file for list_of_mask\[1\]; got /.*nowhere.npy"),
        ("all.npy", "got the path all.npy"),
        (7, "got int"),
    ],
)
def test_bad_masks_are_refused(masks, message) -> None:
    with pytest.raises(DataError, match=message):
        row_weights([PAIR] * 2, [("forces",)] * 2, masks)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ({"energy": 0.1}, "no entry for forces"),
        ({"forces": 0.0}, "above zero"),
        ({"forces": np.inf}, "above zero"),
        ({"force": 1.0}, "did you mean 'forces'"),
        (0.1, "noise"),
    ],
)
def test_bad_noise_is_refused(noise, message) -> None:
    with pytest.raises(ConfigError, match=message):
        row_weights([PAIR], [("forces",)], None, noise)


def test_no_stress_without_three_periodic_directions() -> None:
    with pytest.raises(DataError, match="no stress in configuration 1"):
        row_weights([CELL, PAIR], [("stress",)] * 2)
