from __future__ import annotations

import numpy as np
import pytest

from surefield.errors import ConfigError
from surefield.formats.kim_models import find_model
from surefield.potentials.parametric import FreeParameters, LennardJones, StillingerWeber


@pytest.fixture(scope="module")
def silicon() -> StillingerWeber:
    return find_model("SW_StillingerWeber_1985_Si").make()


@pytest.fixture(scope="module")
def pairs() -> LennardJones:
    values = {"cutoff": 6.0, "epsilon": [0.1, 0.2, 0.3], "sigma": [3.0, 3.1, 3.2]}
    return LennardJones(values, ["Ar", "Kr"])


def test_names_settings_and_lists_of_both(silicon):
    asked = FreeParameters.asked(
        ["A", {"gamma": {"transform_name": "LogParameterTransform", "value": 1.5, "bounds": [[1.0, 3.0]]}}],
        silicon,
    )
    assert [entry.name for entry in asked.entries] == ["A", "gamma"]
    np.testing.assert_allclose(asked.start, [15.2848479197914, 1.5])
    x = asked.coordinates(asked.start)
    np.testing.assert_allclose(x, [1.0, np.log(1.5)])
    np.testing.assert_allclose(asked.chain(x), [15.2848479197914, 1.5])
    np.testing.assert_allclose(asked.values(x), asked.start)
    lower, upper = asked.bounds()
    np.testing.assert_allclose(lower, [-np.inf, 0.0])
    np.testing.assert_allclose(upper, [np.inf, np.log(3.0)])
    np.testing.assert_allclose(asked.applied(silicon).vector, asked.start)


def test_bounds_of_logarithms_and_of_zero(silicon):
    asked = FreeParameters.asked(
        {
            "q": {"bounds": [[-1.0, 1.0]]},
            "A": {"transform_name": "LogParameterTransform", "bounds": [[0.0, None]]},
            "costheta0": {"bounds": [[-1.0, 0.0]]},
        },
        silicon,
    )
    lower, upper = asked.bounds()
    np.testing.assert_allclose(lower, [-1.0, -np.inf, -3.0])
    np.testing.assert_allclose(upper, [1.0, np.inf, 0.0])
    np.testing.assert_allclose(asked.values(asked.coordinates(asked.start)), asked.start)


def test_the_form_of_kliff(pairs):
    asked = FreeParameters.asked(
        {"epsilon": [["default"], [0.25, "fix"], [0.4, 0.1, "inf"]], "cutoff": [[7.0, "fix"]] * 3}, pairs
    )
    assert asked.entries == (("epsilon", 0), ("epsilon", 2))
    np.testing.assert_allclose(asked.start, [0.1, 0.4])
    np.testing.assert_allclose(asked.lower, [-np.inf, 0.1])
    assert asked.names() == ["epsilon[0]", "epsilon[2]"]
    made = asked.applied(pairs)
    np.testing.assert_allclose(made.values["epsilon"], [0.1, 0.25, 0.4])
    assert made.cutoff == 7.0
    np.testing.assert_allclose(pairs.values["epsilon"], [0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        (["a"], "no parameter 'a'"),
        (["gama"], "did you mean 'gamma'"),
        ([3], "got 3; expected names"),
        ({"A": {"vaule": 1.0}}, "unknown key 'vaule', did you mean 'value'"),
        ({"A": {"transform_name": "Log"}}, "transform_name 'Log', known: 'LogParameterTransform'"),
        ({"A": {"value": [1.0, 2.0]}}, "expected 1 values"),
        ({"A": {"value": float("nan")}}, "expected a finite number"),
        ({"A": {"bounds": [[20.0, 30.0]]}}, "starts outside its bounds; got 15.28"),
        ({"A": [["default", 1.0]]}, "one bound only"),
        ({"A": [[1.0], [2.0]]}, "expected 1 lists"),
        ({"A": [[2.0, 2.0, 2.0]]}, "equal bounds"),
        ({"costheta0": {"transform_name": "LogParameterTransform"}}, "needs a positive value"),
        ({"A": [["default", "fix"]]}, "nothing free"),
        (["A", {"A": {}}], "names A twice"),
    ],
)
def test_wrong_requests_are_refused(silicon, request_, match):
    with pytest.raises(ConfigError, match=match):
        FreeParameters.asked(request_, silicon)
