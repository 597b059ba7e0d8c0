"""The four abstract bases of scores: of atoms, of configurations, of data sets, of potentials."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from ase import Atoms

from surefield.errors import ConfigError, DataError
from surefield.scoring.contract import Score
from surefield.scoring.results import (
    JSON_FILE,
    XYZ_FILE,
    Place,
    labelled_copy,
    plain,
    read_labelled,
    read_value,
    write_labelled,
    write_value,
)
from surefield.selection.features import positive_int

__all__ = ["AtomCenteredScore", "ConfigurationScore", "DatasetScore", "ModelScore"]


class _OfStructures(Score):
    """Scores that have one result per structure."""

    place: ClassVar[Place]
    result_file: ClassVar[str] = XYZ_FILE

    @final
    def _checked_run(
        self, configs: Any, compute_args: Mapping[str, Any], batch_size: int
    ) -> tuple[Any, dict[str, Any], int]:
        frames = self.several(configs)
        size = positive_int(batch_size, "batch_size")
        return (
            frames,
            self._checked_arguments("compute_batch", compute_args),
            len(frames) if self.one_job else size,
        )

    @final
    def compute_and_save(
        self, data: Any, arguments: Mapping[str, Any], folder: Path, overrides: Mapping[str, Any]
    ) -> None:
        """Compute a batch and write its structures."""
        write_labelled(folder, self.labelled(self.compute_batch(data, **arguments), data, overrides))

    @final
    def read_results(self, folder: Path) -> list[Any]:
        """Structures of a batch."""
        return read_labelled(folder)

    @final
    def one(self, atoms: Any) -> Atoms:
        """The structure of `compute`.

        Raises:
            ConfigError: a list of structures.
            DataError: anything else, or a structure without atoms.
        """
        if isinstance(atoms, Sequence) and not isinstance(atoms, Atoms | str):
            what = f"{type(self).__name__}.compute takes one structure"
            fix = "use compute_batch for a list"
            raise ConfigError(what, got=f"a {type(atoms).__name__} of {len(atoms)}", fix=fix)
        return _checked_structures([atoms], type(self).__name__)[0]

    @final
    def several(self, list_of_atoms: Any) -> list[Atoms]:
        """The structures of `compute_batch`.

        Raises:
            ConfigError: a single structure.
            DataError: no structures, or something else among them.
        """
        if isinstance(list_of_atoms, Atoms):
            what = f"{type(self).__name__}.compute_batch takes a list of structures"
            raise ConfigError(what, got="one Atoms", fix="use compute for one structure")
        return _checked_structures(list_of_atoms, type(self).__name__)

    @abc.abstractmethod
    def check_result(self, result: Any, atoms: Atoms, configuration: int) -> None:
        """Refuse a result that is none of this structure (DataError)."""

    @final
    def save_results(
        self,
        compute_results: Any,
        save_dir: str | Path = ".",
        list_of_configs: Sequence[Atoms] | Atoms | None = None,
    ) -> Path:
        """Write `score_results.xyz`: copies of the structures with their results and metadata.

        Args:
            compute_results: of `compute_batch`, or of `compute`.
            save_dir: folder, made if missing.
            list_of_configs: the structures, in the same order; or the one of `compute`.

        Returns:
            Path of the file, which was written whole.

        Raises:
            ConfigError: no structures.
            DataError: another number of structures than of results, or a result that is none of them.
        """
        return write_labelled(Path(save_dir), self.labelled(compute_results, list_of_configs))

    @final
    def labelled(
        self,
        compute_results: Any,
        list_of_configs: Sequence[Atoms] | Atoms | None,
        overrides: Mapping[str, Any] | None = None,
    ) -> list[Atoms]:
        """Copies of structures with their results and metadata, as `save_results` writes them.

        Args:
            compute_results, list_of_configs: see `save_results`.
            overrides: entries of the metadata that stand in place of those known here.
        """
        if list_of_configs is None:
            fix = "give the structures that were scored as list_of_configs"
            raise ConfigError(f"{type(self).__name__}.save_results needs the structures", fix=fix)
        if isinstance(list_of_configs, Atoms):
            list_of_configs = [list_of_configs]
            compute_results = compute_results if isinstance(compute_results, list) else [compute_results]
        elif isinstance(compute_results, np.ndarray) and len(list_of_configs) == 1:
            compute_results = [compute_results]
        frames = _checked_structures(list_of_configs, type(self).__name__)
        if len(compute_results) != len(frames):
            got, expected = f"{len(compute_results)} results", f"{len(frames)}, one per structure"
            raise DataError("results do not fit the structures", got=got, expected=expected)
        labelled = []
        for i, (atoms, result) in enumerate(zip(frames, compute_results, strict=True)):
            self.check_result(result, atoms, i)
            record = self.record_of(result)
            metadata = _overridden(record.metadata, overrides)
            labelled.append(labelled_copy(atoms, self.place, self.key, result, metadata, record.extras))
        return labelled


class AtomCenteredScore(_OfStructures):
    """A score of every atom: `compute` gives (n_atoms,), stored in `atoms.arrays[key]`."""

    place: ClassVar[Place] = "arrays"

    @final
    def check_result(self, result: Any, atoms: Atoms, configuration: int) -> None:
        """One number per atom."""
        if np.shape(result) != (len(atoms),):
            where, got = f"configuration {configuration}", np.shape(result)
            raise DataError(
                f"the {self.key} must be one per atom", where=where, got=got, expected=(len(atoms),)
            )


class ConfigurationScore(_OfStructures):
    """A score of every structure: `compute` gives a number or a square matrix, for `atoms.info[key]`."""

    place: ClassVar[Place] = "info"

    @final
    def check_result(self, result: Any, atoms: Atoms, configuration: int) -> None:
        """A number, or a square matrix."""
        _check_number_or_square(result, self.key, f"configuration {configuration}")


class _OfWhole(Score):
    """Scores that have one result altogether; they are one job."""

    one_job: ClassVar[bool] = True
    result_file: ClassVar[str] = JSON_FILE

    @final
    def read_results(self, folder: Path) -> list[Any]:
        """The result and its metadata."""
        return [read_value(folder, self.key)]

    @final
    def check_one_job(self, batch_size: int, n: int) -> None:
        """Refuse batches (ConfigError)."""
        if batch_size not in (1, n):
            what = f"{type(self).__name__} is always one job"
            raise ConfigError(what, got=f"batch_size {batch_size!r}", expected="1, or none at all")

    @final
    def save_results(
        self, compute_results: Any, save_dir: str | Path = ".", list_of_configs: Any = None
    ) -> Path:
        """Write `score_results.json`: the result under its key, and `_metadata`.

        Args:
            compute_results: of `compute`.
            save_dir: folder, made if missing.
            list_of_configs: not needed.

        Returns:
            Path of the file, which was written whole.

        Raises:
            DataError: neither a number nor a square matrix.
        """
        del list_of_configs
        return self.save_value(compute_results, save_dir)

    @final
    def save_value(
        self, result: Any, save_dir: str | Path, overrides: Mapping[str, Any] | None = None
    ) -> Path:
        """`save_results` with entries of the metadata that stand in place of those known here."""
        _check_number_or_square(result, self.key, None)
        metadata = plain(_overridden(self.record_of(result).metadata, overrides))
        return write_value(Path(save_dir), self.key, result, metadata)


class DatasetScore(_OfWhole):
    """A score of a data set: `compute` takes a list of structures and gives a number."""

    @final
    def compute_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Not there: a data set is one thing.

        Raises:
            ConfigError: always.
        """
        what = f"{type(self).__name__} has one number for a whole data set, so that there are no batches"
        raise ConfigError(what, fix="use compute with the list of all structures")

    @final
    def _checked_run(
        self, configs: Any, compute_args: Mapping[str, Any], batch_size: int
    ) -> tuple[Any, dict[str, Any], int]:
        frames = self.dataset(configs)
        self.check_one_job(batch_size, len(frames))
        return frames, self._checked_arguments("compute", compute_args), len(frames)

    @final
    def compute_and_save(
        self, data: Any, arguments: Mapping[str, Any], folder: Path, overrides: Mapping[str, Any]
    ) -> None:
        """Compute the number of the data set and write it."""
        self.save_value(self.compute(data, **arguments), folder, overrides)

    @final
    def dataset(self, dataset: Any) -> list[Atoms]:
        """The structures of `compute`.

        Raises:
            ConfigError: a single structure.
            DataError: no structures, or something else among them.
        """
        if isinstance(dataset, Atoms):
            what = f"{type(self).__name__}.compute takes a list of structures"
            raise ConfigError(what, got="one Atoms", fix="give [atoms]")
        return _checked_structures(dataset, type(self).__name__)


