"""The contract must catch uncertainties that break it: one broken uncertainty per promise."""

from __future__ import annotations

import numpy as np
import pytest

from surefield.potentials import SurefieldCalculator
from surefield.testing import check_uncertainty
from surefield.training import train
from surefield.uncertainty import LLPR


@pytest.fixture(scope="module")
def llpr(copper, copper_network):
    potential = train(copper_network, copper[:4], 0, epochs=0, progress=False).potential
    return LLPR.fit(potential, copper[:4], copper[4:], progress=False)


class Broken:
    """A sound uncertainty whose predictions go through a function that spoils them."""

    def __init__(self, sound, spoil, honest_calculator=False):
        self.sound, self.spoil, self.honest_calculator = sound, spoil, honest_calculator

    def __getattr__(self, name):
        return getattr(self.sound, name)

    def predict(self, frames, **options):
        found = self.sound.predict(frames, **options)
        return [self.spoil(atoms, p, len(frames)) for atoms, p in zip(frames, found, strict=True)]

    def calculator(self, max_sigma=None, **options):
        inner = self.sound if self.honest_calculator else self
        return SurefieldCalculator(inner, **options)


def with_sigma(p, name, change):
    sigma = getattr(p, f"{name}_uncertainty")
    return p if sigma is None else p.replace(**{f"{name}_uncertainty": change(sigma)})


def moves_the_atoms(atoms, p, n):
    atoms.positions += 0.01
    return p


def changes_the_prediction(atoms, p, n):
    return p.replace(energy=p.energy + 1e-7)


def forgets_atoms(atoms, p, n):
    return p.replace(energies_uncertainty=None)


def wrong_shape(atoms, p, n):
    return with_sigma(p, "forces", lambda s: s[:, 0])


def not_finite(atoms, p, n):
    return with_sigma(p, "forces", lambda s: s * np.nan)


def negative(atoms, p, n):
    return with_sigma(p, "energies", lambda s: -s)


def certain(atoms, p, n):
    return with_sigma(p, "forces", lambda s: 0 * s)


def depends_on_the_batch(atoms, p, n):
    return with_sigma(p, "energy", lambda s: s * (2 if n == 1 else 1))


def depends_on_the_order(atoms, p, n):
    return with_sigma(p, "energies", lambda s: s * np.arange(1, len(s) + 1))


def depends_on_the_axes(atoms, p, n):
    return with_sigma(p, "forces", lambda s: s * [1, 2, 3])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (moves_the_atoms, "inputs unchanged"),
        (changes_the_prediction, "asking for uncertainty changed energy"),
        (forgets_atoms, "must have"),
        (wrong_shape, "must be \\(2, 3\\)"),
        (not_finite, "not finite"),
        (negative, "must be positive"),
        (certain, "must be positive"),
        (depends_on_the_batch, "batch independence"),
        (depends_on_the_order, "permutation"),
        (depends_on_the_axes, "rotation: sum of an atom's force variances"),
    ],
)
def test_a_broken_promise_is_named(spoil, message, llpr, copper):
    with pytest.raises(AssertionError, match=message):
        check_uncertainty(Broken(llpr, spoil), [atoms.copy() for atoms in copper[5:7]], seed=2)


def test_a_calculator_of_its_own(llpr, copper):
    def doubled(atoms, p, n):
        return with_sigma(p, "energy", lambda s: 2 * s)

    with pytest.raises(AssertionError, match="calculator: energy_uncertainty"):
        check_uncertainty(Broken(llpr, doubled, honest_calculator=True), copper[5:7])


def test_another_uncertainty_comes_back(llpr, copper):
    class Forgetful(Broken):
        loaded = llpr

        def save(self, path):
            pass

        @classmethod
        def load(cls, path):
            return Broken(cls.loaded, lambda atoms, p, n: with_sigma(p, "energy", lambda s: 1.01 * s))

    with pytest.raises(AssertionError, match="save and load: energy_uncertainty"):
        check_uncertainty(Forgetful(llpr, lambda atoms, p, n: p), copper[5:7])
