"""Foundation models in run configurations, as far as that needs none of them."""

from __future__ import annotations

import pytest

from surefield.cli.config import read_config
from surefield.errors import ConfigError
from surefield.potentials.config import ForeignConfig


def written(tmp_path, potential):
    path = tmp_path / "run.yaml"
    path.write_text(f"name: si\ndata: {{train: train.xyz}}\npotential: {potential}\n")
    return path


def test_weights_lie_beside_the_configuration(tmp_path):
    config = read_config(written(tmp_path, "{kind: foreign, model: nequix, file: weights.nqx}"))
    assert isinstance(config.potential, ForeignConfig)
    assert config.potential.file == str(tmp_path / "weights.nqx")


@pytest.mark.parametrize(
    ("potential", "message"),
    [
        ("{kind: foreign, model: nequix}", "file names the weights of nequix"),
        ("{kind: foreign, model: chgnet, file: weights.nqx}", "file names the weights of nequix"),
        ("{kind: foreign, model: chgnett}", "chgnett"),
        ("{kind: foreign}", "model"),
    ],
)
def test_what_is_missing_is_named(tmp_path, potential, message):
    with pytest.raises(ConfigError, match=message):
        read_config(written(tmp_path, potential))
