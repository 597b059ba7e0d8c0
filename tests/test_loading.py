from __future__ import annotations

import pytest

import surefield as sf
from surefield.errors import DataError, PotentialError
from surefield.potentials.saving import save_arrays


def test_load_finds_out_what_a_file_holds(network, copper, tmp_path):
    sf.save_potential(tmp_path / "p.npz", network)
    assert isinstance(sf.load(tmp_path / "p.npz"), type(network))
    model = sf.NeuralNetwork((3,), randomseed=1)
    model.fit(copper, sf.Gaussian(4.0), only_setup=True)
    sf.Amp(sf.Gaussian(4.0), model, logging=False).save(tmp_path / "model")
    assert sf.load(tmp_path / "model").vector.tolist() == model.vector.tolist()
    (tmp_path / "model.json").write_text(model.tostring())
    assert sf.load(tmp_path / "model.json").vector.tolist() == model.vector.tolist()
    sure = sf.LLPR.fit(model, copper[:5], copper[5:], progress=False)
    sure.save(tmp_path / "sure.npz")
    assert isinstance(sf.load(tmp_path / "sure.npz"), sf.LLPR)


def test_other_files(tmp_path):
    with pytest.raises(PotentialError, match="nothing saved"):
        sf.load(tmp_path / "none")
    save_arrays(tmp_path / "c.npz", "checkpoint", {}, {})
    with pytest.raises(PotentialError, match="checkpoint"):
        sf.load(tmp_path / "c.npz")
    (tmp_path / "x.txt").write_text("import os")
    with pytest.raises(DataError):
        sf.load(tmp_path / "x.txt")
