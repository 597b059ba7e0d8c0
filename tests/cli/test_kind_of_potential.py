"""Which potential a run has where its configuration leaves that open."""

from __future__ import annotations

import pytest
from ase import Atoms

from surefield.cli.config import RunConfig, as_begun, read_config, with_former_selection
from surefield.cli.inputs import make_potential
from surefield.config import parse
from surefield.errors import ConfigError
from surefield.potentials import MessageNetwork, MomentNetwork
from surefield.potentials.potential import SumPotential


def configuration(**sections):
    return parse(RunConfig, {"name": "a", **sections})


def test_the_structures_decide():
    config = configuration(potential={"cutoff": 4.0, "repulsion": False})
    silicon, molecule = Atoms("Si2", cell=[3, 3, 3], pbc=True), Atoms("H2O")
    salt = Atoms("NaCl", cell=[4, 4, 4], pbc=True)
    one = make_potential(config, [silicon])
    assert isinstance(one, MomentNetwork)
    assert one.cutoff == 4.0
    # Free atoms, which set offsets, say nothing of periodicity.
    for frames, n_layers in ([salt, Atoms("Na")], 1), ([molecule], 2), ([salt, molecule], 2):
        several = make_potential(config, frames)
        assert isinstance(several, MessageNetwork)
        assert len(several.layers) == n_layers


def test_atoms_that_come_near_are_repelled_unless_told_otherwise():
    molecule = Atoms("H2O", [[0, 0, 0], [0, 0, 0.96], [0, 0.9, -0.3]])
    added = make_potential(configuration(), [molecule])
    assert isinstance(added, SumPotential)
    assert added.baseline.outer == pytest.approx(0.9487, abs=1e-3)
    stated = make_potential(configuration(repulsion={"outer": 0.8}), [molecule])
    assert stated.baseline.outer == 0.8
    assert isinstance(
        make_potential(configuration(potential={"repulsion": False}), [molecule]), MessageNetwork
    )
    assert isinstance(make_potential(configuration(potential={"n_triple": 2}), [molecule]), MomentNetwork)


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


def test_a_run_goes_on_with_the_selection_that_was_the_default_when_it_was_begun():
    """Folders of before have it in their configuration; what is named, or another, is a change."""
    now = configuration()
    former = configuration(
        selection={"method": "lcmd", "features": "full_grad_rp"},
        loop={"methods": ["lcmd"], "features": "ll_posterior"},
    )
    going_on = with_former_selection(now, former)
    assert (going_on.selection, going_on.loop) == (former.selection, former.loop)
    assert with_former_selection(now, now) == now
    named = configuration(
        selection={"method": "max_dist"}, loop={"methods": ["bait_f"], "features": "ll_force"}
    )
    assert with_former_selection(named, former).selection.method == "max_dist"
    assert with_former_selection(named, former).loop == named.loop
    assert with_former_selection(now, named).selection.method is None
