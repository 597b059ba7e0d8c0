"""What the descriptor handles of users share: settings, checks, and fingerprints of images on demand."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from surefield.descriptors.atomic_descriptor import AtomicDescriptor, atomic_number
from surefield.descriptors.cutoffs import CutoffFunction, cutoff_function
from surefield.errors import ConfigError, DataError, nearest
from surefield.files import json_text
from surefield.networks.fingerprint_store import Computed, Fingerprinted, LazyMapping, Recipe
from surefield.networks.parameters import ATOM_CENTERED, Parameters, check_version, descriptor_mode
from surefield.structures.images import HashedImages, Images, hash_images

__all__ = ["AtomCentered", "Fingerprinter", "check_elements", "check_parallel"]

Log = Callable[[str], Any]
Parallel = int | Mapping[str, int] | None


class Fingerprinter(abc.ABC):
    """What the three handles share: settings, and fingerprints of images on demand.

    Attributes:
        fingerprints: by image key; of each image a list of (symbol, [G...]) per atom, or, image-centred, the
            list of its 3N coordinates.
        fingerprintprimes: by image key; of each image a dict {(m, symbol_m, n, symbol_n, x): [dG_n/dR_m,x]},
            m the moved atom (its periodic copies move with it), n the centre, m = n included, what is zero
            left out; or, image-centred, {(m, symbol_m, x): [d(coordinate)/dR_m,x]}.
    """

    mode: str

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = dict(settings)
        self._found: tuple[str, ...] | None = None
        self.fingerprints: LazyMapping[Any] = LazyMapping()
        self.fingerprintprimes: LazyMapping[Any] = LazyMapping()

    @property
    def elements(self) -> tuple[str, ...] | None:
        """Elements asked for, sorted; else those of the latest images, None before there are any."""
        return self._settings["elements"] or self._found

    @property
    @abc.abstractmethod
    def cutoff(self) -> CutoffFunction | None:
        """Cutoff function, None where there is no cutoff."""

    @property
    def parameters(self) -> Parameters:
        """Copy of all settings, with attribute and key access."""
        return Parameters(copy.deepcopy({**self._settings, "mode": self.mode, "elements": self.elements}))

    def tostring(self) -> str:
        """All settings as JSON, for `descriptor_from_parameters`; where caches are is left out."""
        settings = {key: value for key, value in self.parameters.items() if key != "dblabel"}
        settings["elements"] = self._settings["elements"]
        return json_text(settings)

    def calculate_fingerprints(
        self,
        images: Images,
        parallel: Parallel = None,
        log: Log | None = None,
        calculate_derivatives: bool = False,
    ) -> None:
        """Make `fingerprints` (and `fingerprintprimes`) of images available, each computed at its first look.

        Every call stands for itself: unless elements were given to the descriptor, they are those of these
        images. Fingerprints of earlier calls stay available.

        Args:
            images: list of `Atoms`, a file (.traj, .db, extxyz), or a dict as of `hash_images`.
            parallel: number of processes, or {'cores': number}; what is computed on demand is computed in
                this process, whatever the number, as the log says.
            log: called with lines of text.
            calculate_derivatives: make the derivatives available, too.

        Raises:
            ConfigError: an element without functions, or processes on other hosts asked for.
            DataError: an image with an element that the descriptor does not have.
        """
        check_parallel(parallel)
        hashed = hash_images(images, log)
        items = self._items(hashed)
        for key, item in items.items():
            self.fingerprints.add(key, item.content, item.fingerprints)
            if calculate_derivatives:
                self.fingerprintprimes.add(key, item.content, item.primes)
        if log is not None:
            what = "fingerprints and derivatives" if calculate_derivatives else "fingerprints"
            log(f"{what} of {len(items)} images are computed when they are looked at, in this process")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(cutoff={self.cutoff}, elements={self.elements})"

    @abc.abstractmethod
    def _items(self, images: HashedImages) -> Mapping[str, Fingerprinted]:
        """What makes the fingerprints and derivatives of each image."""


class AtomCentered(Fingerprinter):
    """What `Gaussian` and `Zernike` share."""

    def __init__(self, settings: Mapping[str, Any], mode: str) -> None:
        if descriptor_mode(mode) != ATOM_CENTERED:
            fix = "for coordinates of whole images use ImageCentred()"
            raise ConfigError("wrong mode", got=repr(mode), expected=repr(ATOM_CENTERED), fix=fix)
        self.mode = ATOM_CENTERED
        check_version(settings["version"])
        self._cutoff = cutoff_function(settings["cutoff"])
        elements = settings["elements"]
        if isinstance(elements, str):
            raise ConfigError(f"elements must be a list such as ['Cu', 'Pt'], got {elements!r}")
        for symbol in elements or ():
            atomic_number(symbol, "elements")
        changes = {
            "cutoff": self._cutoff.todict(),
            "elements": tuple(sorted(set(elements))) if elements else None,
            "Gs": copy.deepcopy(settings["Gs"]),
        }
        super().__init__({**settings, **changes})
        self._check_elements()
        if elements:
            self.for_elements(elements)

    @property
    def cutoff(self) -> CutoffFunction:
        """Cutoff function."""
        return self._cutoff

    def for_elements(self, symbols: Sequence[str]) -> AtomicDescriptor:
        """The descriptor for images of these elements; of all elements given to the handle, if there are any.

        Raises:
            ConfigError: an element without functions, or one that is not among those given.
        """
        asked = self._settings["elements"]
        unknown = sorted(set(symbols) - set(asked)) if asked else []
        if unknown:
            fix = "add it to `elements`, or leave `elements` out"
            raise ConfigError(
                "the descriptor has no such element", got=unknown, expected=list(asked), fix=fix
            )
        return self._descriptor(asked or tuple(sorted(set(symbols))))

    def for_images(self, images: Images) -> AtomicDescriptor:
        """The descriptor for these images.

        Raises:
            DataError: an image has an element that is not among those given to the handle.
        """
        hashed = hash_images(images)
        asked = self._settings["elements"]
        present = check_elements(hashed, asked or chemical_symbols)
        if not (asked or present):
            raise DataError("no atoms in the images, so no elements for the descriptor")
        return self.for_elements(sorted(present))

    @abc.abstractmethod
    def _descriptor(self, symbols: tuple[str, ...]) -> AtomicDescriptor:
        """Descriptor of exactly these elements."""

    def _check_elements(self) -> None:
        """Elements named in `Gs` must exist, and be among those given."""
        functions, asked = self._settings["Gs"], self._settings["elements"]
        if not isinstance(functions, Mapping):
            return
        for symbol in functions:
            atomic_number(symbol, "Gs")
            if asked and symbol not in asked:
                hint = nearest(symbol, asked)
                raise ConfigError(f"Gs has an entry for {symbol}, which is not among the elements; {hint}")

    def _items(self, images: HashedImages) -> Mapping[str, Fingerprinted]:
        label = self._settings["dblabel"]
        recipe = Recipe(
            self.for_images(images),
            compiled=self._settings.get("fortran", True),
            folder=None if label is None else Path(label),
        )
        self._found = tuple(sorted(recipe.descriptor.symbols))
        return {key: Computed(atoms, recipe) for key, atoms in images.items()}


def check_elements(images: HashedImages, symbols: Sequence[str]) -> set[str]:
    """Elements of the images.

    Raises:
        DataError: an image has an element that is not among the symbols; it names both.
    """
    present: set[str] = set()
    for key, atoms in images.items():
        own = {chemical_symbols[z] for z in np.unique(atoms.numbers).tolist()}
        unknown = sorted(own - set(symbols))
        if unknown:
            raise DataError(
                f"{images.names[key]} has {', '.join(unknown)}",
                expected=f"only the elements of the descriptor, {', '.join(symbols)}",
                fix="give the descriptor these elements, or leave the image out",
            )
        present |= own
    return present


def check_parallel(parallel: Parallel) -> None:
    """Raise `ConfigError` unless this is None, a number of processes, or {'cores': number}."""
    cores = parallel
    if isinstance(parallel, Mapping):
        if set(parallel) != {"cores"}:
            raise ConfigError(f"parallel must be a number or {{'cores': number}}, got {dict(parallel)}")
        cores = parallel["cores"]
        if isinstance(cores, Mapping) and set(cores) == {"localhost"}:
            cores = cores["localhost"]
    if cores is None or (isinstance(cores, int) and not isinstance(cores, bool) and cores > 0):
        return
    fix = "for several hosts give an executor to the training (docs: executors)"
    raise ConfigError("unusable number of processes", got=repr(cores), expected="a whole number", fix=fix)
