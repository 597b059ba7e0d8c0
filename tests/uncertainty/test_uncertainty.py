"""What all uncertainties share: which members there are."""

from __future__ import annotations

import equinox as eqx
import numpy as np
import pytest

from surefield.errors import PotentialError
from surefield.uncertainty import LLPR, ConstantUncertainty, DeepEnsemble


@pytest.fixture(scope="module")
def estimators(copper_network, copper):
    """One without members, and two with some, of two kinds."""
    moved = eqx.tree_at(lambda p: p.bias, copper_network, copper_network.bias + 1)
    llpr = LLPR.fit(copper_network, copper[:2], copper[2:4], row_kinds=["energy"], progress=False)
    return {
        "constant": ConstantUncertainty.fit(copper_network, copper[4:7]),
        "llpr": llpr.with_ensemble(3),
        "deep_ensemble": DeepEnsemble([copper_network, moved]),
    }


@pytest.mark.parametrize(("kind", "n_members"), [("constant", 0), ("llpr", 3), ("deep_ensemble", 2)])
def test_members(estimators, copper, kind, n_members):
    """-1 predicts; 1 to M are members whose mean energy that is; everything else is refused by number."""
    sure = estimators[kind]
    assert sure.n_members == n_members
    assert sure.member(-1) is sure.potential
    for wrong in (0, n_members + 1, -2, True, 1.0):
        with pytest.raises(PotentialError, match=f"no such member; got {wrong!r}; expected -1"):
            sure.member(wrong)
    if n_members:
        each = [sure.predict(copper[:1], member=np.int64(k))[0].energy for k in range(1, n_members + 1)]
        assert np.std(each) > 0
        assert sure.predict(copper[:1])[0].energy == pytest.approx(np.mean(each))
