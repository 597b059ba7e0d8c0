from __future__ import annotations

import pytest

from surefield.errors import ConfigError
from surefield.networks.full_batch.criteria import CRITERIA, Criteria, checked_coefficient


def test_defaults():
    active = Criteria.over_defaults(None).active
    assert active == {"energy_rmse": 0.001, "charge_rmse": 0.0005}
    assert set(CRITERIA) == {
        f"{kind}_{what}" for kind in ("energy", "force", "charge", "stress") for what in ("rmse", "maxresid")
    }


def test_changes_over_defaults():
    criteria = Criteria.over_defaults({"energy_rmse": None, "force_maxresid": 0.1})
    assert criteria.active == {"force_maxresid": 0.1, "charge_rmse": 0.0005}
    assert criteria.uses("force")
    assert not criteria.uses("energy")
    assert not criteria.without("force").uses("force")


def test_equal_to_the_tolerance_holds_and_what_is_not_there_is_left_out():
    criteria = Criteria.over_defaults({"energy_rmse": 0.5, "force_rmse": 0.1})
    values = dict.fromkeys(CRITERIA) | {"energy_rmse": 0.5, "force_rmse": 0.11}
    assert criteria.held(values) == {"energy_rmse": True, "force_rmse": False}


def test_lines_of_the_log():
    criteria = Criteria.over_defaults({"force_rmse": 0.1, "charge_rmse": None})
    values = dict.fromkeys(CRITERIA) | {"energy_rmse": 0.0005, "force_rmse": 0.11}
    line = criteria.line(7, 0.25, values)
    step, time, loss, energy, first, force, second = line.split()
    assert (step, first, second) == ("7", "C", "-")
    assert time[4] == "-"
    assert time[10] == "T"
    assert [float(x) for x in (loss, energy, force)] == [0.25, 0.0005, 0.11]
    titles = criteria.header().splitlines()[0].split()
    assert titles == ["Step", "Time", "Loss", "EnergyRMSE", "ForceRMSE"]


def test_unknown_name_and_unusable_tolerance():
    with pytest.raises(ConfigError, match="did you mean 'energy_rmse'"):
        Criteria.over_defaults({"enery_rmse": 0.1})
    with pytest.raises(ConfigError, match="force_rmse"):
        Criteria.over_defaults({"force_rmse": -1})
    for value in ("much", float("nan"), float("inf"), [1, 2]):
        with pytest.raises(ConfigError, match="overfit"):
            checked_coefficient("overfit", value)
