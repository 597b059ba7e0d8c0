from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

import surefield as sf
from surefield.errors import ConfigError, DataError
from surefield.scores import (
    delta_entropy,
    diversity,
    entropy,
    prune_by_determinant,
    prune_by_entropy,
    prune_by_information,
)
from surefield.testing.frames import Snapshot


@pytest.fixture(scope="module")
def frames() -> list[Atoms]:
    """Forty structures of ten kinds, one of which is seen half of the time."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(10, 6, 4))
    made = []
    for i in range(40):
        atoms = Atoms("Cu6", rng.uniform(0, 9, (6, 3)))
        atoms.arrays["descriptors"] = kinds[0 if i % 2 else i % 10] + rng.normal(0, 0.02, (6, 4))
        atoms.arrays["selection_mask"] = np.arange(6) < (i % 3)
        made.append(atoms)
    return made


def rows(frames: list[Atoms], which: np.ndarray) -> np.ndarray:
    return np.concatenate([frames[i].arrays["descriptors"] for i in which])


@pytest.mark.parametrize("objective", ["entropy", "diversity"])
def test_entropy_is_kept(frames: list[Atoms], objective: str) -> None:
    before = Snapshot(frames)
    value = {"entropy": entropy, "diversity": diversity}[objective]
    everything = value(rows(frames, np.arange(40)), 0.1)
    result = sf.prune(frames, objective, share=0.95, bandwidth=0.1)
    assert before.changed() is None
    assert len(set(result.indices)) == len(result.indices) < 20
    assert result.share == pytest.approx(value(rows(frames, result.indices), 0.1) / everything, rel=1e-12)
    assert result.share >= 0.95
    assert (result.shares[:-1] < 0.95).all()
    for n, share in zip(result.counts, result.shares, strict=True):
        assert share == pytest.approx(value(rows(frames, result.indices[:n]), 0.1) / everything, rel=1e-9)
    out = np.setdiff1d(np.arange(40), result.indices)
    new = delta_entropy(rows(frames, out), rows(frames, result.indices), 0.1)
    assert result.details["largest_novelty"] == pytest.approx(new.max(), rel=1e-9, abs=1e-9)
    percent = int(1000 * min(result.share, 1.0)) / 10
    words = f"these {len(result.indices)} of 40 frames keep {percent} % of the {objective}"
    assert result.sentence == words


def test_greedy_takes_every_kind_before_it_repeats(frames: list[Atoms]) -> None:
    result = prune_by_entropy(frames, 1.0, objective="diversity", bandwidth=0.1)
    kinds = [0 if i % 2 else i % 10 for i in result.indices]
    assert sorted(kinds[:5]) == [0, 2, 4, 6, 8]  # all kinds there are
    assert result.share >= 1.0  # and no more frames than that takes
    assert (result.shares[:-1] < 1.0).all()


def test_masks_and_copies(frames: list[Atoms]) -> None:
    result = prune_by_entropy(frames, 0.9, bandwidth=0.1, apply_mask=True)
    assert all(i % 3 for i in result.indices)  # of others no atom is selected
    same = [frames[0]] * 5
    assert len(prune_by_entropy(same, objective="entropy", bandwidth=1e3).indices) == 1


def test_determinant_is_kept() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, 5)) * np.exp(rng.normal(0, 1.5, (60, 1)))
    features[30:40] = features[0]
    result = prune_by_determinant(features, 0.9, sigma=0.5)
    kept = features[result.indices]

    def log_det(a: np.ndarray) -> float:
        return np.linalg.slogdet(np.eye(len(a)) + a @ a.T / 0.25)[1]

    assert result.share == pytest.approx(log_det(kept) / log_det(features), rel=1e-10)
    assert result.share >= 0.9
    assert log_det(kept[:-1]) < 0.9 * log_det(features)
    assert len(kept) < 30
    everything = prune_by_determinant(features, 1.0, sigma=0.5)
    assert everything.share == pytest.approx(1.0)
    with pytest.raises(ConfigError, match="needs features"):
        sf.prune([Atoms("H")], "log_determinant")
    with pytest.raises(DataError, match="60 rows for 1"):
        sf.prune([Atoms("H")], "log_determinant", features=features)
    with pytest.raises(DataError, match="zero"):
        prune_by_determinant(np.zeros((3, 2)))


@pytest.fixture(scope="module")
def fims() -> np.ndarray:
    """Of parameters with very different units; a few structures know most."""
    rng = np.random.default_rng(2)
    jacobians = rng.normal(size=(50, 6, 3)) * np.exp(rng.normal(0, 2.0, (50, 1, 1)))
    units = np.array([1e-4, 1.0, 1e3])
    return np.einsum("nra,nrb->nab", jacobians, jacobians) * np.outer(units, units)


@pytest.mark.parametrize("criterion", ["trace", "min_eigen"])
@pytest.mark.parametrize("wanted", ["C44", "both", None])
def test_information_is_kept(fims: np.ndarray, tmp_path: Path, criterion: str, wanted: str | None) -> None:
    gradients = np.array([[1e-4, 0.3, 2e3], [0.0, 1.0, -1e3]])[: 1 if wanted == "C44" else 2]
    target = gradients.T @ gradients if wanted else None
    frames = []
    for fim in fims:
        frames.append(Atoms("H"))
        frames[-1].info["fim_training_set_score"] = fim
    given = target
    if wanted == "C44":
        given = tmp_path / "score_results.json"
        given.write_text(json.dumps({"fim_property_score": target.tolist()}))
    result = sf.prune(frames, "information", 0.98, fim_property=given, about=wanted, criterion=criterion)

    def variance(which: np.ndarray) -> float:
        needed = fims.sum(axis=0) if target is None else target
        inverse = np.linalg.inv(fims[which].sum(axis=0))
        values = np.linalg.eigvals(needed @ inverse).real
        return values.max() if criterion == "min_eigen" else values.sum()

    share = variance(np.arange(50)) / variance(result.indices)
    assert result.share == pytest.approx(share, rel=1e-8)
    assert 0.98 <= result.share < 1
    assert 3 <= len(result.indices) < 40
    assert (np.diff(result.shares) <= 1e-12).all()
    name = wanted or "the parameters"
    assert result.sentence.startswith(f"these {len(result.indices)} of 50 frames keep 98.")
    assert result.sentence.endswith(f"% of the information about {name}")


def test_information_that_nobody_has(fims: np.ndarray) -> None:
    silent = fims.copy()
    silent[:, 1, :] = silent[:, :, 1] = 0.0
    with pytest.raises(DataError, match="no structure informs"):
        prune_by_information(silent, fim_property=np.diag([0.0, 1.0, 0.0]))
    kept = prune_by_information(silent, 0.9, fim_property=np.diag([1.0, 0.0, 0.0]))
    assert kept.share >= 0.9
    with pytest.raises(DataError, match="needs no information"):
        prune_by_information(fims, fim_property=np.zeros((3, 3)))
    with pytest.raises(DataError, match="configuration 0"):
        prune_by_information([Atoms("H")])


def test_bad_arguments(frames: list[Atoms]) -> None:
    with pytest.raises(ConfigError, match="unknown objective 'entropie'; did you mean 'entropy'"):
        sf.prune(frames, "entropie")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"no option 'bandwith'; did you mean 'bandwidth'"):
        sf.prune(frames, "entropy", bandwith=0.1)
    for share in (0.0, 1.1, "much"):
        with pytest.raises(ConfigError, match="share"):
            sf.prune(frames, "entropy", share)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="arrays"):
        sf.prune([Atoms("H")], "entropy")
    with pytest.raises(ConfigError, match="unknown criterion"):
        prune_by_information(frames, criterion="best")  # type: ignore[arg-type]
