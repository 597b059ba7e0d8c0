import numpy as np
import pytest

from surefield.errors import ConfigError
from surefield.selection import LabelledRound, select_rows, stop_now

ROUND = LabelledRound(
    squared_distances=[4.0, 1.0],
    features="ll_grad",
    max_sigma=0.3,
    unit="eV/Å",
    rmse=1.0,
    replay="better than random",
    spent=10.0,
    n_left=5,
)


def after(**changes):
    return LabelledRound(**{**vars(ROUND), **changes})


@pytest.mark.parametrize(
    ("criterion", "last", "fires", "value"),
    [
        ("coverage", {"squared_distances": [0.5, 0.04]}, True, 0.1),
        ("coverage", {"squared_distances": [0.5, 0.05]}, False, np.sqrt(0.0125)),
        ("coverage", {"squared_distances": []}, True, 0.0),
        ({"coverage": 0.5}, {}, True, 0.5),
        ({"uncertainty": (0.3, "eV/Å")}, {}, True, 0.3),
        ({"uncertainty": (0.2, "eV/Å")}, {}, False, 0.3),
        ({"budget": 10}, {}, True, 10.0),
        ({"budget": 10.5}, {}, False, 10.0),
        ("exhausted", {"n_left": 0}, True, 0),
        ("exhausted", {}, False, 5),
        ({"no_gain": {"rounds": 1}}, {"rmse": 0.979}, False, 0.021),
        ({"no_gain": {"rounds": 1}}, {"rmse": 0.981}, True, 0.019),
        ({"no_gain": {"rounds": 1}}, {"rmse": 1.2}, True, -0.2),
        ({"no_gain": {"rounds": 1, "tol": 0.1}}, {"rmse": 0.95}, True, 0.05),
        ("no_gain", {}, False, None),  # two rounds are no third
        ({"not_better_than_random": 1}, {"replay": "no difference shown"}, True, 1),
        ({"not_better_than_random": 1}, {"replay": "worse than random"}, True, 1),
        ("not_better_than_random", {"replay": "no difference shown"}, False, 1),
    ],
)
def test_each_criterion(criterion, last, fires, value):
    named = [criterion] if isinstance(criterion, str) else criterion
    decision = stop_now([ROUND, after(**last)], named)
    assert bool(decision) is decision.stop is fires
    [name] = named
    assert decision.fired == ((name,) if fires else ())
    assert decision.values[name]["value"] == (None if value is None else pytest.approx(value))
    assert str(decision).startswith("stop, by" if fires else "go on")


def test_no_gain_looks_back_over_its_rounds():
    errors = [1.0, 0.5, 0.495, 0.493]
    history = [after(rmse=error) for error in errors]
    assert not stop_now(history[:3], ["no_gain"])
    assert stop_now(history, ["no_gain"])
    assert not stop_now(history, {"no_gain": {"rounds": 3}})


def test_any_criterion_stops_and_all_values_are_told():
    decision = stop_now([ROUND], {"budget": 5.0, "exhausted": None, "coverage": 0.2})
    assert decision.fired == ("budget",)
    assert set(decision.values) == {"budget", "exhausted", "coverage"}


def test_rounds_of_a_selection():
    rows = np.random.default_rng(0).normal(size=(400, 2))
    history, known = [], list(range(5))
    for _ in range(12):
        left = np.setdiff1d(np.arange(400), known)
        picks = select_rows("max_dist", rows[left], rows[known], 10)
        known += left[list(picks)].tolist()
        history.append(LabelledRound(squared_distances=picks.squared_distances, features="rows"))
        if stop_now(history, ["coverage"]):
            break
    assert 1 < len(history) < 12


@pytest.mark.parametrize(
    ("history", "criteria", "message"),
    [
        ([], ["coverage"], "the history has no rounds"),
        ([ROUND], [], "no criterion"),
        ([ROUND], ["covrage"], "unknown criterion 'covrage'; did you mean 'coverage'"),
        ([ROUND], {"coverage": -1.0}, "limit of 'coverage' out of range; got -1.0"),
        ([ROUND], ["budget"], "limit of 'budget' out of range"),
        ([ROUND], {"uncertainty": 0.1}, "uncertainty needs a target with its unit"),
        ([ROUND], {"uncertainty": (0.1, "eV")}, "two units; got eV/Å and eV"),
        ([after(max_sigma=None)], {"uncertainty": (0.1, "eV/Å")}, "needs max_sigma of its rounds"),
        ([after(max_sigma=np.nan)], {"uncertainty": (0.1, "eV/Å")}, "calibrate the uncertainty first"),
        ([after(spent=None)], {"budget": 3}, "'budget' needs spent"),
        ([after(n_left=None)], ["exhausted"], "'exhausted' needs n_left"),
        ([ROUND, after(rmse=None)], ["no_gain"], "'no_gain' needs rmse"),
        ([ROUND], {"no_gain": {"round": 2}}, "unknown option 'round' of no_gain"),
        ([after(replay=None)], ["not_better_than_random"], "needs replay"),
        (
            [ROUND, after(features="full_grad_rp")],
            ["coverage"],
            "got full_grad_rp, ll_grad",
        ),
        ([after(features=None)], ["coverage"], "one kind of features"),
        ([after(squared_distances=None)], ["coverage"], "'coverage' needs squared_distances"),
        ([after(squared_distances=[])], ["coverage"], "first pick with a distance above 0"),
    ],
)
def test_what_is_not_known_is_an_error(history, criteria, message):
    with pytest.raises(ConfigError, match=message):
        stop_now(history, criteria)
