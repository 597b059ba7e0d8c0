"""The contract must catch potentials that break it: one broken potential per promise."""

from __future__ import annotations

import numpy as np
import pytest

from surefield.errors import PotentialError
from surefield.potentials import ZBL, Prediction
from surefield.testing import check_potential, potentials


class Broken:
    """A sound potential whose predictions go through a function that spoils them."""

    def __init__(self, spoil):
        self.sound, self.spoil = ZBL(["Cu", "Au"], inner=1.5, outer=3.0), spoil

    def __getattr__(self, name):
        return getattr(self.sound, name)

    def predict(self, frames):
        return self.spoil(frames, self.sound.predict(frames))


def each(spoil):
    return lambda frames, found: [spoil(a, p) for a, p in zip(frames, found, strict=True)]


def with_energies(prediction, energies):
    return prediction.replace(energies=energies, energy=float(energies.sum()))


def moves_the_atoms(frames, found):
    frames[0].positions += 0.01
    return found


def depends_on_the_batch(frames, found):
    return [with_energies(p, p.energies * (1 + 0.01 * (len(frames) == 1))) for p in found]


def no_forces(atoms, p):
    return p.replace(forces=None)


def not_finite(atoms, p):
    return p.replace(forces=np.full_like(p.forces, np.nan))


def another_total(atoms, p):
    return p.replace(energy=p.energy + 0.1)


def depends_on_the_order(atoms, p):
    return with_energies(p, p.energies * (1 + 0.01 * (np.arange(len(atoms)) % 3)))


def depends_on_the_axes(atoms, p):
    return with_energies(p, p.energies + 0.1 * p.forces[:, 0])


def depends_on_the_origin(atoms, p):
    return with_energies(p, p.energies + 0.01 * np.sum(atoms.positions**2, axis=1))


def not_extensive(atoms, p):
    return with_energies(p, p.energies * (1 + 0.01 * len(atoms)))


def forces_too_large(atoms, p):
    return p.replace(forces=1.001 * p.forces)


def stress_of_the_other_sign(atoms, p):
    return p if p.stress is None else p.replace(stress=-p.stress)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (moves_the_atoms, "inputs unchanged"),
        (depends_on_the_batch, "batch == single"),
        (each(no_forces), "no forces of frame 0"),
        (each(not_finite), "must be finite"),
        (each(another_total), "sum of per-atom energies"),
        (each(depends_on_the_order), "permutation"),
        (each(depends_on_the_axes), "rotation"),
        (each(not_extensive), "supercell"),
        (each(forces_too_large), "finite differences: forces"),
        (each(stress_of_the_other_sign), "finite differences: stress"),
    ],
)
def test_a_broken_promise_is_named(spoil, message, alloy):
    with pytest.raises(AssertionError, match=message):
        check_potential(Broken(spoil), [atoms.copy() for atoms in alloy[:2]])


def test_dependence_on_the_origin(alloy):
    with pytest.raises(AssertionError, match="translation"):
        check_potential(Broken(each(depends_on_the_origin)), alloy[1:2])


def test_another_potential_comes_back(alloy, monkeypatch):
    other = ZBL(["Cu", "Au"], inner=1.5, outer=3.1)
    monkeypatch.setattr(potentials, "load_potential", lambda path: other)
    with pytest.raises(AssertionError, match="save and load"):
        check_potential(ZBL(["Cu", "Au"], inner=1.5, outer=3.0), alloy[:2])


@pytest.mark.parametrize(
    ("raised", "message"),
    [(None, "must be a PotentialError"), (PotentialError("cannot"), "must name H")],
)
def test_unknown_elements_are_refused_by_name(raised, message, alloy):
    class Lax(Broken):
        def predict(self, frames):
            if 1 not in frames[0].numbers:
                return super().predict(frames)
            if raised:
                raise raised
            return [Prediction(energy=0.0, energies=np.zeros(3), forces=np.zeros((3, 3)), stress=np.zeros(6))]

    with pytest.raises(AssertionError, match=message):
        potentials._check_unknown_element(Lax(lambda frames, found: found), alloy[:1])
