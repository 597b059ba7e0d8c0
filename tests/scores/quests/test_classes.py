from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read
from scipy.special import logsumexp
from tests.scoring.in_process import InProcess

import surefield as sf
from surefield.errors import ConfigError, DataError
from surefield.testing.frames import Snapshot

EFFICIENCY, DIVERSITY = sf.QUESTSEfficiencyScore, sf.QUESTSDiversityScore
KEY = "quests_delta_entropy_score"


@pytest.fixture
def frames() -> list[Atoms]:
    """Structures with descriptors a few tenths apart, and masks."""
    rng = np.random.default_rng(3)
    made = []
    for n in (3, 5, 1, 4):
        atoms = Atoms(f"Cu{n}", rng.uniform(0, 5, (n, 3)))
        atoms.arrays["descriptors"] = rng.normal(0, 0.1, (n, 3))
        atoms.arrays["selection_mask"] = np.arange(n) % 2 == 0
        made.append(atoms)
    return made


def joined(frames: list[Atoms]) -> np.ndarray:
    return np.concatenate([atoms.arrays["descriptors"] for atoms in frames])


def sums(rows: np.ndarray, h: float) -> np.ndarray:
    return np.exp(-((rows[:, None] - rows[None]) ** 2).sum(axis=2) / (2 * h**2)).sum(axis=1)


def direct(queries: np.ndarray, rows: np.ndarray, h: float) -> np.ndarray:
    return -logsumexp(-((queries[:, None] - rows[None]) ** 2).sum(axis=2) / (2 * h**2), axis=1)


@pytest.mark.parametrize("masked", [False, True])
def test_sets(frames: list[Atoms], masked: bool) -> None:
    before = Snapshot(frames)
    rows = joined(frames)
    if masked:
        rows = rows[np.concatenate([atoms.arrays["selection_mask"] for atoms in frames])]
    n, s = len(rows), sums(rows, 0.1)
    value = EFFICIENCY().compute(frames, "efficiency", apply_mask=masked, bandwidth=0.1)
    assert value == pytest.approx(-np.mean(np.log(s / n)) / np.log(n), abs=1e-13)
    value = DIVERSITY().compute(frames, sf.ScoreQuantity.DIVERSITY, apply_mask=masked, bandwidth=0.1)
    assert value == pytest.approx(np.log(np.sum(1 / s)), abs=1e-13)
    assert before.changed() is None


def test_metadata_of_a_set(frames: list[Atoms], tmp_path: Path) -> None:
    score = EFFICIENCY()
    value = score.compute(frames, "EFFICIENCY", bandwidth=0.1)
    content = json.loads(score.save_results(value, tmp_path).read_text())
    assert content["quests_efficiency_score"] == value
    metadata = content["_metadata"]
    rows = joined(frames)
    apart = np.linalg.norm(rows[:, None] - rows[None], axis=2) + 9 * np.eye(len(rows))
    assert metadata["bandwidth"] == 0.1
    assert metadata["apply_mask"] is False
    assert metadata["descriptors_key"] == "descriptors"
    assert metadata["n_environments"] == len(rows)
    assert metadata["median_nearest_distance"] == pytest.approx(np.median(apart.min(axis=1)) / 0.1)
    assert metadata["minimum_nearest_distance"] == pytest.approx(apart.min() / 0.1)


def test_new_environments(frames: list[Atoms], tmp_path: Path) -> None:
    before = Snapshot(frames)
    reference = joined(frames[2:])
    score = sf.QUESTSDeltaEntropyScore()
    values = score.compute_batch(frames, "delta_entropy", reference, bandwidth=0.1)
    for atoms, own in zip(frames, values, strict=True):
        np.testing.assert_allclose(own, direct(atoms.arrays["descriptors"], reference, 0.1), rtol=1e-12)
        alone = score.compute(atoms, "DELTA_ENTROPY", reference_set=reference, bandwidth=0.1)
        np.testing.assert_allclose(alone, own, rtol=1e-12)
    # The same reference as a file and as structures.
    np.save(tmp_path / "reference.npy", reference)
    for other in (tmp_path / "reference.npy", str(tmp_path / "reference.npy"), frames[2:]):
        again = score.compute_batch(frames, "DELTA_ENTROPY", other, bandwidth=0.1)
        np.testing.assert_array_equal(np.concatenate(again), np.concatenate(values))
    assert before.changed() is None
    written = read(score.save_results(values, tmp_path, frames), ":")
    for atoms, own in zip(written, values, strict=True):
        np.testing.assert_array_equal(atoms.arrays[KEY], own)
        metadata = atoms.info["_metadata"][KEY]
        nearest = atoms.arrays["quests_delta_entropy_nearest_distance"]
        assert metadata["median_nearest_distance"] == pytest.approx(np.median(nearest))
        assert metadata["approx"] is False
        assert metadata["num_nearest_neighbors"] == 3


