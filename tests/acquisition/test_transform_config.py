"""Transforms of features by configuration."""

import numpy as np
import pytest
from pydantic import TypeAdapter

from surefield.acquisition.config import ReplayConfig, SelectionConfig
from surefield.acquisition.transform_config import TransformConfig, make_transforms
from surefield.config import parse
from surefield.errors import ConfigError
from surefield.loop.config import LoopConfig
from surefield.selection import Features, transform_features, transforms

NEEDED = {"pca": {"k": 2}, "sketch": {"p": 8}, "posterior": {"sigma": 0.5}, "acsgrad": {"sigma": 0.5}}
NEEDED |= {"acsrf": {"p": 8, "sigma": 0.5}, "per_atom": {"power": 0.5}, "whiten": {"eps": 0.1}}

WRONG = [{"kind": "peratom"}, {"kind": "pca"}, {"kind": "per_atom", "power": 2}, {"kind": "l2", "p": 1}]


@pytest.mark.parametrize("kind", transforms.KINDS)
def test_every_transform_has_a_configuration(kind):
    settings = NEEDED.get(kind, {})
    config = TypeAdapter(TransformConfig).validate_python({"kind": kind, **settings})
    [made] = make_transforms([config])
    assert type(made) is transforms.KINDS[kind]
    rows = np.random.default_rng(0).normal(size=(30, 4))
    sizes = np.arange(2, 32)
    features = Features(rows[:10], rows[10:], sizes[:10], sizes[10:])
    expected = transform_features(features, [type(made)(**settings)])
    np.testing.assert_array_equal(transform_features(features, [made]).pool, expected.pool)


def test_all_transforms_of_the_package_have_a_kind():
    names = {
        c.__name__ for c in transforms.RowTransform.__subclasses__() if c.__module__ == transforms.__name__
    }
    assert names == {c.__name__ for c in transforms.KINDS.values()}


@pytest.mark.parametrize("model", [SelectionConfig, LoopConfig])
def test_a_list_of_transforms_in_order(model):
    config = parse(model, {"transforms": [{"kind": "per_atom"}, {"kind": "scale"}], "sigma": 0.3})
    assert [type(t).__name__ for t in make_transforms(config.transforms)] == ["PerAtom", "Scale"]
    assert config.sigma == 0.3
    for wrong in (
        {"kind": "peratom"},
        {"kind": "pca"},
        {"kind": "per_atom", "power": 2},
        {"kind": "l2", "p": 1},
    ):
        with pytest.raises(ConfigError, match="transforms"):
            parse(model, {"transforms": [wrong]})
    with pytest.raises(ConfigError, match="sigma"):
        parse(model, {"sigma": -1.0})


@pytest.mark.parametrize("model", [SelectionConfig, LoopConfig])
def test_what_features_have_not_is_said_before_the_work(model):
    with pytest.raises(ConfigError, match="ll_force have no transforms"):
        parse(model, {"features": "ll_force", "transforms": [{"kind": "l2"}]})
    name, value = ("method", "bait_fb") if model is SelectionConfig else ("methods", ["bait_fb"])
    with pytest.raises(ConfigError, match="bait_fb takes no ll_force"):
        parse(model, {name: value, "features": "ll_force"})
    with pytest.raises(ConfigError, match=r"ridge regression needs rows of energies.*learner: train"):
        parse(ReplayConfig, {"features": "ll_force"})
    assert parse(ReplayConfig, {"features": "ll_force", "learner": "train"}).features == "ll_force"
