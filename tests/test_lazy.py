"""Packages that import their names on first use."""

from __future__ import annotations

import importlib

import pytest

import surefield
import surefield.training


def test_a_function_hides_the_module_of_its_name() -> None:
    module = importlib.import_module("surefield.training.train")
    assert surefield.training.train is surefield.train is module.train
    assert "train" in dir(surefield.training)


def test_other_names_and_modules_of_a_package() -> None:
    from surefield.training import dataset

    assert dataset.__name__ == "surefield.training.dataset"
    with pytest.raises(AttributeError, match=r"module 'surefield\.training' has no attribute 'trian'"):
        surefield.training.trian  # noqa: B018


@pytest.mark.parametrize(
    ("before", "home", "name"),
    [
        ("surefield.potentials.snap_files", "surefield.formats.snap", "read_snap"),
        ("surefield.potentials.chimes.xyzf", "surefield.formats.chimes", "read_xyzf"),
    ],
)
def test_modules_that_have_moved_keep_their_names(before: str, home: str, name: str) -> None:
    assert getattr(importlib.import_module(before), name) is getattr(importlib.import_module(home), name)
