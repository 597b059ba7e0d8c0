"""Candidates without dynamics: random displacements, random strains, slabs cut from crystals, files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import gcd, lcm

import numpy as np
from ase import Atoms
from ase.build import surface
from ase.io import iread

from surefield import keys
from surefield.errors import ConfigError, DataError
from surefield.exploration.breaking import nearest_contact
from surefield.exploration.config import PoolFilesConfig, RattleConfig, StrainConfig, SurfacesConfig
from surefield.exploration.sampling import snapshot
from surefield.exploration.springs import thermal_displacements
from surefield.structures.fingerprint import duplicate_groups, fingerprints

__all__ = ["alternate", "from_files", "rattled", "slabs", "strained", "turns"]

#: Draws of one structure before it is left out: every one had atoms too close.
_DRAWS = 20
#: Least distance in slabs, by covalent radii; atoms of a cut crystal keep theirs.
_SLAB_CONTACT = 0.5


def turns(n_starts: int, n: int, seed: Sequence[int]) -> np.ndarray:
    """Places (n,) of the starts: all in turn, or different ones at random where there are more than n."""
    places = np.arange(n) % n_starts
    return np.random.default_rng(seed).permutation(n_starts)[:n] if n_starts > n else places


def alternate(number: int, n_first: int, n_second: int) -> int:
    """Place in a second list, where one takes turns with a first one so that all pairs come."""
    shift = number // lcm(n_first, n_second) % gcd(n_first, n_second)
    return (number + shift) % n_second


def rattled(starts: Sequence[Atoms], config: RattleConfig, seed: Sequence[int]) -> list[Atoms]:
    """Starts with normal random displacements of every coordinate; starts and sizes take turns.

    Molecules are displaced as by `springs` where the configuration names temperatures.

    Args:
        starts: structures; not changed.
        config: sizes, least distance, number.
        seed: structure i draws from `numpy.random.default_rng([*seed, i])`.

    Raises:
        DataError: all draws had atoms too close.
    """

    places, sizes = turns(len(starts), config.n_structures, seed), config.displacements

    def draw(number: int, rng: np.random.Generator) -> Atoms:
        place = int(places[number])
        if config.temperatures and not starts[place].pbc.any():
            kelvin = config.temperatures[alternate(number, len(starts), len(config.temperatures))]
            frame = snapshot(starts[place], f"springs_{kelvin:g}K", start=place)
            frame.positions += thermal_displacements(starts[place], kelvin, rng)
            return frame
        size = sizes[alternate(number, len(starts), len(sizes))]
        frame = snapshot(starts[place], f"rattle_{size:g}A", start=place)
        frame.positions += size * rng.standard_normal(frame.positions.shape)
        return frame

    return _drawn(draw, config.n_structures, config.contact, seed)


def strained(starts: Sequence[Atoms], config: StrainConfig, seed: Sequence[int]) -> list[Atoms]:
    """Periodic starts under random symmetric strains, each component uniform up to the limit.

    Args:
        starts: structures; those that are not periodic in three directions are passed over.
        config: strain, displacements, least distance, number.
        seed: as for `rattled`.

    Raises:
        ConfigError: no periodic start.
        DataError: all draws had atoms too close.
    """
    crystals = _crystals(starts, "strains")
    places = turns(len(crystals), config.n_structures, seed)

    def draw(number: int, rng: np.random.Generator) -> Atoms:
        place = crystals[int(places[number])]
        strain = rng.uniform(-config.max_strain, config.max_strain, (3, 3))
        strain = np.tril(strain) + np.tril(strain, -1).T
        frame = snapshot(starts[place], "strain", start=place)
        frame.set_cell(frame.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        frame.positions += config.rattle * rng.standard_normal(frame.positions.shape)
        return frame

    return _drawn(draw, config.n_structures, config.contact, seed)


#: Å; the layers of no low-index plane are on a face of the cell after it.
_OFF_FACES = (0.0137, 0.0171, 0.0193)


def slabs(starts: Sequence[Atoms], config: SurfacesConfig, seed: Sequence[int]) -> list[Atoms]:
    """Slabs of periodic starts, cut along all low-index planes; equal ones come once.

    Cells are periodic in three directions, with vacuum between the slabs, as plane-wave codes want them.

    Args:
        starts: structures; those that are not periodic in three directions are passed over.
        config: planes, layers, vacuum, displacements, number.
        seed: as for `rattled`.

    Raises:
        ConfigError: no periodic start, or no slab as small as is wanted.
    """
    different: list[Atoms] = []
    for place in _crystals(starts, "surfaces"):
        cut, crystal = [], starts[place].copy()
        # Of a layer on a face of the cell, rounding would leave some atoms at the other side.
        crystal.positions += _OFF_FACES
        for plane in _planes(config.max_index):
            slab = surface(crystal, plane, config.layers, vacuum=config.vacuum, periodic=True)
            if len(slab) <= config.max_atoms:
                name = "surface_" + "".join(map(str, plane))
                cut.append(snapshot(slab, name, start=place))
        if cut:
            first = np.unique(duplicate_groups(fingerprints(cut)), return_index=True)[1]
            different += [cut[i] for i in np.sort(first)]
    if not different:
        what = f"all slabs have more than {config.max_atoms} atoms"
        raise ConfigError(what, fix="smaller starts, fewer layers, or a larger max_atoms")

    def draw(number: int, rng: np.random.Generator) -> Atoms:
        frame = different[number % len(different)].copy()
        # Every slab comes once as it is cut.
        if number >= len(different):
            frame.positions += config.rattle * rng.standard_normal(frame.positions.shape)
        return frame

    n = config.n_structures if config.rattle > 0 else min(config.n_structures, len(different))
    return _drawn(draw, n, _SLAB_CONTACT, seed)


def from_files(config: PoolFilesConfig, seed: Sequence[int]) -> list[Atoms]:
    """Structures of files without their labels; where there are more than are wanted, a random part.

    Files are read structure by structure, and no more structures are kept than are wanted (reservoir
    sampling: Vitter, ACM Trans. Math. Softw. 11, 37 (1985)).

    Raises:
        DataError: a file that cannot be read, or no structures.
    """
    rng = np.random.default_rng(seed)
    kept: list[tuple[int, Atoms]] = []
    for number, frame in enumerate(_streamed(config.files)):
        if config.n_structures is None or number < config.n_structures:
            kept.append((number, frame))
        elif (place := int(rng.integers(number + 1))) < config.n_structures:
            kept[place] = (number, frame)
    if not kept:
        raise DataError(f"no structures in {', '.join(config.files)}")
    return [frame for _, frame in sorted(kept, key=lambda pair: pair[0])]


def _streamed(files: Sequence[str]) -> Iterator[Atoms]:
    for path in files:
        try:
            for number, atoms in enumerate(iread(path, index=":")):
                frame = snapshot(atoms, str(atoms.info.get(keys.CONFIG_TYPE, "file")))
                frame.info["origin"] = f"{path}:{number}"
                yield frame
        except Exception as error:  # readers of ASE raise anything
            cause = f"{type(error).__name__}: {error}"
            raise DataError(f"{path} cannot be read", got=cause, fix="check its path and format") from error


def _drawn(
    draw: Callable[[int, np.random.Generator], Atoms], n: int, contact: float, seed: Sequence[int]
) -> list[Atoms]:
    frames, fault = [], ""
    for number in range(n):
        rng = np.random.default_rng([*seed, number])
        for _ in range(_DRAWS):
            frame = draw(number, rng)
            fault = nearest_contact(frame, contact)
            if not fault:
                frames.append(frame)
                break
    if not frames:
        fix = "smaller displacements or strains, or a smaller contact"
        raise DataError(f"in all of {n} structures atoms are too close", got=fault, fix=fix)
    return frames


def _crystals(starts: Sequence[Atoms], what: str) -> list[int]:
    places = [place for place, atoms in enumerate(starts) if atoms.pbc.all()]
    if not places:
        raise ConfigError(f"{what} need a start that is periodic in three directions", got="none")
    return places


def _planes(max_index: int) -> list[tuple[int, int, int]]:
    """Miller indices without common factor, one of each pair of opposite ones, low ones first."""
    steps = range(-max_index, max_index + 1)
    planes = [(h, k, m) for h, k, m in product(steps, repeat=3) if gcd(h, k, m) == 1]
    planes = [plane for plane in planes if next(i for i in plane if i) > 0]
    return sorted(planes, key=lambda p: (sum(map(abs, p)), tuple(-i for i in p)))
