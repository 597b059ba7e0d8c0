from __future__ import annotations

import pytest

from surefield.errors import ConfigError
from surefield.networks.full_batch import LossFunction
from surefield.networks.full_batch.arguments import at_least_one, new_names, positive, shard_count


def test_old_tolerances_warn_and_are_taken():
    with pytest.warns(DeprecationWarning, match=r"energy_tol.*energy_rmse.*0.0001"):
        loss = LossFunction(energy_tol=0.0001)
    assert loss.criteria.tolerances["energy_rmse"] == 0.0001
    with pytest.warns(DeprecationWarning, match="force_tol"):
        assert LossFunction(force_tol=0.05).forcetraining


def test_unknown_argument_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'energy_coefficient'"):
        LossFunction(energy_coeficient=1.0)
    assert new_names({}, []) == {}


@pytest.mark.parametrize(("given", "count"), [(None, 1), (3, 3), ({"cores": 2}, 2), ({}, 1)])
def test_shard_count(given, count):
    assert shard_count(given) == count


@pytest.mark.parametrize("given", [{"cores": {"node1": 4}}, {"cores": 2, "envcommand": "module load"}])
def test_other_machines_are_refused(given):
    with pytest.raises(ConfigError, match="process_parallels"):
        LossFunction(parallel=given)


@pytest.mark.parametrize("value", [0, -1, 1.5, "two", None])
def test_numbers_that_are_no_counts(value):
    with pytest.raises(ConfigError, match="maxiter"):
        at_least_one("maxiter", value)
    if value != 1.5:
        with pytest.raises(ConfigError, match="d;"):
            positive("d", value)
