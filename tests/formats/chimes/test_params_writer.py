"""Writing parameter files: exact, complete, and as the public calculator expects them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from surefield.errors import ConfigError
from surefield.formats.chimes import params_text, read_params, write_params
from surefield.potentials.chimes import Chimes

from .conftest import SETTINGS


def test_there_and_back_is_exact(chimes, tmp_path):
    write_params(tmp_path / "params.txt", chimes, comment="made by a test\nof two lines")
    found = read_params(tmp_path / "params.txt")
    np.testing.assert_array_equal(found.coefficients, chimes.coefficients)
    assert found.settings == chimes.settings
    assert (tmp_path / "params.txt").read_text().startswith("! made by a test\n! of two lines\n")


@pytest.mark.parametrize("name", ["CHON_2b3b", "CO2400K_2b3b4b", "TiO2_2b3b", "liqC_2b"])
def test_published_files_there_and_back(reference, tmp_path, name):
    first = read_params(reference / "inputs" / "chimes" / "params" / f"{name}.txt.xz")
    write_params(tmp_path / "params.txt", first)
    second = read_params(tmp_path / "params.txt")
    np.testing.assert_array_equal(second.coefficients, first.coefficients)
    assert second.settings == first.settings


@pytest.mark.parametrize("name", ["params_water_svd_w", "params_cho_svd_w"])
def test_maps_are_those_of_the_peer(reference, name):
    import lzma

    path = reference / "expected" / "chimes" / f"{name}.txt.xz"
    theirs = lzma.decompress(path.read_bytes()).decode()
    ours = params_text(read_params(path))

    def maps(text):
        return text[text.index("PAIRMAPS") :].split("NO ENERGY")[0].split("ENDFILE")[0].split()

    assert maps(ours) == maps(theirs)
    assert ours.rstrip().endswith("ENDFILE")


def test_offsets_are_written_when_there_are_any(chimes):
    values = chimes.coefficients.copy()
    values[-2:] = 0
    assert "OFFSET" not in params_text(chimes.with_coefficients(values))
    assert "NO ENERGY OFFSETS: 2\nENERGY OFFSET 1 " in params_text(chimes)


def test_excluded_clusters_are_written_as_zeros(tmp_path):
    settings = replace(SETTINGS, excluded=((0,), (0, 1), (0, 0, 1)))
    values = np.random.default_rng(1).normal(size=settings.n_columns)
    write_params(tmp_path / "params.txt", Chimes(settings, values))
    found = read_params(tmp_path / "params.txt")
    table = dict(zip(found.settings.names, found.coefficients.tolist(), strict=True))
    assert table["Au-Cu T1"] == 0
    assert table["offset Cu"] == 0
    own = dict(zip(settings.names, values.tolist(), strict=True))
    assert {name: table[name] for name in own} == own


def test_other_transformations_are_not_exported():
    potential = Chimes(replace(SETTINGS, transform="DEFAULT"))
    with pytest.raises(ConfigError, match="reads MORSE only"):
        params_text(potential)
