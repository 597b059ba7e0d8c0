from __future__ import annotations

import numpy as np
import pytest

from surefield.errors import ConfigError
from surefield.scores.fim import (
    AffineTransform,
    AtanhTransform,
    ComposedTransform,
    LogTransform,
    SplitTransform,
)
from surefield.scores.fim.transforms import chain, read_transform, transformed

THETA = np.array([2.0, -0.5, 3.0])
NAMES = ("A", "B", "lambda")


class Cubic:
    """A user's own transform, not written for JAX."""

    def transform(self, x):
        return np.sign(x) * np.abs(x) ** 3

    def inverse_transform(self, x):
        return np.array([float(np.cbrt(v)) for v in x])


@pytest.mark.parametrize(
    ("transform", "phi", "slopes"),
    [
        (AffineTransform(), THETA, [1, 1, 1]),
        (AffineTransform(a=2.0, x0=1.0, b=[0.0, 1.0, 2.0]), [2.0, -2.0, 6.0], [0.5, 0.5, 0.5]),
        (LogTransform([1, -1, 1]), np.log([2, 0.5, 3]), THETA),
        (AtanhTransform(-4.0, 4.0), np.arctanh(THETA / 4), 4 * (1 - (THETA / 4) ** 2)),
        (
            SplitTransform([LogTransform(1), AffineTransform(a=10)], [[2], [0]]),
            [20.0, -0.5, np.log(3)],
            [0.1, 1.0, 3.0],
        ),
        (
            ComposedTransform([AffineTransform(a=2, b=2), LogTransform(1)]),
            np.log(2 * THETA + 2),
            THETA + 1,
        ),
        (Cubic(), THETA * np.abs(THETA) ** 2, 1 / (3 * THETA**2)),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "transform") else "",
)
def test_values_and_slopes(transform, phi, slopes) -> None:
    got = transformed(transform, THETA, NAMES)
    np.testing.assert_allclose(got, phi, rtol=1e-14)
    np.testing.assert_allclose(chain(transform, got), np.diag(slopes), rtol=1e-9, atol=1e-12)


def test_an_affine_matrix_mixes_parameters() -> None:
    a = np.array([[1.0, 2.0], [0.0, 4.0]])
    for transform in (AffineTransform(a=a), AffineTransform(a=a, ainv=np.linalg.inv(a))):
        phi = transformed(transform, np.array([1.0, 3.0]), ["A", "B"])
        np.testing.assert_allclose(phi, [7.0, 12.0])
        np.testing.assert_allclose(chain(transform, phi), np.linalg.inv(a), atol=1e-14)


def test_descriptions_as_in_the_documents() -> None:
    log = read_transform({"transform_type": "LogTransform", "transform_args": {"sign": 1}})
    assert log == LogTransform(1)
    nested = read_transform(
        {
            "transform_type": "split",
            "transform_args": {
                "transform_list": [{"transform_type": "log", "transform_args": {"sign": [1, 1]}}],
                "param_idx": [[0, 2]],
            },
        }
    )
    np.testing.assert_allclose(transformed(nested, THETA, NAMES), [np.log(2), -0.5, np.log(3)])
    assert read_transform(None) is None
    assert transformed(None, THETA, NAMES) is not None
    own = Cubic()
    assert read_transform(own) is own


@pytest.mark.parametrize(
    ("transform", "theta", "name"),
    [
        (LogTransform(1), [1.0, 0.0, 1.0], "B"),
        (LogTransform(1), [1.0, 1.0, -2.0], "lambda"),
        (AtanhTransform(0.0, [5.0, 5.0, 3.0]), [1.0, 1.0, 3.0], "lambda"),
        (AtanhTransform(0.0, 5.0), [6.0, 1.0, 3.0], "A"),
    ],
)
def test_a_value_outside_the_domain_names_its_parameter(transform, theta, name) -> None:
    with pytest.raises(ConfigError, match=f"the parameter {name} is outside its domain"):
        transformed(transform, np.array(theta), NAMES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AffineTransform(a=[1.0, 0.0]), "no inverse"),
        (lambda: AffineTransform(a=[[1.0, 1.0], [1.0, 1.0]]), "no inverse"),
        (lambda: AffineTransform(a=2.0, ainv=1.0), "not the inverse"),
        (lambda: AffineTransform(a=[[1.0, 2.0]]), "square"),
        (lambda: LogTransform(2.0), "1 or -1"),
        (lambda: AtanhTransform(1.0, 1.0), "low must be below high"),
        (lambda: AtanhTransform("a", 1.0), "numbers"),
        (lambda: SplitTransform([LogTransform(1)], [[0], [1]]), "differ in length"),
        (lambda: SplitTransform([LogTransform(1), LogTransform(1)], [[0], [0]]), "at most once"),
        (lambda: ComposedTransform([None]), "None"),
        (lambda: read_transform("log"), "transform_type"),
        (lambda: read_transform(LogTransform), "transform_type"),
        (lambda: read_transform({"transform_type": "LogTransfrom"}), "did you mean 'LogTransform'"),
        (lambda: read_transform({"transform_type": "log", "transform_args": {"signs": 1}}), "transform_args"),
        (lambda: read_transform({"type": "log"}), "unknown key 'type'"),
        (lambda: transformed(SplitTransform([LogTransform(1)], [[3]]), THETA, NAMES), "not there"),
        (lambda: transformed(LogTransform([1, 1]), THETA, NAMES), "3 parameters"),
    ],
)
def test_bad_transforms_are_refused(make, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
