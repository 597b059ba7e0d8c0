"""What `select` makes of features; how they are computed is tested with the potentials."""

import importlib

import numpy as np
import pytest
from ase import Atoms

from surefield.acquisition.select import select
from surefield.selection import PerAtom, select_rows


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
