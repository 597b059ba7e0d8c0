"""Images by content: the keys under which structures are found again, in lists, files and other jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from surefield.errors import DataError
from surefield.structures.electrode import stated_potential
from surefield.structures.geometry import check_numbers
from surefield.structures.read import Frames, Source, read_frames

__all__ = ["HashedImages", "Images", "hash_images", "image_key"]

Images = Source | Mapping[str, Atoms]


class HashedImages(dict[str, Atoms]):
    """Unique images by key, in the order in which they first appear.

    Attributes:
        counts: how often each image was given.
        names: where each image is from, such as "image 7 (frame 7 of train.traj)", for messages.
        sequence: key of every image in the order in which they were given, copies included.
    """

    def __init__(
        self,
        images: Mapping[str, Atoms],
        counts: Mapping[str, int],
        names: Mapping[str, str],
        sequence: Sequence[str],
    ) -> None:
        super().__init__(images)
        self.counts = dict(counts)
        self.names = dict(names)
        self.sequence = tuple(sequence)

    @property
    def frames(self) -> Frames:
        """The images with their names."""
        return Frames(tuple(self.values()), tuple(self.names[key] for key in self))


def hash_images(
    images: Images, log: Callable[[str], Any] | None = None, ordered: bool = False
) -> HashedImages:
    """Give every image a key made of its content; copies share one.

    Elements, positions and cell (to 1e-6 Å), pbc and the electrode potential (to 1e-6 V, wherever it
    stands) count; labels, constraints and other entries do not. Keys survive extxyz.

    Args:
        images: list of `Atoms`, `Frames`, a file (.traj, .db, extxyz), or a dict of images, whose keys stay.
        log: called with one line of text, for instance about copies.
        ordered: kept for old scripts; the order is always that of the images.

    Returns:
        Dict key -> image (the same objects), with the number of copies in `counts`.

    Raises:
        DataError: not a structure, one that cannot be computed (`check_numbers`), or an unreadable file.
    """
    if isinstance(images, HashedImages):
        return images
    if isinstance(images, Mapping):
        names = {key: f"image {key!r}" for key in images}
        _check(zip(names.values(), images.values(), strict=True))
        return HashedImages(images, dict.fromkeys(images, 1), names, list(images))
    frames = read_frames(images)
    _check(zip(frames.origins, frames, strict=True))
    unique: dict[str, Atoms] = {}
    counts: dict[str, int] = {}
    names = {}
    sequence: list[str] = []
    for index, atoms in enumerate(frames):
        key = image_key(atoms)
        counts[key] = counts.get(key, 0) + 1
        sequence.append(key)
        if key not in unique:
            origin = frames.origin(index)
            unique[key] = atoms
            names[key] = f"image {index} ({origin})" if " of " in origin else f"image {index}"
    if log is not None and len(unique) < len(frames):
        log(f"{len(frames)} images, {len(unique)} of them different")
    return HashedImages(unique, counts, names, sequence)


def image_key(atoms: Atoms) -> str:
    """Key of one image: 32 hexadecimal digits."""
    digest = hashlib.sha256(b"surefield image 1")
    digest.update(np.asarray(atoms.numbers, "<i4").tobytes())
    digest.update(np.asarray(atoms.pbc, "u1").tobytes())
    for values in (atoms.cell.array, atoms.positions):
        digest.update(_millionths(values).tobytes())
    potential = stated_potential(atoms)
    if potential is not None:
        digest.update(b"potential" + _millionths(potential).tobytes())
    return digest.hexdigest()[:32]


def _millionths(values: Any) -> np.ndarray:
    """Numbers in units of 1e-6, by way of the eight decimals of extxyz.

    Rounding at once would send a number that lies near the middle between two millionths to one side
    before, and to the other side after it was written with eight decimals.
    """
    flat = np.asarray(values, np.float64).ravel()
    if not np.all(np.isfinite(flat)):
        return flat.view("<i8")
    scaled = flat * 1e8
    whole = np.rint(scaled)
    # The product is not exact, so numbers that may be on either side are rounded as a text writer does.
    doubtful = (np.abs(np.abs(scaled - whole) - 0.5) < 1e-3) | (np.abs(flat) > 1e4)
    whole[doubtful] = [int(f"{x:.8f}".replace(".", "")) for x in flat[doubtful].tolist()]
    return (whole.astype("<i8") + 50) // 100


def _check(images: Iterable[tuple[str, Any]]) -> None:
    for name, atoms in images:
        if not isinstance(atoms, Atoms):
            raise DataError(f"{name} is no ase.Atoms", got=repr(atoms)[:80])
        check_numbers(atoms, name)