def test_masks_of_new_environments(frames: list[Atoms]) -> None:
    score = sf.QUESTSDeltaEntropyScore()
    values = score.compute_batch(frames, "DELTA_ENTROPY", frames, bandwidth=0.1, apply_mask=True)
    masks = [atoms.arrays["selection_mask"] for atoms in frames]
    known = joined(frames)[np.concatenate(masks)]
    for atoms, mask, own in zip(frames, masks, values, strict=True):
        assert np.isnan(own[~mask]).all()
        expected = direct(atoms.arrays["descriptors"][mask], known, 0.1)
        np.testing.assert_allclose(own[mask], expected, rtol=1e-12, atol=1e-13)
    frames[1].arrays["selection_mask"] = np.zeros(5)  # numbers will do, and no atom at all
    assert np.isnan(score.compute(frames[1], "DELTA_ENTROPY", known, apply_mask=True)).all()


def test_approximate(frames: list[Atoms]) -> None:
    score, known = sf.QUESTSDeltaEntropyScore(), joined(frames)
    exact = score.compute(frames[1], "DELTA_ENTROPY", known, bandwidth=0.1)
    near = score.compute(frames[1], "DELTA_ENTROPY", known, approx=True, bandwidth=0.1)
    assert (near > exact).all()
    with pytest.warns(UserWarning, match="graph_neighbors=5 has no effect"):
        again = score.compute(
            frames[1], "DELTA_ENTROPY", known, approx=True, bandwidth=0.1, graph_neighbors=5
        )
    np.testing.assert_array_equal(again, near)
    with pytest.raises(ConfigError, match="14 of 13"):
        score.compute(frames[1], "DELTA_ENTROPY", known, approx=True, num_nearest_neighbors=14)


def test_jobs(frames: list[Atoms], tmp_path: Path) -> None:
    flow = InProcess(tmp_path)
    known = joined(frames[1:])
    score = sf.QUESTSDeltaEntropyScore()
    expected = score.compute_batch(frames, "DELTA_ENTROPY", known, bandwidth=0.1)
    for reference in (known, frames[1:]):
        arguments = {"score_quantity": "DELTA_ENTROPY", "reference_set": reference, "bandwidth": 0.1}
        ids = score.run("new", frames, arguments, flow, batch_size=3)
        assert len(ids) == 2
        for atoms, own in zip(score.data_from_calc_ids(ids, flow), expected, strict=True):
            np.testing.assert_allclose(atoms.arrays[KEY], own, rtol=1e-12)
        score.cleanup()
    set_score = DIVERSITY()
    ids = set_score.run("set", frames, {"score_quantity": "DIVERSITY", "bandwidth": 0.1}, flow)
    value = set_score.compute(frames, "DIVERSITY", bandwidth=0.1)
    assert set_score.data_from_calc_ids(ids, flow)[0]["quests_diversity_score"] == value


def test_learned_features(copper_network, copper: list[Atoms]) -> None:
    described = sf.with_site_features(copper_network, copper)
    rows = joined(described)
    h = sf.suggest_bandwidth(rows[::2])  # both atoms of a cell are alike
    value = DIVERSITY().compute(described, "DIVERSITY", bandwidth=h)
    assert value == pytest.approx(np.log(np.sum(1 / sums(rows, h))), rel=1e-10)
    assert "descriptors" not in copper[0].arrays


