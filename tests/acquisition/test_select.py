"""What `select` makes of features; how they are computed is tested with the potentials."""

import importlib

import numpy as np
import pytest
from ase import Atoms

from surefield.acquisition.select import select
from surefield.errors import DataError
from surefield.selection import Constraints, PerAtom, select_rows


@pytest.fixture
def chains(monkeypatch):
    """Chains of 1 to 30 atoms whose features are known and follow their length."""
    module = importlib.import_module("surefield.acquisition.select")
    intensive = np.random.default_rng(2).normal(size=(31, 4)) * 0.1 + 1.0

    def rows(potential, frames, kind, seed):
        sizes = [len(atoms) for atoms in frames]
        return np.array(sizes)[:, None] * intensive[sizes]

    monkeypatch.setattr(module, "feature_rows", rows)
    monkeypatch.setattr(module, "as_potential", lambda potential: potential)
    monkeypatch.setattr(module, "check_frames", lambda potential, frames: None)
    frames = [Atoms(f"H{n}", positions=np.outer(np.arange(n), [1.0, 0, 0])) for n in range(1, 31)]
    return frames[:10], frames[10:], intensive


def test_transforms_know_the_sizes_of_the_structures(chains):
    train, pool, rows = chains
    picks = select(None, train, pool, "lcmd", 5, transforms=[PerAtom()])
    assert list(picks) == list(select_rows("lcmd", rows[11:], rows[1:11], 5))
    assert picks.config["features"] == "full_grad_rp, PerAtom(power=1.0)"
    assert picks.notes == ()
    [note] = select(None, train, pool, "lcmd", 5).notes
    assert "PerAtom" in note


def test_noise_is_relative_to_the_features(chains):
    train, pool, _ = chains
    extensive = np.arange(1, 31)[:, None] * chains[2][1:]
    scale = np.sqrt(np.mean(np.sum(extensive[:10] ** 2, axis=1)))
    picks = select(None, train, pool, "max_det", 5, sigma=0.3)
    assert picks.config["sigma"] == pytest.approx(0.3 * scale)
    same = select_rows("max_det", extensive[10:], extensive[:10], 5, sigma=0.3 * scale)
    assert list(picks) == list(same)
    assert len(select(None, [], pool, "bait_fb", 3)) == 3


def test_constraints_know_the_structures(chains):
    train, pool, _ = chains
    for cost in ("n_atoms^3", lambda atoms: float(len(atoms)) ** 3):
        limits = Constraints(cost=cost, budget=20000.0, groups=np.arange(20) % 2, quota="equal", exclude=[0])
        picks = select(None, train, pool, "max_det", 4, constraints=limits)
        assert sum(len(pool[i]) ** 3 for i in picks) <= 20000.0
        assert 0 not in list(picks)
        assert sorted(i % 2 for i in picks) == [0, 0, 1, 1]
    with pytest.raises(DataError, match=r"unusable cost in row 0; got -1\.0"):
        select(None, train, pool, constraints=Constraints(cost=lambda atoms: -1.0))


def test_copies_of_structures_are_dropped(chains):
    train, pool, _ = chains
    shifted = pool[3].copy()
    shifted.positions += 5.0
    frames = [*pool, train[2], shifted]
    picks = select(None, train, frames, "max_diag", 20)
    assert {(entry.index, entry.kept, entry.kept_in) for entry in picks.dropped} == {
        (20, 2, "train"),
        (21, 3, "pool"),
    }
    assert sorted(picks) == list(range(20))
    assert len(select(None, train, frames, "max_diag", 22, constraints=Constraints(deduplicate=None))) == 22
