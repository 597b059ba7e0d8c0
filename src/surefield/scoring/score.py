"""What all scores share: the four abstract bases, their checks, results in files, and runs as jobs."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar, final

import numpy as np
from ase import Atoms

from surefield.errors import ConfigError, DataError
from surefield.execution.identity import digest
from surefield.scoring.descriptions import described, picked
from surefield.scoring.quantity import ScoreQuantity, checked_quantity
from surefield.scoring.results import (
    Place,
    check_finite_rows,
    labelled_copy,
    plain,
    write_labelled,
    write_value,
)
from surefield.storage.dataset import package_version

__all__ = ["AtomCenteredScore", "ConfigurationScore", "DatasetScore", "ModelScore", "Score"]

R = TypeVar("R")
#: Results whose metadata an object remembers.
_REMEMBERED: Final = 200_000


@dataclass(frozen=True)
class _Record:
    """What is known of one result.

    Attributes:
        metadata: everything that determined it.
        extras: further arrays of the atoms, by name.
    """

    metadata: Mapping[str, Any]
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)


class Score(abc.ABC):
    """A number or matrix about atoms, a configuration, a data set or a potential.

    A subclass is one of the four bases below. It has the class attributes, `settings`, `compute` and
    `compute_batch` with arguments of its own choice, calls `check_quantity` first and gives every result
    through `recorded`; all else is here. `compute_batch(configs, **arguments)` has to give the same for any
    division of `configs` into batches, unless `one_job`.

    Attributes:
        key: under which results are stored.
        quantity: what it computes.
        array_arguments: names of arguments, of the constructor or a call, that are arrays, files of arrays,
            or lists of these; there a text is a path.
        per_configuration: names of arguments of `compute_batch` with one entry per configuration, see
            `picked`.
        one_job: whether all configurations are needed for each result.
        may_be_nan: whether a NaN says something.
    """

    key: ClassVar[str]
    quantity: ClassVar[ScoreQuantity]
    array_arguments: ClassVar[tuple[str, ...]] = ()
    per_configuration: ClassVar[tuple[str, ...]] = ()
    one_job: ClassVar[bool] = False
    may_be_nan: ClassVar[bool] = False

    @abc.abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Constructor arguments from which the same class makes an equal score, without work done again.

        Arrays may be among them. What has been prepared from logs or the like is given as prepared.
        """

    @abc.abstractmethod
    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """Score of one thing: a structure, a data set, a property."""

    @abc.abstractmethod
    def compute_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Scores of a list, in its order."""

    def described_settings(self) -> dict[str, Any]:
        """What metadata says of the constructor arguments."""
        return described(self.settings(), self.array_arguments)

    @final
    def check_quantity(self, score_quantity: Any) -> None:
        """Refuse a `score_quantity` that is not the one this class computes (ConfigError)."""
        checked_quantity(score_quantity, self.quantity, type(self).__name__)

    @final
    def recorded(
        self,
        results: R,
        arguments: Mapping[str, Any],
        *,
        notes: Mapping[str, Any] | None = None,
        extras: Sequence[Mapping[str, np.ndarray]] | None = None,
    ) -> R:
        """Check results for NaN and inf, remember what determined them, and return them as they are.

        `save_results` finds the metadata again by the content of the results.

        Args:
            results: a list, one per configuration; or one number or array.
            arguments: of the call that determine the results, by name, with their defaults; not the
                structures.
            notes: further entries of the metadata, such as what the columns of a matrix are.
            extras: for each of a list of results, further arrays of the atoms to store with it.

        Raises:
            DataError: a result that is not finite, with its configuration and atom.
        """
        several = isinstance(results, list)
        listed: list[Any] = results if several else [results]  # type: ignore[assignment]
        if not self.may_be_nan:
            for i, result in enumerate(listed):
                check_finite_rows(np.asarray(result), f"the {self.key}", i if several else None)
        shared = {k: v for k, v in arguments.items() if k not in self.per_configuration}
        common = self._head() | described(shared, self.array_arguments) | dict(notes or {})
        for i, result in enumerate(listed):
            metadata = common
            if several and self.per_configuration:
                metadata = common | self._of_configuration(arguments, i, len(listed))
            self._remember(result, _Record(metadata, (extras or {i: {}})[i]))
        return results

    def _head(self) -> dict[str, Any]:
        entries = {"score": type(self).__name__, "score_quantity": self.quantity.name}
        return entries | {"package_version": package_version()} | self.described_settings()

    def _of_configuration(self, arguments: Mapping[str, Any], i: int, n: int) -> dict[str, Any]:
        """Entries of the metadata that are those of one configuration."""
        names = dict.fromkeys(name.partition(".")[0] for name in self.per_configuration)
        given = {name: arguments[name] for name in names if name in arguments}
        return described(picked(given, self.per_configuration, [i], n), self.array_arguments)

    @property
    def _records(self) -> dict[str, _Record]:
        return vars(self).setdefault("_known_results", {})

    def _remember(self, result: Any, record: _Record) -> None:
        records = self._records
        name = digest(np.asarray(result))
        records.pop(name, None)
        records[name] = record
        while len(records) > _REMEMBERED:
            del records[next(iter(records))]

    @final
    def _record(self, result: Any) -> _Record:
        """What is known of a result; of one from elsewhere only what this object is."""
        return self._records.get(digest(np.asarray(result))) or _Record(self._head())


class _OfStructures(Score):
    """Scores that have one result per structure."""

    place: ClassVar[Place]

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
            record = self._record(result)
            metadata = {**record.metadata, **(overrides or {})}
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
        metadata = plain({**self._record(result).metadata, **(overrides or {})})
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
    """A score of a potential: `compute` gives a number or a square matrix."""


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