def test_bandwidth_warnings(frames: list[Atoms]) -> None:
    with pytest.warns(UserWarning, match="too small"):
        assert EFFICIENCY().compute(frames, "EFFICIENCY", bandwidth=1e-4) == 1.0
    with pytest.warns(UserWarning, match="too large"):
        DIVERSITY().compute(frames, "DIVERSITY", bandwidth=1e3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EFFICIENCY().compute(frames, "EFFICIENCY", bandwidth=0.1)
        one = [atoms for atoms in frames if len(atoms) == 1]
        assert DIVERSITY().compute(one, "DIVERSITY") == 0.0


def test_bad_input(frames: list[Atoms]) -> None:
    score, known = sf.QUESTSDeltaEntropyScore(), joined(frames)
    with pytest.raises(ConfigError, match=r"QUESTSEfficiencyScore.*DIVERSITY.*EFFICIENCY"):
        EFFICIENCY().compute(frames, "DIVERSITY")
    with pytest.raises(ConfigError, match="batches"):
        EFFICIENCY().compute_batch(frames, "EFFICIENCY")
    with pytest.raises(ConfigError, match="compute_batch"):
        score.compute(frames, "DELTA_ENTROPY", known)
    with pytest.raises(ConfigError, match="always one job"):
        EFFICIENCY().run("set", frames, {"score_quantity": "EFFICIENCY"}, batch_size=2)
    with pytest.raises(ConfigError, match="bandwidth"):
        DIVERSITY().compute(frames, "DIVERSITY", bandwidth=0.0)
    with pytest.raises(DataError, match="ln N = 0"):
        EFFICIENCY().compute([frames[2]], "EFFICIENCY")
    with pytest.raises(DataError, match=r"configuration 0.*numbers, positions"):
        EFFICIENCY().compute([bulk("Cu")], "EFFICIENCY")
    with pytest.raises(DataError, match=r"there is no file for reference_set.*missing.npy"):
        score.compute(frames[0], "DELTA_ENTROPY", "missing.npy")
    for empty in ([], np.zeros((0, 3))):
        with pytest.raises(DataError, match="reference_set"):
            score.compute(frames[0], "DELTA_ENTROPY", empty)
    with pytest.raises(DataError, match="got 3; expected 2"):
        score.compute(frames[0], "DELTA_ENTROPY", known[:, :2])
    broken = [atoms.copy() for atoms in frames]
    broken[1].arrays["descriptors"][2, 0] = np.nan
    with pytest.raises(DataError, match="configuration 1, atom 2"):
        EFFICIENCY().compute(broken, "EFFICIENCY")
    for values, match in (
        (None, "apply_mask needs"),
        (np.full(5, 2), "0 or 1.*atom 0|atom 0"),
        (np.full(5, 0.5), "0 or 1"),
        (np.ones((5, 3)), "one per atom"),
    ):
        broken = [atoms.copy() for atoms in frames]
        del broken[1].arrays["selection_mask"]
        if values is not None:
            broken[1].arrays["selection_mask"] = values
        with pytest.raises(DataError, match=match) as caught:
            DIVERSITY().compute(broken, "DIVERSITY", apply_mask=True)
        assert "configuration 1" in str(caught.value)
        with pytest.raises(DataError, match="configuration 1"):
            score.compute_batch(broken, "DELTA_ENTROPY", known, apply_mask=True)
    for atoms in frames:
        atoms.arrays["selection_mask"] = np.zeros(len(atoms), int)
    with pytest.raises(DataError, match="no atom is selected"):
        EFFICIENCY().compute(frames, "EFFICIENCY", apply_mask=True)


def test_published_cases(shared) -> None:
    folder = shared / "reference/scores"
    frames = read(folder / "inputs/query_configs.extxyz", ":")
    with pytest.warns(UserWarning, match="too small"):
        assert EFFICIENCY().compute(frames, "EFFICIENCY") == pytest.approx(1.0, abs=1e-12)
    with pytest.warns(UserWarning, match="too small"):
        assert DIVERSITY().compute(frames, "DIVERSITY") == pytest.approx(6.356107660695891, abs=1e-10)
    score = sf.QUESTSDeltaEntropyScore()
    values = score.compute_batch(
        frames, "DELTA_ENTROPY", reference_set=folder / "inputs/train_descriptors.npy", bandwidth=0.015
    )
    values = np.concatenate(values)
    truth = np.load(folder / "expected/quests_delta_entropy_truth.npy")
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values, truth, rtol=1e-9)
    assert values.argmax() == 391
    published = np.load(folder / "expected/quests_delta_entropy_published.npy")
    np.testing.assert_allclose(values[truth < 709], published[truth < 709], rtol=1e-8)
