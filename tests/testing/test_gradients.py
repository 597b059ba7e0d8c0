from __future__ import annotations

from typing import Any

import equinox as eqx
import pytest

from surefield.errors import PotentialError
from surefield.potentials import Potential
from surefield.testing import check_gradients


def test_derivatives_of_a_network(network, alloy, capsys):
    found = {row.block: row for row in check_gradients(network, alloy[:2])}
    assert all(row.relative < 1e-6 for row in found.values())
    assert {block.split(" by ")[0] for block in found} == {"forces", "stress", "energy", "forces (weighted)"}
    printed = capsys.readouterr().out
    assert all(block in printed for block in found)


def test_a_wrong_force_is_seen(network, alloy):
    class Skewed(Potential):
        """Energies of one network, forces one per cent too large."""

        inner: Any
        species: Any = eqx.field(static=True)
        cutoff: Any = eqx.field(static=True)
        offsets: Any

        def site_energies(self, graph):
            return self.inner.site_energies(graph)

        def predict(self, frames, **options):
            return [p.replace(forces=1.01 * p.forces) for p in super().predict(frames, **options)]

    skewed = Skewed(
        inner=network, **{name: getattr(network, name) for name in ("species", "cutoff", "offsets")}
    )
    forces = next(row for row in check_gradients(skewed, alloy[:1]) if row.block.startswith("forces by"))
    assert forces.relative == pytest.approx(0.01, rel=0.01)


def test_unknown_element(network, alloy):
    wrong = alloy[0].copy()
    wrong.symbols[0] = "Pt"
    with pytest.raises(PotentialError, match="Pt"):
        check_gradients(network, [wrong])
