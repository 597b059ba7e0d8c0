"""What every storage offers: datasets of labelled configurations, by handle, in stored order."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

from ase import Atoms
from ase.data import atomic_numbers

from surefield.errors import ConfigError, DataError, check_known, nearest
from surefield.storage.configuration import CONFIGURATION_ID
from surefield.storage.dataset import Dataset, check_name, split_handle
from surefield.structures.read import Source, read_frames

__all__ = ["Storage"]

_OPTIONS: Final = ("elements", "ids", "index")


class Storage(abc.ABC):
    """Datasets of configurations; a handle such as "si_0" names one version, whose content never changes.

    Where a method reads, a name alone means its newest version.
    """

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """Where the storage is, as `open_storage` takes it; without a password."""

    @abc.abstractmethod
    def new_dataset(self, name: str, data: Source, dataset_metadata: Mapping[str, Any] | None = None) -> str:
        """Store a dataset under a new name.

        Args:
            name: of the dataset, one part of a path; a version is put behind it.
            data: structures or files (`read_frames`). Cell, arrays, info, constraints and the results of
                calculators are kept bit by bit. An id in `info['configuration_id']` is kept, a configuration
                without one gets one.
            dataset_metadata: anything that JSON has a form for, kept with date, source and version.

        Returns:
            The handle, "name_0".

        Raises:
            ConfigError: the name is taken or no name, the storage is read only.
            DataError: nothing to store, or an entry that cannot be stored.
            ExecutionError: the storage cannot be written; it is as before.
        """

    @abc.abstractmethod
    def add_data(self, handle: str, data: Source, dataset_metadata: Mapping[str, Any] | None = None) -> str:
        """Make the next version: the configurations of `handle`, then those of `data`; returns its handle.

        The old version stays as it is, and what is stored is not written again.

        Raises:
            As `new_dataset`; DataError also for an unknown handle, or an id that is taken in the dataset.
        """

    @abc.abstractmethod
    def update_data(
        self, handle: str, data: Source, dataset_metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Make the next version: `data` in the place of the configurations of the same ids.

        Structures without an id stand for those of the same geometry.

        Returns:
            The handle of the new version.

        Raises:
            As `new_dataset`; DataError also for a configuration that the dataset does not have.
        """

    @abc.abstractmethod
    def delete_dataset(self, handle: str) -> None:
        """Delete one version and the configurations that no other version has.

        Raises:
            DataError: no such version; a name alone is not enough.
            ExecutionError: the storage cannot be written; it is as before.
        """

    @abc.abstractmethod
    def _datasets(self, name: str | None) -> list[Dataset]:
        """Versions of one name, or of all names, by name and version."""

    @abc.abstractmethod
    def _read(self, dataset: Dataset) -> list[Atoms]:
        """Configurations of a version, each with its id, in stored order."""

    @final
    def get_data(self, handle: str, query_options: Mapping[str, Any] | None = None) -> list[Atoms]:
        """Read configurations in the order in which they were stored.

        Args:
            handle: of a version, or a name for its newest version.
            query_options: `ids` (configuration ids), `elements` (only configurations of no other elements),
                `index` (ASE's index of what is left, such as "0:100").

        Returns:
            Structures of the caller's own, with `info['configuration_id']`.

        Raises:
            DataError: no such dataset, id or index.
            ConfigError: an unknown option.
        """
        options = _checked_options(query_options)
        frames = self._read(self.describe(handle))
        if "ids" in options:
            wanted = set(options["ids"])
            known = {atoms.info[CONFIGURATION_ID] for atoms in frames}
            if wanted - known:
                first = min(wanted - known)
                n_unknown = len(wanted - known)
                raise DataError(f"{handle} has no configuration {first!r}; {n_unknown} ids are unknown")
            frames = [atoms for atoms in frames if atoms.info[CONFIGURATION_ID] in wanted]
        if "elements" in options:
            allowed = {atomic_numbers[symbol] for symbol in options["elements"]}
            frames = [atoms for atoms in frames if allowed.issuperset(atoms.numbers.tolist())]
        if "index" in options:
            frames = list(read_frames(frames, options["index"]))
        return frames

    @final
    def list_data(self, handle: str | None = None) -> list[Dataset]:
        """All versions of all datasets; with a handle that version, with a name all of its versions.

        Raises:
            DataError: no such dataset.
        """
        if handle is None:
            return self._datasets(None)
        dataset = self._version(handle)
        return [dataset] if dataset is not None else self._of_name(handle)

    @final
    def describe(self, handle: str) -> Dataset:
        """Version, size, content hash and provenance of a handle, or of the newest version of a name.

        Raises:
            DataError: no such dataset.
        """
        return self._version(handle) or self._of_name(handle)[-1]

    @final
    def check_if_dataset_name_unique(self, name: str) -> bool:
        """Whether `new_dataset` would take this name.

        Raises:
            ConfigError: no name at all.
        """
        check_name(name)
        # A name that is another's handle, or the other way round, would have two meanings.
        return not self._datasets(name) and self._version(name) is None and not self._datasets(f"{name}_0")

    def _version(self, handle: str) -> Dataset | None:
        parts = split_handle(str(handle))
        if parts is None:
            return None
        return next((d for d in self._datasets(parts[0]) if d.version == parts[1]), None)

    def _of_name(self, name: str) -> list[Dataset]:
        datasets = self._datasets(str(name))
        if not datasets:
            known = [dataset.handle for dataset in self._datasets(None)]
            hint = nearest(str(name), known) if known else "the storage is empty"
            raise DataError(f"no dataset {name!r}", where=self.url, fix=hint)
        return datasets

    def _check_new(self, name: str) -> str:
        if not self.check_if_dataset_name_unique(name):
            handles = ", ".join(d.handle for d in self._datasets(name))
            raise ConfigError(
                f"the name {name!r} is taken",
                where=self.url,
                got=handles or "a dataset whose handle or name would mean two things",
                fix="take another one, or make the next version with add_data or update_data",
            )
        return name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


def _checked_options(options: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ConfigError(f"query_options must be a dict, got {type(options).__name__}")
    check_known(options, _OPTIONS, "unknown query option {}")
    for name, value in options.items():
        if name == "index":
            continue
        if isinstance(value, str) or not isinstance(value, Sequence | set | frozenset):
            raise ConfigError(f"query option {name!r} must be a list of texts, got {value!r}")
        unknown = [v for v in value if name == "elements" and v not in atomic_numbers]
        if unknown:
            raise ConfigError(f"query option 'elements' must hold chemical symbols, got {unknown[0]!r}")
    return options
