"""Which potential a run has where its configuration leaves that open."""

from __future__ import annotations

import pytest
from ase import Atoms

from surefield.cli.config import RunConfig, as_begun, read_config
from surefield.cli.inputs import make_potential
from surefield.config import parse
from surefield.errors import ConfigError
from surefield.potentials import MessageNetwork, MomentNetwork


def configuration(**sections):
    return parse(RunConfig, {"name": "a", **sections})


@pytest.mark.parametrize(("formula", "kind"), [("Si2", MomentNetwork), ("H2O", MessageNetwork)])
def test_the_elements_decide(formula, kind):
    potential = make_potential(configuration(potential={"cutoff": 4.0}), [Atoms(formula)])
    assert type(potential) is kind
    assert potential.cutoff == 4.0


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ({}, "auto"),
        ({"species": ["Si"]}, "auto"),
        ({"n_channels": 4}, "moment_network"),
        ({"cutoff": 4.0, "n_triple": 2}, "moment_network"),
        ({"n_layers": 1, "n_channels": 8}, "message_network"),
        ({"kind": "snap"}, "snap"),
    ],
)
def test_settings_decide_where_no_kind_is_named(section, kind):
    assert configuration(potential=section).potential.kind == kind


def test_a_misspelt_setting_is_told():
    with pytest.raises(ConfigError, match=r"unknown key 'potential\.cutof', did you mean 'cutoff'"):
        configuration(potential={"cutof": 4.0})


def test_a_run_goes_on_with_the_kind_it_was_begun_with(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: a\n")
    config = read_config(path)
    assert config.training.epochs is None
    begun = configuration(potential={"kind": "moment_network"})
    going_on = as_begun(config, begun)
    assert going_on.potential == begun.potential
    assert going_on.training.epochs == 60
    named = configuration(potential={"kind": "message_network"})
    assert as_begun(named, begun) is named
    assert as_begun(config, config) is config
