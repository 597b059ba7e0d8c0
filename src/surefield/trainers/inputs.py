"""What goes into a training: configurations of a storage or a list, tied to ids, with labels and weights."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms
from jaxtyping import Float

from surefield.errors import ConfigError, DataError
from surefield.keys import ATOMIC_WEIGHTS
from surefield.potentials.evaluate import check_frames
from surefield.potentials.potential import Potential
from surefield.storage import Storage
from surefield.storage.configuration import CONFIGURATION_ID
from surefield.structures.geometry import check_geometry
from surefield.structures.images import image_key
from surefield.structures.label_sources import results_of
from surefield.structures.labels import Labels, resolve_labels
from surefield.structures.read import Frames
from surefield.trainers.result import TrainingWarning
from surefield.training.dataset import Sample, make_samples, unread_states
from surefield.training.problem import Weights
from surefield.training.weights import read_atom_weights

__all__ = ["Inputs", "gather", "make_configurations"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Configurations of a call, in stored order.

    Attributes:
        frames: the caller's objects, which are only read.
        ids: one per frame, unique.
        atom_weights: of the atoms of each frame; None: all 1.
        datasets: id and content hash of each dataset.
        url: of the storage; None for plain lists.
    """

    frames: tuple[Atoms, ...]
    ids: tuple[str, ...]
    atom_weights: Mapping[str, Float[np.ndarray, " n_atoms"]] | None
    datasets: tuple[Mapping[str, Any], ...]
    url: str | None


def gather(
    storage: Storage | Sequence[Atoms], dataset_list: str | Sequence[str] | None, per_atom_weights: Any
) -> Inputs:
    """Collect the configurations of a call.

    Args:
        storage: a storage, or structures themselves.
        dataset_list: ids or names of its datasets, concatenated in this order; None for structures.
        per_atom_weights: see `read_atom_weights`.

    Raises:
        ConfigError: neither a storage nor structures, or datasets that are not named.
        DataError: no configurations, or weights that do not fit them.
    """
    if isinstance(storage, Storage):
        frames, datasets, url = _stored(storage, dataset_list)
    else:
        frames, datasets, url = _plain(storage, dataset_list)
    if not frames:
        raise DataError("there are no configurations to train on")
    ids = _unique([str(atoms.info.get(CONFIGURATION_ID, f"{i:06d}")) for i, atoms in enumerate(frames)])
    weights = read_atom_weights(per_atom_weights, ids, frames)
    by_id = None if weights is None else dict(zip(ids, weights, strict=True))
    return Inputs(tuple(frames), tuple(ids), by_id, tuple(datasets), url)


def _stored(storage: Storage, dataset_list: Any) -> tuple[list[Atoms], list[dict[str, Any]], str]:
    names = [dataset_list] if isinstance(dataset_list, str) else list(dataset_list or ())
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"dataset_list must name datasets of the storage, got {dataset_list!r}")
    chosen = [storage.describe(name) for name in names]
    datasets = [{"id": dataset.handle, "hash": dataset.hash} for dataset in chosen]
    return [a for dataset in chosen for a in storage.get_data(dataset.handle)], datasets, storage.url


def _plain(storage: Any, dataset_list: Any) -> tuple[list[Atoms], list[dict[str, Any]], None]:
    fine = isinstance(storage, Sequence) and all(isinstance(atoms, Atoms) for atoms in storage)
    if not fine:
        got = type(storage).__name__
        raise ConfigError(f"storage must be a Storage or a list of ase.Atoms, got {got}")
    if dataset_list is not None:
        raise ConfigError("dataset_list must be None when structures are given in place of a storage")
    return list(storage), [{"id": None, "hash": content_hash(storage)}], None


def content_hash(frames: Sequence[Atoms]) -> str:
    """Hash of structures, their order and their results, 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for atoms in frames:
        digest.update(image_key(atoms).encode())
        for name, value in sorted(results_of(atoms).items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:32]


def _unique(names: list[str]) -> list[str]:
    """The ids themselves; a configuration that is there again gets a number behind its id."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        unique.append(name if seen[name] == 0 else f"{name}#{seen[name]}")
    return unique


def make_configurations(model: Potential, inputs: Inputs, weights: Weights) -> list[Sample]:
    """Labels, weights and neighbours of all configurations.

    Raises:
        DataError: a geometry no potential can be evaluated on, labels that are not finite or disagree, or
            nothing left to fit.
        PotentialError: an element that the potential does not know.
    """
    origins = tuple(f"configuration {name}" for name in inputs.ids)
    frames = Frames(inputs.frames, origins)
    check_geometry(frames)
    check_frames(model, frames)
    labels, _ = resolve_labels(frames, require=())
    _check_something_to_fit(labels, weights)
    unread_states(frames, labels, model.supplies)
    copies = [atoms.copy() for atoms in frames]
    for copy in copies:
        # Weights of atoms come with the call, not with the structure.
        copy.arrays.pop(ATOMIC_WEIGHTS, None)
        copy.info.pop(ATOMIC_WEIGHTS, None)
    samples = []
    for name, sample in zip(
        inputs.ids, make_samples(Frames(tuple(copies), origins), labels, model.neighborhood), strict=True
    ):
        atom_weights = sample.weights_of_atoms
        if inputs.atom_weights is not None:
            atom_weights = np.asarray(inputs.atom_weights[name], np.float64) * atom_weights
        samples.append(replace(sample, id=name, atom_weights=atom_weights))
    if inputs.atom_weights is not None and weights.energy == weights.stress == 0:
        _check_some_weight(samples)
    return samples


def _check_something_to_fit(labels: Sequence[Labels], weights: Weights) -> None:
    has = {kind: any(kind in label for label in labels) for kind in Weights._fields}
    wanted = [kind for kind, weight in zip(has, weights, strict=True) if weight > 0]
    absent = [kind for kind in wanted if not has[kind]]
    if absent == wanted:
        present = ", ".join(kind for kind, there in has.items() if there) or "none"
        raise DataError(
            f"nothing is left to fit: weights are positive for {', '.join(wanted) or 'nothing'}, labels that "
            f"are present: {present}"
        )
    for kind in absent:
        warnings.warn(
            f"no configuration has {kind} labels: the fit goes without, set its weight to 0 to say so",
            TrainingWarning,
            stacklevel=2,
        )


def _check_some_weight(samples: Sequence[Sample]) -> None:
    if not any(np.any(sample.weights_of_atoms > 0) for sample in samples):
        raise DataError("all atomic weights are zero, and so are eweight and vweight: nothing is left to fit")
