from __future__ import annotations

import copy
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from tests.scoring.scores import Count, Heights, Masked, Square

from surefield.errors import ConfigError, DataError
from surefield.scoring.results import read_labelled
from surefield.testing.frames import Snapshot


@pytest.fixture
def frames() -> list[Atoms]:
    rng = np.random.default_rng(3)
    frames = []
    for i in range(3):
        n = 2 + i
        atoms = Atoms(f"Cu{n}", rng.uniform(0.1, 3.0, (n, 3)), cell=[5, 5, 5], pbc=[True, True, False])
        atoms.positions[0, 2] = 1e-13 / 3  # eight decimals would lose it
        results = {
            "energy": -1.25 / 3,
            "forces": rng.standard_normal((n, 3)),
            "stress": rng.standard_normal(6),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info.update(config_type="slab", REF_energy=2 / 3)
        atoms.arrays["tag_of_mine"] = np.arange(n)
        frames.append(atoms)
    return frames


def test_compute_refuses_a_list_and_the_batch_one_structure(frames: list[Atoms]) -> None:
    with pytest.raises(ConfigError, match=r"Heights\.compute takes one.*list of 3; use compute_batch"):
        Heights([1.0]).compute(frames, "uncertainty")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="use compute for one structure"):
        Heights([1.0]).compute_batch(frames[0], "uncertainty")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"Count has one number.*use compute with the list"):
        Count().compute_batch(frames, "diversity")
    with pytest.raises(ConfigError, match=r"give \[atoms\]"):
        Count().compute(frames[0], "diversity")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "empty list"),
        ("train.xyz", "expected a list of ase.Atoms"),
        ([Atoms("H"), 3], "configuration 1; got int"),
        ([Atoms("H"), Atoms()], "without atoms in configuration 1"),
    ],
)
def test_what_is_no_list_of_structures_is_refused(bad: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Heights([1.0]).compute_batch(bad, "uncertainty")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        Count().compute(bad, "diversity")  # type: ignore[arg-type]


def test_results_come_back_bit_by_bit_with_all_the_input_had(frames: list[Atoms], tmp_path: Path) -> None:
    before = Snapshot(frames)
    score = Heights(np.array([1.0]))
    results = score.compute_batch(frames, "UNCERTAINTY", power=2.0)
    path = score.save_results(results, tmp_path / "new", frames)
    assert path == tmp_path / "new" / "score_results.xyz"
    assert before.changed() is None
    for read in (read_labelled(path.parent), ase.io.read(path, ":")):
        for atoms, back, result in zip(frames, read, results, strict=True):
            np.testing.assert_array_equal(back.arrays["heights_score"], result)
            assert back.arrays["heights_score"].dtype == np.float64
            np.testing.assert_array_equal(back.arrays["heights_low"], result < 0.5)
            for name, value in atoms.calc.results.items():
                np.testing.assert_array_equal(back.calc.results[name], value)
            assert back.info["REF_energy"] == 2 / 3
            assert back.info["config_type"] == "slab"
            assert back.pbc.tolist() == [True, True, False]
            np.testing.assert_array_equal(back.arrays["tag_of_mine"], atoms.arrays["tag_of_mine"])
    for back in read_labelled(path.parent):
        metadata = back.info["_metadata"]["heights_score"]
        assert metadata["power"] == 2.0
        assert metadata["unit"]["shape"] == [1]
        assert {"score", "score_quantity", "package_version"} <= metadata.keys()


def test_results_of_single_calls_keep_their_own_metadata(frames: list[Atoms]) -> None:
    score = Heights([2.0])
    results = [score.compute(atoms, "uncertainty", float(i + 1)) for i, atoms in enumerate(frames)]
    labelled = score.labelled(results, frames)
    assert [atoms.info["_metadata"]["heights_score"]["power"] for atoms in labelled] == [1.0, 2.0, 3.0]
    (alone,) = score.labelled(results[0], frames[0])
    np.testing.assert_array_equal(alone.arrays["heights_score"], results[0])


def test_metadata_of_several_scores_stand_side_by_side(frames: list[Atoms]) -> None:
    first = Heights([1.0])
    frames = first.labelled(first.compute_batch(frames, "uncertainty"), frames)
    second = Masked()
    frames = second.labelled(second.compute_batch(frames, "sensitivity"), frames)
    assert {*frames[0].info["_metadata"]} == {"heights_score", "masked_score"}
    frames[1].info["_metadata"] = "mine"
    with pytest.raises(DataError, match="something else than metadata"):
        second.labelled(second.compute_batch(frames, "sensitivity"), frames)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_matrices_come_back_as_they_are(frames: list[Atoms], tmp_path: Path, size: int) -> None:
    score = Masked(size)
    results = score.compute_batch(frames, "sensitivity")
    path = score.save_results(results, tmp_path, frames)
    for back, theirs, result in zip(read_labelled(tmp_path), ase.io.read(path, ":"), results, strict=True):
        matrix = back.info["masked_score"]
        assert matrix.shape == (size, size)
        assert matrix.dtype == np.float64
        np.testing.assert_array_equal(matrix, result)
        np.testing.assert_array_equal(np.reshape(theirs.info["masked_score"], (size, size)), result)


def test_metadata_of_a_configuration_has_its_own_entries(frames: list[Atoms]) -> None:
    score = Masked()
    masks = [np.ones(3), [1, 0], np.zeros(2)]
    results = score.compute_batch(frames, "sensitivity", masks, {"scale": [1.0, 2.0, 3.0], "other": "x"})
    metadata = [a.info["_metadata"]["masked_score"] for a in score.labelled(results, frames)]
    assert [m["options"] for m in metadata] == [{"scale": [float(i)], "other": "x"} for i in (1, 2, 3)]
    assert [m["list_of_mask"][0]["shape"] for m in metadata] == [[3], [2], [2]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_results_that_are_not_finite_are_refused_with_their_place(frames: list[Atoms], value: float) -> None:
    frames[1].positions[2, 2] = value
    with pytest.raises(DataError, match=f"must be finite in configuration 1, atom 2; got {value}"):
        Heights([1.0]).compute_batch(frames, "uncertainty")


def test_results_must_fit_their_structures(frames: list[Atoms], tmp_path: Path) -> None:
    score = Heights([1.0])
    results = score.compute_batch(frames, "uncertainty")
    with pytest.raises(ConfigError, match=r"Heights\.save_results needs the structures"):
        score.save_results(results, tmp_path)
    with pytest.raises(DataError, match="got 2 results; expected 3"):
        score.save_results(results[:2], tmp_path, frames)
    with pytest.raises(DataError, match=r"one per atom in configuration 0; got \(4,\); expected \(2,\)"):
        score.save_results(results[::-1], tmp_path, frames)
    with pytest.raises(DataError, match=r"a number or a square matrix in configuration 0; got \(2, 3\)"):
        Masked().save_results([np.ones((2, 3))] * 3, tmp_path, frames)
    assert list(tmp_path.iterdir()) == []


def test_values_of_data_sets_and_models_are_json(frames: list[Atoms], tmp_path: Path) -> None:
    count = Count()
    path = count.save_results(count.compute(frames, "diversity", bandwidth=3.0), tmp_path)
    assert path == tmp_path / "score_results.json"
    content = json.loads(path.read_text())
    assert content["count_score"] == 3.0
    assert content["_metadata"]["bandwidth"] == 3.0
    rows = np.random.default_rng(0).standard_normal((5, 3))
    square = Square()
    path = square.save_results(square.compute(rows, "SENSITIVITY"), tmp_path)
    np.testing.assert_array_equal(json.loads(path.read_text())["square_score"], rows.T @ rows)


def test_what_came_from_elsewhere_is_saved_with_what_the_object_is(frames: list[Atoms]) -> None:
    results = Heights([1.0]).compute_batch(frames, "uncertainty")
    other = Heights([1.0])
    metadata = other.labelled(copy.deepcopy(results), frames)[0].info["_metadata"]["heights_score"]
    assert "power" not in metadata
    assert metadata["unit"]["shape"] == [1]
