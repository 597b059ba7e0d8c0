"""Descriptors as users of Amp know them: handles with settings, that look up fingerprints of images.

The handles hold settings only; the functions themselves are the frozen `AtomicDescriptor` that `for_elements`
gives, and that potentials use. Names and arguments follow Khorshidi and Peterson, Comput. Phys. Commun. 207,
310 (2016).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from surefield.descriptors.atomic_descriptor import AtomicDescriptor
from surefield.descriptors.cutoffs import Cosine, CutoffFunction
from surefield.descriptors.derivatives import dense_derivatives, feature_ranges
from surefield.descriptors.function_lists import Function, make_default_symmetry_functions
from surefield.descriptors.symmetry_functions import SymmetryFunctions
from surefield.descriptors.zernike import ZernikeFunctions
from surefield.errors import ConfigError, DataError, nearest
from surefield.networks.fingerprint_store import Fingerprinted
from surefield.networks.fingerprinter import AtomCentered, Fingerprinter, check_elements
from surefield.networks.parameters import ATOM_CENTERED, IMAGE_CENTERED
from surefield.structures.images import HashedImages, Images, hash_images
from surefield.structures.neighbors import neighborhood
from surefield.structures.system import image_coordinates

__all__ = [
    "Fingerprinter",
    "Gaussian",
    "ImageCentred",
    "Zernike",
    "calculate_fingerprints_range",
    "dense_derivatives",
    "descriptor_from_parameters",
    "hash_images",
]

_CUTOFF = Cosine(6.5)


class Gaussian(AtomCentered):
    """Symmetry functions G2, G4, G5 (Behler and Parrinello, PRL 98, 146401 (2007)).

    Args:
        cutoff: cutoff function, or a radius in Å, which means `Cosine`.
        Gs: dict element -> list of functions, or one list for every element; None for the default set
            (`make_default_symmetry_functions`). Functions are dicts: `type` ('G2', 'G4', 'G5'), `element` or
            `elements`, `eta`, and `offset` or `gamma`, `zeta`.
        dblabel: folder in which computed fingerprints are kept; None for none.
        elements: chemical symbols; None takes those of the images.
        version: None or '2015.12'.
        fortran: False evaluates operation by operation, for debugging; the numbers are the same.
        mode: 'atom-centered'.

    Raises:
        ConfigError: an unusable argument; the message names the nearest legal one.
    """

    def __init__(
        self,
        cutoff: float | Mapping[str, Any] | CutoffFunction = _CUTOFF,
        Gs: Mapping[str, Sequence[Mapping[str, Any]]] | Sequence[Mapping[str, Any]] | None = None,
        dblabel: str | Path | None = None,
        elements: Sequence[str] | None = None,
        version: str | None = None,
        fortran: bool = True,
        mode: str = ATOM_CENTERED,
    ) -> None:
        _check_functions(Gs)
        settings = {"kind": "gaussian", "cutoff": cutoff, "Gs": Gs, "dblabel": dblabel, "elements": elements}
        super().__init__({**settings, "version": version, "fortran": bool(fortran)}, mode)

    def _descriptor(self, symbols: tuple[str, ...]) -> SymmetryFunctions:
        functions = self._settings["Gs"]
        if functions is None:
            functions = make_default_symmetry_functions(symbols)
        elif not isinstance(functions, Mapping):
            functions = dict.fromkeys(symbols, functions)
        return SymmetryFunctions.from_lists(symbols, self._cutoff, functions)


class Zernike(AtomCentered):
    """Zernike functions: power spectrum of one density of all neighbours, weighted by element.

    Args:
        cutoff: cutoff function, or a radius in Å, which means `Cosine`.
        Gs: weights, dict element -> {neighbouring element: weight}; None for atomic numbers.
        nmax: largest radial order; 5 gives 12 functions.
        dblabel: folder in which computed fingerprints are kept; None for none.
        elements: chemical symbols; None takes those of the images.
        version: None or '2015.12'.
        mode: 'atom-centered'.

    Raises:
        ConfigError: an unusable argument.
    """

    def __init__(
        self,
        cutoff: float | Mapping[str, Any] | CutoffFunction = _CUTOFF,
        Gs: Mapping[str, Mapping[str, float]] | None = None,
        nmax: int = 5,
        dblabel: str | Path | None = None,
        elements: Sequence[str] | None = None,
        version: str | None = None,
        mode: str = ATOM_CENTERED,
    ) -> None:
        if Gs is not None and not isinstance(Gs, Mapping):
            expected = "{element: {neighbour: weight}}"
            raise ConfigError("unusable Gs of Zernike", got=repr(Gs), expected=expected)
        settings = {"kind": "zernike", "cutoff": cutoff, "Gs": Gs, "nmax": nmax, "dblabel": dblabel}
        super().__init__({**settings, "elements": elements, "version": version}, mode)
        ZernikeFunctions.from_weights(["H"], self._cutoff, nmax)  # checks nmax

    def _descriptor(self, symbols: tuple[str, ...]) -> ZernikeFunctions:
        settings = self._settings
        return ZernikeFunctions.from_weights(symbols, self._cutoff, settings["nmax"], settings["Gs"])


class ImageCentred(Fingerprinter):
    """No descriptor: the fingerprint of an image is the list of its 3N coordinates (Å), in file order.

    All images must be of one system. With periodic boundaries each is first brought to the periodic copy
    nearest to the first image.
    """

    def __init__(self) -> None:
        self.mode = IMAGE_CENTERED
        super().__init__({"kind": "image-centred", "elements": None})

    @property
    def cutoff(self) -> None:
        """There is none."""
        return

    def _items(self, images: HashedImages) -> Mapping[str, Fingerprinted]:
        rows = _coordinates(images) if images else np.zeros((0, 0))
        items = {
            key: _Coordinates(tuple(row.tolist()), tuple(atoms.get_chemical_symbols()))
            for (key, atoms), row in zip(images.items(), rows, strict=True)
        }
        self._found = tuple(sorted({symbol for item in items.values() for symbol in item.symbols}))
        return items


@dataclass(frozen=True)
class _Coordinates:
    """Fingerprint of an image without a descriptor."""

    values: tuple[float, ...]
    symbols: tuple[str, ...]

    @property
    def content(self) -> tuple[float, ...]:
        return self.values

    def fingerprints(self) -> list[float]:
        return list(self.values)

    def primes(self) -> dict[tuple[int, str, int], list[float]]:
        rows = np.eye(len(self.values)).tolist()
        return {(m, s, x): rows[3 * m + x] for m, s in enumerate(self.symbols) for x in range(3)}


def calculate_fingerprints_range(
    fp: Fingerprinter | AtomicDescriptor, images: Images
) -> dict[str, Float[np.ndarray, "n_features 2"]] | Float[np.ndarray, "n_coordinates 2"]:
    """Smallest and largest value of each fingerprint over the images.

    Args:
        fp: `Gaussian`, `Zernike` or `ImageCentred`, or the `AtomicDescriptor` of the first two.
        images: list of `Atoms`, a file, or a dict as of `hash_images`.

    Returns:
        Atom-centred: dict of (n_features, 2) by element, for the elements that occur. Image-centred: one
        (3N, 2) array.

    Raises:
        DataError: no images, an element that the descriptor does not have, or images of several systems.
    """
    hashed = hash_images(images)
    if not hashed:
        raise DataError("no images to take the ranges of fingerprints from")
    if isinstance(fp, ImageCentred):
        rows = _coordinates(hashed)
        return np.stack([rows.min(axis=0), rows.max(axis=0)], axis=1)
    if isinstance(fp, AtomCentered):
        descriptor = fp.for_images(hashed)
    elif isinstance(fp, AtomicDescriptor):
        descriptor = fp
        check_elements(hashed, descriptor.symbols)
    else:
        raise ConfigError("no descriptor", got=repr(fp)[:80], expected="Gaussian, Zernike, ImageCentred")
    return feature_ranges(descriptor, [neighborhood(atoms, descriptor.cutoff) for atoms in hashed.values()])


def descriptor_from_parameters(parameters: Mapping[str, Any]) -> Fingerprinter:
    """Handle from its `parameters`, or from the object that the JSON of `tostring` reads as.

    Raises:
        ConfigError: an unknown kind or setting.
    """
    settings = dict(parameters)
    kinds = {"gaussian": Gaussian, "zernike": Zernike, "image-centred": ImageCentred}
    kind = settings.pop("kind", None)
    if kind not in kinds:
        raise ConfigError(f"unknown kind of descriptor {kind!r}; {nearest(str(kind), kinds)}")
    if kind == "image-centred":
        return ImageCentred()
    try:
        return kinds[kind](**settings)
    except TypeError as error:
        raise ConfigError(f"unusable settings of {kinds[kind].__name__}: {error}") from error


def _coordinates(images: HashedImages) -> Float[np.ndarray, "n_images n_coordinates"]:
    """Coordinates of all images, near to the first."""
    atoms = list(images.values())
    return image_coordinates(atoms, atoms[0], list(images.names.values()))


def _check_functions(functions: Any) -> None:
    """Each entry of `Gs` must be a list of symmetry functions."""
    if functions is None:
        return
    lists = functions if isinstance(functions, Mapping) else {"every element": functions}
    for symbol, entries in lists.items():
        if isinstance(entries, str | Mapping) or not isinstance(entries, Sequence):
            expected = "a list of dicts, as of make_symmetry_functions"
            raise ConfigError(f"Gs of {symbol}", got=repr(entries)[:80], expected=expected)
        for index, entry in enumerate(entries):
            Function.from_dict(entry, f"function {index} of {symbol}")