class ModelScore(_OfWhole):
    """A score of a potential: `compute` gives a number or a square matrix.

    `run` calls `compute_batch` with its `configs`, or `compute` if these are None.
    """

    @final
    def _checked_run(
        self, configs: Any, compute_args: Mapping[str, Any], batch_size: int
    ) -> tuple[Any, dict[str, Any], int]:
        self.check_one_job(batch_size, len(configs) if isinstance(configs, Sequence) else 1)
        bare = configs is None
        arguments = self._checked_arguments("compute" if bare else "compute_batch", compute_args, bare=bare)
        return self.as_data("configs", configs), arguments, 1

    @final
    def compute_and_save(
        self, data: Any, arguments: Mapping[str, Any], folder: Path, overrides: Mapping[str, Any]
    ) -> None:
        """Compute the score of the potential and write it."""
        value = self.compute(**arguments) if data is None else self.compute_batch(data, **arguments)
        self.save_value(value, folder, overrides)


def _overridden(metadata: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: (overrides or {}).get(name, value) for name, value in metadata.items()}


def _checked_structures(frames: Any, name: str) -> list[Atoms]:
    """Structures with atoms; never changed by a score."""
    if isinstance(frames, str | Path) or not isinstance(frames, Sequence):
        got = f"{type(frames).__name__} {frames!r:.60}"
        raise DataError(f"{name} needs structures", got=got, expected="a list of ase.Atoms")
    listed = list(frames)
    if not listed:
        raise DataError(f"{name} needs structures", got="an empty list")
    for i, atoms in enumerate(listed):
        if not isinstance(atoms, Atoms):
            raise DataError(f"{name} needs structures", where=f"configuration {i}", got=type(atoms).__name__)
        if not len(atoms):
            raise DataError("a structure without atoms", where=f"configuration {i}")
    return listed


def _check_number_or_square(result: Any, key: str, where: str | None) -> None:
    shape = np.shape(result)
    if shape and (len(shape) != 2 or shape[0] != shape[1]):
        raise DataError(f"the {key} must be a number or a square matrix", where=where, got=shape)
