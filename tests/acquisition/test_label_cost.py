"""Costs of labels from the times of others: made-up times of a known law."""

import numpy as np
import pytest
from ase import Atoms

from surefield.acquisition.constraints_config import ConstraintsConfig
from surefield.acquisition.label_cost import LabelCost, fit_label_cost
from surefield.config import parse
from surefield.errors import ConfigError, DataError
from surefield.selection import select_rows
from surefield.selection.kernel_selection import with_costs
from surefield.structures.read import Frames


def chains(sizes):
    return [Atoms(f"C{n}", positions=np.outer(np.arange(n), [1.5, 0, 0])) for n in sizes]


def test_the_exponent_of_a_power_law():
    frames = chains(range(2, 14))
    rng = np.random.default_rng(0)
    exact = [0.02 * (6 * len(atoms)) ** 2.4 for atoms in frames]
    cost = fit_label_cost(frames, exact)
    assert (cost.exponent, cost.factor) == (pytest.approx(2.4), pytest.approx(0.02))
    assert cost(frames[3]) == pytest.approx(exact[3])
    noisy = fit_label_cost(frames, exact * rng.lognormal(0, 0.2, 12))
    assert noisy.exponent == pytest.approx(2.4, abs=0.3)
    # Labels that were taken from a store have no time.
    again = fit_label_cost([*frames, *frames], [*exact, *np.zeros(12)])
    assert again == cost
    assert str(cost) == "a label takes 0.02 s times electrons^2.40, fitted to 12 labels"


def test_too_little_is_known():
    one_size = fit_label_cost(chains([4] * 9), np.full(9, 24.0**3))
    assert one_size == LabelCost(pytest.approx(1.0), 3.0, 9, False)
    few = fit_label_cost(chains([2, 4, 8]), [1.0, 2.0, 4.0])
    assert (few.exponent, few.fitted) == (3.0, False)
    assert "assumed, scaled by 3 labels" in str(few)
    assert fit_label_cost(chains([2]), [0.0]) == LabelCost(1.0, 3.0, 0, False)
    with pytest.raises(DataError, match=r"one time per label is needed; got shape \(2,\); expected \(1,\)"):
        fit_label_cost(chains([2]), [1.0, 2.0])
    with pytest.raises(DataError, match="times of labels must not be negative; got -1"):
        fit_label_cost(chains([2]), [-1.0])


def test_batches_by_fitted_cost():
    """The budget is in seconds; without times of labels there is no such cost."""
    pool = Frames(tuple(chains(range(2, 12))), tuple(f"frame {i}" for i in range(10)))
    labelled = chains(range(2, 9))
    timed = (labelled, [0.5 * (6 * len(atoms)) ** 2 for atoms in labelled])
    settings = parse(ConstraintsConfig, {"cost": "fitted", "budget": 400.0})
    limits = settings.of(pool, timed)
    seconds = np.array([limits.cost(atoms) for atoms in pool])
    np.testing.assert_allclose(seconds, [0.5 * (6 * len(atoms)) ** 2 for atoms in pool])
    rows = np.random.default_rng(1).normal(size=(10, 4))
    picks = select_rows("max_dist", rows, None, None, constraints=with_costs(limits, pool))
    assert 0 < seconds[list(picks)].sum() <= 400.0
    with pytest.raises(ConfigError, match="cost 'fitted' needs labels with times"):
        settings.of(pool)
